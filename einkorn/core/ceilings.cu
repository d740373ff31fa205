#include "einkorn/core/ceilings_cuda.h"
#include "einkorn/core/launch_cuda.h"

namespace einkorn {
namespace {

constexpr int threads_per_block = 256;
constexpr int blocks_per_multiprocessor = 8;
constexpr int chains = 8;
constexpr int iterations = 4096;

// The sums stay finite (factor below one), and the store that never happens keeps the loop alive.
template <typename T>
__global__ void __launch_bounds__(threads_per_block) fma_loop(T factor, T term, T* never_written) {
  T sums[chains];
#pragma unroll
  for (int i = 0; i < chains; ++i) sums[i] = static_cast<T>(threadIdx.x + i);
#pragma unroll 16
  for (int iteration = 0; iteration < iterations; ++iteration) {
#pragma unroll
    for (int i = 0; i < chains; ++i) sums[i] = sums[i] * factor + term;
  }
  T total = 0;
#pragma unroll
  for (int i = 0; i < chains; ++i) total += sums[i];
  if (total < 0) *never_written = total;
}

template <typename T>
double launch_fma(void* stream) {
  const int blocks = multiprocessor_count() * blocks_per_multiprocessor;
  fma_loop<T><<<blocks, threads_per_block, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<T>(0.999), static_cast<T>(0.001), nullptr);
  check_launch("fma_loop");
  return 2.0 * chains * iterations * threads_per_block * blocks;
}

}  // namespace

double launch_fma_f32(void* stream) {
  return launch_fma<float>(stream);
}
double launch_fma_f64(void* stream) {
  return launch_fma<double>(stream);
}

}  // namespace einkorn
