// The small-batch kernels for bf16.
#include "einkorn/compute/marlin/small_batch_device.cuh"

namespace einkorn::marlin {

void launch_small_batch_bf16(const SmallBatchParams& p, int bits, int processors,
                             cudaStream_t stream) {
  launch_small_batch_of<bf16_t>(p, bits, processors, stream);
}

}  // namespace einkorn::marlin
