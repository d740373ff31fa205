#include "einkorn/similarity/graph_proximity/random_graphs.h"

#include "einkorn/similarity/graph_proximity/graph_test_internal.h"

namespace einkorn::graph_proximity {
namespace {

using testing::HasSubstr;

TEST(PlantedPartition, HasTheSizesAndProbabilitiesAskedFor) {
  const BlockModel model = planted_partition(11, 3, 0.5, 0.1);
  EXPECT_EQ(model.sizes, (std::vector<std::int64_t>{4, 4, 3}));
  EXPECT_EQ(model.probabilities[0], (std::vector<double>{0.5, 0.1, 0.1}));
  EXPECT_EQ(model.probabilities[2], (std::vector<double>{0.1, 0.1, 0.5}));
}

TEST(BlockModel, EdgesFollowTheProbabilities) {
  BlockModel model;
  model.sizes = {60, 90};
  model.probabilities = {{0.3, 0.05}, {0.05, 0.2}};
  double inside_first = 0, inside_second = 0, between = 0;
  constexpr int graphs = 200;
  for (int seed = 0; seed < graphs; ++seed) {
    const at::Tensor a = sample(model, static_cast<std::uint64_t>(seed)).adjacency;
    inside_first += a.slice(0, 0, 60).slice(1, 0, 60).sum().item<double>() / 2;
    inside_second += a.slice(0, 60).slice(1, 60).sum().item<double>() / 2;
    between += a.slice(0, 0, 60).slice(1, 60).sum().item<double>();
  }
  // Five standard deviations of binomials.
  const auto expect_share = [](double successes, double trials, double p) {
    EXPECT_NEAR(successes / trials, p, 5 * std::sqrt(p * (1 - p) / trials));
  };
  expect_share(inside_first, graphs * 60 * 59 / 2.0, 0.3);
  expect_share(inside_second, graphs * 90 * 89 / 2.0, 0.2);
  expect_share(between, graphs * 60 * 90.0, 0.05);
}

TEST(BlockModel, EveryPairIsAsLikely) {
  // Skipping must reach the first, the last and all pairs between them.
  BlockModel model;
  model.sizes = {5, 3};
  model.probabilities = {{0.5, 0.5}, {0.5, 0.5}};
  model.connected = false;
  at::Tensor count = at::zeros({8, 8}, at::kDouble);
  constexpr int graphs = 4000;
  for (int seed = 0; seed < graphs; ++seed) {
    count += sample(model, static_cast<std::uint64_t>(seed)).adjacency;
  }
  const double deviation = std::sqrt(0.25 / graphs);
  for (std::int64_t i = 0; i < 8; ++i) {
    for (std::int64_t j = 0; j < 8; ++j) {
      EXPECT_NEAR(entry(count, i, j) / graphs, i == j ? 0 : 0.5, 5 * deviation) << i << " " << j;
    }
  }
}

TEST(BlockModel, CertainAndImpossibleEdges) {
  BlockModel model;
  model.sizes = {3, 2};
  model.probabilities = {{1, 0}, {0, 1}};
  model.connected = false;
  const GraphFile file = sample_edges(model, 1);
  EXPECT_EQ(file.edges.size(), 4u);
  EXPECT_EQ(file.attributes.at("class"), (std::vector<std::string>{"0", "0", "0", "1", "1"}));
  model.connected = true;
  model.max_attempts = 3;
  EXPECT_THAT(refusal([&] { sample(model, 1); }), HasSubstr("none of 3 graphs was connected"));
}

TEST(BlockModel, IsDrawnAgainUntilConnected) {
  const BlockModel sparse = planted_partition(40, 2, 0.15, 0.02);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(connected_components(sample(sparse, seed).adjacency).count, 1);
  }
}

TEST(BlockModel, DependsOnTheSeedAlone) {
  const BlockModel model = planted_partition(50, 2, 0.3, 0.1);
  EXPECT_TRUE(sample(model, 7).adjacency.equal(sample(model, 7).adjacency));
  EXPECT_FALSE(sample(model, 7).adjacency.equal(sample(model, 8).adjacency));
}

TEST(BlockModel, LargeSparseGraphsTakeTheTimeOfTheirEdges) {
  BlockModel model = planted_partition(200000, 4, 1e-4, 1e-6);
  model.connected = false;
  const GraphFile file = sample_edges(model, 3);
  // 4 C(50000, 2) 1e-4 + 6 * 50000^2 1e-6
  EXPECT_NEAR(static_cast<double>(file.edges.size()), 4 * 124997.5 + 15000,
              5 * std::sqrt(515000.0));
}

TEST(BlockModel, RefusesBadModels) {
  const auto message = [](BlockModel model) { return refusal([&] { sample(model, 0); }); };
  EXPECT_THAT(message({}), HasSubstr("no classes"));
  EXPECT_THAT(message({.sizes = {2, 0}, .probabilities = {{0, 0}, {0, 0}}}),
              HasSubstr("has 0 nodes"));
  EXPECT_THAT(message({.sizes = {2, 2}, .probabilities = {{0, 0}}}), HasSubstr("2 rows"));
  EXPECT_THAT(message({.sizes = {2}, .probabilities = {{0, 1}}}), HasSubstr("has 2 entries"));
  EXPECT_THAT(message({.sizes = {2}, .probabilities = {{1.5}}}),
              HasSubstr("1.5 is outside [0, 1]"));
  EXPECT_THAT(message({.sizes = {2, 2}, .probabilities = {{1, 0.5}, {0.4, 1}}}),
              HasSubstr("differ by direction (0.5 and 0.4)"));
  EXPECT_THAT(refusal([] { planted_partition(3, 4, 0.5, 0.1); }),
              HasSubstr("4 classes of 3 nodes"));
}

}  // namespace
}  // namespace einkorn::graph_proximity
