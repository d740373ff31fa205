// Labels between tensors and vectors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace einkorn::graph_proximity {

// [n] i64 with the labels renamed 0, 1, ... in order of first appearance.
at::Tensor labels_by_appearance(const std::vector<std::int64_t>& labels);

// The same as a vector, of any [n] integer tensor; throws InvalidArgument, with the name, for
// others.
std::vector<std::int64_t> checked_labels(const at::Tensor& labels, const char* name);

// 1 + the largest of labels by appearance.
std::int64_t label_count(const std::vector<std::int64_t>& labels);

// modularity() on labels by appearance.
double modularity_of(const at::Tensor& adjacency, const std::vector<std::int64_t>& labels);

}  // namespace einkorn::graph_proximity
