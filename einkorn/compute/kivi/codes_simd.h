// Codes of a chunk (cache_layout_internal.h) times coefficients, in vectors. Compiled once a
// target; only kernel sources include this file.

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "einkorn/compute/kivi/cache_layout_internal.h"

#if defined(EINKORN_KIVI_CODES_SIMD_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EINKORN_KIVI_CODES_SIMD_H_
#undef EINKORN_KIVI_CODES_SIMD_H_
#else
#define EINKORN_KIVI_CODES_SIMD_H_
#endif

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace einkorn::kivi {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Words = hn::RebindToUnsigned<Floats>;
using FloatVector = hn::Vec<Floats>;
using WordVector = hn::Vec<Words>;
inline constexpr int vector_lanes = static_cast<int>(hn::MaxLanes(Floats()));

template <int... i, class F>
HWY_INLINE void unroll_sequence(std::integer_sequence<int, i...> /*indices*/, const F& f) {
  (f(std::integral_constant<int, i>()), ...);
}

// f(integral_constant<0>), ..., f(integral_constant<count - 1>).
template <int count, class F>
HWY_INLINE void unroll(const F& f) {
  unroll_sequence(std::make_integer_sequence<int, count>(), f);
}

template <int shift>
HWY_INLINE WordVector shift_right(WordVector words) {
  if constexpr (shift == 0) {
    return words;
  } else {
    return hn::ShiftRight<shift>(words);
  }
}

// The low `bits` bits of each word as a number: one permutation where a vector holds all values
// (only the lowest bits of an index count), else a mask and a conversion. `table` is
// value_table<bits>().
template <int bits>
inline constexpr bool has_table = (1 << bits) <= vector_lanes;

template <int bits>
HWY_INLINE FloatVector value_table() {
  const Words words;
  const WordVector lane = hn::Iota(words, 0);
  const WordVector value = hn::And(lane, hn::Set(words, (1U << bits) - 1));
  return hn::ConvertTo(Floats(), hn::BitCast(hn::RebindToSigned<Words>(), value));
}

template <int bits>
HWY_INLINE FloatVector number_of(WordVector words, FloatVector table) {
  const Words d;
  if constexpr (has_table<bits>) {
    // Highway's debug builds insist on indices within the vector.
    if constexpr (HWY_IS_DEBUG_BUILD) words = hn::And(words, hn::Set(d, (1U << bits) - 1));
    return hn::TableLookupLanes(table, hn::IndicesFromVec(Floats(), words));
  } else {
    const WordVector code = hn::And(words, hn::Set(d, (1U << bits) - 1));
    return hn::ConvertTo(Floats(), hn::BitCast(hn::RebindToSigned<Words>(), code));
  }
}

// Adds to sums[row][q], for the chunk rows 8 q + r of this vector's lanes 4 r + i, the products of
// codes and coefficients over the columns that lane i holds. coefficients: [rows][8 e + ...] as
// spread_columns() writes them, coefficient_step floats from row to row.
template <int bits, int rows>
HWY_INLINE void add_chunk(const std::uint32_t* chunk, const float* coefficients,
                          std::ptrdiff_t coefficient_step, FloatVector table,
                          FloatVector (&sums)[rows][4]) {
  const Floats d;
  const Words words;
  constexpr int low_bits = bits == 3 ? 2 : bits;
  constexpr int codes_per_byte = 8 / low_bits;
  WordVector plane[bits];
  unroll<bits>([&](auto w) HWY_ATTR { plane[w()] = hn::LoadU(words, chunk + w() * lanes); });
  unroll<8>([&](auto e) HWY_ATTR {
    constexpr int s = e() / 4;
    constexpr int byte = e() % 2 * 2 + e() % 4 / 2;
    FloatVector coefficient[rows];
    unroll<rows>([&](auto m) HWY_ATTR {
      coefficient[m()] = hn::LoadDup128(d, coefficients + m() * coefficient_step + 4 * e());
    });
    unroll<4>([&](auto q) HWY_ATTR {
      constexpr int u = 4 * s + q();
      constexpr int shift = 8 * byte + u % codes_per_byte * low_bits;
      FloatVector code = number_of<low_bits>(shift_right<shift>(plane[u / codes_per_byte]), table);
      if constexpr (bits == 3) {
        constexpr int high_shift = 8 * byte + 2 * q() + s;
        const WordVector high = hn::And(shift_right<high_shift>(plane[2]), hn::Set(words, 1));
        const FloatVector four = hn::Set(d, 4.0F);
        code = hn::Add(code,
                       hn::IfThenElseZero(hn::RebindMask(d, hn::Ne(high, hn::Zero(words))), four));
      }
      unroll<rows>([&](auto m) HWY_ATTR {
        sums[m()][q()] = hn::MulAdd(code, coefficient[m()], sums[m()][q()]);
      });
    });
  });
}

// Column 8 i + e of a chunk's 32 coefficients goes to 4 e + i: the order of add_chunk().
HWY_INLINE void spread_columns(const float* natural, float* spread) {
  const hn::FixedTag<float, 8> eight;
  hn::StoreInterleaved4(hn::LoadU(eight, natural), hn::LoadU(eight, natural + 8),
                        hn::LoadU(eight, natural + 16), hn::LoadU(eight, natural + 24), eight,
                        spread);
}

// Lane 4 r + q of the result: the sum over the four lanes 4 r + i of sums[q].
HWY_INLINE FloatVector sum_columns(const FloatVector (&sums)[4]) {
  const Floats d;
  const hn::RepartitionToWide<Floats> pairs;
  const FloatVector low =
      hn::Add(hn::InterleaveLower(d, sums[0], sums[1]), hn::InterleaveUpper(d, sums[0], sums[1]));
  const FloatVector high =
      hn::Add(hn::InterleaveLower(d, sums[2], sums[3]), hn::InterleaveUpper(d, sums[2], sums[3]));
  const auto first = hn::InterleaveLower(pairs, hn::BitCast(pairs, low), hn::BitCast(pairs, high));
  const auto second = hn::InterleaveUpper(pairs, hn::BitCast(pairs, low), hn::BitCast(pairs, high));
  return hn::Add(hn::BitCast(d, first), hn::BitCast(d, second));
}

// Lanes 4 r + q, r = 2 i + b, of sum_columns() as tokens 8 i + 2 q + b (key_row()).
HWY_INLINE FloatVector tokens_in_order(FloatVector scores) {
  const Floats d;
  const Words words;
  alignas(64) static constexpr std::uint32_t order[16] = {0, 4,  1, 5,  2,  6,  3,  7,
                                                          8, 12, 9, 13, 10, 14, 11, 15};
  return hn::TableLookupLanes(scores, hn::IndicesFromVec(d, hn::Load(words, order)));
}

// Stored numbers (f16, bf16, f32) as floats, a vector of them.
template <Element element>
HWY_INLINE FloatVector load_numbers(const void* from, std::int64_t index) {
  const Floats d;
  if constexpr (element == Element::f32) {
    return hn::LoadU(d, static_cast<const float*>(from) + index);
  } else {
    const hn::Rebind<std::uint16_t, Floats> bits;
    const auto loaded = hn::LoadU(bits, static_cast<const std::uint16_t*>(from) + index);
    if constexpr (element == Element::f16) {
      return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, Floats>(), loaded));
    } else {
      return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(Words(), loaded)));
    }
  }
}

// count is a multiple of 32.
template <Element element>
HWY_INLINE void to_floats(const void* from, std::int64_t index, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; i += vector_lanes) {
    hn::StoreU(load_numbers<element>(from, index + i), Floats(), to + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::kivi
HWY_AFTER_NAMESPACE();
#endif

#endif  // compiled once a target
