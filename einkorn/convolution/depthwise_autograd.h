// Depthwise convolution as models call it: through torch's dispatcher, with gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace einkorn::convolution {

// torch.ops.einkorn.depthwise_conv2d: depthwise_conv2d of depthwise.h, differentiable to any order.
at::Tensor differentiable_depthwise_conv2d(const at::Tensor& x, const at::Tensor& weight,
                                           const std::optional<at::Tensor>& bias = std::nullopt);

}  // namespace einkorn::convolution
