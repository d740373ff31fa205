// The definition of depthwise_kernels.h as loops: one output after the other, summed in double.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <vector>

#include "einkorn/convolution/depthwise_internal.h"
#include "einkorn/convolution/depthwise_kernels.h"

namespace einkorn::convolution {
namespace {

// T: weights; Stored: elements of the images.
template <typename T, typename Stored>
struct Reference {
  static std::int64_t offset(const ImageStrides& strides, std::int64_t image, std::int64_t channel,
                             std::int64_t row, std::int64_t column) {
    return image * strides.image + channel * strides.channel + row * strides.row +
           column * strides.column;
  }

  static double load(const ConstImages& images, std::int64_t position) {
    return static_cast<double>(static_cast<const Stored*>(images.data)[position]);
  }

  // Calls visit(tap, position of its input) for the taps of output (i, j) that lie in the image.
  template <typename Visit>
  static void for_each_tap(const DepthwiseProblem& problem, const ImageStrides& strides,
                           std::int64_t image, std::int64_t channel, std::int64_t i, std::int64_t j,
                           Visit visit) {
    for (std::int64_t k = 0; k < problem.kernel_height; ++k) {
      for (std::int64_t l = 0; l < problem.kernel_width; ++l) {
        const std::int64_t row = i + k - problem.pad_top;
        const std::int64_t column = j + l - problem.pad_left;
        if (row < 0 || row >= problem.height || column < 0 || column >= problem.width) continue;
        visit(k * problem.kernel_width + l, offset(strides, image, channel, row, column));
      }
    }
  }

  static void forward(const DepthwiseProblem& problem, const T* packed, const ConstImages& x,
                      const Images& y, const ImagePart& part) {
    for (std::int64_t c = part.block_begin; c < part.block_end; ++c) {
      const T* bias = packed + c * (1 + problem.taps());
      const T* weights = bias + 1;
      for (std::int64_t i = part.row_begin; i < part.row_end; ++i) {
        for (std::int64_t j = 0; j < problem.width; ++j) {
          double sum = static_cast<double>(*bias);
          for_each_tap(problem, x.strides, part.image, c, i, j, [&](auto tap, auto position) {
            sum += static_cast<double>(weights[tap]) * load(x, position);
          });
          static_cast<Stored*>(y.data)[offset(y.strides, part.image, c, i, j)] =
              static_cast<Stored>(static_cast<T>(sum));
        }
      }
    }
  }

  // A strip is an image.
  static void weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                              const ConstImages& dy, std::int64_t c, std::int64_t image_begin,
                              std::int64_t image_end, T* packed_block) {
    std::vector<double> sums(static_cast<std::size_t>(1 + problem.taps()));
    for (std::int64_t n = image_begin; n < image_end; ++n) {
      for (std::int64_t i = 0; i < problem.height; ++i) {
        for (std::int64_t j = 0; j < problem.width; ++j) {
          const double gradient = load(dy, offset(dy.strides, n, c, i, j));
          sums[0] += gradient;
          for_each_tap(problem, x.strides, n, c, i, j, [&](auto tap, auto position) {
            sums[static_cast<std::size_t>(1 + tap)] += gradient * load(x, position);
          });
        }
      }
    }
    for (std::size_t k = 0; k < sums.size(); ++k) packed_block[k] = static_cast<T>(sums[k]);
  }
};

// Packed as one block a channel: its bias, then its weights in their own order.
std::int64_t blocks(const DepthwiseProblem& problem) {
  return problem.channels;
}
std::int64_t block_size(const DepthwiseProblem& problem) {
  return 1 + problem.taps();
}
std::int64_t strips(const DepthwiseProblem& problem) {
  return problem.images;
}

template <typename T>
void pack(const DepthwiseProblem& problem, const void* weights, const void* biases,
          std::int64_t block_begin, std::int64_t block_end, void* packed) {
  const std::int64_t taps = problem.taps();
  for (std::int64_t c = block_begin; c < block_end; ++c) {
    T* to = static_cast<T*>(packed) + c * (1 + taps);
    to[0] = biases == nullptr ? T{0} : static_cast<const T*>(biases)[c];
    std::copy_n(static_cast<const T*>(weights) + c * taps, taps, to + 1);
  }
}

template <typename T>
void unpack(const DepthwiseProblem& problem, const void* packed, void* weights, void* biases) {
  const std::int64_t taps = problem.taps();
  const auto* from = static_cast<const T*>(packed);
  for (std::int64_t c = 0; c < problem.channels; ++c, from += 1 + taps) {
    if (biases != nullptr) static_cast<T*>(biases)[c] = from[0];
    std::copy_n(from + 1, taps, static_cast<T*>(weights) + c * taps);
  }
}

// Calls body(Stored()) for the problem's element type.
template <typename T, typename Body>
void with_element(const DepthwiseProblem& problem, const Body& body) {
  if constexpr (std::is_same_v<T, double>) {
    body(double{});
  } else if (problem.element == Element::f16) {
    body(c10::Half{});
  } else if (problem.element == Element::bf16) {
    body(c10::BFloat16{});
  } else {
    body(float{});
  }
}

template <typename T>
void forward(const DepthwiseProblem& problem, const void* packed, const ConstImages& x,
             const Images& y, const ImagePart& part) {
  with_element<T>(problem, [&]<typename Stored>(Stored) {
    Reference<T, Stored>::forward(problem, static_cast<const T*>(packed), x, y, part);
  });
}

template <typename T>
void weight_gradient(const DepthwiseProblem& problem, const ConstImages& x, const ConstImages& dy,
                     std::int64_t block, std::int64_t strip_begin, std::int64_t strip_end,
                     void* packed_block) {
  with_element<T>(problem, [&]<typename Stored>(Stored) {
    Reference<T, Stored>::weight_gradient(problem, x, dy, block, strip_begin, strip_end,
                                          static_cast<T*>(packed_block));
  });
}

}  // namespace

const DepthwiseKernels depthwise_reference_f32 = {
    &blocks,         &block_size, &pack<float>,           &unpack<float>,
    &forward<float>, &strips,     &weight_gradient<float>};

const DepthwiseKernels depthwise_reference_f64 = {
    &blocks,          &block_size, &pack<double>,           &unpack<double>,
    &forward<double>, &strips,     &weight_gradient<double>};

}  // namespace einkorn::convolution
