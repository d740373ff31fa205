// Whether the law's trends show in small language models trained here.
#pragma once

#include <vector>

#include "einkorn/core/device.h"
#include "einkorn/core/report.h"
#include "einkorn/scaling/step_law/study_training_internal.h"

namespace einkorn::step_law {

// Three studies on a processor, twelve on a GPU.
std::vector<Study> demonstration_studies(Device device);

// Adds what the trained studies say: their landscapes, the optima with errors by the jackknife over
// seeds, and the exponents of the optima in N and D.
void judge_trained(const std::vector<TrainedStudy>& trained, Evidence& evidence);

}  // namespace einkorn::step_law
