// Random graphs with planted classes.
#pragma once

#include <cstdint>
#include <vector>

#include "einkorn/core/files/graph_file.h"
#include "einkorn/similarity/graph_proximity/graph.h"

namespace einkorn::graph_proximity {

struct BlockModel {
  std::vector<std::int64_t> sizes;                 // nodes of each class, >= 1
  std::vector<std::vector<double>> probabilities;  // [classes, classes], symmetric, in [0, 1]
  bool connected = true;                           // draw again until the graph is connected
  std::int64_t max_attempts = 1000;
};

// The planted partition G(N, (m) p_in, p_out): N nodes in m classes (the first N mod m of them one
// node larger), an edge inside a class with probability p_in, between classes with p_out.
BlockModel planted_partition(std::int64_t nodes, std::int64_t classes, double p_in, double p_out);

// Stochastic block model: independent edges of weight 1, node by node in the order of the classes.
// The node attribute "class" tells them ("0", "1", ...). Time and memory are of the order of nodes
// + edges for each attempt. Attempts are numbered streams of the seed, so a graph depends on the
// seed alone. Throws InvalidArgument, with the number of attempts, if none was connected.
GraphFile sample_edges(const BlockModel& model, std::uint64_t seed);

// The same as an adjacency matrix.
Graph sample(const BlockModel& model, std::uint64_t seed);

}  // namespace einkorn::graph_proximity
