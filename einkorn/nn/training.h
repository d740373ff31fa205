// Training of classifiers: AdamW, cosine schedule with warm-up, label smoothing, and checkpoints
// from which a killed run goes on as if nothing had happened.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "einkorn/core/progress.h"
#include "einkorn/nn/dataset.h"

namespace einkorn::nn {

struct TrainingOptions {
  std::int64_t epochs = 30;      // >= 1
  std::int64_t batch_size = 64;  // >= 2; a last batch of one image is left out
  double learning_rate = 2e-3;   // at the end of the warm-up, > 0
  double final_share = 0;        // of the learning rate, at the end; in [0, 1]
  double warmup_epochs = 0;      // linear from 0, in [0, epochs]
  double weight_decay = 0.05;    // of tensors with two dimensions and more
  double label_smoothing = 0;    // in [0, 1)
  std::uint64_t seed = 0;        // order of the images; dropout draws from torch's generators
  // After every epoch the whole state is written here; with `resume` a run goes on from it, if it
  // is there.
  std::optional<std::filesystem::path> checkpoint;
  bool resume = false;
  // What else decides the course of the run and a checkpoint must agree in, such as the precision.
  std::string variant;
};

struct EpochRecord {
  double loss = 0;      // mean over the epoch's images
  double accuracy = 0;  // share of training images classified right, as they were seen
  double learning_rate = 0;
};

struct TrainingHistory {
  std::vector<EpochRecord> epochs;  // those before a resumption too
  std::int64_t resumed_at = 0;      // epochs found in the checkpoint
};

// images [N, channels, height, width] -> logits [N, classes].
using Classifier = std::function<torch::Tensor(const torch::Tensor&)>;

// The learning rate of step `step` of `steps_per_epoch * epochs`.
double scheduled_rate(const TrainingOptions& options, std::int64_t step,
                      std::int64_t steps_per_epoch);

// Trains the module's parameters through `classifier`, on the device where they are. Throws
// InvalidArgument for options out of range, BadFile for a checkpoint of another run or model,
// Interrupted when asked to stop (the checkpoint is that of the last whole epoch). The same seed,
// and the same state of torch's generators, give the same weights on the same machine, resumed or
// not.
TrainingHistory train_classifier(torch::nn::Module& module, const Classifier& classifier,
                                 const LabelledImages& data, const TrainingOptions& options,
                                 const Progress& progress = {});

// Share of images classified right, with the module in evaluation mode.
double accuracy(torch::nn::Module& module, const Classifier& classifier, const LabelledImages& data,
                std::int64_t batch_size = 256);

}  // namespace einkorn::nn
