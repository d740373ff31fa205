#include "einkorn/convolution/inceptionnext/inception_mixer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <torch/torch.h>

#include "einkorn/convolution/inceptionnext/mixer_autograd.h"
#include "einkorn/convolution/inceptionnext/reference_values_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/isa.h"

namespace einkorn::inceptionnext {
namespace {

using torch::Tensor;

std::vector<Tensor> as_list(const MixerWeights& w) {
  return {w.square, w.wide, w.tall, w.square_bias, w.wide_bias, w.tall_bias};
}

MixerWeights from_list(const std::vector<Tensor>& list) {
  return {list[0], list[1], list[2], list[3], list[4], list[5]};
}

MixerWeights random_weights(std::int64_t group, std::int64_t square, std::int64_t band,
                            at::ScalarType type) {
  const auto options = torch::dtype(type);
  return {torch::randn({group, 1, square, square}, options),
          torch::randn({group, 1, 1, band}, options),
          torch::randn({group, 1, band, 1}, options),
          torch::randn({group}, options),
          torch::randn({group}, options),
          torch::randn({group}, options)};
}

// Split, three convolutions and a concatenation, in f64.
Tensor composed(const Tensor& x, const MixerWeights& w) {
  const std::int64_t group = w.square.size(0);
  const std::int64_t square = w.square.size(2);
  const std::int64_t band = w.wide.size(3);
  const Tensor in = x.to(at::kDouble);
  const auto parts = in.split_with_sizes({x.size(1) - 3 * group, group, group, group}, 1);
  const auto convolve = [&](const Tensor& part, const Tensor& weight, const Tensor& bias,
                            std::int64_t pad_height, std::int64_t pad_width) {
    return at::conv2d(part, weight.to(at::kDouble), bias.to(at::kDouble), 1,
                      {pad_height, pad_width}, 1, group);
  };
  return torch::cat({parts[0], convolve(parts[1], w.square, w.square_bias, square / 2, square / 2),
                     convolve(parts[2], w.wide, w.wide_bias, 0, band / 2),
                     convolve(parts[3], w.tall, w.tall_bias, band / 2, 0)},
                    1);
}

MixerWeights magnitudes(const MixerWeights& w) {
  std::vector<Tensor> list;
  for (const Tensor& tensor : as_list(w)) list.push_back(tensor.abs());
  return from_list(list);
}

// Row (channel, i) of case A to the last bit.
struct ReferenceRow {
  std::int64_t channel;
  std::int64_t row;
  std::vector<float> values;
};

const std::vector<ReferenceRow>& case_a_rows() {
  static const std::vector<ReferenceRow> rows = {
      {10, 0, {-0.53125f, 0.34375f, -0.25f, 0.375f, 0.59375f, -0.40625f, -0.09375f}},
      {11, 5, {0.375f, 0.0625f, 0.5f, 0.125f, 0.5625f, 0.1875f, 0.96875f}},
      {12, 2, {0.03125f, 0.34375f, -0.0625f, 0.296875f, 0.0f, 0.46875f, 0.5625f}},
      {13, 3, {0.5625f, 1.109375f, 0.96875f, 0.5f, 0.796875f, 0.4375f, 0.84375f}},
      {14, 0, {-0.34375f, 0.046875f, -0.375f, 0.21875f, -0.40625f, 0.1875f, -0.4375f}},
      {15, 5, {0.65625f, -0.0625f, 0.640625f, -0.078125f, 0.015625f, -0.09375f, 0.0f}}};
  return rows;
}

class MixerAtLevel : public testing::TestWithParam<Isa> {};

TEST_P(MixerAtLevel, CaseAOfTheSpecificationToTheLastBit) {
  const ScopedIsa level(GetParam());
  const Tensor x = reference_images(16, 6, 7);
  EXPECT_EQ(x.sum(at::kDouble).item<double>(), -2.25);
  EXPECT_EQ(x.square().sum(at::kDouble).item<double>(), 147.03125);
  const MixerWeights weights = reference_mixer(2, 11);
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const Tensor y = inception_dwconv(x.contiguous(format), weights);
    for (const ReferenceRow& row : case_a_rows()) {
      EXPECT_TRUE(torch::equal(y[0][row.channel][row.row], torch::tensor(row.values)))
          << "channel " << row.channel;
    }
    EXPECT_EQ(y.sum(at::kDouble).item<double>(), 59.734375);
    EXPECT_EQ(y.to(at::kDouble).square().sum().item<double>(), 156.929443359375);
    EXPECT_TRUE(torch::equal(y.narrow(1, 0, 10), x.narrow(1, 0, 10)));
    const Tensor branches = inception_dwconv_branches(x.contiguous(format), weights);
    EXPECT_TRUE(torch::equal(branches, y.narrow(1, 10, 6)));
  }
}

TEST_P(MixerAtLevel, CentreTapsAreTheIdentity) {
  const ScopedIsa level(GetParam());
  MixerWeights weights = random_weights(3, 3, 7, at::kFloat);
  for (Tensor& tensor :
       std::vector<Tensor>{weights.square, weights.wide, weights.tall, weights.square_bias,
                           weights.wide_bias, weights.tall_bias}) {
    tensor.zero_();
  }
  weights.square.select(2, 1).select(2, 1).fill_(1);
  weights.wide.select(3, 3).fill_(1);
  weights.tall.select(2, 3).fill_(1);
  const Tensor x = torch::randn({2, 20, 9, 10});
  EXPECT_TRUE(torch::equal(inception_dwconv(x, weights), x));
}

TEST_P(MixerAtLevel, WideIsTallOnTheTransposedImage) {
  const ScopedIsa level(GetParam());
  const MixerWeights weights = random_weights(4, 3, 11, at::kDouble);
  MixerWeights turned = weights;
  turned.tall = weights.wide.transpose(2, 3).contiguous();
  turned.tall_bias = weights.wide_bias;
  const Tensor x = torch::randn({2, 12, 9, 14}, at::kDouble);
  // The tall group is fed the transposed images of the wide group.
  Tensor turned_x = x.transpose(2, 3).contiguous();
  turned_x.narrow(1, 8, 4).copy_(x.narrow(1, 4, 4).transpose(2, 3));
  const Tensor wide = inception_dwconv(x, weights).narrow(1, 4, 4);
  const Tensor tall = inception_dwconv(turned_x, turned).narrow(1, 8, 4);
  EXPECT_TRUE(torch::allclose(wide, tall.transpose(2, 3), 1e-13, 1e-13));
}

INSTANTIATE_TEST_SUITE_P(Levels, MixerAtLevel, testing::ValuesIn(supported_isas()),
                         [](const auto& level) { return to_string(level.param); });

Tensor in_order(const Tensor& x, int order) {
  if (order == 0) return x.contiguous();
  if (order == 1) return x.contiguous(at::MemoryFormat::ChannelsLast);
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

// Groups that begin inside a block, kernels larger than the image, all orders and types.
TEST(InceptionMixer, AgreesWithThreeConvolutionsOnRandomProblems) {
  const bool held = rc::check("inception_dwconv is three convolutions and a copy", [] {
    const auto group = *rc::gen::inRange<std::int64_t>(1, 20);
    const auto identity = *rc::gen::inRange<std::int64_t>(0, 40);
    const auto square = 2 * *rc::gen::inRange<std::int64_t>(0, 3) + 1;
    const auto band = 2 * *rc::gen::inRange<std::int64_t>(0, 8) + 1;
    const auto height = *rc::gen::inRange<std::int64_t>(1, 30);
    const auto width = *rc::gen::inRange<std::int64_t>(1, 30);
    const int order = *rc::gen::inRange(0, 3);
    const at::ScalarType type =
        *rc::gen::element(at::kFloat, at::kDouble, at::kHalf, at::kBFloat16);
    const std::vector<Isa>& levels = supported_isas();
    const ScopedIsa level(levels[*rc::gen::inRange<std::size_t>(0, levels.size())]);
    torch::manual_seed(*rc::gen::arbitrary<std::uint32_t>());

    const at::ScalarType sums = type == at::kDouble ? at::kDouble : at::kFloat;
    const double u = type == at::kDouble ? 0x1p-53 : 0x1p-24;
    const double stored = type == at::kHalf ? 0x1p-11 : type == at::kBFloat16 ? 0x1p-8 : u;
    const MixerWeights weights = random_weights(group, square, band, sums);
    const Tensor x = torch::randn({2, identity + 3 * group, height, width}).to(type);
    const Tensor dy = torch::randn_like(x);
    const auto agrees = [&](const Tensor& found, const Tensor& expected, const Tensor& magnitude,
                            double terms, double rounding) {
      const Tensor bound = magnitude * ((terms + 3) * u) + expected.abs() * (1.01 * rounding) +
                           (rounding == 0x1p-11 ? 0x1p-24 : 0.0);
      return (found.to(at::kDouble) - expected).abs().le(bound).all().item<bool>();
    };
    const auto taps = static_cast<double>(std::max(square * square, band));
    const Tensor y = inception_dwconv(in_order(x, order), weights);
    RC_ASSERT(agrees(plain(y), composed(x, weights), composed(x.abs(), magnitudes(weights)), taps,
                     stored));

    const auto gradients = [&](const Tensor& some_x, const MixerWeights& w, const Tensor& some_dy) {
      std::vector<Tensor> leaves = {some_x.to(at::kDouble).detach().requires_grad_(true)};
      for (const Tensor& tensor : as_list(w)) {
        leaves.push_back(tensor.to(at::kDouble).detach().requires_grad_(true));
      }
      const MixerWeights leaf_weights =
          from_list(std::vector<Tensor>(leaves.begin() + 1, leaves.end()));
      return torch::autograd::grad({composed(leaves[0], leaf_weights)}, leaves,
                                   {some_dy.to(at::kDouble)});
    };
    const auto expected = gradients(x, weights, dy);
    const auto magnitude = gradients(x.abs(), magnitudes(weights), dy.abs());
    RC_ASSERT(agrees(plain(inception_dwconv_input_gradient(in_order(dy, order), weights)),
                     expected[0], magnitude[0], taps, stored));
    const auto found =
        as_list(inception_dwconv_weight_gradient(in_order(dy, order), in_order(x, order), weights));
    for (std::size_t i = 0; i < found.size(); ++i) {
      RC_ASSERT(agrees(found[i], expected[1 + i], magnitude[1 + i],
                       static_cast<double>(2 * height * width), u));
    }
  });
  EXPECT_TRUE(held);
}

TEST(InceptionMixer, SameBitsOnAnyNumberOfThreads) {
  const int threads = torch::get_num_threads();
  const MixerWeights weights = random_weights(12, 3, 11, at::kFloat);
  const Tensor x = torch::randn({2, 96, 30, 31}).contiguous(at::MemoryFormat::ChannelsLast);
  std::vector<std::vector<Tensor>> runs;
  for (const int count : {1, 2, 5}) {
    torch::set_num_threads(count);
    runs.push_back(as_list(inception_dwconv_weight_gradient(x, x, weights)));
    runs.back().push_back(inception_dwconv(x, weights));
  }
  torch::set_num_threads(threads);
  for (std::size_t i = 0; i < runs[0].size(); ++i) {
    EXPECT_TRUE(torch::equal(runs[0][i], runs[1][i]));
    EXPECT_TRUE(torch::equal(runs[0][i], runs[2][i]));
  }
}

TEST(InceptionMixer, DifferentiatesTwice) {
  const MixerWeights w = random_weights(2, 3, 5, at::kDouble);
  std::vector<Tensor> leaves = {torch::randn({1, 9, 5, 6}, at::kDouble).requires_grad_(true)};
  for (const Tensor& tensor : as_list(w)) leaves.push_back(tensor.clone().requires_grad_(true));
  const Tensor dy = torch::randn({1, 9, 5, 6}, at::kDouble).requires_grad_(true);
  // A scalar of the first gradients, differentiated again: ours against torch's own operators.
  const auto second = [&](const auto& mixer) {
    const MixerWeights weights = from_list(std::vector<Tensor>(leaves.begin() + 1, leaves.end()));
    const auto first = torch::autograd::grad({mixer(leaves[0], weights)}, leaves, {dy}, true, true);
    Tensor scalar = torch::zeros({}, at::kDouble);
    for (const Tensor& gradient : first) scalar = scalar + gradient.sin().sum();
    std::vector<Tensor> inputs = {leaves[0], leaves[1], leaves[2], leaves[3], dy};
    return torch::autograd::grad({scalar}, inputs);
  };
  const auto found = second(differentiable_inception_dwconv);
  const auto expected = second(composed);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(torch::allclose(found[i], expected[i], 1e-11, 1e-11)) << i;
  }
}

void expect_refused(const std::function<void()>& call, const std::string& words) {
  try {
    call();
    ADD_FAILURE() << "accepted; expected: " << words;
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(words));
  }
}

TEST(InceptionMixer, RefusesWhatDoesNotFit) {
  const Tensor x = torch::zeros({1, 8, 5, 5});
  const MixerWeights good = random_weights(2, 3, 5, at::kFloat);
  expect_refused([&] { inception_dwconv(x, random_weights(3, 3, 5, at::kFloat)); },
                 "three branches of 3 channels need 9 channels, got 8");
  expect_refused([&] { inception_dwconv(x, random_weights(2, 2, 5, at::kFloat)); },
                 "expected an odd size x the same, got 2 x 2");
  expect_refused([&] { inception_dwconv(x, random_weights(2, 3, 4, at::kFloat)); },
                 "expected [2, 1, 1, odd]");
  MixerWeights bad = good;
  bad.tall = torch::zeros({2, 1, 7, 1});
  expect_refused([&] { inception_dwconv(x, bad); }, "expected [2, 1, 5, 1], got [2, 1, 7, 1]");
  bad = good;
  bad.wide_bias = torch::zeros({3});
  expect_refused([&] { inception_dwconv(x, bad); }, "biases: expected three of shape [2]");
  expect_refused([&] { inception_dwconv_branches(torch::zeros({1, 1, 5, 5, 8}), good); },
                 "where the identity channels are left out");
}

}  // namespace
}  // namespace einkorn::inceptionnext
