// The generator of the specification's reference values: images and mixer weights that f32 holds
// exactly. For tests and demonstrations.
#pragma once

#include <torch/torch.h>

#include "einkorn/convolution/inceptionnext/inception_mixer.h"

namespace einkorn::inceptionnext {

// x[0, c, i, j] = ((3c + 5i + 7j) mod 13 - 6) / 8.
inline torch::Tensor reference_images(std::int64_t channels, std::int64_t height,
                                      std::int64_t width) {
  const torch::Tensor c = torch::arange(channels).view({-1, 1, 1});
  const torch::Tensor i = torch::arange(height).view({1, -1, 1});
  const torch::Tensor j = torch::arange(width).view({1, 1, -1});
  return (((3 * c + 5 * i + 7 * j).remainder(13) - 6).to(at::kFloat) / 8).unsqueeze(0);
}

// Branch channel q: square ((9q + 3i + j) mod 5 - 2) / 4, wide ((b q + j) mod 7 - 3) / 8, tall
// ((b q + i + 1) mod 7 - 3) / 8; biases q / 2, q / 2 + 1/4, q / 2 - 1/4.
inline MixerWeights reference_mixer(std::int64_t group, std::int64_t band) {
  const torch::Tensor q = torch::arange(group).view({-1, 1, 1, 1});
  const torch::Tensor i = torch::arange(3).view({1, 1, -1, 1});
  const torch::Tensor j = torch::arange(3).view({1, 1, 1, -1});
  const torch::Tensor along = torch::arange(band);
  const auto taps = [](const torch::Tensor& numbers, std::int64_t modulus, double scale) {
    return (numbers.remainder(modulus) - modulus / 2).to(at::kFloat) / scale;
  };
  const torch::Tensor bias = torch::arange(group).to(at::kFloat) / 2;
  return {taps(9 * q + 3 * i + j, 5, 4),
          taps(band * q + along.view({1, 1, 1, -1}), 7, 8),
          taps(band * q + along.view({1, 1, -1, 1}) + 1, 7, 8),
          bias,
          bias + 0.25,
          bias - 0.25};
}

}  // namespace einkorn::inceptionnext
