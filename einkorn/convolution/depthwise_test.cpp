#include "einkorn/convolution/depthwise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <torch/torch.h>

#include <numeric>

#include "einkorn/convolution/depthwise_autograd.h"
#include "einkorn/core/error.h"
#include "einkorn/core/isa.h"

namespace einkorn::convolution {
namespace {

using torch::Tensor;

enum class Order { contiguous, channels_last, inner_channels, blocked };

struct Case {
  std::int64_t images, channels, height, width, kernel_height, kernel_width;
};

std::string name_of(const Case& size) {
  return fmt::format("n={} c={} {}x{} k={}x{}", size.images, size.channels, size.height, size.width,
                     size.kernel_height, size.kernel_width);
}

double unit_roundoff(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return 0x1p-53;
    case at::kHalf:
      return 0x1p-11;
    case at::kBFloat16:
      return 0x1p-8;
    default:
      return 0x1p-24;
  }
}

// The definition, by torch in f64.
Tensor expected_forward(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  namespace F = torch::nn::functional;
  const std::int64_t kh = weight.size(2);
  const std::int64_t kw = weight.size(3);
  const Tensor padded =
      F::pad(x.to(at::kDouble), F::PadFuncOptions({(kw - 1) / 2, kw / 2, (kh - 1) / 2, kh / 2}));
  return at::conv2d(padded, weight.to(at::kDouble),
                    bias.defined() ? std::optional<Tensor>(bias.to(at::kDouble)) : std::nullopt, 1,
                    at::IntArrayRef{0}, 1, weight.size(0));
}

// Gradients of x, weight and bias by torch in f64, and the same sums of absolute values.
struct Gradients {
  Tensor x, weight, bias;
};

Gradients expected_gradients(const Tensor& dy, const Tensor& x, const Tensor& weight) {
  const Tensor leaf_x = x.to(at::kDouble).detach().requires_grad_(true);
  const Tensor leaf_weight = weight.to(at::kDouble).detach().requires_grad_(true);
  const Tensor leaf_bias = torch::zeros({weight.size(0)}, at::kDouble).requires_grad_(true);
  const Tensor y = expected_forward(leaf_x, leaf_weight, leaf_bias);
  const auto found =
      torch::autograd::grad({y}, {leaf_x, leaf_weight, leaf_bias}, {dy.to(at::kDouble)});
  return {found[0], found[1], found[2]};
}

Tensor ordered(const Tensor& x, Order order) {
  switch (order) {
    case Order::contiguous:
      return x.contiguous();
    case Order::channels_last:
      return x.contiguous(at::MemoryFormat::ChannelsLast);
    case Order::inner_channels:
      // Some channels of a wider channels-last tensor.
      return torch::cat({torch::full_like(x.narrow(1, 0, 1), NAN), x,
                         torch::full_like(x.narrow(1, 0, 1), NAN)},
                        1)
          .contiguous(at::MemoryFormat::ChannelsLast)
          .narrow(1, 1, x.size(1));
    case Order::blocked:
      break;
  }
  const std::int64_t block = x.size(1) % 8 == 0 ? 8 : x.size(1);
  return x.view({x.size(0), x.size(1) / block, block, x.size(2), x.size(3)})
      .permute({0, 1, 3, 4, 2})
      .contiguous();
}

Tensor plain(const Tensor& y) {
  if (y.dim() == 4) return y;
  return y.permute({0, 1, 4, 2, 3})
      .reshape({y.size(0), y.size(1) * y.size(4), y.size(2), y.size(3)});
}

// |found - expected| <= roundings * u * (sum of absolute terms) + one rounding to the stored type.
void expect_close(const Tensor& found, const Tensor& expected, const Tensor& magnitude,
                  double roundings, at::ScalarType sums, at::ScalarType stored,
                  const std::string& what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  const Tensor bound = magnitude * (roundings * unit_roundoff(sums)) +
                       expected.abs() * (1.01 * unit_roundoff(stored)) +
                       (stored == at::kHalf ? 0x1p-24 : 0.0);
  const Tensor excess = (found.to(at::kDouble) - expected).abs() - bound;
  EXPECT_LE(excess.max().item<double>(), 1e-300) << what;
  EXPECT_TRUE(found.isfinite().all().item<bool>()) << what;
}

void check_all(const Case& size, at::ScalarType type, Order order, std::uint64_t seed) {
  const std::string what =
      fmt::format("{} {} order {}", name_of(size), c10::toString(type), static_cast<int>(order));
  torch::manual_seed(seed);
  const at::ScalarType sums = type == at::kDouble ? at::kDouble : at::kFloat;
  const std::vector<std::int64_t> shape = {size.images, size.channels, size.height, size.width};
  const Tensor plain_x = torch::randn(shape, at::kDouble).to(type);
  const Tensor plain_dy = torch::randn(shape, at::kDouble).to(type);
  const Tensor x = ordered(plain_x, order);
  const Tensor dy = ordered(plain_dy, order);
  const Tensor weight =
      torch::randn({size.channels, 1, size.kernel_height, size.kernel_width}, sums);
  const Tensor bias = torch::randn({size.channels}, sums);
  const double taps = static_cast<double>(size.kernel_height * size.kernel_width);

  const Tensor y = depthwise_conv2d(x, weight, bias);
  EXPECT_EQ(y.scalar_type(), type);
  if (order == Order::contiguous || order == Order::channels_last) {
    EXPECT_EQ(y.strides(), x.strides()) << what;
  }
  expect_close(plain(y), expected_forward(plain_x, weight, bias),
               expected_forward(plain_x.abs(), weight.abs(), bias.abs()), taps + 2, sums, type,
               "forward " + what);

  const Gradients expected = expected_gradients(plain_dy, plain_x, weight);
  const Gradients magnitude = expected_gradients(plain_dy.abs(), plain_x.abs(), weight.abs());
  expect_close(plain(depthwise_conv2d_input_gradient(dy, weight)), expected.x, magnitude.x,
               taps + 2, sums, type, "input gradient " + what);
  const auto [weight_gradient, bias_gradient] = depthwise_conv2d_weight_gradient(dy, x, weight);
  const auto terms = static_cast<double>(size.images * size.height * size.width);
  expect_close(weight_gradient, expected.weight, magnitude.weight, terms + 3, sums, sums,
               "weight gradient " + what);
  expect_close(bias_gradient, expected.bias, magnitude.bias, terms + 3, sums, sums,
               "bias gradient " + what);
}

class DepthwiseAtLevel : public testing::TestWithParam<Isa> {};

TEST_P(DepthwiseAtLevel, MatchesTorchInDoubleOnAwkwardSizes) {
  const ScopedIsa level(GetParam());
  std::uint64_t seed = 0;
  for (const std::int64_t channels : {1, 3, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 64, 65}) {
    check_all({2, channels, 9, 11, 3, 5}, at::kFloat, Order::contiguous, ++seed);
    check_all({2, channels, 9, 11, 3, 5}, at::kFloat, Order::channels_last, ++seed);
    check_all({1, channels, 11, 8, 7, 3}, at::kBFloat16, Order::channels_last, ++seed);
  }
  for (const std::int64_t extent : {1, 2, 3, 7, 8, 9, 14, 15, 16, 17, 28, 31, 33, 63, 65}) {
    for (const Order order : {Order::contiguous, Order::channels_last}) {
      check_all({1, 16, extent, 5, 7, 7}, at::kFloat, order, ++seed);
      check_all({2, 17, 5, extent, 7, 7}, at::kFloat, order, ++seed);
      check_all({1, 5, extent, extent, 3, 3}, at::kHalf, order, ++seed);
    }
  }
}

// Pixels of more than 2 KB are gathered first.
TEST_P(DepthwiseAtLevel, MatchesTorchInDoubleOnManyChannels) {
  const ScopedIsa level(GetParam());
  std::uint64_t seed = 50;
  check_all({2, 530, 37, 9, 7, 7}, at::kFloat, Order::channels_last, ++seed);
  check_all({1, 1024, 5, 6, 3, 3}, at::kFloat, Order::channels_last, ++seed);
  check_all({1, 600, 13, 3, 9, 2}, at::kFloat, Order::inner_channels, ++seed);
  check_all({1, 300, 12, 9, 1, 11}, at::kDouble, Order::channels_last, ++seed);
}

TEST_P(DepthwiseAtLevel, MatchesTorchInDoubleForEveryKernelSize) {
  const ScopedIsa level(GetParam());
  std::uint64_t seed = 100;
  for (const std::int64_t kernel : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 21, 31}) {
    for (const Order order : {Order::contiguous, Order::channels_last}) {
      check_all({1, 20, 18, 19, kernel, kernel}, at::kFloat, order, ++seed);
      check_all({1, 20, 18, 19, kernel, 1}, at::kFloat, order, ++seed);
      check_all({1, 20, 18, 19, 1, kernel}, at::kFloat, order, ++seed);
    }
  }
}

TEST_P(DepthwiseAtLevel, MatchesTorchInDoubleForEveryTypeAndOrder) {
  const ScopedIsa level(GetParam());
  std::uint64_t seed = 200;
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    for (const Order order :
         {Order::contiguous, Order::channels_last, Order::inner_channels, Order::blocked}) {
      for (const std::int64_t channels : {5, 12, 16, 24, 40}) {
        check_all({2, channels, 13, 17, 5, 5}, type, order, ++seed);
        check_all({1, channels, 16, 7, 11, 1}, type, order, ++seed);
        check_all({1, channels, 7, 30, 1, 11}, type, order, ++seed);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, DepthwiseAtLevel, testing::ValuesIn(supported_isas()),
                         [](const auto& level) { return to_string(level.param); });

TEST(Depthwise, AgreesOnRandomProblems) {
  const bool held = rc::check("depthwise_conv2d is the convolution it says", [] {
    const auto from = [](std::initializer_list<std::int64_t> values) {
      return *rc::gen::elementOf(std::vector<std::int64_t>(values));
    };
    const Case size = {from({1, 2, 3}),
                       *rc::gen::inRange<std::int64_t>(1, 40),
                       *rc::gen::inRange<std::int64_t>(1, 40),
                       *rc::gen::inRange<std::int64_t>(1, 40),
                       *rc::gen::inRange<std::int64_t>(1, 16),
                       *rc::gen::inRange<std::int64_t>(1, 16)};
    const at::ScalarType type = *rc::gen::element(at::kFloat, at::kHalf, at::kBFloat16);
    const Order order = *rc::gen::element(Order::contiguous, Order::channels_last,
                                          Order::inner_channels, Order::blocked);
    check_all(size, type, order, *rc::gen::arbitrary<std::uint32_t>());
    RC_ASSERT(!testing::Test::HasFailure());
  });
  EXPECT_TRUE(held);
}

// Values of the generator of the specification: exact in f32, so every order of sums agrees.
TEST(Depthwise, IsExactOnDyadicValues) {
  const Tensor c = torch::arange(6).view({6, 1, 1});
  const Tensor i = torch::arange(20).view({1, 20, 1});
  const Tensor j = torch::arange(23).view({1, 1, 23});
  const Tensor x = (((3 * c + 5 * i + 7 * j).remainder(13) - 6).to(at::kFloat) / 8).unsqueeze(0);
  const Tensor k = torch::arange(7).view({1, 7, 1});
  const Tensor l = torch::arange(7).view({1, 1, 7});
  const Tensor weight = (((9 * c + 3 * k + l).remainder(5) - 2).to(at::kFloat) / 4).unsqueeze(1);
  const Tensor expected = expected_forward(x, weight, {}).to(at::kFloat);
  for (const Isa level : supported_isas()) {
    const ScopedIsa scoped(level);
    for (const Order order : {Order::contiguous, Order::channels_last}) {
      EXPECT_TRUE(torch::equal(depthwise_conv2d(ordered(x, order), weight), expected))
          << to_string(level);
    }
  }
}

TEST(Depthwise, RoundsToNearestEvenAndKeepsNaN) {
  // 1 + 2^-8 lies between two bf16 values; the even one is 1. 1 + 3 * 2^-8 goes up.
  const Tensor x = torch::tensor({1.0f, 3.0f}).view({1, 1, 1, 2}).to(at::kBFloat16);
  const Tensor weight = torch::tensor({0x1p-8f}).view({1, 1, 1, 1});
  const Tensor bias = torch::tensor({1.0f});
  const Tensor y = depthwise_conv2d(x, weight, bias).to(at::kFloat).flatten();
  EXPECT_EQ(y[0].item<float>(), 1.0f);
  EXPECT_EQ(y[1].item<float>(), 1.015625f);
  const Tensor nan = torch::full({1, 16, 3, 3}, NAN).to(at::kBFloat16);
  EXPECT_TRUE(depthwise_conv2d(nan, torch::ones({16, 1, 3, 3})).isnan().all().item<bool>());
}

TEST(Depthwise, InfinityStaysInReachOfItsTaps) {
  for (const Order order : {Order::contiguous, Order::channels_last}) {
    Tensor x = torch::zeros({1, 20, 9, 40});
    x[0][4][4][20] = INFINITY;
    const Tensor y = depthwise_conv2d(ordered(x, order), torch::ones({20, 1, 3, 3}));
    EXPECT_EQ(y.isfinite().logical_not().sum().item<std::int64_t>(), 9);
  }
}

TEST(Depthwise, SameBitsOnAnyNumberOfThreads) {
  const int threads = torch::get_num_threads();
  const Tensor x = torch::randn({3, 40, 31, 29});
  const Tensor dy = torch::randn({3, 40, 31, 29});
  const Tensor weight = torch::randn({40, 1, 7, 5});
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    std::vector<Tensor> first;
    for (const int count : {1, 2, 3, 8}) {
      torch::set_num_threads(count);
      const auto [dw, db] =
          depthwise_conv2d_weight_gradient(dy.contiguous(format), x.contiguous(format), weight);
      const std::vector<Tensor> found = {depthwise_conv2d(x.contiguous(format), weight), dw, db};
      if (first.empty()) first = found;
      for (std::size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(torch::equal(found[i], first[i]));
    }
  }
  torch::set_num_threads(threads);
}

TEST(Depthwise, EmptyImagesGiveEmptyOutputsAndZeroGradients) {
  const Tensor weight = torch::ones({4, 1, 3, 3});
  const std::vector<std::vector<std::int64_t>> shapes = {{0, 4, 5, 5}, {2, 4, 0, 5}, {2, 4, 5, 0}};
  for (const auto& shape : shapes) {
    const Tensor x = torch::zeros(shape);
    EXPECT_EQ(depthwise_conv2d(x, weight).sizes(), shape);
    const auto [dw, db] = depthwise_conv2d_weight_gradient(x, x, weight);
    EXPECT_TRUE(torch::equal(dw, torch::zeros_like(weight)));
    EXPECT_TRUE(torch::equal(db, torch::zeros({4})));
  }
}

TEST(Depthwise, AutogradGivesTheGradientsOfTheKernels) {
  const Tensor x = torch::randn({2, 6, 7, 8}, at::kDouble).requires_grad_(true);
  const Tensor weight = torch::randn({6, 1, 3, 5}, at::kDouble).requires_grad_(true);
  const Tensor bias = torch::randn({6}, at::kDouble).requires_grad_(true);
  const Tensor dy = torch::randn({2, 6, 7, 8}, at::kDouble);
  const Gradients expected = expected_gradients(dy, x.detach(), weight.detach());
  const Tensor y = differentiable_depthwise_conv2d(x, weight, bias);
  const auto found = torch::autograd::grad({y}, {x, weight, bias}, {dy});
  EXPECT_TRUE(torch::allclose(found[0], expected.x, 1e-12, 1e-12));
  EXPECT_TRUE(torch::allclose(found[1], expected.weight, 1e-12, 1e-12));
  EXPECT_TRUE(torch::allclose(found[2], expected.bias, 1e-12, 1e-12));
}

void expect_refused(const std::function<void()>& call, const std::string& words) {
  try {
    call();
    ADD_FAILURE() << "accepted; expected: " << words;
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(words));
  }
}

TEST(Depthwise, RefusesWhatDoesNotFit) {
  const Tensor x = torch::zeros({1, 4, 5, 5});
  const Tensor weight = torch::zeros({4, 1, 3, 3});
  expect_refused([&] { depthwise_conv2d(torch::zeros({4, 5, 5}), weight); }, "got 3 dimensions");
  expect_refused([&] { depthwise_conv2d(x.to(at::kInt), weight); }, "expected float32");
  expect_refused([&] { depthwise_conv2d(x, torch::zeros({3, 1, 3, 3})); },
                 "expected 4 channels as the images, got 3");
  expect_refused([&] { depthwise_conv2d(x, torch::zeros({4, 4, 3, 3})); },
                 "weight: expected [channels, 1, kernel height, kernel width]");
  expect_refused([&] { depthwise_conv2d(x, torch::zeros({4, 1, 0, 3})); }, "kernel sizes >= 1");
  expect_refused([&] { depthwise_conv2d(x, weight, torch::zeros({5})); },
                 "bias: expected shape [4]");
  expect_refused([&] { depthwise_conv2d({}, weight); }, "no tensor given");
  expect_refused([&] { depthwise_conv2d_weight_gradient(torch::zeros({1, 4, 5, 6}), x, weight); },
                 "dy: expected the shape of x");
  expect_refused([&] { depthwise_conv2d_weight_gradient(x.to(at::kDouble), x, weight); },
                 "dy: expected Float as x, got Double");
}

}  // namespace
}  // namespace einkorn::convolution
