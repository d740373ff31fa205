// The plain reference: one point at a time, written for reading. The uniform expansion is summed in
// double-double, so that it is right where log I or log K passes through zero at large order.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <optional>

#include "einkorn/compute/log_bessel/debye_coefficients_internal.h"
#include "einkorn/compute/log_bessel/log_bessel_kernels.h"
#include "einkorn/compute/log_bessel/saddle_internal.h"
#include "einkorn/compute/log_bessel/tables_internal.h"

namespace einkorn::log_bessel {
namespace {

using tables::DoubleDouble;
using tables::two_product;
using tables::two_sum;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double pi = std::numbers::pi;
constexpr DoubleDouble log2 = {std::numbers::ln2, 0x1.abc9e3b39803fp-56};

bool is_scaled(Quantity quantity) {
  return quantity == Quantity::log_i_scaled || quantity == Quantity::log_k_scaled;
}

bool is_i(Quantity quantity) {
  return quantity == Quantity::log_i || quantity == Quantity::log_i_scaled;
}

// log(value) of a positive normal number, to about 100 bits: a table entry and a short series.
DoubleDouble log(DoubleDouble value) {
  int exponent = 0;
  double mantissa = std::frexp(value.high, &exponent);
  if (mantissa < std::numbers::sqrt2 / 2) {
    mantissa *= 2;
    exponent -= 1;
  }
  const auto& table = tables::log_table;
  std::size_t nearest = 0;
  for (std::size_t i = 1; i < table.reciprocal.size(); ++i) {
    const auto distance = [&](std::size_t entry) {
      return std::abs(mantissa * table.reciprocal[entry] - 1);
    };
    if (distance(i) < distance(nearest)) nearest = i;
  }
  const DoubleDouble scaled = {mantissa, std::ldexp(value.low, -exponent)};
  const DoubleDouble f = scaled * DoubleDouble{table.reciprocal[nearest]} - DoubleDouble{1};
  DoubleDouble sum{};
  for (int n = 18; n >= 1; --n) {
    sum = DoubleDouble{n % 2 == 1 ? 1.0 : -1.0} / DoubleDouble{static_cast<double>(n)} + f * sum;
  }
  return DoubleDouble{static_cast<double>(exponent)} * log2 +
         DoubleDouble{table.log_high[nearest]} + DoubleDouble{table.log_low[nearest]} + f * sum;
}

template <std::size_t Size>
double horner(const std::array<double, Size>& coefficients, double x) {
  double sum = 0;
  for (std::size_t i = Size; i-- > 0;) sum = sum * x + coefficients[i];
  return sum;
}

// sum_k (+-a)^k polynomial_k(p) over all orders of the table.
double uniform_sum(const tables::PolynomialTable<tables::debye_order>& table, double a, double p) {
  double sum = 0;
  for (std::size_t k = table.size(); k-- > 0;) sum = (sum + horner(table[k], p)) * a;
  return sum;
}

// s - v log((v + s) / x): the logarithm of I or 1/K but for factors of algebraic size.
DoubleDouble exponent(double v, double x, DoubleDouble s) {
  const double scale = x < 0x1p-500 ? 0x1p600 : 1;
  DoubleDouble logarithm = log((s + DoubleDouble{v}) / DoubleDouble{x * scale});
  if (scale != 1) logarithm = logarithm + DoubleDouble{600} * log2;
  return s - DoubleDouble{v} * logarithm;
}

// v or x is positive. Small sides are scaled, as their squares would underflow.
DoubleDouble hypotenuse(double v, double x) {
  const double scale = std::max(v, x) < 0x1p-400 ? 0x1p600 : 1;
  const DoubleDouble square = two_product(v * scale, v * scale) + two_product(x * scale, x * scale);
  const double root = std::sqrt(square.high);
  const DoubleDouble rest = square - two_product(root, root);
  return tables::fast_two_sum(root / scale, rest.high / (2 * root) / scale);
}

double log_uniform(Quantity quantity, double v, double x) {
  const DoubleDouble s = hypotenuse(v, x);
  const double sign = is_i(quantity) ? 1 : -1;
  const double t = v / s.high;
  const double sum = uniform_sum(tables::debye_log, sign / s.high, t * t);
  const DoubleDouble constant =
      is_i(quantity) ? -DoubleDouble{tables::half_log_2pi_high, tables::half_log_2pi_low}
                     : DoubleDouble{tables::half_log_half_pi_high, tables::half_log_half_pi_low};
  const DoubleDouble unscaled = is_scaled(quantity) ? DoubleDouble{x} : DoubleDouble{};
  return (DoubleDouble{sign} * (exponent(v, x, s) - unscaled) - DoubleDouble{0.5} * log(s) +
          constant + DoubleDouble{sum})
      .value();
}

// order * log(x / 2), 0 where the order is.
DoubleDouble log_power_of_half(double order, double x) {
  const double scale = x < 0x1p-500 ? 0x1p600 : 1;
  const DoubleDouble shift = DoubleDouble{scale == 1 ? -1.0 : -601.0} * log2;
  return DoubleDouble{order} * (log(DoubleDouble{x * scale}) + shift);
}

// log I_v(x), or with subtracted = x its scaled form.
double log_i_by_power_series(double v, double x, double subtracted) {
  const double y = x * x / 4;
  double term = 1;
  double sum = 0;  // without the first term, 1
  for (double k = 1; term > 0x1p-60 * (1 + sum); k += 1) {
    term *= y / (k * (k + v));
    sum += term;
  }
  // Gamma(1 + v) = Gamma(2 + f) * (2 + f) ... (n + f), over 1 + f for n = 0; v = n + f.
  const double n = std::round(v);
  const double f = v - n;
  double product = 1;
  for (double j = 2; j <= n; j += 1) product *= f + j;
  const double log_gamma_of_two_plus_f = f * horner(tables::log_gamma_coefficients, f);
  const DoubleDouble log_sum = log(two_sum(1.0, n == 0 ? sum + f + f * sum : sum));
  return (log_power_of_half(v, x) - log(DoubleDouble{product}) + log_sum -
          DoubleDouble{log_gamma_of_two_plus_f} - DoubleDouble{subtracted})
      .value();
}

// Inside these borders the truncation of the uniform expansions shows.
bool is_near_for_logs(double v, double x) {
  return v * v + x * x < 28 * 28 && v < 11 + 0.75 * x;
}
bool is_near_for_ratios(double v, double x) {
  return v * v + x * x < 36 * 36;
}

double log_regular(Quantity quantity, double v, double x) {
  if (!is_near_for_logs(v, x)) return log_uniform(quantity, v, x);
  if (is_i(quantity)) return log_i_by_power_series(v, x, is_scaled(quantity) ? x : 0);
  const double integral = std::log(saddle_sums(v, x).integral);
  const DoubleDouble unscaled = is_scaled(quantity) ? DoubleDouble{x} : DoubleDouble{};
  return (unscaled - exponent(v, x, hypotenuse(v, x)) + DoubleDouble{integral}).value();
}

// I_{v+1}/I_v by its continued fraction 1/(2(v+1)/x + 1/(2(v+2)/x + ...)), from far behind.
DoubleDouble ratio_by_continued_fraction(double v, double x) {
  DoubleDouble ratio{};
  for (double k = 100; k >= 1; k -= 1) {
    const DoubleDouble m = two_sum(v, k);
    ratio = DoubleDouble{1} / ((m + m) / DoubleDouble{x} + ratio);
  }
  return ratio;
}

// K_{v+1} is the integral of K_v with another factor e^u, and e^peak = (v + s) / x.
double k_ratio_by_integral(double v, double x) {
  if (v < 0x1p-500) v = 0;  // as saddle_sums has it
  const SaddleSums sums = saddle_sums(v, x);
  return (v + std::hypot(v, x)) / x * sums.growth;
}

// The derivative of log(e^x K_v) in x is minus the mean of cosh u - 1 under the weight of K's
// integral: a quotient of sums of positive terms.
double k_slope_by_integral(double v, double x) {
  if (v < 0x1p-500) v = 0;  // as the exponent has it
  const SaddleExponent exponent(v, x);
  const double saddle = std::asinh(v / x);
  const double growth = (v + std::hypot(v, x)) / x;  // e^saddle, to its last digits
  // e^-e (cosh u - 1) / growth: neither cosh u nor the sum may overflow before the result does.
  const auto weighted_excess = [&](double w, double e) {
    const double u = saddle + w;
    if (std::abs(u) < 1) return std::exp(-e) * 2 * std::pow(std::sinh(u / 2), 2) / growth;
    const double y = growth * std::exp(w);
    // In halves: e^|w| alone may overflow, and |w| - e would round.
    const double root = std::exp(y > 1 ? w / 2 : -w / 2);
    const double part = root * (y > 1 ? 1 - 1 / y : (1 - y) / growth);
    return 0.5 * part * std::exp(-e) * part;
  };
  DoubleDouble weights{1};
  DoubleDouble sum{weighted_excess(0, 0)};
  for (const double side : {1.0, -1.0}) {
    for (double j = 1;; j += 1) {
      const double w = side * j * saddle_step;
      const double e = exponent(w);
      if (e - std::abs(w) > saddle_cut) break;
      weights = weights + DoubleDouble{std::exp(-e)};
      sum = sum + DoubleDouble{weighted_excess(w, e)};
    }
  }
  return std::isfinite(sum.value()) ? -(sum.value() / weights.value()) * growth : -infinity;
}

// The derivative of the uniform expansion of I_{v+1}/I_v in x.
double ratio_slope_uniform(double v, double x) {
  const double s = std::hypot(v, x);
  const double p = (v / s) * (v / s);
  double sum = 0;
  for (std::size_t k = tables::debye_second.size(); k-- > 0;) {
    sum = (sum + horner(tables::debye_second[k], p)) / s;
  }
  return v / s / (s + v) + (0.5 - p - sum) / s / s;
}

// The derivative of the uniform expansions in x.
double ratio_uniform(Quantity quantity, double v, double x) {
  const double s = std::hypot(v, x);
  const bool is_k = quantity == Quantity::ratio_k || quantity == Quantity::slope_k_scaled;
  const double signed_a = (is_k ? -1 : 1) / s;
  const double series = uniform_sum(tables::debye_argument, signed_a, (v / s) * (v / s));
  const double correction = x / s / s * (0.5 + series);
  if (quantity == Quantity::ratio_i) return x / (s + v) - correction;
  if (quantity == Quantity::ratio_k) return (s + v) / x + correction;
  const double s_minus_x = v * (v / (s + x));
  if (quantity == Quantity::slope_k_scaled) return -(s_minus_x / x + correction);
  return (v + s_minus_x) / (s + v) + correction;
}

double ratio_regular(Quantity quantity, double v, double x) {
  if (!is_near_for_ratios(v, x)) {
    return quantity == Quantity::ratio_i_slope ? ratio_slope_uniform(v, x)
                                               : ratio_uniform(quantity, v, x);
  }
  if (quantity == Quantity::ratio_k) return k_ratio_by_integral(v, x);
  if (quantity == Quantity::slope_k_scaled) return k_slope_by_integral(v, x);
  // 2 m / x would overflow below; there the first term of the series is exact.
  constexpr double tiny = 0x1p-500;
  const DoubleDouble ratio =
      x < tiny ? DoubleDouble{x / 2 / (v + 1)} : ratio_by_continued_fraction(v, x);
  const DoubleDouble complement = DoubleDouble{1} - ratio;
  if (quantity == Quantity::ratio_i) return ratio.value();
  if (quantity == Quantity::ratio_i_complement) return complement.value();
  // r' = 1 - r^2 - (2v+1) r / x
  if (x < tiny) return 0.5 / (v + 1);
  const DoubleDouble order = DoubleDouble{v} + DoubleDouble{v} + DoubleDouble{1};
  return (DoubleDouble{1} - ratio * ratio - order * ratio / DoubleDouble{x}).value();
}

// At the ends of the domain; empty inside it.
std::optional<double> limit(Quantity quantity, double v, double x) {
  if (std::isinf(v) && std::isinf(x)) return nan;
  const bool at_zero = x == 0 || std::isinf(v);
  const bool at_infinity = std::isinf(x);
  if (!at_zero && !at_infinity) return std::nullopt;
  switch (quantity) {
    case Quantity::log_i:
      return at_infinity ? infinity : v == 0 ? 0 : -infinity;
    case Quantity::log_i_scaled:
      return at_zero && v == 0 ? 0 : -infinity;
    case Quantity::log_k:
    case Quantity::log_k_scaled:
      return at_zero ? infinity : -infinity;
    case Quantity::ratio_i:
      return at_zero ? 0 : 1;
    case Quantity::ratio_i_complement:
      return at_zero ? 1 : 0;
    case Quantity::ratio_i_slope:
      return at_zero ? 0.5 / (v + 1) : 0;
    case Quantity::ratio_k:
      return at_zero ? infinity : 1;
    case Quantity::slope_k_scaled:
      return at_zero ? -infinity : 0;
  }
  return nan;
}

// v or x beyond 2^400, where squares overflow and the expansion is its first term.
double log_huge(Quantity quantity, double v, double x) {
  const double s = std::hypot(v, x);
  const double ratio = v / x;
  const double logarithm =
      std::isinf(ratio) ? std::log(2.0) + std::log(v) - std::log(x) : std::asinh(ratio);
  const double start = is_scaled(quantity) ? v * (v / (s + x)) : s;
  const double exponent = v == 0 ? start : start - v * logarithm;
  return is_i(quantity) ? exponent - 0.5 * (std::log(2 * pi) + std::log(s))
                        : -exponent + 0.5 * (std::log(pi / 2) - std::log(s));
}

}  // namespace

double reference(Quantity quantity, double v, double x) {
  const bool is_log = quantity <= Quantity::log_k_scaled;
  if (v < 0 && is_log && (!is_i(quantity) || v == std::floor(v))) v = -v;
  if (!(v >= 0) || !(x >= 0)) return nan;
  if (const auto value = limit(quantity, v, x)) return *value;
  constexpr double huge = 0x1p400;
  if (!is_log) return ratio_regular(quantity, v, x);
  return v < huge && x < huge ? log_regular(quantity, v, x) : log_huge(quantity, v, x);
}

}  // namespace einkorn::log_bessel
