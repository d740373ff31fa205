// Measures that are distances by definition: randomised shortest paths, free energy, shortest paths
// and their mixture with commute times.
#include <ATen/ATen.h>

#include "einkorn/core/error.h"
#include "einkorn/similarity/graph_proximity/proximity_state_internal.h"

namespace einkorn::graph_proximity {
namespace {

// m_ij - (m_ii + m_jj) / 2 for a symmetric m.
at::Tensor excess_over_diagonal(const at::Tensor& matrix) {
  const at::Tensor diagonal = matrix.diagonal();
  return matrix - (diagonal + diagonal.unsqueeze(1)) / 2;
}

// Symmetric and zero on the diagonal to the last bit.
at::Tensor tidied(const at::Tensor& distance) {
  at::Tensor tidy = (distance + distance.t()) / 2;
  tidy.diagonal().zero_();
  return tidy;
}

}  // namespace

at::Tensor Proximity::State::defined_distance(Measure measure, double parameter) {
  require(!options.single_precision, "{}: needs double precision", to_string(measure));
  require_connected(measure);
  switch (measure.family) {
    case Family::shortest_path:
      return shortest_path_lengths();
    case Family::shortest_path_commute_time:
      return mixture(parameter);
    default:
      require_no_isolated(measure);
      return randomized_paths(measure.family, parameter);
  }
}

at::Tensor Proximity::State::mixture(double lambda) {
  const auto normalized = [&](const at::Tensor& distance) {
    if (!options.normalize_mixture || graph.size() == 1) return distance;
    return distance / at::std(distance, /*unbiased=*/false);
  };
  const at::Tensor& commute = mixture_commute_time.get(
      [&] { return normalized(2 * distance_from_kernel(commute_time_kernel())); });
  const at::Tensor& shortest =
      mixture_shortest_paths.get([&] { return normalized(shortest_path_lengths()); });
  return (1 - lambda) * commute + lambda * shortest;
}

// With costs c = 1/a, W = P exp(-beta c) elementwise and Z = (I - W)^-1:
//   RSP: S = (Z (C o W) Z) / Z, Delta_ij = S_ij - (S_ii + S_jj) / 2 symmetrised;
//   FE: Delta_ij = -ln(Z_ij / Z_jj) / beta symmetrised.
// Z = Y D with Y = (D - a exp(-beta c))^-1, which is symmetric, and D cancels in both.
at::Tensor Proximity::State::randomized_paths(Family family, double beta) {
  const at::Tensor exponent = -beta / adjacency;  // -beta c; -inf off the edges
  const MMatrix matrix{adjacency * exponent.exp(), -(adjacency * exponent.expm1()).sum(1)};
  if (options.path != Path::logarithmic) {
    const at::Tensor y = inverse(matrix);
    if (all_above(y, safely_normal)) {
      if (family == Family::free_energy) return tidied(excess_over_diagonal(y.log()) / -beta);
      // C o a exp(-beta c) = exp(-beta c) on the edges
      const at::Tensor costs = symmetric_product(at::matmul(y, exponent.exp()), y);
      return tidied(excess_over_diagonal(costs / y));
    }
  }
  const at::Tensor log_weights = exponent.to(at::kCPU);
  const at::Tensor log_y =
      log_inverse(graph.adjacency.log() + log_weights, matrix.row_sums.to(at::kCPU).log());
  at::Tensor distance;
  if (family == Family::free_energy) {
    distance = excess_over_diagonal(log_y) / -beta;
  } else {
    const at::Tensor log_costs =
        symmetric_log_product(general_log_product(log_y, log_weights), log_y);
    distance = excess_over_diagonal((log_costs - log_y).exp());
  }
  return tidied(distance).to(adjacency.device());
}

}  // namespace einkorn::graph_proximity
