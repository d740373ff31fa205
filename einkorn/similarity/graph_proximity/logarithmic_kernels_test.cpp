// Accuracy of the logarithmic kernels where spectral sums, and then double precision, give up.
#include <rapidcheck.h>

#include "einkorn/similarity/graph_proximity/graph_test_internal.h"
#include "einkorn/similarity/graph_proximity/nonnegative_internal.h"

namespace einkorn::graph_proximity {
namespace {

using testing::HasSubstr;

double log_modified_bessel(double order, double x) {
  // ln I_order(x) = ln sum_m (x/2)^(2m + order) / (m! Gamma(m + order + 1)), all terms positive.
  double largest = -INFINITY;
  std::vector<double> terms;
  for (int m = 0; m < 200; ++m) {
    terms.push_back((2 * m + order) * std::log(x / 2) - std::lgamma(m + 1.0) -
                    std::lgamma(m + order + 1.0));
    largest = std::max(largest, terms.back());
  }
  double sum = 0;
  for (const double term : terms) sum += std::exp(term - largest);
  return largest + std::log(sum);
}

TEST(LogarithmicKernels, HeatOnALongPathDoesNotUnderflow) {
  const Kernel kernel = Proximity(path_graph(200)).kernel(parse_measure("logHeat"), 1.0);
  EXPECT_EQ(kernel.path, Path::logarithmic);
  EXPECT_NEAR(entry(kernel.values, 0, 199), -859.9, 0.05);
  // By reflection at the ends, exp(-L)[0, 199] = 2 e^-2 sum_k I_(199 + 400 k)(2) + I_(200 + 400
  // k)(2)... of which the first term and its neighbour hold all digits: e^-2 (I_199 + I_200 + I_200
  // + I_201)(2).
  const double first = log_modified_bessel(199, 2.0);
  const double rest = 2 * std::exp(log_modified_bessel(200, 2.0) - first) +
                      std::exp(log_modified_bessel(201, 2.0) - first);
  EXPECT_NEAR(entry(kernel.values, 0, 199), -2 + first + std::log1p(rest), 1e-10);
}

// ln exp(tA) between the ends of a path with n nodes, which is a walk on all integers reflected
// with negative sign at 0 and n + 1: sum_k I_(1 - n + 2k(n + 1)) - I_(1 + n + 2k(n + 1)) of 2t.
double log_communicability_between_ends(double n, double t) {
  const double first = log_modified_bessel(n - 1, 2 * t);
  double sum = 0;
  for (int k = -5; k <= 5; ++k) {
    const double turn = 2 * k * (n + 1);
    sum += std::exp(log_modified_bessel(std::abs(1 - n + turn), 2 * t) - first) -
           std::exp(log_modified_bessel(std::abs(1 + n + turn), 2 * t) - first);
  }
  return first + std::log(sum);
}

TEST(LogarithmicKernels, CommunicabilityOnALongPathDoesNotUnderflow) {
  const Kernel kernel = Proximity(path_graph(200)).kernel(parse_measure("logComm"), 1.0);
  EXPECT_EQ(kernel.path, Path::logarithmic);
  EXPECT_NEAR(entry(kernel.values, 0, 199), log_communicability_between_ends(200, 1), 1e-10);
}

// ln sin/sinh forms of the tridiagonal inverse: (I - tA)^-1 between the ends of a path is
// t^(n-1) / det(I_n - tA), det = U_n(1 / 2t) t^n with Chebyshev's U_n(cosh x) = sinh((n+1)x) / sinh
// x.
double log_walk_between_ends(double n, double t) {
  const double x = std::acosh(1 / (2 * t));
  const double log_sinh = (n + 1) * x + std::log1p(-std::exp(-2 * (n + 1) * x)) - std::log(2.0);
  return -std::log(t) - (log_sinh - std::log(std::sinh(x)));
}

TEST(LogarithmicKernels, InversesOnALongPathDoNotUnderflow) {
  const Proximity proximity(path_graph(200));
  for (const double t : {1e-3, 0.2, 0.45}) {
    const Kernel kernel = proximity.kernel(parse_measure("Walk"), t);
    EXPECT_EQ(kernel.path == Path::logarithmic, t < 0.1) << t;
    EXPECT_NEAR(entry(kernel.values, 0, 199), log_walk_between_ends(200, t), 1e-9) << t;
  }
  const Kernel forest = proximity.kernel(parse_measure("logFor"), 1e-3);
  EXPECT_EQ(forest.path, Path::logarithmic);
  // Cutpoint additivity holds far below the smallest double.
  const at::Tensor d = proximity.distance(parse_measure("logFor"), 1e-3);
  EXPECT_NEAR(entry(d, 0, 100) + entry(d, 100, 199), entry(d, 0, 199), 1e-9);
  EXPECT_GT(entry(d, 0, 199), 1300);
}

TEST(LogarithmicKernels, RandomizedPathsAtLowTemperatureAreShortestPaths) {
  // Costs 1/a up to 10 and paths of 40 edges: exp(-beta c) underflows from beta = 20 on.
  const Graph graph = random_weighted_graph(60, 9);
  const Proximity proximity(graph);
  const at::Tensor shortest = proximity.shortest_paths();
  for (const double beta : {1e3, 1e6}) {
    EXPECT_LT(largest_difference(proximity.distance({Family::free_energy}, beta), shortest),
              20 / beta);
    EXPECT_LT(
        largest_difference(proximity.distance({Family::randomized_shortest_path}, beta), shortest),
        1e-2);
  }
}

// The same entries by each path, where all can represent them.
TEST(LogarithmicKernels, PathsAgree) {
  EXPECT_TRUE(rc::check("spectral, positive and logarithmic arithmetic agree", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(2, 30);
    const auto seed = *rc::gen::arbitrary<std::uint32_t>();
    const double s = 0.05 * *rc::gen::inRange(1, 20);
    const Graph graph = random_weighted_graph(n, seed);
    const Proximity automatic(graph);
    const Proximity positive(graph, {.path = Path::positive});
    const Proximity logarithmic(graph, {.path = Path::logarithmic});
    for (const Measure& measure : all_measures()) {
      if (!measure.logarithmic) continue;
      const auto parameter = automatic.parameter(measure.family, s);
      if (measure.family == Family::absorption && *parameter >= 1) continue;
      const at::Tensor reference = logarithmic.kernel(measure, parameter).values;
      const Kernel plain = positive.kernel(measure, parameter);
      RC_ASSERT(plain.path == Path::positive);
      RC_ASSERT(largest_difference(plain.values, reference) < 2e-10);
      // The tolerable error of a spectral sum, times its share of the norm.
      RC_ASSERT(largest_difference(automatic.kernel(measure, parameter).values, reference) < 1e-7);
    }
    for (const Family family : {Family::randomized_shortest_path, Family::free_energy}) {
      const double beta = *automatic.parameter(family, s);
      RC_ASSERT(largest_difference(automatic.distance({family}, beta),
                                   logarithmic.distance({family}, beta)) < 1e-8);
    }
  }));
}

TEST(LogarithmicKernels, SmallEntriesKeepTheirDigits) {
  // exp(tA) on a path, entry between the ends, against the Bessel form, from 1e-3 to 1e-120.
  for (const std::int64_t n : {8, 20, 40, 80}) {
    const Proximity proximity(path_graph(n));
    for (const double t : {0.1, 1.0, 10.0}) {
      const Kernel kernel = proximity.kernel(parse_measure("logComm"), t);
      const double expected = log_communicability_between_ends(static_cast<double>(n), t);
      EXPECT_NEAR(entry(kernel.values, 0, n - 1), expected,
                  kernel.path == Path::spectral ? 1e-8 : 1e-11)
          << "n=" << n << " t=" << t << " " << to_string(kernel.path);
    }
  }
}

TEST(LogarithmicKernels, NearTheEndOfTheRangeConditionsAreReported) {
  const Proximity proximity(zachary_karate_club());
  const double t = (1 - 1e-9) / proximity.spectral_radius();
  const Kernel kernel = proximity.kernel(parse_measure("Walk"), t);
  EXPECT_GT(kernel.condition, 1e9);
  EXPECT_TRUE(at::isfinite(kernel.values).all().item<bool>());
  // The leading eigenvector takes over: ln K_ij = ln v_i + ln v_j - ln(1 - t rho).
  const at::Tensor centred = distance_from_kernel(kernel.values);
  EXPECT_LT(centred.max().item<double>(), 1e-5);
  EXPECT_THAT(refusal([&] {
                proximity.kernel(parse_measure("Walk"),
                                 std::nextafter(1 / proximity.spectral_radius(), 0.0));
              }),
              HasSubstr("as good as 1/rho"));
}

TEST(LogarithmicKernels, LargeParametersNeedNoSubtraction) {
  // I + tL for t = 1e10: the pivots of Cholesky's factor lose ten digits, those of the elimination
  // none.
  const Graph graph = random_weighted_graph(150, 21);
  const double t = 1e10;
  const Proximity proximity(graph);
  const at::Tensor kernel = proximity.kernel({Family::forest}, t).values;
  EXPECT_LT((kernel.sum(0) - 1).abs().max().item<double>(), 1e-12);
  EXPECT_GT(kernel.min().item<double>(), 0);
  // (I + tL)^-1 = E/n + L^+ / t + O(1 / t^2)
  const at::Tensor expected = 1.0 / 150 + proximity.kernel({Family::commute_time}).values / t;
  EXPECT_LT(largest_difference(kernel, expected), 1e-15);
  const at::Tensor d = proximity.distance({Family::forest}, t) * t;
  EXPECT_LT(
      largest_difference(d, proximity.distance({Family::commute_time})) / d.max().item<double>(),
      1e-4);
}

TEST(LogarithmicKernels, DoubleFactorialEndsAtThirtyHops) {
  EXPECT_TRUE(at::isfinite(Proximity(path_graph(30)).kernel(parse_measure("logDF"), 0.5).values)
                  .all()
                  .item<bool>());
  const Proximity proximity(path_graph(31));
  EXPECT_THAT(refusal([&] { proximity.kernel(parse_measure("logDF"), 0.5); }),
              HasSubstr("nodes '0' and '30' are 30 or more hops apart"));
}

TEST(LogarithmicKernels, ForcedPathsSayWhenTheyCannot) {
  const Graph graph = path_graph(200);
  const Proximity spectral(graph, {.path = Path::spectral});
  const Proximity positive(graph, {.path = Path::positive});
  EXPECT_THAT(refusal([&] { spectral.kernel(parse_measure("logHeat"), 1.0); }),
              HasSubstr("the spectral path cannot"));
  EXPECT_THAT(refusal([&] { positive.kernel(parse_measure("logHeat"), 1.0); }),
              HasSubstr("the positive path cannot"));
  EXPECT_THAT(refusal([&] { positive.kernel(parse_measure("logFor"), 1e-3); }),
              HasSubstr("the positive path cannot"));
  EXPECT_THAT(
      refusal([&] { Proximity(graph, {.single_precision = true, .path = Path::positive}); }),
      HasSubstr("double precision"));
}

TEST(Nonnegative, ProductsOfLogarithmsAreProducts) {
  EXPECT_TRUE(rc::check("ln(exp(a) exp(b))", [] {
    const auto n = *rc::gen::inRange<std::int64_t>(1, 70);
    at::manual_seed(*rc::gen::inRange(0, 1000));
    at::Tensor a = at::rand({n, n}, at::kDouble);
    a = (a + a.t()) * (a + a.t() > 0.7);
    RC_ASSERT(largest_difference(symmetric_log_product(a.log(), a.log()).exp(), at::matmul(a, a)) <
              1e-13 * static_cast<double>(n));
    const at::Tensor b = at::rand({n, n}, at::kDouble);
    RC_ASSERT(largest_difference(general_log_product(a.log(), b.log()).exp(), at::matmul(a, b)) <
              1e-13 * static_cast<double>(n));
  }));
}

TEST(Nonnegative, SymmetricProductsInPanels) {
  for (const std::int64_t n : {255, 256, 257, 403}) {
    at::manual_seed(static_cast<std::uint64_t>(n));
    at::Tensor a = at::rand({n, n}, at::kDouble);
    a = a + a.t();
    EXPECT_LT(largest_difference(symmetric_product(a, a), at::matmul(a, a)), 1e-11) << n;
  }
}

TEST(Nonnegative, PolynomialsOfEveryDegree) {
  const at::Tensor b = random_weighted_graph(9, 2).adjacency;
  for (const Scale scale : {Scale::linear, Scale::logarithmic}) {
    const Powers powers = make_powers(b, scale);
    for (std::size_t count = 1; count <= 18; ++count) {
      std::vector<double> logarithms;
      at::Tensor expected = at::zeros_like(b);
      at::Tensor power = at::eye(9, at::kDouble);
      for (std::size_t k = 0; k < count; ++k) {
        logarithms.push_back(-0.3 * static_cast<double>(k) + 0.1);
        expected += std::exp(logarithms.back()) * power;
        power = at::matmul(power, b);
      }
      at::Tensor values = polynomial(powers, logarithms);
      if (scale == Scale::logarithmic) values = values.exp();
      EXPECT_LT(largest_difference(values, expected), 1e-13 * expected.max().item<double>())
          << count;
    }
  }
}

TEST(Nonnegative, EliminationIsTheInverse) {
  // Row sums from 1 to 1e-12 of the couplings: below 1e-4 the elimination takes over from Cholesky.
  for (const std::int64_t n : {1, 2, 63, 64, 65, 130}) {
    const at::Tensor couplings = random_weighted_graph(n, static_cast<std::uint64_t>(n)).adjacency;
    for (const double share : {1.0, 1e-3, 1e-6, 1e-12}) {
      const MMatrix matrix{couplings, share * at::ones({n}, at::kDouble)};
      const at::Tensor inverted = inverse(matrix);
      // M 1 = share 1, so that M^-1 1 = 1/share in every row.
      EXPECT_LT((inverted.sum(1) * share - 1).abs().max().item<double>(), 1e-12)
          << n << " " << share;
      const at::Tensor logs = log_inverse(couplings.log(), matrix.row_sums.log());
      EXPECT_LT(largest_difference(logs, inverted.log()), 1e-11) << n << " " << share;
    }
  }
}

}  // namespace
}  // namespace einkorn::graph_proximity
