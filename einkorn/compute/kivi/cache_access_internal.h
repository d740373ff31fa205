// Addresses inside a cache, for CPU kernels.
#pragma once

#include <cstddef>

#include "einkorn/compute/kivi/kivi_kernels.h"

namespace einkorn::kivi {

inline std::byte* ring_of(const CacheView& cache, std::int64_t sequence, std::int64_t kv_head) {
  const Geometry& g = cache.geometry;
  auto* ring = reinterpret_cast<std::byte*>(cache.table[sequence * cache.table_stride]);
  return ring + kv_head * ring_rows(g) * g.head_dim * element_bytes(g.element);
}

inline std::byte* key_row_of(const CacheView& cache, std::byte* ring, std::int64_t token) {
  const Geometry& g = cache.geometry;
  return ring + token % g.residual * g.head_dim * element_bytes(g.element);
}

inline std::byte* value_row_of(const CacheView& cache, std::byte* ring, std::int64_t token) {
  const Geometry& g = cache.geometry;
  const std::int64_t row = g.residual + token % (std::int64_t{g.residual} + 1);
  return ring + row * g.head_dim * element_bytes(g.element);
}

inline std::byte* block_of(const CacheView& cache, std::int64_t sequence, std::int64_t kv_head,
                           std::int64_t page) {
  auto* blocks =
      reinterpret_cast<std::byte*>(cache.table[sequence * cache.table_stride + 1 + page]);
  return blocks + kv_head * block_layout(cache.geometry).bytes;
}

inline const std::byte* row_of(const Rows& rows, Element element, std::int64_t sequence,
                               std::int64_t head, std::int64_t token) {
  const std::int64_t index =
      sequence * rows.batch_stride + head * rows.head_stride + token * rows.token_stride;
  return static_cast<const std::byte*>(rows.data) + index * element_bytes(element);
}

// Where appended and remembered tokens of one sequence and kv head lie before they are quantised.
struct TokenSource {
  const ExtendProblem& problem;
  std::int64_t sequence;
  std::int64_t kv_head;
  std::byte* ring = ring_of(problem.cache, sequence, kv_head);
  std::int64_t known = problem.cache.states[sequence].length;

  const std::byte* key(std::int64_t token) const {
    if (token < known) return key_row_of(problem.cache, ring, token);
    return row_of(problem.keys, problem.cache.geometry.element, sequence, kv_head, token - known);
  }
  const std::byte* value(std::int64_t token) const {
    if (token < known) return value_row_of(problem.cache, ring, token);
    return row_of(problem.values, problem.cache.geometry.element, sequence, kv_head, token - known);
  }
};

inline std::int64_t new_tokens(const ExtendProblem& problem, std::int64_t sequence) {
  return problem.counts ? problem.counts[sequence] : problem.tokens;
}

// Copies the newest tokens' rows to the residual.
void store_residual(const TokenSource& source, const SequenceState& next);

}  // namespace einkorn::kivi
