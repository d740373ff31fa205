#include "einkorn/core/system.h"

#include <torch/torch.h>

#include "einkorn/convolution/inceptionnext/benchmarks_internal.h"
#include "einkorn/convolution/inceptionnext/experiments_internal.h"
#include "einkorn/convolution/inceptionnext/jobs_internal.h"

namespace einkorn::inceptionnext {

System system() {
  System system;
  system.name = "inceptionnext";
  system.wing = Wing::convolution;
  system.paper = {"InceptionNeXt: When Inception Meets ConvNeXt", "Yu, Zhou, Yan, Wang", 2024,
                  "2303.16900"};
  system.summary = "image backbones whose large depthwise kernels are split in cheap branches";
  system.devices = {Device::cpu, Device::cuda};
  system.jobs = jobs();
  system.reproduction = {
      "The Inception mixer is at least four times as fast as a 7 x 7 depthwise convolution and "
      "within 2 points of its accuracy; on a GPU it trains at least 1.4 times as fast as ConvNeXt",
      "scikit-learn's digits; random images for the times", reproduce};
  system.benchmarks = benchmarks();
  system.kernels = kernels;
  return system;
}

}  // namespace einkorn::inceptionnext
