// Numbers as unevaluated sums of two doubles, about 106 bits: for tables that are made at compile
// time and for the few places of the scalar reference where a double is too short. The error-free
// transformations are those of Dekker (1971) and Knuth; they need a compiler that does not contract
// a * b + c on its own (-ffp-contract=off).
#pragma once

#include <cmath>

namespace einkorn::log_bessel::tables {

struct DoubleDouble {
  double high = 0;
  double low = 0;

  constexpr double value() const { return high + low; }
};

// |a| >= |b|, or a = 0.
constexpr DoubleDouble fast_two_sum(double a, double b) {
  const double sum = a + b;
  return {sum, b - (sum - a)};
}

constexpr DoubleDouble two_sum(double a, double b) {
  const double sum = a + b;
  const double b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

constexpr DoubleDouble two_product(double a, double b) {
  const double product = a * b;
  if (!__builtin_is_constant_evaluated()) return {product, std::fma(a, b, -product)};
  const auto split = [](double value) {
    const double scaled = 134217729.0 * value;  // 2^27 + 1
    const double high = scaled - (scaled - value);
    return DoubleDouble{high, value - high};
  };
  const DoubleDouble x = split(a);
  const DoubleDouble y = split(b);
  return {product, ((x.high * y.high - product) + x.high * y.low + x.low * y.high) + x.low * y.low};
}

constexpr DoubleDouble operator-(DoubleDouble a) {
  return {-a.high, -a.low};
}

constexpr DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble high = two_sum(a.high, b.high);
  const DoubleDouble low = two_sum(a.low, b.low);
  const DoubleDouble sum = fast_two_sum(high.high, high.low + low.high);
  return fast_two_sum(sum.high, sum.low + low.low);
}

constexpr DoubleDouble operator-(DoubleDouble a, DoubleDouble b) {
  return a + -b;
}

constexpr DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble product = two_product(a.high, b.high);
  return fast_two_sum(product.high, product.low + (a.high * b.low + a.low * b.high));
}

constexpr DoubleDouble operator/(DoubleDouble a, DoubleDouble b) {
  const double first = a.high / b.high;
  const DoubleDouble rest = a - DoubleDouble{first} * b;
  const double second = rest.high / b.high;
  const DoubleDouble last = rest - DoubleDouble{second} * b;
  return fast_two_sum(first, second) + DoubleDouble{last.high / b.high};
}

}  // namespace einkorn::log_bessel::tables
