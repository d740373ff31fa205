// How the fused block kernels walk over dense [rows, channels]: a thread keeps one pack of channels
// and goes down the rows, so that parameters and column sums stay in registers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "einkorn/convolution/fused_block_cuda.h"
#include "einkorn/convolution/predicated_load_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::convolution {

constexpr int wide_pack = 8;  // channels of a pack where the number of channels is a multiple of it
constexpr int threads_per_row_block = 256;
// Sums over rows want few blocks, since each leaves a partial sum; plain passes want many.
constexpr int sum_blocks_per_multiprocessor = 3;
constexpr int pass_blocks_per_multiprocessor = 16;

template <typename T, int kPack>
struct alignas(sizeof(T) * kPack < 16 ? sizeof(T) * kPack : 16) Pack {
  T values[kPack];
};

template <int kPack>
struct Floats {
  float values[kPack] = {};

  __device__ float& operator[](int i) { return values[i]; }
  __device__ float operator[](int i) const { return values[i]; }
};

template <int kPack, typename T>
__device__ inline Floats<kPack> load_pack(const T* from, bool valid = true) {
  const auto pack = load_or_zero(reinterpret_cast<const Pack<T, kPack>*>(from), valid);
  Floats<kPack> floats;
#pragma unroll
  for (int i = 0; i < kPack; ++i) floats[i] = static_cast<float>(pack.values[i]);
  return floats;
}

template <int kPack, typename T>
__device__ inline void store_pack(T* to, const Floats<kPack>& floats) {
  Pack<T, kPack> pack;
#pragma unroll
  for (int i = 0; i < kPack; ++i) pack.values[i] = static_cast<T>(floats[i]);
  *reinterpret_cast<Pack<T, kPack>*>(to) = pack;
}

// Blocks cover packs_per_block packs (blockIdx.y) and rows_at_once rows.
struct RowGrid {
  std::int64_t rows;
  int channels;
  int packs;
  int packs_per_block;
  int rows_at_once;
  int row_blocks;
  int pack_blocks;
};

inline RowGrid row_grid(const Rows& shape, int pack, int blocks_per_multiprocessor) {
  RowGrid grid{};
  grid.rows = shape.rows;
  grid.channels = static_cast<int>(shape.channels);
  grid.packs = grid.channels / pack;
  grid.pack_blocks = (grid.packs + threads_per_row_block - 1) / threads_per_row_block;
  grid.packs_per_block = (grid.packs + grid.pack_blocks - 1) / grid.pack_blocks;
  grid.rows_at_once = threads_per_row_block / grid.packs_per_block;
  const std::int64_t most =
      static_cast<std::int64_t>(multiprocessor_count()) * blocks_per_multiprocessor;
  const std::int64_t wanted = (shape.rows + grid.rows_at_once - 1) / grid.rows_at_once;
  const std::int64_t share = std::max<std::int64_t>(1, most / grid.pack_blocks);
  grid.row_blocks = static_cast<int>(std::clamp<std::int64_t>(wanted, 1, share));
  return grid;
}

struct RowPlace {
  int channel;
  int lane;  // of the rows that the block handles at once
  bool active;
  std::int64_t first;
  std::int64_t step;
};

template <int kPack>
__device__ inline RowPlace row_place(const RowGrid& grid) {
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread / grid.packs_per_block;
  const int pack =
      static_cast<int>(blockIdx.y) * grid.packs_per_block + thread % grid.packs_per_block;
  return {pack * kPack, lane, lane < grid.rows_at_once && pack < grid.packs,
          static_cast<std::int64_t>(blockIdx.x) * grid.rows_at_once + lane,
          static_cast<std::int64_t>(gridDim.x) * grid.rows_at_once};
}

// Calls use(row, inputs) for the thread's rows, where inputs[i] is its pack of sources[i]; the
// loads of several rows are in flight together.
template <int kPack, int kAtOnce, int kSources, typename T, typename Use>
__device__ inline void for_each_row(const RowGrid& grid, const RowPlace& place,
                                    const T* const (&sources)[kSources], Use use) {
  if (!place.active) return;
  for (std::int64_t base = place.first; base < grid.rows; base += kAtOnce * place.step) {
    Floats<kPack> inputs[kAtOnce][kSources];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t row = base + i * place.step;
#pragma unroll
      for (int s = 0; s < kSources; ++s) {
        inputs[i][s] =
            load_pack<kPack>(sources[s] + row * grid.channels + place.channel, row < grid.rows);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t row = base + i * place.step;
      if (row < grid.rows) use(row, inputs[i]);
    }
  }
}

// Adds up the column sums of the block's rows and writes them to partial_sums
// [row blocks, kSums, channels].
template <int kSums, int kPack>
__device__ inline void store_column_sums(const RowGrid& grid, const RowPlace& place,
                                         const Floats<kPack> (&sums)[kSums], float* partial_sums) {
  __shared__ float shared[kSums * kPack][threads_per_row_block];
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
#pragma unroll
    for (int c = 0; c < kPack; ++c) shared[s * kPack + c][threadIdx.x] = sums[s][c];
  }
  __syncthreads();
  const int first_channel = static_cast<int>(blockIdx.y) * grid.packs_per_block * kPack;
  const int block_channels = min(grid.packs_per_block * kPack, grid.channels - first_channel);
  for (int i = static_cast<int>(threadIdx.x); i < kSums * block_channels;
       i += threads_per_row_block) {
    const int s = i / block_channels;
    const int channel = i - s * block_channels;
    const float* column = shared[s * kPack + channel % kPack] + channel / kPack;
    float total = 0;
#pragma unroll 4
    for (int lane = 0; lane < grid.rows_at_once; ++lane)
      total += column[lane * grid.packs_per_block];
    partial_sums[(static_cast<std::int64_t>(blockIdx.x) * kSums + s) * grid.channels +
                 first_channel + channel] = total;
  }
}

// The totals of kSums columns over all row blocks, for 32 channels a block of 32 x 32 threads;
// valid in the threads of the first warp whose channel exists.
template <int kSums>
__device__ inline void column_totals(const float* partial_sums, int row_blocks, int channels,
                                     double (&totals)[kSums]) {
  __shared__ double shared[32][33];
  const int channel = static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x);
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    double sum = 0;
    if (channel < channels) {
#pragma unroll 8
      for (int block = static_cast<int>(threadIdx.y); block < row_blocks; block += 32) {
        sum += partial_sums[(static_cast<std::int64_t>(block) * kSums + s) * channels + channel];
      }
    }
    __syncthreads();
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    totals[s] = 0;
    if (threadIdx.y == 0) {
      for (int i = 0; i < 32; ++i) totals[s] += shared[i][threadIdx.x];
    }
  }
}

inline dim3 column_total_blocks(const RowGrid& grid) {
  return dim3(static_cast<unsigned>((grid.channels + 31) / 32));
}

inline dim3 row_blocks(const RowGrid& grid) {
  return dim3(static_cast<unsigned>(grid.row_blocks), static_cast<unsigned>(grid.pack_blocks));
}

// Calls run(T{}, pack) for the element type and the width of the packs.
template <typename Run>
void with_element_and_pack(const Rows& shape, Run run) {
  const auto with_pack = [&](auto type) {
    if (shape.channels % wide_pack == 0) {
      run(type, std::integral_constant<int, wide_pack>{});
    } else {
      run(type, std::integral_constant<int, 1>{});
    }
  };
  switch (shape.element) {
    case Element::f32:
      return with_pack(float{});
    case Element::f16:
      return with_pack(__half{});
    case Element::bf16:
      return with_pack(__nv_bfloat16{});
    case Element::f64:
      throw std::logic_error("fused block kernels have no f64 version");
  }
}

}  // namespace einkorn::convolution
