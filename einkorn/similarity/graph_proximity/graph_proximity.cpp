#include "einkorn/similarity/graph_proximity/graph_proximity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"
#include "einkorn/similarity/graph_proximity/graph_algorithms_internal.h"
#include "einkorn/similarity/graph_proximity/proximity_state_internal.h"

namespace einkorn::graph_proximity {

Proximity::Proximity(Graph graph, const ProximityOptions& options)
    : state_(std::make_shared<State>(std::move(graph), options)) {}

const Graph& Proximity::graph() const {
  return state_->graph;
}
double Proximity::spectral_radius() const {
  return state_->radius();
}

Kernel Proximity::kernel(Measure measure, std::optional<double> parameter) const {
  const at::NoGradGuard no_gradients;
  const double value = state_->check_parameter(*this, measure, parameter);
  const double n = static_cast<double>(state_->graph.size());
  const Trace trace(
      "graph_proximity.kernel", to_string(measure).c_str(), [&] { return fmt::format("n={}", n); },
      {.flops = n * n * n, .bytes = 16 * n * n}, state_->options.device);
  if (is_distance(measure)) {
    return {.values = kernel_from_distance(state_->defined_distance(measure, value))};
  }
  return measure.logarithmic ? state_->logarithmic(measure, value) : state_->plain(measure, value);
}

at::Tensor Proximity::distance(Measure measure, std::optional<double> parameter) const {
  const at::NoGradGuard no_gradients;
  const double value = state_->check_parameter(*this, measure, parameter);
  state_->require_connected(measure);
  if (is_distance(measure)) return state_->defined_distance(measure, value);
  return distance_from_kernel(kernel(measure, parameter).values);
}

at::Tensor Proximity::resistance() const {
  return 2 * distance({Family::commute_time});
}

at::Tensor Proximity::shortest_paths() const {
  return distance({Family::shortest_path});
}

Proximity::State::State(Graph given, const ProximityOptions& chosen)
    : graph(std::move(given)), options(chosen) {
  require_available(options.device);
  require(graph.adjacency.defined() && graph.size() > 0, "graph: has no nodes");
  require(!options.single_precision ||
              (options.path != Path::positive && options.path != Path::logarithmic),
          "the {} path needs double precision", to_string(options.path));
  components = connected_components(graph.adjacency);
  const at::Tensor sums = graph.adjacency.sum(1);
  const at::Tensor isolated = (sums == 0).nonzero();
  if (isolated.size(0) > 0) isolated_node = isolated[0][0].item<std::int64_t>();
  const auto type = options.single_precision ? at::kFloat : at::kDouble;
  adjacency = graph.adjacency.to(to_torch(options.device), type);
  degrees = sums.to(to_torch(options.device), type);
}

void Proximity::State::require_connected(Measure measure) const {
  if (components.count == 1) return;
  const auto& component = components.component;
  const auto other = std::find_if(component.begin(), component.end(),
                                  [&](std::int64_t number) { return number != component[0]; });
  throw InvalidArgument(fmt::format(
      "{}: the graph has {} connected components, and between two of them ('{}' and '{}') the "
      "proximity is 0 and the distance infinite; take one component at a time",
      to_string(measure), components.count, graph.nodes[0],
      graph.nodes[static_cast<std::size_t>(other - component.begin())]));
}

void Proximity::State::require_no_isolated(Measure measure) const {
  require(isolated_node < 0, "{}: node '{}' has no edges, and the measure divides by its degree",
          to_string(measure), isolated_node < 0 ? "" : graph.nodes[isolated_node]);
}

double Proximity::State::check_parameter(const Proximity& proximity, Measure measure,
                                         const std::optional<double>& parameter) const {
  if (measure.logarithmic) logarithm({measure.family});  // refuses families without one
  const std::string name = to_string(measure);
  const ParameterRange range = proximity.range(measure.family);
  if (range.symbol.empty()) {
    require(!parameter, "{}: has no parameter, got {}", name, parameter.value_or(0));
    return 0;
  }
  std::string high = fmt::format("{}", range.high);
  if (measure.family == Family::walk && std::isfinite(range.high)) {
    high = fmt::format(
        "1/rho = {:.10g} (rho = {:.10g}, the largest eigenvalue of the adjacency matrix)",
        range.high, 1 / range.high);
  }
  const char* relation = range.closed ? "<=" : "<";
  const std::string admissible =
      std::isinf(range.high)
          ? fmt::format("{} > {}", range.symbol, range.low)
          : fmt::format("{} {} {} {} {}", range.low, relation, range.symbol, relation, high);
  require(parameter.has_value(), "{}: needs its parameter, {}", name, admissible);
  const double value = *parameter;
  const bool inside = range.closed ? value >= range.low && value <= range.high
                                   : value > range.low && value < range.high;
  require(inside, "{}: {} = {} is outside {}", name, range.symbol, value, admissible);
  return value;
}

double Proximity::State::radius() {
  return spectral_radius.get([&] { return graph_proximity::spectral_radius(graph.adjacency); });
}

double Proximity::State::diameter() {
  return hop_diameter.get([&] { return hop_diameter_bound(graph.adjacency); });
}

at::Tensor Proximity::State::laplacian() const {
  return degrees.diag_embed() - adjacency;
}

at::Tensor Proximity::State::normalized_adjacency() const {
  const at::Tensor scale = degrees.rsqrt();
  return adjacency * scale * scale.unsqueeze(1);
}

const at::Tensor& Proximity::State::commute_time_kernel() {
  return commute_time.get([&] {
    // L plus the projector J on its null space, scaled like L, is positive definite, and
    // (L + g J)^-1 = L^+ + J / g.
    const at::Tensor component = at::tensor(components.component, at::kLong);
    const at::Tensor same = (component == component.unsqueeze(1)).to(adjacency);
    const at::Tensor projector = same / same.sum(1);
    const double mean_degree = degrees.mean().item<double>();
    const double scale = mean_degree > 0 ? mean_degree : 1;
    const at::Tensor factor = cholesky_factor(laplacian() + scale * projector, "CT");
    return at::cholesky_inverse(factor) - projector / scale;
  });
}

const at::Tensor& Proximity::State::corrected_commute_time_kernel() {
  return corrected_commute_time.get([&] {
    // M (I - M)^+ M vanishes on D^1/2 1_c for every component c. With these vectors taken out of M,
    // it is (I - M)^-1 - I - M.
    const at::Tensor root = degrees.sqrt();
    const at::Tensor component = at::tensor(components.component, at::kLong).to(adjacency.device());
    const at::Tensor volumes =
        at::zeros({components.count}, adjacency.options()).index_add_(0, component, degrees);
    const at::Tensor same = component == component.unsqueeze(1);
    const at::Tensor top = same * root * root.unsqueeze(1) / volumes.index_select(0, component);
    const at::Tensor m = normalized_adjacency() - top;
    const at::Tensor identity = at::eye(graph.size(), m.options());
    const at::Tensor inner =
        at::cholesky_inverse(cholesky_factor(identity - m, "CCT")) - identity - m;
    const at::Tensor scaled = inner / root / root.unsqueeze(1);
    const at::Tensor centred = scaled - scaled.mean(0, /*keepdim=*/true);
    return centred - centred.mean(1, /*keepdim=*/true);
  });
}

const at::Tensor& Proximity::State::shortest_path_lengths() {
  return shortest_paths.get(
      [&] { return shortest_path_matrix(graph.adjacency).to(adjacency.device()); });
}

at::Tensor distance_from_kernel(const at::Tensor& kernel) {
  require_dense(kernel, "kernel");
  require(kernel.dim() == 2 && kernel.size(0) == kernel.size(1),
          "kernel: expected a square matrix");
  const at::Tensor diagonal = kernel.diagonal();
  at::Tensor distance = (diagonal + diagonal.unsqueeze(1)) / 2 - (kernel + kernel.t()) / 2;
  distance.diagonal().zero_();
  return distance;
}

at::Tensor kernel_from_distance(const at::Tensor& distance) {
  require_dense(distance, "distance");
  require(distance.dim() == 2 && distance.size(0) == distance.size(1),
          "distance: expected a square matrix");
  const at::Tensor centred = distance - distance.mean(0, /*keepdim=*/true);
  return (centred - centred.mean(1, /*keepdim=*/true)) / -2;
}

at::Tensor elementwise_log(const at::Tensor& kernel) {
  require_dense(kernel, "kernel");
  const at::Tensor bad = at::logical_not(kernel > 0).nonzero();
  require(bad.size(0) == 0, "kernel: the entry {} has no logarithm; all must be positive",
          bad.size(0) ? fmt::format("[{}, {}]", bad[0][0].item<std::int64_t>(),
                                    bad[0][1].item<std::int64_t>())
                      : "");
  return kernel.log();
}

}  // namespace einkorn::graph_proximity
