// Elementwise logarithms of kernels. A spectral sum loses small entries to cancellation; what is
// computed here keeps every entry's relative accuracy, and if the numbers underflow goes on with
// their logarithms.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "einkorn/core/error.h"
#include "einkorn/similarity/graph_proximity/proximity_state_internal.h"

namespace einkorn::graph_proximity {
namespace {

[[noreturn]] void refuse_forced_path(Path path) {
  throw InvalidArgument(
      fmt::format("the {} path cannot represent the smallest entries here; let the path be chosen",
                  to_string(path)));
}

}  // namespace

Kernel Proximity::State::logarithmic(Measure measure, double parameter) {
  require(!options.single_precision, "{}: logarithms of proximities need double precision",
          to_string(measure));
  require_connected(measure);
  switch (measure.family) {
    case Family::walk:
      return log_walk(parameter);
    case Family::forest:
      return log_of_inverse(measure, parameter);
    case Family::communicability:
    case Family::heat:
      return log_exponential(measure.family, parameter);
    case Family::double_factorial:
      return log_double_factorial(parameter);
    default:
      break;
  }
  require_no_isolated(measure);
  switch (measure.family) {
    case Family::absorption:
      require(parameter < 1,
              "logAbs: t = {} is outside 0 < t < 1, where all entries of (tA + L)^+ are positive",
              parameter);
      return log_of_inverse(measure, parameter);
    case Family::pagerank:
    case Family::modified_pagerank:
      return log_of_inverse(measure, parameter);
    default:  // normalized_heat, heat_pagerank
      return log_exponential(measure.family, parameter);
  }
}

Kernel Proximity::State::log_exponential(Family family, double t) {
  std::optional<Kernel> kernel;
  const Path path = options.path;
  if (path == Path::automatic || path == Path::spectral)
    kernel = log_exponential_spectral(family, t);
  if (!kernel && path == Path::spectral) refuse_forced_path(path);
  if (!kernel && path != Path::logarithmic) kernel = log_exponential_positive(family, t);
  if (!kernel && path == Path::positive) refuse_forced_path(path);
  if (!kernel) {
    const Powers powers =
        make_powers(nonnegative_generator(family).to(at::kCPU), Scale::logarithmic);
    kernel = Kernel{
        .values =
            nonnegative_exponential(powers, exponential_plan(family, t)).to(adjacency.device()),
        .path = Path::logarithmic};
  }
  if (family == Family::heat_pagerank) {
    const at::Tensor half_log = degrees.log() / 2;
    kernel->values = kernel->values + half_log - half_log.unsqueeze(1);
  }
  return *kernel;
}

// Nothing if the entries are not accurate, or not even positive where the path is forced.
std::optional<Kernel> Proximity::State::log_exponential_spectral(Family family, double t) {
  const Spectrum parts = spectrum(family, t);
  const at::Tensor top = parts.exponents[-1];
  const at::Tensor values = spectral_matrix(parts.vectors, (parts.exponents - top).exp());
  double floor = 0;
  if (options.path == Path::automatic) {
    // About what rounding in the eigendecomposition and in the sum makes of the largest entry.
    constexpr double tolerable_relative_error = 1e-8;
    const double error = std::numeric_limits<double>::epsilon() *
                         std::sqrt(static_cast<double>(graph.size())) *
                         (1 + exponential_plan(family, t).norm);
    floor = error / tolerable_relative_error * values.max().item<double>();
  }
  if (!all_above(values, floor)) return std::nullopt;
  return Kernel{.values = values.log() + top, .path = Path::spectral};
}

// Nothing if entries underflow.
std::optional<Kernel> Proximity::State::log_exponential_positive(Family family, double t) {
  ExponentialPlan plan = exponential_plan(family, t);
  // Scaled so that the largest entries are of order one (Comm grows like exp(t rho)).
  const double log_scale = plan.norm - plan.shift;
  plan.shift = plan.norm;
  const at::Tensor values = nonnegative_exponential(generator_powers(family), plan);
  if (!all_above(values, safely_normal)) return std::nullopt;
  return Kernel{.values = values.log() + log_scale, .path = Path::positive};
}

ExponentialPlan Proximity::State::exponential_plan(Family family, double t) {
  switch (family) {
    case Family::communicability:
      return {.t = t, .shift = 0, .norm = t * radius(), .diameter = diameter()};
    case Family::heat: {
      const double largest = t * degrees.max().item<double>();
      return {.t = t, .shift = largest, .norm = largest, .diameter = diameter()};
    }
    default:
      return {.t = t, .shift = t, .norm = t, .diameter = diameter()};
  }
}

at::Tensor Proximity::State::nonnegative_generator(Family family) const {
  switch (family) {
    case Family::communicability:
      return adjacency;
    case Family::heat:
      return degrees.max() * at::eye(graph.size(), adjacency.options()) - laplacian();
    default:
      return normalized_adjacency();
  }
}

const Powers& Proximity::State::generator_powers(Family family) {
  Lazy<Powers>& powers = family == Family::communicability ? adjacency_powers
                         : family == Family::heat          ? laplacian_powers
                                                           : normalized_powers;
  return powers.get([&] { return make_powers(nonnegative_generator(family), Scale::linear); });
}

Kernel Proximity::State::log_walk(double t) {
  Kernel kernel = plain_walk(t);
  if (options.path != Path::logarithmic && all_above(kernel.values, safely_normal)) {
    kernel.values = kernel.values.log();
    return kernel;
  }
  if (options.path == Path::positive) refuse_forced_path(options.path);
  // v = (I - tA)^-1 1 >= 1 makes diag(v) (I - tA) diag(v) an M-matrix with the row sums v.
  const at::Tensor v = kernel.values.to(at::kCPU).sum(1);
  const at::Tensor log_v = v.log();
  const at::Tensor outer = log_v + log_v.unsqueeze(1);
  kernel.values =
      (log_inverse((t * graph.adjacency).log() + outer, log_v) + outer).to(adjacency.device());
  kernel.path = Path::logarithmic;
  return kernel;
}

Kernel Proximity::State::log_of_inverse(Measure measure, double parameter) {
  const MMatrix matrix = m_matrix(measure.family, parameter);
  Kernel kernel{.path = Path::positive, .condition = dominance_loss(matrix)};
  if (options.path != Path::logarithmic) {
    const at::Tensor values = inverse(matrix);
    if (all_above(values, safely_normal)) kernel.values = values.log();
  }
  if (!kernel.values.defined() && options.path == Path::positive) refuse_forced_path(options.path);
  if (!kernel.values.defined()) {
    kernel.path = Path::logarithmic;
    kernel.values =
        log_inverse(matrix.couplings.to(at::kCPU).log(), matrix.row_sums.to(at::kCPU).log())
            .to(adjacency.device());
  }
  if (measure.family == Family::pagerank) kernel.values = kernel.values + degrees.log();
  return kernel;
}

Kernel Proximity::State::log_double_factorial(double t) {
  const std::vector<double> coefficients = double_factorial_logarithms(t);
  if (options.path != Path::logarithmic) {
    const at::Tensor values = polynomial(generator_powers(Family::communicability), coefficients);
    if (all_above(values, safely_normal) && at::isfinite(values).all().item<bool>()) {
      return {.values = values.log(), .path = Path::positive};
    }
  }
  const at::Tensor values =
      polynomial(make_powers(graph.adjacency, Scale::logarithmic), coefficients);
  const at::Tensor zero = at::isinf(values).nonzero();
  if (zero.size(0) > 0) {
    throw InvalidArgument(
        fmt::format("logDF: nodes '{}' and '{}' are {} or more hops apart, where the measure is 0",
                    graph.nodes[zero[0][0].item<std::int64_t>()],
                    graph.nodes[zero[0][1].item<std::int64_t>()], coefficients.size()));
  }
  return {.values = values.to(adjacency.device()), .path = Path::logarithmic};
}

}  // namespace einkorn::graph_proximity
