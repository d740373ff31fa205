// Photographs in and out of tensors.
#pragma once

#include <torch/torch.h>

#include <array>
#include <cstdint>
#include <filesystem>

namespace einkorn::nn {

// Reads a PNG, JPEG, BMP or PNM file (16 bits are cut to 8, grey becomes three equal channels,
// alpha is dropped), or an .npy file [height, width, 3] u8. Returns [3, height, width] u8. Throws
// BadFile.
torch::Tensor read_image(const std::filesystem::path& path);

// How a classifier wants its images. Means and deviations are per channel, of values in [0, 1].
struct Preprocessing {
  std::int64_t resolution = 224;
  double crop_share = 0.875;  // of the shorter side, in (0, 1]
  std::array<double, 3> mean = {0.485, 0.456, 0.406};
  std::array<double, 3> deviation = {0.229, 0.224, 0.225};
};

// [3, height, width] u8 -> [3, resolution, resolution] f32: bicubic resize with antialiasing of the
// shorter side to round(resolution / crop_share), centre crop, normalisation; what torchvision and
// timm do on PIL images. Throws InvalidArgument for other shapes or values out of range.
torch::Tensor preprocess(const torch::Tensor& image, const Preprocessing& options);

}  // namespace einkorn::nn
