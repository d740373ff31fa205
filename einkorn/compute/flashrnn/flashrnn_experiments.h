// The paper's claims as experiments, and the networks that benchmarks time.
#pragma once

#include <vector>

#include "einkorn/compute/flashrnn/flashrnn.h"
#include "einkorn/compute/flashrnn/kernel_problem.h"
#include "einkorn/core/report.h"
#include "einkorn/core/system.h"

namespace einkorn::flashrnn {

Evidence reproduce(const ReproductionRun& run);
std::vector<Benchmark> benchmarks();

// Inputs of one recurrence, drawn as the paper's: Wx, b ~ N(0, 1), R ~ N(0, 1) / sqrt(D).
struct Inputs {
  at::Tensor input;
  at::Tensor recurrent;
  at::Tensor bias;
};
Inputs draw_inputs(Cell cell, std::int64_t batch, std::int64_t time, std::int64_t heads,
                   std::int64_t dim, at::ScalarType type, Device device, std::uint64_t seed);

// What the published solver finds for a kernel's tiles on an H100.
struct KnownKernel {
  KernelDirection direction;
  KernelShape shape;
  Assignment expected;
};
std::vector<KnownKernel> published_kernels();

}  // namespace einkorn::flashrnn
