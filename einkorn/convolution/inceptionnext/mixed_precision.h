// Training passes on CUDA in mixed precision.
#pragma once

#include "einkorn/convolution/inceptionnext/network.h"

namespace einkorn::inceptionnext {

// network.forward(images) in training mode with activations of `type` (bf16, f16 or f32).
// Parameters, their gradients, the statistics of the norms and all sums are f32; the head is f32
// throughout. Between two matrix products each block makes one pass over memory: normalisation,
// bias with GELU, and layer scale with drop path and the residual sum are fused kernels
// (fused_block_cuda.h).
//
// The residual stream has `type` too, where torch's autocast keeps f32: half the traffic, and
// roundings of `type` that add up over the blocks.
//
// images: [N, in_channels, H, W], f32 or `type`, on the network's CUDA device. Returns logits
// [N, classes], f32, with gradients for all parameters (not for the images). Throws InvalidArgument
// for other types, images that do not fit, a network that is not in training mode or not f32, and
// where there is no CUDA.
at::Tensor mixed_precision_forward(NetworkImpl& network, const at::Tensor& images,
                                   at::ScalarType type = at::kBFloat16);

}  // namespace einkorn::inceptionnext
