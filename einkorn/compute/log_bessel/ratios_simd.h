// Ratios of neighbouring orders as branch-free vector functions of the order v and the argument x:
// I_{v+1}/I_v, its distance from 1 and its slope, K_{v+1}/K_v, and the slope of log(e^x K_v). Never
// the exponential of a difference of logarithms. Included once a target, from sources that follow
// core/simd.h.

#if defined(EINKORN_LOG_BESSEL_RATIOS_SIMD_H) == defined(HWY_TARGET_TOGGLE)
#ifdef EINKORN_LOG_BESSEL_RATIOS_SIMD_H
#undef EINKORN_LOG_BESSEL_RATIOS_SIMD_H
#else
#define EINKORN_LOG_BESSEL_RATIOS_SIMD_H
#endif

#include "einkorn/compute/log_bessel/branches_simd.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::log_bessel {
namespace HWY_NAMESPACE {

enum class Ratio { i, i_complement, i_slope, k, k_slope };

// The derivative of I_{v+1}/I_v in x: v / (s (s + v)) + a^2 (1/2 - p - sum_k a^k R_k(p)).
template <int Order>
HWY_INLINE V UniformRatioSlope(V v, V x) {
  const V s = hn::Sqrt(hn::MulAdd(v, v, x * x));
  const V a = Constant(1) / s;
  const V va = v * a;
  const V p = va * va;
  const V series =
      hn::NegMulAdd(a, UniformTerms<1, Order, 1>(tables::debye_second, a, p), Constant(0.5) - p);
  return hn::MulAdd(a * a, series, va / (s + v));
}

// By the derivative of the uniform expansion in x, s = sqrt(v^2 + x^2), a = 1/s, p = (v/s)^2:
//   I_{v+1}/I_v = x / (s + v) - x a^2 (1/2 + sum_k   a^k Q_k(p))
//   K_{v+1}/K_v = (s + v) / x + x a^2 (1/2 + sum_k (-a)^k Q_k(p))
// Where s - x would cancel it is v^2 / (s + x).
template <Ratio kRatio, int Order>
HWY_INLINE V UniformRatio(V v, V x) {
  const V s = hn::Sqrt(hn::MulAdd(v, v, x * x));
  const V a = Constant(1) / s;
  const V va = v * a;
  if constexpr (kRatio == Ratio::i_slope) return UniformRatioSlope<Order>(v, x);
  constexpr bool is_k = kRatio == Ratio::k || kRatio == Ratio::k_slope;
  const V signed_a = is_k ? hn::Neg(a) : a;
  const V series =
      hn::MulAdd(signed_a, UniformTerms<1, Order, 0>(tables::debye_argument, signed_a, va * va),
                 Constant(0.5));
  const V correction = (x * a) * (a * series);
  const V sum = s + v;
  if constexpr (kRatio == Ratio::i) return x / sum - correction;
  if constexpr (kRatio == Ratio::k) return sum / x + correction;
  const V s_minus_x = v * (v / (s + x));
  if constexpr (kRatio == Ratio::k_slope) return hn::Neg(s_minus_x / x + correction);
  return (v + s_minus_x) / sum + correction;
}

// How far above v the backward recurrences start: there even a start that is wrong by a percent has
// no influence at v. Each lane has its own start, so that a result does not depend on its
// neighbours.
HWY_INLINE V RecurrenceLength(V x) {
  return hn::Ceil(hn::MulAdd(x, Constant(1.2), Constant(14)));
}

// Amos' bound of I_{m+1}/I_m over x, as a start: 1 / (m + 1/2 + sqrt((m + 3/2)^2 + x^2)).
HWY_INLINE V AmosDenominator(V m, V x) {
  const V shifted = m + Constant(1.5);
  return (m + Constant(0.5)) + hn::Sqrt(hn::MulAdd(shifted, shifted, x * x));
}

// I_{v+1}/I_v for v and x below 40. With I_{m+1}/I_m = x numerator_m / denominator_m,
//   denominator_{m-1} = 2 m denominator_m + x^2 numerator_m,  numerator_{m-1} = denominator_m.
HWY_INLINE V RecurrenceRatio(V v, V x) {
  const V x2 = x * x;
  const V length = RecurrenceLength(x);
  V numerator = Constant(1);
  V denominator = AmosDenominator(v + length, x);
  for (double k = Largest(length); k >= 1; k -= 1) {
    const M active = Constant(k) <= length;
    const V m = v + Constant(k);
    const V previous = hn::MulAdd(m + m, denominator, x2 * numerator);
    numerator = hn::IfThenElse(active, denominator, numerator);
    denominator = hn::IfThenElse(active, previous, denominator);
  }
  return x * numerator / denominator;
}

HWY_INLINE Pair Multiply(const Pair& a, const Pair& b) {
  const Pair product = TwoProduct(a.high, b.high);
  return FastTwoSum(product.high,
                    hn::MulAdd(a.high, b.low, hn::MulAdd(a.low, b.high, product.low)));
}

HWY_INLINE Pair Add(const Pair& a, const Pair& b) {
  const Pair sum = TwoSum(a.high, b.high);
  return FastTwoSum(sum.high, sum.low + (a.low + b.low));
}

HWY_INLINE Pair Select(M condition, const Pair& yes, const Pair& no) {
  return {hn::IfThenElse(condition, yes.high, no.high), hn::IfThenElse(condition, yes.low, no.low)};
}

// The same recurrence in pairs, for what cancels.
struct PairFraction {
  Pair numerator;
  Pair denominator;
};

HWY_INLINE PairFraction RecurrenceInPairs(V v, V x) {
  const V zero = hn::Zero(Doubles());
  const Pair x2 = TwoProduct(x, x);
  const V length = RecurrenceLength(x) + Constant(14);
  PairFraction now = {{Constant(1), zero}, {AmosDenominator(v + length, x), zero}};
  for (double k = Largest(length); k >= 1; k -= 1) {
    const M active = Constant(k) <= length;
    const Pair m = TwoSum(v, Constant(k));
    const Pair twice = {m.high + m.high, m.low + m.low};
    const Pair previous = Add(Multiply(twice, now.denominator), Multiply(x2, now.numerator));
    now = {Select(active, now.denominator, now.numerator),
           Select(active, previous, now.denominator)};
  }
  return now;
}

HWY_INLINE Pair Negate(const Pair& a) {
  return {hn::Neg(a.high), hn::Neg(a.low)};
}

// 1 - I_{v+1}/I_v for v and x below 40.
HWY_INLINE V RecurrenceComplement(V v, V x) {
  const PairFraction ratio = RecurrenceInPairs(v, x);
  const Pair product = Multiply({x, hn::Zero(Doubles())}, ratio.numerator);
  const Pair difference = Add(ratio.denominator, Negate(product));
  return (difference.high + difference.low) / ratio.denominator.high;
}

// The derivative of r = I_{v+1}/I_v for v and x below 40: 1 - r^2 - (2v+1) r / x, with r / x = n /
// d as (d^2 - x^2 n^2 - (2v+1) n d) / d^2.
HWY_INLINE V RecurrenceSlope(V v, V x) {
  const auto [n, d] = RecurrenceInPairs(v, x);
  const Pair order = TwoSum(v + v, Constant(1));
  const Pair square = Multiply(TwoProduct(x, x), Multiply(n, n));
  const Pair mixed = Multiply(order, Multiply(n, d));
  const Pair difference = Add(Multiply(d, d), Negate(Add(square, mixed)));
  return (difference.high + difference.low) / (d.high * d.high);
}

// K_{v+1}/K_v, or with kSlope 1 + v/x - K_{v+1}/K_v, for v and x below 40.
template <bool kSlope, Zone kZone>
HWY_INLINE V NearRatioK(V v, V x) {
  const SplitOrder order = Split(v);
  ScaledK k;
  if constexpr (kZone == Zone::origin) {
    const ScaledArgument argument = ScaleUpTiny(x);
    const Pair log_half_x = LogOfPair(argument.value, hn::Zero(Doubles()),
                                      hn::Neg(argument.binary_shift + Constant(1)));
    k = TemmeK<true>(order, x, hn::Neg(log_half_x.high + log_half_x.low));
  } else {
    k = TrapezoidK<true, kZone>(order, x);
  }
  if constexpr (kSlope) {
    // v/x - ratio over the common denominator: twice the sum of two differences of like size.
    const V half_x = x * Constant(0.5);
    return hn::MulSub(v * Constant(0.5), k.current, k.next) / (k.current * half_x) + Constant(1);
  }
  return k.next / (k.current * (x * Constant(0.5)));
}

template <Ratio kRatio, Zone kZone>
HWY_INLINE V NearRatio(V v, V x) {
  if constexpr (kRatio == Ratio::i) return RecurrenceRatio(v, x);
  if constexpr (kRatio == Ratio::i_complement) return RecurrenceComplement(v, x);
  if constexpr (kRatio == Ratio::i_slope) return RecurrenceSlope(v, x);
  return NearRatioK<(kRatio == Ratio::k_slope), kZone>(v, x);
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::log_bessel
HWY_AFTER_NAMESPACE();

#endif
