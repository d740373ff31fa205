#include "einkorn/core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace einkorn {
namespace {

// Known answers of Philox4x32-10, published with the generator (Salmon et al. 2011).
TEST(Philox, KnownAnswers) {
  using Block = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, SameSeedSameSequenceOtherStreamOther) {
  Random first(7);
  Random second(7);
  Random other = first.stream(1);
  for (int i = 0; i < 100; ++i) {
    const auto word = first();
    EXPECT_EQ(word, second());
    EXPECT_NE(word, other());
  }
}

struct Moments {
  double mean = 0;
  double variance = 0;
};

Moments moments(int count, const std::function<double()>& draw) {
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < count; ++i) {
    const double value = draw();
    sum += value;
    squares += value * value;
  }
  const double mean = sum / count;
  return {mean, squares / count - mean * mean};
}

// Bounds are five standard errors of the estimates: they fail for one seed in millions.
TEST(Random, DistributionsHaveTheirMoments) {
  constexpr int count = 200000;
  const double root = std::sqrt(static_cast<double>(count));
  Random random(11);
  const Moments uniform = moments(count, [&] { return random.uniform(); });
  EXPECT_NEAR(uniform.mean, 0.5, 5 * std::sqrt(1 / 12.0) / root);
  EXPECT_NEAR(uniform.variance, 1 / 12.0, 5 * std::sqrt(1 / 180.0) / root);
  const Moments normal = moments(count, [&] { return random.normal(); });
  EXPECT_NEAR(normal.mean, 0, 5 / root);
  EXPECT_NEAR(normal.variance, 1, 5 * std::sqrt(2.0) / root);
  for (const double shape : {0.3, 1.0, 4.5}) {
    const Moments gamma = moments(count, [&] { return random.gamma(shape); });
    EXPECT_NEAR(gamma.mean, shape, 5 * std::sqrt(shape) / root);
    EXPECT_NEAR(gamma.variance, shape, 5 * std::sqrt(2 * shape * shape + 6 * shape) / root);
  }
  const Moments beta = moments(count, [&] { return random.beta(2, 3); });
  EXPECT_NEAR(beta.mean, 0.4, 5 * 0.2 / root);
  EXPECT_NEAR(beta.variance, 0.04, 5 * 0.05 / root);
}

TEST(Random, IntegersCoverTheirRangeEvenly) {
  Random random(3);
  std::array<int, 7> counts = {};
  for (int i = 0; i < 70000; ++i) ++counts.at(static_cast<std::size_t>(random.integer(7)));
  for (const int count : counts) EXPECT_NEAR(count, 10000, 5 * std::sqrt(10000 * 6 / 7.0));
  EXPECT_EQ(random.integer(1), 0);
}

TEST(Random, PermutationsHoldEachNumberOnce) {
  Random random(5);
  for (const std::int64_t size : {0, 1, 2, 17, 1000}) {
    auto order = random.permutation(size);
    std::sort(order.begin(), order.end());
    for (std::int64_t i = 0; i < size; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  }
}

}  // namespace
}  // namespace einkorn
