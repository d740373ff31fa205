// The small-batch kernels for f16, and the entry for both types.
#include <algorithm>

#include "einkorn/compute/marlin/marlin_cuda.h"
#include "einkorn/compute/marlin/small_batch_device.cuh"

namespace einkorn::marlin {
namespace {

int shift_of(std::int64_t group_size) {
  constexpr int all_rows = 30;
  return group_size == 32 ? 5 : group_size == 64 ? 6 : group_size == 128 ? 7 : all_rows;
}

}  // namespace

void launch_small_batch_f16(const SmallBatchParams& p, int bits, int processors,
                            cudaStream_t stream) {
  launch_small_batch_of<half_t>(p, bits, processors, stream);
}

std::size_t workspace_bytes(int processors) {
  constexpr std::size_t small = sizeof(float) * small_batch_rows * 256 * 2;
  constexpr std::size_t large = sizeof(float) * 128 * 256 * 2;
  return counter_bytes + static_cast<std::size_t>(processors) * std::max(small, large);
}

void launch_small_batch(const CudaProduct& product, int processors, void* stream) {
  const CudaMatrix& w = product.weights;
  SmallBatchParams p = {};
  p.words = w.words;
  p.scales = static_cast<const std::uint16_t*>(w.scales);
  p.zeros = static_cast<const std::uint16_t*>(w.zeros);
  p.scales_are_bf16 = w.scale_type == HalfType::bf16;
  p.inputs = static_cast<int>(w.inputs);
  p.outputs = static_cast<int>(w.outputs);
  p.slabs = static_cast<int>(w.columns / 64);
  p.group_shift = shift_of(w.group_size);
  p.groups = w.group_size == 0 ? 1 : static_cast<int>((w.inputs + w.group_size - 1) / w.group_size);
  p.a = product.a;
  p.a_stride = product.a_stride;
  p.rows = static_cast<int>(product.rows);
  p.out = product.out;
  p.bias = product.bias;
  p.counters = static_cast<int*>(product.workspace);
  p.partial = reinterpret_cast<float*>(static_cast<char*>(product.workspace) + counter_bytes);
  const auto queue = static_cast<cudaStream_t>(stream);
  product.type == HalfType::f16 ? launch_small_batch_f16(p, w.bits, processors, queue)
                                : launch_small_batch_bf16(p, w.bits, processors, queue);
}

}  // namespace einkorn::marlin
