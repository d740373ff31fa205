#include "einkorn/convolution/inceptionnext/throughput.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>

#include "einkorn/convolution/inceptionnext/folded_network.h"
#include "einkorn/convolution/inceptionnext/network.h"
#include "einkorn/convolution/inceptionnext/stock_network.h"
#include "einkorn/core/device.h"

namespace einkorn::inceptionnext {
namespace {

using torch::Tensor;
using Forward = std::function<Tensor(const Tensor&)>;

constexpr std::int64_t batch = 128;

// Casts to bf16 where torch's autocast does, while it lives.
class Autocast {
 public:
  explicit Autocast(bool enabled) : before_(at::autocast::is_autocast_enabled(at::kCUDA)) {
    at::autocast::set_autocast_enabled(at::kCUDA, enabled);
    at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
  }
  ~Autocast() {
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCUDA, before_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool before_;
};

struct Speed {
  double training = 0;   // images/s of forward and backward
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

double training_speed(NetworkImpl& network, const Forward& forward, const Tensor& images, bool bf16,
                      int rounds) {
  network.train();
  const Tensor labels =
      torch::arange(images.size(0), images.options().dtype(at::kLong)).remainder(1000);
  return images_per_second(
      [&] {
        network.zero_grad();
        Tensor loss;
        {
          const Autocast autocast(bf16);
          loss = at::cross_entropy_loss(forward(images).to(at::kFloat), labels);
        }
        loss.backward();
      },
      rounds);
}

double inference_speed(NetworkImpl& network, const Forward& forward, const Tensor& images,
                       bool bf16, int rounds) {
  const torch::NoGradGuard no_grad;
  network.eval();
  return images_per_second(
      [&] {
        const Autocast autocast(bf16);
        forward(images);
      },
      rounds);
}

// The better of both memory formats, as users would find.
Speed stock_speed(NetworkImpl& network, const Tensor& images, bool bf16, int rounds) {
  const Forward forward = [&](const Tensor& some) { return stock_forward(network, some); };
  Speed best;
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    network.to(at::kCUDA);
    for (Tensor& parameter : network.parameters()) {
      if (parameter.dim() == 4) {
        parameter.set_data(parameter.detach().contiguous(format));
      }
    }
    const Tensor some = images.contiguous(format);
    best.training = std::max(best.training, training_speed(network, forward, some, bf16, rounds));
    best.inference =
        std::max(best.inference, inference_speed(network, forward, some, bf16, rounds));
  }
  return best;
}

Speed own_speed(NetworkImpl& network, const Tensor& images, bool bf16, int rounds) {
  const Tensor some = images.contiguous(at::MemoryFormat::ChannelsLast);
  const Forward forward = [&](const Tensor& one) { return network.forward(one); };
  Speed speed;
  speed.training = training_speed(network, forward, some, bf16, rounds);
  network.eval();
  if (network.config().frame == Frame::metanext) {
    FoldedNetwork folded(network);
    folded.to(at::kCUDA, bf16 ? at::kBFloat16 : at::kFloat);
    const Tensor cast = some.to(bf16 ? at::kBFloat16 : at::kFloat);
    const Forward run = [&](const Tensor&) { return folded.forward(cast); };
    speed.inference = inference_speed(network, run, some, false, rounds);
  } else {
    speed.inference = inference_speed(network, forward, some, bf16, rounds);
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
      fmt::format("Images per second, batch {}, 224 x 224 (training: forward, backward)", batch),
      {"model", "type", "training", "training, stock torch", "inference", "inference, stock torch"},
      {}};
  std::map<std::pair<std::string, bool>, Speed> ours;
  std::map<std::pair<std::string, bool>, Speed> stock;
  std::int64_t done = 0;
  for (const std::string& name : names) {
    Network network(named_config(name));
    network->to(at::kCUDA);
    for (const bool bf16 : {false, true}) {
      run.progress("throughput of " + name, done++, static_cast<std::int64_t>(2 * names.size()));
      const Speed own = own_speed(*network, images, bf16, rounds);
      const Speed theirs = stock_speed(*network, images, bf16, rounds);
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
