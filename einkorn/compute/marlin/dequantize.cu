// Weights as a dense matrix: for gradients, and for products of so many rows that expanding them
// once costs less than expanding them in each tile.
#include "einkorn/compute/marlin/marlin_cuda.h"
#include "einkorn/compute/marlin/marlin_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::marlin {
namespace {

constexpr int threads = 128;
constexpr int row_stride = 64 + 8;  // of 16 x 64 numbers in shared memory; shifts the banks

// One slab of 16 rows and 64 columns a warp.
template <typename T, int bits>
__global__ void __launch_bounds__(threads)
    dequantize_kernel(const CudaMatrix w, int group_shift, T* out) {
  __shared__ T slabs[threads / 32][16 * row_stride];
  const int lane = threadIdx.x % 32;
  const int columns = static_cast<int>(w.columns / 64);
  const std::int64_t unit =
      static_cast<std::int64_t>(blockIdx.x) * (threads / 32) + threadIdx.x / 32;
  const std::int64_t row = unit / columns * 16;
  if (row >= w.inputs) return;
  const int slab = static_cast<int>(unit % columns);
  T* numbers = slabs[threadIdx.x / 32];

  const std::int64_t at = ((row >> group_shift) * columns + slab) * 64 + lane / 4 * 8;
  const bool are_bf16 = w.scale_type == HalfType::bf16;
  const uint4 scales =
      __ldg(reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(w.scales) + at));
  uint4 zeros = {};
  if (w.zeros != nullptr) {
    zeros = __ldg(reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(w.zeros) + at));
  }
  constexpr int tile_words = bits / 4;
  const std::uint32_t* words = w.words + (unit * 32 + lane) * 4 * tile_words;
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) {
#pragma unroll
    for (int entry = 0; entry < 8; ++entry) {
      // Codes of half h lie in word h (8 bits) or byte h of each half word (4 bits).
      constexpr int place_in_eight[8] = {0, 4, 1, 5, 2, 6, 3, 7};
      constexpr int place_in_four[4] = {0, 2, 1, 3};
      const std::uint32_t code = bits == 4
                                     ? words[tile] >> (4 * place_in_eight[entry]) & 15
                                     : words[tile * tile_words + entry / 4 * (tile_words - 1)] >>
                                               (8 * place_in_four[entry % 4]) &
                                           255;
      const int k = lane % 4 * 2 + entry % 2 + entry / 2 % 2 * 8;
      const int n = tile * 16 + entry / 4 * 8 + lane / 4;
      const int column = tile * 2 + entry / 4;
      const float zero = w.zeros == nullptr ? 1 << (bits - 1) : number_at(zeros, column, are_bf16);
      numbers[k * row_stride + n] = Pair<T>::from_float((static_cast<float>(code) - zero) *
                                                        number_at(scales, column, are_bf16));
    }
  }
  __syncwarp();
  const std::int64_t first_column = static_cast<std::int64_t>(slab) * 64;
  for (int i = lane; i < 16 * 64; i += 32) {
    const std::int64_t k = row + i / 64;
    const std::int64_t n = first_column + i % 64;
    if (k < w.inputs && n < w.outputs)
      out[k * w.outputs + n] = numbers[i / 64 * row_stride + i % 64];
  }
}

template <typename T>
void launch(const CudaMatrix& w, T* out, cudaStream_t stream) {
  const std::int64_t units = (w.inputs + 15) / 16 * (w.columns / 64);
  const auto blocks = static_cast<unsigned>((units + threads / 32 - 1) / (threads / 32));
  constexpr int all_rows = 30;
  const int shift = w.group_size == 32    ? 5
                    : w.group_size == 64  ? 6
                    : w.group_size == 128 ? 7
                                          : all_rows;
  if (w.bits == 4) {
    dequantize_kernel<T, 4><<<blocks, threads, 0, stream>>>(w, shift, out);
  } else {
    dequantize_kernel<T, 8><<<blocks, threads, 0, stream>>>(w, shift, out);
  }
  check_launch("marlin dequantize");
}

}  // namespace

void launch_dequantize(const CudaMatrix& weights, HalfType type, void* out, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  type == HalfType::f16 ? launch(weights, static_cast<half_t*>(out), queue)
                        : launch(weights, static_cast<bf16_t*>(out), queue);
}

}  // namespace einkorn::marlin
