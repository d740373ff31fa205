// Up to 32 rows. Device code; one source for each element type includes it.
//
// The weights are operand A of mma.m16n8k16 (its rows are output columns), so one to
// eight rows of activations fill operand B without waste, and a word of the file format is a
// fragment. Each warp streams its own slab of 64 columns and its own rows through shared memory; a
// warp reads what it copied itself, so only the activations need the block's barrier.
//
// Blocks take equal runs of the (column tile, rows) steps. Where a tile is shared, each block
// leaves its f32 sums, and the one that finishes last adds them in the order of rows: the same bits
// in every run.
#pragma once

#include <algorithm>

#include "einkorn/compute/marlin/marlin_device.cuh"
#include "einkorn/compute/marlin/small_batch_cuda.h"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::marlin {
namespace {

// row_blocks: eights of rows of activations (1, 2, 4). fine_groups: groups of fewer rows than a
// warp takes at a step.
template <typename T, int bits_, int row_blocks_, bool has_zeros_, bool fine_groups_>
struct Config {
  using Element = T;
  static constexpr int bits = bits_;
  static constexpr int row_blocks = row_blocks_;
  static constexpr bool has_zeros = has_zeros_;
  static constexpr bool fine_groups = fine_groups_;
  // Few rows: many warps hide latency, and narrow tiles are shared by fewer blocks. More rows take
  // more registers, and wide tiles read the activations less often.
  static constexpr int column_warps = row_blocks == 1 ? 2 : 4;
  static constexpr int row_warps = row_blocks == 1 ? 8 : row_blocks == 2 ? 4 : 2;
  static constexpr int warps = column_warps * row_warps;
  static constexpr int threads = 32 * warps;
  static constexpr int tile_columns = 64 * column_warps;
  static constexpr int warp_tiles =  // of 16 rows, a step
      (row_blocks == 4 ? 8 : 4) / (bits == 8 ? 2 : 1);
  static constexpr int group_tiles = fine_groups ? 2 : warp_tiles;
  static constexpr int step_rows = 16 * warp_tiles * row_warps;
  static constexpr int slab_bytes = 128 * bits;  // of 16 rows
  static constexpr int warp_bytes = warp_tiles * slab_bytes;
  static constexpr int warp_groups = warp_tiles / group_tiles;
  static constexpr int warp_scale_bytes = warp_groups * 128;
  static constexpr int a_bytes = row_blocks * 8 * step_rows * 2;
  // Parts of a stage.
  static constexpr int scales_at = warps * warp_bytes;
  static constexpr int a_at = scales_at + (has_zeros ? 2 : 1) * warps * warp_scale_bytes;
  static constexpr int zeros_before_a = warps * warp_scale_bytes;
  static constexpr int stage_bytes = a_at + a_bytes;
  static constexpr int sum_stride = tile_columns + 4;  // shifts the rows to other banks
  static constexpr int sum_bytes = row_blocks * 8 * sum_stride * 4;
  static constexpr int budget = 224 * 1024 - sum_bytes;
  static constexpr int stages = budget / stage_bytes < 5 ? budget / stage_bytes : 5;
  static_assert(stages >= 3, "loads run ahead of the products");
  static constexpr int shared_bytes = stages * stage_bytes + sum_bytes;
};

// Copies the steps of a block in turn. What changes from step to step is kept, so that a step costs
// few instructions.
template <typename C>
class Loader {
 public:
  __device__ Loader(const SmallBatchParams& params, int first_step) : p_(params) {
    tile_ = first_step / p_.tile_steps;
    step_ = first_step % p_.tile_steps;
    row_bytes_ = static_cast<std::int64_t>(p_.slabs) * C::slab_bytes;
    start_tile();
  }

  // The next step into `stage`.
  __device__ __forceinline__ void load(std::uint32_t stage) {
    const bool is_whole = (step_ + 1) * C::step_rows <= p_.inputs && slab_ < p_.slabs;
    const std::uint32_t weights = stage + warp_ * C::warp_bytes + lane_ * 16;
    if (is_whole) {
      load_weights<true>(weights);
    } else {
      load_weights<false>(weights);
    }
    const int group = (warp_row() >> p_.group_shift) + lane_ / 8;
    if (lane_ / 8 < C::warp_groups) {
      const std::uint32_t at = stage + C::scales_at + warp_ * C::warp_scale_bytes + lane_ * 16;
      const bool valid = group < p_.groups && slab_ < p_.slabs;
      const int place = valid ? (group * p_.slabs + slab_) * 64 + lane_ % 8 * 8 : 0;
      copy_16(at, p_.scales + place, valid);
      if constexpr (C::has_zeros) {
        copy_16(at + C::warps * C::warp_scale_bytes, p_.zeros + place, valid);
      }
    }
    load_activations(stage + C::a_at);
    if (++step_ == p_.tile_steps) {
      step_ = 0;
      ++tile_;
      start_tile();
    } else {
      from_ += (C::step_rows / 16) * row_bytes_;
    }
  }

 private:
  static constexpr int row_chunks = C::step_rows / 8;
  static constexpr int chunks = C::row_blocks * 8 * row_chunks;

  __device__ __forceinline__ int warp_row() const {
    return step_ * C::step_rows + warp_ / C::column_warps * (C::warp_tiles * 16);
  }

  __device__ __forceinline__ void start_tile() {
    slab_ = tile_ * C::column_warps + warp_ % C::column_warps;
    from_ = reinterpret_cast<const char*>(p_.words) + warp_row() / 16 * row_bytes_ +
            static_cast<std::int64_t>(slab_) * C::slab_bytes + lane_ * 16;
  }

  template <bool is_whole>
  __device__ __forceinline__ void load_weights(std::uint32_t to) const {
    const int tiles_left = is_whole ? C::warp_tiles : (p_.inputs + 15) / 16 - warp_row() / 16;
    const char* from = from_;
#pragma unroll
    for (int i = 0; i < C::warp_tiles; ++i, from += row_bytes_) {
      const bool valid = is_whole || (slab_ < p_.slabs && i < tiles_left);
      const char* safe = valid ? from : reinterpret_cast<const char*>(p_.words);
      if constexpr (C::bits == 4) {
        copy_16_once(to + i * C::slab_bytes, safe, valid, policy_);
      } else {
        // A lane's 32 bytes are split, so that both halves are read without bank conflicts.
        const std::uint32_t split = to - lane_ * 16 + lane_ % 2 * 512 + lane_ / 2 * 16;
        copy_16_once(split + i * C::slab_bytes, safe, valid, policy_);
        copy_16_once(split + i * C::slab_bytes + 256, valid ? safe + 512 : safe, valid, policy_);
      }
    }
  }

  __device__ __forceinline__ void load_activations(std::uint32_t to) const {
    const auto* a = static_cast<const std::uint16_t*>(p_.a);
#pragma unroll
    for (int first = 0; first < chunks; first += C::threads) {
      const int index = first + threadIdx.x;
      if (chunks < C::threads && index >= chunks) break;
      const int row = index / row_chunks;
      const int chunk = index % row_chunks;
      const int k = step_ * C::step_rows + chunk * 8;
      const bool valid = row < p_.rows && k < p_.inputs;
      copy_16(to + row * (C::step_rows * 2) + ((chunk ^ (row & 7)) * 16),
              valid ? a + row * p_.a_stride + k : a, valid);
    }
  }

  const SmallBatchParams& p_;
  std::uint64_t policy_ = read_once_policy();
  int lane_ = threadIdx.x % 32;
  int warp_ = threadIdx.x / 32;
  int tile_;
  int step_;  // within the tile
  int slab_;
  std::int64_t row_bytes_;
  const char* from_;
};

// Sums of one warp: 64 columns (four tiles of 16) times the rows.
template <typename C>
struct Sums {
  float total[4][C::row_blocks][4];
  float group[4][C::row_blocks][4];  // before the scale

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int b = 0; b < C::row_blocks; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[j][b][i] = 0;
        }
      }
    }
  }
};

template <typename C>
struct Multiplier {
  using T = typename C::Element;
  const SmallBatchParams& p;
  int lane = threadIdx.x % 32;
  int warp = threadIdx.x / 32;
  int row_warp = warp / C::column_warps;
  Zeros<T, C::bits> zeros[C::has_zeros ? 4 : 1];

  // What a lane needs for 16 rows of W: words of four tiles, and all rows of activations.
  struct Operands {
    std::uint32_t words[C::bits];
    std::uint32_t b[C::row_blocks][2];
  };

  __device__ explicit Multiplier(const SmallBatchParams& params) : p(params) {
    if constexpr (!C::has_zeros) {
      zeros[0].set(0, 1 << (C::bits - 1));
      zeros[0].set(1, 1 << (C::bits - 1));
    }
  }

  __device__ __forceinline__ void multiply(const unsigned char* stage, Sums<C>& sums) {
    Operands operands[2];
    load(stage, 0, operands[0]);
#pragma unroll
    for (int tile = 0; tile < C::warp_tiles; ++tile) {
      const int group = (tile * 16) >> p.group_shift;
      if (tile % C::group_tiles == 0) start_group(stage, group);
      if (tile + 1 < C::warp_tiles) load(stage, tile + 1, operands[(tile + 1) % 2]);
      multiply_tile(operands[tile % 2], tile % C::group_tiles == 0, sums);
      if (tile % C::group_tiles == C::group_tiles - 1) finish_group(stage, group, sums);
    }
  }

 private:
  static __device__ __forceinline__ uint4 shared_16(const unsigned char* at) {
    return *reinterpret_cast<const uint4*>(at);
  }

  __device__ __forceinline__ void load(const unsigned char* stage, int tile,
                                       Operands& operands) const {
    const unsigned char* at = stage + warp * C::warp_bytes + tile * C::slab_bytes + lane * 16;
    const uint4 first = shared_16(at);
    operands.words[0] = first.x, operands.words[1] = first.y;
    operands.words[2] = first.z, operands.words[3] = first.w;
    if constexpr (C::bits == 8) {
      const uint4 second = shared_16(at + 512);
      operands.words[4] = second.x, operands.words[5] = second.y;
      operands.words[6] = second.z, operands.words[7] = second.w;
    }
    load_rows(shared_address(stage + C::a_at), tile, operands.b);
  }

  // The registers of operand B: eight rows and 16 inputs each.
  __device__ __forceinline__ void load_rows(std::uint32_t a, int tile,
                                            std::uint32_t (&b)[C::row_blocks][2]) const {
    constexpr int row_bytes = C::step_rows * 2;
    const int chunk = 2 * (row_warp * C::warp_tiles + tile) + lane / 8 % 2;
    const int row = lane % 8;
    const std::uint32_t in_block = a + row * row_bytes + ((chunk ^ row) * 16);
    if constexpr (C::row_blocks == 1) {
      load_matrices_2(in_block, b[0][0], b[0][1]);
    } else {
#pragma unroll
      for (int i = 0; i < C::row_blocks; i += 2) {
        load_matrices_4(in_block + (i + lane / 16) * 8 * row_bytes, b[i][0], b[i][1], b[i + 1][0],
                        b[i + 1][1]);
      }
    }
  }

  __device__ __forceinline__ void start_group(const unsigned char* stage, int group) {
    const int at = warp * C::warp_scale_bytes + group * 128 + lane / 4 * 16;
    if constexpr (C::has_zeros) {
      const uint4 eight = shared_16(stage + C::a_at - C::zeros_before_a + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        zeros[i / 2].set(i % 2, number_at(eight, i, p.scales_are_bf16));
      }
    }
  }

  __device__ __forceinline__ void multiply_tile(const Operands& operands, bool starts_group,
                                                Sums<C>& sums) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t a[4];
      Dequantizer<T, C::bits>::apply(operands.words + j * C::bits / 4, zeros[C::has_zeros ? j : 0],
                                     a);
#pragma unroll
      for (int i = 0; i < C::row_blocks; ++i) {
        if (starts_group) {
          multiply_first_fragments(T(), sums.group[j][i], a, operands.b[i][0], operands.b[i][1]);
        } else {
          multiply_fragments(T(), sums.group[j][i], a, operands.b[i][0], operands.b[i][1]);
        }
      }
    }
  }

  __device__ __forceinline__ void finish_group(const unsigned char* stage, int group,
                                               Sums<C>& sums) {
    const uint4 eight =
        shared_16(stage + C::scales_at + warp * C::warp_scale_bytes + group * 128 + lane / 4 * 16);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float first = number_at(eight, 2 * j, p.scales_are_bf16);
      const float second = number_at(eight, 2 * j + 1, p.scales_are_bf16);
#pragma unroll
      for (int b = 0; b < C::row_blocks; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums.total[j][b][i] += (i < 2 ? first : second) * sums.group[j][b][i];
        }
      }
    }
  }
};

// Adds the sums of warps that share columns, in shared memory [rows][columns].
template <typename C>
__device__ __forceinline__ void gather_sums(const Sums<C>& sums, float* gathered) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int column = warp % C::column_warps * 64 + lane / 4;
#pragma unroll 1
  for (int turn = 0; turn < C::row_warps; ++turn) {
    if (warp / C::column_warps == turn) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int b = 0; b < C::row_blocks; ++b) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int row = b * 8 + lane % 4 * 2 + i % 2;
            float& place = gathered[row * C::sum_stride + column + j * 16 + i / 2 * 8];
            place = turn == 0 ? sums.total[j][b][i] : place + sums.total[j][b][i];
          }
        }
      }
    }
    __syncthreads();
  }
}

// The block that owns step `step` of all.
__device__ __forceinline__ int owner(const SmallBatchParams& p, std::int64_t step) {
  const std::int64_t steps = static_cast<std::int64_t>(p.tiles) * p.tile_steps;
  return static_cast<int>(((step + 1) * p.blocks - 1) / steps);
}
__device__ __forceinline__ int first_step(const SmallBatchParams& p, int block) {
  return static_cast<int>(static_cast<std::int64_t>(block) * p.tiles * p.tile_steps / p.blocks);
}

// Four results of a row.
template <typename T>
__device__ __forceinline__ void store(const SmallBatchParams& p, int row, int column,
                                      const float4& sums) {
  float values[4] = {sums.x, sums.y, sums.z, sums.w};
  T results[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (p.bias != nullptr && column + i < p.outputs) values[i] += p.bias[column + i];
    results[i] = Pair<T>::from_float(values[i]);
  }
  T* out = static_cast<T*>(p.out) + static_cast<std::int64_t>(row) * p.outputs + column;
  if (p.outputs % 4 == 0) {
    if (column < p.outputs) {
      *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(results);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i < p.outputs) out[i] = results[i];
  }
}

template <typename C>
__device__ __forceinline__ void finish_tile(const SmallBatchParams& p, int tile,
                                            const float* gathered, int* is_last) {
  using T = typename C::Element;
  constexpr int row_fours = C::tile_columns / 4;
  constexpr int tile_fours = C::row_blocks * 8 * row_fours;
  const int thread = threadIdx.x;
  const int fours = p.rows * row_fours;
  const std::int64_t begin = static_cast<std::int64_t>(tile) * p.tile_steps;
  const int first = owner(p, begin);
  const int last = owner(p, begin + p.tile_steps - 1);
  const auto gathered_four = [&](int i) {
    return *reinterpret_cast<const float4*>(gathered + i / row_fours * C::sum_stride +
                                            i % row_fours * 4);
  };
  const auto store_four = [&](int i, const float4& sums) {
    store<T>(p, i / row_fours, tile * C::tile_columns + i % row_fours * 4, sums);
  };
  if (first == last) {
    for (int i = thread; i < fours; i += C::threads) store_four(i, gathered_four(i));
    return;
  }
  // A block shares at most two tiles, its first and its last one.
  float4* slots = reinterpret_cast<float4*>(p.partial);
  const auto slot_of = [&](int block) {
    const int is_second = first_step(p, block) / p.tile_steps != tile;
    return slots + static_cast<std::int64_t>(2 * block + is_second) * tile_fours;
  };
  float4* own = slot_of(blockIdx.x);
  for (int i = thread; i < fours; i += C::threads) __stcg(own + i, gathered_four(i));
  __threadfence();
  __syncthreads();
  if (thread == 0) *is_last = atomicAdd(p.counters + tile, 1) == last - first;
  __syncthreads();
  if (!*is_last) return;
  __threadfence();
  constexpr int at_once = 8;  // loads in flight
  for (int i = thread; i < fours; i += C::threads) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int block = first; block <= last; block += at_once) {
      float4 parts[at_once];
#pragma unroll
      for (int b = 0; b < at_once; ++b) {
        parts[b] = block + b <= last ? __ldcg(slot_of(block + b) + i) : make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int b = 0; b < at_once; ++b) {
        sum.x += parts[b].x;
        sum.y += parts[b].y;
        sum.z += parts[b].z;
        sum.w += parts[b].w;
      }
    }
    store_four(i, sum);
  }
  if (thread == 0) p.counters[tile] = 0;
}

template <typename C>
__global__ void __launch_bounds__(C::threads, 1)
    small_batch_kernel(const __grid_constant__ SmallBatchParams p) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ int is_last;
  const std::uint32_t stages = shared_address(shared);
  auto* gathered = reinterpret_cast<float*>(shared + C::stages * C::stage_bytes);
  const int begin = first_step(p, blockIdx.x);
  const int end = first_step(p, blockIdx.x + 1);
  Loader<C> loader(p, begin);
  Multiplier<C> multiplier(p);
  Sums<C> sums;
  sums.clear();

  int to_load = end - begin;
#pragma unroll
  for (int i = 0; i < C::stages - 1; ++i) {
    if (to_load-- > 0) loader.load(stages + i * C::stage_bytes);
    commit_copies();
  }
  int slot = 0;
  int free_slot = C::stages - 1;
  int tile = begin / p.tile_steps;
  int left_of_tile = p.tile_steps - begin % p.tile_steps;
  for (int left = end - begin; left > 0; --left) {
    wait_copies<C::stages - 2>();
    __syncthreads();
    if (to_load-- > 0) loader.load(stages + free_slot * C::stage_bytes);
    commit_copies();
    multiplier.multiply(shared + slot * C::stage_bytes, sums);
    free_slot = slot;
    slot = slot + 1 == C::stages ? 0 : slot + 1;
    if (--left_of_tile == 0 || left == 1) {
      gather_sums<C>(sums, gathered);
      finish_tile<C>(p, tile, gathered, &is_last);
      sums.clear();
      ++tile;
      left_of_tile = p.tile_steps;
    }
  }
}

template <typename C>
void launch(SmallBatchParams p, int processors, cudaStream_t stream) {
  p.tiles = (p.slabs + C::column_warps - 1) / C::column_warps;
  p.tile_steps = (p.inputs + C::step_rows - 1) / C::step_rows;
  const std::int64_t steps = static_cast<std::int64_t>(p.tiles) * p.tile_steps;
  p.blocks = static_cast<int>(std::min<std::int64_t>(processors, steps));
  check_cuda(cudaFuncSetAttribute(small_batch_kernel<C>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, C::shared_bytes),
             "marlin small batch: shared memory");
  small_batch_kernel<C><<<p.blocks, C::threads, C::shared_bytes, stream>>>(p);
  check_launch("marlin small batch");
}

template <typename T, int bits, int row_blocks, bool has_zeros>
void launch_for_groups(const SmallBatchParams& p, int processors, cudaStream_t stream) {
  using Coarse = Config<T, bits, row_blocks, has_zeros, false>;
  if constexpr (Coarse::warp_tiles > 2) {
    if ((1 << p.group_shift) < Coarse::warp_tiles * 16) {
      return launch<Config<T, bits, row_blocks, has_zeros, true>>(p, processors, stream);
    }
  }
  launch<Coarse>(p, processors, stream);
}

template <typename T, int bits, bool has_zeros>
void launch_for_rows(const SmallBatchParams& p, int processors, cudaStream_t stream) {
  if (p.rows <= 8) return launch_for_groups<T, bits, 1, has_zeros>(p, processors, stream);
  if (p.rows <= 16) return launch_for_groups<T, bits, 2, has_zeros>(p, processors, stream);
  launch_for_groups<T, bits, 4, has_zeros>(p, processors, stream);
}

template <typename T>
void launch_small_batch_of(const SmallBatchParams& p, int bits, int processors,
                           cudaStream_t stream) {
  if (bits == 4) {
    p.zeros != nullptr ? launch_for_rows<T, 4, true>(p, processors, stream)
                       : launch_for_rows<T, 4, false>(p, processors, stream);
  } else {
    p.zeros != nullptr ? launch_for_rows<T, 8, true>(p, processors, stream)
                       : launch_for_rows<T, 8, false>(p, processors, stream);
  }
}

}  // namespace
}  // namespace einkorn::marlin
