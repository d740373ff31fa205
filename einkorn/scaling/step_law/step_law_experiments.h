// What the registry runs: the reproduction of the claim, and the small real training behind --full.
#pragma once

#include "einkorn/core/system.h"

namespace einkorn::step_law {

// Laws on the published landscapes and, with --full, a grid of small language models trained here.
Evidence reproduce(const ReproductionRun& run);

}  // namespace einkorn::step_law
