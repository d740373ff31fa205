// The Inception mixer: most channels pass unchanged, three small groups go through depthwise
// convolutions of s x s, 1 x b and b x 1 taps. Yu et al., "InceptionNeXt: When Inception Meets
// ConvNeXt", CVPR 2024, arXiv 2303.16900, section 3.2.
#pragma once

#include "einkorn/core/tensor.h"

namespace einkorn::inceptionnext {

// Weights (or their gradients) of the three groups of g channels, with their names in the paper and
// in timm. Kernel sizes are odd and >= 1.
struct MixerWeights {
  at::Tensor square;       // [g, 1, s, s]  dwconv_hw
  at::Tensor wide;         // [g, 1, 1, b]  dwconv_w
  at::Tensor tall;         // [g, 1, b, 1]  dwconv_h
  at::Tensor square_bias;  // [g]
  at::Tensor wide_bias;    // [g]
  at::Tensor tall_bias;    // [g]
};

// y: channels [identity (C - 3g), square (g), wide (g), tall (g)] of x, each group convolved with
// its kernels (cross-correlation, stride 1, zero padding that keeps the size), the first copied.
//
// x: images [N, C, H, W], contiguous, channels last or a view with one of those orders inside an
// image, or in blocks of b channels [N, C/b, H, W, b]. f32, f64, f16 or bf16; weights of any of
// these types; sums are f32, or f64 for f64 images. Same bits on any number of threads. Throws
// InvalidArgument for shapes, types or devices that do not fit: even kernels, 3g > C. Records no
// gradients: models call torch.ops.einkorn.inception_dwconv, which does.
at::Tensor inception_dwconv(const at::Tensor& x, const MixerWeights& weights);

// The convolved channels alone, [N, 3g, H, W] (x not in blocks): for a following operator that
// reads the identity channels from x itself, which saves (C - 3g) / C of the mixer's traffic.
at::Tensor inception_dwconv_branches(const at::Tensor& x, const MixerWeights& weights);

// The gradient of x for a gradient dy of y.
at::Tensor inception_dwconv_input_gradient(const at::Tensor& dy, const MixerWeights& weights);

// The gradients of the weights, in their shapes and types. Same bits on any number of threads.
MixerWeights inception_dwconv_weight_gradient(const at::Tensor& dy, const at::Tensor& x,
                                              const MixerWeights& weights);

// What would compute inception_dwconv(x, ...): "avx512", "fused", ...
std::string mixer_implementation(const at::Tensor& x, std::int64_t branch_channels,
                                 std::int64_t square_size, std::int64_t band_size);

}  // namespace einkorn::inceptionnext
