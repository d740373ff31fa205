// What the measures ask of a graph beyond linear algebra. adjacency: [n, n] f64 on the CPU,
// symmetric.
#pragma once

#include <ATen/core/Tensor.h>

namespace einkorn::graph_proximity {

// Lengths of shortest paths where an edge of weight a is 1/a long: [n, n] f64, +inf between
// components.
at::Tensor shortest_path_matrix(const at::Tensor& adjacency);

// An upper bound, at most twice the truth, of the most hops between two nodes of one component.
double hop_diameter_bound(const at::Tensor& adjacency);

// The largest eigenvalue of a non-negative matrix, to about 1e-13 relative (Lanczos).
double spectral_radius(const at::Tensor& adjacency);

}  // namespace einkorn::graph_proximity
