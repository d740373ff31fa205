#include "einkorn/similarity/graph_proximity/graph.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn::graph_proximity {
namespace {

template <typename Choice>
Choice parse_choice(const char* what, const std::string& name,
                    const std::vector<std::pair<std::string, Choice>>& choices) {
  std::vector<std::string> names;
  for (const auto& [known, choice] : choices) {
    if (known == name) return choice;
    names.push_back(known);
  }
  throw InvalidArgument(fmt::format("{}: expected one of {}, got '{}'{}", what,
                                    fmt::join(names, ", "), name, hint(name, names)));
}

// Row and column of the first true entry; the mask must have one.
std::pair<std::int64_t, std::int64_t> first_true(const at::Tensor& mask) {
  const at::Tensor place = mask.nonzero()[0];
  return {place[0].item<std::int64_t>(), place[1].item<std::int64_t>()};
}

void check_entries(const at::Tensor& adjacency, const std::vector<std::string>& nodes) {
  const at::Tensor bad = at::logical_not(at::isfinite(adjacency)).logical_or(adjacency < 0);
  if (!bad.any().item<bool>()) return;
  const auto [i, j] = first_true(bad);
  throw InvalidArgument(
      fmt::format("graph: the weight between '{}' and '{}' is {}, expected a finite number >= 0",
                  nodes[i], nodes[j], adjacency[i][j].item<double>()));
}

at::Tensor without_direction(const at::Tensor& adjacency, Directed policy,
                             const std::vector<std::string>& nodes) {
  const at::Tensor transposed = adjacency.t();
  if (policy == Directed::refuse && adjacency.equal(transposed)) return adjacency;
  switch (policy) {
    case Directed::sum:
      return adjacency + transposed -
             adjacency.diagonal().diag_embed();  // a loop has one direction
    case Directed::mean:
      return (adjacency + transposed) / 2;
    case Directed::maximum:
      return at::maximum(adjacency, transposed);
    case Directed::refuse:
      break;
  }
  const auto [i, j] = first_true(adjacency != transposed);
  throw InvalidArgument(fmt::format(
      "graph: not symmetric: '{}' to '{}' weighs {}, the way back {}; proximities are "
      "for undirected graphs (symmetrise by sum, mean or maximum)",
      nodes[i], nodes[j], adjacency[i][j].item<double>(), adjacency[j][i].item<double>()));
}

void apply_self_loop_policy(at::Tensor& adjacency, SelfLoops policy,
                            const std::vector<std::string>& nodes) {
  at::Tensor diagonal = adjacency.diagonal();
  if (policy == SelfLoops::keep || !diagonal.any().item<bool>()) return;
  if (policy == SelfLoops::refuse) {
    const auto node = diagonal.nonzero()[0][0].item<std::int64_t>();
    throw InvalidArgument(fmt::format(
        "graph: node '{}' has a self-loop of weight {}; choose to drop or to keep self-loops",
        nodes[node], diagonal[node].item<double>()));
  }
  diagonal.zero_();
}

bool by_ends(const Edge& a, const Edge& b) {
  return std::tie(a.source, a.target) < std::tie(b.source, b.target);
}

bool same_ends(const Edge& a, const Edge& b) {
  return a.source == b.source && a.target == b.target;
}

// One entry a pair (an ordered pair in a directed file).
std::vector<Edge> merge_repeated(const GraphFile& file, std::vector<Edge> edges, Repeated policy) {
  std::stable_sort(edges.begin(), edges.end(), by_ends);
  std::vector<Edge> merged;
  for (const Edge& edge : edges) {
    if (merged.empty() || !same_ends(merged.back(), edge)) {
      merged.push_back(edge);
      continue;
    }
    double& weight = merged.back().weight;
    require(policy != Repeated::refuse,
            "graph: the edge between '{}' and '{}' is listed more than once (weights {} and {}); "
            "choose their sum or their maximum",
            file.nodes[edge.source], file.nodes[edge.target], weight, edge.weight);
    weight = policy == Repeated::sum ? weight + edge.weight : std::max(weight, edge.weight);
  }
  return merged;
}

// The two directions of every pair as one edge.
std::vector<Edge> merge_directions(const GraphFile& file, const std::vector<Edge>& directed,
                                   Directed policy) {
  const auto weight_of = [&](std::int64_t source, std::int64_t target) {
    const Edge wanted{source, target};
    const auto found = std::lower_bound(directed.begin(), directed.end(), wanted, by_ends);
    return found != directed.end() && same_ends(*found, wanted) ? found->weight : 0;
  };
  std::vector<Edge> merged;
  for (const Edge& edge : directed) {
    const double there = edge.weight;
    const double back = weight_of(edge.target, edge.source);
    if (edge.source > edge.target && back != 0) continue;  // seen from its other end
    double weight = there;
    if (there != back) {
      require(policy != Directed::refuse,
              "graph: directed: '{}' to '{}' weighs {}, the way back {}; proximities are for "
              "undirected graphs (symmetrise by sum, mean or maximum)",
              file.nodes[edge.source], file.nodes[edge.target], there, back);
      weight = policy == Directed::maximum ? std::max(there, back) : there + back;
      if (policy == Directed::mean) weight /= 2;
    } else if (policy == Directed::sum && edge.source != edge.target) {
      weight = there + back;
    }
    merged.push_back(
        {std::min(edge.source, edge.target), std::max(edge.source, edge.target), weight});
  }
  std::sort(merged.begin(), merged.end(), by_ends);
  return merged;
}

}  // namespace

Directed parse_directed(const std::string& name) {
  return parse_choice<Directed>("symmetrize", name,
                                {{"refuse", Directed::refuse},
                                 {"sum", Directed::sum},
                                 {"mean", Directed::mean},
                                 {"maximum", Directed::maximum}});
}

Repeated parse_repeated(const std::string& name) {
  return parse_choice<Repeated>(
      "repeated", name,
      {{"refuse", Repeated::refuse}, {"sum", Repeated::sum}, {"maximum", Repeated::maximum}});
}

SelfLoops parse_self_loops(const std::string& name) {
  return parse_choice<SelfLoops>(
      "self-loops", name,
      {{"refuse", SelfLoops::refuse}, {"drop", SelfLoops::drop}, {"keep", SelfLoops::keep}});
}

Graph graph_from_adjacency(const at::Tensor& adjacency, const GraphPolicy& policy) {
  require_dense(adjacency, "adjacency");
  require(adjacency.dim() == 2 && adjacency.size(0) == adjacency.size(1) && adjacency.size(0) > 0,
          "adjacency: expected a square matrix [n, n] with n >= 1, got shape [{}]",
          fmt::join(adjacency.sizes(), ", "));
  require(!adjacency.is_complex(), "adjacency: expected real numbers, got a complex matrix");
  Graph graph;
  for (std::int64_t i = 0; i < adjacency.size(0); ++i) graph.nodes.push_back(std::to_string(i));
  const at::Tensor given = adjacency.detach().to(at::kCPU, at::kDouble);
  check_entries(given, graph.nodes);
  // Not the caller's memory, which a dropped loop would change.
  graph.adjacency =
      without_direction(given, policy.directed, graph.nodes).clone(at::MemoryFormat::Contiguous);
  apply_self_loop_policy(graph.adjacency, policy.self_loops, graph.nodes);
  return graph;
}

std::vector<Edge> undirected_edges(const GraphFile& file, const GraphPolicy& policy) {
  std::vector<Edge> edges;
  for (Edge edge : file.edges) {
    require(std::isfinite(edge.weight) && edge.weight >= 0,
            "graph: the weight between '{}' and '{}' is {}, expected a finite number >= 0",
            file.nodes[edge.source], file.nodes[edge.target], edge.weight);
    if (edge.weight == 0) continue;
    const bool loop = edge.source == edge.target;
    require(!loop || policy.self_loops != SelfLoops::refuse,
            "graph: node '{}' has a self-loop of weight {}; choose to drop or to keep self-loops",
            file.nodes[edge.source], edge.weight);
    if (loop && policy.self_loops == SelfLoops::drop) continue;
    if (!file.directed && edge.source > edge.target) std::swap(edge.source, edge.target);
    edges.push_back(edge);
  }
  edges = merge_repeated(file, std::move(edges), policy.repeated);
  return file.directed ? merge_directions(file, edges, policy.directed) : edges;
}

Graph graph_from_file(const GraphFile& file, const GraphPolicy& policy) {
  require(!file.nodes.empty(), "graph: the file has no nodes");
  const auto n = static_cast<std::int64_t>(file.nodes.size());
  Graph graph{.adjacency = at::zeros({n, n}, at::kDouble),
              .nodes = file.nodes,
              .attributes = file.attributes};
  auto entry = graph.adjacency.accessor<double, 2>();
  for (const Edge& edge : undirected_edges(file, policy)) {
    entry[edge.source][edge.target] = entry[edge.target][edge.source] = edge.weight;
  }
  return graph;
}

Graph load_graph(const std::filesystem::path& path, const GraphPolicy& policy) {
  if (path.extension() == ".npy") return graph_from_adjacency(read_tensor(path), policy);
  if (path.extension() == ".npz") return graph_from_adjacency(read_tensor(path), policy);
  return graph_from_file(read_graph(path), policy);
}

GraphFile to_graph_file(const Graph& graph) {
  GraphFile file;
  file.nodes = graph.nodes;
  file.attributes = graph.attributes;
  const auto entry = graph.adjacency.accessor<double, 2>();
  for (std::int64_t i = 0; i < graph.size(); ++i) {
    for (std::int64_t j = i; j < graph.size(); ++j) {
      if (entry[i][j] > 0) file.edges.push_back({i, j, entry[i][j]});
    }
  }
  return file;
}

at::Tensor classes(const Graph& graph, const std::string& attribute) {
  const auto found = graph.attributes.find(attribute);
  if (found == graph.attributes.end()) {
    std::vector<std::string> names;
    for (const auto& known : graph.attributes) names.push_back(known.first);
    throw InvalidArgument(
        names.empty() ? fmt::format("graph: no node attribute '{}': there are none", attribute)
                      : fmt::format("graph: no node attribute '{}'; there are {}{}", attribute,
                                    fmt::join(names, ", "), hint(attribute, names)));
  }
  std::map<std::string, std::int64_t> number;
  std::vector<std::int64_t> labels;
  for (std::int64_t i = 0; i < graph.size(); ++i) {
    const std::string& value = found->second[i];
    require(!value.empty(), "graph: node '{}' has no value of the attribute '{}'", graph.nodes[i],
            attribute);
    labels.push_back(
        number.try_emplace(value, static_cast<std::int64_t>(number.size())).first->second);
  }
  return at::tensor(labels, at::kLong);
}

Components connected_components(const at::Tensor& adjacency) {
  const std::int64_t n = adjacency.size(0);
  const auto entry = adjacency.accessor<double, 2>();
  Components found{.component = std::vector<std::int64_t>(n, -1)};
  std::vector<std::int64_t> waiting;
  for (std::int64_t root = 0; root < n; ++root) {
    if (found.component[root] >= 0) continue;
    found.component[root] = found.count;
    waiting.push_back(root);
    while (!waiting.empty()) {
      const std::int64_t i = waiting.back();
      waiting.pop_back();
      for (std::int64_t j = 0; j < n; ++j) {
        if (entry[i][j] == 0 || found.component[j] >= 0) continue;
        found.component[j] = found.count;
        waiting.push_back(j);
      }
    }
    ++found.count;
  }
  return found;
}

Graph subgraph(const Graph& graph, const std::vector<std::int64_t>& nodes) {
  require(!nodes.empty(), "subgraph: no nodes given");
  std::vector<bool> taken(graph.size(), false);
  for (const std::int64_t node : nodes) {
    require(node >= 0 && node < graph.size() && !taken[node],
            "subgraph: {} is not a node, or is listed twice; nodes are 0 .. {}", node,
            graph.size() - 1);
    taken[node] = true;
  }
  const at::Tensor index = at::tensor(nodes, at::kLong);
  Graph part{.adjacency = graph.adjacency.index_select(0, index).index_select(1, index),
             .nodes = {}};
  for (const std::int64_t node : nodes) part.nodes.push_back(graph.nodes[node]);
  for (const auto& [name, values] : graph.attributes) {
    for (const std::int64_t node : nodes) part.attributes[name].push_back(values[node]);
  }
  return part;
}

Graph largest_component(const Graph& graph) {
  const Components components = connected_components(graph.adjacency);
  std::vector<std::vector<std::int64_t>> members(components.count);
  for (std::int64_t i = 0; i < graph.size(); ++i) members[components.component[i]].push_back(i);
  return subgraph(
      graph, *std::max_element(members.begin(), members.end(),
                               [](const auto& a, const auto& b) { return a.size() < b.size(); }));
}

Graph zachary_karate_club() {
  // For each member the later members that he had ties with.
  const std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>> ties = {
      {0, {1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31}},
      {1, {2, 3, 7, 13, 17, 19, 21, 30}},
      {2, {3, 7, 8, 9, 13, 27, 28, 32}},
      {3, {7, 12, 13}},
      {4, {6, 10}},
      {5, {6, 10, 16}},
      {6, {16}},
      {8, {30, 32, 33}},
      {9, {33}},
      {13, {33}},
      {14, {32, 33}},
      {15, {32, 33}},
      {18, {32, 33}},
      {19, {33}},
      {20, {32, 33}},
      {22, {32, 33}},
      {23, {25, 27, 29, 32, 33}},
      {24, {25, 27, 31}},
      {25, {31}},
      {26, {29, 33}},
      {27, {33}},
      {28, {31, 33}},
      {29, {32, 33}},
      {30, {32, 33}},
      {31, {32, 33}},
      {32, {33}}};
  const std::vector<std::int64_t> instructors_side = {0,  1,  2,  3,  4,  5,  6,  7, 8,
                                                      10, 11, 12, 13, 16, 17, 19, 21};
  GraphFile file;
  for (int i = 0; i < 34; ++i) file.nodes.push_back(std::to_string(i));
  for (const auto& [member, others] : ties) {
    for (const std::int64_t other : others) file.edges.push_back({member, other, 1.0});
  }
  file.attributes["club"].assign(34, "Officer");
  file.attributes["faction"].assign(34, "2");
  for (const std::int64_t member : instructors_side) {
    file.attributes["club"][member] = "Mr. Hi";
    if (member != 8) file.attributes["faction"][member] = "1";
  }
  return graph_from_file(file);
}

}  // namespace einkorn::graph_proximity
