// Effective resistances of large sparse graphs, without any n x n matrix.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "einkorn/core/files/graph_file.h"
#include "einkorn/core/tensor.h"
#include "einkorn/similarity/graph_proximity/graph.h"

namespace einkorn::graph_proximity {

struct ResistanceOptions {
  double tolerance = 1e-10;         // of the relative residual of every solution
  std::int64_t max_iterations = 0;  // of conjugate gradients; 0: 10 n
};

// A connected graph as its Laplacian, 16 bytes an edge direction. Weights are conductances.
// Directed files, repeated edges and self-loops are treated as the policy says (a loop carries no
// current).
class ResistanceNetwork {
 public:
  // Throws InvalidArgument for what the policy refuses, negative weights, and disconnected graphs.
  explicit ResistanceNetwork(const GraphFile& file, const GraphPolicy& policy = {});

  std::int64_t size() const { return static_cast<std::int64_t>(degree_.size()); }
  std::int64_t edges() const;

  // R_uv = (e_u - e_v)^T L^+ (e_u - e_v) for each pair, [pairs] f64: one solution of
  // L x = e_u - e_v a pair, by conjugate gradients with Jacobi's preconditioner. The error of R is
  // of the order of the tolerance squared. Throws InvalidArgument, with the residual, where the
  // iteration does not reach the tolerance.
  at::Tensor resistance(const std::vector<std::pair<std::int64_t, std::int64_t>>& pairs,
                        const ResistanceOptions& options = {}) const;

  // Coordinates [n, k] f64 whose squared distances are resistances within a factor 1 +- epsilon,
  // for all pairs with probability at least 1 - 1/n: a random projection to k = ceil(24 ln n /
  // epsilon^2) dimensions of W^1/2 B L^+ (D. A. Spielman, N. Srivastava, SIAM J. Comput. 40, 2011).
  // 0 < epsilon < 1; k solutions.
  at::Tensor embedding(double epsilon, std::uint64_t seed,
                       const ResistanceOptions& options = {}) const;

 private:
  std::vector<double> potentials(std::vector<double> currents,
                                 const ResistanceOptions& options) const;
  void multiply(const std::vector<double>& potential, std::vector<double>& current) const;

  std::vector<std::int64_t> begin_;     // [n + 1], into the two below
  std::vector<std::int64_t> neighbor_;  // both directions of every edge
  std::vector<double> conductance_;
  std::vector<double> degree_;
};

}  // namespace einkorn::graph_proximity
