// Raw depthwise convolution kernels: pointers, sizes and strides; checked input is assumed.
//
//   y[n, c, i, j] = b[c] + sum_{k, l} w[c, k, l] x[n, c, i + k - pad_top, j + l - pad_left]
//
// with zeros outside the image, stride 1, and an output of the size of the input. The gradient of x
// is the same operation with the taps turned round and the padding on the other side.
#pragma once

#include <cstdint>
#include <string>

namespace einkorn::convolution {

// Elements in memory. Weights, biases and sums are f32, or f64 where the images are.
enum class Element { f32, f64, f16, bf16 };

// Which index runs fastest in memory: channels_last needs a channel stride of 1, planar a column
// stride of 1. The other strides are free.
enum class ImageLayout { channels_last, planar };

struct DepthwiseProblem {
  std::int64_t images = 0;
  std::int64_t channels = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t kernel_height = 1;
  std::int64_t kernel_width = 1;
  std::int64_t pad_top = 0;   // in [0, kernel_height)
  std::int64_t pad_left = 0;  // in [0, kernel_width)
  Element element = Element::f32;
  ImageLayout layout = ImageLayout::channels_last;
  // Weights and biases are of the images' 16-bit type: where takes_narrow_weights of
  // depthwise_cuda.h allows it.
  bool narrow_weights = false;

  std::int64_t taps() const { return kernel_height * kernel_width; }
};

// In elements.
struct ImageStrides {
  std::int64_t image = 0;
  std::int64_t channel = 0;
  std::int64_t row = 0;
  std::int64_t column = 0;
};

struct ConstImages {
  const void* data = nullptr;
  ImageStrides strides;
};

struct Images {
  void* data = nullptr;
  ImageStrides strides;
};

// Rows of some blocks of channels of one image.
struct ImagePart {
  std::int64_t image = 0;
  std::int64_t block_begin = 0;
  std::int64_t block_end = 0;
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
};

// One instruction set's version. It groups the channels in blocks of its own choice, and packs the
// weights of a block in an order of its own, biases first.
struct DepthwiseKernels {
  std::int64_t (*blocks)(const DepthwiseProblem&);
  std::int64_t (*block_size)(const DepthwiseProblem&);  // elements of one packed block

  // Weights [channels, kernel_height, kernel_width] and biases [channels] (null: zeros) to blocks
  // [block_begin, block_end) of all, and all blocks back (null biases are left out).
  void (*pack)(const DepthwiseProblem&, const void* weights, const void* biases,
               std::int64_t block_begin, std::int64_t block_end, void* packed);
  void (*unpack)(const DepthwiseProblem&, const void* packed, void* weights, void* biases);

  // Parts with different images, rows or (planar images only) blocks may run at the same time.
  void (*forward)(const DepthwiseProblem&, const void* packed, const ConstImages& x,
                  const Images& y, const ImagePart& part);

  // The images are cut into equal strips of rows, the same on any number of threads. The gradients
  // of one block's weights and biases, summed over strips [begin, end), are written packed.
  std::int64_t (*strips)(const DepthwiseProblem&);
  void (*weight_gradient)(const DepthwiseProblem&, const ConstImages& x, const ConstImages& dy,
                          std::int64_t block, std::int64_t strip_begin, std::int64_t strip_end,
                          void* packed_block);
};

// The version for the active instruction set, and its name.
const DepthwiseKernels& depthwise_kernels(const DepthwiseProblem& problem);
std::string depthwise_implementation(const DepthwiseProblem& problem);

// One output after the other, summed in double: what the other versions are tested against.
extern const DepthwiseKernels depthwise_reference_f32;  // f32, f16 and bf16 images
extern const DepthwiseKernels depthwise_reference_f64;

}  // namespace einkorn::convolution
