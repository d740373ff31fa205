// Quantising and storing new tokens on CPUs. Groups are handled 32 channels at a time; codes go to
// their chunk row by row, eight words each.
#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/compute/kivi/extend_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "einkorn/compute/kivi/cache_access_internal.h"
#include "einkorn/compute/kivi/codes_simd.h"
#include "einkorn/compute/kivi/group_quantizer_internal.h"

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace einkorn::kivi {
namespace HWY_NAMESPACE {

// A row of a chunk from its 32 codes, one byte a column. Four columns are a word, in the order in
// which code_place() has its bytes but for the middle two; words must be zero before.
HWY_INLINE void put_row(std::uint32_t* chunk, int bits, int row, const std::uint8_t* codes) {
  const int r = row % 8;
  const int q = row / 8;
  const int low_bits = bits == 3 ? 2 : bits;
  const int codes_per_byte = 8 / low_bits;
  const std::uint32_t low = 0x01010101U * ((1U << low_bits) - 1);
  for (int i = 0; i < 4; ++i) {
    for (int s = 0; s < 2; ++s) {
      std::uint32_t four;
      std::memcpy(&four, codes + 8 * i + 4 * s, sizeof(four));
      four = (four & 0xFF0000FFU) | (four & 0x0000FF00U) << 8 | (four >> 8 & 0x0000FF00U);
      const int u = 4 * s + q;
      const int lane = 4 * r + i;
      chunk[u / codes_per_byte * lanes + lane] |= (four & low) << (u % codes_per_byte * low_bits);
      if (bits == 3) chunk[2 * lanes + lane] |= (four >> 2 & 0x01010101U) << (2 * q + s);
    }
  }
}

// Codes of 32 numbers whose scales and minima are given each.
HWY_INLINE void encode(const float* numbers, const float* scale, const float* minimum, int bits,
                       std::uint8_t* codes) {
  const Floats d;
  const hn::RebindToSigned<Floats> integers;
  const hn::Rebind<std::uint8_t, Floats> bytes;
  const FloatVector greatest = hn::Set(d, static_cast<float>((1 << bits) - 1));
  const FloatVector zero = hn::Zero(d);
  for (int i = 0; i < chunk_size; i += vector_lanes) {
    const FloatVector step = hn::LoadU(d, scale + i);
    const FloatVector steps =
        hn::Div(hn::Sub(hn::LoadU(d, numbers + i), hn::LoadU(d, minimum + i)), step);
    const FloatVector inside = hn::Min(hn::Max(steps, zero), greatest);
    const FloatVector code = hn::IfThenElseZero(hn::Gt(step, zero), hn::Round(inside));
    hn::StoreU(hn::DemoteTo(bytes, hn::ConvertTo(integers, code)), bytes, codes + i);
  }
}

template <Element element>
class Extension {
 public:
  Extension(const ExtendProblem& problem, std::int64_t sequence, std::int64_t kv_head)
      : g_(problem.cache.geometry),
        layout_(block_layout(g_)),
        cache_(problem.cache),
        source_{problem, sequence, kv_head} {}

  const TokenSource& source() const { return source_; }

  void quantize_keys(std::int64_t first_token) {
    std::byte* block = block_at(first_token);
    const int first = static_cast<int>(first_token % page_tokens);
    for (int channel = 0; channel < g_.head_dim; channel += chunk_size) {
      for (int t = 0; t < g_.group; ++t) {
        to_floats<element>(source_.key(first_token + t), channel, chunk_size, row(t));
      }
      float scale[chunk_size];
      float minimum[chunk_size];
      scale_columns(scale, minimum);
      const std::int64_t index = std::int64_t{first} / g_.group * g_.head_dim + channel;
      for (int d = 0; d < chunk_size; ++d) {
        store_number(element, block + layout_.key_scale, index + d, scale[d]);
        store_number(element, block + layout_.key_minimum, index + d, minimum[d]);
      }
      auto* words = reinterpret_cast<std::uint32_t*>(block + layout_.key_codes);
      for (int t = 0; t < g_.group; ++t) {
        const int token = first + t;
        std::uint32_t* chunk =
            words + chunk_offset(g_, g_.key_bits, token / tile_tokens, channel / chunk_size);
        if (t % tile_tokens == 0) std::fill_n(chunk, g_.key_bits * lanes, 0U);
        std::uint8_t codes[chunk_size];
        encode(row(t), scale, minimum, g_.key_bits, codes);
        put_row(chunk, g_.key_bits, key_row(token % tile_tokens), codes);
      }
    }
  }

  // Tokens [first_token, last_token) of one tile.
  void quantize_values(std::int64_t first_token, std::int64_t last_token) {
    std::byte* block = block_at(first_token);
    const int tile = static_cast<int>(first_token % page_tokens) / tile_tokens;
    const int first = static_cast<int>(first_token % tile_tokens);
    const int count = static_cast<int>(last_token - first_token);
    auto* words = reinterpret_cast<std::uint32_t*>(block + layout_.value_codes);
    for (int group = 0; group < g_.head_dim / g_.group; ++group) {
      std::uint8_t codes[tile_tokens][128];
      for (int t = 0; t < count; ++t) {
        to_floats<element>(source_.value(first_token + t), std::int64_t{group} * g_.group, g_.group,
                           numbers_);
        const std::int64_t index =
            (std::int64_t{tile} * (g_.head_dim / g_.group) + group) * tile_tokens + first + t;
        encode_token(block, index, codes[t]);
      }
      for (int channel = 0; channel < g_.group; channel += chunk_size) {
        const int place = (group * g_.group + channel) / chunk_size;
        put_columns(words + chunk_offset(g_, g_.value_bits, tile, place), first, count, codes,
                    channel);
      }
    }
  }

 private:
  std::byte* block_at(std::int64_t token) const {
    return block_of(cache_, source_.sequence, source_.kv_head, token / page_tokens);
  }
  float* row(int t) { return numbers_ + t * chunk_size; }

  // Scale and minimum of each of 32 columns of the group's rows.
  void scale_columns(float* scale, float* minimum) {
    const Floats d;
    for (int c = 0; c < chunk_size; c += vector_lanes) {
      FloatVector least = hn::LoadU(d, row(0) + c);
      FloatVector most = least;
      FloatVector spoilt = hn::Sub(least, least);  // NaN where a number is not finite
      for (int t = 1; t < g_.group; ++t) {
        const FloatVector x = hn::LoadU(d, row(t) + c);
        least = hn::Min(least, x);
        most = hn::Max(most, x);
        spoilt = hn::Add(spoilt, hn::Sub(x, x));
      }
      float lowest[vector_lanes];
      float highest[vector_lanes];
      float broken[vector_lanes];
      hn::StoreU(least, d, lowest);
      hn::StoreU(most, d, highest);
      hn::StoreU(spoilt, d, broken);
      for (int i = 0; i < vector_lanes; ++i) {
        const GroupScale found =
            group_scale(lowest[i], highest[i], broken[i] == 0, g_.key_bits, element);
        scale[c + i] = found.scale;
        minimum[c + i] = found.minimum;
      }
    }
  }

  // One token's group in numbers_: its scale and minimum to the block, its codes out.
  void encode_token(std::byte* block, std::int64_t index, std::uint8_t* codes) {
    const Floats d;
    FloatVector least = hn::LoadU(d, numbers_);
    FloatVector most = least;
    FloatVector spoilt = hn::Sub(least, least);
    for (int i = vector_lanes; i < g_.group; i += vector_lanes) {
      const FloatVector x = hn::LoadU(d, numbers_ + i);
      least = hn::Min(least, x);
      most = hn::Max(most, x);
      spoilt = hn::Add(spoilt, hn::Sub(x, x));
    }
    const bool finite = hn::GetLane(hn::SumOfLanes(d, spoilt)) == 0;
    const GroupScale found =
        group_scale(hn::GetLane(hn::MinOfLanes(d, least)), hn::GetLane(hn::MaxOfLanes(d, most)),
                    finite, g_.value_bits, element);
    store_number(element, block + layout_.value_scale, index, found.scale);
    store_number(element, block + layout_.value_minimum, index, found.minimum);
    float scale[chunk_size];
    float minimum[chunk_size];
    std::fill_n(scale, chunk_size, found.scale);
    std::fill_n(minimum, chunk_size, found.minimum);
    for (int i = 0; i < g_.group; i += chunk_size) {
      encode(numbers_ + i, scale, minimum, g_.value_bits, codes + i);
    }
  }

  // Columns [first, first + count) of a chunk of values, from 32 channels of each token's codes.
  void put_columns(std::uint32_t* chunk, int first, int count,
                   const std::uint8_t (&codes)[tile_tokens][128], int channel) const {
    if (count == tile_tokens) {
      std::fill_n(chunk, g_.value_bits * lanes, 0U);
      for (int c = 0; c < chunk_size; ++c) {
        std::uint8_t columns[tile_tokens];
        for (int t = 0; t < tile_tokens; ++t) columns[t] = codes[t][channel + c];
        put_row(chunk, g_.value_bits, value_row(c), columns);
      }
      return;
    }
    for (int t = 0; t < count; ++t) {
      for (int c = 0; c < chunk_size; ++c) {
        put_code(chunk, g_.value_bits, code_place(g_.value_bits, value_row(c), first + t),
                 codes[t][channel + c]);
      }
    }
  }

  const Geometry g_;
  const BlockLayout layout_;
  const CacheView& cache_;
  const TokenSource source_;
  alignas(64) float numbers_[page_tokens * chunk_size];
};

template <Element element>
void extend_elements(const ExtendProblem& problem, std::int64_t sequence, std::int64_t kv_head) {
  const Geometry& g = problem.cache.geometry;
  const SequenceState& state = problem.cache.states[sequence];
  const SequenceState next =
      state_after(state, g.residual, new_tokens(problem, sequence), problem.settled);
  Extension<element> extension(problem, sequence, kv_head);
  for (std::int64_t t = state.keys_quantized; t < next.keys_quantized; t += g.group) {
    extension.quantize_keys(t);
  }
  for (std::int64_t t = state.values_quantized; t < next.values_quantized;) {
    const std::int64_t tile_end = (t / tile_tokens + 1) * tile_tokens;
    const std::int64_t last = std::min<std::int64_t>(tile_end, next.values_quantized);
    extension.quantize_values(t, last);
    t = last;
  }
  store_residual(extension.source(), next);
}

void extend(const ExtendProblem& problem, std::int64_t sequence, std::int64_t kv_head) {
  switch (problem.cache.geometry.element) {
    case Element::f16:
      return extend_elements<Element::f16>(problem, sequence, kv_head);
    case Element::bf16:
      return extend_elements<Element::bf16>(problem, sequence, kv_head);
    case Element::f32:
      return extend_elements<Element::f32>(problem, sequence, kv_head);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::kivi
HWY_AFTER_NAMESPACE();
#endif

#if HWY_ONCE
namespace einkorn::kivi {

const KernelTable<ExtendKernel*> extend_kernels = EINKORN_SIMD_VERSIONS(extend_scalar, extend);

}  // namespace einkorn::kivi
#endif  // HWY_ONCE
