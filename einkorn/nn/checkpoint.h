// The state of a training run in one safetensors file: model.*, optimizer.*, the generators, and
// the history as metadata.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>

#include "einkorn/nn/training.h"

namespace einkorn::nn {

// Replaces the file at once: a run that is killed meanwhile leaves the one before it.
void save_checkpoint(const std::filesystem::path& path, const torch::nn::Module& module,
                     const torch::optim::AdamW& optimizer, const TrainingOptions& options,
                     std::int64_t images, const TrainingHistory& history);

// Restores module, optimizer and generators. Throws BadFile if the file belongs to a run with other
// options (the checkpoint's path aside), another number of images, or another model.
TrainingHistory load_checkpoint(const std::filesystem::path& path, torch::nn::Module& module,
                                torch::optim::AdamW& optimizer, const TrainingOptions& options,
                                std::int64_t images);

}  // namespace einkorn::nn
