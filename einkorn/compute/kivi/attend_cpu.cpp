// Attention over the quantised cache on CPUs, page by page: a page's codes are unpacked in
// registers for up to four query rows at once, its scales are folded into the query (keys) and into
// the weights (values), its minima come as one dot product a group.
#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/compute/kivi/attend_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>  // after foreach_target.h

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "einkorn/compute/kivi/cache_access_internal.h"
#include "einkorn/compute/kivi/codes_simd.h"

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace einkorn::kivi {
namespace HWY_NAMESPACE {

// Floats of one call, cut from one allocation.
class Scratch {
 public:
  Scratch(std::int64_t rows, const Geometry& g)
      : row_size_(g.head_dim * tiles_per_page),
        memory_(static_cast<std::size_t>(rows * (row_size_ + page_tokens + g.head_dim + 16) +
                                         2 * row_size_ + chunk_size + alignment)) {
    void* first = memory_.data();
    std::size_t space = memory_.size() * sizeof(float);
    auto* next =
        static_cast<float*>(std::align(alignment * sizeof(float), sizeof(float), first, space));
    const auto take = [&](std::int64_t count) { return std::exchange(next, next + count); };
    coefficients = take(rows * row_size_);
    scores = take(rows * page_tokens);
    queries = take(rows * g.head_dim);
    constants = take(rows * 8);
    minima = take(rows * 8);
    scale = take(row_size_);
    minimum = take(row_size_);
    natural = take(chunk_size);
  }

  std::int64_t coefficient_step() const { return row_size_; }

  float* coefficients = nullptr;  // [rows], then keys [group][D] or values [tile][group][token]
  float* scores = nullptr;        // [rows][128], then weights
  float* queries = nullptr;       // [rows][D], scaled
  float* constants = nullptr;     // [rows][key groups]: query . minima
  float* minima = nullptr;        // [rows][value groups]: weights . minima, of the whole call
  float* scale = nullptr;         // of the page's keys or values
  float* minimum = nullptr;
  float* natural = nullptr;  // 32 coefficients before they are spread

 private:
  static constexpr std::size_t alignment = 16;  // floats: a cache line

  std::int64_t row_size_;
  std::vector<float> memory_;
};

HWY_INLINE float dot(const float* a, const float* b, std::int64_t count) {
  const Floats d;
  FloatVector sum = hn::Zero(d);
  for (std::int64_t i = 0; i < count; i += vector_lanes) {
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// natural = a b, 32 products.
HWY_INLINE void multiply_chunk(const float* a, const float* b, float* natural) {
  const Floats d;
  for (int i = 0; i < chunk_size; i += vector_lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, natural + i);
  }
}

// One call: pages of one sequence and kv head.
template <Element element>
class Attention {
 public:
  Attention(const AttendProblem& problem, std::int64_t sequence, std::int64_t kv_head,
            float* partial)
      : problem_(problem),
        g_(problem.cache.geometry),
        layout_(block_layout(g_)),
        state_(problem.cache.states[sequence]),
        sequence_(sequence),
        kv_head_(kv_head),
        rows_(problem.rows()),
        partial_(partial),
        scratch_(rows_, g_) {
    for (std::int64_t row = 0; row < rows_; ++row) {
      const auto* query = reinterpret_cast<const float*>(
          row_of(problem.queries, Element::f32, sequence, head(row), row % problem.query_tokens));
      for (int d = 0; d < g_.head_dim; ++d) {
        scratch_.queries[row * g_.head_dim + d] = query[d] * problem.scale;
      }
      greatest(row) = -std::numeric_limits<float>::infinity();
      sum(row) = 0;
      std::fill_n(weighted(row), g_.head_dim, 0.0F);
    }
    std::fill_n(scratch_.minima, rows_ * 8, 0.0F);
  }

  void add_page(std::int64_t page) {
    const std::int64_t first = page * page_tokens;
    const int tokens = clamp_to_page(state_.length - first);
    const int coded_keys = clamp_to_page(state_.keys_quantized - first);
    const int coded_values = clamp_to_page(state_.values_quantized - first);
    const std::byte* block =
        coded_keys > 0 ? block_of(problem_.cache, sequence_, kv_head_, page) : nullptr;
    if (coded_keys > 0) score_codes(block, coded_keys);
    if (coded_keys < tokens) score_residual(first, coded_keys, tokens);
    for (std::int64_t row = 0; row < rows_; ++row) weigh(row, first, tokens);
    if (coded_values > 0) add_codes(block, coded_values);
    if (coded_values < tokens) add_residual(first, coded_values, tokens);
  }

  void finish() {
    const int groups = g_.head_dim / g_.group;
    for (std::int64_t row = 0; row < rows_; ++row) {
      for (int group = 0; group < groups; ++group) {
        const float minimum = scratch_.minima[row * 8 + group];
        float* to = weighted(row) + group * g_.group;
        for (int d = 0; d < g_.group; ++d) to[d] += minimum;
      }
    }
  }

 private:
  std::int64_t head(std::int64_t row) const {
    return kv_head_ * problem_.heads_per_kv + row / problem_.query_tokens;
  }
  float& greatest(std::int64_t row) { return partial_[row * (g_.head_dim + 2)]; }
  float& sum(std::int64_t row) { return partial_[row * (g_.head_dim + 2) + 1]; }
  float* weighted(std::int64_t row) { return partial_ + row * (g_.head_dim + 2) + 2; }
  static int clamp_to_page(std::int64_t tokens) {
    return static_cast<int>(std::clamp<std::int64_t>(tokens, 0, page_tokens));
  }

  // Calls body(integral_constant<rows>, first) for blocks of four, two and one query rows.
  template <class Body>
  HWY_INLINE void for_row_blocks(const Body& body) {
    std::int64_t row = 0;
    for (; row + 4 <= rows_; row += 4) body(std::integral_constant<int, 4>(), row);
    if (row + 2 <= rows_) {
      body(std::integral_constant<int, 2>(), row);
      row += 2;
    }
    if (row < rows_) body(std::integral_constant<int, 1>(), row);
  }

  template <class Body>
  static HWY_INLINE void with_bits(int bits, const Body& body) {
    switch (bits) {
      case 1:
        return body(std::integral_constant<int, 1>());
      case 2:
        return body(std::integral_constant<int, 2>());
      case 3:
        return body(std::integral_constant<int, 3>());
      case 4:
        return body(std::integral_constant<int, 4>());
      default:
        return body(std::integral_constant<int, 8>());
    }
  }

  // ---- keys ----

  void score_codes(const std::byte* block, int coded) {
    const int groups = (coded + g_.group - 1) / g_.group;
    const std::int64_t numbers = std::int64_t{groups} * g_.head_dim;
    to_floats<element>(block + layout_.key_scale, 0, numbers, scratch_.scale);
    to_floats<element>(block + layout_.key_minimum, 0, numbers, scratch_.minimum);
    for (std::int64_t row = 0; row < rows_; ++row) {
      const float* query = scratch_.queries + row * g_.head_dim;
      float* to = scratch_.coefficients + row * scratch_.coefficient_step();
      for (int group = 0; group < groups; ++group) {
        const std::int64_t at = std::int64_t{group} * g_.head_dim;
        scratch_.constants[row * 8 + group] = dot(query, scratch_.minimum + at, g_.head_dim);
        for (int d = 0; d < g_.head_dim; d += chunk_size) {
          multiply_chunk(query + d, scratch_.scale + at + d, scratch_.natural);
          spread_columns(scratch_.natural, to + at + d);
        }
      }
    }
    const auto* words = reinterpret_cast<const std::uint32_t*>(block + layout_.key_codes);
    for_row_blocks([&](auto rows, std::int64_t row) {
      with_bits(g_.key_bits, [&](auto bits) {
        for (int tile = 0; tile * tile_tokens < coded; ++tile) {
          score_tile<bits(), rows()>(words + chunk_offset(g_, bits(), tile, 0), row, tile);
        }
      });
    });
  }

  template <int bits, int rows>
  HWY_NOINLINE void score_tile(const std::uint32_t* words, std::int64_t first_row, int tile) {
    const Floats d;
    constexpr int table_bits = bits == 3 ? 2 : bits;
    const FloatVector table = value_table<table_bits>();
    const int group = tile * tile_tokens / g_.group;
    const float* coefficients = scratch_.coefficients + first_row * scratch_.coefficient_step() +
                                std::int64_t{group} * g_.head_dim;
    for (int lane = 0; lane < lanes; lane += vector_lanes) {
      FloatVector sums[rows][4];
      unroll<rows>([&](auto m) HWY_ATTR {
        unroll<4>([&](auto q) HWY_ATTR { sums[m()][q()] = hn::Zero(d); });
      });
      for (int channel = 0; channel < g_.head_dim; channel += chunk_size) {
        add_chunk<bits, rows>(words + std::ptrdiff_t{channel / chunk_size} * bits * lanes + lane,
                              coefficients + channel, scratch_.coefficient_step(), table, sums);
      }
      unroll<rows>([&](auto m) HWY_ATTR {
        const std::int64_t row = first_row + m();
        const FloatVector scores = tokens_in_order(sum_columns(sums[m()]));
        const FloatVector constant = hn::Set(d, scratch_.constants[row * 8 + group]);
        hn::StoreU(hn::Add(scores, constant), d,
                   scratch_.scores + row * page_tokens + tile * tile_tokens + lane);
      });
    }
  }

  void score_residual(std::int64_t first, int from, int to) {
    const Floats d;
    std::byte* ring = ring_of(problem_.cache, sequence_, kv_head_);
    for (int t = from; t < to; ++t) {
      const std::byte* key = key_row_of(problem_.cache, ring, first + t);
      for (std::int64_t row = 0; row < rows_; ++row) {
        const float* query = scratch_.queries + row * g_.head_dim;
        FloatVector even = hn::Zero(d);
        FloatVector odd = hn::Zero(d);
        for (int c = 0; c < g_.head_dim; c += 2 * vector_lanes) {
          even = hn::MulAdd(load_numbers<element>(key, c), hn::LoadU(d, query + c), even);
          odd = hn::MulAdd(load_numbers<element>(key, c + vector_lanes),
                           hn::LoadU(d, query + c + vector_lanes), odd);
        }
        scratch_.scores[row * page_tokens + t] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
      }
    }
  }

  // ---- softmax ----

  // Scores to weights exp(score - m) in place, with the running m, l and sums brought to the new m.
  void weigh(std::int64_t row, std::int64_t first, int tokens) {
    const Floats d;
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    float* scores = scratch_.scores + row * page_tokens;
    const int visible = static_cast<int>(
        std::clamp<std::int64_t>(visible_keys(problem_, state_.length, row) - first, 0, tokens));
    std::fill(scores + visible, scores + page_tokens, lowest);
    if (problem_.mask) add_mask(row, first, visible, scores);
    FloatVector most = hn::Set(d, lowest);
    for (int t = 0; t < page_tokens; t += vector_lanes) {
      most = hn::Max(hn::LoadU(d, scores + t), most);
    }
    const float before = greatest(row);
    const float now = std::max(before, hn::GetLane(hn::MaxOfLanes(d, most)));
    // Nothing visible yet, unless a score is NaN: then the weights below are.
    const float subtract = now == lowest ? 0 : now;
    FloatVector total = hn::Zero(d);
    for (int t = 0; t < page_tokens; t += vector_lanes) {
      const FloatVector score = hn::LoadU(d, scores + t);
      const FloatVector exponential = hn::Exp(d, hn::Sub(score, hn::Set(d, subtract)));
      // Highway's exponential takes NaN for a number.
      const FloatVector weight = hn::IfThenElse(hn::Eq(score, score), exponential, score);
      total = hn::Add(total, weight);
      hn::StoreU(weight, d, scores + t);
    }
    if (now != before && before != lowest) rescale(row, std::exp(before - now));
    greatest(row) = now;
    sum(row) += hn::GetLane(hn::SumOfLanes(d, total));
  }

  void add_mask(std::int64_t row, std::int64_t first, int visible, float* scores) const {
    const float* mask = problem_.mask + sequence_ * problem_.mask_batch_stride +
                        head(row) * problem_.mask_head_stride +
                        row % problem_.query_tokens * problem_.mask_query_stride +
                        first * problem_.mask_key_stride;
    for (int t = 0; t < visible; ++t) scores[t] += mask[t * problem_.mask_key_stride];
  }

  void rescale(std::int64_t row, float factor) {
    sum(row) *= factor;
    float* to = weighted(row);
    for (int d = 0; d < g_.head_dim; ++d) to[d] *= factor;
    float* minima = scratch_.minima + row * 8;
    for (int group = 0; group < 8; ++group) minima[group] *= factor;
  }

  // ---- values ----

  void add_codes(const std::byte* block, int coded) {
    const int groups = g_.head_dim / g_.group;
    const int tiles = (coded + tile_tokens - 1) / tile_tokens;
    const std::int64_t numbers = std::int64_t{tiles} * groups * tile_tokens;
    to_floats<element>(block + layout_.value_scale, 0, numbers, scratch_.scale);
    to_floats<element>(block + layout_.value_minimum, 0, numbers, scratch_.minimum);
    clear_unwritten(groups, tiles, coded);
    for (std::int64_t row = 0; row < rows_; ++row) {
      const float* weights = scratch_.scores + row * page_tokens;
      float* to = scratch_.coefficients + row * scratch_.coefficient_step();
      for (int tile = 0; tile < tiles; ++tile) {
        for (int group = 0; group < groups; ++group) {
          const std::int64_t at = (std::int64_t{tile} * groups + group) * tile_tokens;
          const float* tile_weights = weights + tile * tile_tokens;
          multiply_chunk(tile_weights, scratch_.scale + at, scratch_.natural);
          spread_columns(scratch_.natural, to + at);
          scratch_.minima[row * 8 + group] += dot(tile_weights, scratch_.minimum + at, tile_tokens);
        }
      }
    }
    const auto* words = reinterpret_cast<const std::uint32_t*>(block + layout_.value_codes);
    for_row_blocks([&](auto rows, std::int64_t row) {
      with_bits(g_.value_bits, [&](auto bits) {
        for (int channel = 0; channel < g_.head_dim; channel += chunk_size) {
          add_channels<bits(), rows()>(words, row, channel, tiles);
        }
      });
    });
  }

  // Tokens of the last tile that are not quantised yet: whatever lies there must not count.
  void clear_unwritten(int groups, int tiles, int coded) {
    for (int t = coded; t < tiles * tile_tokens; ++t) {
      for (int group = 0; group < groups; ++group) {
        const std::int64_t at =
            (std::int64_t{t} / tile_tokens * groups + group) * tile_tokens + t % tile_tokens;
        scratch_.scale[at] = 0;
        scratch_.minimum[at] = 0;
      }
    }
  }

  template <int bits, int rows>
  HWY_NOINLINE void add_channels(const std::uint32_t* words, std::int64_t first_row, int channel,
                                 int tiles) {
    const Floats d;
    constexpr int table_bits = bits == 3 ? 2 : bits;
    const FloatVector table = value_table<table_bits>();
    const int groups = g_.head_dim / g_.group;
    const float* coefficients = scratch_.coefficients + first_row * scratch_.coefficient_step() +
                                std::int64_t{channel} / g_.group * tile_tokens;
    for (int lane = 0; lane < lanes; lane += vector_lanes) {
      FloatVector sums[rows][4];
      unroll<rows>([&](auto m) HWY_ATTR {
        unroll<4>([&](auto q) HWY_ATTR { sums[m()][q()] = hn::Zero(d); });
      });
      for (int tile = 0; tile < tiles; ++tile) {
        add_chunk<bits, rows>(words + chunk_offset(g_, bits, tile, channel / chunk_size) + lane,
                              coefficients + std::int64_t{tile} * groups * tile_tokens,
                              scratch_.coefficient_step(), table, sums);
      }
      unroll<rows>([&](auto m) HWY_ATTR {
        float* to = weighted(first_row + m()) + channel + lane;
        hn::StoreU(hn::Add(sum_columns(sums[m()]), hn::LoadU(d, to)), d, to);
      });
    }
  }

  void add_residual(std::int64_t first, int from, int to) {
    const Floats d;
    std::byte* ring = ring_of(problem_.cache, sequence_, kv_head_);
    constexpr int at_once = 4;
    for (int t = from; t < to; t += at_once) {
      const std::byte* value[at_once];
      for (int k = 0; k < at_once; ++k) {
        value[k] = value_row_of(problem_.cache, ring, first + std::min(t + k, to - 1));
      }
      for (std::int64_t row = 0; row < rows_; ++row) {
        const float* weights = scratch_.scores + row * page_tokens + t;
        FloatVector weight[at_once];
        for (int k = 0; k < at_once; ++k) weight[k] = hn::Set(d, t + k < to ? weights[k] : 0.0F);
        float* sums = weighted(row);
        for (int c = 0; c < g_.head_dim; c += vector_lanes) {
          FloatVector total = hn::LoadU(d, sums + c);
          for (int k = 0; k < at_once; ++k) {
            total = hn::MulAdd(load_numbers<element>(value[k], c), weight[k], total);
          }
          hn::StoreU(total, d, sums + c);
        }
      }
    }
  }

  const AttendProblem& problem_;
  const Geometry g_;
  const BlockLayout layout_;
  const SequenceState state_;
  const std::int64_t sequence_;
  const std::int64_t kv_head_;
  const std::int64_t rows_;
  float* const partial_;
  Scratch scratch_;
};

template <Element element>
void attend_elements(const AttendProblem& problem, std::int64_t sequence, std::int64_t kv_head,
                     std::int64_t first_page, std::int64_t last_page, float* partial) {
  Attention<element> attention(problem, sequence, kv_head, partial);
  for (std::int64_t page = first_page; page < last_page; ++page) attention.add_page(page);
  attention.finish();
}

void attend(const AttendProblem& problem, std::int64_t sequence, std::int64_t kv_head,
            std::int64_t first_page, std::int64_t last_page, float* partial) {
  switch (problem.cache.geometry.element) {
    case Element::f16:
      return attend_elements<Element::f16>(problem, sequence, kv_head, first_page, last_page,
                                           partial);
    case Element::bf16:
      return attend_elements<Element::bf16>(problem, sequence, kv_head, first_page, last_page,
                                            partial);
    case Element::f32:
      return attend_elements<Element::f32>(problem, sequence, kv_head, first_page, last_page,
                                           partial);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::kivi
HWY_AFTER_NAMESPACE();
#endif

#if HWY_ONCE
namespace einkorn::kivi {

const KernelTable<AttendKernel*> attend_kernels = EINKORN_SIMD_VERSIONS(attend_scalar, attend);

}  // namespace einkorn::kivi
#endif  // HWY_ONCE
