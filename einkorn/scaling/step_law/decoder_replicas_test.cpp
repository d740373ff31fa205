#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/scaling/step_law/decoder_replicas_internal.h"

namespace einkorn::step_law {
namespace {

const nn::DecoderOptions options = {
    .vocabulary = 7, .hidden = 12, .ffn_hidden = 20, .layers = 2, .heads = 4};
constexpr std::int64_t rates = 3;

// Two texts of five sequences for each of `count` steps.
std::vector<at::Tensor> batches(std::int64_t count) {
  torch::manual_seed(5);
  std::vector<at::Tensor> all;
  for (std::int64_t i = 0; i < count; ++i) all.push_back(torch::randint(7, {2, 5, 10}, at::kLong));
  return all;
}

// Weights ten times as large as drawn, so that gradients are clipped and attention is not flat; in
// double, since AdamW makes whole steps of the rounding in gradients near zero.
DecoderWeights large_weights() {
  DecoderWeights weights = draw_weights(options, {1, 2});
  weights.rows = weights.rows.to(at::kDouble) * 10;
  return weights;
}

nn::Decoder plain_decoder(const DecoderWeights& weights, std::int64_t row) {
  nn::Decoder model(options);
  model->to(at::kDouble);
  const torch::NoGradGuard no_grad;
  std::int64_t begin = 0;
  for (auto& parameter : model->parameters()) {
    parameter.copy_(weights.rows[row].narrow(0, begin, parameter.numel()).view_as(parameter));
    begin += parameter.numel();
  }
  EXPECT_EQ(begin, weights.rows.size(1));
  return model;
}

at::Tensor flat(const nn::Decoder& model) {
  std::vector<at::Tensor> parts;
  for (const auto& parameter : model->parameters()) parts.push_back(parameter.detach().flatten());
  return at::cat(parts);
}

// On one thread: products of this size take longer to share than to do.
class Replicas : public ::testing::Test {
 protected:
  Replicas() : threads_(at::get_num_threads()) { at::set_num_threads(1); }
  ~Replicas() override { at::set_num_threads(threads_); }

 private:
  int threads_;
};

TEST_F(Replicas, WeightsAreThoseADecoderDraws) {
  const DecoderWeights weights = draw_weights(options, {11, 12});
  for (std::int64_t i = 0; i < 2; ++i) {
    torch::manual_seed(11 + static_cast<std::uint64_t>(i));
    EXPECT_TRUE(at::equal(weights.rows[i], flat(nn::Decoder(options))));
  }
  EXPECT_THROW(draw_weights(options, {}), InvalidArgument);
}

TEST_F(Replicas, LossesAreThoseOfPlainDecoders) {
  const DecoderWeights weights = large_weights();
  DecoderReplicas replicas(options, weights, rates);
  const at::Tensor sequences = batches(1)[0];
  const at::Tensor losses = replicas.losses(sequences);
  ASSERT_EQ(losses.sizes(), (std::vector<std::int64_t>{2 * rates}));
  for (std::int64_t text = 0; text < 2; ++text) {
    const double expected = plain_decoder(weights, text)->loss(sequences[text]).item<double>();
    for (std::int64_t rate = 0; rate < rates; ++rate) {
      EXPECT_NEAR(losses[text * rates + rate].item<double>(), expected, 1e-12 * expected);
    }
  }
}

// Twenty steps against torch's optimizer and its clipping, at rates that change from step to step.
TEST_F(Replicas, StepsAreThoseOfAdamWOnPlainDecoders) {
  const DecoderWeights weights = large_weights();
  DecoderReplicas replicas(options, weights, rates);
  const std::vector<double> peaks = {1e-4, 1e-3, 1e-2};
  const at::Tensor schedule = learning_rates(peaks, 20).to(at::kDouble);
  const auto steps = batches(20);
  for (std::int64_t i = 0; i < 20; ++i) {
    replicas.step(steps[static_cast<std::size_t>(i)], schedule[i].repeat({2}));
  }
  bool clipped = false;
  for (std::int64_t text = 0; text < 2; ++text) {
    for (std::int64_t rate = 0; rate < rates; ++rate) {
      nn::Decoder model = plain_decoder(weights, text);
      torch::optim::AdamW optimizer(
          model->parameters(), torch::optim::AdamWOptions(1).betas({0.9, 0.95}).weight_decay(0.1));
      for (std::int64_t i = 0; i < 20; ++i) {
        optimizer.param_groups()[0].options().set_lr(schedule[i][rate].item<double>());
        optimizer.zero_grad();
        model->loss(steps[static_cast<std::size_t>(i)][text]).backward();
        clipped |= torch::nn::utils::clip_grad_norm_(model->parameters(), 1.0) > 1;
        optimizer.step();
      }
      const at::Tensor expected = flat(model);
      const at::Tensor found = replicas.parameters()[text * rates + rate];
      const at::Tensor moved = (expected - weights.rows[text]).norm();
      EXPECT_LT((found - expected).norm().item<double>(), 1e-9 * moved.item<double>())
          << "text " << text << ", rate " << rate;
    }
  }
  EXPECT_TRUE(clipped) << "or the test says nothing about clipping";
}

TEST_F(Replicas, OneThatDivergesLeavesTheOthersAlone) {
  const DecoderWeights weights = large_weights();
  const auto steps = batches(8);
  const auto trained = [&](double last_rate) {
    DecoderReplicas replicas(options, weights, 2);
    for (const at::Tensor& sequences : steps) {
      replicas.step(sequences, at::tensor({1e-3, last_rate, 1e-3, last_rate}, at::kDouble));
    }
    return replicas.parameters();
  };
  const at::Tensor calm = trained(1e-3);
  const at::Tensor wild = trained(1e200);
  EXPECT_TRUE(wild[1].isnan().any().item<bool>());
  EXPECT_TRUE(at::equal(wild[0], calm[0]));
  EXPECT_TRUE(at::equal(wild[2], calm[2]));
}

TEST(LearningRates, WarmUpThenCosineToAFixedFloor) {
  const at::Tensor rates_of_two = learning_rates({1e-2, 4e-3}, 100);
  ASSERT_EQ(rates_of_two.sizes(), (std::vector<std::int64_t>{100, 2}));
  const auto at_step = [&](std::int64_t step, std::int64_t peak) {
    return rates_of_two[step][peak].item<double>();
  };
  EXPECT_NEAR(at_step(0, 0), 1e-3, 1e-9);
  EXPECT_NEAR(at_step(9, 0), 1e-2, 1e-8);
  EXPECT_NEAR(at_step(10, 1), 4e-3, 1e-9);
  EXPECT_NEAR(at_step(55, 0), (1e-2 + 1e-5) / 2, 1e-8) << "half way down";
  for (std::int64_t step = 11; step < 100; ++step)
    EXPECT_LT(at_step(step, 0), at_step(step - 1, 0));
  for (const std::int64_t peak : {0, 1}) {
    EXPECT_GT(at_step(99, peak), 1e-5);
    EXPECT_LT(at_step(99, peak), 2e-5) << "the floor does not scale with the peak";
  }
  EXPECT_NEAR(learning_rates({1e-2}, 1).item<double>(), 1e-2, 1e-9);
}

}  // namespace
}  // namespace einkorn::step_law
