// Exponentials, polynomials and inverses that are non-negative matrices, computed without
// subtraction, so that every entry keeps its relative accuracy however small it is. Each exists
// twice: on numbers (any device) and on their natural logarithms (CPU), where nothing underflows.
// All matrices are symmetric [n, n] f64.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace einkorn::graph_proximity {

// a b for operands whose product is known to be symmetric: half of the arithmetic.
at::Tensor symmetric_product(const at::Tensor& a, const at::Tensor& b);

// ln(exp(a) exp(b)), likewise; -inf stands for zero.
at::Tensor symmetric_log_product(const at::Tensor& a, const at::Tensor& b);

// The same for any product.
at::Tensor general_log_product(const at::Tensor& a, const at::Tensor& b);

enum class Scale { linear, logarithmic };

// A non-negative matrix with its powers 1 .. 4, as numbers or as their logarithms.
struct Powers {
  Scale scale;
  std::vector<at::Tensor> powers;
};
Powers make_powers(const at::Tensor& matrix, Scale scale);

// sum_k exp(log_coefficients[k]) B^k, on the scale of the powers of B (Paterson and Stockmeyer).
at::Tensor polynomial(const Powers& powers, const std::vector<double>& log_coefficients);

// exp(-shift) exp(t B) by scaling and squaring of Taylor's polynomial.
// norm: about the spectral radius of tB; diameter: most hops between two nodes. Both bound how many
// factors B an entry needs.
struct ExponentialPlan {
  double t;
  double shift;
  double norm;
  double diameter;
};
at::Tensor nonnegative_exponential(const Powers& powers, const ExponentialPlan& plan);

// The symmetric M-matrix diag(row_sums + C 1) - C, given by its couplings C >= 0 (whose diagonal is
// not looked at) and row sums > 0. Both together determine every entry of the inverse to relative
// accuracy; the diagonal does not (A. S. Alfa, J. Xue, Q. Ye, Math. Comp. 71, 2002).
struct MMatrix {
  at::Tensor couplings;  // [n, n]
  at::Tensor row_sums;   // [n]
};

// The largest ratio of a diagonal entry to its row sum: what the Cholesky factor may lose.
double dominance_loss(const MMatrix& matrix);

// By Cholesky factorisation where little is lost, else by elimination in the manner of Grassmann,
// Taksar and Heyman, in which pivots are sums of couplings and row sums.
at::Tensor inverse(const MMatrix& matrix);

// ln of the inverse, entry by entry, of the M-matrix whose couplings and row sums are given as
// logarithms.
at::Tensor log_inverse(const at::Tensor& log_couplings, const at::Tensor& log_row_sums);

}  // namespace einkorn::graph_proximity
