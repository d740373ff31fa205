// Labelled images for classifiers.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

namespace einkorn::nn {

struct LabelledImages {
  torch::Tensor images;  // [N, channels, height, width] f32
  torch::Tensor labels;  // [N] i64, in [0, classes)
  std::int64_t classes = 0;

  std::int64_t size() const { return images.size(0); }
  LabelledImages subset(const torch::Tensor& indices) const;
};

struct DataSplit {
  LabelledImages train;
  LabelledImages test;
};

// scikit-learn's handwritten digits (bundled data), each pixel repeated `repeat` x `repeat` times,
// values scaled to [-1, 1]; the 1437 training and 360 test images of
// sklearn.model_selection.train_test_split(..., test_size=0.2, random_state=split_seed).
// Throws BadFile if the bundled file is not there.
DataSplit digits(std::int64_t repeat = 4, std::uint32_t split_seed = 0);

// numpy.random.RandomState(seed).permutation(size).
std::vector<std::int64_t> numpy_permutation(std::uint32_t seed, std::int64_t size);

}  // namespace einkorn::nn
