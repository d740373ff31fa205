// The parts of the system's description.
#pragma once

#include <vector>

#include "einkorn/core/system.h"

namespace einkorn::marlin {

std::vector<Job> jobs();
std::vector<Benchmark> benchmarks();
Evidence reproduce(const ReproductionRun& run);

}  // namespace einkorn::marlin
