// What stands between the matrix products of a MetaNeXt or ConvNeXt block, one pass over memory
// each: normalisations, bias with GELU, and layer scale with the residual sum, forward and
// backward.
//
// Activations are dense [rows, channels] (NHWC: rows are pixels) of f32, f16 or bf16; parameters,
// statistics and their gradients are f32; sums are f32 in a fixed order, so results are the same
// bits in every run on the same kind of device. Reductions take scratch of row_scratch_bytes.
// Nothing waits or allocates. std::runtime_error when a launch is refused.
#pragma once

#include <cstddef>
#include <cstdint>

#include "einkorn/convolution/depthwise_kernels.h"

namespace einkorn::convolution {

struct Rows {
  std::int64_t rows = 0;
  std::int64_t channels = 0;
  Element element = Element::bf16;  // not f64
};

std::size_t row_scratch_bytes(const Rows& shape);

// Batch normalisation in training. mean and inverse_deviation [channels] are of this batch;
// running_mean and running_variance, if not null, move towards it by momentum (the variance
// unbiased, as in torch.nn.BatchNorm2d).
void launch_batch_norm_statistics(const Rows& shape, const void* x, float epsilon, float momentum,
                                  float* mean, float* inverse_deviation, float* running_mean,
                                  float* running_variance, void* scratch, void* stream);
void launch_batch_norm_apply(const Rows& shape, const void* x, const float* mean,
                             const float* inverse_deviation, const float* weight, const float* bias,
                             void* y, void* stream);
void launch_batch_norm_parameter_gradient(const Rows& shape, const void* x, const void* dy,
                                          const float* mean, const float* inverse_deviation,
                                          float* weight_gradient, float* bias_gradient,
                                          void* scratch, void* stream);
void launch_batch_norm_input_gradient(const Rows& shape, const void* x, const void* dy,
                                      const float* mean, const float* inverse_deviation,
                                      const float* weight, const float* weight_gradient,
                                      const float* bias_gradient, void* dx, void* stream);

// Layer normalisation of each row; mean and inverse_deviation [rows] are kept for the gradient.
void launch_layer_norm_forward(const Rows& shape, const void* x, const float* weight,
                               const float* bias, float epsilon, void* y, float* mean,
                               float* inverse_deviation, void* stream);
void launch_layer_norm_backward(const Rows& shape, const void* x, const void* dy, const float* mean,
                                const float* inverse_deviation, const float* weight, void* dx,
                                float* weight_gradient, float* bias_gradient, void* scratch,
                                void* stream);

// y = gelu(x + bias) with the exact (erf) GELU: absolute error below 1e-6 for 16-bit elements, 2
// ulp of f32 for f32. Backward gives dx and the bias gradient; dx may be dy.
void launch_bias_gelu_forward(const Rows& shape, const void* x, const float* bias, void* y,
                              void* stream);
void launch_bias_gelu_backward(const Rows& shape, const void* x, const float* bias, const void* dy,
                               void* dx, float* bias_gradient, void* scratch, void* stream);

// y = x + image_scale[row / rows_per_image] * scale * (z + bias): layer scale, drop path
// (image_scale is 0 or 1 / keep probability; null: 1) and the residual sum. Backward gives dz; the
// gradient of x is dy itself.
struct ScaledResidual {
  std::int64_t rows_per_image = 1;
  const float* image_scale = nullptr;  // [images]
  const float* scale = nullptr;        // [channels]
  const float* bias = nullptr;         // [channels]
};
void launch_scaled_residual_forward(const Rows& shape, const ScaledResidual& parameters,
                                    const void* x, const void* z, void* y, void* stream);
void launch_scaled_residual_backward(const Rows& shape, const ScaledResidual& parameters,
                                     const void* dy, const void* z, void* dz, float* scale_gradient,
                                     float* bias_gradient, void* scratch, void* stream);

}  // namespace einkorn::convolution
