// Undirected weighted graphs as the proximity measures take them: a checked adjacency matrix.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "einkorn/core/files/graph_file.h"
#include "einkorn/core/tensor.h"

namespace einkorn::graph_proximity {

// What to do with input that is not an undirected simple graph. The defaults refuse all of it: each
// of the other choices answers a different question, and the caller should pick it.
enum class Directed { refuse, sum, mean, maximum };  // how A and A^T become one matrix
enum class Repeated { refuse, sum, maximum };        // the same pair listed more than once
enum class SelfLoops { refuse, drop, keep };         // kept loops count once in the degree

Directed parse_directed(const std::string& name);
Repeated parse_repeated(const std::string& name);
SelfLoops parse_self_loops(const std::string& name);

struct GraphPolicy {
  Directed directed = Directed::refuse;
  Repeated repeated = Repeated::refuse;
  SelfLoops self_loops = SelfLoops::refuse;
};

struct Graph {
  at::Tensor adjacency;  // [n, n] f64 on the CPU: symmetric, finite, >= 0; 0 where there is no edge
  std::vector<std::string> nodes;  // n names
  // attribute -> one value a node, "" where the node has none
  std::map<std::string, std::vector<std::string>> attributes = {};

  std::int64_t size() const { return static_cast<std::int64_t>(nodes.size()); }
};

// adjacency: [n, n], n >= 1, any real dtype, on any device; nodes are named "0", "1", ...
// Throws InvalidArgument, which names the first offending pair: not square, not finite, negative,
// asymmetric or with a self-loop where the policy refuses those.
Graph graph_from_adjacency(const at::Tensor& adjacency, const GraphPolicy& policy = {});

// The edges of a file as an undirected simple graph: each pair once, source <= target, in
// lexicographic order, weights > 0 (an edge of weight 0 is no edge). Throws like
// graph_from_adjacency. A directed file whose edges all have their equal counterpart needs no
// policy.
std::vector<Edge> undirected_edges(const GraphFile& file, const GraphPolicy& policy = {});

// A graph read from a file.
Graph graph_from_file(const GraphFile& file, const GraphPolicy& policy = {});

// A graph or its adjacency matrix: by extension .npy or .npz (with one array), else as read_graph
// does.
Graph load_graph(const std::filesystem::path& path, const GraphPolicy& policy = {});

// For format_gml and format_edge_list: each edge once, source before target.
GraphFile to_graph_file(const Graph& graph);

// The classes that a node attribute tells, numbered 0, 1, ... in the order in which they appear:
// [n] i64. Throws InvalidArgument, which lists the attributes there are, if it is missing, and
// names the first node without a value.
at::Tensor classes(const Graph& graph, const std::string& attribute);

// Number of each node's connected component, in order of the smallest node: values 0 .. count - 1.
struct Components {
  std::vector<std::int64_t> component;
  std::int64_t count = 0;
};
Components connected_components(const at::Tensor& adjacency);

// The graph on the given distinct nodes, in the given order.
Graph subgraph(const Graph& graph, const std::vector<std::int64_t>& nodes);

// The component with the most nodes (the first of them on a tie).
Graph largest_component(const Graph& graph);

// Zachary's karate club, 34 members and 78 unweighted ties (W. W. Zachary, "An information flow
// model for conflict and fission in small groups", J. Anthropological Research 33, 1977), with two
// node attributes. "club": the club joined after the split, as networkx tells it ("Mr. Hi",
// "Officer"). "faction": the division by the tie structure ("1", "2"), in which node 8 alone stands
// on the other side.
Graph zachary_karate_club();

}  // namespace einkorn::graph_proximity
