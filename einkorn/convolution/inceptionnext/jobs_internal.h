// What a user can do with InceptionNeXt from the command line and from Python.
#pragma once

#include <vector>

#include "einkorn/core/system.h"

namespace einkorn::inceptionnext {

std::vector<Job> jobs();

}  // namespace einkorn::inceptionnext
