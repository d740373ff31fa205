// A cache read number by number, for plain code.
#pragma once

#include "einkorn/compute/kivi/cache_access_internal.h"
#include "einkorn/compute/kivi/half_internal.h"

namespace einkorn::kivi {

// Keys and values of one sequence and kv head as attention sees them.
struct DequantizedCache {
  const CacheView& cache;
  std::int64_t sequence;
  std::int64_t kv_head;
  const SequenceState& state = cache.states[sequence];
  BlockLayout layout = block_layout(cache.geometry);

  double key(std::int64_t token, int d) const {
    const Geometry& g = cache.geometry;
    if (token >= state.keys_quantized) {
      return load_number(g.element, key_row_of(cache, ring_of(cache, sequence, kv_head), token), d);
    }
    const std::byte* block = block_of(cache, sequence, kv_head, token / page_tokens);
    const int row = static_cast<int>(token % page_tokens);
    const std::int64_t index = std::int64_t{row} / g.group * g.head_dim + d;
    const auto* words = reinterpret_cast<const std::uint32_t*>(block + layout.key_codes);
    const unsigned code =
        get_code(words + chunk_offset(g, g.key_bits, row / tile_tokens, d / chunk_size), g.key_bits,
                 code_place(g.key_bits, key_row(row % tile_tokens), d % chunk_size));
    return code * double{load_number(g.element, block + layout.key_scale, index)} +
           load_number(g.element, block + layout.key_minimum, index);
  }

  double value(std::int64_t token, int d) const {
    const Geometry& g = cache.geometry;
    if (token >= state.values_quantized) {
      return load_number(g.element, value_row_of(cache, ring_of(cache, sequence, kv_head), token),
                         d);
    }
    const std::byte* block = block_of(cache, sequence, kv_head, token / page_tokens);
    const int column = static_cast<int>(token % page_tokens);
    const int groups = g.head_dim / g.group;
    const std::int64_t index =
        (std::int64_t{column} / tile_tokens * groups + d / g.group) * tile_tokens +
        column % tile_tokens;
    const auto* words = reinterpret_cast<const std::uint32_t*>(block + layout.value_codes);
    const unsigned code = get_code(
        words + chunk_offset(g, g.value_bits, column / tile_tokens, d / chunk_size), g.value_bits,
        code_place(g.value_bits, value_row(d % chunk_size), column % tile_tokens));
    return code * double{load_number(g.element, block + layout.value_scale, index)} +
           load_number(g.element, block + layout.value_minimum, index);
  }
};

}  // namespace einkorn::kivi
