#include "einkorn/convolution/inceptionnext/throughput_internal.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>

#include "einkorn/convolution/inceptionnext/folded_network.h"
#include "einkorn/convolution/inceptionnext/network.h"
#include "einkorn/convolution/inceptionnext/stock_network_internal.h"
#include "einkorn/convolution/inceptionnext/training_step_internal.h"
#include "einkorn/core/device.h"

namespace einkorn::inceptionnext {
namespace {

using torch::Tensor;
using Forward = std::function<Tensor(const Tensor&)>;

constexpr std::int64_t batch = 128;

struct Speed {
  double training = 0;   // images/s
  double inference = 0;  // images/s
};

double images_per_second(const std::function<void()>& step, int rounds) {
  for (int i = 0; i < 3; ++i) step();
  std::vector<double> seconds;
  const TimedCall call = timed(step, Device::cuda);
  for (int i = 0; i < rounds; ++i) seconds.push_back(call());
  const auto middle = seconds.begin() + rounds / 2;
  std::nth_element(seconds.begin(), middle, seconds.end());
  return static_cast<double>(batch) / *middle;
}

double inference_speed(const Forward& forward, const Tensor& images, bool bf16, int rounds) {
  const torch::NoGradGuard no_grad;
  return images_per_second(
      [&] {
        const Autocast autocast(bf16);
        forward(images);
      },
      rounds);
}

double training_speed(const std::string& model, bool bf16, Operators operators,
                      at::MemoryFormat format, int rounds) {
  TrainingStep step(model, batch, bf16 ? at::kBFloat16 : at::kFloat, operators, format);
  return images_per_second([&] { step(); }, rounds);
}

// The better of both memory formats, as users would find.
Speed stock_speed(const std::string& model, NetworkImpl& network, const Tensor& images, bool bf16,
                  int rounds) {
  const Forward forward = [&](const Tensor& some) { return stock_forward(network, some); };
  Speed best;
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    set_memory_format(network, format);
    const Tensor some = images.contiguous(format);
    best.training =
        std::max(best.training, training_speed(model, bf16, Operators::stock, format, rounds));
    best.inference = std::max(best.inference, inference_speed(forward, some, bf16, rounds));
  }
  return best;
}

Speed own_speed(const std::string& model, NetworkImpl& network, const Tensor& images, bool bf16,
                int rounds) {
  const auto format = at::MemoryFormat::ChannelsLast;
  const Tensor some = images.contiguous(format);
  Speed speed;
  speed.training = training_speed(model, bf16, Operators::ours, format, rounds);
  if (network.config().frame == Frame::metanext) {
    FoldedNetwork folded(network);
    folded.to(at::kCUDA, bf16 ? at::kBFloat16 : at::kFloat);
    const Tensor cast = some.to(bf16 ? at::kBFloat16 : at::kFloat);
    const Forward run = [&](const Tensor&) { return folded.forward(cast); };
    speed.inference = inference_speed(run, some, false, rounds);
  } else {
    const Forward run = [&](const Tensor& one) { return network.forward(one); };
    speed.inference = inference_speed(run, some, bf16, rounds);
  }
  return speed;
}

}  // namespace

void judge_throughput(const ReproductionRun& run, Evidence& evidence) {
  torch::manual_seed(0);
  std::vector<std::string> names = {"tiny", "convnext-tiny"};
  if (run.full) names.insert(names.end(), {"small", "base"});
  const int rounds = run.full ? 15 : 5;
  const Tensor images =
      torch::randn({batch, 3, 224, 224}, torch::dtype(at::kFloat).device(at::kCUDA));
  Table table{
      fmt::format("Images per second, batch {}, 224 x 224 (training: forward, backward, AdamW)",
                  batch),
      {"model", "type", "training", "training, stock torch", "inference", "inference, stock torch"},
      {}};
  std::map<std::pair<std::string, bool>, Speed> ours;
  std::map<std::pair<std::string, bool>, Speed> stock;
  std::int64_t done = 0;
  for (const std::string& name : names) {
    Network network(named_config(name));
    network->to(at::kCUDA);
    network->eval();
    for (const bool bf16 : {true, false}) {
      if (!bf16 && !run.full) continue;
      run.progress("throughput of " + name, done++,
                   static_cast<std::int64_t>((run.full ? 2 : 1) * names.size()));
      const Speed own = own_speed(name, *network, images, bf16, rounds);
      const Speed theirs = stock_speed(name, *network, images, bf16, rounds);
      ours[{name, bf16}] = own;
      stock[{name, bf16}] = theirs;
      table.rows.push_back({name, bf16 ? "bf16" : "f32", own.training, theirs.training,
                            own.inference, theirs.inference});
    }
  }
  evidence.tables.push_back(std::move(table));
  const auto training = [](auto& speeds, const char* name, bool bf16) {
    return speeds[{name, bf16}].training;
  };
  evidence.checks.push_back({"InceptionNeXt-T over ConvNeXt-T, training images/s, bf16",
                             training(ours, "tiny", true) / training(ours, "convnext-tiny", true),
                             Relation::at_least, 1.4, 0, "x"});
  evidence.checks.push_back(
      {"ConvNeXt-T, ours over stock torch, training images/s, bf16",
       training(ours, "convnext-tiny", true) / training(stock, "convnext-tiny", true),
       Relation::at_least, 1, 0, "x"});
}

}  // namespace einkorn::inceptionnext
