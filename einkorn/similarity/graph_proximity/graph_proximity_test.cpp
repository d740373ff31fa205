#include "einkorn/similarity/graph_proximity/graph_proximity.h"

#include <rapidcheck.h>

#include "einkorn/similarity/graph_proximity/graph_algorithms_internal.h"
#include "einkorn/similarity/graph_proximity/graph_test_internal.h"

namespace einkorn::graph_proximity {
namespace {

using testing::HasSubstr;

at::Tensor distance_of(const Graph& graph, const std::string& name,
                       std::optional<double> parameter = std::nullopt) {
  return Proximity(graph).distance(parse_measure(name), parameter);
}

constexpr double path_radius = 1.618033988749895;  // of the path with 4 nodes

struct PathCase {
  const char* measure;
  std::optional<double> parameter;
  double d12, d23, d13, d14;
};

// Distances on the path 1-2-3-4: values of the published chain, with the factor 1/2.
class PathOfFour : public testing::TestWithParam<PathCase> {};

TEST_P(PathOfFour, HasThePublishedDistances) {
  const PathCase& known = GetParam();
  const at::Tensor d = distance_of(path_graph(4), known.measure, known.parameter);
  EXPECT_NEAR(entry(d, 0, 1), known.d12, 2e-11);
  EXPECT_NEAR(entry(d, 1, 2), known.d23, 2e-11);
  EXPECT_NEAR(entry(d, 0, 2), known.d13, 2e-11);
  EXPECT_NEAR(entry(d, 0, 3), known.d14, 2e-11);
  EXPECT_TRUE(d.equal(d.t()));
  EXPECT_EQ(d.diagonal().abs().max().item<double>(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Published, PathOfFour,
    testing::Values(
        PathCase{"pWalk", 1 / (1 + path_radius), 0.779508497187, 0.809016994375, 1.08852549156,
                 1.11803398875},
        PathCase{"Walk", 1 / (1 + path_radius), 0.868764403815, 0.804718956217, 1.67348336003,
                 2.54224776385},
        PathCase{"For", 1.0, 0.309523809524, 0.285714285714, 0.452380952381, 0.571428571429},
        PathCase{"logFor", 2.0, 0.537811385222, 0.60613580357, 1.14394718879, 1.68175857401},
        PathCase{"Comm", 1.0, 0.531258131899, 0.656268594976, 1.27228605342, 1.3972965165},
        PathCase{"logComm", 1.0, 0.312046613428, 0.349065774436, 1.08398344633, 2.10756083834},
        PathCase{"Heat", 1.0, 0.122470628208, 0.109605973179, 0.307649743604, 0.479964203971},
        PathCase{"logHeat", 1.0, 0.310483780555, 0.391071526717, 1.2261728687, 2.48032641437},
        PathCase{"CT", std::nullopt, 0.5, 0.5, 1, 1.5},
        PathCase{"SCT", 2.0, 0.275080681253, 0.476013073992, 0.751093755245, 0.921051394598},
        PathCase{"CCT", std::nullopt, 0.25, 0.25, 0.25, 0.5},
        PathCase{"SCCT", 2.0, 0.547076013169, 0.68603494231, 0.547076013169, 0.935695535977},
        PathCase{"RSP", 1.0, 1.0403889825418, 1.1451577669915, 2.1855467495333, 3.2259357320752},
        PathCase{"FE", 1.0, 1.3280914501641, 1.6230812603997, 2.9511727105638, 4.2792641607279},
        PathCase{"SP", std::nullopt, 1, 1, 2, 3}),
    [](const auto& given) { return std::string(given.param.measure); });

TEST(GraphProximity, PathOfFourAtASmallInverseTemperature) {
  // Ten decimals are given, the last of them cut off rather than rounded.
  const at::Tensor rsp = distance_of(path_graph(4), "RSP", 0.1);
  EXPECT_NEAR(entry(rsp, 0, 1), 1.89790210015, 6e-11);
  EXPECT_NEAR(entry(rsp, 1, 2), 2.38618821275, 6e-11);
  EXPECT_NEAR(entry(rsp, 0, 2), 4.28409031295, 6e-11);
  EXPECT_NEAR(entry(rsp, 0, 3), 6.18199241315, 6e-11);
  const at::Tensor fe = distance_of(path_graph(4), "FE", 0.1);
  EXPECT_NEAR(entry(fe, 0, 1), 2.3383121512, 1e-10);
  EXPECT_NEAR(entry(fe, 1, 2), 2.6658949338, 1e-10);
  EXPECT_NEAR(entry(fe, 0, 2), 5.0042070850, 1e-10);
  EXPECT_NEAR(entry(fe, 0, 3), 7.3425192362, 1e-10);
}

TEST(GraphProximity, PathOfFourKernels) {
  const Proximity proximity(path_graph(4));
  const auto kernel = [&](const char* name, std::optional<double> parameter = std::nullopt) {
    return proximity.kernel(parse_measure(name), parameter).values;
  };
  EXPECT_NEAR(proximity.spectral_radius(), path_radius, 1e-15);
  EXPECT_NEAR(entry(kernel("pWalk", 1 / (1 + path_radius)), 0, 0), 1.21352549156, 1e-11);
  EXPECT_NEAR(entry(kernel("pWalk", 1 / (1 + path_radius)), 0, 3), 0.0954915028125, 1e-12);
  EXPECT_NEAR(entry(kernel("For", 1.0), 0, 0), 13.0 / 21, 1e-15);
  EXPECT_NEAR(entry(kernel("For", 1.0), 0, 3), 1.0 / 21, 1e-15);
  EXPECT_NEAR(entry(kernel("logFor", 2.0), 0, 0), -0.681451140797, 1e-12);
  EXPECT_NEAR(entry(kernel("Comm", 1.0), 0, 0), 1.59060975641, 1e-11);
  EXPECT_NEAR(entry(kernel("Comm", 1.0), 0, 3), 0.193313239906, 1e-12);
  EXPECT_NEAR(entry(kernel("Heat", 1.0), 0, 3), 0.0438517188239, 1e-12);
  EXPECT_NEAR(entry(kernel("CT"), 0, 0), 7.0 / 8, 1e-14);
  EXPECT_NEAR(at::std(kernel("CT"), false).item<double>(), 0.4506939094329985, 1e-14);
  EXPECT_NEAR(entry(kernel("CCT"), 0, 0), 9.0 / 32, 1e-14);
  EXPECT_NEAR(at::std(kernel("CCT"), false).item<double>(), 0.14320549046736997, 1e-14);
}

struct NormalizedCase {
  const char* measure;
  std::optional<double> parameter;
  bool root;  // the square root of the distance
  double d12, d23, d13, d14;
};

// arXiv 1305.7514, figure 1: distances scaled so that d12 + d23 + d34 = 3.
class NormalizedPath : public testing::TestWithParam<NormalizedCase> {};

TEST_P(NormalizedPath, HasThePublishedDistances) {
  const NormalizedCase& known = GetParam();
  at::Tensor d = distance_of(path_graph(4), known.measure, known.parameter);
  if (known.root) d = d.sqrt();
  d = d * (3 / (entry(d, 0, 1) + entry(d, 1, 2) + entry(d, 2, 3)));
  EXPECT_NEAR(entry(d, 0, 1), known.d12, 1e-3);
  EXPECT_NEAR(entry(d, 1, 2), known.d23, 1e-3);
  EXPECT_NEAR(entry(d, 0, 2), known.d13, 1e-3);
  EXPECT_NEAR(entry(d, 0, 3), known.d14, 1e-3);
}

// Chebotarev's parametrisation of walks: t = 1 / (1/alpha + rho).
double walk_parameter(double alpha) {
  return 1 / (1 / alpha + path_radius);
}

INSTANTIATE_TEST_SUITE_P(
    Published, NormalizedPath,
    testing::Values(NormalizedCase{"SP", std::nullopt, false, 1, 1, 2, 3},
                    NormalizedCase{"Walk", walk_parameter(1), false, 1.025, 0.950, 1.975, 3},
                    NormalizedCase{"logFor", 2.0, false, 0.959, 1.081, 2.040, 3},
                    NormalizedCase{"For", 1.0, false, 1.026, 0.947, 1.500, 1.895},
                    NormalizedCase{"Comm", 1.0, true, 0.964, 1.072, 1.492, 1.564},
                    NormalizedCase{"pWalk", walk_parameter(4.5), false, 1.025, 0.950, 1.541, 1.466},
                    NormalizedCase{"pWalk", walk_parameter(1), false, 0.988, 1.025, 1.379, 1.416}));

TEST(GraphProximity, PawGraphRatiosGoFromShortestPathsToCommuteTimes) {
  const auto ratio = [](const char* name, std::optional<double> parameter = std::nullopt) {
    const at::Tensor d = distance_of(paw_graph(), name, parameter);
    return entry(d, 0, 1) / entry(d, 1, 2);
  };
  EXPECT_NEAR(ratio("CT"), 1.5, 1e-13);
  EXPECT_EQ(ratio("SP"), 1);
  EXPECT_NEAR(ratio("logFor", 500.0), 1.4975, 5e-5);
  EXPECT_NEAR(ratio("logFor", 0.01), 1.0011, 5e-5);
  EXPECT_NEAR(ratio("RSP", 1e-4), 1.4992006, 5e-8);
  EXPECT_NEAR(ratio("RSP", 20.0), 0.999999999, 1e-9);
  EXPECT_NEAR(ratio("FE", 1e-4), 1.4996002, 5e-8);
  EXPECT_NEAR(ratio("FE", 20.0), 0.983414262, 1e-9);
}

TEST(GraphProximity, PawGraphAtInverseTemperatureOne) {
  const at::Tensor rsp = distance_of(paw_graph(), "RSP", 1.0);
  EXPECT_NEAR(entry(rsp, 0, 1), 1.0651092102722, 1e-12);
  EXPECT_NEAR(entry(rsp, 1, 2), 1.2629599220245, 1e-12);
  EXPECT_NEAR(entry(rsp, 0, 2), 2.3280691322967, 1e-12);
  const at::Tensor fe = distance_of(paw_graph(), "FE", 1.0);
  EXPECT_NEAR(entry(fe, 0, 1), 1.5208728316740, 1e-12);
  EXPECT_NEAR(entry(fe, 1, 2), 1.6747894353271, 1e-12);
  EXPECT_NEAR(entry(fe, 0, 2), 3.1956622670012, 1e-12);
}

TEST(GraphProximity, ZacharysKarateClub) {
  const Proximity proximity(zachary_karate_club());
  EXPECT_NEAR(proximity.spectral_radius(), 6.725697727631732, 1e-13);
  const at::Tensor resistance = proximity.resistance();
  EXPECT_NEAR(entry(resistance, 0, 33), 0.2538022983367, 1e-12);
  EXPECT_NEAR(entry(resistance, 0, 1), 0.1930645172287, 1e-12);
  const at::Tensor communicability = proximity.kernel(parse_measure("Comm"), 0.5).values;
  EXPECT_NEAR(entry(communicability, 0, 0), 5.926582401325, 1e-11);
  EXPECT_NEAR(entry(communicability, 0, 33), 2.119524891446, 1e-11);
  EXPECT_NEAR(entry(communicability, 16, 25), 0.01025014338563, 1e-13);
  const at::Tensor distance = proximity.distance(parse_measure("logComm"), 0.5);
  EXPECT_NEAR(entry(distance, 0, 33), 1.0443109103, 1e-10);
  EXPECT_NEAR(entry(distance, 16, 26), 5.58688129547, 1e-10);
  EXPECT_NEAR(entry(distance, 0, 1), 0.261245243203, 1e-11);
}

TEST(GraphProximity, ParametersAreSharedOnOneAxis) {
  const Proximity proximity(zachary_karate_club());
  const auto at_half = [&](const char* name) {
    return proximity.parameter(parse_measure(name).family, 0.5);
  };
  EXPECT_NEAR(*at_half("Walk"), 0.5 / 6.725697727631732, 1e-10);
  EXPECT_NEAR(*at_half("logComm"), 0.5, 1e-9);
  EXPECT_NEAR(*at_half("SCCT"), 0.5, 1e-9);
  EXPECT_NEAR(*proximity.parameter(Family::heat, 0.75), 1.5, 1e-8);
  EXPECT_NEAR(*proximity.parameter(Family::free_energy, 0.75), 1.0 / 3, 1e-9);
  EXPECT_EQ(*at_half("SP-CT"), 0.5);
  EXPECT_EQ(*at_half("logPPR"), 0.5);
  EXPECT_FALSE(at_half("CT").has_value());
  EXPECT_FALSE(at_half("SP").has_value());
  EXPECT_THAT(parameter_grid(3), testing::ElementsAre(0.25, 0.5, 0.75));
}

TEST(GraphProximity, NamesAreReadBack) {
  EXPECT_EQ(all_measures().size(), 28u);
  for (const Measure& measure : all_measures()) {
    EXPECT_EQ(parse_measure(to_string(measure)), measure);
  }
  EXPECT_EQ(paper_measures().size(), 13u);
  EXPECT_EQ(logarithm(parse_measure("pWalk")), parse_measure("Walk"));
  EXPECT_THAT(refusal([] { parse_measure("logcomm"); }), HasSubstr("did you mean 'logComm'"));
  EXPECT_THAT(refusal([] { logarithm(parse_measure("RSP")); }),
              HasSubstr("RSP: has no logarithmic version"));
  EXPECT_THAT(refusal([] { logarithm(parse_measure("logFor")); }), HasSubstr("already"));
}

// What the definitions say, computed without any of the shortcuts.
at::Tensor definition(const Graph& graph, Family family, double t) {
  const at::Tensor a = graph.adjacency;
  const at::Tensor d = a.sum(1);
  const at::Tensor identity = at::eye(a.size(0), a.options());
  const at::Tensor l = at::diag(d) - a;
  const at::Tensor p = a / d.unsqueeze(1);
  const at::Tensor scale = at::diag(d.rsqrt());
  switch (family) {
    case Family::walk:
      return at::linalg_inv(identity - t * a);
    case Family::forest:
      return at::linalg_inv(identity + t * l);
    case Family::communicability:
      return at::linalg_matrix_exp(t * a);
    case Family::heat:
      return at::linalg_matrix_exp(-t * l);
    case Family::normalized_heat:
      return at::linalg_matrix_exp(-t * at::matmul(at::matmul(scale, l), scale));
    case Family::pagerank:
      return at::linalg_inv(identity - t * p);
    case Family::modified_pagerank:
      return at::linalg_inv(at::diag(d) - t * a);
    case Family::heat_pagerank:
      return at::linalg_matrix_exp(-t * (identity - p));
    case Family::absorption:
      return at::linalg_pinv(t * a + l);
    case Family::commute_time:
      return at::linalg_pinv(l);
    case Family::corrected_commute_time: {
      const at::Tensor center = identity - 1.0 / static_cast<double>(a.size(0));
      const at::Tensor m = at::matmul(at::matmul(scale, a - at::outer(d, d) / d.sum()), scale);
      const at::Tensor inner = at::matmul(at::matmul(m, at::linalg_pinv(identity - m)), m);
      const at::Tensor outer = at::matmul(scale, center);
      return at::matmul(at::matmul(outer.t(), inner), outer);
    }
    default: {  // double_factorial
      at::Tensor power = identity;
      at::Tensor sum = at::zeros_like(a);
      for (int k = 0; k < 30; ++k) {
        double factorial = 1;
        for (int j = k; j > 1; j -= 2) factorial *= j;
        sum += power / factorial;
        power = at::matmul(power, t * a);
      }
      return sum;
    }
  }
}

class EveryFamily : public testing::TestWithParam<const char*> {};

TEST_P(EveryFamily, FollowsItsDefinition) {
  const Measure measure = parse_measure(GetParam());
  const bool constant =
      measure.family == Family::commute_time || measure.family == Family::corrected_commute_time;
  for (const std::int64_t n : {2, 3, 7, 16, 33}) {
    const Graph graph = random_weighted_graph(n, 7 * static_cast<std::uint64_t>(n));
    const Proximity proximity(graph);
    for (const double s : {0.1, 0.5, 0.9}) {
      const auto t = proximity.parameter(measure.family, s);
      const at::Tensor expected = definition(graph, measure.family, t.value_or(0));
      const at::Tensor values = proximity.kernel(measure, t).values;
      const double scale = expected.abs().max().item<double>();
      EXPECT_LT(largest_difference(values, expected), 1e-11 * scale + 1e-13)
          << "n=" << n << " s=" << s;
      if (measure.family == Family::absorption && *t >= 1) continue;
      if (constant) break;
      const at::Tensor logs = proximity.kernel(logarithm(measure), t).values;
      // matrix_exp and inv are accurate to the scale of the largest entry.
      const at::Tensor relative = (logs.exp() - expected).abs();
      EXPECT_LT(relative.max().item<double>(), 1e-10 * scale + 1e-13) << "n=" << n << " s=" << s;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Plain, EveryFamily,
                         testing::Values("pWalk", "For", "Comm", "Heat", "CT", "CCT", "NHeat",
                                         "PPR", "ModifPPR", "HeatPR", "Abs", "DF"));

TEST(GraphProximity, AbsorptionBeyondTheMMatrices) {
  const Graph graph = random_weighted_graph(12, 3);
  const Proximity proximity(graph);
  for (const double t : {0.3, 1.0, 1.7, 2.0, 3.5}) {
    EXPECT_LT(largest_difference(proximity.kernel({Family::absorption}, t).values,
                                 definition(graph, Family::absorption, t)),
              1e-9)
        << t;
  }
  // A bipartite graph has the eigenvalue -1 of N, so that t = 2 is singular.
  EXPECT_LT(largest_difference(Proximity(path_graph(4)).kernel({Family::absorption}, 2.0).values,
                               definition(path_graph(4), Family::absorption, 2)),
            1e-12);
  EXPECT_THAT(refusal([&] { proximity.kernel({Family::absorption, true}, 1.5); }),
              HasSubstr("outside 0 < t < 1"));
}

TEST(GraphProximity, ForestAndHeatAreDoublyStochastic) {
  EXPECT_TRUE(rc::check("rows and columns sum to 1, entries are not negative", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(2, 40);
    const auto seed = *rc::gen::arbitrary<std::uint32_t>();
    const double t = 0.01 * *rc::gen::inRange(1, 2000);
    const Proximity proximity(random_weighted_graph(n, seed));
    for (const Family family : {Family::forest, Family::heat}) {
      const at::Tensor kernel = proximity.kernel({family}, t).values;
      RC_ASSERT((kernel.sum(0) - 1).abs().max().item<double>() < 1e-11);
      RC_ASSERT((kernel.sum(1) - 1).abs().max().item<double>() < 1e-11);
      RC_ASSERT(kernel.min().item<double>() > -1e-14);
    }
  }));
}

// i, j, k such that every way from i to k leads through j, judged by taking j out.
bool separates(const Graph& graph, std::int64_t i, std::int64_t j, std::int64_t k) {
  at::Tensor without = graph.adjacency.clone();
  without[j].zero_();
  without.select(1, j).zero_();
  const auto component = connected_components(without).component;
  return component[i] != component[k];
}

TEST(GraphProximity, WalkAndForestLogarithmsAreCutpointAdditive) {
  EXPECT_TRUE(rc::check("d_ij + d_jk >= d_ik, with equality iff j separates i from k", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(3, 12);
    const auto seed = *rc::gen::arbitrary<std::uint32_t>();
    const double s = 0.05 * *rc::gen::inRange(1, 20);
    const Graph graph = random_weighted_graph(n, seed);
    const Proximity proximity(graph);
    for (const Family family : {Family::walk, Family::forest}) {
      const at::Tensor d = proximity.distance({family, true}, proximity.parameter(family, s));
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          for (std::int64_t k = 0; k < n; ++k) {
            if (i == j || j == k || i == k) continue;
            const double excess = entry(d, i, j) + entry(d, j, k) - entry(d, i, k);
            RC_ASSERT(excess > -1e-11);
            RC_ASSERT(separates(graph, i, j, k) == (excess < 1e-9));
          }
        }
      }
    }
  }));
}

TEST(GraphProximity, HeatAndCommunicabilityLogarithmsAreNotAdditive) {
  for (const char* name : {"logHeat", "logComm"}) {
    const at::Tensor d = distance_of(path_graph(4), name, 1.0);
    EXPECT_GT(std::abs(entry(d, 0, 1) + entry(d, 1, 2) - entry(d, 0, 2)), 0.1) << name;
  }
}

TEST(GraphProximity, RandomizedPathsAndResistancesAreMetrics) {
  EXPECT_TRUE(rc::check("triangle inequality", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(3, 14);
    const auto seed = *rc::gen::arbitrary<std::uint32_t>();
    const Proximity proximity(random_weighted_graph(n, seed));
    // FE and resistance are metrics; RSP is not in general, and is not claimed to be.
    for (const at::Tensor& d : {proximity.distance({Family::free_energy}, 0.7),
                                proximity.resistance(), proximity.shortest_paths()}) {
      const at::Tensor through = d.unsqueeze(2) + d.unsqueeze(0);  // [i, j, k]: d_ij + d_jk
      RC_ASSERT((through - d.unsqueeze(1)).min().item<double>() > -1e-10);
    }
  }));
}

TEST(GraphProximity, LimitsOfRandomizedPaths) {
  const Graph graph = random_weighted_graph(15, 5);
  const Proximity proximity(graph);
  const at::Tensor shortest = proximity.shortest_paths();
  const at::Tensor commute = proximity.resistance() * graph.adjacency.sum();
  for (const Family family : {Family::randomized_shortest_path, Family::free_energy}) {
    // Ties aside, RSP is within exp(-beta gap) of the shortest path and FE within O(1/beta).
    EXPECT_LT(largest_difference(proximity.distance({family}, 1e7), shortest), 1e-5);
    const at::Tensor hot = proximity.distance({family}, 1e-6);
    const double ratio = entry(hot, 0, 1) / entry(commute, 0, 1);
    EXPECT_LT(largest_difference(hot, commute * ratio), 1e-4 * hot.max().item<double>());
  }
}

TEST(GraphProximity, MixtureEndsAreItsParts) {
  const Graph graph = random_weighted_graph(10, 8);
  const Proximity normalized(graph);
  const at::Tensor resistance = normalized.resistance();
  const at::Tensor shortest = normalized.shortest_paths();
  const Family mixture = Family::shortest_path_commute_time;
  EXPECT_LT(largest_difference(normalized.distance({mixture}, 0.0),
                               resistance / at::std(resistance, false)),
            1e-12);
  EXPECT_LT(
      largest_difference(normalized.distance({mixture}, 1.0), shortest / at::std(shortest, false)),
      1e-12);
  const Proximity raw(graph, {.normalize_mixture = false});
  EXPECT_LT(largest_difference(raw.distance({mixture}, 0.25), 0.75 * resistance + 0.25 * shortest),
            1e-12);
}

TEST(GraphProximity, DistancesByDefinitionHaveTheCentredKernel) {
  const Proximity proximity(zachary_karate_club());
  const at::Tensor kernel = proximity.kernel({Family::free_energy}, 1.0).values;
  EXPECT_LT(kernel.sum(0).abs().max().item<double>(), 1e-11);
  EXPECT_LT(largest_difference(distance_from_kernel(kernel),
                               proximity.distance({Family::free_energy}, 1.0) / 2),
            1e-12);
}

TEST(GraphProximity, RenumberingNodesRenumbersEverything) {
  const Graph graph = random_weighted_graph(20, 11);
  const std::vector<std::int64_t> order = Random(4).permutation(20);
  const at::Tensor index = at::tensor(order, at::kLong);
  const Proximity first(graph);
  const Proximity second(subgraph(graph, order));
  for (const Measure& measure : all_measures()) {
    const auto parameter = first.parameter(measure.family, 0.4);
    const at::Tensor d = first.distance(measure, parameter);
    EXPECT_LT(largest_difference(d.index_select(0, index).index_select(1, index),
                                 second.distance(measure, parameter)),
              2e-8)  // what a spectral sum may be off by
        << to_string(measure);
  }
}

TEST(GraphProximity, SelfLoopsCountOnceInDegrees) {
  at::Tensor a = path_graph(3).adjacency.clone();
  a[1][1] = 2;
  const Graph graph = graph_from_adjacency(a, {.self_loops = SelfLoops::keep});
  const Proximity looped(graph);
  const Proximity plain(path_graph(3));
  // L does not change, P does.
  EXPECT_LT(largest_difference(looped.kernel({Family::heat}, 1.0).values,
                               plain.kernel({Family::heat}, 1.0).values),
            1e-14);
  for (const Family family :
       {Family::pagerank, Family::walk, Family::heat_pagerank, Family::absorption}) {
    EXPECT_LT(
        largest_difference(looped.kernel({family}, 0.2).values, definition(graph, family, 0.2)),
        1e-13);
  }
}

TEST(GraphProximity, SinglePrecisionIsForPlainKernels) {
  const Graph graph = zachary_karate_club();
  const Proximity single(graph, {.single_precision = true});
  const Proximity full(graph);
  for (const Measure& measure : all_measures()) {
    const auto parameter = full.parameter(measure.family, 0.5);
    if (measure.logarithmic || is_distance(measure)) {
      EXPECT_THAT(refusal([&] { single.kernel(measure, parameter); }),
                  HasSubstr("double precision"));
      continue;
    }
    const at::Tensor values = single.kernel(measure, parameter).values;
    EXPECT_EQ(values.scalar_type(), at::kFloat);
    const at::Tensor expected = full.kernel(measure, parameter).values;
    EXPECT_LT(largest_difference(values, expected), 2e-5 * expected.abs().max().item<double>())
        << to_string(measure);
  }
}

TEST(GraphProximity, OverflowingCommunicabilityIsScaled) {
  const Graph graph = zachary_karate_club();
  const Kernel kernel = Proximity(graph).kernel(parse_measure("Comm"), 200.0);
  EXPECT_NEAR(kernel.log_scale, 200 * 6.725697727631732, 1e-9);
  EXPECT_TRUE(at::isfinite(kernel.values).all().item<bool>());
  const at::Tensor logs = Proximity(graph).kernel(parse_measure("logComm"), 200.0).values;
  EXPECT_LT(largest_difference(kernel.values.log() + kernel.log_scale, logs), 1e-9);
}

TEST(GraphProximity, SweepVisitsEveryPointOnce) {
  const Proximity proximity(path_graph(5));
  const std::vector<Measure> measures = {parse_measure("logComm"), parse_measure("CT")};
  std::vector<std::string> visited;
  sweep(proximity, measures, {0.25, 0.5}, [&](const SweepPoint& point) {
    visited.push_back(fmt::format("{} {} {}", to_string(point.measure), point.index, point.s));
    EXPECT_LT(
        largest_difference(point.distance, proximity.distance(point.measure, point.parameter)),
        1e-15);
  });
  EXPECT_THAT(visited,
              testing::ElementsAre("logComm 0 0.25", "logComm 1 0.5", "CT 0 0.25", "CT 1 0.5"));
}

TEST(GraphProximity, RefusesParametersOutsideTheirRange) {
  const Proximity proximity(zachary_karate_club());
  const auto message = [&](const char* name, std::optional<double> parameter) {
    return refusal([&] { proximity.kernel(parse_measure(name), parameter); });
  };
  EXPECT_THAT(message("Walk", 0.2), HasSubstr("Walk: t = 0.2 is outside 0 < t < 1/rho = 0.148683"));
  EXPECT_THAT(message("pWalk", 0.1486835), HasSubstr("rho = 6.7256977"));
  EXPECT_THAT(message("Comm", -1.0), HasSubstr("Comm: t = -1 is outside t > 0"));
  EXPECT_THAT(message("Comm", INFINITY), HasSubstr("t = inf is outside t > 0"));
  EXPECT_THAT(message("Heat", NAN), HasSubstr("t = nan is outside t > 0"));
  EXPECT_THAT(message("RSP", 0.0), HasSubstr("RSP: beta = 0 is outside beta > 0"));
  EXPECT_THAT(message("SP-CT", 1.5), HasSubstr("SP-CT: lambda = 1.5 is outside 0 <= lambda <= 1"));
  EXPECT_THAT(message("PPR", 1.0), HasSubstr("PPR: alpha = 1 is outside 0 < alpha < 1"));
  EXPECT_THAT(message("SCT", std::nullopt), HasSubstr("SCT: needs its parameter, a > 0"));
  EXPECT_THAT(message("CT", 1.0), HasSubstr("CT: has no parameter, got 1"));
  EXPECT_THAT(refusal([&] { proximity.parameter(Family::heat, 1.0); }), HasSubstr("(0, 1)"));
}

TEST(GraphProximity, RefusesWhatDisconnectedGraphsDoNotHave) {
  const Graph graph = graph_of(5, {{0, 1}, {2, 3}, {3, 4}});
  const Proximity proximity(graph);
  for (const Measure& measure : all_measures()) {
    const auto parameter = proximity.parameter(measure.family, 0.3);
    EXPECT_THAT(refusal([&] { proximity.distance(measure, parameter); }),
                HasSubstr("2 connected components, and between two of them ('0' and '2')"));
    if (measure.logarithmic || is_distance(measure)) {
      EXPECT_THAT(refusal([&] { proximity.kernel(measure, parameter); }), HasSubstr("2 connected"));
    } else {
      const at::Tensor values = proximity.kernel(measure, parameter).values;
      EXPECT_TRUE(at::isfinite(values).all().item<bool>()) << to_string(measure);
    }
  }
  // The kernels of each part alone.
  for (const char* name : {"CT", "Comm", "For", "PPR"}) {
    const Measure measure = parse_measure(name);
    const auto parameter = proximity.parameter(measure.family, 0.3);
    const at::Tensor whole = proximity.kernel(measure, parameter).values;
    const at::Tensor part = Proximity(subgraph(graph, {2, 3, 4})).kernel(measure, parameter).values;
    EXPECT_LT(largest_difference(whole.slice(0, 2).slice(1, 2), part), 1e-13) << name;
    EXPECT_LT(whole.slice(0, 0, 2).slice(1, 2).abs().max().item<double>(), 1e-14) << name;
  }
  const Proximity largest(largest_component(graph));
  EXPECT_EQ(largest.graph().nodes, (std::vector<std::string>{"2", "3", "4"}));
}

TEST(GraphProximity, RefusesToDivideByTheDegreeOfAnIsolatedNode) {
  const Proximity proximity(graph_of(3, {{0, 1}}));
  for (const char* name : {"NHeat", "PPR", "ModifPPR", "HeatPR", "CCT", "SCCT"}) {
    const Measure measure = parse_measure(name);
    EXPECT_THAT(
        refusal([&] { proximity.kernel(measure, proximity.parameter(measure.family, 0.5)); }),
        HasSubstr("node '2' has no edges"));
  }
  for (const char* name : {"pWalk", "For", "Comm", "Heat", "CT", "SCT", "Abs", "DF"}) {
    const Measure measure = parse_measure(name);
    const at::Tensor values =
        proximity.kernel(measure, proximity.parameter(measure.family, 0.5)).values;
    EXPECT_TRUE(at::isfinite(values).all().item<bool>()) << name;
  }
}

TEST(GraphProximity, ASingleNode) {
  const Proximity proximity(graph_of(1, {}));
  EXPECT_EQ(entry(proximity.kernel({Family::forest}, 1.0).values, 0, 0), 1);
  EXPECT_EQ(entry(proximity.distance({Family::shortest_path}), 0, 0), 0);
  EXPECT_THAT(refusal([&] { proximity.kernel({Family::sigmoid_commute_time}, 1.0); }),
              HasSubstr("all entries"));
}

TEST(GraphProximity, LogarithmsOfGivenKernels) {
  const at::Tensor kernel = at::full({2, 2}, 0.5, at::kDouble);
  EXPECT_NEAR(entry(elementwise_log(kernel), 0, 1), -0.6931471805599453, 1e-15);
  kernel[1][0] = 0;
  EXPECT_THAT(refusal([&] { elementwise_log(kernel); }), HasSubstr("entry [1, 0]"));
  EXPECT_EQ(entry(kernel, 0, 1), 0.5);  // not changed in place
}

TEST(GraphProximity, SpectralRadiusByLanczos) {
  // Larger than the size up to which eigenvalues are computed directly.
  const Graph graph = random_weighted_graph(300, 1);
  EXPECT_NEAR(spectral_radius(graph.adjacency),
              at::linalg_eigvalsh(graph.adjacency)[-1].item<double>(), 1e-12);
  // A path has eigenvalues 2 cos(pi k / (n + 1)), close together at the top.
  EXPECT_NEAR(spectral_radius(path_graph(400).adjacency), 2 * std::cos(M_PI / 401), 1e-12);
  EXPECT_EQ(spectral_radius(at::zeros({300, 300}, at::kDouble)), 0);
}

}  // namespace
}  // namespace einkorn::graph_proximity
