// The paper's claims as experiments.
#pragma once

#include "einkorn/core/system.h"

namespace einkorn::inceptionnext {

Evidence reproduce(const ReproductionRun& run);

}  // namespace einkorn::inceptionnext
