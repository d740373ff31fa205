// One warp of the attention kernel: its query rows, its running softmax, a tile at a time.
#pragma once

#include <cstdint>

#include "einkorn/compute/kivi/attend_operands.cuh"
#include "einkorn/compute/kivi/device_numbers.cuh"
#include "einkorn/compute/kivi/kivi_kernels.h"

namespace einkorn::kivi {

constexpr int attend_warps = 4;
constexpr int attend_threads = 32 * attend_warps;
constexpr int most_stages = 4;
constexpr int tail_pages = 4;  // as much work as the tail, about
constexpr float log2_e = 1.4426950408889634F;

struct AttendArguments {
  AttendProblem problem;
  BlockLayout layout;
  int splits = 1;
  int row_blocks = 1;  // of 8 or 16 query rows
  int stages = 2;
  int group_chunks = 0;      // log2(G / 32)
  float* partial = nullptr;  // [batch][kv head][row block][splits][rows][D + 2]
  std::uint32_t* counters = nullptr;
};

// C = D / 32, NT: blocks of eight query rows, BITS: of keys and values, or 0 for any.
template <typename T, int C, int NT, int BITS>
struct Warp {
  const AttendArguments& args;
  const AttendProblem& p = args.problem;
  const Geometry& g = p.cache.geometry;
  int sequence;
  int kv_head;
  int first_row;  // of the row block
  int length;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int r = lane / 4;
  int i = lane % 4;

  std::uint32_t q[NT][C][4];  // row 8 nt + r, channels 32 c + 8 i + ..., magnitude 1
  float factor[NT][2];        // of scores of query rows 8 nt + 2 i and the next, in units of log 2
  float key_factor[4];        // 2^(24 - shift) of row class q
  float value_factor[4];
  float most[NT][2];  // running maximum of scores before `factor`
  float sum[NT][2];   // of this lane's weights
  float out[NT][C][2][4];
  float out_minimum[NT][4];  // row r: group of channels

  __device__ __forceinline__ Warp(const AttendArguments& a, int sequence, int kv_head,
                                  int first_row, int length)
      : args(a), sequence(sequence), kv_head(kv_head), first_row(first_row), length(length) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      key_factor[k] = static_cast<float>(1 << (24 - code_shift(BITS ? BITS : g.key_bits, k)));
      value_factor[k] = static_cast<float>(1 << (24 - code_shift(BITS ? BITS : g.value_bits, k)));
    }
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      load_query(nt);
#pragma unroll
      for (int col = 0; col < 2; ++col) {
        most[nt][col] = -INFINITY;
        sum[nt][col] = 0;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        out_minimum[nt][k] = 0;
#pragma unroll
        for (int c = 0; c < C; ++c) out[nt][c][0][k] = out[nt][c][1][k] = 0;
      }
    }
  }

  __device__ int rows() const { return static_cast<int>(p.rows()); }
  // Groups of channels, of a chunk of channels, and of a tile of tokens: G is 32, 64 or 128.
  __device__ int groups() const { return C >> args.group_chunks; }
  __device__ int group_of(int chunk) const { return chunk >> args.group_chunks; }
  __device__ bool starts_group(int chunk) const {
    return (chunk & ((1 << args.group_chunks) - 1)) == 0;
  }

  __device__ __forceinline__ void load_query(int nt) {
    const int row = first_row + 8 * nt + r;
    float numbers[C][8];
    float magnitude = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      if (row < rows()) {
        const std::int64_t head = kv_head * p.heads_per_kv + row / p.query_tokens;
        const T* from = static_cast<const T*>(p.queries.data) + sequence * p.queries.batch_stride +
                        head * p.queries.head_stride +
                        row % p.query_tokens * p.queries.token_stride;
        load_numbers(from + chunk_size * c + 8 * i, numbers[c]);
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e) numbers[c][e] = 0;
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) magnitude = fmaxf(magnitude, fabsf(numbers[c][e]));
    }
    magnitude = fmaxf(magnitude, __shfl_xor_sync(~0U, magnitude, 1));
    magnitude = fmaxf(magnitude, __shfl_xor_sync(~0U, magnitude, 2));
    // 2^-e with magnitude in [2^e, 2^(e+1)); 1 for zero, subnormal and infinite rows.
    const int exponent = static_cast<int>(__float_as_uint(magnitude) >> 23) - 127;
    const bool usual = exponent > -126 && exponent < 127;
    const float power = usual ? __uint_as_float(static_cast<unsigned>(127 - exponent) << 23) : 1;
    const float sign = p.scale < 0 ? -1 : 1;
    const float own = sign * p.scale * log2_e / power;
#pragma unroll
    for (int c = 0; c < C; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        q[nt][c][j] =
            pack_halves(sign * numbers[c][2 * j] * power, sign * numbers[c][2 * j + 1] * power);
      }
    }
    factor[nt][0] = __shfl_sync(~0U, own, 8 * i);
    factor[nt][1] = __shfl_sync(~0U, own, 8 * i + 4);
  }

  // ---- scores ----

  // Of one tile's quantised keys, [mt][2 (q % 2) + col] for row class q = 2 mt + ...
  __device__ __forceinline__ void score_codes(const char* block, int tile,
                                              float (&scores)[NT][2][4]) const {
    const int bits = BITS ? BITS : g.key_bits;
    const auto* words = reinterpret_cast<const std::uint32_t*>(block + args.layout.key_codes) +
                        tile * C * bits * lanes + lane;
    const int numbers = (group_of(tile) * C * chunk_size + 8 * i) * 2;
    const char* scales = block + args.layout.key_scale + numbers;
    const char* minima = block + args.layout.key_minimum + numbers;
    float constant[NT][4];
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int k = 0; k < 4; ++k) constant[nt][k] = scores[nt][0][k] = scores[nt][1][k] = 0;
    }
#pragma unroll
    for (int c = 0; c < C; ++c) {
      std::uint32_t scale[4];
      std::uint32_t minimum[4];
      load_pairs<T>(scales + 2 * chunk_size * c, scale);
      load_pairs<T>(minima + 2 * chunk_size * c, minimum);
      for_operands<BITS>(words + c * bits * lanes, bits, [&](int s, const auto& a) {
        const std::uint32_t every_row[4] = {minimum[2 * s], minimum[2 * s], minimum[2 * s + 1],
                                            minimum[2 * s + 1]};
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
          const std::uint32_t q0 = q[nt][c][2 * s];
          const std::uint32_t q1 = q[nt][c][2 * s + 1];
          const std::uint32_t b0 = multiply(q0, scale[2 * s]);
          const std::uint32_t b1 = multiply(q1, scale[2 * s + 1]);
          mma(scores[nt][0], a[0], b0, b1);
          mma(scores[nt][1], a[1], b0, b1);
          mma(constant[nt], every_row, q0, q1);
        }
      });
    }
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int mt = 0; mt < 2; ++mt) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          scores[nt][mt][k] =
              fmaf(scores[nt][mt][k], key_factor[2 * mt + k / 2], constant[nt][k % 2]);
        }
      }
    }
  }

  // Of 32 keys from `first` on that are rows of the residual; keys behind the end count as 0.
  __device__ __forceinline__ void score_rows(const T* ring, int first,
                                             float (&scores)[NT][2][4]) const {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int k = 0; k < 4; ++k) scores[nt][0][k] = scores[nt][1][k] = 0;
    }
    const T* row[4];
    const int start = first % g.residual;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int slot = wrapped(start + token_of(k), g.residual);
      row[k] = first + token_of(k) < length ? ring + slot * C * chunk_size : nullptr;
    }
#pragma unroll
    for (int c = 0; c < C; ++c) {
      std::uint32_t keys[4][4] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (row[k]) load_pairs<T>(row[k] + chunk_size * c + 8 * i, keys[k]);
      }
#pragma unroll
      for (int s = 0; s < 2; ++s) {
#pragma unroll
        for (int mt = 0; mt < 2; ++mt) {
          const std::uint32_t a[4] = {keys[2 * mt][2 * s], keys[2 * mt + 1][2 * s],
                                      keys[2 * mt][2 * s + 1], keys[2 * mt + 1][2 * s + 1]};
#pragma unroll
          for (int nt = 0; nt < NT; ++nt) {
            mma(scores[nt][mt], a, q[nt][c][2 * s], q[nt][c][2 * s + 1]);
          }
        }
      }
    }
  }

  // slot modulo size, for slot < 2 size: rings have more rows than tiles.
  static __device__ __forceinline__ std::int64_t wrapped(int slot, int size) {
    return slot < size ? slot : slot - size;
  }

  // The token in its tile of row 8 k + r.
  __device__ __forceinline__ int token_of(int k) const { return 8 * (r / 2) + 2 * k + r % 2; }

  // Takes away what a query row may not see or what lies outside [from, to), and adds the mask.
  __device__ __forceinline__ void hide(int first, int from, int to,
                                       float (&scores)[NT][2][4]) const {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int col = 0; col < 2; ++col) {
        const int row = first_row + 8 * nt + 2 * i + col;
        const auto visible = static_cast<int>(visible_keys(p, length, row));
        const float back = factor[nt][col] > 0 ? log2_e / factor[nt][col] : 0;
        const float* mask = nullptr;
        if (p.mask && row < rows()) {
          mask = p.mask + sequence * p.mask_batch_stride +
                 (kv_head * p.heads_per_kv + row / p.query_tokens) * p.mask_head_stride +
                 row % p.query_tokens * p.mask_query_stride;
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int token = first + token_of(k);
          float& score = scores[nt][k / 2][2 * (k % 2) + col];
          if (token < from || token >= min(to, visible)) {
            score = -INFINITY;
          } else if (mask) {
            score += mask[token * p.mask_key_stride] * back;
          }
        }
      }
    }
  }

  // ---- weights ----

  // Scores to weights, as the narrow operand: tokens 8 i + 2 k and the next, query row 8 nt + r.
  __device__ __forceinline__ void weigh(const float (&scores)[NT][2][4],
                                        std::uint32_t (&weights)[NT][4]) {
    float tile_most[NT][2];
    bool grows = false;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int col = 0; col < 2; ++col) {
        tile_most[nt][col] = fmaxf(fmaxf(scores[nt][0][col], scores[nt][0][2 + col]),
                                   fmaxf(scores[nt][1][col], scores[nt][1][2 + col]));
        grows = grows || tile_most[nt][col] > most[nt][col];
      }
    }
    if (__any_sync(~0U, grows)) raise_maximum(tile_most);
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      float weight[2][4];
#pragma unroll
      for (int col = 0; col < 2; ++col) {
        const float subtract = most[nt][col] == -INFINITY ? 0 : most[nt][col] * factor[nt][col];
#pragma unroll
        for (int mt = 0; mt < 2; ++mt) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int k = 2 * half + col;
            weight[mt][k] = exp2_of(fmaf(scores[nt][mt][k], factor[nt][col], -subtract));
            sum[nt][col] += weight[mt][k];
          }
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        weights[nt][k] =
            transposed(pack_halves(weight[k / 2][2 * (k % 2)], weight[k / 2][2 * (k % 2) + 1]));
      }
    }
  }

  __device__ __forceinline__ void raise_maximum(float (&tile_most)[NT][2]) {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int col = 0; col < 2; ++col) {
        float now = fmaxf(tile_most[nt][col], most[nt][col]);
#pragma unroll
        for (int step = 4; step < 32; step *= 2) {
          now = fmaxf(now, __shfl_xor_sync(~0U, now, step));
        }
        const float before = most[nt][col];
        const float shrink = before == now ? 1 : exp2_of((before - now) * factor[nt][col]);
        most[nt][col] = now;
        sum[nt][col] *= shrink;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int k = 2 * half + col;
          out_minimum[nt][k] *= shrink;
#pragma unroll
          for (int c = 0; c < C; ++c) {
            out[nt][c][0][k] *= shrink;
            out[nt][c][1][k] *= shrink;
          }
        }
      }
    }
  }

  // ---- values ----

  // Of the pair of tokens 8 i + 2 k and the next, those below `valid`.
  __device__ __forceinline__ std::uint32_t keep_valid(std::uint32_t pair, int k, int valid) const {
    const int token = 8 * i + 2 * k;
    const std::uint32_t mask = token + 1 < valid ? ~0U : (token < valid ? 0x0000FFFFU : 0U);
    return pair & mask;
  }

  // Adds one tile's quantised values; only `valid` tokens of it are there.
  __device__ __forceinline__ void add_codes(const char* block, int tile, int valid,
                                            const std::uint32_t (&weights)[NT][4]) {
    const int bits = BITS ? BITS : g.value_bits;
    const auto* words = reinterpret_cast<const std::uint32_t*>(block + args.layout.value_codes) +
                        tile * C * bits * lanes + lane;
    const char* scales =
        block + args.layout.value_scale + (tile * groups() * tile_tokens + 8 * i) * 2;
    std::uint32_t scaled[NT][4];
#pragma unroll
    for (int c = 0; c < C; ++c) {
      if (starts_group(c)) {
        std::uint32_t scale[4];
        load_pairs<T>(scales + group_of(c) * tile_tokens * 2, scale);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (valid < tile_tokens) scale[k] = keep_valid(scale[k], k, valid);
#pragma unroll
          for (int nt = 0; nt < NT; ++nt) scaled[nt][k] = multiply(weights[nt][k], scale[k]);
        }
      }
      for_operands<BITS>(words + c * bits * lanes, bits, [&](int s, const auto& a) {
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
          mma(out[nt][c][0], a[0], scaled[nt][2 * s], scaled[nt][2 * s + 1]);
          mma(out[nt][c][1], a[1], scaled[nt][2 * s], scaled[nt][2 * s + 1]);
        }
      });
    }
    add_minima(block, tile, valid, weights);
  }

  __device__ __forceinline__ void add_minima(const char* block, int tile, int valid,
                                             const std::uint32_t (&weights)[NT][4]) {
    std::uint32_t minimum[4] = {};
    if (r < groups()) {
      const int index = (tile * groups() + r) * tile_tokens + 8 * i;
      load_pairs<T>(block + args.layout.value_minimum + 2 * index, minimum);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (valid < tile_tokens) minimum[k] = keep_valid(minimum[k], k, valid);
      }
    }
    const std::uint32_t first[4] = {minimum[0], 0, minimum[1], 0};
    const std::uint32_t second[4] = {minimum[2], 0, minimum[3], 0};
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      mma(out_minimum[nt], first, weights[nt][0], weights[nt][1]);
      mma(out_minimum[nt], second, weights[nt][2], weights[nt][3]);
    }
  }

  // Adds 32 values from `first` on that are rows of the residual, those in [from, length).
  __device__ __forceinline__ void add_rows(const T* ring, int first, int from,
                                           const std::uint32_t (&weights)[NT][4]) {
    const T* row[8];
    const int start = first % (g.residual + 1);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int token = first + 8 * i + e;
      const int slot = wrapped(start + 8 * i + e, g.residual + 1);
      row[e] = token >= from && token < length ? ring + slot * C * chunk_size : nullptr;
    }
#pragma unroll
    for (int c = 0; c < C; ++c) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        std::uint32_t a[2][4];
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          uint2 even = {};
          uint2 odd = {};
          const int e = 4 * s + 2 * pair;
          if (row[e]) even = *reinterpret_cast<const uint2*>(row[e] + chunk_size * c + 4 * r);
          if (row[e + 1]) {
            odd = *reinterpret_cast<const uint2*>(row[e + 1] + chunk_size * c + 4 * r);
          }
          a[0][2 * pair] = to_half2(__byte_perm(even.x, odd.x, 0x5410), T());
          a[0][2 * pair + 1] = to_half2(__byte_perm(even.x, odd.x, 0x7632), T());
          a[1][2 * pair] = to_half2(__byte_perm(even.y, odd.y, 0x5410), T());
          a[1][2 * pair + 1] = to_half2(__byte_perm(even.y, odd.y, 0x7632), T());
        }
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
          mma(out[nt][c][0], a[0], weights[nt][2 * s], weights[nt][2 * s + 1]);
          mma(out[nt][c][1], a[1], weights[nt][2 * s], weights[nt][2 * s + 1]);
        }
      }
    }
  }

  // ---- tiles ----

  // Tokens [first, last) of a tile whose keys and values are quantised.
  __device__ __forceinline__ void add_tile(const char* block, int tile, int first, int last) {
    float scores[NT][2][4];
    std::uint32_t weights[NT][4];
    score_codes(block, tile, scores);
    const int hidden_from = p.causal ? length - static_cast<int>(p.query_tokens) + 1 : length;
    if (p.mask || last - first < tile_tokens || last > hidden_from) {
      hide(first, first, last, scores);
    }
    weigh(scores, weights);
    add_codes(block, tile, last - first, weights);
  }

  // A tile some of whose values are rows of the residual: tokens [max(first, from), length).
  __device__ __forceinline__ void add_tail_tile(const T* ring, int first, int from,
                                                int keys_quantized) {
    float scores[NT][2][4];
    std::uint32_t weights[NT][4];
    if (first < keys_quantized) {
      const auto* blocks = reinterpret_cast<const char*>(
          p.cache.table[sequence * p.cache.table_stride + 1 + first / page_tokens]);
      score_codes(blocks + kv_head * args.layout.bytes, first % page_tokens / tile_tokens, scores);
    } else {
      score_rows(ring, first, scores);
    }
    hide(first, from, length, scores);
    weigh(scores, weights);
    add_rows(ring + std::int64_t{g.residual} * C * chunk_size, first, from, weights);
  }

  // From sums of numbers to sums of codes as operands.
  __device__ __forceinline__ void count_in_codes() {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          // value_factor is a power of two
          const float inverse = 1 / value_factor[k];
          out[nt][c][k / 2][2 * (k % 2)] *= inverse;
          out[nt][c][k / 2][2 * (k % 2) + 1] *= inverse;
        }
      }
    }
  }

  // The warp's part to memory: for each row m (in units of log 2), l and D sums.
  __device__ __forceinline__ void write(float* to) {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int col = 0; col < 2; ++col) {
        float total = sum[nt][col];
#pragma unroll
        for (int step = 4; step < 32; step *= 2) total += __shfl_xor_sync(~0U, total, step);
        const int row = 8 * nt + 2 * i + col;
        const bool counts = first_row + row < rows();
        float* own = to + row * (C * chunk_size + 2);
        if (counts && r == 0) {
          own[0] = most[nt][col] == -INFINITY ? -INFINITY : most[nt][col] * factor[nt][col];
          own[1] = total;
        }
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const float minimum = __shfl_sync(~0U, out_minimum[nt][col], 4 * group_of(c) + i);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const float value = out[nt][c][k / 2][2 * (k % 2) + col];
            if (counts) own[2 + chunk_size * c + 4 * r + k] = fmaf(value, value_factor[k], minimum);
          }
        }
      }
    }
  }
};

}  // namespace einkorn::kivi
