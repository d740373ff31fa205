// The jobs of the tile machine: compile, run, tune.
#pragma once

#include <vector>

#include "einkorn/core/system.h"

namespace einkorn::tilus {

std::vector<Job> machine_jobs();

}  // namespace einkorn::tilus
