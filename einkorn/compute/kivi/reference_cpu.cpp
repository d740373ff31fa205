// The scalar level: what the cache means, written to be read.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "einkorn/compute/kivi/dequantized_cache_internal.h"
#include "einkorn/compute/kivi/group_quantizer_internal.h"

namespace einkorn::kivi {
namespace {

GroupScale scale_of(const std::vector<float>& group, int bits, Element element) {
  float minimum = std::numeric_limits<float>::infinity();
  float maximum = -minimum;
  bool finite = true;
  for (const float x : group) {
    minimum = std::min(minimum, x);
    maximum = std::max(maximum, x);
    finite = finite && std::isfinite(x);
  }
  return group_scale(minimum, maximum, finite, bits, element);
}

void quantize_key_group(const TokenSource& source, std::int64_t first_token) {
  const CacheView& cache = source.problem.cache;
  const Geometry& g = cache.geometry;
  const BlockLayout layout = block_layout(g);
  std::byte* block = block_of(cache, source.sequence, source.kv_head, first_token / page_tokens);
  const std::int64_t first = first_token % page_tokens;
  auto* words = reinterpret_cast<std::uint32_t*>(block + layout.key_codes);
  std::vector<float> group(static_cast<std::size_t>(g.group));
  for (int d = 0; d < g.head_dim; ++d) {
    for (int t = 0; t < g.group; ++t) {
      group[static_cast<std::size_t>(t)] = load_number(g.element, source.key(first_token + t), d);
    }
    const GroupScale scale = scale_of(group, g.key_bits, g.element);
    const std::int64_t index = first / g.group * g.head_dim + d;
    store_number(g.element, block + layout.key_scale, index, scale.scale);
    store_number(g.element, block + layout.key_minimum, index, scale.minimum);
    for (int t = 0; t < g.group; ++t) {
      const int token = static_cast<int>(first) + t;
      put_code(words + chunk_offset(g, g.key_bits, token / tile_tokens, d / chunk_size), g.key_bits,
               code_place(g.key_bits, key_row(token % tile_tokens), d % chunk_size),
               group_code(group[static_cast<std::size_t>(t)], scale, g.key_bits));
    }
  }
}

void quantize_value(const TokenSource& source, std::int64_t token) {
  const CacheView& cache = source.problem.cache;
  const Geometry& g = cache.geometry;
  const BlockLayout layout = block_layout(g);
  std::byte* block = block_of(cache, source.sequence, source.kv_head, token / page_tokens);
  const int tile = static_cast<int>(token % page_tokens) / tile_tokens;
  const int column = static_cast<int>(token % tile_tokens);
  auto* words = reinterpret_cast<std::uint32_t*>(block + layout.value_codes);
  std::vector<float> group(static_cast<std::size_t>(g.group));
  for (int first = 0; first < g.head_dim; first += g.group) {
    for (int d = 0; d < g.group; ++d) {
      group[static_cast<std::size_t>(d)] = load_number(g.element, source.value(token), first + d);
    }
    const GroupScale scale = scale_of(group, g.value_bits, g.element);
    const int groups = g.head_dim / g.group;
    const std::int64_t index =
        (std::int64_t{tile} * groups + first / g.group) * tile_tokens + column;
    store_number(g.element, block + layout.value_scale, index, scale.scale);
    store_number(g.element, block + layout.value_minimum, index, scale.minimum);
    for (int d = 0; d < g.group; ++d) {
      const int channel = first + d;
      put_code(words + chunk_offset(g, g.value_bits, tile, channel / chunk_size), g.value_bits,
               code_place(g.value_bits, value_row(channel % chunk_size), column),
               group_code(group[static_cast<std::size_t>(d)], scale, g.value_bits));
    }
  }
}

}  // namespace

void store_residual(const TokenSource& source, const SequenceState& next) {
  const CacheView& cache = source.problem.cache;
  const auto bytes = static_cast<std::size_t>(cache.geometry.head_dim) *
                     static_cast<std::size_t>(element_bytes(cache.geometry.element));
  for (std::int64_t t = std::max<std::int64_t>(source.known, next.keys_quantized); t < next.length;
       ++t) {
    std::memcpy(key_row_of(cache, source.ring, t), source.key(t), bytes);
  }
  for (std::int64_t t = std::max<std::int64_t>(source.known, next.values_quantized);
       t < next.length; ++t) {
    std::memcpy(value_row_of(cache, source.ring, t), source.value(t), bytes);
  }
}

void extend_scalar(const ExtendProblem& problem, std::int64_t sequence, std::int64_t kv_head) {
  const Geometry& g = problem.cache.geometry;
  const SequenceState& state = problem.cache.states[sequence];
  const SequenceState next =
      state_after(state, g.residual, new_tokens(problem, sequence), problem.settled);
  const TokenSource source{problem, sequence, kv_head};
  for (std::int64_t t = state.keys_quantized; t < next.keys_quantized; t += g.group) {
    quantize_key_group(source, t);
  }
  for (std::int64_t t = state.values_quantized; t < next.values_quantized; ++t) {
    quantize_value(source, t);
  }
  store_residual(source, next);
}

void attend_scalar(const AttendProblem& problem, std::int64_t sequence, std::int64_t kv_head,
                   std::int64_t first_page, std::int64_t last_page, float* partial) {
  const int head_dim = problem.cache.geometry.head_dim;
  const DequantizedCache cache{problem.cache, sequence, kv_head};
  const std::int64_t length = cache.state.length;
  for (std::int64_t row = 0; row < problem.rows(); ++row) {
    const std::int64_t head = kv_head * problem.heads_per_kv + row / problem.query_tokens;
    const std::int64_t query = row % problem.query_tokens;
    const std::byte* q = row_of(problem.queries, Element::f32, sequence, head, query);
    const std::int64_t first = first_page * page_tokens;
    const std::int64_t last = std::min(last_page * page_tokens, visible_keys(problem, length, row));
    std::vector<double> scores;
    double greatest = -std::numeric_limits<double>::infinity();
    for (std::int64_t t = first; t < last; ++t) {
      double score = 0;
      for (int d = 0; d < head_dim; ++d) {
        score += double{load_number(Element::f32, q, d)} * cache.key(t, d);
      }
      score *= problem.scale;
      if (problem.mask) {
        score +=
            problem.mask[sequence * problem.mask_batch_stride + head * problem.mask_head_stride +
                         query * problem.mask_query_stride + t * problem.mask_key_stride];
      }
      scores.push_back(score);
      if (!(score <= greatest)) greatest = score;
    }
    double sum = 0;
    std::vector<double> weighted(static_cast<std::size_t>(head_dim));
    for (std::int64_t t = first; t < last; ++t) {
      const double score = scores[static_cast<std::size_t>(t - first)];
      // Nothing visible so far: exp(-inf - -inf) would be NaN.
      const double p = std::isinf(score) && score < 0 ? 0 : std::exp(score - greatest);
      if (p == 0) continue;
      sum += p;
      for (int d = 0; d < head_dim; ++d) {
        weighted[static_cast<std::size_t>(d)] += p * cache.value(t, d);
      }
    }
    float* to = partial + row * (head_dim + 2);
    to[0] = static_cast<float>(greatest);
    to[1] = static_cast<float>(sum);
    for (int d = 0; d < head_dim; ++d) {
      to[2 + d] = static_cast<float>(weighted[static_cast<std::size_t>(d)]);
    }
  }
}

}  // namespace einkorn::kivi
