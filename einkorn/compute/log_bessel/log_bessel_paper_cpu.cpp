// The published method as published: the switching table of the paper (Plesner, Sorensen, Hauberg
// 2024, table 1) over expansions in plain double, with the log-sum series and Simpson's rule as
// fall-backs. For comparison; the default method is more accurate.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>

#include "einkorn/compute/log_bessel/debye_coefficients_internal.h"
#include "einkorn/compute/log_bessel/log_bessel_kernels.h"

namespace einkorn::log_bessel {
namespace {

constexpr double pi = std::numbers::pi;

enum class Bessel { i, k };

// The large-argument expansion (Hankel) with `terms` terms.
double log_large_argument(Bessel function, int terms, double v, double x) {
  const double mu = 4 * v * v;
  const double sign = function == Bessel::i ? -1 : 1;
  double term = 1;
  double sum = 0;
  for (int k = 1; k <= terms; ++k) {
    const double odd = 2 * k - 1;
    term *= sign * (mu - odd * odd) / (8 * k * x);
    sum += term;
  }
  return function == Bessel::i ? x - 0.5 * std::log(2 * pi * x) + std::log1p(sum)
                               : 0.5 * std::log(pi / (2 * x)) - x + std::log1p(sum);
}

// The uniform expansion (Debye) with `terms` terms, in t = 1 / sqrt(1 + (x/v)^2).
double log_uniform(Bessel function, int terms, double v, double x) {
  static constexpr auto polynomials = tables::debye_polynomials<13>();
  const double z = x / v;
  const double r = std::sqrt(1 + z * z);
  const double t = 1 / r;
  // log z from the inputs, as z itself may underflow.
  const double eta = r + (std::log(x) - std::log(v) - std::log1p(r));
  const double sign = function == Bessel::i ? 1 : -1;
  double sum = 0;
  for (int k = terms; k >= 1; --k) {
    const auto& polynomial = polynomials[static_cast<std::size_t>(k - 1)];
    double u = 0;
    for (int m = k; m >= 0; --m) u = u * t * t + polynomial[static_cast<std::size_t>(m)];
    // t^k / v^k is taken out of the Horner scheme in 1/v.
    sum = (sum + u) * (sign * t / v);
  }
  const double common = -0.25 * std::log1p(z * z) + std::log1p(sum);
  return function == Bessel::i ? -0.5 * std::log(2 * pi * v) + v * eta + common
                               : 0.5 * std::log(pi / (2 * v)) - v * eta + common;
}

double log_gamma(double value) {
  int sign = 0;
  return lgamma_r(value, &sign);
}

// log I by the power series, summed in logarithms around its largest term.
double log_series_fallback(double v, double x) {
  constexpr int terms = 41;
  const double log_q = std::log(4.0) - 2 * std::log(x);
  std::array<double, terms> logs;
  logs[0] = -log_gamma(v + 1);
  for (int k = 1; k < terms; ++k) {
    const auto at = static_cast<std::size_t>(k);
    logs[at] = logs[at - 1] - (std::log(k * (k + v)) + log_q);
  }
  const auto peak = std::min<double>(terms - 1, std::floor((std::sqrt(v * v + x * x) - v) / 2));
  const double largest = logs[static_cast<std::size_t>(peak)];
  double sum = 0;
  for (const double log : logs) sum += std::exp(log - largest);
  return (v == 0 ? 0 : v * std::log(x / 2)) + largest + std::log(sum);
}

// log K by Rothwell's integral and Simpson's rule with 600 intervals.
double log_integral_fallback(double v, double x) {
  constexpr int intervals = 600;
  constexpr int n = 8;
  const double beta = 2.0 * n / (2 * v + 1);
  std::array<double, 2 * intervals> logs;
  double largest = -std::numeric_limits<double>::infinity();
  for (int i = 1; i <= intervals; ++i) {
    const double u = static_cast<double>(i) / intervals;
    const double power = std::pow(u, beta);
    const double log_weight = std::log(i == intervals ? 1.0 : i % 2 == 1 ? 4.0 : 2.0);
    const auto at = static_cast<std::size_t>(2 * (i - 1));
    logs[at] = log_weight + std::log(beta) - power + (v - 0.5) * std::log(2 * x + power) +
               (n - 1) * std::log(u);
    logs[at + 1] =
        log_weight - 1 / u - (2 * v + 1) * std::log(u) + (v - 0.5) * std::log1p(2 * x * u);
    largest = std::max({largest, logs[at], logs[at + 1]});
  }
  double sum = 0;
  for (const double log : logs) sum += std::exp(log - largest);
  return 0.5 * std::log(pi) - log_gamma(v + 0.5) - v * std::log(2 * x) - x + largest +
         std::log(sum) - std::log(3.0 * intervals);
}

double log_fallback(Bessel function, double v, double x) {
  return function == Bessel::i ? log_series_fallback(v, x) : log_integral_fallback(v, x);
}

// The first row whose condition holds; the inequalities and constants are the paper's.
double log_by_table(PaperTable table, Bessel function, double v, double x) {
  const double log_x = std::log(x);
  const double log_v = v == 0 ? -1000 : std::log(v);
  const bool all = table == PaperTable::full;
  if (all && ((x > 1400 && v < 3.05) || (0.6229 * log_x - 3.2318 > log_v && v > 3.1))) {
    return log_large_argument(function, 3, v, x);
  }
  if ((x > 30 && v < 15.3919) || (0.5113 * log_x + 0.7939 > log_v && x > 59.6925)) {
    return log_large_argument(function, 20, v, x);
  }
  if (all) {
    if ((x > 274.2377 && v > 0.3) || v > 163.6993) return log_uniform(function, 4, v, x);
    if ((x > 84.4153 && v > 0.46) || v > 56.9971) return log_uniform(function, 6, v, x);
    if ((x > 35.9074 && v > 0.6) || v > 20.1534) return log_uniform(function, 9, v, x);
  }
  if ((x > 19.6931 && v > 0.7) || v > 12.6964) return log_uniform(function, 13, v, x);
  return log_fallback(function, v, x);
}

}  // namespace

double paper(PaperTable table, Quantity quantity, double v, double x) {
  const bool is_i = quantity == Quantity::log_i || quantity == Quantity::log_i_scaled;
  if (v < 0 && (!is_i || v == std::floor(v))) v = -v;
  // The ends of the domain are those of the default method.
  if (!(v >= 0) || !(x > 0) || std::isinf(v) || std::isinf(x)) return reference(quantity, v, x);
  const double value = log_by_table(table, is_i ? Bessel::i : Bessel::k, v, x);
  if (quantity == Quantity::log_i_scaled) return value - x;
  if (quantity == Quantity::log_k_scaled) return value + x;
  return value;
}

}  // namespace einkorn::log_bessel
