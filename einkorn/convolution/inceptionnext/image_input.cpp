#include "einkorn/convolution/inceptionnext/image_input.h"

#include "einkorn/core/error.h"
#include "einkorn/nn/image.h"

namespace einkorn::inceptionnext {

torch::Tensor image_input(const torch::Tensor& image, const NetworkConfig& config,
                          std::int64_t resolution) {
  require(config.in_channels == 3 || config.in_channels == 1,
          "image: the network has {} input channels; images have 3", config.in_channels);
  nn::Preprocessing how;
  how.resolution = resolution;
  how.crop_share = config.crop_share;
  if (config.in_channels == 3) return nn::preprocess(image, how).unsqueeze(0);
  how.mean = {0.5, 0.5, 0.5};
  how.deviation = {0.5, 0.5, 0.5};
  const torch::Tensor luma = torch::tensor({0.299f, 0.587f, 0.114f}).view({3, 1, 1});
  return (nn::preprocess(image, how) * luma).sum(0).view({1, 1, resolution, resolution});
}

}  // namespace einkorn::inceptionnext
