// What the fused kernels share: matrix instructions over fragments in registers, and the exchange
// of what feeds back. In the exchange a row of 16-bit numbers lies as it is, [slot, row, D padded
// to 32]; a word that no block has written yet holds two of a NaN that no conversion produces, so
// that a value is its own flag and a reader needs no other.
#pragma once

#include "einkorn/compute/flashrnn/cells_device.cuh"

namespace einkorn::flashrnn {

inline constexpr std::uint32_t unwritten = 0xffffffffu;
inline constexpr int pair_terms = 32;  // two matrix instructions of 16 terms
inline constexpr int most_warps = 8;
inline constexpr int block_threads = 32 * most_warps;

__host__ __device__ inline int padded_dim(int dim) {
  return (dim + pair_terms - 1) / pair_terms * pair_terms;
}

// Units of the hidden state that one block advances: eight make the rows of four gates two tiles.
template <Cell cell>
__host__ __device__ constexpr int units_of() {
  return shape_of(cell).recurrent_gates == 1 ? 16 : 8;
}

struct Fragment {
  std::uint32_t word[4];
};

// Sums of a tile of 16 x 8: a is 16 x 16, b 16 x 8.
template <typename T>
__device__ inline void multiply_add(float* sum, const std::uint32_t* a, std::uint32_t b0,
                                    std::uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

__device__ inline Fragment load_exchanged(const std::uint32_t* from) {
  Fragment f;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.word[0]), "=r"(f.word[1]), "=r"(f.word[2]), "=r"(f.word[3])
               : "l"(from)
               : "memory");
  return f;
}
__device__ inline void store_exchanged(std::uint32_t* to, std::uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" : : "l"(to), "r"(word) : "memory");
}
__device__ inline bool is_written(const Fragment& f) {
  return f.word[0] != unwritten && f.word[1] != unwritten && f.word[2] != unwritten &&
         f.word[3] != unwritten;
}

// Eight neighbouring elements of a matrix row, zeros from `count` on.
template <typename T>
__device__ inline Fragment load_row_part(const T* row, int first, int count) {
  Fragment f = {};
  const T* from = row + first;
  if (first + 8 <= count && (reinterpret_cast<std::uintptr_t>(from) & 15) == 0) {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    return {{words.x, words.y, words.z, words.w}};
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (first + i >= count) break;
    const std::uint32_t bits = *reinterpret_cast<const std::uint16_t*>(from + i);
    f.word[i / 2] |= bits << (16 * (i % 2));
  }
  return f;
}

// The rows of a block's matrix that a warp keeps, ready for the matrix unit. A lane's eight terms
// of a pair are neighbours in memory: which term meets which is free as long as both operands
// agree.
template <int row_tiles, int pairs>
struct MatrixPart {
  std::uint32_t a[row_tiles][pairs][2][4];

  // row(i): the start of the i-th row, or null for a row of zeros; terms [first_term, terms).
  template <typename T, typename Row>
  __device__ void load(const Row& row, int first_term, int terms) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const T* from = row(m * 16 + half * 8 + lane / 4);
#pragma unroll
        for (int p = 0; p < pairs; ++p) {
          Fragment f = {};
          if (from) {
            f = load_row_part(from, first_term + p * pair_terms + lane % 4 * 8, terms);
          }
          a[m][p][0][half] = f.word[0];
          a[m][p][0][2 + half] = f.word[1];
          a[m][p][1][half] = f.word[2];
          a[m][p][1][2 + half] = f.word[3];
        }
      }
    }
  }
};

// Waits for a warp's part of the exchanged rows: tile n holds rows n * 8 + lane / 4; rows that do
// not exist are zero. from: this lane's eight terms of its first row; strides in words.
template <int pairs, int tiles>
__device__ inline void wait_for_rows(const std::uint32_t* from, int row_words, int rows_left,
                                     int pairs_left, Fragment (&b)[pairs][tiles]) {
  unsigned missing = 0;
#pragma unroll
  for (int p = 0; p < pairs; ++p) {
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      b[p][n] = {};
      if (n * 8 < rows_left && p < pairs_left) missing |= 1u << (p * tiles + n);
    }
  }
  // A block that never comes is a fault of the launch: better a trap than a hang.
  for (long long attempt = 0; __any_sync(0xffffffffu, missing != 0); ++attempt) {
#pragma unroll
    for (int p = 0; p < pairs; ++p) {
#pragma unroll
      for (int n = 0; n < tiles; ++n) {
        if (missing >> (p * tiles + n) & 1) {
          b[p][n] = load_exchanged(from + n * 8 * row_words + p * (pair_terms / 2));
        }
      }
    }
#pragma unroll
    for (int p = 0; p < pairs; ++p) {
#pragma unroll
      for (int n = 0; n < tiles; ++n) {
        if (is_written(b[p][n])) missing &= ~(1u << (p * tiles + n));
      }
    }
    if (attempt > (1ll << 28)) __trap();
  }
}

// Distance between rows of a block's partial sums in shared memory: free of bank conflicts for the
// fragments' stores.
template <int tiles>
__host__ __device__ constexpr int sum_stride() {
  return 8 * tiles + 8;
}

template <int row_tiles, int pairs, int tiles, typename T>
__device__ inline void multiply_rows(const MatrixPart<row_tiles, pairs>& matrix,
                                     const Fragment (&b)[pairs][tiles], float* sums) {
  float sum[row_tiles][tiles][4] = {};
#pragma unroll
  for (int p = 0; p < pairs; ++p) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
#pragma unroll
      for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
        for (int n = 0; n < tiles; ++n) {
          multiply_add<T>(sum[m][n], matrix.a[m][p][s], b[p][n].word[2 * s],
                          b[p][n].word[2 * s + 1]);
        }
      }
    }
  }
  const int lane = threadIdx.x % 32;
  constexpr int stride = sum_stride<tiles>();
#pragma unroll
  for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      float* to = sums + (m * 16 + lane / 4) * stride + n * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(to) = make_float2(sum[m][n][0], sum[m][n][1]);
      *reinterpret_cast<float2*>(to + 8 * stride) = make_float2(sum[m][n][2], sum[m][n][3]);
    }
  }
}

// Two neighbouring units' values as a word; lanes of even units have it right.
template <typename T>
__device__ inline std::uint32_t packed_with_next(float value) {
  const T mine = narrowed<T>(value);
  const std::uint32_t bits = *reinterpret_cast<const std::uint16_t*>(&mine);
  return bits | __shfl_down_sync(0xffffffffu, bits, 1) << 16;
}

// What one step back reads from memory for one unit of one row.
template <Cell cell>
struct StepInput {
  static constexpr CellShape shape = shape_of(cell);
  float arriving[shape.states];
  float states[shape.states];
  float previous[shape.states];
  float gates[shape.saved_gates];
};

template <Cell cell, typename T>
__device__ inline StepInput<cell> step_input(const DeviceBackward& pass, const RowClock& clock,
                                             int row, int head, int unit, int step) {
  constexpr CellShape shape = shape_of(cell);
  const DeviceSequence& q = pass.sequence;
  StepInput<cell> in;
  const int time = clock.position(step);
#pragma unroll
  for (int s = 0; s < shape.states; ++s) {
    const std::int64_t at = state_offset(q, s, row, time, head, unit);
    in.arriving[s] =
        pass.gradient_states ? load_state<T>(pass.gradient_states, q.wide_states, at) : 0.0f;
    in.states[s] = load_state<T>(pass.states, q.wide_states, at);
    in.previous[s] =
        step == 0 ? static_cast<const float*>(pass.initial)[boundary_offset(q, s, row, head, unit)]
                  : load_state<T>(pass.states, q.wide_states,
                                  state_offset(q, s, row, clock.position(step - 1), head, unit));
    if (pass.gradient_last && step == clock.length - 1) {
      in.arriving[s] +=
          static_cast<const float*>(pass.gradient_last)[boundary_offset(q, s, row, head, unit)];
    }
  }
#pragma unroll
  for (int g = 0; g < shape.saved_gates; ++g) {
    in.gates[g] = widened(static_cast<const T*>(
        pass.gates)[gate_offset(q, shape.saved_gates, row, time, g, head, unit)]);
  }
  return in;
}

}  // namespace einkorn::flashrnn
