#include "einkorn/convolution/depthwise_cuda.h"

#include <cstdint>

#include "einkorn/convolution/depthwise_launch_cuda.h"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::convolution {
namespace {

constexpr int threads_per_block = 256;

bool is_empty(const DepthwiseProblem& problem) {
  return problem.images == 0 || problem.channels == 0 || problem.height == 0 || problem.width == 0;
}

ConstImages as_const(const Images& images) {
  return {images.data, images.strides};
}

// Where the input gradient finds its padding: taps turned round, padding on the other side.
DepthwiseProblem turned_round(DepthwiseProblem problem) {
  problem.pad_top = problem.kernel_height - 1 - problem.pad_top;
  problem.pad_left = problem.kernel_width - 1 - problem.pad_left;
  return problem;
}

// On one H200 blocks were 1.2 to 1.4 times as fast as rows at 7 x 7 and 14 x 14 pixels, equal at
// 28 x 28 and slower at 56 x 56.
bool suits_blocks(const DepthwiseProblem& problem) {
  constexpr std::int64_t largest_image = 16;
  return problem.kernel_height <= 7 && problem.height <= largest_image &&
         problem.width <= largest_image;
}

void launch(const DepthwiseProblem& problem, Direction direction, const void* weights,
            const void* biases, const ConstImages& x, const void* addend, const Images& y,
            void* stream) {
  if (is_empty(problem)) return;
  const ConstImages added = {addend, y.strides};
  if (!toeplitz::accepts(problem, x, as_const(y)) || !toeplitz::accepts(problem, x, added)) {
    direct::launch_convolution(problem, direction, weights, biases, x, addend, y, stream);
  } else if (!suits_blocks(problem) ||
             !toeplitz::launch_blocks_convolution(problem, direction, weights, biases, x, addend, y,
                                                  stream)) {
    toeplitz::launch_rows_convolution(problem, direction, weights, biases, x, addend, y, stream);
  }
}

// partial_sums [parts, channels, taps + 1] summed over parts; the last of each channel is its bias.
template <typename A>
__global__ void sum_parts(const A* partial_sums, int parts, std::int64_t channels, int taps,
                          A* weight_gradient, A* bias_gradient) {
  const std::int64_t elements = channels * (taps + 1);
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= elements) return;
  A sum = 0;
  for (int part = 0; part < parts; ++part) sum += partial_sums[part * elements + i];
  const std::int64_t channel = i / (taps + 1);
  const auto tap = static_cast<int>(i % (taps + 1));
  if (tap < taps) {
    weight_gradient[channel * taps + tap] = sum;
  } else if (bias_gradient != nullptr) {
    bias_gradient[channel] = sum;
  }
}

template <typename A>
void launch_sum_parts(const DepthwiseProblem& problem, const void* partial_sums, int parts,
                      void* weight_gradient, void* bias_gradient, void* stream) {
  const std::int64_t elements = problem.channels * (problem.taps() + 1);
  const auto blocks = static_cast<unsigned>((elements + threads_per_block - 1) / threads_per_block);
  sum_parts<A><<<blocks, threads_per_block, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const A*>(partial_sums), parts, problem.channels,
      static_cast<int>(problem.taps()), static_cast<A*>(weight_gradient),
      static_cast<A*>(bias_gradient));
  check_launch("depthwise sum of weight gradients");
}

std::size_t accumulator_bytes(const DepthwiseProblem& problem) {
  return problem.element == Element::f64 ? sizeof(double) : sizeof(float);
}

// Whether the matrix units could serve the problem with dense images: decides the scratch's size.
bool may_use_toeplitz(const DepthwiseProblem& problem) {
  ConstImages dense;
  dense.strides = {problem.height * problem.width * problem.channels, 1,
                   problem.width * problem.channels, problem.channels};
  return toeplitz::accepts(problem, dense, dense);
}

}  // namespace

namespace toeplitz {

bool accepts(const DepthwiseProblem& problem, const ConstImages& x, const ConstImages& y) {
  constexpr std::int64_t chunk_channels = 8;
  constexpr std::uintptr_t chunk_bytes = 16;
  const auto aligned = [](const ConstImages& images) {
    const ImageStrides& strides = images.strides;
    return strides.channel == 1 && strides.image % chunk_channels == 0 &&
           strides.row % chunk_channels == 0 && strides.column % chunk_channels == 0 &&
           reinterpret_cast<std::uintptr_t>(images.data) % chunk_bytes == 0;
  };
  const std::int64_t size = problem.kernel_height;
  const bool half = problem.element == Element::f16 || problem.element == Element::bf16;
  return half && problem.layout == ImageLayout::channels_last && size == problem.kernel_width &&
         size % 2 == 1 && size >= 3 && size <= 13 && problem.channels % chunk_channels == 0 &&
         problem.height < (1 << 24) && problem.width < (1 << 24) && aligned(x) && aligned(y);
}

}  // namespace toeplitz

const char* depthwise_cuda_implementation(const DepthwiseProblem& problem, const ConstImages& x,
                                          const Images& y) {
  return toeplitz::accepts(problem, x, as_const(y)) ? "toeplitz" : "direct";
}

bool takes_narrow_weights(const DepthwiseProblem& problem, const ConstImages& x, const Images& y) {
  return toeplitz::accepts(problem, x, as_const(y));
}

void launch_depthwise_forward(const DepthwiseProblem& problem, const void* weights,
                              const void* biases, const ConstImages& x, const Images& y,
                              void* stream) {
  launch(problem, Direction::forward, weights, biases, x, nullptr, y, stream);
}

void launch_depthwise_input_gradient(const DepthwiseProblem& problem, const void* weights,
                                     const ConstImages& dy, const void* addend, const Images& dx,
                                     void* stream) {
  launch(turned_round(problem), Direction::input_gradient, weights, nullptr, dy, addend, dx,
         stream);
}

std::size_t depthwise_weight_gradient_scratch_bytes(const DepthwiseProblem& problem) {
  if (is_empty(problem)) return 0;
  int parts = direct::weight_gradient_parts(problem);
  if (may_use_toeplitz(problem)) {
    const int other = toeplitz::weight_gradient_parts(problem);
    parts = other > parts ? other : parts;
  }
  return static_cast<std::size_t>(parts) * static_cast<std::size_t>(problem.channels) *
         static_cast<std::size_t>(problem.taps() + 1) * accumulator_bytes(problem);
}

void launch_depthwise_weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                                      const ConstImages& dy, void* scratch, void* weight_gradient,
                                      void* bias_gradient, void* stream) {
  int parts = 0;  // of nothing: an empty batch has zero gradients
  if (!is_empty(problem)) {
    if (toeplitz::accepts(problem, x, dy)) {
      parts = toeplitz::weight_gradient_parts(problem);
      toeplitz::launch_weight_gradient(problem, x, dy, static_cast<float*>(scratch), stream);
    } else {
      parts = direct::weight_gradient_parts(problem);
      direct::launch_weight_gradient(problem, x, dy, scratch, stream);
    }
  }
  if (problem.channels == 0) return;
  if (problem.element == Element::f64) {
    launch_sum_parts<double>(problem, scratch, parts, weight_gradient, bias_gradient, stream);
  } else {
    launch_sum_parts<float>(problem, scratch, parts, weight_gradient, bias_gradient, stream);
  }
}

}  // namespace einkorn::convolution
