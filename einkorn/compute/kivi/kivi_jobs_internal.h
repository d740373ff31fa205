// What kivi_system.cpp tells the registry, by topic.
#pragma once

#include <vector>

#include "einkorn/core/system.h"

namespace einkorn::kivi {

Job attend_job();
Job memory_job();
Job axis_job();
std::vector<Benchmark> benchmarks();

}  // namespace einkorn::kivi
