// Flash decoding over the quantised cache with tensor cores.
//
// Scores are products S^T = K q^T and outputs O^T = V^T p^T with the codes as the 16 x 16 operand:
// query rows, eight at a time, are the narrow side. A code becomes an operand by one AND: two bits
// in the mantissa of an f16 zero are the subnormal number code 2^(shift - 24), exact, and all
// numbers of an accumulator have the same shift, so one factor at the end sets it right. Scales are
// folded into q (keys: per channel and group) and p (values: per token and group), minima come in
// through products of their own. q is brought to magnitude 1 by a power of two first, p is at most
// 1, so operands stay within f16 as long as scales do.
//
// A block of four warps takes some pages of one sequence and kv head. Pages come by bulk copies,
// several in flight; a warp takes one tile of 32 tokens of each and keeps a softmax of its own. The
// first block of each (sequence, kv head) also takes the tokens whose values are not quantised; the
// last block that finishes merges all.
#pragma once

#include <cstdint>

#include "einkorn/compute/kivi/attend_warp.cuh"

namespace einkorn::kivi {

// ---- merging ----

// Row by row: parts[0 .. count), `step` floats apart, to one part or, normalised, to an output.
template <typename Store>
__device__ __forceinline__ void merge_parts(const float* parts, int count, std::int64_t step,
                                            int head_dim, int row_count, const Store& store) {
  for (int item = static_cast<int>(threadIdx.x); item < row_count * head_dim;
       item += attend_threads) {
    const int row = item / head_dim;
    const int d = item % head_dim;
    const float* own = parts + row * (head_dim + 2);
    float most = -INFINITY;
    for (int part = 0; part < count; ++part) most = fmaxf(most, own[part * step]);
    float sum = 0;
    float value = 0;
    for (int part = 0; part < count; ++part) {
      const float* one = own + part * step;
      // A part that saw nothing has sum 0; NaN passes on.
      const float times = one[1] == 0 ? 0 : exp2f(one[0] - most);
      sum = fmaf(one[1], times, sum);
      value = fmaf(one[2 + d], times, value);
    }
    store(row, d, most, sum, value);
  }
}

// Blocks that a multiprocessor's registers should hold: the more, the better bytes and arithmetic
// overlap, down to where registers would spill.
constexpr int blocks_at_once(int chunks, int row_tiles, int bits) {
  if (chunks * row_tiles > 4) return 2;
  return bits == 0 || row_tiles == 2 ? 3 : 4;
}

template <typename T, int C, int NT, int BITS>
__global__ void __launch_bounds__(attend_threads, blocks_at_once(C, NT, BITS))
    attend_kernel(const __grid_constant__ AttendArguments args) {
  extern __shared__ __align__(128) char memory[];
  __shared__ std::uint64_t full[most_stages];
  __shared__ std::uint64_t empty[most_stages];
  __shared__ bool is_last;
  constexpr int head_dim = C * chunk_size;
  constexpr int block_rows = 8 * NT;
  const AttendProblem& p = args.problem;
  const int sequence = static_cast<int>(blockIdx.z);
  const int kv_head = static_cast<int>(blockIdx.y) / args.row_blocks;
  const int row_block = static_cast<int>(blockIdx.y) % args.row_blocks;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const SequenceState state = p.cache.states[sequence];
  const std::uint64_t* table = p.cache.table + sequence * p.cache.table_stride;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < args.stages; ++stage) {
      barrier_init(full + stage, 1);
      barrier_init(empty + stage, attend_warps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  // This block's pages: an equal share of those with quantised values, where the tail, which the
  // first block takes, counts as some pages.
  const int split = static_cast<int>(blockIdx.x);
  const int pages = (state.values_quantized + page_tokens - 1) / page_tokens;
  const auto share = [&](int part) {
    const std::int64_t all = pages + tail_pages;
    return max(static_cast<int>(all * part / args.splits) - tail_pages, 0);
  };
  const int first_page = split == 0 ? 0 : share(split);
  const int count = share(split + 1) - first_page;
  const auto bytes = static_cast<unsigned>(args.layout.bytes);
  const auto fetch = [&](int stage, std::uint64_t blocks) {
    barrier_expect(full + stage, bytes);
    bulk_copy(memory + stage * args.layout.bytes,
              reinterpret_cast<const char*>(blocks) + kv_head * args.layout.bytes, bytes,
              full + stage);
  };
  std::uint64_t next_blocks = 0;  // looked up one page ahead of its copy
  if (threadIdx.x == 0) {
    for (int page = 0; page < min(count, args.stages - 1); ++page) {
      fetch(page, table[1 + first_page + page]);
    }
    if (count >= args.stages) next_blocks = table[first_page + args.stages];
  }

  Warp<T, C, NT, BITS> own(args, sequence, kv_head, row_block * block_rows, state.length);
  if (split == 0) {
    const Geometry& g = p.cache.geometry;
    const T* ring = reinterpret_cast<const T*>(table[0]) + kv_head * ring_rows(g) * head_dim;
    for (int first = (state.values_quantized / tile_tokens + warp) * tile_tokens;
         first < state.length; first += attend_warps * tile_tokens) {
      own.add_tail_tile(ring, first, state.values_quantized, state.keys_quantized);
    }
    own.count_in_codes();
  }
  int stage = 0;
  unsigned phase = 0;
  for (int page = 0; page < count; ++page) {
    const int ahead = page + args.stages - 1;
    if (threadIdx.x == 0 && ahead < count) {
      const std::uint64_t blocks = next_blocks;
      if (ahead + 1 < count) next_blocks = table[2 + first_page + ahead];
      // Its stage, the one before this page's, held page - 1: wait until all warps are done there.
      const int before = stage == 0 ? args.stages - 1 : stage - 1;
      if (page > 0) barrier_wait(empty + before, stage == 0 ? phase ^ 1 : phase);
      fetch(before, blocks);
    }
    __syncwarp();
    barrier_wait(full + stage, phase);
    const int first = (first_page + page) * page_tokens + warp * tile_tokens;
    const int last = min(first + tile_tokens, state.values_quantized);
    if (first < last) own.add_tile(memory + stage * args.layout.bytes, warp, first, last);
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(empty + stage);
    if (++stage == args.stages) {
      stage = 0;
      phase ^= 1;
    }
  }

  // The warps' parts to one, where the pages were.
  const int row_count = min(block_rows, static_cast<int>(p.rows()) - row_block * block_rows);
  constexpr int part_size = block_rows * (head_dim + 2);
  auto* parts = reinterpret_cast<float*>(memory);
  __syncthreads();
  own.write(parts + warp * part_size);
  __syncthreads();
  const auto store_output = [&](int row, int d, float /*most*/, float sum, float value) {
    const int all = row_block * block_rows + row;
    const std::int64_t head = kv_head * p.heads_per_kv + all / p.query_tokens;
    const std::int64_t heads = std::int64_t{p.cache.geometry.kv_heads} * p.heads_per_kv;
    const std::int64_t index =
        ((sequence * heads + head) * p.query_tokens + all % p.query_tokens) * head_dim + d;
    from_float(sum == 0 ? 0 : value / sum, static_cast<T*>(p.out) + index);
  };
  if (args.splits == 1) {
    merge_parts(parts, attend_warps, part_size, head_dim, row_count, store_output);
    return;
  }
  const std::int64_t place = std::int64_t{blockIdx.z} * gridDim.y + blockIdx.y;
  float* own_part = args.partial + (place * gridDim.x + blockIdx.x) * part_size;
  merge_parts(parts, attend_warps, part_size, head_dim, row_count,
              [&](int row, int d, float most, float sum, float value) {
                float* to = own_part + row * (head_dim + 2);
                to[2 + d] = value;
                if (d != 0) return;
                to[0] = most;
                to[1] = sum;
              });
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    // Wraps to 0: ready for the next call.
    is_last = atomicInc(args.counters + place, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  merge_parts(args.partial + place * gridDim.x * part_size, static_cast<int>(gridDim.x), part_size,
              head_dim, row_count, store_output);
}

}  // namespace einkorn::kivi
