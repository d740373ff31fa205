#include "einkorn/similarity/graph_proximity/graph.h"

#include "einkorn/similarity/graph_proximity/graph_test_internal.h"

namespace einkorn::graph_proximity {
namespace {

using testing::HasSubstr;

GraphFile file_of(std::vector<Edge> edges, bool directed = false) {
  return {
      .directed = directed, .nodes = {"a", "b", "c"}, .edges = std::move(edges), .attributes = {}};
}

TEST(Graph, FromAnAdjacencyMatrix) {
  const at::Tensor a = at::tensor({0, 2, 2, 0}, at::kInt).view({2, 2});
  const Graph graph = graph_from_adjacency(a);
  EXPECT_EQ(graph.size(), 2);
  EXPECT_EQ(graph.nodes, (std::vector<std::string>{"0", "1"}));
  EXPECT_EQ(graph.adjacency.scalar_type(), at::kDouble);
  EXPECT_EQ(entry(graph.adjacency, 0, 1), 2);
}

TEST(Graph, RefusesMatricesThatAreNone) {
  const auto message = [](const at::Tensor& a) {
    return refusal([&] { graph_from_adjacency(a); });
  };
  EXPECT_THAT(message(at::zeros({2, 3})),
              HasSubstr("square matrix [n, n] with n >= 1, got shape [2, 3]"));
  EXPECT_THAT(message(at::zeros({0, 0})), HasSubstr("n >= 1"));
  EXPECT_THAT(message(at::zeros({4})), HasSubstr("square"));
  EXPECT_THAT(message(at::Tensor()), HasSubstr("no tensor"));
  EXPECT_THAT(message(at::zeros({2, 2}, at::kComplexDouble)), HasSubstr("complex"));
  EXPECT_THAT(message(at::tensor({0.0, -1.0, -1.0, 0.0}).view({2, 2})),
              HasSubstr("between '0' and '1' is -1, expected a finite number >= 0"));
  EXPECT_THAT(message(at::tensor({0.0, NAN, NAN, 0.0}).view({2, 2})), HasSubstr("is nan"));
  EXPECT_THAT(message(at::tensor({0.0, 1.0, 3.0, 0.0}).view({2, 2})),
              HasSubstr("'0' to '1' weighs 1, the way back 3"));
  EXPECT_THAT(message(at::eye(2)), HasSubstr("node '0' has a self-loop of weight 1"));
}

TEST(Graph, PoliciesForMatrices) {
  const at::Tensor a = at::tensor({4.0, 1.0, 3.0, 0.0}, at::kDouble).view({2, 2});
  const auto with = [&](Directed directed, SelfLoops loops) {
    return graph_from_adjacency(a, {.directed = directed, .self_loops = loops}).adjacency;
  };
  EXPECT_EQ(entry(with(Directed::sum, SelfLoops::keep), 1, 0), 4);
  EXPECT_EQ(entry(with(Directed::sum, SelfLoops::keep), 0, 0), 4);
  EXPECT_EQ(entry(with(Directed::mean, SelfLoops::keep), 1, 0), 2);
  EXPECT_EQ(entry(with(Directed::mean, SelfLoops::keep), 0, 0), 4);
  EXPECT_EQ(entry(with(Directed::maximum, SelfLoops::drop), 0, 1), 3);
  EXPECT_EQ(entry(with(Directed::maximum, SelfLoops::drop), 0, 0), 0);
  EXPECT_EQ(entry(a, 0, 0), 4);  // the caller's matrix is left alone
}

TEST(Graph, FromAFile) {
  const Graph graph = graph_from_file(file_of({{1, 0, 2.0}, {1, 2, 0.5}, {0, 2, 0.0}}));
  EXPECT_EQ(graph.nodes, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(entry(graph.adjacency, 0, 1), 2);
  EXPECT_EQ(entry(graph.adjacency, 2, 1), 0.5);
  EXPECT_EQ(entry(graph.adjacency, 0, 2), 0);  // weight 0 is no edge
}

TEST(Graph, RefusesFilesThatAreNoSimpleGraph) {
  const auto message = [](const GraphFile& file) {
    return refusal([&] { graph_from_file(file); });
  };
  EXPECT_THAT(message({}), HasSubstr("no nodes"));
  EXPECT_THAT(message(file_of({{0, 1, -2.0}})), HasSubstr("between 'a' and 'b' is -2"));
  EXPECT_THAT(message(file_of({{2, 2, 1.0}})), HasSubstr("node 'c' has a self-loop"));
  EXPECT_THAT(message(file_of({{0, 1, 1.0}, {1, 0, 3.0}})),
              HasSubstr("'a' and 'b' is listed more than once (weights 1 and 3)"));
  EXPECT_THAT(message(file_of({{0, 1, 1.0}}, true)),
              HasSubstr("directed: 'a' to 'b' weighs 1, the way back 0"));
}

TEST(Graph, PoliciesForFiles) {
  const GraphFile repeated = file_of({{0, 1, 1.0}, {1, 0, 3.0}, {2, 2, 1.0}});
  const auto weight = [&](Repeated policy) {
    return entry(
        graph_from_file(repeated, {.repeated = policy, .self_loops = SelfLoops::drop}).adjacency, 0,
        1);
  };
  EXPECT_EQ(weight(Repeated::sum), 4);
  EXPECT_EQ(weight(Repeated::maximum), 3);
  const Graph looped =
      graph_from_file(repeated, {.repeated = Repeated::sum, .self_loops = SelfLoops::keep});
  EXPECT_EQ(entry(looped.adjacency, 2, 2), 1);

  const GraphFile directed = file_of({{1, 0, 3.0}, {0, 1, 1.0}, {2, 1, 5.0}}, true);
  const auto symmetric = [&](Directed policy) {
    return graph_from_file(directed, {.directed = policy}).adjacency;
  };
  EXPECT_EQ(entry(symmetric(Directed::sum), 0, 1), 4);
  EXPECT_EQ(entry(symmetric(Directed::mean), 0, 1), 2);
  EXPECT_EQ(entry(symmetric(Directed::maximum), 0, 1), 3);
  EXPECT_EQ(entry(symmetric(Directed::mean), 1, 2), 2.5);
  EXPECT_EQ(entry(symmetric(Directed::maximum), 1, 2), 5);
  // A directed file with equal directions needs no policy; their sum counts both.
  const GraphFile both = file_of({{1, 0, 3.0}, {0, 1, 3.0}}, true);
  EXPECT_EQ(entry(graph_from_file(both).adjacency, 0, 1), 3);
  EXPECT_EQ(entry(graph_from_file(both, {.directed = Directed::sum}).adjacency, 0, 1), 6);
}

TEST(Graph, PoliciesByName) {
  EXPECT_EQ(parse_directed("mean"), Directed::mean);
  EXPECT_EQ(parse_repeated("maximum"), Repeated::maximum);
  EXPECT_EQ(parse_self_loops("drop"), SelfLoops::drop);
  EXPECT_THAT(refusal([] { parse_directed("man"); }), HasSubstr("did you mean 'mean'"));
}

TEST(Graph, RoundTripsThroughFiles) {
  Graph graph = random_weighted_graph(12, 4);
  graph.attributes["class"].assign(12, "x");
  const Graph read = graph_from_file(parse_gml(format_gml(to_graph_file(graph)), "graph.gml"));
  EXPECT_TRUE(read.adjacency.equal(graph.adjacency));
  EXPECT_EQ(read.nodes, graph.nodes);
  EXPECT_EQ(read.attributes.at("class"), graph.attributes.at("class"));
}

TEST(Graph, ClassesInOrderOfAppearance) {
  Graph graph = path_graph(4);
  graph.attributes["side"] = {"right", "left", "right", "up"};
  EXPECT_TRUE(classes(graph, "side").equal(at::tensor({0, 1, 0, 2}, at::kLong)));
  EXPECT_THAT(refusal([&] { classes(graph, "sied"); }), HasSubstr("there are side"));
  EXPECT_THAT(refusal([] { classes(path_graph(2), "x"); }), HasSubstr("there are none"));
  graph.attributes["side"][2] = "";
  EXPECT_THAT(refusal([&] { classes(graph, "side"); }), HasSubstr("node '2' has no value"));
}

TEST(Graph, ComponentsAndSubgraphs) {
  Graph graph = graph_of(6, {{1, 4}, {4, 5}, {0, 3}});
  graph.attributes["x"] = {"0", "1", "2", "3", "4", "5"};
  const Components components = connected_components(graph.adjacency);
  EXPECT_EQ(components.count, 3);
  EXPECT_EQ(components.component, (std::vector<std::int64_t>{0, 1, 2, 0, 1, 1}));
  const Graph largest = largest_component(graph);
  EXPECT_EQ(largest.nodes, (std::vector<std::string>{"1", "4", "5"}));
  EXPECT_EQ(largest.attributes.at("x"), (std::vector<std::string>{"1", "4", "5"}));
  EXPECT_EQ(entry(largest.adjacency, 1, 2), 1);
  EXPECT_THAT(refusal([&] { subgraph(graph, {1, 1}); }), HasSubstr("listed twice"));
  EXPECT_THAT(refusal([&] { subgraph(graph, {6}); }), HasSubstr("nodes are 0 .. 5"));
  EXPECT_THAT(refusal([&] { subgraph(graph, {}); }), HasSubstr("no nodes"));
}

TEST(Graph, ZacharysKarateClub) {
  const Graph graph = zachary_karate_club();
  EXPECT_EQ(graph.size(), 34);
  EXPECT_EQ(graph.adjacency.sum().item<double>(), 2 * 78);
  EXPECT_EQ(entry(graph.adjacency.sum(1).unsqueeze(0), 0, 33), 17);  // the president's ties
  const at::Tensor differ = classes(graph, "club") != classes(graph, "faction");
  EXPECT_EQ(differ.sum().item<std::int64_t>(), 1);
  EXPECT_TRUE(differ[8].item<bool>());
}

}  // namespace
}  // namespace einkorn::graph_proximity
