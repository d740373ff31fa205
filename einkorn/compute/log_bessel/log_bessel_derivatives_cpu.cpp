// Derivatives in the order, one point at a time.
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>

#include "einkorn/compute/log_bessel/debye_coefficients_internal.h"
#include "einkorn/compute/log_bessel/log_bessel_kernels.h"
#include "einkorn/compute/log_bessel/saddle_internal.h"

namespace einkorn::log_bessel {
namespace {

bool is_in_domain(double v, double x) {
  return v >= 0 && x > 0 && std::isfinite(v + x);
}

// The same border as for the functions themselves.
bool is_near(double v, double x) {
  return v * v + x * x < 28 * 28 && v < 11 + 0.75 * x;
}

// asinh(v / x), also where the quotient overflows.
double asinh_of_quotient(double v, double x) {
  const double quotient = v / x;
  return std::isinf(quotient) ? std::numbers::ln2 + std::log(v) - std::log(x)
                              : std::asinh(quotient);
}

// -+asinh(v/x) - v a^2 (1/2 - sum_k (+-a)^k E_k(p)): upper signs for I.
double uniform_derivative(double sign, double v, double x) {
  static constexpr auto polynomials = tables::debye_order_derivatives<tables::debye_order>();
  const double s = std::hypot(v, x);
  const double signed_a = sign / s;
  const double p = (v / s) * (v / s);
  double sum = 0;
  for (std::size_t k = polynomials.size(); k-- > 0;) {
    double value = 0;
    for (std::size_t m = k + 2; m-- > 0;) value = value * p + polynomials[k][m];
    sum = (sum + value) * signed_a;
  }
  return -sign * asinh_of_quotient(v, x) - v / s / s * (0.5 - sum);
}

// psi(1 + v) for v >= 0: recurrence to 10, then the asymptotic series (DLMF 5.11.2).
double digamma_of_one_plus(double v) {
  double z = v + 1;
  double shift = 0;
  for (; z < 10; z += 1) shift += 1 / z;
  constexpr double coefficients[] = {1.0 / 12,  -1.0 / 120,     1.0 / 252, -1.0 / 240,
                                     1.0 / 132, -691.0 / 32760, 1.0 / 12};
  const double w = 1 / (z * z);
  double series = 0;
  for (std::size_t i = std::size(coefficients); i-- > 0;) series = (series + coefficients[i]) * w;
  return std::log(z) - 0.5 / z - series - shift;
}

// log(x/2) - psi(v+1) - the mean of sum_{j<=k} 1/(v+j) over the terms k of the power series.
double series_derivative(double v, double x) {
  const double y = x * x / 4;
  double term = 1;
  double sum = 1;
  double harmonic = 0;
  double weighted = 0;
  for (double k = 1; term > 0x1p-60 * sum; k += 1) {
    term *= y / (k * (k + v));
    harmonic += 1 / (v + k);
    sum += term;
    weighted += term * harmonic;
  }
  return std::log(x) - std::numbers::ln2 - digamma_of_one_plus(v) - weighted / sum;
}

}  // namespace

double log_i_order_derivative(double v, double x) {
  if (!is_in_domain(v, x)) return std::numeric_limits<double>::quiet_NaN();
  return is_near(v, x) ? series_derivative(v, x) : uniform_derivative(1, v, x);
}

double log_k_order_derivative(double v, double x) {
  if (!is_in_domain(v, x)) return std::numeric_limits<double>::quiet_NaN();
  if (v == 0) return 0;  // K is even in v
  return is_near(v, x) ? asinh_of_quotient(v, x) + saddle_sums(v, x).shift
                       : uniform_derivative(-1, v, x);
}

}  // namespace einkorn::log_bessel
