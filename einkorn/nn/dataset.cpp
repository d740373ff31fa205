#include "einkorn/nn/dataset.h"

#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "einkorn/core/data.h"
#include "einkorn/core/error.h"
#include "einkorn/core/tensor.h"

namespace einkorn::nn {

LabelledImages LabelledImages::subset(const torch::Tensor& indices) const {
  return {images.index_select(0, indices), labels.index_select(0, indices), classes};
}

DataSplit digits(std::int64_t repeat, std::uint32_t split_seed) {
  require(repeat >= 1, "repeat: expected a number >= 1, got {}", repeat);
  const auto path = bundled_data("exported/digits.npz");
  const torch::Tensor raw = read_tensor(path, "images");
  const torch::Tensor labels = read_tensor(path, "labels").to(at::kLong);
  if (raw.dim() != 3 || labels.dim() != 1 || raw.size(0) != labels.size(0)) {
    throw BadFile(path.string(), "", "expected images [N, 8, 8] and labels [N]");
  }
  const torch::Tensor images = (raw.to(at::kFloat) / 8 - 1)
                                   .repeat_interleave(repeat, 1)
                                   .repeat_interleave(repeat, 2)
                                   .unsqueeze(1)
                                   .contiguous();
  const LabelledImages all = {images, labels, 10};
  const torch::Tensor order = torch::tensor(numpy_permutation(split_seed, all.size()));
  const auto tests = static_cast<std::int64_t>(std::ceil(0.2 * static_cast<double>(all.size())));
  return {all.subset(order.slice(0, tests)), all.subset(order.slice(0, 0, tests))};
}

std::vector<std::int64_t> numpy_permutation(std::uint32_t seed, std::int64_t size) {
  require(size >= 0 && size <= std::int64_t{1} << 32, "size: expected 0 to 2^32, got {}", size);
  std::mt19937 words(seed);
  std::vector<std::int64_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t i = order.size(); i-- > 1;) {
    // Draws below the next power of two are thrown away until one is at most i.
    std::uint64_t mask = i;
    for (const int shift : {1, 2, 4, 8, 16}) mask |= mask >> shift;
    std::uint64_t drawn = words() & mask;
    while (drawn > i) drawn = words() & mask;
    std::swap(order[i], order[static_cast<std::size_t>(drawn)]);
  }
  return order;
}

}  // namespace einkorn::nn
