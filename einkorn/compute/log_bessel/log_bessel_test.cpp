#include "einkorn/compute/log_bessel/log_bessel.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <numbers>

#include "einkorn/compute/log_bessel/debye_coefficients_internal.h"
#include "einkorn/compute/log_bessel/log_bessel_kernels.h"
#include "einkorn/compute/log_bessel/reference_values_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/isa.h"
#include "einkorn/core/random.h"

namespace einkorn::log_bessel {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr double epsilon = std::numeric_limits<double>::epsilon();
constexpr double infinity = std::numeric_limits<double>::infinity();

// The error in ulp of max(1, |expected|).
double error_in_ulp(double value, long double expected) {
  const long double error = std::abs(static_cast<long double>(value) - expected);
  return static_cast<double>(error / (std::max(1.0L, std::abs(expected)) * epsilon));
}

class AtEveryIsa : public testing::TestWithParam<Isa> {};

INSTANTIATE_TEST_SUITE_P(Levels, AtEveryIsa, testing::ValuesIn(supported_isas()),
                         [](const auto& level) { return to_string(level.param); });

TEST_P(AtEveryIsa, ReferenceValues) {
  const ScopedIsa isa(GetParam());
  for (const BesselReference& one : bessel_references) {
    SCOPED_TRACE(fmt::format("v = {}, x = {}", one.v, one.x));
    const long double x = one.x;
    EXPECT_LE(error_in_ulp(log_iv(one.v, one.x), one.log_i), 4);
    EXPECT_LE(error_in_ulp(log_kv(one.v, one.x), one.log_k), 4);
    // The subtraction loses the digits of x that the table's 20 digits do not have.
    const double lost = static_cast<double>(x) * 1e-19 / epsilon;
    EXPECT_LE(error_in_ulp(log_ive(one.v, one.x), one.log_i - x), 4 + lost);
    EXPECT_LE(error_in_ulp(log_kve(one.v, one.x), one.log_k + x), 4 + lost);
    EXPECT_LE(std::abs(iv_ratio(one.v, one.x) / static_cast<double>(one.ratio) - 1), 1.6e-15);
  }
}

TEST_P(AtEveryIsa, FloatsAreRoundedOnce) {
  const ScopedIsa isa(GetParam());
  for (const BesselReference& one : bessel_references) {
    const auto v = static_cast<float>(one.v);
    const auto x = static_cast<float>(one.x);
    if (x < 1e-30f) continue;
    SCOPED_TRACE(fmt::format("v = {}, x = {}", v, x));
    for (const Quantity quantity : {Quantity::log_i, Quantity::log_k, Quantity::log_i_scaled,
                                    Quantity::log_k_scaled, Quantity::ratio_i}) {
      float out = 0;
      evaluate(quantity, Points<float>{1, &v, 1, &x, 1, &out, 1});
      const double expected = reference(quantity, v, x);
      // A 32-bit number is within half an ulp of a number, and the number within 1e-9.
      const double bound = 0.51 * std::numeric_limits<float>::epsilon();
      EXPECT_NEAR(out, expected, bound * std::max(1.0, std::abs(expected)));
    }
  }
}

TEST_P(AtEveryIsa, EndsOfTheDomain) {
  const ScopedIsa isa(GetParam());
  EXPECT_EQ(log_iv(0, 0), 0);
  EXPECT_EQ(log_iv(0.5, 0), -infinity);
  EXPECT_EQ(log_kv(0, 0), infinity);
  EXPECT_EQ(log_kv(3, 0), infinity);
  EXPECT_EQ(log_iv(3, infinity), infinity);
  EXPECT_EQ(log_kv(3, infinity), -infinity);
  EXPECT_EQ(log_ive(3, infinity), -infinity);
  EXPECT_EQ(log_kve(3, infinity), -infinity);
  EXPECT_EQ(iv_ratio(2, 0), 0);
  EXPECT_EQ(iv_ratio(2, infinity), 1);
  EXPECT_EQ(iv_ratio_c(2, 0), 1);
  EXPECT_EQ(iv_ratio_c(2, infinity), 0);
  EXPECT_EQ(iv_ratio_dx(2, 0), 1.0 / 6);
  EXPECT_EQ(kv_ratio(2, infinity), 1);
  for (const double odd : {-1.0, -1e-300, static_cast<double>(NAN)}) {
    EXPECT_TRUE(std::isnan(log_iv(1, odd))) << odd;
    EXPECT_TRUE(std::isnan(log_kv(1, odd))) << odd;
    EXPECT_TRUE(std::isnan(iv_ratio(1, odd))) << odd;
  }
  EXPECT_TRUE(std::isnan(log_iv(NAN, 1)));
  EXPECT_TRUE(std::isnan(log_iv(-0.5, 1)));
  EXPECT_TRUE(std::isnan(log_iv(infinity, infinity)));
  EXPECT_EQ(log_iv(infinity, 1), -infinity);
  EXPECT_EQ(log_iv(-3, 2.5), log_iv(3, 2.5));
  EXPECT_EQ(log_kv(-2.25, 2.5), log_kv(2.25, 2.5));
}

TEST_P(AtEveryIsa, FarBeyondTheDomain) {
  const ScopedIsa isa(GetParam());
  // v = 0: x - log(2 pi x)/2 and the smallest and largest numbers.
  EXPECT_DOUBLE_EQ(log_iv(0, 1e200), 1e200);
  EXPECT_DOUBLE_EQ(log_ive(0, 1e200), -0.5 * std::log(2 * std::numbers::pi * 1e200));
  EXPECT_DOUBLE_EQ(log_kve(1e8, 1e200), 0.5 * std::log(std::numbers::pi / 2 * 1e-200));
  // I_v ~ (x/2)^v / Gamma(v+1), K_v ~ Gamma(v) (2/x)^v / 2
  const double tiny = 5e-324;
  EXPECT_DOUBLE_EQ(log_iv(2, tiny), 2 * std::log(tiny) - 3 * std::numbers::ln2);
  EXPECT_DOUBLE_EQ(log_kv(2, tiny), std::numbers::ln2 - 2 * std::log(tiny));
  const double log_of_k0 = std::log(std::numbers::ln2 - std::log(tiny) - std::numbers::egamma);
  EXPECT_DOUBLE_EQ(log_kv(0, tiny), log_of_k0);
  EXPECT_EQ(kv_ratio(0, tiny), infinity);
  EXPECT_TRUE(std::isfinite(log_iv(1e8, tiny)));
  EXPECT_TRUE(std::isfinite(log_kv(1e8, 1e12)));
}

TEST_P(AtEveryIsa, OrderOneHalfIsElementary) {
  const ScopedIsa isa(GetParam());
  for (const double x : {1e-300, 1e-9, 0.3, 1.0, 2.0, 29.0, 400.0, 1e9}) {
    SCOPED_TRACE(x);
    const long double l = x;
    const long double pi = std::numbers::pi_v<long double>;
    const long double log_sinh =
        x < 1 ? std::log(std::sinh(l)) : l + std::log1p(-std::exp(-2 * l)) - std::log(2.0L);
    EXPECT_LE(error_in_ulp(log_iv(0.5, x), 0.5L * std::log(2 / (pi * l)) + log_sinh), 1);
    EXPECT_LE(error_in_ulp(log_kv(0.5, x), 0.5L * std::log(pi / (2 * l)) - l), 1);
  }
}

TEST_P(AtEveryIsa, KeepsRelativePrecisionWhereIIsOne) {
  const ScopedIsa isa(GetParam());
  // log I_0(x) = x^2/4 - x^4/64 + ...
  for (const double x : {1e-150, 1e-8, 1e-4}) {
    const double expected = x * x / 4 * (1 - x * x / 16);
    EXPECT_NEAR(log_iv(0, x) / expected, 1, 4 * epsilon) << x;
  }
}

// Along the curve where v asinh(v/x) = s the large parts cancel; the error must not grow with v.
TEST_P(AtEveryIsa, KeepsAbsolutePrecisionAlongTheZeroCurve) {
  const ScopedIsa isa(GetParam());
  for (const double v : {60.0, 1e3, 1e5, 1e7, 1e8}) {
    for (const double offset : {0.0, 1e-9, -1e-6}) {
      const double x = v * (0.66274341934918159 + offset);
      const double log_i = log_iv(v, x);
      EXPECT_LE(error_in_ulp(log_i, reference(Quantity::log_i, v, x)), 4);
      // The Wronskian needs both functions and both orders right.
      const double sum = std::exp(log_i + log_kv(v + 1, x) + std::log(x)) +
                         std::exp(log_iv(v + 1, x) + log_kv(v, x) + std::log(x));
      const double scale = std::max({1.0, std::abs(log_i), std::abs(log_kv(v, x))});
      EXPECT_LE(std::abs(sum - 1), 4e-15 * scale) << v;
    }
  }
}

// The published table loses digits there (errors of 1.2e-10 and 6.7e-10 in log I).
TEST(LogBessel, RepairsThePublishedTable) {
  const auto error = [](double v, double x, SwitchingTable table) {
    const at::Tensor order = at::scalar_tensor(v, at::kDouble);
    const at::Tensor argument = at::scalar_tensor(x, at::kDouble);
    return std::abs(log_iv(order, argument, table).item<double>() -
                    reference(Quantity::log_i, v, x));
  };
  EXPECT_GT(error(12.2, 1e4, SwitchingTable::paper), 1e-11);
  EXPECT_LT(error(12.2, 1e4, SwitchingTable::standard), 4e-12);
  EXPECT_GT(error(75.6, 1e3, SwitchingTable::paper), 1e-11);
  EXPECT_LT(error(75.6, 1e3, SwitchingTable::standard), 4e-13);
}

TEST(LogBessel, PublishedTablesAgreeWithOurs) {
  Random random(3);
  for (int i = 0; i < 400; ++i) {
    const double v = random.uniform(0.1, 200);
    const double x = random.uniform(0.1, 400);
    SCOPED_TRACE(fmt::format("v = {}, x = {}", v, x));
    for (const PaperTable table : {PaperTable::full, PaperTable::three}) {
      const auto close = [&](Quantity quantity, double tolerance) {
        const double expected = reference(quantity, v, x);
        EXPECT_NEAR(paper(table, quantity, v, x), expected,
                    tolerance * std::max({1.0, std::abs(expected), x}));
      };
      close(Quantity::log_i, 1e-12);
      close(Quantity::log_i_scaled, 1e-12);
      close(Quantity::log_k, 1e-9);  // the integral
      close(Quantity::log_k_scaled, 1e-9);
    }
  }
}

// ---- coefficients ----

TEST(DebyeCoefficients, LeadingCoefficients) {
  constexpr auto u = tables::debye_polynomials<13>();
  const double expected[] = {0.125,
                             0.0703125,
                             0.0732421875,
                             0.112152099609375,
                             0.227108001708984,
                             0.572501420974731,
                             1.72772750258446,
                             6.07404200127348,
                             24.3805296995561,
                             110.017140269247,
                             551.335896122021,
                             3038.09051092238,
                             18257.7554742932};
  for (std::size_t k = 0; k < 13; ++k) EXPECT_NEAR(u[k][0] / expected[k], 1, 1e-14) << k;
  EXPECT_DOUBLE_EQ(u[2][1], -369603.0 / 414720);
  EXPECT_DOUBLE_EQ(u[2][2], 765765.0 / 414720);
  EXPECT_DOUBLE_EQ(u[2][3], -425425.0 / 414720);
}

// exp(sum D_k / v^k) = 1 + sum u_k / v^k, term by term: k u_k = sum_j j D_j u_{k-j}.
TEST(DebyeCoefficients, LogarithmOfTheSum) {
  constexpr auto u = tables::debye_polynomials<13>();
  constexpr auto d = tables::debye_log_polynomials<13>();
  for (const double p : {0.0, 0.2, 0.7, 1.0}) {
    const auto value = [p](const auto& polynomial) {
      double sum = 0;
      for (std::size_t i = polynomial.size(); i-- > 0;) sum = sum * p + polynomial[i];
      return sum;
    };
    for (std::size_t k = 1; k <= 13; ++k) {
      double sum = static_cast<double>(k) * value(d[k - 1]);
      double scale = std::abs(sum);
      for (std::size_t j = 1; j < k; ++j) {
        const double term = static_cast<double>(j) * value(d[j - 1]) * value(u[k - j - 1]);
        sum += term;
        scale += std::abs(term);
      }
      // At p near 1 the polynomials themselves cancel: compare with their largest coefficient.
      double largest = scale;
      for (const double coefficient : u[k - 1]) largest = std::max(largest, std::abs(coefficient));
      EXPECT_NEAR(sum, static_cast<double>(k) * value(u[k - 1]), 1e-12 * largest) << k << " " << p;
    }
  }
}

// ---- identities ----

double order_in_domain() {
  return std::pow(10, *rc::gen::inRange(-3000, 6000) / 1000.0);
}
double argument_in_domain() {
  return std::pow(10, *rc::gen::inRange(-6000, 8000) / 1000.0);
}

TEST(Identities, Wronskian) {
  EXPECT_TRUE(rc::check([] {
    const double v = order_in_domain();
    const double x = argument_in_domain();
    const double i = log_iv(v, x);
    const double k = log_kv(v, x);
    const double next_i = log_iv(v + 1, x);
    const double next_k = log_kv(v + 1, x);
    const double sum = std::exp(i + next_k + std::log(x)) + std::exp(next_i + k + std::log(x));
    // Each of the four carries a rounding error of its own size.
    const double scale =
        std::max({1.0, std::abs(i), std::abs(k), std::abs(next_i), std::abs(next_k)});
    RC_ASSERT(std::abs(sum - 1) <= 1e-15 * scale);
  }));
}

TEST(Identities, BoundsComplementAndInverseOfTheRatio) {
  EXPECT_TRUE(rc::check([] {
    const double v = order_in_domain();
    const double x = argument_in_domain();
    const double ratio = iv_ratio(v, x);
    const double slack = 1e-14;
    // Amos, Math. Comp. 28, 1974, (9) and (11).
    RC_ASSERT(ratio * (1 + slack) >= x / (v + 1 + std::hypot(v + 1, x)));
    RC_ASSERT(ratio * (1 + slack) >= x / (v + 0.5 + std::hypot(v + 1.5, x)));
    RC_ASSERT(ratio * (1 - slack) <= x / (v + 0.5 + std::hypot(v + 0.5, x)));
    RC_ASSERT(std::abs(ratio + iv_ratio_c(v, x) - 1) <= 2 * epsilon);
    RC_ASSERT(kv_ratio(v, x) >= 1);
    // 1 - ratio has a relative error of 2^-53 / (1 - ratio), which is that of x.
    const double back = iv_ratio_inv(v, ratio);
    RC_ASSERT(std::abs(back / x - 1) <= 1e-14 + 4 * epsilon / iv_ratio_c(v, x));
  }));
}

TEST(Identities, RecurrencesThroughRatios) {
  EXPECT_TRUE(rc::check([] {
    const double v = order_in_domain() + 1;
    const double x = argument_in_domain();
    // I_{v-1} - I_{v+1} = (2v/x) I_v and K_{v+1} - K_{v-1} = (2v/x) K_v
    const double i = 1 / iv_ratio(v - 1, x) - iv_ratio(v, x);
    RC_ASSERT(std::abs(i / (2 * v / x) - 1) <= 1e-14 * (1 + x / v));
    const double k = kv_ratio(v, x) - 1 / kv_ratio(v - 1, x);
    RC_ASSERT(std::abs(k / (2 * v / x) - 1) <= 1e-14 * (1 + x / v));
  }));
}

TEST(Identities, RatioInThreeDimensions) {
  for (const double x : {0.5, 1.0, 3.0, 20.0, 300.0}) {  // A_3(k) = coth k - 1/k
    EXPECT_NEAR(iv_ratio(0.5, x), 1 / std::tanh(x) - 1 / x, 4e-15) << x;
  }
}

TEST(Identities, SlopeOfTheRatio) {
  EXPECT_TRUE(rc::check([] {
    const double v = order_in_domain();
    const double x = argument_in_domain();
    const double ratio = iv_ratio(v, x);
    // 1 - r^2 - (2v+1) r / x, which cancels
    const double expected = iv_ratio_c(v, x) * (1 + ratio) - (2 * v + 1) * (ratio / x);
    RC_ASSERT(std::abs(iv_ratio_dx(v, x) - expected) <= 1e-15 * (2 + (2 * v + 1) * (ratio / x)));
    RC_ASSERT(iv_ratio_dx(v, x) > 0);
  }));
}

TEST(Identities, NegativeOrders) {
  // I_{-1/2} = sqrt(2/(pi x)) cosh x; I_{-3/2} = sqrt(2/(pi x)) (sinh x - cosh x / x)
  for (const double x : {0.3, 1.0, 5.0}) {
    const double factor = std::sqrt(2 / (std::numbers::pi * x));
    const SignedLog half = signed_log_iv(-0.5, x);
    EXPECT_NEAR(half.log_abs, std::log(factor * std::cosh(x)), 1e-14);
    EXPECT_EQ(half.sign, 1);
    const double exact = factor * (std::sinh(x) - std::cosh(x) / x);
    const SignedLog more = signed_log_iv(-1.5, x);
    EXPECT_NEAR(more.log_abs, std::log(std::abs(exact)), 1e-13);
    EXPECT_EQ(more.sign, exact > 0 ? 1 : -1);
  }
  EXPECT_EQ(signed_log_iv(-4, 2).log_abs, log_iv(4, 2));
}

TEST(Derivatives, InTheArgumentAndTheOrder) {
  Random random(11);
  for (int i = 0; i < 300; ++i) {
    const double v = random.uniform(0.01, 60);
    const double x = std::exp(random.uniform(-5, 5));
    SCOPED_TRACE(fmt::format("v = {}, x = {}", v, x));
    // Central differences with an error of the order h^2.
    const auto slope = [](const auto& function, double at) {
      const double h = 1e-5 * std::max(at, 1e-3);
      return (function(at + h) - function(at - h)) / (2 * h);
    };
    const auto close = [](double value, double expected) {
      EXPECT_NEAR(value, expected, 2e-7 * std::max(1.0, std::abs(expected)));
    };
    close(log_iv_dx(v, x), slope([v](double t) { return log_iv(v, t); }, x));
    close(log_kv_dx(v, x), slope([v](double t) { return log_kv(v, t); }, x));
    close(log_iv_dv(v, x), slope([x](double t) { return log_iv(t, x); }, v));
    close(log_kv_dv(v, x), slope([x](double t) { return log_kv(t, x); }, v));
  }
}

// d/dv log K at v = 1/2: e^2x E_1(2x) (DLMF 10.38.7); at integers of I: 10.38.4 for v = 0.
TEST(Derivatives, InTheOrderAtKnownPoints) {
  for (const double x : {1e-3, 0.2, 1.0, 7.0, 26.0, 40.0}) {
    EXPECT_NEAR(log_kv_dv(0.5, x), std::exp(2 * x) * -std::expint(-2 * x), 2e-14 * (1 + 1 / x))
        << x;
    EXPECT_NEAR(log_iv_dv(0, x), -std::exp(log_kv(0, x) - log_iv(0, x)),
                1e-14 * std::max(1.0, std::abs(std::log(x))))
        << x;
  }
  EXPECT_EQ(log_kv_dv(0, 3), 0);
  EXPECT_EQ(log_kv_dv(-2.5, 3), -log_kv_dv(2.5, 3));
  EXPECT_TRUE(std::isnan(log_iv_dv(1, 0)));
}

// ---- kernels ----

// Orders and arguments from every branch, and some outside the domain.
void mixed_points(std::int64_t size, std::vector<double>& v, std::vector<double>& x) {
  Random random(static_cast<std::uint64_t>(size) + 17);
  v.clear();
  x.clear();
  for (std::int64_t i = 0; i < size; ++i) {
    switch (random.integer(8)) {
      case 0:
        v.push_back(random.uniform(0, 25));
        x.push_back(random.uniform(0, 35));
        break;
      case 1:
        v.push_back(0.5);
        x.push_back(random.uniform(0, 100));
        break;
      case 2:
        v.push_back(std::vector<double>{0, -1, -0.25, NAN, infinity,
                                        3}[static_cast<std::size_t>(random.integer(6))]);
        x.push_back(std::vector<double>{0, -1, NAN, infinity,
                                        1e200}[static_cast<std::size_t>(random.integer(5))]);
        break;
      case 3:
        v.push_back(static_cast<double>(random.integer(30)));
        x.push_back(std::exp(random.uniform(-600, 4)));
        break;
      default:
        v.push_back(std::exp(random.uniform(-5, 18)));
        x.push_back(std::exp(random.uniform(-10, 27)));
        break;
    }
  }
}

constexpr Quantity all_quantities[] = {
    Quantity::log_i,
    Quantity::log_k,
    Quantity::ratio_i,
    Quantity::log_i_scaled,
    Quantity::ratio_k,
    Quantity::log_k_scaled,
    Quantity::ratio_i_complement,
    Quantity::ratio_i_slope,
};

TEST_P(AtEveryIsa, AllSizesAndStridesAgreeWithTheReference) {
  const ScopedIsa isa(GetParam());
  for (const std::int64_t size :
       {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 3000}) {
    for (const std::int64_t stride : {1, 3}) {
      std::vector<double> v;
      std::vector<double> x;
      mixed_points(size * stride, v, x);
      for (const Quantity quantity : all_quantities) {
        std::vector<double> out(static_cast<std::size_t>(2 * size + 1), -7);
        kernels_f64.pick()(quantity, {size, v.data(), stride, x.data(), stride, out.data(), 2});
        for (std::int64_t i = 0; i < size; ++i) {
          const auto at = static_cast<std::size_t>(i * stride);
          const double expected = reference(quantity, v[at], x[at]);
          const double value = out[static_cast<std::size_t>(2 * i)];
          SCOPED_TRACE(fmt::format("v = {}, x = {}, quantity {}, size {}", v[at], x[at],
                                   static_cast<int>(quantity), size));
          ASSERT_EQ(out[static_cast<std::size_t>(2 * i + 1)], -7);
          if (!std::isfinite(expected)) {
            ASSERT_TRUE(value == expected || (std::isnan(value) && std::isnan(expected)));
          } else if (quantity <= Quantity::log_k_scaled) {
            ASSERT_LE(error_in_ulp(value, expected), 6);  // two results, each within its bound
          } else {
            ASSERT_NEAR(value, expected, 8 * epsilon * std::abs(expected));
          }
        }
      }
    }
  }
}

TEST_P(AtEveryIsa, MayWriteOverItsInputAndRepeatOneElement) {
  const ScopedIsa isa(GetParam());
  std::vector<double> v;
  std::vector<double> x;
  mixed_points(2500, v, x);
  std::vector<double> expected(v.size());
  const auto size = static_cast<std::int64_t>(v.size());
  kernels_f64.pick()(Quantity::log_i, {size, v.data(), 1, x.data(), 1, expected.data(), 1});
  std::vector<double> in_place = x;
  kernels_f64.pick()(Quantity::log_i, {size, v.data(), 1, in_place.data(), 1, in_place.data(), 1});
  for (std::size_t i = 0; i < v.size(); ++i) {
    ASSERT_TRUE(in_place[i] == expected[i] || std::isnan(expected[i]));
  }
  const double order = 12.25;
  kernels_f64.pick()(Quantity::log_k, {size, &order, 0, x.data(), 1, expected.data(), 1});
  for (std::size_t i = 0; i < v.size(); ++i) {
    const double alone = log_kv(order, x[i]);
    ASSERT_TRUE(alone == expected[i] || (std::isnan(alone) && std::isnan(expected[i])));
  }
}

// ---- tensors ----

TEST(Tensors, BroadcastStridesAndDtypes) {
  const at::Tensor v = at::linspace(0, 40, 5, at::kDouble).unsqueeze(1);
  const at::Tensor x = at::linspace(0.1, 90, 700, at::kDouble);
  const at::Tensor out = log_iv(v, x);
  ASSERT_EQ(out.sizes(), (std::vector<std::int64_t>{5, 700}));
  const at::Tensor turned = log_iv(v.t(), x.unsqueeze(1));
  EXPECT_TRUE(turned.equal(out.t()));
  EXPECT_TRUE(log_iv(v.expand({5, 700}).t(), x.unsqueeze(1).expand({700, 5})).equal(out.t()));
  EXPECT_TRUE(log_iv(v, x.slice(0, 0, 700, 7)).equal(out.slice(1, 0, 700, 7)));
  EXPECT_EQ(out[3][20].item<double>(), log_iv(30, x[20].item<double>()));
  const at::Tensor single_x = x.to(at::kFloat);
  const at::Tensor single = log_kv(v.to(at::kFloat), single_x);
  EXPECT_EQ(single.scalar_type(), at::kFloat);
  const at::Tensor of_rounded = log_kv(v, single_x.to(at::kDouble));
  EXPECT_TRUE(at::allclose(single.to(at::kDouble), of_rounded, 6e-8, 6e-8));
  EXPECT_EQ(log_iv(at::arange(3), at::ones({3}, at::kFloat)).scalar_type(), at::kFloat);
  EXPECT_EQ(log_iv(at::arange(3), at::arange(3)).scalar_type(), at::kFloat);
  EXPECT_EQ(log_iv(at::empty({0, 3}, at::kDouble), x.slice(0, 0, 3)).sizes(),
            (std::vector<std::int64_t>{0, 3}));
  EXPECT_EQ(log_iv(at::scalar_tensor(2, at::kDouble), at::scalar_tensor(3, at::kDouble)).dim(), 0);
}

TEST(Tensors, OutAndThreads) {
  const at::Tensor v = at::rand({100000}, at::kDouble) * 150;
  const at::Tensor x = at::rand({100000}, at::kDouble) * 150;
  const at::Tensor expected = log_iv(v, x);
  at::Tensor out = at::empty({2, 100000}, at::kDouble).t().select(1, 1);
  evaluate_out(out, Quantity::log_i, v, x);
  EXPECT_TRUE(out.equal(expected));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  EXPECT_TRUE(log_iv(v, x).equal(expected));
  at::set_num_threads(threads);
  at::Tensor in_place = x.clone();
  evaluate_out(in_place, Quantity::log_i, v, in_place);
  EXPECT_TRUE(in_place.equal(expected));
}

TEST(Tensors, RefuseWhatDoesNotFit) {
  const at::Tensor three = at::ones({3}, at::kDouble);
  at::Tensor four = at::ones({4}, at::kDouble);
  at::Tensor narrow = at::ones({3}, at::kFloat);
  EXPECT_THAT([&] { log_iv(three, four); },
              ThrowsMessage<InvalidArgument>(HasSubstr("[3] and [4] do not broadcast")));
  EXPECT_THAT([&] { log_iv(three, three.to(at::kHalf)); },
              ThrowsMessage<InvalidArgument>(HasSubstr("x: expected dtype float64 or float32")));
  EXPECT_THAT([&] { log_iv(three.to(at::kComplexDouble), three); },
              ThrowsMessage<InvalidArgument>(HasSubstr("v: expected dtype")));
  EXPECT_THAT([&] { evaluate_out(four, Quantity::log_i, three, three); },
              ThrowsMessage<InvalidArgument>(HasSubstr("out: expected shape [3], got [4]")));
  EXPECT_THAT([&] { evaluate_out(narrow, Quantity::log_i, three, three); },
              ThrowsMessage<InvalidArgument>(HasSubstr("out: expected dtype Double, got Float")));
  EXPECT_THAT([&] { parse_switching_table("papper"); },
              ThrowsMessage<InvalidArgument>(HasSubstr("did you mean 'paper'")));
  EXPECT_THAT([&] { evaluate_out(four, Quantity::ratio_i, four, four, SwitchingTable::paper); },
              ThrowsMessage<InvalidArgument>(HasSubstr("ratios have only the default")));
}

TEST(Tensors, MetaTensorsHaveTheShape) {
  const at::Tensor v = at::empty({4, 1}, at::TensorOptions(at::kMeta).dtype(at::kFloat));
  const at::Tensor x = at::empty({3}, at::TensorOptions(at::kMeta).dtype(at::kDouble));
  const at::Tensor out = log_kve(v, x);
  EXPECT_TRUE(out.is_meta());
  EXPECT_EQ(out.sizes(), (std::vector<std::int64_t>{4, 3}));
  EXPECT_EQ(out.scalar_type(), at::kDouble);
}

}  // namespace
}  // namespace einkorn::log_bessel
