// The paper's claim as an experiment, and the contests.
#pragma once

#include <vector>

#include "einkorn/core/system.h"

namespace einkorn::tilus {

Evidence reproduce(const ReproductionRun& run);
std::vector<Benchmark> benchmarks();

}  // namespace einkorn::tilus
