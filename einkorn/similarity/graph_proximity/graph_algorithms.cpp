#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#include "einkorn/similarity/graph_proximity/graph_algorithms_internal.h"

namespace einkorn::graph_proximity {
namespace {

struct Neighbor {
  std::int64_t node;
  double length;
};
using Neighborhoods = std::vector<std::vector<Neighbor>>;

Neighborhoods neighborhoods(const at::Tensor& adjacency) {
  const auto entry = adjacency.accessor<double, 2>();
  Neighborhoods found(adjacency.size(0));
  for (std::int64_t i = 0; i < adjacency.size(0); ++i) {
    for (std::int64_t j = 0; j < adjacency.size(0); ++j) {
      if (entry[i][j] > 0) found[i].push_back({j, 1 / entry[i][j]});
    }
  }
  return found;
}

// Dijkstra's algorithm from one source.
void shortest_paths_from(std::int64_t source, const Neighborhoods& neighbors, double* lengths) {
  using Waiting = std::pair<double, std::int64_t>;
  std::priority_queue<Waiting, std::vector<Waiting>, std::greater<>> queue;
  std::fill_n(lengths, neighbors.size(), std::numeric_limits<double>::infinity());
  lengths[source] = 0;
  queue.emplace(0, source);
  while (!queue.empty()) {
    const auto [length, node] = queue.top();
    queue.pop();
    if (length > lengths[node]) continue;  // reached on a shorter way meanwhile
    for (const Neighbor& next : neighbors[node]) {
      const double through = length + next.length;
      if (through >= lengths[next.node]) continue;
      lengths[next.node] = through;
      queue.emplace(through, next.node);
    }
  }
}

// Most hops from the root; marks what it reaches.
std::int64_t eccentricity(std::int64_t root, const Neighborhoods& neighbors,
                          std::vector<bool>& reached) {
  std::int64_t hops = 0;
  std::vector<std::int64_t> front = {root};
  reached[root] = true;
  while (true) {
    std::vector<std::int64_t> next;
    for (const std::int64_t node : front) {
      for (const Neighbor& neighbor : neighbors[node]) {
        if (reached[neighbor.node]) continue;
        reached[neighbor.node] = true;
        next.push_back(neighbor.node);
      }
    }
    if (next.empty()) return hops;
    front = std::move(next);
    ++hops;
  }
}

// The largest eigenvalue of the tridiagonal matrix, and the last entry of its unit eigenvector.
std::pair<double, double> largest_eigenpair(const std::vector<double>& diagonal,
                                            const std::vector<double>& off_diagonal) {
  const auto k = static_cast<std::int64_t>(diagonal.size());
  at::Tensor matrix = at::diag(at::tensor(diagonal, at::kDouble));
  if (k > 1) {
    const at::Tensor beside = at::tensor(off_diagonal, at::kDouble).slice(0, 0, k - 1);
    matrix = matrix + beside.diag(1) + beside.diag(-1);
  }
  const auto [values, vectors] = at::linalg_eigh(matrix);
  return {values[k - 1].item<double>(), vectors[k - 1][k - 1].item<double>()};
}

}  // namespace

at::Tensor shortest_path_matrix(const at::Tensor& adjacency) {
  const std::int64_t n = adjacency.size(0);
  const Neighborhoods neighbors = neighborhoods(adjacency);
  at::Tensor lengths = at::empty({n, n}, at::kDouble);
  double* data = lengths.mutable_data_ptr<double>();
  at::parallel_for(0, n, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) shortest_paths_from(i, neighbors, data + i * n);
  });
  // The two directions of one path may add its edges in another order.
  return at::minimum(lengths, lengths.t());
}

double hop_diameter_bound(const at::Tensor& adjacency) {
  const Neighborhoods neighbors = neighborhoods(adjacency);
  // From the best connected node of each component, which is likely to lie in its middle.
  std::vector<std::int64_t> order(neighbors.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return neighbors[a].size() > neighbors[b].size();
  });
  std::vector<bool> reached(neighbors.size(), false);
  std::int64_t bound = 0;
  for (const std::int64_t root : order) {
    if (!reached[root]) bound = std::max(bound, 2 * eccentricity(root, neighbors, reached));
  }
  return static_cast<double>(bound);
}

double spectral_radius(const at::Tensor& adjacency) {
  constexpr std::int64_t direct_size = 256;
  constexpr std::int64_t steps_between_tests = 8;
  constexpr double tolerance = 1e-13;
  const std::int64_t n = adjacency.size(0);
  if (n <= direct_size) return at::linalg_eigvalsh(adjacency)[n - 1].item<double>();

  // The all-ones vector has a part along the Perron vector of every component. Vectors are kept
  // orthogonal in full, so at most n steps are needed.
  std::vector<double> diagonal, off_diagonal;
  at::Tensor basis = at::empty({n, n}, at::kDouble);
  at::Tensor vector = at::full({n}, 1 / std::sqrt(static_cast<double>(n)), at::kDouble);
  double largest = 0;
  for (std::int64_t step = 0; step < n; ++step) {
    basis[step].copy_(vector);
    at::Tensor next = at::mv(adjacency, vector);
    diagonal.push_back(at::dot(next, vector).item<double>());
    const at::Tensor known = basis.slice(0, 0, step + 1);
    for (int pass = 0; pass < 2; ++pass) next = next - at::mv(known.t(), at::mv(known, next));
    off_diagonal.push_back(next.norm().item<double>());
    const bool invariant = off_diagonal.back() <= tolerance * std::abs(diagonal[0]);
    if (invariant || step + 1 == n || step % steps_between_tests == steps_between_tests - 1) {
      const auto [value, last_entry] = largest_eigenpair(diagonal, off_diagonal);
      largest = value;
      if (invariant || off_diagonal.back() * std::abs(last_entry) <= tolerance * value) break;
    }
    vector = next / off_diagonal.back();
  }
  return largest;
}

}  // namespace einkorn::graph_proximity
