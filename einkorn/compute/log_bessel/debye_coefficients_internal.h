// The coefficients of the uniform (Debye) expansions, made exactly at compile time.
//
// With s = sqrt(v^2 + x^2), p = v^2 / s^2, t = v / s and a = 1 / s (DLMF 10.41):
//
//   I_v(x) = exp(+(s - v asinh(v/x))) / sqrt(2 pi s) * sum_k        u_k(t) / v^k
//   K_v(x) = exp(-(s - v asinh(v/x))) * sqrt(pi/(2s)) * sum_k (-1)^k u_k(t) / v^k
//
// The default method uses the logarithm of the sum, sum_{k>=1} (+-1)^k D_k(t) / v^k. As D_k has
// only the powers t^k, t^(k+2), ..., t^(3k), D_k(t) / v^k = a^k * polynomial(p): nothing is divided
// by v, so the expansion holds down to v = 0 (where it is Hankel's) as long as s is large.
#pragma once

#include <array>
#include <cstddef>

namespace einkorn::log_bessel::tables {

__extension__ using Integer128 = __int128;

// A polynomial of degree k at [k - 1] for k = 1..Order, lowest power first.
template <int Order>
using PolynomialTable = std::array<std::array<double, Order + 1>, Order>;

// Integers g_k with dD_k/dt = g_k(t) / 8^k, and only every other power of t:
// g[k - 1][m] belongs to t^(k - 1 + 2m). From Debye's recurrence for u_k and F = log sum u_k / v^k:
//   D_{k+1}' = (w D_k' / 2)' + (w / 2) sum_{i=1}^{k-1} D_i' D_{k-i}',  w = t^2 (1 - t^2),
//   D_1' = (1 - 5 t^2) / 8.
template <int Order>
constexpr auto debye_log_derivatives() {
  std::array<std::array<Integer128, Order + 1>, Order> g{};
  g[0][0] = 1;
  g[0][1] = -5;
  for (std::size_t k = 1; k < Order; ++k) {
    std::array<Integer128, Order + 1> before_w{};  // the sum of products, still without w
    for (std::size_t i = 1; i < k; ++i) {
      for (std::size_t m = 0; m <= i; ++m) {
        for (std::size_t n = 0; n <= k - i; ++n) before_w[m + n] += g[i - 1][m] * g[k - i - 1][n];
      }
    }
    for (std::size_t m = 0; m <= k; ++m) {
      // The power of t in w g_k is k + 1 + 2m (and two more for the second part of w).
      const auto power = static_cast<Integer128>(k + 1 + 2 * m);
      g[k][m] += 4 * (power * g[k - 1][m] + before_w[m]);
      g[k][m + 1] -= 4 * ((power + 2) * g[k - 1][m] + before_w[m]);
    }
  }
  return g;
}

// numerator / (8^k * divisor), to the nearest double but for at most one further rounding.
constexpr double over_power_of_eight(Integer128 numerator, std::size_t k, std::size_t divisor) {
  double power = 1;
  for (std::size_t i = 0; i < k; ++i) power *= 8;
  return static_cast<double>(static_cast<long double>(numerator) /
                             static_cast<long double>(divisor)) /
         power;
}

// D_k(t) / v^k = a^k * D[k - 1](p).
template <int Order>
constexpr PolynomialTable<Order> debye_log_polynomials() {
  constexpr auto g = debye_log_derivatives<Order>();
  PolynomialTable<Order> polynomials{};
  for (std::size_t k = 1; k <= Order; ++k) {
    for (std::size_t m = 0; m <= k; ++m) {
      polynomials[k - 1][m] = over_power_of_eight(g[k - 1][m], k, k + 2 * m);
    }
  }
  return polynomials;
}

// d/dx (D_k(t) / v^k) = -x a^(k+2) * Q[k - 1](p), Q = t dD_k/dt.
template <int Order>
constexpr PolynomialTable<Order> debye_argument_derivatives() {
  constexpr auto g = debye_log_derivatives<Order>();
  PolynomialTable<Order> polynomials{};
  for (std::size_t k = 1; k <= Order; ++k) {
    for (std::size_t m = 0; m <= k; ++m) {
      polynomials[k - 1][m] = over_power_of_eight(g[k - 1][m], k, 1);
    }
  }
  return polynomials;
}

// d/dx of x a^(k+2) Q[k - 1](p) = a^(k+2) * R[k - 1](p), R = Q - (1 - p) ((k + 2) Q + 2 p dQ/dp).
template <int Order>
constexpr auto debye_second_derivatives() {
  constexpr auto q = debye_argument_derivatives<Order>();
  std::array<std::array<double, Order + 2>, Order> polynomials{};
  for (std::size_t k = 1; k <= Order; ++k) {
    for (std::size_t m = 0; m <= k; ++m) {
      const double inner = static_cast<double>(k + 2 + 2 * m) * q[k - 1][m];
      polynomials[k - 1][m] += q[k - 1][m] - inner;
      polynomials[k - 1][m + 1] += inner;
    }
  }
  return polynomials;
}

// d/dv (D_k(t) / v^k) = v a^(k+2) * E[k - 1](p), E = -k D_k + 2 (1 - p) dD_k/dp.
template <int Order>
constexpr PolynomialTable<Order> debye_order_derivatives() {
  constexpr auto g = debye_log_derivatives<Order>();
  PolynomialTable<Order> polynomials{};
  for (std::size_t k = 1; k <= Order; ++k) {
    for (std::size_t m = 0; m <= k; ++m) {
      const double coefficient = over_power_of_eight(g[k - 1][m], k, k + 2 * m);
      polynomials[k - 1][m] -= static_cast<double>(k + 2 * m) * coefficient;
      if (m > 0) polynomials[k - 1][m - 1] += static_cast<double>(2 * m) * coefficient;
    }
  }
  return polynomials;
}

// Exact fractions, reduced after every step; the largest that u_13 needs has 113 bits.
struct Fraction {
  Integer128 numerator = 0;
  Integer128 denominator = 1;

  constexpr explicit operator double() const {
    return static_cast<double>(static_cast<long double>(numerator) /
                               static_cast<long double>(denominator));
  }
};

constexpr Integer128 greatest_common_divisor(Integer128 a, Integer128 b) {
  if (a < 0) a = -a;
  while (b != 0) {
    const Integer128 rest = a % b;
    a = b;
    b = rest < 0 ? -rest : rest;
  }
  return a;
}

constexpr Fraction operator*(Fraction a, Fraction b) {
  const Integer128 first = greatest_common_divisor(a.numerator, b.denominator);
  const Integer128 second = greatest_common_divisor(b.numerator, a.denominator);
  return {(a.numerator / first) * (b.numerator / second),
          (a.denominator / second) * (b.denominator / first)};
}

constexpr Fraction operator+(Fraction a, Fraction b) {
  const Integer128 common = greatest_common_divisor(a.denominator, b.denominator);
  const Integer128 numerator =
      a.numerator * (b.denominator / common) + b.numerator * (a.denominator / common);
  const Integer128 last = greatest_common_divisor(numerator, common);
  return {numerator / last, (a.denominator / common) * (b.denominator / last)};
}

// u_k(t) = t^k * u[k - 1](t^2): the paper's own form. From
// u_{k+1} = t^2 (1-t^2) u_k' / 2 + (1/8) int_0^t (1 - 5 s^2) u_k(s) ds the coefficient of t^j
// follows from those of t^(j-1) and t^(j-3).
template <int Order>
constexpr PolynomialTable<Order> debye_polynomials() {
  PolynomialTable<Order> polynomials{};
  std::array<Fraction, Order + 1> previous{};
  previous[0] = {1, 1};
  for (int k = 1; k <= Order; ++k) {
    std::array<Fraction, Order + 1> next{};
    for (int m = 0; m <= k; ++m) {
      const Integer128 i = k + 2 * m - 1;
      const auto at = static_cast<std::size_t>(m);
      // The gcd of a small fraction is taken here, so that products above stay within 128 bits.
      const auto small = [&](Integer128 numerator) {
        const Integer128 common = greatest_common_divisor(numerator, 8 * (i + 1));
        return Fraction{numerator / common, 8 * (i + 1) / common};
      };
      if (m < k) next[at] = next[at] + previous[at] * small((2 * i + 1) * (2 * i + 1));
      if (m > 0) next[at] = next[at] + previous[at - 1] * small(-(2 * i - 3) * (2 * i + 1));
      polynomials[static_cast<std::size_t>(k - 1)][at] = static_cast<double>(next[at]);
    }
    previous = next;
  }
  return polynomials;
}

inline constexpr int debye_order = 14;
inline constexpr auto debye_log = debye_log_polynomials<debye_order>();
inline constexpr auto debye_argument = debye_argument_derivatives<debye_order>();
inline constexpr auto debye_second = debye_second_derivatives<debye_order>();

}  // namespace einkorn::log_bessel::tables
