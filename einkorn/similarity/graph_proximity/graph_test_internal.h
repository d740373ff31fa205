// Small graphs and checks that several tests share.
#pragma once

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "einkorn/core/error.h"
#include "einkorn/core/random.h"
#include "einkorn/similarity/graph_proximity/graph.h"
#include "einkorn/similarity/graph_proximity/graph_proximity.h"

namespace einkorn::graph_proximity {

struct Pair {
  std::int64_t u;
  std::int64_t v;
};

inline Graph graph_of(std::int64_t nodes, const std::vector<Pair>& edges) {
  at::Tensor a = at::zeros({nodes, nodes}, at::kDouble);
  for (const auto [u, v] : edges) {
    a[u][v] = 1;
    a[v][u] = 1;
  }
  return graph_from_adjacency(a);
}

inline Graph path_graph(std::int64_t nodes) {
  std::vector<Pair> edges;
  for (std::int64_t i = 0; i + 1 < nodes; ++i) edges.push_back({i, i + 1});
  return graph_of(nodes, edges);
}

// A triangle 1, 2, 3 with the node 0 hanging on 1.
inline Graph paw_graph() {
  return graph_of(4, {{0, 1}, {1, 2}, {1, 3}, {2, 3}});
}

// Connected: a random tree and as many further random edges, weights in [0.1, 2].
inline Graph random_weighted_graph(std::int64_t nodes, std::uint64_t seed) {
  Random random(seed);
  at::Tensor a = at::zeros({nodes, nodes}, at::kDouble);
  const auto connect = [&](std::int64_t u, std::int64_t v) {
    if (u == v) return;
    const double weight = random.uniform(0.1, 2);
    a[u][v] = weight;
    a[v][u] = weight;
  };
  for (std::int64_t i = 1; i < nodes; ++i) connect(i, random.integer(i));
  for (std::int64_t i = 0; i < nodes; ++i) connect(random.integer(nodes), random.integer(nodes));
  return graph_from_adjacency(a);
}

inline double entry(const at::Tensor& matrix, std::int64_t i, std::int64_t j) {
  return matrix[i][j].item<double>();
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

// Runs the statement and returns the message of the InvalidArgument that it must throw.
template <typename Statement>
std::string refusal(Statement statement) {
  try {
    statement();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected InvalidArgument";
  return "";
}

}  // namespace einkorn::graph_proximity
