// Loops of independent fused multiply-adds in registers, for measuring the peak rate of one core.
#pragma once

#include <cstdint>

namespace einkorn {

// Runs the loop and returns the number of FLOPs done (a fused multiply-add counts two).
double run_fma_f32(std::int64_t iterations);
double run_fma_f64(std::int64_t iterations);

}  // namespace einkorn
