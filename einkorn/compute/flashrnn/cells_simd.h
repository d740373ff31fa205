// One step of a vector of units, forward and back, after the products with R. Compiled once a
// target; only kernel sources include this file.

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "einkorn/compute/flashrnn/cell.h"

#if defined(EINKORN_FLASHRNN_CELLS_SIMD_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EINKORN_FLASHRNN_CELLS_SIMD_H_
#undef EINKORN_FLASHRNN_CELLS_SIMD_H_
#else
#define EINKORN_FLASHRNN_CELLS_SIMD_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace einkorn::flashrnn {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
using Tag = hn::ScalableTag<T>;
template <typename T>
using Vector = hn::Vec<Tag<T>>;

template <typename T>
HWY_INLINE Vector<T> constant(double value) {
  return hn::Set(Tag<T>(), static_cast<T>(value));
}

// e^x for x <= 0, to about an ulp; below the smallest normal number that number. NaN stays.
template <typename T>
HWY_INLINE Vector<T> exp_of_negative(Vector<T> x) {
  const Tag<T> d;
  const hn::RebindToSigned<Tag<T>> integers;
  constexpr bool is_double = std::is_same_v<T, double>;
  // Max returns its second operand where one is NaN.
  x = hn::Max(constant<T>(is_double ? -708.0 : -87.0), x);
  const auto exponent = hn::Round(x * constant<T>(1.4426950408889634));
  auto r = hn::NegMulAdd(exponent, constant<T>(is_double ? 0x1.62e42fefa0000p-1 : 0x1.62e4p-1), x);
  r = hn::NegMulAdd(exponent,
                    constant<T>(is_double ? 0x1.cf79abc9e3b3ap-40 : 0x1.7f7d1cf79abcap-20), r);
  // Taylor's polynomial on |r| <= log(2) / 2.
  constexpr double inverse_factorials[] = {1.0,
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
  constexpr int degree = is_double ? 13 : 7;
  auto sum = constant<T>(inverse_factorials[degree]);
  for (int k = degree - 1; k >= 0; --k) {
    sum = hn::MulAdd(sum, r, constant<T>(inverse_factorials[k]));
  }
  constexpr int mantissa = is_double ? 52 : 23;
  const auto scale =
      hn::BitCast(d, hn::ShiftLeft<mantissa>(hn::ConvertTo(integers, exponent) +
                                             hn::Set(integers, is_double ? 1023 : 127)));
  return sum * scale;
}

// 1 / x for 1 <= x <= 2, to an ulp or two: faster than a division in float.
template <typename T>
HWY_INLINE Vector<T> reciprocal(Vector<T> x) {
  if constexpr (std::is_same_v<T, double>) {
    return constant<T>(1) / x;
  } else {
    const auto estimate = hn::ApproximateReciprocal(x);
    return estimate * hn::NegMulAdd(x, estimate, constant<T>(2));
  }
}

template <typename T>
HWY_INLINE Vector<T> logistic(Vector<T> x) {
  const auto e = exp_of_negative<T>(hn::Neg(hn::Abs(x)));
  const auto one = constant<T>(1);
  const auto numerator = hn::IfThenElse(x > hn::Zero(Tag<T>()), one, e);
  return numerator * reciprocal<T>(one + e);
}

template <typename T>
HWY_INLINE Vector<T> hyperbolic_tangent(Vector<T> x) {
  const auto e = exp_of_negative<T>(constant<T>(-2) * hn::Abs(x));
  const auto one = constant<T>(1);
  return hn::CopySign((one - e) * reciprocal<T>(one + e), x);
}

// log(logistic(x)) = min(x, 0) - log(1 + e^-|x|), the logarithm as 2 atanh(e / (2 + e)).
template <typename T>
HWY_INLINE Vector<T> log_logistic(Vector<T> x) {
  const auto e = exp_of_negative<T>(hn::Neg(hn::Abs(x)));
  const auto s = e / (e + constant<T>(2));
  const auto square = s * s;
  constexpr int terms = std::is_same_v<T, double> ? 18 : 8;
  auto sum = constant<T>(2.0 / (2 * terms - 1));
  for (int k = terms - 2; k >= 0; --k) {
    sum = hn::MulAdd(sum, square, constant<T>(2.0 / (2 * k + 1)));
  }
  return hn::Min(hn::Zero(Tag<T>()), x) - sum * s;
}

template <typename T>
HWY_INLINE Vector<T> clipped(Vector<T> x, Vector<T> bound) {
  return hn::Max(hn::Neg(bound), hn::Min(bound, x));
}

// Zero where the bound on h bites.
template <typename T>
HWY_INLINE Vector<T> through_clip(Vector<T> gradient, Vector<T> h, Vector<T> bound) {
  return hn::IfThenZeroElse(hn::Abs(h) > bound, gradient);
}

// Sources and sinks of one step. `gate(g)` is what adds up before the nonlinearity.
template <Cell cell, typename T>
struct Step;

template <typename T>
struct Step<Cell::elman, T> {
  using V = Vector<T>;
  HWY_INLINE static void forward(const V* w, const V* y, const V* b, const V*, V* states,
                                 V* gates) {
    gates[0] = hyperbolic_tangent<T>(w[0] + y[0] + b[0]);
    states[0] = gates[0];
  }
  HWY_INLINE static void backward(const V* d, const V* gates, const V*, const V*, V bound, V* input,
                                  V*, V* carry) {
    const V h = gates[0];
    input[0] = through_clip<T>(d[0], h, bound) * hn::NegMulAdd(h, h, constant<T>(1));
    carry[0] = hn::Zero(Tag<T>());
  }
};

template <typename T>
struct Step<Cell::gru, T> {
  using V = Vector<T>;
  HWY_INLINE static void forward(const V* w, const V* y, const V* b, const V* previous, V* states,
                                 V* gates) {
    const V g = y[0] + b[0];
    const V r = logistic<T>(w[0] + y[1] + b[1]);
    const V z = logistic<T>(w[1] + y[2] + b[2]);
    const V n = hyperbolic_tangent<T>(hn::MulAdd(r, g, w[2] + b[3]));
    states[0] = hn::MulAdd(z, previous[0], (constant<T>(1) - z) * n);
    gates[0] = g;
    gates[1] = r;
    gates[2] = z;
    gates[3] = n;
  }
  HWY_INLINE static void backward(const V* d, const V* gates, const V*, const V* previous, V bound,
                                  V* input, V* recurrent, V* carry) {
    const V one = constant<T>(1);
    const V g = gates[0], r = gates[1], z = gates[2], n = gates[3];
    const V dh = through_clip<T>(d[0], hn::MulAdd(z, previous[0], (one - z) * n), bound);
    const V dn = dh * (one - z) * hn::NegMulAdd(n, n, one);
    const V dz = dh * (previous[0] - n) * z * (one - z);
    const V dr = dn * g * r * (one - r);
    input[0] = dr;
    input[1] = dz;
    input[2] = dn;
    recurrent[0] = dn * r;
    recurrent[1] = dr;
    recurrent[2] = dz;
    carry[0] = dh * z;
  }
};

template <typename T>
struct Step<Cell::lstm, T> {
  using V = Vector<T>;
  HWY_INLINE static void forward(const V* w, const V* y, const V* b, const V* previous, V* states,
                                 V* gates) {
    const V i = logistic<T>(w[0] + y[0] + b[0]);
    const V f = logistic<T>(w[1] + y[1] + b[1]);
    const V z = hyperbolic_tangent<T>(w[2] + y[2] + b[2]);
    const V o = logistic<T>(w[3] + y[3] + b[3]);
    const V c = hn::MulAdd(f, previous[1], i * z);
    states[0] = o * hyperbolic_tangent<T>(c);
    states[1] = c;
    gates[0] = i;
    gates[1] = f;
    gates[2] = z;
    gates[3] = o;
  }
  HWY_INLINE static void backward(const V* d, const V* gates, const V* states, const V* previous,
                                  V bound, V* input, V*, V* carry) {
    const V one = constant<T>(1);
    const V i = gates[0], f = gates[1], z = gates[2], o = gates[3];
    const V tanh_c = hyperbolic_tangent<T>(states[1]);
    const V dh = through_clip<T>(d[0], o * tanh_c, bound);
    const V dc = hn::MulAdd(dh * o, hn::NegMulAdd(tanh_c, tanh_c, one), d[1]);
    input[0] = dc * z * i * (one - i);
    input[1] = dc * previous[1] * f * (one - f);
    input[2] = dc * i * hn::NegMulAdd(z, z, one);
    input[3] = dh * tanh_c * o * (one - o);
    carry[0] = hn::Zero(Tag<T>());
    carry[1] = dc * f;
  }
};

template <typename T>
struct Step<Cell::slstm, T> {
  using V = Vector<T>;
  HWY_INLINE static void forward(const V* w, const V* y, const V* b, const V* previous, V* states,
                                 V* gates) {
    const V one = constant<T>(1);
    const V raw_i = w[0] + y[0] + b[0];
    const V raw_f = w[1] + y[1] + b[1];
    const V from_memory = log_logistic<T>(raw_f) + previous[3];
    const V m =
        hn::IfThenElse(previous[2] == hn::Zero(Tag<T>()), raw_i, hn::Max(raw_i, from_memory));
    const V i = exp_of_negative<T>(hn::Min(hn::Zero(Tag<T>()), raw_i - m));
    const V f = exp_of_negative<T>(hn::Min(hn::Zero(Tag<T>()), from_memory - m));
    const V z = hyperbolic_tangent<T>(w[2] + y[2] + b[2]);
    const V o = logistic<T>(w[3] + y[3] + b[3]);
    const V c = hn::MulAdd(f, previous[1], i * z);
    const V n = hn::Max(one, hn::MulAdd(f, previous[2], i));
    states[0] = o * c / n;
    states[1] = c;
    states[2] = n;
    states[3] = m;
    gates[0] = i;
    gates[1] = f;
    gates[2] = z;
    gates[3] = o;
    gates[4] = logistic<T>(hn::Neg(raw_f));
  }
  HWY_INLINE static void backward(const V* d, const V* gates, const V* states, const V* previous,
                                  V bound, V* input, V*, V* carry) {
    const V one = constant<T>(1);
    const V zero = hn::Zero(Tag<T>());
    const V i = gates[0], f = gates[1], z = gates[2], o = gates[3];
    const V c = states[1], n = states[2];
    const V h = o * c / n;
    const V dh = through_clip<T>(d[0], h, bound);
    const V dc = hn::MulAdd(dh, o / n, d[1]);
    const V dn = hn::NegMulAdd(dh, h / n, d[2]);
    input[0] = i * hn::MulAdd(z, dc, dn);
    input[1] = f * hn::MulAdd(dc, previous[1], dn * previous[2]) * gates[4];
    input[2] = dc * i * hn::NegMulAdd(z, z, one);
    input[3] = dh * h * (one - o);
    carry[0] = zero;
    carry[1] = f * dc;
    carry[2] = f * dn;
    carry[3] = zero;
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::flashrnn
HWY_AFTER_NAMESPACE();

#endif  // include guard
