// Images per second of whole networks on a device: the paper's table of speeds.
#pragma once

#include "einkorn/core/system.h"

namespace einkorn::inceptionnext {

// Adds the table, and the checks that follow from it. Needs a cuda device.
void judge_throughput(const ReproductionRun& run, Evidence& evidence);

}  // namespace einkorn::inceptionnext
