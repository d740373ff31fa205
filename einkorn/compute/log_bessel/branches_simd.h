// The branches of the default method as branch-free vector functions of the order v and the
// argument x. Included once a target, from sources that follow core/simd.h.
//
// kFull asks for all of a double's precision. Without it a result is good to 1e-9 of the larger of
// it and 1, which is enough for float, at half the work.

#if defined(EINKORN_LOG_BESSEL_BRANCHES_SIMD_H) == defined(HWY_TARGET_TOGGLE)
#ifdef EINKORN_LOG_BESSEL_BRANCHES_SIMD_H
#undef EINKORN_LOG_BESSEL_BRANCHES_SIMD_H
#else
#define EINKORN_LOG_BESSEL_BRANCHES_SIMD_H
#endif

#include <cmath>

#include "einkorn/compute/log_bessel/debye_coefficients_internal.h"
#include "einkorn/compute/log_bessel/elementary_simd.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::log_bessel {
namespace HWY_NAMESPACE {

enum class Function { i, k };

HWY_INLINE double Largest(V value) {
  return hn::GetLane(hn::MaxOfLanes(Doubles(), value));
}

HWY_INLINE double Smallest(V value) {
  return hn::GetLane(hn::MinOfLanes(Doubles(), value));
}

// Arguments whose reciprocal or square root of the exponent range would not do are scaled by 2^600.
struct ScaledArgument {
  V value;
  V binary_shift;  // log(1 / x) = log(1 / value) + binary_shift * log 2
};

HWY_INLINE ScaledArgument ScaleUpTiny(V x) {
  const M tiny = x < Constant(0x1p-500);
  return {hn::IfThenElse(tiny, x * Constant(0x1p600), x), hn::IfThenElseZero(tiny, Constant(600))};
}

// The terms from k on of sum_{k=1}^{Order} a^(k-1) polynomial_k(p); the degree of the k-th
// polynomial is k + Extra.
template <int k, int Order, int Extra, class Table>
HWY_INLINE V UniformTerms(const Table& table, V a, V p) {
  V term = Constant(table[k - 1][k + Extra]);
  for (int m = k + Extra - 1; m >= 0; --m) {
    term = hn::MulAdd(term, p, Constant(table[k - 1][static_cast<std::size_t>(m)]));
  }
  if constexpr (k == Order) {
    return term;
  } else {
    return hn::MulAdd(UniformTerms<k + 1, Order, Extra>(table, a, p), a, term);
  }
}

// sum_{k=1}^{Order} (+-a)^k D_k(p), the logarithm of Debye's sum.
template <Function kFunction, int Order>
HWY_INLINE V UniformSum(V a, V p) {
  const V signed_a = kFunction == Function::i ? a : hn::Neg(a);
  return signed_a * UniformTerms<1, Order, 0>(tables::debye_log, signed_a, p);
}

// log I or log K (kScaled: log I - x, log K + x) by the uniform expansion with Order terms:
//   +-(s - v log((v + s) / x)) - log(s) / 2 - log(2 pi)/2 or + log(pi/2)/2 + UniformSum.
// The first part cancels where the function is near 1: s, the quotient and its logarithm carry 20
// bits more than a double.
template <Function kFunction, bool kScaled, int Order>
HWY_INLINE V Uniform(V v, V x) {
  const Pair v2 = TwoProduct(v, v);
  const Pair x2 = TwoProduct(x, x);
  const Pair square = TwoSum(v2.high, x2.high);
  const V square_low = square.low + (v2.low + x2.low);
  const V s = hn::Sqrt(square.high);
  const ScaledArgument argument = ScaleUpTiny(x);
  const V inverse_both = Constant(1) / (s * argument.value);
  const V a = inverse_both * argument.value;
  const V inverse_x = inverse_both * s;
  const V s_low = (hn::NegMulAdd(s, s, square.high) + square_low) * (a * Constant(0.5));

  const Pair numerator = FastTwoSum(s, v);
  const V quotient = numerator.high * inverse_x;
  const V quotient_low =
      (hn::NegMulAdd(quotient, argument.value, numerator.high) + (numerator.low + s_low)) *
      inverse_x;
  const Pair logarithm = LogOfPair(quotient, quotient_low, argument.binary_shift);
  const Pair product = TwoProduct(v, logarithm.high);
  const V product_low = hn::MulAdd(v, logarithm.low, product.low);
  const Pair start = kScaled ? TwoSum(s, hn::Neg(x)) : Pair{s, hn::Zero(Doubles())};
  const Pair exponent = TwoSum(start.high, hn::Neg(product.high));
  const V exponent_low = exponent.low + (start.low + (s_low - product_low));

  const LogParts log_s = LogInParts(s, hn::Zero(Doubles()), hn::Zero(Doubles()));
  const V va = v * a;
  const V series = UniformSum<kFunction, Order>(a, va * va);
  const V small = hn::NegMulAdd(Constant(0.5), log_s.fraction + log_s.rest, series);
  if constexpr (kFunction == Function::i) {
    const V base = hn::NegMulAdd(Constant(0.5), log_s.base, Constant(-tables::half_log_2pi_high));
    const Pair sum = TwoSum(exponent.high, base);
    return sum.high + (sum.low + (exponent_low + (small - Constant(tables::half_log_2pi_low))));
  } else {
    const V base =
        hn::NegMulAdd(Constant(0.5), log_s.base, Constant(tables::half_log_half_pi_high));
    const Pair sum = TwoSum(hn::Neg(exponent.high), base);
    return sum.high + (sum.low + ((small + Constant(tables::half_log_half_pi_low)) - exponent_low));
  }
}

// The same without the extra bits.
template <Function kFunction, bool kScaled, int Order>
HWY_INLINE V UniformSingle(V v, V x) {
  const V s = hn::Sqrt(hn::MulAdd(v, v, x * x));
  const V inverse_both = Constant(1) / (s * x);
  const V a = inverse_both * x;
  // s - x without cancellation where x is large.
  const V start = kScaled ? v * v / (s + x) : s;
  const V exponent = hn::NegMulAdd(v, Log<7>((v + s) * (inverse_both * s)), start);
  const V va = v * a;
  const V rest = hn::NegMulAdd(Constant(0.5), Log<4>(s), UniformSum<kFunction, Order>(a, va * va));
  if constexpr (kFunction == Function::i) {
    return exponent + (rest - Constant(tables::half_log_2pi_high));
  } else {
    return (rest + Constant(tables::half_log_half_pi_high)) - exponent;
  }
}

// ---- log I by its power series ---------------------------------------------------------------

// The order as an integer and a fraction in [-1/2, 1/2].
struct SplitOrder {
  V integer;
  V fraction;
};

HWY_INLINE SplitOrder Split(V v) {
  const V integer = hn::Round(v);
  return {integer, v - integer};
}

// log I (kScaled: log I - x) for v and x below 40:
//   v log(x/2) - log Gamma(v+1) + log sum_k (x^2/4)^k / (k! (v+1)...(v+k)).
// The sum is built from its last term with numerator and denominator apart, so that it needs one
// division; (v+1)...(v+k) with fraction f = v - round(v) also reduces the gamma function to
// (1.5, 2.5).
template <bool kScaled, bool kFull>
HWY_INLINE V PowerSeries(V v, V x) {
  const V one = Constant(1);
  const SplitOrder order = Split(v);
  const V y = x * x * Constant(0.25);
  V numerator = one;
  V denominator = one;
  // Each lane starts at its own last term, so that a result does not depend on its neighbours.
  const V terms = hn::Ceil(hn::MulAdd(x, Constant(kFull ? 1.3 : 1.1), Constant(kFull ? 10 : 6)));
  for (double k = Largest(terms); k > 1; k -= 1) {
    const M active = Constant(k) <= terms;
    const V following = denominator * hn::MulAdd(Constant(k), v, Constant(k * k));
    denominator = hn::IfThenElse(active, following, denominator);
    numerator = hn::IfThenElse(active, hn::MulAdd(y, numerator, denominator), numerator);
  }
  denominator = denominator * (v + one);
  const V added = y * numerator;  // sum = 1 + added / denominator

  V factorial = one;  // (2 + f) ... (n + f) = Gamma(1 + v) / Gamma(2 + f) for n >= 1
  V factor = order.fraction + one;
  const double largest_order = Largest(order.integer);
  for (double j = 2; j <= largest_order; j += 1) {
    factor = factor + one;
    factorial = hn::IfThenElse(Constant(j) <= order.integer, factorial * factor, factorial);
  }
  const V inverse = one / (denominator * factorial);

  // sum / factorial, or sum * (1 + f) for n = 0; next to 1 its distance from 1 is kept exactly.
  const V distance = added * inverse;
  const V with_fraction = hn::MulAdd(order.fraction, distance, distance + order.fraction);
  const Pair near_one =
      TwoSum(one, hn::IfThenElse(order.integer == hn::Zero(Doubles()), with_fraction, distance));
  const M is_large = order.integer >= Constant(2);
  const V total = hn::IfThenElse(is_large, (denominator + added) * inverse, near_one.high);
  const V total_low = hn::IfThenZeroElse(is_large, near_one.low);
  const V log_gamma = order.fraction * Polynomial(tables::log_gamma_coefficients, order.fraction);

  const ScaledArgument argument = ScaleUpTiny(x);
  const V zero = hn::Zero(Doubles());
  const LogParts log_total = LogInParts(total, total_low, zero);
  const V small = log_total.fraction + (log_total.rest - log_gamma);
  if constexpr (kFull) {
    const Pair logarithm = LogOfPair(argument.value, zero, hn::Neg(argument.binary_shift + one));
    const Pair product = TwoProduct(v, logarithm.high);
    const Pair sum = TwoSum(product.high, log_total.base);
    const Pair shifted = kScaled ? TwoSum(sum.high, hn::Neg(x)) : Pair{sum.high, zero};
    return shifted.high +
           (hn::MulAdd(v, logarithm.low, product.low) + (sum.low + shifted.low) + small);
  } else {
    const V logarithm = Log<7>(argument.value * Constant(0.5)) -
                        argument.binary_shift * Constant(tables::log2_high);
    const V sum = hn::MulAdd(v, logarithm, log_total.base) + small;
    return kScaled ? sum - x : sum;
  }
}

// ---- K near the origin -----------------------------------------------------------------------

// (x/2)^n K_v(x) and (x/2)^(n+1) K_{v+1}(x) with n = round(v).
struct ScaledK {
  V current;
  V next;
};

// Forward recurrence from the order mu = v - n next to zero, which is stable for K.
HWY_INLINE ScaledK Recur(ScaledK k, const SplitOrder& order, V y) {
  const double largest_order = Largest(order.integer);
  for (double j = 1; j <= largest_order; j += 1) {
    const M active = Constant(j) <= order.integer;
    const V after = hn::MulAdd(order.fraction + Constant(j), k.next, y * k.current);
    k.current = hn::IfThenElse(active, k.next, k.current);
    k.next = hn::IfThenElse(active, after, k.next);
  }
  return k;
}

// cosh(order * node) at equally spaced nodes by Reinsch's form of the three-term recurrence, which
// keeps relative precision at small steps.
struct CoshSequence {
  V value;
  V difference;
  V factor;  // 4 sinh(order * step / 2)^2

  HWY_INLINE CoshSequence(V order, double step) {
    const V z = order * Constant(step / 2);
    const V z2 = z * z;
    static constexpr std::array<double, 6> sinh_over_z = {1,         1. / 6,      1. / 120,
                                                          1. / 5040, 1. / 362880, 1. / 39916800};
    const V sinh = z * Polynomial(sinh_over_z, z2);
    factor = Constant(4) * sinh * sinh;
    difference = factor * Constant(0.5);
    value = Constant(1) + difference;
  }

  HWY_INLINE void Advance() {
    difference = hn::MulAdd(factor, value, difference);
    value = value + difference;
  }
};

// Where a point near the origin lies: what serves it, and how many nodes it takes, go by this.
enum class Zone {
  origin,  // x < 1
  middle,  // 1 <= x < 5
  near,    // 5 <= x < 12
  outer    // 12 <= x
};

// e^x times ScaledK for 1 <= x by the trapezoid rule on
//   e^x K_mu(x) = int_0^inf exp(-x (cosh u - 1)) cosh(mu u) du,  |mu| <= 1/2,
// and the same with mu + 1. The rule's error is of the size of K at the complex order
// mu + 2 pi i / step, which falls with exp(-pi^2 / step) and grows with exp(x).
template <bool kFull, Zone kZone>
HWY_INLINE ScaledK TrapezoidK(const SplitOrder& order, V x) {
  const tables::CoshNodes& nodes = tables::cosh_nodes;
  constexpr std::size_t stride =
      kFull ? (kZone == Zone::outer ? 2 : 3) : (kZone == Zone::middle ? 5 : 4);
  constexpr double step = static_cast<double>(stride) * tables::CoshNodes::spacing;
  constexpr double cut = kFull ? 38 : 22;
  const double smallest = Smallest(x);

  CoshSequence at_order(order.fraction, step);
  CoshSequence at_next(order.fraction + Constant(1), step);
  V current = Constant(0.5);
  V next = Constant(0.5);
  for (std::size_t j = stride; j < nodes.high.size(); j += stride) {
    const double node = static_cast<double>(j) * nodes.spacing;
    if (smallest * nodes.high[j] - 1.5 * node > cut) break;
    // Lanes with large x run on while others have not ended. In full precision they add less than
    // half an ulp, which changes nothing; otherwise their part is left out, so that a result does
    // not depend on its neighbours.
    const V lowest = Constant(-600);
    V weight;
    if constexpr (kFull) {
      const Pair exponent = TwoProduct(x, Constant(-nodes.high[j]));
      weight = Exp<14>(hn::Max(exponent.high, lowest),
                       hn::NegMulAdd(x, Constant(nodes.low[j]), exponent.low));
    } else {
      const V exponent = x * Constant(nodes.high[j]);
      weight = hn::IfThenElseZero(exponent <= Constant(cut + 1.5 * node),
                                  Exp<10>(hn::Max(hn::Neg(exponent), lowest), hn::Zero(Doubles())));
    }
    current = hn::MulAdd(weight, at_order.value, current);
    next = hn::MulAdd(weight, at_next.value, next);
    at_order.Advance();
    at_next.Advance();
  }
  const V half_x = x * Constant(0.5);
  return Recur({current * Constant(step), next * Constant(step) * half_x}, order, half_x * half_x);
}

// ScaledK for 0 < x <= 1 by Temme's series (J. Comput. Phys. 19, 1975) at mu, |mu| <= 1/2:
//   K_mu = sum_k c_k f_k,  K_{mu+1} = (2/x) sum_k c_k (p_k - k f_k),  c_k = (x^2/4)^k / k!.
// All terms are kept over the common denominator prod (k^2 - mu^2).
template <bool kFull>
HWY_INLINE ScaledK TemmeK(const SplitOrder& order, V x, V log_two_over_x) {
  const V one = Constant(1);
  const V half = Constant(0.5);
  const V mu = order.fraction;
  const V mu2 = mu * mu;
  // 1 / Gamma(1 +- mu) = even +- mu * odd, by the even and odd parts of its Taylor series.
  const V even = Polynomial(tables::reciprocal_gamma_even, mu2);
  const V odd = Polynomial(tables::reciprocal_gamma_odd, mu2);
  const V inverse_gamma_plus = hn::MulAdd(mu, odd, even);
  const V inverse_gamma_minus = hn::NegMulAdd(mu, odd, even);
  const V gamma_product = one / (inverse_gamma_plus * inverse_gamma_minus);

  const V sigma = mu * log_two_over_x;
  const V grown = Exp<14>(sigma, hn::Zero(Doubles()));
  const V shrunk = one / grown;
  static constexpr std::array<double, 9> sinh_over_sigma = {1,
                                                            1. / 6,
                                                            1. / 120,
                                                            1. / 5040,
                                                            1. / 362880,
                                                            1. / 39916800,
                                                            1. / 6227020800,
                                                            1. / 1307674368000,
                                                            1. / 355687428096000};
  const V sinh_ratio =
      hn::IfThenElse(hn::Abs(sigma) < one, Polynomial(sinh_over_sigma, sigma * sigma),
                     half * (grown - shrunk) / sigma);
  V f = gamma_product *
        hn::NegMulAdd(half * (grown + shrunk), odd, sinh_ratio * log_two_over_x * even);
  V p = half * grown * inverse_gamma_minus * gamma_product;
  V q = half * shrunk * inverse_gamma_plus * gamma_product;

  const V y = x * x * Constant(0.25);
  V denominator = one;
  V current = f;
  V next = p;
  constexpr int terms = kFull ? 10 : 6;
  for (int k = 1; k <= terms; ++k) {
    const V order_k = Constant(k);
    const V y_over_k = y * Constant(1.0 / k);
    const V divisor = Constant(k * k) - mu2;
    f = y_over_k * hn::MulAdd(order_k, f, p + q);
    p = p * (order_k + mu) * y_over_k;
    q = q * (order_k - mu) * y_over_k;
    denominator = denominator * divisor;
    current = hn::MulAdd(current, divisor, f);
    next = hn::MulAdd(next, divisor, hn::NegMulAdd(order_k, f, p));
  }
  const V inverse = one / denominator;
  return Recur({current * inverse, next * inverse}, order, y);
}

// log K (kScaled: log K + x) for v and x below 40.
template <bool kScaled, bool kFull, Zone kZone>
HWY_INLINE V NearK(V v, V x) {
  constexpr bool by_series = kZone == Zone::origin;
  const V zero = hn::Zero(Doubles());
  const SplitOrder order = Split(v);
  const ScaledArgument argument = ScaleUpTiny(x);
  const Pair log_half_x =
      LogOfPair(argument.value, zero, hn::Neg(argument.binary_shift + Constant(1)));
  ScaledK k;
  if constexpr (by_series) {
    k = TemmeK<kFull>(order, x, hn::Neg(log_half_x.high + log_half_x.low));
  } else {
    k = TrapezoidK<kFull, kZone>(order, x);
  }
  const LogParts log_k = LogInParts(k.current, zero, zero);
  const Pair product = TwoProduct(order.integer, hn::Neg(log_half_x.high));
  const Pair sum = TwoSum(product.high, log_k.base);
  V low = hn::NegMulAdd(order.integer, log_half_x.low, product.low) +
          (sum.low + (log_k.fraction + log_k.rest));
  // The trapezoid rule gives e^x K.
  if constexpr (kScaled == by_series) {
    const Pair shifted = TwoSum(sum.high, by_series ? x : hn::Neg(x));
    return shifted.high + (low + shifted.low);
  } else {
    return sum.high + low;
  }
}

template <Function kFunction, bool kScaled, bool kFull, Zone kZone>
HWY_INLINE V Near(V v, V x) {
  if constexpr (kFunction == Function::i) {
    return PowerSeries<kScaled, kFull>(v, x);
  } else {
    return NearK<kScaled, kFull, kZone>(v, x);
  }
}

// ---- order 1/2 -------------------------------------------------------------------------------

// log I_{1/2} = log(sqrt(2/(pi x)) sinh x), log K_{1/2} = log(sqrt(pi/(2x)) e^-x).
template <Function kFunction, bool kScaled>
HWY_INLINE V OrderHalf(V /*v*/, V x) {
  const V zero = hn::Zero(Doubles());
  const V one = Constant(1);
  const ScaledArgument argument = ScaleUpTiny(x);
  const LogParts log_x = LogInParts(argument.value, zero, hn::Neg(argument.binary_shift));
  if constexpr (kFunction == Function::k) {
    const V base =
        hn::NegMulAdd(Constant(0.5), log_x.base, Constant(tables::half_log_half_pi_high));
    const V low = hn::NegMulAdd(Constant(0.5), log_x.fraction + log_x.rest,
                                Constant(tables::half_log_half_pi_low));
    if constexpr (kScaled) return base + low;
    const Pair sum = TwoSum(hn::Neg(x), base);
    return sum.high + (sum.low + low);
  } else {
    // Below 1, sinh x / x by its series; above, e^x (1 - e^-2x) / 2.
    static constexpr std::array<double, 9> sinh_over_x = {1,
                                                          1. / 6,
                                                          1. / 120,
                                                          1. / 5040,
                                                          1. / 362880,
                                                          1. / 39916800,
                                                          1. / 6227020800,
                                                          1. / 1307674368000,
                                                          1. / 355687428096000};
    const M is_small = x < one;
    const V decayed = Exp<14>(hn::Max(x * Constant(-2), Constant(-600)), zero);
    const V argument_of_log =
        hn::IfThenElse(is_small, Polynomial(sinh_over_x, x * x), one - decayed);
    const LogParts log_sinh = LogInParts(argument_of_log, zero, zero);
    // log I = log(sinh x / x) + log(x)/2 + log(2/pi)/2 = x + log(1-e^-2x) - log(x)/2 - log(2 pi)/2
    const V sign = hn::IfThenElse(is_small, Constant(0.5), Constant(-0.5));
    const V constant_high = hn::IfThenElse(is_small, Constant(-tables::half_log_half_pi_high),
                                           Constant(-tables::half_log_2pi_high));
    const V constant_low = hn::IfThenElse(is_small, Constant(-tables::half_log_half_pi_low),
                                          Constant(-tables::half_log_2pi_low));
    const V base = hn::MulAdd(sign, log_x.base, constant_high) + log_sinh.base;  // exact
    const V low = hn::MulAdd(sign, log_x.fraction + log_x.rest, constant_low) +
                  (log_sinh.fraction + log_sinh.rest);
    const V linear =
        kScaled ? hn::IfThenElse(is_small, hn::Neg(x), zero) : hn::IfThenElse(is_small, zero, x);
    const Pair sum = TwoSum(linear, base);
    return sum.high + (sum.low + low);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::log_bessel
HWY_AFTER_NAMESPACE();

#endif
