// Vector arithmetic under the Bessel kernels: error-free sums and products, logarithms to 75 bits,
// the exponential. Included once a target, from sources that follow core/simd.h.
// All of it relies on the compiler not contracting a * b + c by itself (-ffp-contract=off).

#if defined(EINKORN_LOG_BESSEL_ELEMENTARY_SIMD_H) == defined(HWY_TARGET_TOGGLE)
#ifdef EINKORN_LOG_BESSEL_ELEMENTARY_SIMD_H
#undef EINKORN_LOG_BESSEL_ELEMENTARY_SIMD_H
#else
#define EINKORN_LOG_BESSEL_ELEMENTARY_SIMD_H
#endif

#include <hwy/highway.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <numbers>

#include "einkorn/compute/log_bessel/tables_internal.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::log_bessel {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::ScalableTag<double>;
using V = hn::Vec<Doubles>;
using M = hn::Mask<Doubles>;
using Integers = hn::RebindToSigned<Doubles>;
using I = hn::Vec<Integers>;

HWY_INLINE V Constant(double value) {
  return hn::Set(Doubles(), value);
}

// The unevaluated sum high + low.
struct Pair {
  V high;
  V low;
};

HWY_INLINE Pair TwoSum(V a, V b) {
  const V sum = a + b;
  const V b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

// |a| >= |b|, or a = 0.
HWY_INLINE Pair FastTwoSum(V a, V b) {
  const V sum = a + b;
  return {sum, b - (sum - a)};
}

HWY_INLINE Pair TwoProduct(V a, V b) {
  const V product = a * b;
  return {product, hn::MulSub(a, b, product)};
}

// coefficients[0] + coefficients[1] x + ...
template <std::size_t N>
HWY_INLINE V Polynomial(const std::array<double, N>& coefficients, V x) {
  V sum = Constant(coefficients[N - 1]);
  for (std::size_t i = N - 1; i-- > 0;) sum = hn::MulAdd(sum, x, Constant(coefficients[i]));
  return sum;
}

// One value of a table of 32 for each lane; index in [0, 32).
#if HWY_TARGET == HWY_AVX3
// Highway 1.0 has no lookup in more than one register: four registers of the table, two
// permutations across two registers each, and a blend, instead of a gather.
HWY_INLINE V Lookup32(const std::array<double, 32>& table, I index) {
  const Doubles d;
  const __m512d low =
      _mm512_permutex2var_pd(hn::Load(d, &table[0]).raw, index.raw, hn::Load(d, &table[8]).raw);
  const __m512d high =
      _mm512_permutex2var_pd(hn::Load(d, &table[16]).raw, index.raw, hn::Load(d, &table[24]).raw);
  const __mmask8 upper = _mm512_test_epi64_mask(index.raw, _mm512_set1_epi64(16));
  return V{_mm512_mask_mov_pd(low, upper, high)};
}
#else
HWY_INLINE V Lookup32(const std::array<double, 32>& table, I index) {
  return hn::GatherIndex(Doubles(), table.data(), index);
}
#endif

// value = 2^exponent * mantissa with mantissa in [0.707, 1.414), and the mantissa's table interval.
struct Decomposed {
  V exponent;
  V mantissa;
  I scale;  // subtract from a double's bits to divide it by 2^exponent
  I interval;
};

HWY_INLINE Decomposed Decompose(V value) {
  const Doubles d;
  const Integers di;
  // A bias keeps the shifted number positive, so that it becomes a double by a change of bits.
  constexpr std::int64_t bias = 1024;
  const I bits = hn::BitCast(di, value);
  const I raised = bits + hn::Set(di, (bias << 52) - tables::log_table_origin);
  const hn::RebindToUnsigned<Doubles> du;
  const I biased = hn::BitCast(di, hn::ShiftRight<52>(hn::BitCast(du, raised)));
  constexpr std::int64_t two_to_52 = 0x4330000000000000;
  const V exponent = hn::BitCast(d, biased | hn::Set(di, two_to_52)) - Constant(0x1p52 + bias);
  const I scale = hn::ShiftLeft<52>(biased - hn::Set(di, bias));
  const I interval = hn::BitCast(di, hn::ShiftRight<47>(hn::BitCast(du, raised))) & hn::Set(di, 31);
  return {exponent, hn::BitCast(d, bits - scale), scale, interval};
}

// sum_{n=0}^{N-1} (-1)^n f^n / (n + First): what is left of log(1 + f) after its first terms.
template <std::size_t First, std::size_t N>
constexpr std::array<double, N> LogSeries() {
  std::array<double, N> coefficients{};
  for (std::size_t n = 0; n < N; ++n) {
    coefficients[n] = ((n + First) % 2 == 1 ? 1.0 : -1.0) / static_cast<double>(n + First);
  }
  return coefficients;
}

// A logarithm in three parts: base is a multiple of 2^-42, |fraction| < 2^-6, |rest| < 2^-12.
struct LogParts {
  V base;
  V fraction;
  V rest;
};

// log(high + low) + binary_shift * log 2 with an error below 2^-59; high positive and normal.
HWY_INLINE LogParts LogInParts(V high, V low, V binary_shift) {
  const Doubles d;
  const Decomposed parts = Decompose(high);
  const V exponent = parts.exponent + binary_shift;
  const V reciprocal = Lookup32(tables::log_table.reciprocal, parts.interval);
  const Pair scaled = TwoProduct(parts.mantissa, reciprocal);
  const V f = scaled.high - Constant(1);  // exact
  // low / 2^exponent must not be made by the bits of low, which may be zero.
  const V f_low = hn::MulAdd(low, hn::BitCast(d, hn::BitCast(Integers(), reciprocal) - parts.scale),
                             scaled.low);
  static constexpr auto series = LogSeries<2, 8>();
  const V rest = hn::MulAdd(f * f, Polynomial(series, f),
                            hn::MulAdd(exponent, Constant(tables::log2_low),
                                       Lookup32(tables::log_table.log_low, parts.interval)) +
                                f_low);
  return {hn::MulAdd(exponent, Constant(tables::log2_high),
                     Lookup32(tables::log_table.log_high, parts.interval)),
          f, rest};
}

// log(high + low) + binary_shift * log 2 with an error below 2^-77 (relative, where it is small).
// With f = mantissa * reciprocal - 1 the terms up to f^3 / 3 are summed in pairs.
HWY_INLINE Pair LogOfPair(V high, V low, V binary_shift) {
  const Doubles d;
  const Decomposed parts = Decompose(high);
  const V exponent = parts.exponent + binary_shift;
  const V reciprocal = Lookup32(tables::log_table.reciprocal, parts.interval);
  const Pair scaled = TwoProduct(parts.mantissa, reciprocal);
  const V f = scaled.high - Constant(1);  // exact
  const V f_low = hn::MulAdd(low, hn::BitCast(d, hn::BitCast(Integers(), reciprocal) - parts.scale),
                             scaled.low);

  const Pair square = TwoProduct(f, f * Constant(-0.5));  // -f^2 / 2
  const Pair cube = TwoProduct(square.high, f);           // -f^3 / 2
  constexpr double two_thirds = 0x1.5555555555555p-1;
  constexpr double two_thirds_low = 0x1.5555555555555p-55;
  const Pair third = TwoProduct(cube.high, Constant(-two_thirds));  // f^3 / 3
  const V third_low = hn::NegMulAdd(hn::MulAdd(square.low, f, cube.low), Constant(two_thirds),
                                    hn::NegMulAdd(cube.high, Constant(two_thirds_low), third.low));
  static constexpr auto series = LogSeries<4, 10>();
  const V fourth = square.high * square.high * Constant(4);

  const V base = hn::MulAdd(exponent, Constant(tables::log2_high),
                            Lookup32(tables::log_table.log_high, parts.interval));
  const V base_low = hn::MulAdd(exponent, Constant(tables::log2_low),
                                Lookup32(tables::log_table.log_low, parts.interval));
  const Pair first = FastTwoSum(base, f);
  const Pair second = FastTwoSum(first.high, square.high);
  const Pair last = FastTwoSum(second.high, third.high);
  // f_low / (1 + f)
  const V slope = hn::NegMulAdd(f, hn::NegMulAdd(f, Constant(1) - f, Constant(1)), Constant(1));
  const V tail = hn::MulAdd(f_low, slope, base_low) + (square.low + third_low);
  return {last.high,
          hn::MulAdd(fourth, Polynomial(series, f), (first.low + second.low) + (last.low + tail))};
}

// log(value) for a positive and normal value: with Terms = 7 to about an ulp of the larger of the
// result and 1, with 4 to 2^-36.
template <std::size_t Terms>
HWY_INLINE V Log(V value) {
  const Decomposed parts = Decompose(value);
  const V f = hn::MulSub(parts.mantissa, Lookup32(tables::log_table.reciprocal, parts.interval),
                         Constant(1));
  static constexpr auto series = LogSeries<2, Terms>();
  const V base = hn::MulAdd(parts.exponent, Constant(std::numbers::ln2),
                            Lookup32(tables::log_table.log, parts.interval));
  return base + hn::MulAdd(f * f, Polynomial(series, f), f);
}

template <std::size_t N>
constexpr std::array<double, N> ExpSeries() {
  std::array<double, N> coefficients{};
  double factorial = 1;
  for (std::size_t n = 0; n < N; ++n) {
    if (n > 0) factorial *= static_cast<double>(n);
    coefficients[n] = 1 / factorial;
  }
  return coefficients;
}

// exp(high + low) for |high| <= 700 and |low| < 2^-40, to an ulp; Terms of the series about 0.
template <std::size_t Terms = 14>
HWY_INLINE V Exp(V high, V low) {
  const Doubles d;
  const Integers di;
  constexpr double round = 0x1.8p52;
  const V shifted = hn::MulAdd(high, Constant(0x1.71547652b82fep+0), Constant(round));
  const V exponent = shifted - Constant(round);
  const V rest = hn::NegMulAdd(exponent, Constant(tables::log2_high), high) +
                 hn::NegMulAdd(exponent, Constant(tables::log2_low), low);
  static constexpr auto series = ExpSeries<Terms>();
  const V value = Polynomial(series, rest);
  return hn::BitCast(d, hn::BitCast(di, value) + hn::ShiftLeft<52>(hn::BitCast(di, shifted)));
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::log_bessel
HWY_AFTER_NAMESPACE();

#endif
