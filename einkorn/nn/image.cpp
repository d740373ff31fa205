#include "einkorn/nn/image.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <span>

#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/tensor.h"
#include "einkorn/nn/stb_internal.h"

namespace einkorn::nn {
namespace {

constexpr std::size_t largest_file = std::size_t{256} << 20;
constexpr std::int64_t largest_side = 1 << 16;

torch::Tensor decode(std::span<const std::byte> content, const std::string& path) {
  const auto decoded = decode_image(content);
  if (!decoded.pixels) throw BadFile(path, "", "not a readable image: " + decoded.problem);
  const torch::Tensor pixels =
      torch::from_blob(decoded.pixels.get(), {decoded.height, decoded.width, 3}, at::kByte);
  return pixels.permute({2, 0, 1}).contiguous();
}

}  // namespace

torch::Tensor read_image(const std::filesystem::path& path) {
  if (path.extension() != ".npy") return decode(read_content(path, largest_file), path.string());
  const torch::Tensor array = read_tensor(path);
  if (array.dim() != 3 || array.size(2) != 3 || array.scalar_type() != at::kByte) {
    throw BadFile(path.string(), "", "expected an array [height, width, 3] of u8");
  }
  return array.permute({2, 0, 1}).contiguous();
}

torch::Tensor preprocess(const torch::Tensor& image, const Preprocessing& options) {
  require(image.dim() == 3 && image.size(0) == 3 && image.scalar_type() == at::kByte,
          "image: expected [3, height, width] of u8");
  require(image.size(1) >= 1 && image.size(2) >= 1, "image: expected at least one pixel");
  require(options.resolution >= 1 && options.resolution <= largest_side,
          "resolution: expected 1 to {}, got {}", largest_side, options.resolution);
  require(options.crop_share > 0 && options.crop_share <= 1,
          "crop share: expected a number > 0 and <= 1, got {}", options.crop_share);
  const std::int64_t shorter =
      std::llround(static_cast<double>(options.resolution) / options.crop_share);
  const std::int64_t height = image.size(1);
  const std::int64_t width = image.size(2);
  const std::int64_t least = std::min(height, width);
  // As torchvision: the longer side is cut to a whole number.
  const std::vector<std::int64_t> size = {height * shorter / least, width * shorter / least};
  require(size[0] <= largest_side && size[1] <= largest_side,
          "image: {} x {} pixels are too oblong to be resized to {}", height, width, shorter);
  const torch::Tensor resized = at::_upsample_bicubic2d_aa(
      image.unsqueeze(0), size, /*align_corners=*/false, std::nullopt, std::nullopt);
  const auto first = [&](std::int64_t extent) {
    return static_cast<std::int64_t>(
        std::nearbyint(static_cast<double>(extent - options.resolution) / 2));
  };
  const torch::Tensor cropped = resized[0]
                                    .narrow(1, first(size[0]), options.resolution)
                                    .narrow(2, first(size[1]), options.resolution);
  const auto channels = [](const std::array<double, 3>& values) {
    return torch::tensor({values[0], values[1], values[2]}, at::kFloat).view({3, 1, 1});
  };
  return ((cropped.to(at::kFloat) / 255 - channels(options.mean)) / channels(options.deviation))
      .contiguous();
}

}  // namespace einkorn::nn
