// The integral of K about its saddle point, one point at a time.
#pragma once

#include <cmath>

#include "einkorn/compute/log_bessel/double_double_internal.h"

namespace einkorn::log_bessel {

// With s = sqrt(v^2 + x^2) and u = asinh(v/x) + w,
//   K_v(x) = e^-(s - v asinh(v/x)) * 1/2 int_-inf^inf exp(-s (cosh w - 1) - v (sinh w - w)) dw.
//
// The exponent as a function of w.
class SaddleExponent {
 public:
  // K is even in v; differences of the smallest numbers would round away.
  SaddleExponent(double v, double x)
      : v_(v < 0x1p-500 ? 0 : v),
        s_(std::hypot(v_, x)),
        s_minus_v_(x * (x / (s_ + v_))),
        log_s_minus_v_(2 * std::log(x) - std::log(s_ + v_)) {}

  double operator()(double w) const {
    // Far out e^|w| overflows where its product with a tiny s does not, and far to the left both
    // parts are huge and cancel but for e^w. (s - v) e^-w needs its logarithm where s - v
    // underflows.
    const double root = std::exp(std::abs(w) / 2);
    if (w > 1) {
      return 0.5 * ((s_ + v_) * root) * root + 0.5 * s_minus_v_ / root / root - s_ - v_ * w;
    }
    if (w < -1) {
      const double grown = s_minus_v_ > 0x1p-1020 ? (s_minus_v_ * root) * root
                                                  : std::exp(std::abs(w) + log_s_minus_v_);
      return 0.5 * grown + (0.5 * (s_ + v_)) / root / root - s_ - v_ * w;
    }
    const double half = std::sinh(w / 2);
    return 2 * s_ * half * half + v_ * sinh_minus_argument(w);
  }

 private:
  static double sinh_minus_argument(double w) {
    double sum = 0;
    double term = w;
    for (int k = 2; k <= 18; k += 2) {
      term *= w * w / (k * (k + 1));
      sum += term;
    }
    return sum;
  }

  double v_;
  double s_;
  double s_minus_v_;
  double log_s_minus_v_;
};

// The trapezoid rule's error at this step is below 1e-30 for v and x below 40 (it is of the size of
// K at the complex order v + 2 pi i / step). Tiny x take thousands of nodes, so sums over them are
// compensated.
inline constexpr double saddle_step = 1.0 / 16;
inline constexpr double saddle_cut = 45;  // e^-45 = 3e-20

struct SaddleSums {
  double integral = 0;  // half the integral of the weight
  double growth = 0;    // the mean of e^w under it, infinite where it overflows
  double shift = 0;     // the mean of w under it
};

inline SaddleSums saddle_sums(double v, double x) {
  using tables::DoubleDouble;
  const SaddleExponent exponent(v, x);
  DoubleDouble weights{1};
  DoubleDouble grown{1};
  DoubleDouble shifted{0};
  for (const double side : {1.0, -1.0}) {
    for (double j = 1;; j += 1) {
      const double w = side * j * saddle_step;
      const double e = exponent(w);
      // What the factor e^w adds on the right counts as well.
      if (e - std::fmax(w, 0) > saddle_cut) break;
      const double weight = std::exp(-e);
      weights = weights + DoubleDouble{weight};
      grown = grown + DoubleDouble{weight * std::exp(w)};
      shifted = shifted + DoubleDouble{weight * w};
    }
  }
  // K_{v+1} overflows before K_v does.
  const double growth = std::isfinite(grown.value()) ? grown.value() / weights.value() : HUGE_VAL;
  return {0.5 * saddle_step * weights.value(), growth, shifted.value() / weights.value()};
}

}  // namespace einkorn::log_bessel
