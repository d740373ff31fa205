// Constants of the device kernels, made at compile time: the polynomials of the uniform expansion
// as plain arrays, and the nodes of the integral of K.
#pragma once

#include "einkorn/compute/log_bessel/debye_coefficients_internal.h"
#include "einkorn/compute/log_bessel/double_double_internal.h"

namespace einkorn::log_bessel::tables {

// u_k(t) = t^k * (value[k][0] + value[k][1] t^2 + ... + value[k][k] t^2k), k = 0..13: the expansion
// of I and K. argument[k] and second[k], k = 1..14: Q_k and R_k of debye_coefficients_internal.h,
// the first and second derivatives in x of the expansion of the logarithms.
struct DebyeTable {
  static constexpr int last = 13;
  static constexpr int last_derivative = debye_order;
  double value[last + 1][last + 1] = {};
  double argument[last_derivative + 1][last_derivative + 1] = {};
  double second[last_derivative + 1][last_derivative + 2] = {};
};

constexpr DebyeTable debye_table() {
  constexpr PolynomialTable<DebyeTable::last> u = debye_polynomials<DebyeTable::last>();
  DebyeTable table;
  table.value[0][0] = 1;
  for (std::size_t k = 1; k <= DebyeTable::last; ++k) {
    for (std::size_t j = 0; j <= k; ++j) table.value[k][j] = u[k - 1][j];
  }
  for (std::size_t k = 1; k <= DebyeTable::last_derivative; ++k) {
    for (std::size_t j = 0; j <= k; ++j) table.argument[k][j] = debye_argument[k - 1][j];
    for (std::size_t j = 0; j <= k + 1; ++j) table.second[k][j] = debye_second[k - 1][j];
  }
  return table;
}

// Nodes u_j = j / 16 of the integral of K: cosh(u_j) - 1 and sinh(u_j) - u_j.
struct IntegralNodes {
  static constexpr int last = 112;
  static constexpr double spacing = 1.0 / 16;
  double cosh_minus_one[last + 1] = {};
  double sinh_minus_node[last + 1] = {};
};

// exp(1/16) by its series; 20 terms leave 1e-42.
constexpr DoubleDouble exp_of_spacing() {
  DoubleDouble sum = {1.0};
  DoubleDouble term = {1.0};
  for (int k = 1; k <= 20; ++k) {
    term = term * DoubleDouble{IntegralNodes::spacing} / DoubleDouble{static_cast<double>(k)};
    sum = sum + term;
  }
  return sum;
}

constexpr IntegralNodes integral_nodes() {
  IntegralNodes nodes;
  const DoubleDouble ratio = exp_of_spacing();
  const DoubleDouble half = {0.5};
  DoubleDouble exponential = {1.0};
  for (int j = 1; j <= IntegralNodes::last; ++j) {
    exponential = exponential * ratio;
    const DoubleDouble inverse = DoubleDouble{1.0} / exponential;
    const DoubleDouble cosh = half * (exponential + inverse);
    const DoubleDouble sinh = half * (exponential - inverse);
    nodes.cosh_minus_one[j] = (cosh - DoubleDouble{1.0}).value();
    nodes.sinh_minus_node[j] = (sinh - DoubleDouble{j * IntegralNodes::spacing}).value();
  }
  return nodes;
}

}  // namespace einkorn::log_bessel::tables
