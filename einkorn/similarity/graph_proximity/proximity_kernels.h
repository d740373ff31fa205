// Raw loops of the clustering and of arithmetic on logarithms: pointers and sizes, row-major.
#pragma once

#include <cstdint>

#include "einkorn/core/isa.h"

namespace einkorn::graph_proximity {

// The level that the loops below would run at.
Isa kernel_level();

// min_k row[k] + penalty[k]; +inf where n = 0. A penalty of 0 or +inf hides entries without
// touching the row.
double masked_minimum(const double* row, const double* penalty, std::int64_t n);
float masked_minimum(const float* row, const float* penalty, std::int64_t n);

// The smallest k with row[k] + penalty[k] == value, or n if there is none.
std::int64_t first_equal(const double* row, const double* penalty, std::int64_t n, double value);
std::int64_t first_equal(const float* row, const float* penalty, std::int64_t n, float value);

// Lance and Williams' update for Ward's criterion. row_i, row_j: the distances of two clusters of
// size_i and size_j, at distance d_ij; size[k]: the other clusters' sizes. Writes to row_i
//   [(n_i + n_k) d_ik + (n_j + n_k) d_jk - n_k d_ij] / (n_i + n_j + n_k).
template <typename T>
struct WardMerge {
  T size_i;
  T size_j;
  T d_ij;
};
void ward_update(double* row_i, const double* row_j, const double* size, std::int64_t n,
                 WardMerge<double> merge);
void ward_update(float* row_i, const float* row_j, const float* size, std::int64_t n,
                 WardMerge<float> merge);

// Rows [row_begin, row_end) of the product of two matrices [n, n] that are given as logarithms:
//   out_ij = ln sum_k exp(a_ik + b_kj), scaled by the largest term so that nothing under- or
// overflows; -inf stands for zero. Only columns j <= i of row i are written if lower is set.
void log_product(const double* a, const double* b, double* out, std::int64_t n,
                 std::int64_t row_begin, std::int64_t row_end, bool lower);

// y_k = ln(exp(y_k) + exp(log_factor + x_k)).
void log_add_scaled(double* y, double log_factor, const double* x, std::int64_t n);

}  // namespace einkorn::graph_proximity
