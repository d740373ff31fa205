#include "einkorn/convolution/inceptionnext/receptive_field.h"

#include <fmt/format.h>

#include <algorithm>

#include "einkorn/core/error.h"

namespace einkorn::inceptionnext {

torch::Tensor effective_receptive_field(NetworkImpl& network, const torch::Tensor& images) {
  const bool was_training = network.is_training();
  network.eval();
  const torch::Tensor input = images.detach().clone().requires_grad_(true);
  const torch::Tensor last = network.features(input).back();
  const torch::Tensor middle = last.select(2, last.size(2) / 2).select(2, last.size(3) / 2).sum();
  const torch::Tensor gradient = torch::autograd::grad({middle}, {input})[0];
  network.train(was_training);
  const torch::Tensor field = gradient.abs().mean(at::IntArrayRef{0, 1});
  const double largest = field.max().item<double>();
  return largest > 0 ? field / largest : field;
}

double area_with_share(const torch::Tensor& field, double share) {
  require(field.dim() == 2 && field.numel() > 0, "field: expected [height, width]");
  require(share > 0 && share <= 1, "share: expected a number > 0 and <= 1, got {}", share);
  const std::int64_t height = field.size(0);
  const std::int64_t width = field.size(1);
  const double total = field.sum(at::kDouble).item<double>();
  for (std::int64_t half = 0;; ++half) {
    const std::int64_t top = std::max<std::int64_t>(0, height / 2 - half);
    const std::int64_t left = std::max<std::int64_t>(0, width / 2 - half);
    const std::int64_t bottom = std::min(height, height / 2 + half + 1);
    const std::int64_t right = std::min(width, width / 2 + half + 1);
    const torch::Tensor inside = field.slice(0, top, bottom).slice(1, left, right);
    const bool everything = inside.numel() == field.numel();
    if (everything || inside.sum(at::kDouble).item<double>() >= share * total) {
      return static_cast<double>(inside.numel()) / static_cast<double>(field.numel());
    }
  }
}

nn::NamedTensors spatial_kernels(const NetworkImpl& network) {
  nn::NamedTensors kernels;
  for (std::size_t i = 0; i < network.stages.size(); ++i) {
    const auto& blocks = network.stages[i]->blocks;
    for (std::size_t j = 0; j < blocks.size(); ++j) {
      const std::string name = fmt::format("stages.{}.blocks.{}", i, j);
      if (blocks[j]->inception) {
        const MixerWeights weights = blocks[j]->inception->weights();
        kernels.emplace(name + ".dwconv_hw", weights.square.detach().squeeze(1));
        kernels.emplace(name + ".dwconv_w", weights.wide.detach().squeeze(1));
        kernels.emplace(name + ".dwconv_h", weights.tall.detach().squeeze(1));
      } else if (blocks[j]->depthwise) {
        kernels.emplace(name + ".conv_dw", blocks[j]->depthwise->weight.detach().squeeze(1));
      }
    }
  }
  return kernels;
}

}  // namespace einkorn::inceptionnext
