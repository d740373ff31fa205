#include "einkorn/nn/training.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <numbers>

#include "einkorn/core/error.h"
#include "einkorn/core/random.h"
#include "einkorn/nn/checkpoint.h"

namespace einkorn::nn {
namespace {

void check(const TrainingOptions& options) {
  const auto within = [](double value, double low, double high) {
    return value >= low && value <= high;
  };
  require(options.epochs >= 1, "epochs: expected a number >= 1, got {}", options.epochs);
  require(options.batch_size >= 2, "batch size: expected a number >= 2, got {}",
          options.batch_size);
  require(options.learning_rate > 0 && std::isfinite(options.learning_rate),
          "learning rate: expected a number > 0, got {}", options.learning_rate);
  require(within(options.final_share, 0, 1), "final share: expected 0 to 1, got {}",
          options.final_share);
  require(within(options.warmup_epochs, 0, static_cast<double>(options.epochs)),
          "warm-up epochs: expected 0 to {}, got {}", options.epochs, options.warmup_epochs);
  require(options.weight_decay >= 0 && std::isfinite(options.weight_decay),
          "weight decay: expected a number >= 0, got {}", options.weight_decay);
  require(options.label_smoothing >= 0 && options.label_smoothing < 1,
          "label smoothing: expected a number >= 0 and < 1, got {}", options.label_smoothing);
}

// Norm scales, biases and layer scales are left undecayed.
torch::optim::AdamW make_optimizer(const torch::nn::Module& module,
                                   const TrainingOptions& options) {
  std::vector<torch::Tensor> decayed;
  std::vector<torch::Tensor> undecayed;
  for (const torch::Tensor& parameter : module.parameters()) {
    (parameter.dim() >= 2 ? decayed : undecayed).push_back(parameter);
  }
  const auto group = [&](std::vector<torch::Tensor> parameters, double decay) {
    return torch::optim::OptimizerParamGroup(
        std::move(parameters),
        std::make_unique<torch::optim::AdamWOptions>(
            torch::optim::AdamWOptions(options.learning_rate).weight_decay(decay)));
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.push_back(group(std::move(decayed), options.weight_decay));
  groups.push_back(group(std::move(undecayed), 0));
  return torch::optim::AdamW(groups, torch::optim::AdamWOptions(options.learning_rate));
}

// Batches of one epoch: positions in a random order, which depends on seed and epoch alone.
std::vector<torch::Tensor> batches_of(std::int64_t size, const TrainingOptions& options,
                                      std::int64_t epoch, at::Device device) {
  Random random = Random(options.seed).stream(static_cast<std::uint64_t>(epoch));
  const torch::Tensor order = torch::tensor(random.permutation(size)).to(device);
  std::vector<torch::Tensor> batches = order.split(options.batch_size);
  if (batches.size() > 1 && batches.back().size(0) == 1) batches.pop_back();
  return batches;
}

std::int64_t steps_per_epoch(std::int64_t size, std::int64_t batch_size) {
  const std::int64_t rest = size % batch_size;
  return size / batch_size + (rest > 1 || size < batch_size ? 1 : 0);
}

struct Run {
  torch::nn::Module& module;
  const Classifier& classifier;
  const LabelledImages& data;
  const TrainingOptions& options;
  const Progress& progress;
};

EpochRecord train_epoch(const Run& run, torch::optim::AdamW& optimizer, std::int64_t epoch) {
  const std::int64_t steps = steps_per_epoch(run.data.size(), run.options.batch_size);
  const auto loss_options =
      torch::nn::functional::CrossEntropyFuncOptions().label_smoothing(run.options.label_smoothing);
  // Sums stay on the device: reading them at every step would make the host wait.
  torch::Tensor loss_sum = torch::zeros({}, run.data.images.options().dtype(at::kDouble));
  torch::Tensor right = torch::zeros({}, run.data.labels.options());
  std::int64_t seen = 0;
  std::int64_t step = epoch * steps;
  EpochRecord record;
  run.module.train();
  for (const torch::Tensor& batch :
       batches_of(run.data.size(), run.options, epoch, run.data.images.device())) {
    record.learning_rate = scheduled_rate(run.options, step, steps);
    for (auto& group : optimizer.param_groups()) group.options().set_lr(record.learning_rate);
    const LabelledImages some = run.data.subset(batch);
    optimizer.zero_grad();
    const torch::Tensor logits = run.classifier(some.images);
    const torch::Tensor loss =
        torch::nn::functional::cross_entropy(logits.to(at::kFloat), some.labels, loss_options);
    loss.backward();
    optimizer.step();
    loss_sum += loss.detach() * some.size();
    right += logits.detach().argmax(1).eq(some.labels).sum();
    seen += some.size();
    ++step;
    run.progress("training", step, steps * run.options.epochs);
  }
  record.loss = loss_sum.item<double>() / static_cast<double>(seen);
  record.accuracy = static_cast<double>(right.item<std::int64_t>()) / static_cast<double>(seen);
  require(std::isfinite(record.loss),
          "training diverged in epoch {} (loss {}); a smaller learning rate may help", epoch + 1,
          record.loss);
  return record;
}

}  // namespace

double scheduled_rate(const TrainingOptions& options, std::int64_t step, std::int64_t per_epoch) {
  const double warmup = options.warmup_epochs * static_cast<double>(per_epoch);
  const auto at = static_cast<double>(step);
  if (at < warmup) return options.learning_rate * (at + 1) / (warmup + 1);
  const double total = static_cast<double>(options.epochs * per_epoch) - warmup;
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * (at - warmup) / total));
  return options.learning_rate * (options.final_share + (1 - options.final_share) * cosine);
}

TrainingHistory train_classifier(torch::nn::Module& module, const Classifier& classifier,
                                 const LabelledImages& data, const TrainingOptions& options,
                                 const Progress& progress) {
  check(options);
  require(data.size() >= 2, "training: expected at least 2 images, got {}", data.size());
  require(!options.resume || options.checkpoint, "training: resume needs a checkpoint file");
  torch::optim::AdamW optimizer = make_optimizer(module, options);
  const Run run = {module, classifier, data, options, progress};
  TrainingHistory history;
  if (options.resume && std::filesystem::exists(*options.checkpoint)) {
    history = load_checkpoint(*options.checkpoint, module, optimizer, options, data.size());
  }
  for (auto epoch = static_cast<std::int64_t>(history.epochs.size()); epoch < options.epochs;
       ++epoch) {
    history.epochs.push_back(train_epoch(run, optimizer, epoch));
    if (options.checkpoint) {
      save_checkpoint(*options.checkpoint, module, optimizer, options, data.size(), history);
    }
  }
  return history;
}

double accuracy(torch::nn::Module& module, const Classifier& classifier, const LabelledImages& data,
                std::int64_t batch_size) {
  require(batch_size >= 1, "batch size: expected a number >= 1, got {}", batch_size);
  require(data.size() >= 1, "accuracy: expected at least 1 image");
  const torch::NoGradGuard no_grad;
  const bool was_training = module.is_training();
  module.eval();
  std::int64_t right = 0;
  for (std::int64_t first = 0; first < data.size(); first += batch_size) {
    const std::int64_t last = std::min(first + batch_size, data.size());
    const torch::Tensor logits = classifier(data.images.slice(0, first, last));
    right += logits.argmax(1).eq(data.labels.slice(0, first, last)).sum().item<std::int64_t>();
  }
  module.train(was_training);
  return static_cast<double>(right) / static_cast<double>(data.size());
}

}  // namespace einkorn::nn
