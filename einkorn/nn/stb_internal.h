// The image decoder that Debian packages as libstb-dev, kept out of every other source file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace einkorn::nn {

struct DecodedImage {
  std::unique_ptr<unsigned char, void (*)(void*)> pixels;  // [height, width, 3]; null if it failed
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::string problem;
};

DecodedImage decode_image(std::span<const std::byte> content);

}  // namespace einkorn::nn
