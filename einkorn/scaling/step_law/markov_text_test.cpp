#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/scaling/step_law/markov_text_internal.h"

namespace einkorn::step_law {
namespace {

TEST(MarkovText, LettersFollowPairsAsOftenAsTheOddsSay) {
  constexpr std::int64_t count = 400000;
  MarkovText source(4, 1.0, 3);
  const at::Tensor letters = source.sequences(1, count)[0];
  const auto* letter = letters.data_ptr<std::int64_t>();
  std::array<std::array<std::array<double, 4>, 4>, 4> seen = {};
  for (std::int64_t i = 2; i < count; ++i) {
    ++seen[static_cast<std::size_t>(letter[i - 2])][static_cast<std::size_t>(letter[i - 1])]
          [static_cast<std::size_t>(letter[i])];
  }
  for (std::size_t a = 0; a < 4; ++a) {
    for (std::size_t b = 0; b < 4; ++b) {
      double total = 0;
      double sum = 0;
      for (const double times : seen[a][b]) total += times;
      ASSERT_GT(total, 1000);
      for (std::size_t c = 0; c < 4; ++c) {
        const double share =
            source.probability(static_cast<std::int64_t>(a), static_cast<std::int64_t>(b),
                               static_cast<std::int64_t>(c));
        sum += share;
        EXPECT_NEAR(seen[a][b][c] / total, share, 5 * std::sqrt(share * (1 - share) / total));
      }
      EXPECT_NEAR(sum, 1, 1e-12);
    }
  }
}

TEST(MarkovText, SequencesFollowOnOneAnother) {
  MarkovText whole(5, 1.0, 8);
  MarkovText parts(5, 1.0, 8);
  const at::Tensor expected = whole.sequences(6, 7);
  const at::Tensor first = parts.sequences(2, 7);
  EXPECT_TRUE(at::equal(at::cat({first, parts.sequences(4, 7)}), expected));
  EXPECT_FALSE(at::equal(MarkovText(5, 1.0, 9).sequences(6, 7), expected));
}

TEST(MarkovText, EdgesAndBadArguments) {
  const MarkovText even(3, 0, 1);
  for (const std::int64_t letter : {0, 1, 2}) {
    EXPECT_NEAR(even.probability(2, 1, letter), 1.0 / 3, 1e-15);
  }
  EXPECT_EQ(MarkovText(1, 1, 1).sequences(3, 3).abs().sum().item<std::int64_t>(), 0);
  EXPECT_EQ(MarkovText(2, 1, 1).sequences(0, 3).numel(), 0);
  EXPECT_THROW(MarkovText(0, 1, 1), InvalidArgument);
  EXPECT_THROW(MarkovText(3, -1, 1), InvalidArgument);
  EXPECT_THROW(MarkovText(3, NAN, 1), InvalidArgument);
}

}  // namespace
}  // namespace einkorn::step_law
