// Depthwise convolution: every channel has a kernel of its own. Stride 1, zeros outside the image,
// and an output of the size of the input.
#pragma once

#include <optional>
#include <utility>

#include "einkorn/core/tensor.h"

namespace einkorn::convolution {

//   y[n, c, i, j] = bias[c] + sum_{k, l} weight[c, 0, k, l] x[n, c, i + k - (kh-1)/2, j + l -
//   (kw-1)/2]
//
// x: images [N, C, H, W], contiguous, channels last, or any view with one of those orders inside an
// image (others are copied); or in blocks of b channels, [N, C/b, H, W, b] contiguous. f32, f64,
// f16 or bf16. weight [C, 1, kh, kw] of any of these types, kh and kw >= 1, odd or even (for even
// ones the extra row and column of zeros lie below and right, as torch's padding="same" has it).
// bias [C]. The sums are f32, or f64 for f64 images; the output has x's type and memory format.
// Same bits on any number of threads. NaN and infinity reach the outputs whose taps see them (on
// cuda, f16 and bf16: those of up to eight columns more).
// Throws InvalidArgument for shapes, types or devices that do not fit. Records no gradients:
// models call torch.ops.einkorn.depthwise_conv2d, which does.
at::Tensor depthwise_conv2d(const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias = std::nullopt);

// The gradient of x for a gradient dy of y.
at::Tensor depthwise_conv2d_input_gradient(const at::Tensor& dy, const at::Tensor& weight);

// The gradients of weight (its shape and type) and bias [C] for a gradient dy of y. Same bits on
// any number of threads.
std::pair<at::Tensor, at::Tensor> depthwise_conv2d_weight_gradient(const at::Tensor& dy,
                                                                   const at::Tensor& x,
                                                                   const at::Tensor& weight);

}  // namespace einkorn::convolution
