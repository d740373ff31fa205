// What the registry is told of this system's speed.
#pragma once

#include <vector>

#include "einkorn/core/system.h"

namespace einkorn::inceptionnext {

std::vector<Benchmark> benchmarks();
std::vector<KernelChoice> kernels();

}  // namespace einkorn::inceptionnext
