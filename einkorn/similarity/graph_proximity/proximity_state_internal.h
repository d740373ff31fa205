// What the measures of one graph share, and the methods by which each is computed.
#pragma once

#include <ATen/core/Tensor.h>

#include <mutex>
#include <optional>
#include <vector>

#include "einkorn/similarity/graph_proximity/graph_proximity.h"
#include "einkorn/similarity/graph_proximity/nonnegative_internal.h"

namespace einkorn::graph_proximity {

// A value computed at its first use, once, by whichever thread comes first.
template <typename T>
class Lazy {
 public:
  template <typename Make>
  const T& get(Make make) {
    std::call_once(once_, [&] { value_ = make(); });
    return value_;
  }

 private:
  std::once_flag once_;
  T value_;
};

struct Eigen {
  at::Tensor values;   // [n], ascending
  at::Tensor vectors;  // [n, n], columns
};

struct Proximity::State {
  State(Graph given, const ProximityOptions& chosen);

  Graph graph;
  ProximityOptions options;
  Components components;
  std::int64_t isolated_node = -1;  // the first node without edges, or -1
  at::Tensor adjacency;             // of the dtype and on the device asked for
  at::Tensor degrees;

  Lazy<double> spectral_radius, hop_diameter;
  Lazy<Eigen> adjacency_eigen, laplacian_eigen, normalized_eigen;
  Lazy<Powers> adjacency_powers, laplacian_powers, normalized_powers;
  Lazy<at::Tensor> commute_time, corrected_commute_time, shortest_paths;
  Lazy<at::Tensor> mixture_commute_time, mixture_shortest_paths;

  // Shared values. The generators: A, -L, N - I.
  double radius();
  double diameter();
  double rounding() const;  // of the dtype
  at::Tensor laplacian() const;
  at::Tensor normalized_adjacency() const;
  const Eigen& eigen_of_adjacency();
  const at::Tensor& commute_time_kernel();
  const at::Tensor& corrected_commute_time_kernel();
  const at::Tensor& shortest_path_lengths();

  // Checks; they throw InvalidArgument.
  void require_connected(Measure measure) const;
  void require_no_isolated(Measure measure) const;
  double check_parameter(const Proximity& proximity, Measure measure,
                         const std::optional<double>& parameter) const;

  // Plain kernels.
  Kernel plain(Measure measure, double parameter);
  Kernel plain_exponential(Family family, double t);
  Kernel plain_walk(double t);
  Kernel plain_inverse(Measure measure, double parameter);
  at::Tensor double_factorial(double t);
  at::Tensor absorption(double t);
  at::Tensor sigmoid(const at::Tensor& kernel, double a) const;
  MMatrix m_matrix(Family family, double parameter) const;

  // The exponential families are exp(tG) for a symmetric generator G (HeatPR: up to a similarity).
  struct Spectrum {
    const at::Tensor& vectors;
    at::Tensor exponents;  // t times the eigenvalues of G, ascending
  };
  Spectrum spectrum(Family family, double t);
  // ... and exp(-shift) exp(tB) for a non-negative B with spectral radius about norm / t.
  ExponentialPlan exponential_plan(Family family, double t);
  const Powers& generator_powers(Family family);
  at::Tensor nonnegative_generator(Family family) const;

  // Logarithmic kernels.
  Kernel logarithmic(Measure measure, double parameter);
  Kernel log_exponential(Family family, double t);
  std::optional<Kernel> log_exponential_spectral(Family family, double t);
  std::optional<Kernel> log_exponential_positive(Family family, double t);
  Kernel log_walk(double t);
  Kernel log_of_inverse(Measure measure, double parameter);
  Kernel log_double_factorial(double t);

  // Distances by definition.
  at::Tensor defined_distance(Measure measure, double parameter);
  at::Tensor randomized_paths(Family family, double beta);
  at::Tensor mixture(double lambda);
};

// V diag(f) V^T
at::Tensor spectral_matrix(const at::Tensor& vectors, const at::Tensor& f);

// Lower Cholesky factor; throws InvalidArgument with `what` if the matrix is not positive definite
// within rounding.
at::Tensor cholesky_factor(const at::Tensor& matrix, const std::string& what);

// ln(1 / k!!) + k ln t for k < 30: the coefficients of DF.
std::vector<double> double_factorial_logarithms(double t);

// Products of many small factors above this have lost nothing to gradual underflow.
constexpr double safely_normal = 1e-290;
bool all_above(const at::Tensor& matrix, double bound);

}  // namespace einkorn::graph_proximity
