// The arithmetic of one point (order v, argument x) on the device, for log I_v(x), log K_v(x), the
// ratios I_{v+1}/I_v and K_{v+1}/K_v, and slopes.
//
// With h = hypot(v, x), t = v/h and E = h - v log((v + h)/x) (which is v times Debye's eta):
//   log I =  E + log( (1 + sum_k       P_k(t^2)/h^k) / sqrt(2 pi h) )        u_k(t)/v^k =
//   P_k(t^2)/h^k log K = -E + log( (1 + sum_k (-1)^k P_k(t^2)/h^k) sqrt(pi / (2 h)) ) K     =
//   exp(-E)/2 integral exp( -h (cosh u - 1) - v (sinh u - u) ) du     over the real line
// Written in h, the uniform expansion is regular at v = 0, where it is the expansion in 1/x.
// h and the logarithm in E carry about ten bits more than a double, because E cancels near I = 1.
#pragma once

#include <cuda_runtime.h>

#include "einkorn/compute/log_bessel/log_bessel_tables_internal.h"

namespace einkorn::log_bessel::device {

using tables::DoubleDouble;
using tables::IntegralNodes;

__constant__ tables::DebyeTable debye = tables::debye_table();
__device__ const IntegralNodes nodes = tables::integral_nodes();

// 1/Gamma(1 + z) = sum_k c_k z^k (Abramowitz and Stegun 6.1.34), |z| <= 1/2: even and odd powers.
__constant__ double reciprocal_gamma_even[] = {1.0,
                                               -0.65587807152025388108,
                                               0.1665386113822914895,
                                               -0.0096219715278769735621,
                                               -0.0011651675918590651121,
                                               0.00012805028238811618615,
                                               -1.2504934821426706573e-6,
                                               -2.0563384169776071035e-7,
                                               5.0020076444692229301e-9,
                                               1.0434267116911005105e-10};
__constant__ double reciprocal_gamma_odd[] = {
    0.57721566490153286061,   -0.042002635034095235529,   -0.042197734555544336748,
    0.0072189432466630995424, -0.00021524167411495097282, -0.000020134854780788238656,
    1.1330272319816958824e-6, 6.1160951044814158179e-9,   -1.1812745704870201446e-9,
    7.782263439905071254e-12};

constexpr double pi = 3.14159265358979323846;
// log 2 in two parts; the first has 32 bits, so that an exponent times it is exact.
constexpr double log2_high = 0.693147180369123816490;
constexpr double log2_low = 1.90821492927058770002e-10;

// The uniform expansion with so many terms serves h >= bound: the one of I and K, and that of the
// derivative of their logarithms, for ratios and slopes.
struct ExpansionStep {
  int terms;
  float bound;
};

// What a result type asks of the arithmetic, which is done in double for both.
template <typename T>
struct Precision;

template <>
struct Precision<double> {
  static constexpr bool compensated = true;
  static constexpr int log_terms = 10;  // of atanh's series at |s| <= 1/5: below 2^-55
  static constexpr int exp_degree = 13;
  static constexpr double exp_cutoff = 40;
  // The first term left out is below 2^-53, and at the last bound below a third of an ulp of log I.
  // Fewer than six terms would do from 1155 on, but save less than a mixture of cases costs.
  static constexpr ExpansionStep steps[4] = {{6, 206.f}, {7, 124.f}, {9, 64.f}, {13, 28.5f}};
  static constexpr ExpansionStep ratio_steps[4] = {{6, 280.f}, {9, 84.f}, {11, 60.f}, {14, 36.f}};
};

template <>
struct Precision<float> {
  static constexpr bool compensated = false;
  static constexpr int log_terms = 6;
  static constexpr int exp_degree = 8;
  static constexpr double exp_cutoff = 22;
  // Likewise with 2^-28.
  static constexpr ExpansionStep steps[4] = {{2, 270.f}, {3, 75.f}, {4, 36.f}, {6, 17.5f}};
  static constexpr ExpansionStep ratio_steps[4] = {{4, 200.f}, {6, 40.f}, {9, 22.f}, {14, 14.f}};
};

// 2^exponent for -1022 <= exponent <= 1023.
__device__ inline double power_of_two(int exponent) {
  return __hiloint2double((exponent + 1023) << 20, 0);
}

// 1/x to 2 ulp for normal x whose reciprocal is normal: the hardware's 20 bits and a cubic step.
__device__ inline double reciprocal(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  const double error = fma(-x, y, 1.0);
  return fma(y, fma(error, error, error), y);
}

__device__ inline double reciprocal_square_root(double x) {
  double y;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  const double error = fma(-x * y, y, 1.0);
  return fma(y, error * fma(error, 0.375, 0.5), y);
}

template <int kTerms>
__device__ inline double polynomial(const double* coefficients, double x) {
  double sum = coefficients[kTerms - 1];
#pragma unroll
  for (int k = kTerms - 2; k >= 0; --k) sum = fma(sum, x, coefficients[k]);
  return sum;
}

// 2 atanh(s) = 2 s + s^3 atanh_tail(s^2).
// (Constants in memory cost nothing as operands; written out they cost two instructions each.)
__constant__ double atanh_coefficients[] = {2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11,
                                            2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21};

template <int kTerms>
__device__ inline double atanh_tail(double s2) {
  return polynomial<kTerms>(atanh_coefficients, s2);
}

// numerator / denominator = 2^exponent (1 + s)/(1 - s), |s| <= 1/5.
struct SplitQuotient {
  double numerator;    // scaled to [1, 3)
  double denominator;  // likewise
  double numerator_low;
  int exponent;
};

__device__ inline SplitQuotient split_quotient(double numerator, double numerator_low,
                                               double denominator) {
  const int numerator_exponent = ((__double2hiint(numerator) >> 20) & 0x7ff) - 1023;
  const int denominator_exponent = ((__double2hiint(denominator) >> 20) & 0x7ff) - 1023;
  const int mantissas =
      (__double2hiint(numerator) & 0x000fffff) - (__double2hiint(denominator) & 0x000fffff);
  // Mantissas in [1, 2) whose quotient leaves [2/3, 3/2] are brought back by one factor of two.
  const int shift = (mantissas + 0x80000) >> 20;
  const int down = shift > 0 ? 1 : 0;
  const int up = shift < 0 ? 1 : 0;
  return {__hiloint2double((__double2hiint(numerator) & 0x000fffff) + ((1023 + up) << 20),
                           __double2loint(numerator)),
          __hiloint2double((__double2hiint(denominator) & 0x000fffff) + ((1023 + down) << 20),
                           __double2loint(denominator)),
          numerator_low * power_of_two(up - numerator_exponent),
          numerator_exponent - denominator_exponent + shift};
}

// log((numerator + numerator_low) / denominator) for positive normal numbers below 2^1000, to about
// 2^-64 of the larger of the result and 1 where Precision asks for it, else to 2^-52.
template <typename T>
__device__ inline DoubleDouble log_quotient(double numerator, double numerator_low,
                                            double denominator) {
  const SplitQuotient parts = split_quotient(numerator, numerator_low, denominator);
  const double difference = parts.numerator - parts.denominator;  // exact
  const double exponent = parts.exponent;
  if constexpr (Precision<T>::compensated) {
    const DoubleDouble sum = tables::two_sum(parts.numerator, parts.denominator);
    const double inverse = reciprocal(sum.high);
    const double s = difference * inverse;
    const double sum_low = sum.low + parts.numerator_low;
    const double rest = fma(-s, sum_low, fma(-s, sum.high, difference) + parts.numerator_low);
    const double s_low = rest * inverse;
    // 2 atanh(s + s_low) = 2 s + 2/3 s^3 + ... with the rounding errors of the first two terms: s^3
    // is up to 2^-7, and the result is multiplied by orders of many digits.
    constexpr double third_high = 2.0 / 3;
    constexpr double third_low = 3.7007434154171886e-17;  // 2/3 - third_high
    const double s2 = s * s;
    const double s3 = s * s2;
    const double s3_low = fma(s, s2, -s3) + s * fma(s, s, -s2);
    const double cubic = third_high * s3;
    const double cubic_low = fma(third_high, s3, -cubic) + fma(third_high, s3_low, third_low * s3);
    const double quintic =
        s2 * s3 * polynomial<Precision<T>::log_terms - 1>(atanh_coefficients + 1, s2);
    const DoubleDouble linear = tables::fast_two_sum(exponent * log2_high, 2 * s);
    const DoubleDouble result = tables::fast_two_sum(linear.high, cubic);
    const double slope_low = fma(2 * s_low, s2, 2 * s_low);
    const double low =
        result.low + (linear.low + fma(exponent, log2_low, slope_low)) + (cubic_low + quintic);
    return tables::fast_two_sum(result.high, low);
  } else {
    const double s =
        (difference + parts.numerator_low) * reciprocal(parts.numerator + parts.denominator);
    const double s2 = s * s;
    const double tail = fma(s * s2, atanh_tail<Precision<T>::log_terms>(s2), exponent * log2_low);
    return {fma(exponent, log2_high, fma(2.0, s, tail)), 0.0};
  }
}

// log(numerator / denominator) to 1 ulp of the larger of the result and 1.
template <typename T>
__device__ inline double plain_log_quotient(double numerator, double denominator) {
  const SplitQuotient parts = split_quotient(numerator, 0.0, denominator);
  const double sum = parts.numerator + parts.denominator;
  const double difference = parts.numerator - parts.denominator;
  const double inverse = reciprocal(sum);
  const double approximate = difference * inverse;
  const double s = fma(fma(-approximate, sum, difference), inverse, approximate);
  const double s2 = s * s;
  const double exponent = parts.exponent;
  const double tail = fma(s * s2, atanh_tail<Precision<T>::log_terms>(s2), exponent * log2_low);
  return fma(exponent, log2_high, fma(2.0, s, tail));
}

__constant__ double exp_coefficients[] = {1.0,
                                          1.0,
                                          1.0 / 2,
                                          1.0 / 6,
                                          1.0 / 24,
                                          1.0 / 120,
                                          1.0 / 720,
                                          1.0 / 5040,
                                          1.0 / 40320,
                                          1.0 / 362880,
                                          1.0 / 3628800,
                                          1.0 / 39916800,
                                          1.0 / 479001600,
                                          1.0 / 6227020800};

// exp(-a) for 0 <= a < 700.
template <typename T>
__device__ inline double exp_of_negative(double a) {
  constexpr double to_integer = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double shifted = fma(-a, 1.44269504088896340736, to_integer);
  const double exponent = shifted - to_integer;
  const double rest = fma(-exponent, log2_low, fma(-exponent, log2_high, -a));
  const double sum = polynomial<Precision<T>::exp_degree + 1>(exp_coefficients, rest);
  return sum * power_of_two(__double2loint(shifted));
}

// h (with what its rounding leaves), 1/h and (v/h)^2.
struct Debye {
  double h;
  double h_low;
  double inverse_h;
  double t2;
};

template <typename T>
__device__ inline Debye debye_variables(double order, double argument) {
  const double order2 = order * order;
  const double argument2 = argument * argument;
  Debye result;
  if constexpr (Precision<T>::compensated) {
    const DoubleDouble square = tables::two_sum(order2, argument2);
    const double square_low =
        square.low + (fma(order, order, -order2) + fma(argument, argument, -argument2));
    result.inverse_h = reciprocal_square_root(square.high);
    result.h = square.high * result.inverse_h;
    result.h_low = (fma(-result.h, result.h, square.high) + square_low) * (0.5 * result.inverse_h);
  } else {
    result.inverse_h = reciprocal_square_root(order2 + argument2);
    result.h = (order2 + argument2) * result.inverse_h;
    result.h_low = 0;
  }
  result.t2 = order2 * (result.inverse_h * result.inverse_h);
  return result;
}

// E = h - v log((v + h)/x) or, scaled, E - x.
template <typename T, bool kScaled>
__device__ inline DoubleDouble debye_exponent(const Debye& at, double order, double argument) {
  const double sum = order + at.h;
  if constexpr (Precision<T>::compensated) {
    const double sum_low = (order - (sum - at.h)) + at.h_low;
    const DoubleDouble logarithm = log_quotient<T>(sum, sum_low, argument);
    const double product = order * logarithm.high;
    const double product_low = fma(order, logarithm.low, fma(order, logarithm.high, -product));
    if constexpr (!kScaled) {
      return {at.h - product, at.h_low - product_low};
    } else {
      const DoubleDouble start = tables::two_sum(at.h, -argument);
      const DoubleDouble difference = tables::two_sum(start.high, -product);
      return {difference.high, difference.low + (start.low + (at.h_low - product_low))};
    }
  } else {
    const double start = kScaled ? order * order * reciprocal(at.h + argument) : at.h;
    return {fma(-order, plain_log_quotient<T>(sum, argument), start), 0.0};
  }
}

// sum_{k >= 1} row_k(t^2) w^(k-1) over a table's rows of degree k + kExtra, where w is 1/h for I
// and -1/h for K. The tables are `debye`'s: P_k of the functions (times w the sum is their series),
// Q_k and R_k of the derivatives in x.
template <int kTerms, int kExtra, int kRows, int kColumns>
__device__ __forceinline__ double debye_series(const double (&table)[kRows][kColumns], double w,
                                               double t2) {
  double sum = 0;
#pragma unroll
  for (int k = kTerms; k >= 1; --k) {
    double value = table[k][k + kExtra];
#pragma unroll
    for (int j = k + kExtra - 1; j >= 0; --j) value = fma(value, t2, table[k][j]);
    sum = k == kTerms ? value : fma(sum, w, value);
  }
  return sum;
}

// 1 + sum_{k=1..terms} prod_{j=1..k} sign (4 v^2 - (2j-1)^2)/(8 j x), the expansion in 1/x: the sum
// is S- for I (sign -1) and S+ for K (sign +1).
__device__ inline double hankel_sum(int terms, double sign, double order, double argument) {
  const double mu = 4 * order * order;
  const double w = sign * 0.125 * reciprocal(argument);
  double sum = 1;
  for (int k = terms; k >= 1; --k) {
    const double odd = 2.0 * k - 1;
    sum = fma(sum, (mu - odd * odd) * w * reciprocal(static_cast<double>(k)), 1.0);
  }
  return sum;
}

// I_v(x) = (x/2)^v / Gamma(v+1) * sum_k q^k / prod_{j<=k} j (v+j), q = x^2/4, as numerator over
// denominator: the sum is built from its end without a division.
struct Fraction {
  double numerator;
  double numerator_low;
  double denominator;
};

__device__ inline Fraction power_series(double order, double argument) {
  const double q = 0.25 * argument * argument;
  const int last = static_cast<int>(12 + 1.25 * argument) + 1;  // leaves 2^-56 of the sum
  double numerator = 1;
  double denominator = 1;
  for (int k = last; k > 1; --k) {
    denominator *= fma(static_cast<double>(k), order, static_cast<double>(k * k));
    numerator = fma(q, numerator, denominator);
  }
  denominator *= order + 1;
  const double added = q * numerator;
  const double sum = denominator + added;
  // Where the sum is next to 1 its logarithm needs what the addition rounds away.
  const double low = added < denominator ? added - (sum - denominator) : 0.0;
  return {sum, low, denominator};
}

struct ReciprocalGamma {
  double plus;   // 1/Gamma(1 + z)
  double minus;  // 1/Gamma(1 - z)
  double even;
  double odd;
};

__device__ inline ReciprocalGamma reciprocal_gamma(double z) {
  const double z2 = z * z;
  const double even = polynomial<10>(reciprocal_gamma_even, z2);
  const double odd = polynomial<10>(reciprocal_gamma_odd, z2);
  return {fma(z, odd, even), fma(-z, odd, even), even, odd};
}

// I_{v+1}(x)/I_v(x) by backward recurrence (Miller) of I_{v+j} (x/2)^-j.
__device__ inline double ratio_i_by_recurrence(double order, double argument) {
  const double q = 0.25 * argument * argument;
  const int last = static_cast<int>(14 + 1.5 * argument);
  double following = 0;
  double current = 1;
  for (int j = last; j >= 1; --j) {
    const double previous = fma(order + j, current, q * following);
    following = current;
    current = previous;
  }
  return 0.5 * argument * following / current;
}

// The same recurrence in pairs of doubles, for what cancels:
// I_{v+1}/I_v = x/2 * numerator / denominator.
struct PairFraction {
  DoubleDouble numerator;
  DoubleDouble denominator;
};

__device__ inline PairFraction ratio_i_in_pairs(double order, double argument) {
  const double half = 0.5 * argument;
  const DoubleDouble q = tables::two_product(half, half);
  PairFraction now = {{0.0, 0.0}, {1.0, 0.0}};
#pragma unroll 1
  for (int j = static_cast<int>(28 + 1.5 * argument); j >= 1; --j) {
    const DoubleDouble previous =
        tables::two_sum(order, static_cast<double>(j)) * now.denominator + q * now.numerator;
    now = {now.denominator, previous};
  }
  return now;
}

__device__ inline double ratio_i_complement_by_recurrence(double order, double argument) {
  const PairFraction ratio = ratio_i_in_pairs(order, argument);
  const DoubleDouble scaled = DoubleDouble{0.5 * argument, 0.0} * ratio.numerator;
  return (ratio.denominator - scaled).value() / ratio.denominator.high;
}

// r' = 1 - r^2 - (2v + 1) r / x over the denominator's square.
__device__ inline double ratio_i_slope_by_recurrence(double order, double argument) {
  const auto [numerator, denominator] = ratio_i_in_pairs(order, argument);
  const double half = 0.5 * argument;
  const DoubleDouble square = tables::two_product(half, half) * (numerator * numerator);
  const DoubleDouble mixed = tables::two_sum(order, 0.5) * (numerator * denominator);
  const DoubleDouble difference = denominator * denominator - (square + mixed);
  return difference.value() / (denominator.high * denominator.high);
}

// The trapezoid rule for the integral of K_v, and what K_{v+1} adds to it: the weights, and the
// weights times exp(u) - 1.
struct IntegralSums {
  double value;
  double added;
  double spacing;
};

// The step that leaves 2^-53 of the integral.
__device__ inline int integral_stride(double h) {
  return h < 5 ? 3 : h < 22 ? 2 : 1;
}

template <typename T>
__device__ inline IntegralSums integrate_k(double order, double h) {
  const int stride = integral_stride(h);
  double value = 0;
#pragma unroll 1
  for (int side = -1; side <= 1; side += 2) {
    const double signed_order = side * order;
#pragma unroll 1
    for (int j = stride; j <= IntegralNodes::last; j += stride) {
      const double exponent =
          fma(signed_order, nodes.sinh_minus_node[j], h * nodes.cosh_minus_one[j]);
      if (exponent > Precision<T>::exp_cutoff) break;
      value += exp_of_negative<T>(exponent);
    }
  }
  return {value + 1, 0.0, stride * IntegralNodes::spacing};
}

// exp(u) - 1 is cosh(u) - 1, small of second order, and sinh(u), whose parts from both sides nearly
// cancel: they are summed as the difference of the weights at -u and u, formed without loss.
template <typename T>
__device__ inline IntegralSums integrate_next_k(double order, double h) {
  const int stride = integral_stride(h);
  double value = 0;
  double added = 0;
#pragma unroll 1
  for (int j = stride; j <= IntegralNodes::last; j += stride) {
    const double odd = order * nodes.sinh_minus_node[j];
    const double exponent = fma(h, nodes.cosh_minus_one[j], -odd);  // at -u, the smaller one
    if (exponent > Precision<T>::exp_cutoff) break;
    const double left = exp_of_negative<T>(exponent);
    const double difference = left * expm1(-2 * odd);  // right - left
    const double sinh_node = j * IntegralNodes::spacing + nodes.sinh_minus_node[j];
    const double both = 2 * left + difference;
    value += both;
    added = fma(both, nodes.cosh_minus_one[j], fma(difference, sinh_node, added));
  }
  return {value + 1, added, stride * IntegralNodes::spacing};
}

// (x/2)^v K_v(x) and (x/2)^(v+1) K_{v+1}(x) for 0 < x <= 1 by Temme's series (J. Comput. Phys. 19,
// 1975) at the order next to zero, then forward recurrence. Also log(2/x).
struct ScaledK {
  double value;
  double next;
  DoubleDouble log_two_over_x;
};

template <typename T>
__device__ inline ScaledK temme_k(double order, double argument) {
  // Subnormal arguments have no usable exponent field; both sides of the quotient are scaled.
  const double scale = argument < 0x1p-960 ? 0x1p64 : 1.0;
  const DoubleDouble logarithm = log_quotient<T>(2 * scale, 0.0, argument * scale);
  const int steps = static_cast<int>(rint(order));
  const double mu = order - steps;
  const ReciprocalGamma gamma = reciprocal_gamma(mu);
  const double two_sigma = 2 * mu * (logarithm.high + logarithm.low);
  // (x/2)^(2 mu) - 1; the bound is met only where this term no longer counts.
  const double power_minus_one = expm1(fmin(-two_sigma, 690.0));
  const double sinh_part = two_sigma == 0 ? 1.0 : -power_minus_one / two_sigma;

  double p = 0.5 / gamma.plus;
  double r = 0.5 * (1 + power_minus_one) / gamma.minus;
  double f = (fma(-gamma.odd, 1 + 0.5 * power_minus_one,
                  sinh_part * (logarithm.high + logarithm.low) * gamma.even)) /
             (gamma.plus * gamma.minus);
  const double q = 0.25 * argument * argument;
  double coefficient = 1;
  double value = f;
  double next = p;
#pragma unroll 1
  for (int k = 1; k <= 10; ++k) {
    const double inverse = reciprocal(fma(-mu, mu, static_cast<double>(k * k)));
    f = fma(static_cast<double>(k), f, p + r) * inverse;
    p *= (k + mu) * inverse;
    r *= (k - mu) * inverse;
    coefficient *= q * reciprocal(static_cast<double>(k));
    value = fma(coefficient, f, value);
    next = fma(coefficient, fma(-static_cast<double>(k), f, p), next);
  }
  for (int j = 1; j <= steps; ++j) {
    const double after = fma(q, value, (mu + j) * next);
    value = next;
    next = after;
  }
  return {value, next, logarithm};
}

}  // namespace einkorn::log_bessel::device
