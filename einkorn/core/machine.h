// What this machine can do at best: the ceilings that benchmarks are held against.
#pragma once

#include <string>

#include "einkorn/core/device.h"
#include "einkorn/core/system.h"

namespace einkorn {

struct Ceilings {
  std::string processor;  // "AMD EPYC, 2 threads", "NVIDIA H100 80GB HBM3"
  double bandwidth = 0;   // bytes/s of a large copy, bytes read plus bytes written
  double flops_f64 = 0;   // FLOP/s, a fused multiply-add counts two
  double flops_f32 = 0;
  double flops_bf16 = 0;  // matrix units; 0 where there are none

  double peak(Arithmetic arithmetic) const;

  // The least time that the work can take here, and which ceiling says so ("memory", "arithmetic").
  double floor_seconds(const Work& work, Arithmetic arithmetic) const;
  std::string bound(const Work& work, Arithmetic arithmetic) const;
};

// Measured on all threads at the first call (about a second), then remembered.
const Ceilings& ceilings(Device device);

}  // namespace einkorn
