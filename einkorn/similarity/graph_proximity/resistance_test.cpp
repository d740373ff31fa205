#include "einkorn/similarity/graph_proximity/resistance.h"

#include "einkorn/similarity/graph_proximity/graph_test_internal.h"
#include "einkorn/similarity/graph_proximity/random_graphs.h"

namespace einkorn::graph_proximity {
namespace {

using testing::HasSubstr;

TEST(ResistanceNetwork, AgreesWithThePseudoinverse) {
  const Graph graph = random_weighted_graph(60, 2);
  const at::Tensor expected = Proximity(graph).resistance();
  const ResistanceNetwork network(to_graph_file(graph));
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
  for (std::int64_t i = 0; i < 60; i += 7) {
    for (std::int64_t j = 0; j < 60; ++j) pairs.push_back({i, j});
  }
  const at::Tensor resistance = network.resistance(pairs);
  for (std::size_t k = 0; k < pairs.size(); ++k) {
    EXPECT_NEAR(resistance[static_cast<std::int64_t>(k)].item<double>(),
                entry(expected, pairs[k].first, pairs[k].second), 1e-9);
  }
}

TEST(ResistanceNetwork, SeriesAndZachary) {
  const ResistanceNetwork path(to_graph_file(path_graph(2000)));
  EXPECT_NEAR(path.resistance({{0, 1999}})[0].item<double>(), 1999, 1e-6);
  const ResistanceNetwork club(to_graph_file(zachary_karate_club()));
  EXPECT_EQ(club.size(), 34);
  EXPECT_EQ(club.edges(), 78);
  const at::Tensor resistance = club.resistance({{0, 33}, {0, 1}, {5, 5}});
  EXPECT_NEAR(resistance[0].item<double>(), 0.2538022983367, 1e-12);
  EXPECT_NEAR(resistance[1].item<double>(), 0.1930645172287, 1e-12);
  EXPECT_EQ(resistance[2].item<double>(), 0);
}

TEST(ResistanceNetwork, LargeSparseGraphsObeyFoster) {
  // Foster's theorem: conductance times resistance, summed over all edges, is n - 1. Estimated from
  // a sample of edges of a graph whose n x n matrix would not fit in memory.
  const GraphFile file = sample_edges(planted_partition(50000, 2, 3e-4, 3e-4), 5);
  const ResistanceNetwork network(file);
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
  Random random(1);
  for (int k = 0; k < 40; ++k) {
    const Edge& edge = file.edges[random.integer(static_cast<std::int64_t>(file.edges.size()))];
    pairs.push_back({edge.source, edge.target});
  }
  const at::Tensor resistance = network.resistance(pairs, {.tolerance = 1e-6});
  const double mean = 49999.0 / static_cast<double>(file.edges.size());
  EXPECT_NEAR(resistance.mean().item<double>(), mean, 0.1 * mean);
}

TEST(ResistanceNetwork, EmbeddingKeepsAllResistances) {
  const Graph graph = random_weighted_graph(80, 12);
  const at::Tensor expected = Proximity(graph).resistance();
  const ResistanceNetwork network(to_graph_file(graph));
  const double epsilon = 0.3;
  const at::Tensor z = network.embedding(epsilon, 9);
  EXPECT_EQ(z.size(0), 80);
  EXPECT_EQ(z.size(1), std::llround(std::ceil(24 * std::log(80) / 0.09)));
  const at::Tensor distance = (z.unsqueeze(0) - z.unsqueeze(1)).square().sum(2);
  for (std::int64_t i = 0; i < 80; ++i) {
    for (std::int64_t j = 0; j < i; ++j) {
      const double ratio = entry(distance, i, j) / entry(expected, i, j);
      EXPECT_GT(ratio, 1 - epsilon);
      EXPECT_LT(ratio, 1 + epsilon);
    }
  }
  EXPECT_TRUE(z.equal(network.embedding(epsilon, 9)));
}

TEST(ResistanceNetwork, SelfLoopsCarryNoCurrent) {
  GraphFile file = to_graph_file(path_graph(3));
  file.edges.push_back({1, 1, 5.0});
  const ResistanceNetwork network(file, {.self_loops = SelfLoops::keep});
  EXPECT_NEAR(network.resistance({{0, 2}})[0].item<double>(), 2, 1e-12);
}

TEST(ResistanceNetwork, RefusesBadInput) {
  EXPECT_THAT(refusal([] { ResistanceNetwork(to_graph_file(graph_of(3, {{0, 1}}))); }),
              HasSubstr("no way from '0' to '2'"));
  EXPECT_THAT(refusal([] { ResistanceNetwork(GraphFile{}); }), HasSubstr("no nodes"));
  const ResistanceNetwork network(to_graph_file(path_graph(2000)));
  EXPECT_THAT(refusal([&] { network.resistance({{0, 2000}}); }), HasSubstr("nodes 0 .. 1999"));
  EXPECT_THAT(refusal([&] { network.resistance({{0, 1999}}, {.max_iterations = 5}); }),
              HasSubstr("relative residual"));
  EXPECT_THAT(refusal([&] { network.resistance({{0, 1}}, {.tolerance = 0}); }),
              HasSubstr("(0, 1)"));
  EXPECT_THAT(refusal([&] { network.embedding(1.0, 0); }), HasSubstr("epsilon: expected"));
}

}  // namespace
}  // namespace einkorn::graph_proximity
