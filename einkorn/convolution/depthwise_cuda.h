// Depthwise convolution on the device: raw pointers, sizes and strides (depthwise_kernels.h says
// what is computed). All launches are queued on the stream (a cudaStream_t); none waits or
// allocates, so they can be captured in a graph. Throws std::runtime_error when a launch is
// refused.
//
// Two implementations. "toeplitz": matrix units; f16 and bf16, channels_last, square odd kernels of
// 3 to 13, channels and strides that are multiples of 8, pointers on 16 bytes. The weights are
// rounded to the images' type, as under autocast; products are exact and sums are f32. An infinity
// or NaN reaches outputs up to eight rows and columns further on than its taps do. "direct": every
// other case, FMAs in f32 (f64 for f64 images) with weights as given.
#pragma once

#include <cstddef>

#include "einkorn/convolution/depthwise_kernels.h"

namespace einkorn::convolution {

// "toeplitz" or "direct".
const char* depthwise_cuda_implementation(const DepthwiseProblem& problem, const ConstImages& x,
                                          const Images& y);

// Whether convolutions of these images may be called with problem.narrow_weights.
bool takes_narrow_weights(const DepthwiseProblem& problem, const ConstImages& x, const Images& y);

// weights [channels, kernel_height, kernel_width] and biases [channels] (null: zeros) are
// contiguous, f32, or f64 where the images are, or of the images' type where problem.narrow_weights
// says so. x and y must not overlap.
void launch_depthwise_forward(const DepthwiseProblem& problem, const void* weights,
                              const void* biases, const ConstImages& x, const Images& y,
                              void* stream);

// dx = addend + the gradient from dy; the problem is the forward one. addend may be null (none),
// else it lies in memory as dx does, and nothing overlaps dx.
void launch_depthwise_input_gradient(const DepthwiseProblem& problem, const void* weights,
                                     const ConstImages& dy, const void* addend, const Images& dx,
                                     void* stream);

// Weight and bias gradients (shapes and types as the weights and biases; bias_gradient may be
// null), the same bits in every run on the same kind of device. scratch holds partial sums.
std::size_t depthwise_weight_gradient_scratch_bytes(const DepthwiseProblem& problem);
void launch_depthwise_weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                                      const ConstImages& dy, void* scratch, void* weight_gradient,
                                      void* bias_gradient, void* stream);

}  // namespace einkorn::convolution
