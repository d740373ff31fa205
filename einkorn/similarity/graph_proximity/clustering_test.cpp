#include "einkorn/similarity/graph_proximity/clustering.h"

#include <rapidcheck.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "einkorn/core/isa.h"
#include "einkorn/similarity/graph_proximity/graph_test_internal.h"

namespace einkorn::graph_proximity {
namespace {

using testing::HasSubstr;

at::Tensor labels_of(const std::vector<std::int64_t>& labels) {
  return at::tensor(labels, at::kLong);
}

at::Tensor random_distances(std::int64_t n, std::uint64_t seed) {
  Random random(seed);
  at::Tensor d = at::zeros({n, n}, at::kDouble);
  auto entries = d.accessor<double, 2>();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < i; ++j) {
      entries[i][j] = entries[j][i] = random.uniform(-0.2, 1);  // no metric, some negative
    }
  }
  return d;
}

// Ward's criterion in its kernel form, over all pairs of clusters at every step, O(n^3) evaluations
// of
//   n_k n_l / (n_k + n_l) (h_k - h_l)^T K (h_k - h_l).
struct BruteForce {
  std::vector<double> heights;
  at::Tensor labels;
};

BruteForce ward_by_definition(const at::Tensor& kernel, std::int64_t clusters) {
  const std::int64_t n = kernel.size(0);
  std::vector<std::vector<std::int64_t>> members(n);
  for (std::int64_t i = 0; i < n; ++i) members[i] = {i};
  BruteForce result;
  result.labels = at::empty({n}, at::kLong);
  const auto cost = [&](const auto& a, const auto& b) {
    at::Tensor difference = at::zeros({n}, at::kDouble);
    for (const std::int64_t i : a) difference[i] += 1.0 / static_cast<double>(a.size());
    for (const std::int64_t i : b) difference[i] -= 1.0 / static_cast<double>(b.size());
    const double sizes =
        static_cast<double>(a.size() * b.size()) / static_cast<double>(a.size() + b.size());
    return sizes * at::dot(difference, at::mv(kernel, difference)).item<double>();
  };
  while (members.size() > 1) {
    if (static_cast<std::int64_t>(members.size()) == clusters) {
      for (std::size_t c = 0; c < members.size(); ++c) {
        for (const std::int64_t i : members[c]) result.labels[i] = static_cast<std::int64_t>(c);
      }
    }
    double least = INFINITY;
    std::size_t first = 0, second = 0;
    for (std::size_t a = 0; a < members.size(); ++a) {
      for (std::size_t b = a + 1; b < members.size(); ++b) {
        const double value = cost(members[a], members[b]);
        if (value < least) {
          least = value;
          first = a;
          second = b;
        }
      }
    }
    result.heights.push_back(least);
    members[first].insert(members[first].end(), members[second].begin(), members[second].end());
    members.erase(members.begin() + static_cast<std::ptrdiff_t>(second));
  }
  return result;
}

TEST(Ward, IsWardsCriterionOnAnyKernel) {
  EXPECT_TRUE(rc::check("chains and greedy merging against the definition", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(2, 14);
    const auto clusters = *rc::gen::inRange<std::int64_t>(2, n + 1);
    // Distances of no metric: the kernel has negative eigenvalues.
    const at::Tensor d = random_distances(n, *rc::gen::arbitrary<std::uint32_t>());
    const BruteForce expected = ward_by_definition(kernel_from_distance(2 * d), clusters);
    for (const WardAlgorithm algorithm :
         {WardAlgorithm::nearest_neighbor_chain, WardAlgorithm::greedy}) {
      const Dendrogram tree = ward(d, {.algorithm = algorithm});
      for (std::int64_t k = 0; k < n - 1; ++k) {
        RC_ASSERT(std::abs(tree.heights[k].item<double>() - expected.heights[k]) < 1e-12);
      }
      RC_ASSERT(adjusted_rand_index(cut(tree, clusters), expected.labels) == 1);
    }
  }));
}

TEST(Ward, BothAlgorithmsAgreeAtEveryLevelOnLargeInput) {
  // Larger than the smallest matrix that is compacted, several times over.
  const at::Tensor d = random_distances(700, 3);
  const Dendrogram expected = ward(d, {.algorithm = WardAlgorithm::greedy});
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    const Dendrogram tree = ward(d);
    EXPECT_LT(largest_difference(tree.heights, expected.heights), 1e-12);
    EXPECT_TRUE(tree.children.equal(expected.children));
    EXPECT_TRUE(tree.sizes.equal(expected.sizes));
  }
}

TEST(Ward, TreesAreWellFormed) {
  EXPECT_TRUE(rc::check("children exist before they are merged, once each, and sizes add up", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(1, 150);
    const Dendrogram tree = ward(random_distances(n, *rc::gen::arbitrary<std::uint32_t>()));
    std::set<std::int64_t> used;
    std::vector<std::int64_t> size(2 * n, 1);
    for (std::int64_t k = 0; k < n - 1; ++k) {
      const auto a = tree.children[k][0].item<std::int64_t>();
      const auto b = tree.children[k][1].item<std::int64_t>();
      RC_ASSERT(a < b);
      RC_ASSERT(b < n + k);
      RC_ASSERT(used.insert(a).second);
      RC_ASSERT(used.insert(b).second);
      size[n + k] = size[a] + size[b];
      RC_ASSERT(tree.sizes[k].item<std::int64_t>() == size[n + k]);
      if (k > 0) RC_ASSERT(tree.heights[k].item<double>() >= tree.heights[k - 1].item<double>());
    }
    for (std::int64_t clusters = 1; clusters <= n; ++clusters) {
      const at::Tensor labels = cut(tree, clusters);
      RC_ASSERT(labels.max().item<std::int64_t>() == clusters - 1);
      RC_ASSERT(labels[0].item<std::int64_t>() == 0);
    }
  }));
}

TEST(Ward, BreaksTiesAsDocumented) {
  // Four nodes on a line at equal steps: 0-1, 1-2 and 2-3 are equally near.
  at::Tensor d = at::zeros({4, 4}, at::kDouble);
  for (std::int64_t i = 0; i < 4; ++i) {
    for (std::int64_t j = 0; j < 4; ++j) d[i][j] = std::abs(static_cast<double>(i - j));
  }
  for (const WardAlgorithm algorithm :
       {WardAlgorithm::nearest_neighbor_chain, WardAlgorithm::greedy}) {
    const Dendrogram tree = ward(d, {.algorithm = algorithm});
    EXPECT_TRUE(tree.children.equal(at::tensor({0, 1, 2, 3, 4, 5}, at::kLong).view({3, 2})));
  }
  // A pair of nodes that are both nearest to node 1, which starts no chain: 0 is far from all.
  // Greedy takes (1, 2) since 2 < 3; the chain 0, 1 goes on to the smaller of 2 and 3 as well.
  at::Tensor fork = at::full({4, 4}, 9.0, at::kDouble);
  for (const auto& [i, j, value] : {std::tuple{0, 1, 8.0}, {1, 2, 1.0}, {1, 3, 1.0}, {2, 3, 2.0}}) {
    fork[i][j] = value;
    fork[j][i] = value;
  }
  for (const WardAlgorithm algorithm :
       {WardAlgorithm::nearest_neighbor_chain, WardAlgorithm::greedy}) {
    const at::Tensor first = ward(fork, {.algorithm = algorithm}).children[0];
    EXPECT_TRUE(first.equal(at::tensor({1, 2}, at::kLong)));
  }
  // The chain's last but one wins a tie against a smaller node: 0, 3, 2, where 2 is as near to 1.
  at::Tensor zigzag = at::full({4, 4}, 5.0, at::kDouble);
  const auto set = [&](std::int64_t i, std::int64_t j, double value) {
    zigzag[i][j] = value;
    zigzag[j][i] = value;
  };
  set(0, 3, 2);
  set(1, 3, 1.5);
  set(2, 3, 1);
  set(1, 2, 1);
  const auto first_merge = [&](WardAlgorithm algorithm) {
    return ward(zigzag, {.algorithm = algorithm}).children[0];
  };
  EXPECT_TRUE(first_merge(WardAlgorithm::greedy).equal(at::tensor({1, 2}, at::kLong)));
  EXPECT_TRUE(
      first_merge(WardAlgorithm::nearest_neighbor_chain).equal(at::tensor({2, 3}, at::kLong)));
}

TEST(Ward, EqualDistancesEverywhere) {
  const at::Tensor d = at::ones({65, 65}, at::kDouble);
  for (const WardAlgorithm algorithm :
       {WardAlgorithm::nearest_neighbor_chain, WardAlgorithm::greedy}) {
    const Dendrogram tree = ward(d, {.algorithm = algorithm});
    EXPECT_EQ(tree.children[0][0].item<std::int64_t>(), 0);
    EXPECT_EQ(tree.children[0][1].item<std::int64_t>(), 1);
    EXPECT_EQ(tree.sizes[63].item<std::int64_t>(), 65);
    EXPECT_NEAR(tree.heights.sum().item<double>(), 64,
                1e-10);  // half of n E|x - mean|^2 with unit gaps
  }
}

TEST(Ward, LeavesItsInputAloneAndTakesFloats) {
  const at::Tensor d = random_distances(80, 1);
  const at::Tensor before = d.clone();
  const Dendrogram full = ward(d);
  EXPECT_TRUE(d.equal(before));
  const Dendrogram single = ward(d.to(at::kFloat));
  EXPECT_LT(largest_difference(single.heights, full.heights), 1e-4);
  // A transposed view of a symmetric matrix is the same input.
  EXPECT_TRUE(ward(d.t()).children.equal(full.children));
}

TEST(Ward, OneNodeAndBadInput) {
  const Dendrogram tree = ward(at::zeros({1, 1}, at::kDouble));
  EXPECT_EQ(tree.children.size(0), 0);
  EXPECT_TRUE(cut(tree, 1).equal(labels_of({0})));
  EXPECT_THAT(refusal([&] { cut(tree, 2); }), HasSubstr("1 <= clusters <= 1 (the nodes), got 2"));
  EXPECT_THAT(refusal([] { ward(at::zeros({2, 3}, at::kDouble)); }), HasSubstr("square"));
  EXPECT_THAT(refusal([] { ward(at::zeros({0, 0}, at::kDouble)); }), HasSubstr("n >= 1"));
  EXPECT_THAT(refusal([] { ward(at::zeros({2, 2}, at::kLong)); }), HasSubstr("f32 or f64"));
  EXPECT_THAT(refusal([] { ward(at::full({2, 2}, INFINITY, at::kDouble)); }), HasSubstr("finite"));
  EXPECT_THAT(refusal([] { ward(at::tensor({0.0, 1.0, 2.0, 0.0}).view({2, 2})); }),
              HasSubstr("symmetric"));
}

struct KarateCase {
  const char* measure;
  double s;
};

class KarateClub : public testing::TestWithParam<KarateCase> {};

TEST_P(KarateClub, SplitsAsTheClubDidButForOne) {
  const Graph graph = zachary_karate_club();
  const Proximity proximity(graph);
  const Measure measure = parse_measure(GetParam().measure);
  const at::Tensor d =
      proximity.distance(measure, proximity.parameter(measure.family, GetParam().s));
  const at::Tensor labels = cut(ward(d), 2);
  const std::int64_t second = labels.sum().item<std::int64_t>();
  EXPECT_EQ(std::min<std::int64_t>(second, 34 - second), 16);
  EXPECT_NEAR(adjusted_rand_index(labels, classes(graph, "club")), 0.88226, 1e-5);
  EXPECT_EQ(adjusted_rand_index(labels, classes(graph, "faction")), 1);
}

INSTANTIATE_TEST_SUITE_P(Published, KarateClub,
                         testing::Values(KarateCase{"logComm", 0.5}, KarateCase{"logComm", 0.94},
                                         KarateCase{"SCT", 0.66}, KarateCase{"Walk", 0.94},
                                         KarateCase{"logHeat", 0.98}, KarateCase{"RSP", 0.98},
                                         KarateCase{"Comm", 0.58}, KarateCase{"logFor", 0.98}));

TEST(KarateClub, IsMissedByThePlainForestKernel) {
  const Graph graph = zachary_karate_club();
  const Proximity proximity(graph);
  const at::Tensor d =
      proximity.distance({Family::forest}, proximity.parameter(Family::forest, 0.5));
  const at::Tensor labels = cut(ward(d), 2);
  const std::int64_t second = labels.sum().item<std::int64_t>();
  EXPECT_EQ(std::min<std::int64_t>(second, 34 - second), 5);
  EXPECT_NEAR(adjusted_rand_index(labels, classes(graph, "club")), 0.0724, 5e-5);
}

TEST(Ward, RenumberingNodesRenumbersTheClusters) {
  EXPECT_TRUE(rc::check("labels follow a permutation", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(2, 60);
    const auto seed = *rc::gen::arbitrary<std::uint32_t>();
    const at::Tensor d = random_distances(n, seed);
    const at::Tensor order = at::tensor(Random(seed, 1).permutation(n), at::kLong);
    const at::Tensor labels = cut(ward(d), (n + 1) / 2);
    const at::Tensor renumbered =
        cut(ward(d.index_select(0, order).index_select(1, order)), (n + 1) / 2);
    RC_ASSERT(adjusted_rand_index(labels.index_select(0, order), renumbered) == 1);
  }));
}

// Inertia from the definition.
double inertia_of(const at::Tensor& kernel, const at::Tensor& labels) {
  const std::int64_t n = kernel.size(0);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const at::Tensor same = (labels == labels[i]).to(at::kDouble);
    at::Tensor difference = same / same.sum();
    difference[i] -= 1;
    sum += at::dot(difference, at::mv(kernel, difference)).item<double>();
  }
  return sum;
}

TEST(KernelKMeans, FindsTheLeastInertiaOfSmallProblems) {
  EXPECT_TRUE(rc::check("against all partitions into two", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(3, 9);
    const auto seed = *rc::gen::arbitrary<std::uint32_t>();
    const Proximity proximity(random_weighted_graph(n, seed));
    const at::Tensor kernel = proximity.kernel({Family::heat}, 0.8).values;
    double least = INFINITY;
    for (std::int64_t bits = 1; bits + 1 < (std::int64_t{1} << n); ++bits) {
      std::vector<std::int64_t> labels;
      for (std::int64_t i = 0; i < n; ++i) labels.push_back(bits >> i & 1);
      least = std::min(least, inertia_of(kernel, labels_of(labels)));
    }
    const KMeansResult result = kernel_kmeans(
        kernel, {.clusters = 2, .update = KMeansUpdate::iterative, .restarts = 60, .seed = seed});
    RC_ASSERT(std::abs(result.inertia - inertia_of(kernel, result.labels)) < 1e-10);
    RC_ASSERT(std::abs(result.inertia - least) < 1e-9);
  }));
}

TEST(KernelKMeans, EveryVariantSplitsTheKarateClub) {
  const Graph graph = zachary_karate_club();
  const at::Tensor kernel = Proximity(graph).kernel(parse_measure("logComm"), 0.5).values;
  for (const KMeansUpdate update : {KMeansUpdate::batch, KMeansUpdate::iterative}) {
    for (const KMeansStart start : {KMeansStart::plus_plus, KMeansStart::one, KMeansStart::all}) {
      for (const KMeansChoice choice : {KMeansChoice::inertia, KMeansChoice::modularity}) {
        const KMeansResult result = kernel_kmeans(kernel, {.clusters = 2,
                                                           .update = update,
                                                           .start = start,
                                                           .choice = choice,
                                                           .adjacency = graph.adjacency});
        EXPECT_TRUE(result.converged);
        EXPECT_NEAR(result.inertia, inertia_of(kernel, result.labels), 1e-9);
        EXPECT_NEAR(result.modularity, modularity(graph.adjacency, result.labels), 1e-14);
        EXPECT_GT(adjusted_rand_index(result.labels, classes(graph, "faction")), 0.7);
      }
    }
  }
}

TEST(KernelKMeans, DependsOnTheSeedAlone) {
  const at::Tensor kernel =
      Proximity(random_weighted_graph(40, 6)).kernel({Family::heat}, 1.0).values;
  const KMeansResult first = kernel_kmeans(kernel, {.clusters = 4, .seed = 5});
  EXPECT_TRUE(first.labels.equal(kernel_kmeans(kernel, {.clusters = 4, .seed = 5}).labels));
  EXPECT_TRUE(
      first.labels.equal(kernel_kmeans(kernel.to(at::kFloat).to(at::kDouble).clone() * 0 + kernel,
                                       {.clusters = 4, .seed = 5})
                             .labels));
  // Of an asymmetric kernel the symmetric part counts.
  at::Tensor skew = at::rand({40, 40}, at::kDouble);
  skew = skew - skew.t();
  EXPECT_TRUE(first.labels.equal(kernel_kmeans(kernel + skew, {.clusters = 4, .seed = 5}).labels));
}

TEST(KernelKMeans, AsManyClustersAsNodes) {
  const at::Tensor kernel = Proximity(path_graph(5)).kernel({Family::forest}, 1.0).values;
  const KMeansResult result = kernel_kmeans(kernel, {.clusters = 5});
  EXPECT_TRUE(result.labels.equal(labels_of({0, 1, 2, 3, 4})));
  EXPECT_NEAR(result.inertia, 0, 1e-14);
}

TEST(KernelKMeans, RefusesBadInput) {
  const at::Tensor kernel = at::eye(4, at::kDouble);
  EXPECT_THAT(refusal([&] { kernel_kmeans(kernel, {.clusters = 5}); }),
              HasSubstr("1 <= clusters <= 4 (the nodes), got 5"));
  EXPECT_THAT(refusal([&] { kernel_kmeans(kernel, {.choice = KMeansChoice::modularity}); }),
              HasSubstr("adjacency"));
  EXPECT_THAT(refusal([&] { kernel_kmeans(kernel, {.restarts = 0}); }), HasSubstr("restarts >= 1"));
  EXPECT_THAT(refusal([&] { kernel_kmeans(kernel / 0, {}); }), HasSubstr("not finite"));
  // All nodes coincide: batch k-means puts them together and loses the other cluster.
  EXPECT_THAT(refusal([&] {
                kernel_kmeans(at::ones({4, 4}, at::kDouble),
                              {.clusters = 3, .start = KMeansStart::all});
              }),
              HasSubstr("lost one of the 3 clusters"));
}

TEST(SpectralClustering, SplitsTheKarateClub) {
  const Graph graph = zachary_karate_club();
  const at::Tensor kernel = Proximity(graph).kernel({Family::commute_time}).values;
  const KMeansResult result = spectral_clustering(kernel, {.clusters = 2});
  EXPECT_GT(adjusted_rand_index(result.labels, classes(graph, "faction")), 0.8);
}

TEST(Scores, AgreeWithHandComputation) {
  const at::Tensor a = labels_of({0, 0, 0, 1, 1, 1});
  const at::Tensor b = labels_of({5, 5, 9, 9, -1, -1});
  // Pairs together: both 2, first 6, second 3, all 15.
  EXPECT_NEAR(adjusted_rand_index(a, b), (2 - 6.0 * 3 / 15) / (4.5 - 6.0 * 3 / 15), 1e-15);
  EXPECT_NEAR(rand_index(a, b), 10.0 / 15, 1e-15);
  // I = ln 2 - (1/3) ln 2, H = ln 2 and ln 3.
  EXPECT_NEAR(normalized_mutual_information(a, b),
              2.0 / 3 * std::log(2) / std::sqrt(std::log(2) * std::log(3)), 1e-14);
  EXPECT_NEAR(misclassified_fraction(a, b), 1 - 4.0 / 6, 1e-15);
  EXPECT_NEAR(misclassified_fraction(b, a), 1 - 4.0 / 6, 1e-15);
}

TEST(Scores, TrivialPartitions) {
  const at::Tensor one = labels_of({3, 3, 3});
  const at::Tensor apart = labels_of({0, 1, 2});
  const at::Tensor mixed = labels_of({0, 0, 1});
  EXPECT_EQ(adjusted_rand_index(one, one), 1);
  EXPECT_EQ(adjusted_rand_index(apart, apart), 1);
  EXPECT_EQ(adjusted_rand_index(one, apart), 0);
  EXPECT_EQ(normalized_mutual_information(one, one), 1);
  EXPECT_EQ(normalized_mutual_information(one, mixed), 0);
  EXPECT_EQ(misclassified_fraction(one, one), 0);
  EXPECT_EQ(adjusted_rand_index(labels_of({7}), labels_of({1})), 1);
  EXPECT_EQ(rand_index(labels_of({7}), labels_of({1})), 1);
}

TEST(Scores, CountPairsBeyondThirtyTwoBits) {
  // 200000 nodes in two halves, one in a million pairs swapped: 2e10 pairs.
  at::Tensor truth = at::arange(200000, at::kLong).remainder(2);
  at::Tensor labels = truth.clone();
  labels[0] = 1;
  EXPECT_NEAR(adjusted_rand_index(labels, truth), 1 - 4.0 / 200000, 1e-9);
}

TEST(Scores, MatchingIsTheBestOfAllPermutations) {
  EXPECT_TRUE(rc::check("Hungarian matching against enumeration", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(1, 30);
    const auto classes = *rc::gen::inRange<std::int64_t>(1, 6);
    Random random(*rc::gen::arbitrary<std::uint32_t>());
    std::vector<std::int64_t> a, b;
    for (std::int64_t i = 0; i < n; ++i) {
      a.push_back(random.integer(classes));
      b.push_back(random.integer(5));
    }
    std::vector<std::int64_t> image = {0, 1, 2, 3, 4};
    std::int64_t best = 0;
    do {
      std::int64_t agreeing = 0;
      for (std::int64_t i = 0; i < n; ++i) agreeing += image[a[i]] == b[i];
      best = std::max(best, agreeing);
    } while (std::next_permutation(image.begin(), image.end()));
    const double expected = 1 - static_cast<double>(best) / static_cast<double>(n);
    RC_ASSERT(std::abs(misclassified_fraction(labels_of(a), labels_of(b)) - expected) < 1e-14);
  }));
}

TEST(Scores, ModularityOfTwoTriangles) {
  const Graph graph = graph_of(6, {{0, 1}, {1, 2}, {0, 2}, {3, 4}, {4, 5}, {3, 5}, {2, 3}});
  EXPECT_NEAR(modularity(graph.adjacency, labels_of({0, 0, 0, 1, 1, 1})), 12.0 / 14 - 0.5, 1e-15);
  EXPECT_NEAR(modularity(graph.adjacency, labels_of({0, 0, 0, 0, 0, 0})), 0, 1e-15);
  EXPECT_EQ(modularity(at::zeros({2, 2}, at::kDouble), labels_of({0, 1})), 0);
}

TEST(Scores, RefuseWhatAreNoLabels) {
  EXPECT_THAT(refusal([] { adjusted_rand_index(labels_of({0, 1}), labels_of({0})); }),
              HasSubstr("got 2 and 1"));
  EXPECT_THAT(refusal([] { rand_index(at::zeros({2}, at::kDouble), labels_of({0, 1})); }),
              HasSubstr("labels: expected integers"));
  EXPECT_THAT(refusal([] { rand_index(labels_of({0, 1}), at::zeros({2, 1}, at::kLong)); }),
              HasSubstr("truth: expected integers of shape [n]"));
  EXPECT_THAT(refusal([] { modularity(at::zeros({3, 3}, at::kDouble), labels_of({0, 1})); }),
              HasSubstr("[2, 2]"));
}

TEST(RejectCurve, CountsTiesHalf) {
  EXPECT_TRUE(rc::check("area is the probability that an intra-class pair is closer", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(4, 25);
    Random random(*rc::gen::arbitrary<std::uint32_t>());
    at::Tensor d = at::zeros({n, n}, at::kDouble);
    std::vector<std::int64_t> labels;
    for (std::int64_t i = 0; i < n; ++i) {
      labels.push_back(i % 2);
      for (std::int64_t j = 0; j < i; ++j) {
        const auto level = static_cast<double>(random.integer(5));  // five values: many ties
        d[i][j] = level;
        d[j][i] = level;
      }
    }
    double favourable = 0, count = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < i; ++j) {
        if (labels[i] != labels[j]) continue;
        for (std::int64_t k = 0; k < n; ++k) {
          for (std::int64_t l = 0; l < k; ++l) {
            if (labels[k] == labels[l]) continue;
            const double intra = entry(d, i, j), inter = entry(d, k, l);
            favourable += intra < inter ? 1 : intra == inter ? 0.5 : 0;
            count += 1;
          }
        }
      }
    }
    const RejectCurve curve = reject_curve(d, labels_of(labels));
    RC_ASSERT(std::abs(curve.area - favourable / count) < 1e-12);
    RC_ASSERT(curve.x.front() == 0);
    RC_ASSERT(curve.y.front() == 0);
    RC_ASSERT(curve.x.back() == 1);
    RC_ASSERT(curve.y.back() == 1);
    RC_ASSERT(curve.x.size() <= 6u);
    RC_ASSERT(std::is_sorted(curve.x.begin(), curve.x.end()));
    RC_ASSERT(std::is_sorted(curve.y.begin(), curve.y.end()));
  }));
}

TEST(RejectCurve, PerfectAndRefused) {
  at::Tensor d = at::ones({4, 4}, at::kDouble);
  for (const auto& [i, j] : {std::pair{0, 1}, {1, 0}, {2, 3}, {3, 2}}) d[i][j] = 0.5;
  EXPECT_EQ(reject_curve(d, labels_of({0, 0, 1, 1})).area, 1);
  EXPECT_EQ(reject_curve(d, labels_of({0, 1, 0, 1})).area, 0.25);
  EXPECT_THAT(refusal([&] { reject_curve(d, labels_of({0, 0, 0, 0})); }),
              HasSubstr("between classes"));
  EXPECT_THAT(refusal([&] { reject_curve(d, labels_of({0, 1, 2, 3})); }),
              HasSubstr("within a class"));
  EXPECT_THAT(refusal([&] { reject_curve(d, labels_of({0, 1})); }), HasSubstr("[2, 2]"));
}

TEST(Copeland, CountsWinsMinusLosses) {
  EXPECT_EQ(copeland_scores({{0.9, 0.5, 0.5}, {0.1, 0.2, 0.3}}),
            (std::vector<std::int64_t>{0, -1, 1}));
  EXPECT_TRUE(copeland_scores({}).empty());
  EXPECT_THAT(refusal([] { copeland_scores({{1, 2}, {1}}); }), HasSubstr("2 competitors"));
}

}  // namespace
}  // namespace einkorn::graph_proximity
