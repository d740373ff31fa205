#include "einkorn/nn/checkpoint.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <fmt/format.h>

#include "einkorn/core/error.h"
#include "einkorn/nn/weights.h"

namespace einkorn::nn {
namespace {

constexpr const char* format_name = "einkorn training checkpoint 1";

// Everything that decides the course of a run, but for torch's generators, which are stored.
std::string course_of(const TrainingOptions& options, std::int64_t images) {
  return fmt::format(
      "images {}, epochs {}, batch size {}, learning rate {}, final share {}, warm-up epochs {}, "
      "weight decay {}, label smoothing {}, seed {}{}{}",
      images, options.epochs, options.batch_size, options.learning_rate, options.final_share,
      options.warmup_epochs, options.weight_decay, options.label_smoothing, options.seed,
      options.variant.empty() ? "" : ", ", options.variant);
}

bool is_on_cuda(const torch::nn::Module& module) {
  const auto parameters = module.parameters();
  return !parameters.empty() && parameters.front().is_cuda();
}

std::vector<std::pair<std::string, at::Generator>> generators_of(const torch::nn::Module& module) {
  std::vector<std::pair<std::string, at::Generator>> generators = {
      {"generator.cpu", at::detail::getDefaultCPUGenerator()}};
  if (is_on_cuda(module)) {
    generators.emplace_back("generator.cuda",
                            at::globalContext().defaultGenerator(at::Device(at::kCUDA, 0)));
  }
  return generators;
}

torch::Tensor history_tensor(const TrainingHistory& history) {
  torch::Tensor table = torch::empty({static_cast<std::int64_t>(history.epochs.size()), 3},
                                     torch::dtype(at::kDouble));
  for (std::size_t i = 0; i < history.epochs.size(); ++i) {
    const EpochRecord& record = history.epochs[i];
    table[static_cast<std::int64_t>(i)].copy_(
        torch::tensor({record.loss, record.accuracy, record.learning_rate}, at::kDouble));
  }
  return table;
}

TrainingHistory history_of(const torch::Tensor& table) {
  TrainingHistory history;
  const auto rows = table.accessor<double, 2>();
  for (std::int64_t i = 0; i < table.size(0); ++i) {
    history.epochs.push_back({rows[i][0], rows[i][1], rows[i][2]});
  }
  history.resumed_at = table.size(0);
  return history;
}

void add_optimizer(const torch::nn::Module& module, const torch::optim::AdamW& optimizer,
                   NamedTensors& tensors) {
  for (const auto& item : module.named_parameters()) {
    const auto found = optimizer.state().find(item.value().unsafeGetTensorImpl());
    if (found == optimizer.state().end()) continue;
    const auto& state = static_cast<const torch::optim::AdamWParamState&>(*found->second);
    const std::string prefix = "optimizer." + item.key();
    tensors.emplace(prefix + ".step", torch::tensor(state.step(), at::kLong));
    tensors.emplace(prefix + ".exp_avg", state.exp_avg());
    tensors.emplace(prefix + ".exp_avg_sq", state.exp_avg_sq());
  }
}

// A tensor of the file, taken out of `tensors` so that what is left over can be named.
class Taker {
 public:
  Taker(NamedTensors& tensors, std::string path) : tensors_(tensors), path_(std::move(path)) {}

  torch::Tensor take(const std::string& name, at::ScalarType type, at::IntArrayRef shape) {
    auto node = tensors_.extract(name);
    if (node.empty()) throw BadFile(path_, fmt::format("tensor '{}'", name), "is missing");
    if (node.mapped().scalar_type() != type || node.mapped().sizes() != shape) {
      throw BadFile(path_, fmt::format("tensor '{}'", name), "has another type or shape");
    }
    return node.mapped();
  }

  // Of any shape.
  torch::Tensor take(const std::string& name, at::ScalarType type) {
    const auto found = tensors_.find(name);
    return take(name, type, found == tensors_.end() ? at::IntArrayRef() : found->second.sizes());
  }

 private:
  NamedTensors& tensors_;
  std::string path_;
};

void restore_optimizer(const torch::nn::Module& module, Taker& taker,
                       torch::optim::AdamW& optimizer) {
  for (const auto& item : module.named_parameters()) {
    const torch::Tensor& parameter = item.value();
    const std::string prefix = "optimizer." + item.key();
    const auto moment = [&](const char* name) {
      const torch::Tensor stored =
          taker.take(prefix + name, parameter.scalar_type(), parameter.sizes());
      return torch::empty_like(parameter, at::MemoryFormat::Preserve).copy_(stored);
    };
    auto state = std::make_unique<torch::optim::AdamWParamState>();
    state->step(taker.take(prefix + ".step", at::kLong, {}).item<std::int64_t>());
    state->exp_avg(moment(".exp_avg"));
    state->exp_avg_sq(moment(".exp_avg_sq"));
    optimizer.state()[parameter.unsafeGetTensorImpl()] = std::move(state);
  }
}

}  // namespace

void save_checkpoint(const std::filesystem::path& path, const torch::nn::Module& module,
                     const torch::optim::AdamW& optimizer, const TrainingOptions& options,
                     std::int64_t images, const TrainingHistory& history) {
  NamedTensors tensors;
  for (const auto& [name, tensor] : state_of(module)) tensors.emplace("model." + name, tensor);
  add_optimizer(module, optimizer, tensors);
  for (const auto& [name, generator] : generators_of(module)) {
    tensors.emplace(name, generator.get_state());
  }
  tensors.emplace("history", history_tensor(history));
  write_tensors({path, true}, tensors,
                {{"format", format_name}, {"course", course_of(options, images)}});
}

TrainingHistory load_checkpoint(const std::filesystem::path& path, torch::nn::Module& module,
                                torch::optim::AdamW& optimizer, const TrainingOptions& options,
                                std::int64_t images) {
  const std::string file = path.string();
  std::map<std::string, std::string> metadata;
  NamedTensors tensors = read_tensors(path, &metadata);
  if (metadata["format"] != format_name) {
    throw BadFile(file, "metadata", fmt::format("expected the format '{}'", format_name));
  }
  const std::string course = course_of(options, images);
  if (metadata["course"] != course) {
    throw BadFile(
        file, "metadata",
        fmt::format("belongs to another run ({}), this one has {}", metadata["course"], course));
  }
  Taker taker(tensors, file);
  NamedTensors model;
  for (const auto& [name, target] : state_of(module)) {
    model.emplace(name, taker.take("model." + name, target.scalar_type(), target.sizes()));
  }
  restore_optimizer(module, taker, optimizer);
  std::vector<std::pair<at::Generator, torch::Tensor>> generators;
  for (const auto& [name, generator] : generators_of(module)) {
    generators.emplace_back(generator, taker.take(name, at::kByte));
  }
  const torch::Tensor history = taker.take("history", at::kDouble);
  if (history.dim() != 2 || history.size(1) != 3 || history.size(0) > options.epochs) {
    throw BadFile(file, "tensor 'history'", "has another shape");
  }
  if (!tensors.empty()) {
    throw BadFile(file, fmt::format("tensor '{}'", tensors.begin()->first),
                  "does not belong to this model");
  }
  load_state(module, model, file);
  for (auto& [generator, state] : generators) generator.set_state(state);
  return history_of(history);
}

}  // namespace einkorn::nn
