// Loops of independent fused multiply-adds in registers, for measuring the peak rate of a GPU.
#pragma once

namespace einkorn {

// Queues one loop on the stream (a cudaStream_t) and returns the FLOPs that it does; a fused
// multiply-add counts two. Throws std::runtime_error when the launch is refused.
double launch_fma_f32(void* stream);
double launch_fma_f64(void* stream);

}  // namespace einkorn
