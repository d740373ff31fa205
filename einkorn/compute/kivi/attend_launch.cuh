// Which instance of attend_kernel serves a call. Included once for each element type.
#pragma once

#include <algorithm>

#include "einkorn/compute/kivi/attend_device.cuh"
#include "einkorn/compute/kivi/attend_variants_cuda.h"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::kivi {

template <typename T, int C, int NT, int BITS>
void launch_instance(const AttendArguments& args, std::int64_t blocks_y, cudaStream_t stream) {
  constexpr int part_bytes = attend_warps * 8 * NT * (C * chunk_size + 2) * 4;
  const auto shared = std::max<std::int64_t>(args.stages * args.layout.bytes, part_bytes);
  const auto kernel = &attend_kernel<T, C, NT, BITS>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared)),
             "kivi attend: shared memory");
  // Several blocks at once: without a word the cache may get what they need.
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "kivi attend: shared memory");
  const dim3 grid(static_cast<unsigned>(args.splits), static_cast<unsigned>(blocks_y),
                  static_cast<unsigned>(args.problem.cache.batch));
  kernel<<<grid, attend_threads, static_cast<std::size_t>(shared), stream>>>(args);
  check_launch("kivi attend");
}

template <typename T>
void launch_variant(const AttendArguments& args, const AttendVariant& variant,
                    cudaStream_t stream) {
  const std::int64_t blocks_y =
      std::int64_t{args.problem.cache.geometry.kv_heads} * args.row_blocks;
  const auto launch = [&](auto chunks, auto row_tiles, auto bits) {
    launch_instance<T, chunks.value, row_tiles.value, bits.value>(args, blocks_y, stream);
  };
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  using Four = std::integral_constant<int, 4>;
  using Any = std::integral_constant<int, 0>;
  const auto for_bits = [&](auto bits) {
    if (variant.chunks == 8) return launch(std::integral_constant<int, 8>(), One(), bits);
    if (variant.chunks == 2) {
      return variant.row_tiles == 2 ? launch(Two(), Two(), bits) : launch(Two(), One(), bits);
    }
    return variant.row_tiles == 2 ? launch(Four(), Two(), bits) : launch(Four(), One(), bits);
  };
  if (variant.bits == 2) return for_bits(Two());
  if (variant.bits == 4) return for_bits(Four());
  switch (variant.chunks) {
    case 1:
      return launch(One(), One(), Any());
    case 2:
      return launch(Two(), One(), Any());
    case 3:
      return launch(std::integral_constant<int, 3>(), One(), Any());
    case 4:
      return launch(Four(), One(), Any());
    case 6:
      return launch(std::integral_constant<int, 6>(), One(), Any());
    default:
      return launch(std::integral_constant<int, 8>(), One(), Any());
  }
}

}  // namespace einkorn::kivi
