// What a trained network looks at: effective receptive fields and kernels.
#pragma once

#include <torch/torch.h>

#include "einkorn/convolution/inceptionnext/network.h"
#include "einkorn/nn/weights.h"

namespace einkorn::inceptionnext {

// Mean absolute gradient of the middle pixel of the last stage (summed over its channels) by each
// input pixel, over images [N, channels, H, W] and channels; scaled to a maximum of 1. Luo et al.,
// "Understanding the Effective Receptive Field", 2016. Returns [H, W] f32.
torch::Tensor effective_receptive_field(NetworkImpl& network, const torch::Tensor& images);

// The smallest share of the image's area, a centred square, that holds `share` of the field's sum.
double area_with_share(const torch::Tensor& field, double share);

// Every block's spatial kernels by name ("stages.0.blocks.0.dwconv_hw": [g, s, s]).
nn::NamedTensors spatial_kernels(const NetworkImpl& network);

}  // namespace einkorn::inceptionnext
