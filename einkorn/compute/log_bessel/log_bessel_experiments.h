// The paper's claims as an experiment.
#pragma once

#include "einkorn/core/system.h"

namespace einkorn::log_bessel {

// Accuracy (reference values, Wronskians), failures of the standard library's functions,
// throughput, and a von Mises-Fisher fit; on a GPU also 1e8 pairs a call and agreement with the
// CPU.
Evidence reproduce(const ReproductionRun& run);

}  // namespace einkorn::log_bessel
