// Tables of the CPU kernels, made at compile time: logarithms of 32 points, the nodes of the
// integral for K, and the Taylor coefficients of the gamma function about 1 and 2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <numbers>

#include "einkorn/compute/log_bessel/double_double_internal.h"

namespace einkorn::log_bessel::tables {

// log 2 and the table below in two parts. The first is a multiple of 2^-42, so that
// exponent * log 2 + table entry is exact for every exponent of a double.
inline constexpr double log2_high = 0x1.62e42fefa4p-1;
inline constexpr double log2_low = -0x1.8432a1b0e2634p-43;

// Half the logarithms of 2 pi and of pi / 2, cut in the same way at 2^-43.
inline constexpr double half_log_2pi_high = 0x1.d67f1c864cp-1;
inline constexpr double half_log_2pi_low = -0x1.4b596d686dffdp-45;
inline constexpr double half_log_half_pi_high = 0x1.ce6bb25aa1p-3;
inline constexpr double half_log_half_pi_low = 0x1.8ae232b6371a5p-46;

constexpr double multiple_of_two_to_minus_42(double value) {
  constexpr double anchor = 0x1.8p+10;  // numbers around it are 2^-42 apart
  return (value + anchor) - anchor;
}

// log(value) for value in (1/2, 2): twice the series of atanh((value - 1) / (value + 1)).
constexpr DoubleDouble log_near_one(double value) {
  const DoubleDouble z = two_sum(value, -1.0) / two_sum(value, 1.0);
  const DoubleDouble z2 = z * z;
  DoubleDouble sum{};
  for (int k = 35; k >= 0; --k) {
    sum = sum * z2 + DoubleDouble{1.0} / DoubleDouble{2.0 * k + 1};
  }
  const DoubleDouble half = sum * z;
  return half + half;
}

// An octave from 0.707... on, cut into 32 intervals of equal width in the bits of the mantissa. The
// bits of a double minus log_table_origin, shifted right by 47, are 32 * exponent + interval.
// Interval 18 holds 1 and has the reciprocal 1, so that logarithms next to 0 keep their precision;
// everywhere |mantissa * reciprocal - 1| < 2^-6.
inline constexpr std::int64_t log_table_origin = 0x3fe6a00000000000;

struct LogTable {
  alignas(64) std::array<double, 32> reciprocal{};
  alignas(64) std::array<double, 32> log{};       // of 1 / reciprocal
  alignas(64) std::array<double, 32> log_high{};  // the same as two parts: a multiple of 2^-42
  alignas(64) std::array<double, 32> log_low{};
};

constexpr LogTable make_log_table() {
  LogTable table;
  for (std::size_t i = 0; i < 32; ++i) {
    const double fraction = 0x1.a8p-2 + (static_cast<double>(i) + 0.5) / 32;  // above 2^-1
    const double centre = fraction < 1 ? (1 + fraction) / 2 : fraction;
    table.reciprocal[i] = i == 18 ? 1.0 : 1 / centre;
    const DoubleDouble log = -log_near_one(table.reciprocal[i]);
    table.log[i] = log.high;
    table.log_high[i] = multiple_of_two_to_minus_42(log.high);
    table.log_low[i] = (log - DoubleDouble{table.log_high[i]}).value();
  }
  return table;
}

inline constexpr LogTable log_table = make_log_table();

// cosh(j / 16) - 1 in two parts, j = 0..95.
struct CoshNodes {
  static constexpr double spacing = 1.0 / 16;
  std::array<double, 96> high{};
  std::array<double, 96> low{};
};

constexpr CoshNodes make_cosh_nodes() {
  CoshNodes nodes;
  for (std::size_t j = 0; j < nodes.high.size(); ++j) {
    const DoubleDouble square =
        DoubleDouble{CoshNodes::spacing * CoshNodes::spacing * static_cast<double>(j * j)};
    DoubleDouble term = square * DoubleDouble{0.5};
    DoubleDouble sum = term;
    for (int k = 4; term.high > sum.high * 0x1p-110; k += 2) {
      term = term * square / DoubleDouble{static_cast<double>(k * (k - 1))};
      sum = sum + term;
    }
    nodes.high[j] = sum.high;
    nodes.low[j] = sum.low;
  }
  return nodes;
}

inline constexpr CoshNodes cosh_nodes = make_cosh_nodes();

// zeta(k) - 1 for k >= 2: twenty terms and the first of Euler-Maclaurin's correction.
constexpr long double zeta_minus_one(int k) {
  constexpr int last = 20;
  const auto inverse_power = [](long double base, int exponent) {
    long double power = 1;
    for (int i = 0; i < exponent; ++i) power /= base;
    return power;
  };
  const long double n = last;
  const long double at_last = inverse_power(n, k);
  long double sum = at_last * (n / (k - 1) + 0.5L);
  // B_2j / (2j)! * k (k+1) ... (k+2j-2) / n^(k+2j-1)
  constexpr long double bernoulli_over_factorial[] = {1.0L / 12, -1.0L / 720, 1.0L / 30240,
                                                      -1.0L / 1209600, 1.0L / 47900160};
  long double rising = k;
  for (int j = 1; j <= 5; ++j) {
    sum += bernoulli_over_factorial[j - 1] * rising * at_last * inverse_power(n, 2 * j - 1);
    rising *= static_cast<long double>(k + 2 * j - 1) * (k + 2 * j);
  }
  for (int i = last - 1; i >= 2; --i) sum += inverse_power(i, k);
  return sum;
}

// log Gamma(2 + f) = f * sum_k coefficient[k] f^k for |f| <= 1/2 (DLMF 5.7.3).
inline constexpr int log_gamma_terms = 27;

constexpr std::array<double, log_gamma_terms> make_log_gamma_coefficients() {
  std::array<double, log_gamma_terms> coefficients{};
  coefficients[0] = static_cast<double>(1 - std::numbers::egamma_v<long double>);
  for (int k = 2; k <= log_gamma_terms; ++k) {
    const long double magnitude = zeta_minus_one(k) / k;
    coefficients[static_cast<std::size_t>(k - 1)] =
        static_cast<double>(k % 2 == 0 ? magnitude : -magnitude);
  }
  return coefficients;
}

inline constexpr auto log_gamma_coefficients = make_log_gamma_coefficients();

// 1 / Gamma(1 + z) = sum_n coefficient[n] z^n, |z| <= 1/2 (DLMF 5.7.2).
inline constexpr int reciprocal_gamma_terms = 20;

constexpr std::array<double, reciprocal_gamma_terms> make_reciprocal_gamma_coefficients() {
  std::array<long double, reciprocal_gamma_terms> exact{};
  exact[0] = 1;
  for (int n = 1; n < reciprocal_gamma_terms; ++n) {
    long double sum = std::numbers::egamma_v<long double> * exact[static_cast<std::size_t>(n - 1)];
    for (int k = 2; k <= n; ++k) {
      const long double term = (1 + zeta_minus_one(k)) * exact[static_cast<std::size_t>(n - k)];
      sum += k % 2 == 0 ? -term : term;
    }
    exact[static_cast<std::size_t>(n)] = sum / n;
  }
  std::array<double, reciprocal_gamma_terms> coefficients{};
  for (std::size_t n = 0; n < reciprocal_gamma_terms; ++n) {
    coefficients[n] = static_cast<double>(exact[n]);
  }
  return coefficients;
}

inline constexpr auto reciprocal_gamma_coefficients = make_reciprocal_gamma_coefficients();

// Its even coefficients (first = 0) or its odd ones (first = 1).
constexpr std::array<double, reciprocal_gamma_terms / 2> every_other(std::size_t first) {
  std::array<double, reciprocal_gamma_terms / 2> chosen{};
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    chosen[i] = reciprocal_gamma_coefficients[2 * i + first];
  }
  return chosen;
}

inline constexpr auto reciprocal_gamma_even = every_other(0);
inline constexpr auto reciprocal_gamma_odd = every_other(1);

}  // namespace einkorn::log_bessel::tables
