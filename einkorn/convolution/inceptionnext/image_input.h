// Photographs as a network wants them.
#pragma once

#include <torch/torch.h>

#include <cstdint>

#include "einkorn/convolution/inceptionnext/network_config.h"

namespace einkorn::inceptionnext {

// image [3, height, width] u8 -> [1, in_channels, resolution, resolution] f32, resized and cropped
// by nn::preprocess with the network's crop share. Networks of three channels get ImageNet's mean
// and deviation taken out; networks of one get the luma (ITU-R BT.601) in [-1, 1], as they do in
// training on digits. Throws InvalidArgument for networks of other numbers of channels.
torch::Tensor image_input(const torch::Tensor& image, const NetworkConfig& config,
                          std::int64_t resolution);

}  // namespace einkorn::inceptionnext
