#include "einkorn/scaling/step_law/step_law.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "einkorn/core/error.h"

namespace einkorn::step_law {
namespace {

struct Reference {
  double params, tokens, lr, batch, paper_lr, paper_batch;
};

// The spec's table: means of the released bootstrap, and the rounded constants of the paper.
const Reference references[] = {
    {1e9, 1e11, 0.001662379107, 1107466.6195, 0.001632499402, 1107714.8900},
    {7e9, 1.4e12, 0.000934684068, 4996961.3243, 0.000916556909, 4998815.4327},
    {6e7, 2e9, 0.003710183424, 118662.4457, 0.003651298999, 118663.2178},
    {2.68e8, 8e10, 0.003968501721, 974990.5786, 0.003897997434, 975197.0439}};

TEST(StepLaw, ReferenceValues) {
  for (const Reference& one : references) {
    const Answer released = evaluate(Law::step, {one.params, one.tokens});
    EXPECT_NEAR(*released.learning_rate / one.lr, 1, 1e-9);
    EXPECT_NEAR(*released.batch_tokens / one.batch, 1, 1e-9);
    const Answer paper = evaluate(Law::step, {one.params, one.tokens}, Constants::paper);
    EXPECT_NEAR(*paper.learning_rate / one.paper_lr, 1, 1e-9);
    EXPECT_NEAR(*paper.batch_tokens / one.paper_batch, 1, 1e-9);
  }
}

TEST(StepLaw, TensorsAgreeWithScalarsAndBroadcast) {
  const at::Tensor params = at::logspace(7, 10, 13, 10.0, at::kDouble).unsqueeze(1);
  const at::Tensor tokens = at::logspace(9, 12, 7, 10.0, at::kDouble);
  const at::Tensor rates = learning_rate(params, tokens);
  ASSERT_EQ(rates.sizes(), (std::vector<std::int64_t>{13, 7}));
  for (std::int64_t i = 0; i < 13; ++i) {
    for (std::int64_t j = 0; j < 7; ++j) {
      const Answer answer =
          evaluate(Law::step, {params[i][0].item<double>(), tokens[j].item<double>()});
      EXPECT_NEAR(rates[i][j].item<double>() / *answer.learning_rate, 1, 1e-12);
      EXPECT_NEAR(batch_tokens(tokens)[j].item<double>() / *answer.batch_tokens, 1, 1e-12);
    }
  }
}

TEST(StepLaw, TensorsMarkEntriesThatAreNoSizes) {
  const at::Tensor odd =
      at::tensor(std::vector<double>{0.0, -1.0, NAN, INFINITY, 1e9}, at::kDouble);
  const at::Tensor rates = learning_rate(odd, at::full({1}, 1e11, at::kDouble));
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(std::isnan(rates[i].item<double>())) << i;
  EXPECT_FALSE(std::isnan(rates[4].item<double>()));
  EXPECT_EQ(learning_rate(at::empty({0}, at::kDouble), at::empty({0}, at::kDouble)).numel(), 0);
  EXPECT_THROW(learning_rate(at::ones({2}, at::kBool), odd), InvalidArgument);
}

TEST(Suggest, RoundsSequencesAndSplitsExactly) {
  const Suggestion found = suggest(1e9, 1e11);
  EXPECT_EQ(found.batch_sequences_rounded, 544);
  EXPECT_NEAR(*found.batch_sequences, 540.755, 1e-3);
  EXPECT_FALSE(found.extrapolated);
  EXPECT_EQ(suggest(1e9, 1e11, {.round_sequences_to = 1}).batch_sequences_rounded, 541);
  EXPECT_EQ(suggest(1e3, 10).batch_sequences_rounded, 8) << "never an empty batch";
  EXPECT_TRUE(suggest(7e9, 1.4e12).extrapolated);
}

// Percentiles of the released table's own predictions, computed from it once.
TEST(Suggest, BandsMatchTheReleasedBootstrap) {
  const Suggestion found = suggest(1e9, 1e11);
  const double width = std::log(0.00181896 / 0.00151815);
  EXPECT_NEAR(std::log(found.learning_rate_band->low / 0.00151815), 0, 0.05 * width);
  EXPECT_NEAR(std::log(found.learning_rate_band->high / 0.00181896), 0, 0.05 * width);
  const double batch_width = std::log(1198467.05 / 1015454.09);
  EXPECT_NEAR(std::log(found.batch_tokens_band->low / 1015454.09), 0, 0.05 * batch_width);
  EXPECT_NEAR(std::log(found.batch_tokens_band->high / 1198467.05), 0, 0.05 * batch_width);
  EXPECT_FALSE(suggest(1e9, 1e11, {.law = Law::porian}).learning_rate_band);
}

TEST(Laws, SayOnlyWhatTheyKnow) {
  EXPECT_FALSE(evaluate(Law::minicpm, {1e9, 1e10}).learning_rate);
  EXPECT_FALSE(evaluate(Law::minicpm, {1e9, 1e10}).batch_tokens) << "it needs the loss";
  EXPECT_TRUE(evaluate(Law::minicpm, {1e9, 1e10, std::nullopt, 2.5}).batch_tokens);
  EXPECT_FALSE(evaluate(Law::microsoft, {1e9, 1e10}).batch_tokens);
  EXPECT_FALSE(evaluate(Law::openai, {1e11, 1e10}).learning_rate)
      << "its line falls below zero there";
}

TEST(Laws, FormulasAtOnePoint) {
  const double params = 2.68304384e8;
  const double tokens = 8e10;
  EXPECT_NEAR(*evaluate(Law::openai, {params, tokens}).learning_rate,
              3.239e-3 - 1.395e-4 * std::log(params), 1e-15);
  EXPECT_NEAR(*evaluate(Law::openai, {params, tokens, std::nullopt, 2.0}).batch_tokens,
              2e8 * std::pow(2.0, -4.76190), 1e-6);
  const Answer deepseek = evaluate(Law::deepseek, {params, tokens, 2e9});
  EXPECT_NEAR(*deepseek.learning_rate, 0.3188 * std::pow(1.6e20, -0.125), 1e-12);
  EXPECT_NEAR(*deepseek.batch_tokens / (0.2920 * std::pow(1.6e20, 0.3271)), 1, 1e-12);
  EXPECT_NEAR(*evaluate(Law::porian, {params, tokens}).learning_rate, 3.7 * std::pow(params, -0.36),
              1e-12);
}

TEST(Laws, FlopsPerTokenDoesNotOverflowIntegers) {
  const double flops = flops_per_token(960, 9368, 7, 2048);
  EXPECT_DOUBLE_EQ(flops, 6.0 * (4 * 960 + 3 * 9368 + 2 * 2048) * 7 * 960);
  EXPECT_TRUE(std::isfinite(*evaluate(Law::deepseek, {1e11, 1e15}).learning_rate));
}

TEST(Laws, NamesRoundTripAndSlipsGetAHint) {
  for (const Law law : all_laws()) EXPECT_EQ(parse_law(to_string(law)), law);
  try {
    parse_law("deepsek");
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("did you mean 'deepseek'?"));
  }
}

TEST(Laws, RefuseWhatIsNoSize) {
  for (const double bad : {0.0, -1.0, std::nan(""), static_cast<double>(INFINITY)}) {
    EXPECT_THROW(evaluate(Law::step, {bad, 1e9}), InvalidArgument);
    EXPECT_THROW(evaluate(Law::step, {1e9, bad}), InvalidArgument);
    EXPECT_THROW(suggest(bad, 1e9), InvalidArgument);
  }
  EXPECT_THROW(suggest(1e9, 1e9, {.sequence_length = 0}), InvalidArgument);
  EXPECT_THROW(suggest(1e9, 1e9, {.round_sequences_to = 0}), InvalidArgument);
}

TEST(BatchSplits, NearestFirstAndAllTrue) {
  const auto splits = batch_splits(544, 8, 16);
  ASSERT_FALSE(splits.empty());
  std::int64_t last = 0;
  for (const BatchSplit& split : splits) {
    EXPECT_EQ(split.sequences, split.micro_batch * split.accumulation * split.data_parallel);
    const std::int64_t off = std::abs(split.sequences - 544);
    EXPECT_GE(off, last);
    last = off;
  }
  EXPECT_EQ(splits.front().sequences, 544);
  EXPECT_THROW(batch_splits(0, 1, 1), InvalidArgument);
  EXPECT_THROW(batch_splits(1, 0, 1), InvalidArgument);
}

TEST(SmoothLosses, KeepsConstantsAndTheMean) {
  const std::vector<double> constant(3000, 2.5);
  for (const double value : smooth_losses(constant)) EXPECT_NEAR(value, 2.5, 1e-14);
  std::vector<double> noisy(500);
  double sum = 0;
  for (std::size_t i = 0; i < noisy.size(); ++i) {
    noisy[i] = std::sin(static_cast<double>(i) * 1.7) + 3;
    sum += noisy[i];
  }
  double smooth_sum = 0;
  for (const double value : smooth_losses(noisy)) smooth_sum += value;
  EXPECT_NEAR(smooth_sum, sum, 1e-9) << "a mirrored boundary preserves the sum";
}

// scipy.ndimage.gaussian_filter1d(x, 3, mode="reflect", truncate=4) of x_i = (i mod 7)^2, 300
// entries.
TEST(SmoothLosses, AgreesWithTheReferenceFilter) {
  std::vector<double> losses(300);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    losses[i] = static_cast<double>((i % 7) * (i % 7));
  }
  const auto smooth = smooth_losses(losses);
  EXPECT_NEAR(smooth[0], 5.869364381946033, 1e-12);
  EXPECT_NEAR(smooth[150], 12.872619105028024, 1e-12);
  EXPECT_NEAR(smooth[299], 13.880875353497418, 1e-12);
}

TEST(SmoothLosses, ShortLogsAndBadOnes) {
  EXPECT_EQ(smooth_losses(std::vector<double>{3}), std::vector<double>{3});
  EXPECT_THROW(smooth_losses(std::vector<double>{}), InvalidArgument);
  EXPECT_THROW(smooth_losses(std::vector<double>{1, NAN}), InvalidArgument);
  EXPECT_THROW(smooth_losses(std::vector<double>{1}, 0), InvalidArgument);
}

}  // namespace
}  // namespace einkorn::step_law
