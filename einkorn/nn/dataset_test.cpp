#include "einkorn/nn/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "einkorn/core/error.h"

namespace einkorn::nn {
namespace {

// numpy 2: numpy.random.RandomState(0).permutation(10), and (42).permutation(7).
TEST(Dataset, PermutesAsNumpyDoes) {
  EXPECT_EQ(numpy_permutation(0, 10), (std::vector<std::int64_t>{2, 8, 4, 9, 1, 6, 7, 3, 0, 5}));
  EXPECT_EQ(numpy_permutation(42, 7), (std::vector<std::int64_t>{0, 1, 5, 2, 4, 3, 6}));
  EXPECT_TRUE(numpy_permutation(1, 0).empty());
  auto order = numpy_permutation(5, 1000);
  std::sort(order.begin(), order.end());
  for (std::size_t i = 0; i < order.size(); ++i) {
    ASSERT_EQ(order[i], static_cast<std::int64_t>(i));
  }
}

TEST(Dataset, DigitsAreSplitAndEnlarged) {
  DataSplit split;
  try {
    split = digits(4);
  } catch (const BadFile& error) {
    GTEST_SKIP() << error.what();
  }
  EXPECT_EQ(split.train.images.sizes(), (at::IntArrayRef{1437, 1, 32, 32}));
  EXPECT_EQ(split.test.images.sizes(), (at::IntArrayRef{360, 1, 32, 32}));
  EXPECT_EQ(split.train.labels.bincount().sum().item<std::int64_t>(), 1437);
  EXPECT_EQ(split.train.classes, 10);
  const torch::Tensor images = split.train.images;
  EXPECT_EQ(images.min().item<float>(), -1);
  EXPECT_EQ(images.max().item<float>(), 1);
  const torch::Tensor small = images.slice(2, 0, 32, 4).slice(3, 0, 32, 4);
  EXPECT_TRUE(torch::equal(small.repeat_interleave(4, 2).repeat_interleave(4, 3), images));
  // sklearn.model_selection.train_test_split(*load_digits(return_X_y=True), test_size=0.2,
  // random_state=0): the first labels of both parts.
  const auto first = [](const torch::Tensor& labels) { return labels.slice(0, 0, 8); };
  EXPECT_TRUE(torch::equal(first(split.train.labels),
                           torch::tensor(std::vector<std::int64_t>{6, 5, 3, 4, 4, 4, 8, 8})));
  EXPECT_TRUE(torch::equal(first(split.test.labels),
                           torch::tensor(std::vector<std::int64_t>{2, 8, 2, 6, 6, 7, 1, 9})));
  EXPECT_THROW(digits(0), InvalidArgument);
}

}  // namespace
}  // namespace einkorn::nn
