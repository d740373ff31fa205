// Kernels before any logarithm is taken.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "einkorn/core/error.h"
#include "einkorn/similarity/graph_proximity/proximity_state_internal.h"

namespace einkorn::graph_proximity {
namespace {

Eigen eigendecomposition(const at::Tensor& symmetric) {
  const auto [values, vectors] = at::linalg_eigh(symmetric);
  return {values, vectors.contiguous()};
}

}  // namespace

Kernel Proximity::State::plain(Measure measure, double parameter) {
  switch (measure.family) {
    case Family::walk:
      return plain_walk(parameter);
    case Family::forest:
      return plain_inverse(measure, parameter);
    case Family::communicability:
    case Family::heat:
      return plain_exponential(measure.family, parameter);
    case Family::double_factorial:
      return {.values = double_factorial(parameter), .path = Path::spectral};
    case Family::absorption:
      return {.values = absorption(parameter)};
    case Family::commute_time:
      return {.values = commute_time_kernel()};
    case Family::sigmoid_commute_time:
      return {.values = sigmoid(commute_time_kernel(), parameter)};
    default:
      break;
  }
  require_no_isolated(measure);
  switch (measure.family) {
    case Family::corrected_commute_time:
      return {.values = corrected_commute_time_kernel()};
    case Family::sigmoid_corrected_commute_time:
      return {.values = sigmoid(corrected_commute_time_kernel(), parameter)};
    case Family::pagerank:
    case Family::modified_pagerank:
      return plain_inverse(measure, parameter);
    default:  // normalized_heat, heat_pagerank
      return plain_exponential(measure.family, parameter);
  }
}

Kernel Proximity::State::plain_exponential(Family family, double t) {
  if (options.path == Path::positive || options.path == Path::logarithmic) {
    Kernel kernel = log_exponential(family, t);
    kernel.values = kernel.values.exp();
    return kernel;
  }
  constexpr double largest_exponent = 700;
  const Spectrum parts = spectrum(family, t);
  const double top = parts.exponents[-1].item<double>();
  Kernel kernel{.log_scale = top > largest_exponent ? top : 0, .path = Path::spectral};
  kernel.values = spectral_matrix(parts.vectors, (parts.exponents - kernel.log_scale).exp());
  if (family == Family::heat_pagerank) {
    const at::Tensor root = degrees.sqrt();
    kernel.values = kernel.values * root / root.unsqueeze(1);
  }
  return kernel;
}

Kernel Proximity::State::plain_walk(double t) {
  const std::string too_close =
      fmt::format("pWalk: t = {} is as good as 1/rho = {}", t, 1 / radius());
  const double margin = 1 - t * radius();
  require(margin > static_cast<double>(graph.size()) * rounding(), "{}", too_close);
  const at::Tensor matrix = at::eye(graph.size(), adjacency.options()) - t * adjacency;
  return {.values = at::cholesky_inverse(cholesky_factor(matrix, too_close)),
          .path = Path::positive,
          .condition = (1 + t * radius()) / margin};
}

Kernel Proximity::State::plain_inverse(Measure measure, double parameter) {
  const MMatrix matrix = m_matrix(measure.family, parameter);
  Kernel kernel{
      .values = inverse(matrix), .path = Path::positive, .condition = dominance_loss(matrix)};
  if (measure.family == Family::pagerank) kernel.values = kernel.values * degrees;
  return kernel;
}

MMatrix Proximity::State::m_matrix(Family family, double parameter) const {
  switch (family) {
    case Family::forest:
      return {parameter * adjacency, at::ones_like(degrees)};
    case Family::absorption:  // tA + L = D - (1 - t) A
      return {(1 - parameter) * adjacency, parameter * degrees};
    default:  // pagerank, modified_pagerank
      return {parameter * adjacency, (1 - parameter) * degrees};
  }
}

at::Tensor Proximity::State::absorption(double t) {
  if (t < 1 && isolated_node < 0) return inverse(m_matrix(Family::absorption, t));
  const at::Tensor matrix = laplacian() + t * adjacency;
  // D^1/2 (I + (t - 1) N) D^1/2, where the eigenvalues of N lie in [-1, 1].
  if (t < 2 && isolated_node < 0) return at::cholesky_inverse(cholesky_factor(matrix, "Abs"));
  const Eigen eigen = eigendecomposition(matrix);
  const at::Tensor size = eigen.values.abs();
  const at::Tensor is_null = size <= size.max() * (static_cast<double>(graph.size()) * rounding());
  return spectral_matrix(eigen.vectors, eigen.values.reciprocal().masked_fill(is_null, 0));
}

at::Tensor Proximity::State::double_factorial(double t) {
  const Eigen& eigen = eigen_of_adjacency();
  const std::vector<double> logarithms = double_factorial_logarithms(t);
  at::Tensor f = at::zeros_like(eigen.values);
  for (auto term = logarithms.rbegin(); term != logarithms.rend(); ++term) {
    f = f * eigen.values + std::exp(*term);
  }
  return spectral_matrix(eigen.vectors, f);
}

at::Tensor Proximity::State::sigmoid(const at::Tensor& kernel, double a) const {
  const double sigma = at::std(kernel, /*unbiased=*/false).item<double>();  // of all n^2 entries
  require(sigma > 0, "SCT, SCCT: all entries of the commute time kernel are equal");
  return at::sigmoid(kernel * (a / sigma));
}

double Proximity::State::rounding() const {
  return options.single_precision ? std::numeric_limits<float>::epsilon()
                                  : std::numeric_limits<double>::epsilon();
}

const Eigen& Proximity::State::eigen_of_adjacency() {
  return adjacency_eigen.get([&] { return eigendecomposition(adjacency); });
}

Proximity::State::Spectrum Proximity::State::spectrum(Family family, double t) {
  switch (family) {
    case Family::communicability: {
      const Eigen& eigen = eigen_of_adjacency();
      return {eigen.vectors, t * eigen.values};
    }
    case Family::heat: {
      const Eigen& eigen = laplacian_eigen.get([&] { return eigendecomposition(-laplacian()); });
      return {eigen.vectors, t * eigen.values};
    }
    default: {
      const Eigen& eigen =
          normalized_eigen.get([&] { return eigendecomposition(normalized_adjacency()); });
      return {eigen.vectors, t * (eigen.values - 1)};
    }
  }
}

at::Tensor spectral_matrix(const at::Tensor& vectors, const at::Tensor& f) {
  return symmetric_product(vectors * f, vectors.t());
}

at::Tensor cholesky_factor(const at::Tensor& matrix, const std::string& what) {
  const auto [factor, info] = at::linalg_cholesky_ex(matrix);
  require(info.item<std::int64_t>() == 0, "{}: not positive definite within rounding", what);
  return factor;
}

std::vector<double> double_factorial_logarithms(double t) {
  constexpr int terms = 30;
  std::vector<double> logarithms = {0, std::log(t)};  // 0!! = 1!! = 1
  for (int k = 2; k < terms; ++k) {
    logarithms.push_back(logarithms[k - 2] + 2 * std::log(t) - std::log(k));
  }
  return logarithms;
}

bool all_above(const at::Tensor& matrix, double bound) {
  return matrix.min().item<double>() > bound;  // false for NaN
}

}  // namespace einkorn::graph_proximity
