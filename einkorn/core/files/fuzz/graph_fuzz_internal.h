// When two graphs are the same to a fuzz target.
#pragma once

#include <algorithm>

#include "einkorn/core/files/graph_file.h"

namespace einkorn {

inline bool same_edges(const GraphFile& a, const GraphFile& b) {
  return std::ranges::equal(a.edges, b.edges, [](const Edge& x, const Edge& y) {
    return x.source == y.source && x.target == y.target && x.weight == y.weight;
  });
}

inline bool same_graph(const GraphFile& a, const GraphFile& b) {
  return a.directed == b.directed && a.nodes == b.nodes && a.attributes == b.attributes &&
         same_edges(a, b);
}

}  // namespace einkorn
