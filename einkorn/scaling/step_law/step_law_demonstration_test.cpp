#include "einkorn/core/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "einkorn/scaling/step_law/step_law_demonstration_internal.h"

namespace einkorn::step_law {
namespace {

constexpr double rate_in_tokens = 0.3;
constexpr double batch_in_params = 0.1;

// Losses of a convex quadratic whose optimum follows a known law; all seeds alike.
TrainedStudy made(std::int64_t params, std::int64_t tokens, double rate_in_params,
                  double batch_in_tokens, double off_centre = 0) {
  TrainedStudy trained{{32, tokens, {}, {}, 3}, params, {}};
  for (int i = -12; i <= -4; ++i) trained.study.rates.push_back(std::exp2(i));
  for (int i = 4; i <= 10; ++i) trained.study.batches.push_back(1 << i);
  const double n = std::log2(static_cast<double>(params) / 1e5);
  const double d = std::log2(static_cast<double>(tokens) / 65536);
  for (const std::int64_t batch : trained.study.batches) {
    trained.losses.emplace_back();
    for (const double rate : trained.study.rates) {
      const double peak = rate * Study::root_of_batch(static_cast<double>(batch));
      const double x = std::log2(peak) + 8 - rate_in_params * n - rate_in_tokens * d;
      const double y = std::log2(static_cast<double>(batch)) - 6 - batch_in_params * n -
                       batch_in_tokens * d - off_centre;
      const double loss = 2 + 0.004 * (x * x - x * y + y * y);
      trained.losses.back().push_back({loss, loss, loss});
    }
  }
  return trained;
}

std::vector<TrainedStudy> studies_of(double rate_in_params, double batch_in_tokens,
                                     double off_centre = 0) {
  return {made(100000, 1 << 16, rate_in_params, batch_in_tokens, off_centre),
          made(400000, 1 << 16, rate_in_params, batch_in_tokens, off_centre),
          made(100000, 1 << 19, rate_in_params, batch_in_tokens, off_centre)};
}

const Check& check_named(const Evidence& evidence, const std::string& words) {
  for (const Check& check : evidence.checks) {
    if (check.name.find(words) != std::string::npos) return check;
  }
  throw std::out_of_range(words);
}

TEST(JudgeTrained, FindsAKnownLaw) {
  Evidence evidence;
  judge_trained(studies_of(-0.7, 0.6), evidence);
  EXPECT_TRUE(evidence.pass());
  EXPECT_NEAR(check_named(evidence, "learning rate in N").measured, -0.7, 1e-6);
  EXPECT_NEAR(check_named(evidence, "batch in D").measured, 0.6, 1e-6);
  const Table& exponents = evidence.tables[1];
  EXPECT_NEAR(std::get<double>(exponents.rows[1][1]), rate_in_tokens, 1e-6);
  EXPECT_NEAR(std::get<double>(exponents.rows[2][1]), batch_in_params, 1e-6);
  const Table& optima = evidence.tables[0];
  EXPECT_NEAR(std::get<double>(optima.rows[0][4]), 1, 1e-6) << "seeds alike leave no error";
  EXPECT_LT(std::get<std::int64_t>(optima.rows[0][9]), 63) << "the window leaves runs out";
  EXPECT_EQ(evidence.plots.size(), 3U);
}

TEST(JudgeTrained, SaysWhereALawDoesNotHold) {
  Evidence rising;
  judge_trained(studies_of(0.5, 0.6), rising);
  EXPECT_FALSE(check_named(rising, "learning rate in N").pass());
  EXPECT_TRUE(check_named(rising, "batch in D").pass());
  Evidence falling;
  judge_trained(studies_of(-0.7, -0.2), falling);
  EXPECT_TRUE(check_named(falling, "learning rate in N").pass());
  EXPECT_FALSE(check_named(falling, "batch in D").pass());
}

TEST(JudgeTrained, OptimaOutsideTheirGridsShowNothing) {
  Evidence evidence;
  judge_trained(studies_of(-0.7, 0.6, 4.3), evidence);
  EXPECT_EQ(check_named(evidence, "within their grid").measured, 0);
  EXPECT_EQ(check_named(evidence, "convex").measured, 1);
  EXPECT_TRUE(std::isnan(check_named(evidence, "batch in D").measured));
  EXPECT_FALSE(check_named(evidence, "batch in D").pass());
}

TEST(JudgeTrained, TooFewRunsNearTheBestAreNoLandscape) {
  auto trained = studies_of(-0.7, 0.6);
  for (auto& row : trained[0].losses) {
    for (auto& seeds : row) {
      for (double& loss : seeds) loss = 2 + 10 * (loss - 2);
    }
  }
  trained[0].study.rates.resize(3);
  Evidence evidence;
  judge_trained(trained, evidence);
  EXPECT_FALSE(evidence.pass());
  EXPECT_NEAR(check_named(evidence, "convex").measured, 2.0 / 3, 1e-12);
}

TEST(JudgeTrained, ErrorsGrowWithTheSpreadOfTheSeeds) {
  auto trained = studies_of(-0.7, 0.6);
  for (std::size_t i = 0; i < trained[0].losses.size(); ++i) {
    // The first seed likes larger batches.
    for (auto& seeds : trained[0].losses[i]) seeds[0] -= 0.004 * static_cast<double>(i);
  }
  Evidence evidence;
  judge_trained(trained, evidence);
  const auto& row = evidence.tables[0].rows;
  EXPECT_GT(std::get<double>(row[0][6]), 1.05);
  EXPECT_NEAR(std::get<double>(row[1][6]), 1, 1e-6);
  // The exponent in D is the slope between the first optimum, which has an error, and the third.
  const double error = std::log(std::get<double>(row[0][6])) / std::log(8);
  EXPECT_NEAR(std::get<double>(evidence.tables[1].rows[3][2]), error, 1e-6);
}

TEST(DemonstrationStudies, CompareLikeWithLike) {
  EXPECT_EQ(demonstration_studies(Device::cpu).size(), 3U);
  EXPECT_EQ(demonstration_studies(Device::cuda).size(), 12U);
  for (const Device device : {Device::cpu, Device::cuda}) {
    std::map<std::int64_t, std::set<std::int64_t>> tokens_of_size;
    const auto all = demonstration_studies(device);
    for (const Study& one : all) {
      tokens_of_size[one.hidden].insert(one.tokens);
      EXPECT_GE(one.seeds, 2) << "without seeds no error";
      for (const Study& other : all) {
        EXPECT_EQ(one.rates, other.rates);
        if (one.tokens == other.tokens) {
          EXPECT_EQ(one.batches, other.batches);
        }
      }
    }
    EXPECT_GE(tokens_of_size.size(), 2U);
    EXPECT_GE(tokens_of_size.begin()->second.size(), 2U);
  }
}

}  // namespace
}  // namespace einkorn::step_law
