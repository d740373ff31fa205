#include "einkorn/nn/stb_internal.h"

// The parts of the decoder that are not used would warn.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_ONLY_PNM
#define STBI_MAX_DIMENSIONS (1 << 16)
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace einkorn::nn {

DecodedImage decode_image(std::span<const std::byte> content) {
  int width = 0;
  int height = 0;
  int channels = 0;
  const auto* bytes = reinterpret_cast<const stbi_uc*>(content.data());
  DecodedImage image = {{stbi_load_from_memory(bytes, static_cast<int>(content.size()), &width,
                                               &height, &channels, 3),
                         &stbi_image_free},
                        height,
                        width,
                        ""};
  if (!image.pixels) image.problem = stbi_failure_reason();
  return image;
}

}  // namespace einkorn::nn
