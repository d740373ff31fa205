#include "einkorn/compute/log_bessel/von_mises_fisher.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <numbers>

#include "einkorn/compute/log_bessel/reference_values_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::log_bessel {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

at::Tensor axis(std::int64_t p, std::int64_t which = 0) {
  at::Tensor direction = at::zeros({p}, at::kDouble);
  direction[which] = 1;
  return direction;
}

TEST(VonMisesFisher, ReferenceFits) {
  for (const FitReference& one : fit_references) {
    SCOPED_TRACE(fmt::format("p = {}, R = {}", one.p, one.resultant_length));
    const auto by = [&](FitMethod method) {
      return fit_concentration(one.p, one.resultant_length, method);
    };
    EXPECT_NEAR(by(FitMethod::banerjee) / one.banerjee, 1, 1e-15);
    EXPECT_NEAR(by(FitMethod::sra) / one.sra, 1, 5e-15);
    EXPECT_NEAR(by(FitMethod::mle) / one.mle, 1, 5e-15);
    EXPECT_NEAR(by(FitMethod::newton) / one.mle, 1, 1e-14);
    // Tanabe's interpolation has no reference value; it is an improvement of Banerjee's.
    EXPECT_LT(std::abs(by(FitMethod::tanabe) - one.mle), std::abs(one.banerjee - one.mle));
    EXPECT_NEAR(by(FitMethod::tanabe) / one.mle, 1, 0.02);
    const double log_c = log_normalizer(one.p, by(FitMethod::mle));
    EXPECT_NEAR(log_c / one.log_normalizer, 1, 5e-15);
    EXPECT_NEAR((log_c + by(FitMethod::mle) * one.resultant_length) / one.log_likelihood, 1, 5e-15);
  }
}

TEST(VonMisesFisher, FittedConcentrationInvertsTheResultantLength) {
  EXPECT_TRUE(rc::check([] {
    const auto p = *rc::gen::inRange<std::int64_t>(2, 40000);
    const double r = *rc::gen::inRange(1, 999999) / 1e6;
    const double kappa = fit_concentration(p, r);
    RC_ASSERT(std::abs(mean_resultant_length(p, kappa) / r - 1) < 1e-14);
    RC_ASSERT(std::abs(fit_concentration(p, r, FitMethod::newton) / kappa - 1) < 1e-12);
  }));
  EXPECT_EQ(fit_concentration(5, 0), 0);
}

TEST(VonMisesFisher, NormalizerInThreeDimensionsAndAtZero) {
  // C_3 = kappa / (4 pi sinh kappa)
  for (const double kappa : {1e-3, 0.5, 4.0, 30.0}) {
    const double expected = std::log(kappa / (4 * std::numbers::pi * std::sinh(kappa)));
    EXPECT_NEAR(log_normalizer(3, kappa), expected, 1e-14 * std::max(1.0, std::abs(expected)));
  }
  EXPECT_NEAR(log_normalizer(3, 0), -std::log(4 * std::numbers::pi), 1e-15);
  EXPECT_NEAR(log_normalizer(2, 0), -std::log(2 * std::numbers::pi), 1e-15);
  // Continuous where the limit takes over.
  for (const std::int64_t p : {2, 3, 7, 500, 32768}) {
    const double at_zero = log_normalizer(p, 0);
    for (const double kappa : {1e-300, 1e-12, 1e-9, 1e-6}) {
      EXPECT_NEAR(log_normalizer(p, kappa), at_zero, 1e-14 * std::abs(at_zero) + 1e-12) << p;
    }
  }
}

TEST(VonMisesFisher, TensorNormalizerAndItsGradient) {
  at::Tensor kappa = at::tensor(std::vector<double>{0, 1e-200, 0.1, 3, 900, 1e6}, at::kDouble);
  kappa.requires_grad_(true);
  const at::Tensor log_c = log_normalizer(64, kappa);
  log_c.sum().backward();
  for (std::int64_t i = 0; i < kappa.numel(); ++i) {
    const double at = kappa[i].item<double>();
    EXPECT_NEAR(log_c[i].item<double>(), log_normalizer(64, at),
                1e-14 * std::abs(log_normalizer(64, at)));
    EXPECT_NEAR(kappa.grad()[i].item<double>(), -mean_resultant_length(64, at), 1e-15);
  }
  EXPECT_TRUE(std::isnan(log_normalizer(64, at::full({1}, -1.0, at::kDouble))[0].item<double>()));
  EXPECT_EQ(log_normalizer(64, at::ones({2}, at::kFloat)).scalar_type(), at::kFloat);
}

// Entropy and divergence as integrals over w = mu.y with density proportional to e^{kappa w} for p
// = 3.
TEST(VonMisesFisher, EntropyAndDivergence) {
  const double kappa = 2.5;
  const double other = 0.7;
  const double cosine = -0.3;
  double entropy_sum = 0;
  double divergence_sum = 0;
  constexpr int steps = 200000;
  for (int i = 0; i < steps; ++i) {
    const double w = -1 + (2 * i + 1.0) / steps;
    const double log_f = log_normalizer(3, kappa) + kappa * w;
    const double mass = 2 * std::numbers::pi * std::exp(log_f) * 2 / steps;
    entropy_sum -= mass * log_f;
    // The mean of mu_2.y given w is w cosine.
    divergence_sum += mass * (log_f - log_normalizer(3, other) - other * w * cosine);
  }
  EXPECT_NEAR(entropy(3, kappa), entropy_sum, 1e-9);
  EXPECT_NEAR(kl_divergence(3, kappa, other, cosine), divergence_sum, 1e-9);
  EXPECT_NEAR(kl_divergence(4096, 700, 700, 1), 0, 1e-12);
  EXPECT_NEAR(entropy(3, 0), std::log(4 * std::numbers::pi), 1e-15);
  EXPECT_NEAR(kl_divergence(3, 2, 0, 0), std::log(4 * std::numbers::pi) - entropy(3, 2), 1e-14);
}

TEST(Sampling, LengthsMomentsAndSeeds) {
  for (const std::int64_t p : {2, 3, 10, 300}) {
    const double kappa = 1.7 * static_cast<double>(p);
    at::Tensor direction = at::randn({p}, at::kDouble);
    direction = direction / direction.norm();
    const std::int64_t n = 40000;
    const at::Tensor points = sample(direction, kappa, n, 3);
    EXPECT_LT((points.norm(2, {1}) - 1).abs().max().item<double>(), 1e-14) << p;
    const at::Tensor w = points.mv(direction);
    const double expected = mean_resultant_length(p, kappa);
    const double deviation = w.std().item<double>() / std::sqrt(static_cast<double>(n));
    EXPECT_NEAR(w.mean().item<double>(), expected, 5 * deviation) << p;
    // Var(w) = A'(kappa)
    const double variance = 1 - expected * expected - static_cast<double>(p - 1) / kappa * expected;
    EXPECT_NEAR(w.var().item<double>() / variance, 1, 0.06) << p;
    // Across the mean direction all directions are alike.
    const at::Tensor tangent = points - w.unsqueeze(1) * direction;
    EXPECT_LT(tangent.mean(0).norm().item<double>(), 5 / std::sqrt(static_cast<double>(n))) << p;
    EXPECT_TRUE(sample(direction, kappa, 10, 3).equal(points.slice(0, 0, 10)));
    EXPECT_FALSE(sample(direction, kappa, 10, 4).equal(points.slice(0, 0, 10)));
  }
  EXPECT_EQ(sample(axis(5), 2, 0).sizes(), (std::vector<std::int64_t>{0, 5}));
}

TEST(Sampling, UniformAndConcentratedEnds) {
  const at::Tensor uniform = sample(axis(3), 0, 20000, 1);
  EXPECT_LT(uniform.mean(0).norm().item<double>(), 0.03);
  const at::Tensor tight = sample(axis(4, 2), 1e10, 100, 1);
  EXPECT_GT(tight.mv(axis(4, 2)).min().item<double>(), 1 - 1e-8);
}

TEST(Fit, RecoversWhatWasSampled) {
  for (const std::int64_t p : {2, 3, 2048}) {
    const double kappa = p == 2048 ? 4549 : 12;
    const at::Tensor points = sample(axis(p, 1), kappa, 4000, 9);
    const VonMisesFisherFit found = fit(points);
    EXPECT_NEAR(found.concentration / kappa, 1, p == 2048 ? 0.01 : 0.08) << p;
    EXPECT_GT(found.mean_direction[1].item<double>(), 0.98) << p;
    EXPECT_NEAR(found.log_likelihood,
                log_density(points, found.mean_direction,
                            at::scalar_tensor(found.concentration, at::kDouble))
                    .sum()
                    .item<double>(),
                1e-9 * std::abs(found.log_likelihood));
    // No other concentration is likelier.
    for (const double factor : {0.999, 1.001}) {
      const double other = found.concentration * factor;
      EXPECT_LT(log_normalizer(p, other) + other * found.resultant_length,
                found.mean_log_likelihood)
          << p;
    }
    const VonMisesFisherFit single = fit(points.to(at::kFloat));
    EXPECT_NEAR(single.concentration / found.concentration, 1, 1e-5) << p;
    const VonMisesFisherFit scaled = fit(points * 7, FitMethod::mle, true);
    EXPECT_NEAR(scaled.concentration / found.concentration, 1, 1e-12) << p;
  }
}

TEST(Fit, RefusesRowsThatAreNoDirections) {
  at::Tensor points = sample(axis(3), 2, 6, 1);
  EXPECT_THAT([&] { fit(at::cat({points, 2 * points})); },
              ThrowsMessage<InvalidArgument>(HasSubstr("row 6 has length 2, expected 1")));
  at::Tensor with_zero = points.clone();
  with_zero[4].zero_();
  EXPECT_THAT([&] { fit(with_zero, FitMethod::mle, true); },
              ThrowsMessage<InvalidArgument>(HasSubstr("row 4 is zero")));
  at::Tensor with_nan = points.clone();
  with_nan[2][1] = NAN;
  EXPECT_THAT([&] { fit(with_nan); },
              ThrowsMessage<InvalidArgument>(HasSubstr("row 2 holds a value that is not finite")));
  EXPECT_THAT([&] { fit(axis(3).expand({5, 3})); },
              ThrowsMessage<InvalidArgument>(HasSubstr("all rows coincide")));
  EXPECT_THAT([&] { fit(at::ones({3}, at::kDouble)); },
              ThrowsMessage<InvalidArgument>(HasSubstr("expected shape [n, p]")));
  EXPECT_THAT([&] { fit(at::ones({3, 1}, at::kDouble)); },
              ThrowsMessage<InvalidArgument>(HasSubstr("p >= 2")));
  EXPECT_THAT([&] { fit_concentration(3, 1); },
              ThrowsMessage<InvalidArgument>(HasSubstr("in [0, 1)")));
  EXPECT_THAT([&] { parse_fit_method("newtn"); },
              ThrowsMessage<InvalidArgument>(HasSubstr("did you mean 'newton'")));
  EXPECT_THAT([&] { sample(2 * axis(3), 1, 1); },
              ThrowsMessage<InvalidArgument>(HasSubstr("expected length 1, got 2")));
  EXPECT_THAT([&] { log_normalizer(3, -1.0); },
              ThrowsMessage<InvalidArgument>(HasSubstr("kappa: expected")));
}

// Clusters around different axes, of different sizes and concentrations.
struct Clusters {
  at::Tensor points;
  at::Tensor labels;
};

Clusters clusters(std::int64_t p) {
  std::vector<at::Tensor> points;
  std::vector<at::Tensor> labels;
  for (std::int64_t k = 0; k < 3; ++k) {
    const std::int64_t n = 200 + 100 * k;
    points.push_back(
        sample(axis(p, k), static_cast<double>(p * (8 + 4 * k)), n, static_cast<std::uint64_t>(k)));
    labels.push_back(at::full({n}, k, at::kLong));
  }
  return {at::cat(points), at::cat(labels)};
}

TEST(MixtureFit, RecoversClusters) {
  for (const std::int64_t p : {3, 64, 32768}) {
    for (const bool hard : {false, true}) {
      if (p == 32768 && hard) continue;  // once is enough at this size
      const Clusters data = clusters(p);
      MixtureOptions options;
      options.components = 3;
      options.hard = hard;
      options.restarts = p == 32768 ? 1 : 4;
      const Mixture found = fit_mixture(data.points, options);
      EXPECT_TRUE(found.converged);
      for (std::int64_t k = 0; k < 3; ++k) {
        const at::Tensor cosines = found.mean_directions.select(1, k);
        const std::int64_t component = cosines.argmax().item<std::int64_t>();
        EXPECT_GT(cosines[component].item<double>(), 0.97) << p;
        EXPECT_NEAR(found.concentrations[component].item<double>(),
                    static_cast<double>(p * (8 + 4 * k)),
                    0.2 * static_cast<double>(p * (8 + 4 * k)));
        EXPECT_NEAR(found.weights[component].item<double>(), (200.0 + 100 * k) / 900, 0.03);
        const at::Tensor own = found.assignments.masked_select(data.labels == k);
        EXPECT_GT(own.eq(component).to(at::kDouble).mean().item<double>(), 0.95) << p;
      }
      const Responsibilities shares = responsibilities(data.points, found);
      EXPECT_NEAR(shares.log_densities.mean().item<double>(), found.mean_log_likelihood,
                  1e-9 * std::abs(found.mean_log_likelihood));
      EXPECT_LT((at::logsumexp(shares.log_responsibilities, {1})).abs().max().item<double>(), 1e-9);
    }
  }
}

TEST(MixtureFit, OneComponentIsThePlainFit) {
  const at::Tensor points = sample(axis(5), 9, 500, 2);
  MixtureOptions options;
  options.components = 1;
  const Mixture found = fit_mixture(points, options);
  const VonMisesFisherFit plain = fit(points);
  EXPECT_NEAR(found.concentrations[0].item<double>() / plain.concentration, 1, 1e-10);
  EXPECT_NEAR(found.mean_log_likelihood, plain.mean_log_likelihood, 1e-10);
}

TEST(MixtureFit, LikelihoodGrowsWithIterations) {
  const Clusters data = clusters(8);
  double before = -INFINITY;
  for (const std::int64_t iterations : {1, 2, 4, 8, 30}) {
    MixtureOptions options;
    options.components = 5;
    options.restarts = 1;
    options.iterations = iterations;
    options.seed = 6;
    const double now = fit_mixture(data.points, options).mean_log_likelihood;
    EXPECT_GE(now, before - 1e-10) << iterations;
    before = now;
  }
}

TEST(MixtureFit, SurvivesRepeatedRowsAndTooManyComponents) {
  // Two places only: further components have nothing to hold.
  const at::Tensor points = at::cat({axis(4, 0).expand({30, 4}), axis(4, 1).expand({30, 4})});
  MixtureOptions options;
  options.components = 4;
  options.iterations = 50;
  const Mixture found = fit_mixture(points, options);
  EXPECT_TRUE(found.concentrations.isfinite().all().item<bool>());
  EXPECT_TRUE(found.mean_directions.isfinite().all().item<bool>());
  EXPECT_NEAR(found.weights.sum().item<double>(), 1, 1e-12);
  options.max_concentration = 50;
  EXPECT_LE(fit_mixture(points, options).concentrations.max().item<double>(), 50);
  options.components = 61;
  EXPECT_THAT([&] { fit_mixture(points, options); },
              ThrowsMessage<InvalidArgument>(HasSubstr("components: expected 1 to 60")));
}

}  // namespace
}  // namespace einkorn::log_bessel
