// The product: reference values, every instruction set, awkward shapes, gradients, the module.
#include "einkorn/compute/marlin/marlin.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <limits>

#include "einkorn/compute/marlin/quant_linear.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/file_test_internal.h"
#include "einkorn/core/isa.h"

namespace einkorn::marlin {
namespace {

using testing::HasSubstr;

struct Case {
  int bits = 4;
  std::int64_t group_size = 128;
  bool has_zeros = false;
  bool has_order = false;
  at::ScalarType scale_type = at::kHalf;
};

QuantizedWeights random_weights(std::int64_t inputs, std::int64_t outputs, const Case& how = {}) {
  const std::int64_t groups = how.group_size == -1 ? std::min<std::int64_t>(inputs, 1)
                                                   : (inputs + how.group_size - 1) / how.group_size;
  const at::Tensor codes = at::randint(1 << how.bits, {inputs, outputs}, at::kByte);
  const at::Tensor scales = (at::rand({groups, outputs}) + 0.1).to(how.scale_type);
  std::optional<at::Tensor> zeros;
  if (how.has_zeros) zeros = at::randint(1 << how.bits, {groups, outputs}, at::kByte);
  std::optional<at::Tensor> order;
  if (how.has_order) order = at::randperm(inputs, at::kLong);
  return from_codes(codes, scales, how.bits, how.group_size, zeros, order);
}

at::Tensor exact_product(const at::Tensor& a, const QuantizedWeights& w) {
  return a.to(at::kDouble).matmul(dequantize(w, at::kDouble));
}

// Largest error over its bound: f32 sums of K products of codes below 2^bits, in any order, and one
// rounding to the dtype of the result. At most 1.
double error_over_bound(const at::Tensor& found, const at::Tensor& a, const QuantizedWeights& w) {
  const at::Tensor exact = exact_product(a, w);
  if (exact.numel() == 0) return 0;
  const double unit = found.scalar_type() == at::kHalf       ? std::exp2(-11)
                      : found.scalar_type() == at::kBFloat16 ? std::exp2(-8)
                                                             : std::exp2(-24);
  const double sums = std::exp2(-24) * static_cast<double>(w.inputs + 8) * std::exp2(w.bits);
  const double largest_scale = scales_of(w).to(at::kDouble).max().item<double>();
  const at::Tensor bound =
      exact.abs() * (1.01 * unit) + a.to(at::kDouble).abs().sum(1, true) * (sums * largest_scale);
  return ((found.to(at::kDouble) - exact).abs() / bound).max().item<double>();
}

// ---- reference values ----

QuantizedWeights published_weights() {
  const at::Tensor k = at::arange(128, at::kLong).unsqueeze(1);
  const at::Tensor n = at::arange(256, at::kLong).unsqueeze(0);
  const at::Tensor codes = (3 * k + 5 * n + (k * n).floor_divide(7)).remainder(16).to(at::kByte);
  const at::Tensor scales = ((n.remainder(4) + 1).to(at::kFloat) / 64).to(at::kHalf);
  return from_codes(codes, scales, 4, 128);
}

at::Tensor published_activations() {
  const at::Tensor m = at::arange(3, at::kLong).unsqueeze(1);
  const at::Tensor k = at::arange(128, at::kLong).unsqueeze(0);
  return ((5 * m + 3 * k).remainder(17) - 8).to(at::kFloat) / 16;
}

TEST(MarlinProduct, ReferenceValuesAreExact) {
  for (const Isa isa : supported_isas()) {
    const ScopedIsa scoped(isa);
    const at::Tensor c = matmul(published_activations(), prepare(published_weights(), at::kCPU));
    const auto at_place = [&](std::int64_t m, std::int64_t n) { return c[m][n].item<float>(); };
    EXPECT_FLOAT_EQ(at_place(0, 0), 0.08496094F);
    EXPECT_FLOAT_EQ(at_place(0, 1), 0.18945312F);
    EXPECT_FLOAT_EQ(at_place(0, 2), 1.63769531F);
    EXPECT_FLOAT_EQ(at_place(0, 3), -0.2109375F);
    EXPECT_FLOAT_EQ(at_place(2, 255), -0.41796875F);
    EXPECT_FLOAT_EQ(at_place(1, 100), 0.16796875F);
    EXPECT_DOUBLE_EQ(c.to(at::kDouble).sum().item<double>(), -6.7314453125) << to_string(isa);
    EXPECT_DOUBLE_EQ(c.to(at::kDouble).abs().sum().item<double>(), 329.3740234375);
  }
}

TEST(MarlinProduct, TheOfficialCallGivesTheSame) {
  const QuantizedWeights w = published_weights();
  const at::Tensor a = published_activations().to(at::kHalf);
  // One group of 128 rows is one scale a column: its order is that of per-column scales.
  const at::Tensor s = permute_scales(scales_of(w), ScaleOrder::column);
  EXPECT_TRUE(mul(a, w.words, s).equal(matmul(a, prepare(w, at::kCPU))));
}

TEST(MarlinProduct, OfficialTolerancesHold) {
  at::manual_seed(1);
  const at::Tensor w = at::randn({1024, 512});
  QuantizeOptions sparse;
  sparse.sparse_2_4 = true;
  for (const bool is_sparse : {false, true}) {
    const QuantizedWeights quantized = quantize_rtn(w, is_sparse ? sparse : QuantizeOptions());
    const PreparedWeights prepared = prepare(quantized, at::kCPU);
    for (const std::int64_t rows : {1, 2, 3, 4, 8, 12, 16, 24, 32, 48, 64, 118, 128, 152}) {
      const at::Tensor a = at::randn({rows, 1024}).to(at::kHalf);
      const at::Tensor found = matmul(a, prepared).to(at::kDouble);
      const at::Tensor expected = exact_product(a, quantized);
      const double error = ((found - expected).abs().mean() / expected.abs().mean()).item<double>();
      EXPECT_LT(error, is_sparse ? 2e-3 : 1e-3) << rows;
    }
  }
}

TEST(MarlinProduct, RowsOfTheIdentityGiveTheWeightsBitForBit) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kFloat}) {
    for (const Isa isa : supported_isas()) {
      const ScopedIsa scoped(isa);
      const QuantizedWeights w = random_weights(144, 100);
      const at::Tensor found = matmul(at::eye(144).to(type), prepare(w, at::kCPU));
      EXPECT_TRUE(found.equal(dequantize(w, type))) << to_string(isa) << c10::toString(type);
    }
  }
}

// ---- every kernel ----

class MarlinKernels : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Isa, MarlinKernels, testing::ValuesIn(supported_isas()),
                         [](const auto& level) { return to_string(level.param); });

TEST_P(MarlinKernels, AwkwardShapesAgreeWithDouble) {
  const ScopedIsa scoped(GetParam());
  at::manual_seed(2);
  std::size_t turn = 0;
  const at::ScalarType types[] = {at::kHalf, at::kBFloat16, at::kFloat};
  const std::int64_t groups[] = {32, 64, 128, -1};
  for (const std::int64_t inputs : {1, 7, 8, 9, 31, 33, 64, 127, 129, 260}) {
    for (const std::int64_t outputs : {1, 15, 17, 63, 64, 65, 130}) {
      for (const int bits : {4, 8}) {
        const Case how = {bits, groups[turn % 4], turn % 3 == 0, turn % 5 == 0,
                          turn % 2 == 0 ? at::kHalf : at::kBFloat16};
        const QuantizedWeights w = random_weights(inputs, outputs, how);
        const std::int64_t rows = std::int64_t(1 + turn * 7 % 29);
        const at::ScalarType type = types[turn % 3];
        const at::Tensor a = at::randn({rows, inputs}).to(type);
        const at::Tensor found = matmul(a, prepare(w, at::kCPU));
        ASSERT_EQ(found.scalar_type(), type);
        EXPECT_LE(error_over_bound(found, a, w), 1)
            << inputs << " " << outputs << " " << bits << " " << how.group_size << " " << rows;
        ++turn;
      }
    }
  }
}

TEST_P(MarlinKernels, EveryNumberOfRowsAgreesWithOneRowAtATime) {
  const ScopedIsa scoped(GetParam());
  const QuantizedWeights w = random_weights(200, 70);
  const PreparedWeights prepared = prepare(w, at::kCPU);
  const at::Tensor a = at::randn({40, 200});
  for (std::int64_t rows = 1; rows <= 40; ++rows) {
    const at::Tensor found = matmul(a.slice(0, 0, rows), prepared);
    EXPECT_LE(error_over_bound(found, a.slice(0, 0, rows), w), 1) << rows;
  }
}

TEST_P(MarlinKernels, EightBitActivationsAreTheSameIntegersEverywhere) {
  at::manual_seed(4);
  for (const int bits : {4, 8}) {
    for (const bool has_zeros : {false, true}) {
      const QuantizedWeights w =
          random_weights(300, 130, {bits, 64, has_zeros, true, at::kBFloat16});
      const PreparedWeights prepared = prepare(w, at::kCPU);
      for (const std::int64_t rows : {1, 2, 3, 5}) {
        const at::Tensor a = at::randn({rows, 300});
        at::Tensor expected;
        {
          const ScopedIsa scalar(Isa::scalar);
          expected = matmul(a, prepared, Activations::int8);
        }
        const ScopedIsa scoped(GetParam());
        const at::Tensor found = matmul(a, prepared, Activations::int8);
        EXPECT_TRUE(found.equal(expected)) << bits << has_zeros << rows;
        const at::Tensor exact = exact_product(a, w);
        EXPECT_LT(((found.to(at::kDouble) - exact).norm() / exact.norm()).item<double>(), 0.02);
      }
    }
  }
}

TEST_P(MarlinKernels, NumbersThatAreNotFiniteStayInTheirRow) {
  const ScopedIsa scoped(GetParam());
  const QuantizedWeights w = random_weights(96, 40);
  const PreparedWeights prepared = prepare(w, at::kCPU);
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    for (const Activations how : {Activations::floating, Activations::int8}) {
      at::Tensor a = at::randn({5, 96});
      a[2][50] = bad;
      const at::Tensor finite = matmul(a, prepared, how).isfinite();
      for (std::int64_t row = 0; row < 5; ++row) {
        EXPECT_EQ(finite[row].any().item<bool>(), row != 2);
        EXPECT_EQ(finite[row].all().item<bool>(), row != 2);
      }
    }
  }
}

TEST(MarlinProduct, StridedAndMisalignedActivationsAreRead) {
  const QuantizedWeights w = random_weights(65, 33);
  const PreparedWeights prepared = prepare(w, at::kCPU);
  const at::Tensor wide = at::randn({131, 200}).to(at::kHalf);
  const at::Tensor views[] = {wide.slice(0, 0, 65).slice(1, 3, 10).t(),
                              wide.slice(0, 1, 8).slice(1, 1, 66),
                              wide.slice(0, 0, 130, 2).t().slice(0, 0, 5)};
  for (const at::Tensor& view : views) {
    EXPECT_TRUE(matmul(view, prepared).equal(matmul(view.contiguous(), prepared)));
  }
  const at::Tensor batch = at::randn({2, 3, 65});
  EXPECT_EQ(matmul(batch, prepared).sizes(), at::IntArrayRef({2, 3, 33}));
  EXPECT_EQ(matmul(batch[0][0], prepared).sizes(), at::IntArrayRef({33}));
}

TEST(MarlinProduct, ResultsDoNotDependOnTheNumberOfThreads) {
  const PreparedWeights prepared = prepare(random_weights(500, 700), at::kCPU);
  const at::Tensor a = at::randn({9, 500}).to(at::kHalf);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = matmul(a, prepared);
  at::set_num_threads(3);
  const at::Tensor three = matmul(a, prepared);
  at::set_num_threads(threads);
  EXPECT_TRUE(one.equal(three));
}

TEST(MarlinProduct, EmptyShapesGiveEmptyOrZero) {
  EXPECT_EQ(matmul(at::zeros({0, 64}), prepare(random_weights(64, 5), at::kCPU)).sizes(),
            at::IntArrayRef({0, 5}));
  EXPECT_EQ(matmul(at::zeros({3, 64}), prepare(random_weights(64, 0), at::kCPU)).sizes(),
            at::IntArrayRef({3, 0}));
  QuantizedWeights nothing = random_weights(0, 4);
  nothing.bias = at::ones({4});
  EXPECT_TRUE(matmul(at::zeros({3, 0}), prepare(nothing, at::kCPU)).equal(at::ones({3, 4})));
}

TEST(MarlinProduct, BadCallsAreRefused) {
  const PreparedWeights prepared = prepare(random_weights(64, 5), at::kCPU);
  const auto message = [](const auto& call) { return message_of<InvalidArgument>(call); };
  EXPECT_THAT(message([&] { matmul(at::zeros({3, 63}), prepared); }), HasSubstr("64 features"));
  EXPECT_THAT(message([&] { matmul(at::zeros({3, 64}, at::kInt), prepared); }),
              HasSubstr("float16, bfloat16, float32 or float64"));
  EXPECT_THAT(
      message([&] { matmul(at::zeros({3, 64}, at::kDouble), prepared, Activations::int8); }),
      HasSubstr("8-bit activations"));
  PreparedWeights broken = prepared;
  broken.scales = broken.scales.slice(2, 0, 3);
  EXPECT_THAT(message([&] { matmul(at::zeros({3, 64}), broken); }), HasSubstr("scales: expected"));
}

TEST(MarlinProduct, RestoredWeightsAreTheSame) {
  const QuantizedWeights w = random_weights(100, 70, {8, 32, true, true, at::kHalf});
  EXPECT_TRUE(dequantize(prepare(w, at::kCPU), at::kDouble).equal(dequantize(w, at::kDouble)));
}

// ---- gradients and the module ----

TEST(MarlinGradient, ReachesTheActivationsAlone) {
  const QuantizedWeights w = random_weights(40, 30, {4, 32, true, true, at::kHalf});
  at::Tensor a = at::randn({5, 40}, at::kDouble).requires_grad_(true);
  const at::Tensor out = matmul(a, prepare(w, at::kCPU));
  const at::Tensor upstream = at::randn({5, 30}, at::kDouble);
  out.backward(upstream);
  const at::Tensor expected = upstream.matmul(dequantize(w, at::kDouble).t());
  EXPECT_TRUE(at::allclose(a.grad(), expected, 1e-12, 1e-12));
}

TEST(MarlinModule, IsALinearLayerThatMovesAndComesBack) {
  at::manual_seed(8);
  torch::nn::Linear linear(100, 60);
  const auto layer = QuantLinearImpl::from_linear(linear->weight, linear->bias);
  const at::Tensor x = at::randn({7, 100});
  const at::Tensor y = layer->forward(x);
  EXPECT_LT(((y - linear(x)).norm() / linear(x).norm()).item<double>(), 0.15);
  const QuantizedWeights w = layer->weights();
  const at::Tensor exact = exact_product(x, w) + w.bias;
  EXPECT_LT((y - exact).abs().max().item<double>(), 1e-4);
  EXPECT_EQ(layer->named_buffers().size(), 3U);
  EXPECT_EQ(layer->parameters().size(), 0U);

  const TemporaryFolder folder;
  layer->save_weights({folder / "layer.safetensors"});
  const auto loaded = QuantLinearImpl::load_weights(folder / "layer.safetensors");
  EXPECT_TRUE(loaded->forward(x).equal(y));
  // Buffers that change are arranged anew.
  {
    const at::NoGradGuard none;
    loaded->named_buffers()["s"].mul_(2);
    loaded->named_buffers()["bias"].mul_(2);
  }
  EXPECT_TRUE(at::allclose(loaded->forward(x), 2 * y, 1e-5, 1e-5));
}

// ---- stripes of the paper ----

void expect_stripe(const Stripe& stripe, std::int64_t slice, std::int64_t row, std::int64_t length,
                   std::int64_t index, std::int64_t count) {
  EXPECT_EQ(stripe.slice, slice);
  EXPECT_EQ(stripe.row, row);
  EXPECT_EQ(stripe.length, length);
  EXPECT_EQ(stripe.index, index);
  EXPECT_EQ(stripe.count, count);
}

TEST(MarlinStripes, AreThoseOfThePaper) {
  const StripePlan small = plan_stripes(3, 3, 5);
  EXPECT_EQ(small.iterations, 2);
  ASSERT_EQ(small.blocks.size(), 5U);
  expect_stripe(small.blocks[1][0], 0, 2, 1, 0, 2);
  expect_stripe(small.blocks[1][1], 1, 0, 1, 1, 2);
  expect_stripe(small.blocks[4][0], 2, 2, 1, 0, 2);

  const StripePlan square = plan_stripes(32, 32, 132);
  EXPECT_EQ(square.iterations, 8);
  EXPECT_EQ(square.blocks.size(), 128U);
  for (const auto& block : square.blocks) EXPECT_EQ(block[0].count, 4);

  const StripePlan wide = plan_stripes(32, 96, 132);
  EXPECT_EQ(wide.iterations, 24);
  EXPECT_EQ(wide.blocks.size(), 128U);
  expect_stripe(wide.blocks[1][0], 0, 24, 8, 0, 2);
  expect_stripe(wide.blocks[1][1], 1, 0, 16, 1, 2);
}

TEST(MarlinStripes, CoverEachTileOnce) {
  EXPECT_TRUE(rc::check("stripes tile the matrix", [] {
    const auto rows = *rc::gen::inRange<std::int64_t>(1, 30);
    const auto columns = *rc::gen::inRange<std::int64_t>(1, 30);
    const auto processors = *rc::gen::inRange<std::int64_t>(1, 140);
    const auto step = *rc::gen::inRange<std::int64_t>(1, 4);
    const StripePlan plan = plan_stripes(rows, columns, processors, step);
    std::vector<int> seen(static_cast<std::size_t>(rows * columns));
    RC_ASSERT(static_cast<std::int64_t>(plan.blocks.size()) <= processors);
    for (const auto& block : plan.blocks) {
      for (const Stripe& stripe : block) {
        for (std::int64_t i = 0; i < stripe.length; ++i) {
          ++seen[static_cast<std::size_t>(stripe.slice * rows + stripe.row + i)];
        }
      }
    }
    for (const int count : seen) RC_ASSERT(count == 1);
  }));
}

TEST(MarlinProductProperty, IsLinearInTheActivations) {
  EXPECT_TRUE(rc::check("matmul(x + y) = matmul(x) + matmul(y)", [] {
    const auto inputs = *rc::gen::inRange<std::int64_t>(1, 150);
    const auto outputs = *rc::gen::inRange<std::int64_t>(1, 100);
    const PreparedWeights w =
        prepare(random_weights(inputs, outputs, {.group_size = 32}), at::kCPU);
    const at::Tensor x = at::randn({2, inputs}, at::kDouble);
    const at::Tensor y = at::randn({2, inputs}, at::kDouble);
    RC_ASSERT(at::allclose(matmul(x + y, w), matmul(x, w) + matmul(y, w), 1e-10, 1e-10));
  }));
}

TEST(MarlinOnCuda, AgreesWithTheCpu) {
  if (!is_available(Device::cuda)) GTEST_SKIP() << "no CUDA device";
  at::manual_seed(5);
  for (const std::int64_t rows : {1, 8, 9, 16, 17, 32, 33, 64, 128, 200, 2100}) {
    for (const int bits : {4, 8}) {
      const Case how = {bits, rows % 2 == 0 ? 64 : 128, rows % 3 == 0, rows % 4 == 0, at::kHalf};
      const QuantizedWeights w = random_weights(rows % 5 == 0 ? 250 : 512, 330, how);
      const at::Tensor a = at::randn({rows, w.inputs}).to(at::kHalf);
      const at::Tensor exact = exact_product(a, w);
      const at::Tensor found =
          matmul(a.cuda(), prepare(to_device(w, at::Device(at::kCUDA)), at::kCUDA)).cpu();
      const double error = ((found.to(at::kDouble) - exact).norm() / exact.norm()).item<double>();
      EXPECT_LT(error, rows <= 32 ? 4e-4 : 8e-4) << rows << " " << bits;
    }
  }
}

}  // namespace
}  // namespace einkorn::marlin
