#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "einkorn/similarity/graph_proximity/nonnegative_internal.h"
#include "einkorn/similarity/graph_proximity/proximity_kernels.h"

namespace einkorn::graph_proximity {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::size_t power_count = 4;

at::Tensor product(const at::Tensor& a, const at::Tensor& b, Scale scale) {
  return scale == Scale::linear ? symmetric_product(a, b) : symmetric_log_product(a, b);
}

at::Tensor logarithmic_identity(std::int64_t n) {
  at::Tensor identity = at::full({n, n}, -infinity, at::kDouble);
  identity.diagonal().zero_();
  return identity;
}

// sum_i exp(log_coefficients[i]) B^i for i = 0 .. 4 at most.
at::Tensor weighted_sum(const Powers& powers, const double* log_coefficients, std::size_t count) {
  const at::Tensor& first = powers.powers[0];
  if (powers.scale == Scale::linear) {
    at::Tensor sum = at::zeros_like(first);
    sum.diagonal().fill_(std::exp(log_coefficients[0]));
    for (std::size_t i = 1; i < count; ++i) {
      sum.add_(powers.powers[i - 1], std::exp(log_coefficients[i]));
    }
    return sum;
  }
  at::Tensor sum = logarithmic_identity(first.size(0)) + log_coefficients[0];
  for (std::size_t i = 1; i < count; ++i) {
    sum = at::logaddexp(sum, powers.powers[i - 1] + log_coefficients[i]);
  }
  return sum;
}

// Eliminates the rows of a symmetric M-matrix one after the other, without subtraction: what is
// left after each is an M-matrix whose couplings and row sums only grew. Returns the lower Cholesky
// factor. Panels of rows, so that most work is matrix products.
at::Tensor subtraction_free_cholesky(const MMatrix& matrix) {
  constexpr std::int64_t panel = 64;
  const std::int64_t n = matrix.couplings.size(0);
  // The row sums travel as one more column.
  at::Tensor rest = at::cat({matrix.couplings, matrix.row_sums.unsqueeze(1)}, 1);
  at::Tensor pivots = at::empty_like(matrix.row_sums);
  for (std::int64_t begin = 0; begin < n; begin += panel) {
    const std::int64_t end = std::min(begin + panel, n);
    for (std::int64_t k = begin; k < end; ++k) {
      at::Tensor row = rest[k].narrow(0, k + 1, n - k);
      if (k > begin) {
        const at::Tensor above = rest.slice(0, begin, k);
        const at::Tensor factors = above.select(1, k) / pivots.slice(0, begin, k);
        row.add_(at::mv(above.slice(1, k + 1).t(), factors));
      }
      pivots[k] = row.sum();
    }
    if (end == n) break;
    const at::Tensor rows = rest.slice(0, begin, end);
    const at::Tensor factors = rows.slice(1, end, n) / pivots.slice(0, begin, end).unsqueeze(1);
    rest.slice(0, end).slice(1, end).addmm_(factors.t(), rows.slice(1, end));
  }
  const at::Tensor upper = rest.slice(1, 0, n).triu(1) / pivots.sqrt().unsqueeze(1);
  return pivots.sqrt().diag_embed() - upper.t();
}

// The same elimination on logarithms, in place: above the diagonal of `couplings` stay the
// couplings of each row at its elimination; returns the logarithms of the pivots.
std::vector<double> eliminate_logarithms(at::Tensor& couplings, std::vector<double> row_sums) {
  const std::int64_t n = couplings.size(0);
  double* c = couplings.mutable_data_ptr<double>();
  std::vector<double> pivots(n);
  for (std::int64_t k = 0; k < n; ++k) {
    const double* row_k = c + k * n;
    double largest = row_sums[k];
    for (std::int64_t j = k + 1; j < n; ++j) largest = std::max(largest, row_k[j]);
    double sum = std::exp(row_sums[k] - largest);
    for (std::int64_t j = k + 1; j < n; ++j) sum += std::exp(row_k[j] - largest);
    pivots[k] = largest + std::log(sum);
    const std::int64_t rows_worth_a_thread = 1 + 16384 / (n - k);
    at::parallel_for(k + 1, n, rows_worth_a_thread, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const double log_factor = row_k[i] - pivots[k];
        if (log_factor == -infinity) continue;
        log_add_scaled(c + i * n + i + 1, log_factor, row_k + i + 1, n - i - 1);
        log_add_scaled(&row_sums[i], log_factor, &row_sums[k], 1);
      }
    });
  }
  return pivots;
}

// ln of the inverse of the unit lower factor that the elimination leaves, by columns.
at::Tensor log_inverse_of_factor(const at::Tensor& couplings, const std::vector<double>& pivots) {
  const std::int64_t n = couplings.size(0);
  const double* c = couplings.const_data_ptr<double>();
  at::Tensor result = logarithmic_identity(n);
  double* g = result.mutable_data_ptr<double>();
  at::parallel_for(0, n, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin + 1; i < n; ++i) {
      for (std::int64_t k = begin; k < i; ++k) {
        const double log_factor = c[k * n + i] - pivots[k];
        const std::int64_t width = std::min(end, k + 1) - begin;
        if (log_factor != -infinity) {
          log_add_scaled(g + i * n + begin, log_factor, g + k * n + begin, width);
        }
      }
    }
  });
  return result;
}

}  // namespace

at::Tensor symmetric_product(const at::Tensor& a, const at::Tensor& b) {
  const std::int64_t n = a.size(0);
  constexpr std::int64_t panels = 4;
  if (n < 256) return at::matmul(a, b);
  at::Tensor result = at::empty_like(a);
  for (std::int64_t p = 0; p < panels; ++p) {
    const std::int64_t begin = n * p / panels;
    const std::int64_t end = n * (p + 1) / panels;
    at::Tensor rows = result.slice(0, begin, end).slice(1, 0, end);
    at::matmul_out(rows, a.slice(0, begin, end), b.slice(1, 0, end));
    result.slice(0, 0, begin).slice(1, begin, end).copy_(rows.slice(1, 0, begin).t());
  }
  return result;
}

at::Tensor symmetric_log_product(const at::Tensor& a, const at::Tensor& b) {
  const std::int64_t n = a.size(0);
  const at::Tensor left = a.contiguous();
  const at::Tensor right = b.contiguous();
  at::Tensor result = at::empty_like(left);
  double* out = result.mutable_data_ptr<double>();
  // A short row and a long one together, so that every thread has as much to do.
  at::parallel_for(0, (n + 1) / 2, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto rows = [&](std::int64_t first, std::int64_t last) {
      log_product(left.const_data_ptr<double>(), right.const_data_ptr<double>(), out, n, first,
                  last,
                  /*lower=*/true);
    };
    rows(begin, end);
    rows(std::max(n - end, end), n - begin);
  });
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < i; ++j) out[j * n + i] = out[i * n + j];
  }
  return result;
}

at::Tensor general_log_product(const at::Tensor& a, const at::Tensor& b) {
  const std::int64_t n = a.size(0);
  const at::Tensor left = a.contiguous();
  const at::Tensor right = b.contiguous();
  at::Tensor result = at::empty_like(left);
  at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
    log_product(left.const_data_ptr<double>(), right.const_data_ptr<double>(),
                result.mutable_data_ptr<double>(), n, begin, end, /*lower=*/false);
  });
  return result;
}

Powers make_powers(const at::Tensor& matrix, Scale scale) {
  Powers made{scale, {scale == Scale::linear ? matrix : matrix.log()}};
  while (made.powers.size() < power_count) {
    made.powers.push_back(product(made.powers[0], made.powers.back(), scale));
  }
  return made;
}

at::Tensor polynomial(const Powers& powers, const std::vector<double>& log_coefficients) {
  const std::size_t count = log_coefficients.size();
  // The last block also takes the coefficient that would stand alone before it.
  std::size_t begin = count > 1 ? (count - 2) / power_count * power_count : 0;
  at::Tensor sum = weighted_sum(powers, log_coefficients.data() + begin, count - begin);
  while (begin > 0) {
    begin -= power_count;
    sum = product(sum, powers.powers.back(), powers.scale);
    const at::Tensor block = weighted_sum(powers, log_coefficients.data() + begin, power_count);
    sum = powers.scale == Scale::linear ? sum.add_(block) : at::logaddexp(sum, block);
  }
  return sum;
}

at::Tensor nonnegative_exponential(const Powers& powers, const ExponentialPlan& plan) {
  constexpr int degree = 16;
  // exp(X) = T(X / 2^s)^(2^s). A product of k factors is lost where one of the 2^s polynomials
  // would have to supply more than `degree` of them; by the union bound a share of at most 2^s (k /
  // 2^s)^17 / 17!. Entries are dominated by k up to about diameter + norm.
  const double factors = plan.diameter + 1.5 * plan.norm;
  int squarings = 0;
  const auto lost_share = [&](int s) {
    const double parts = std::ldexp(1.0, s);
    return std::log(parts) + (degree + 1) * std::log(factors / parts) - std::lgamma(degree + 2.0);
  };
  while (lost_share(squarings) > std::log(1e-16)) ++squarings;

  const double log_step = std::log(plan.t) - squarings * std::log(2.0);
  std::vector<double> log_coefficients;
  for (int k = 0; k <= degree; ++k) {
    log_coefficients.push_back(k * log_step - std::lgamma(k + 1.0) -
                               std::ldexp(plan.shift, -squarings));
  }
  at::Tensor result = polynomial(powers, log_coefficients);
  for (int i = 0; i < squarings; ++i) result = product(result, result, powers.scale);
  return result;
}

double dominance_loss(const MMatrix& matrix) {
  const at::Tensor off_diagonal = matrix.couplings.sum(1) - matrix.couplings.diagonal();
  return (1 + off_diagonal / matrix.row_sums).max().item<double>();
}

at::Tensor inverse(const MMatrix& matrix) {
  constexpr double tolerable_loss = 1e4;
  if (dominance_loss(matrix) > tolerable_loss) {
    return at::cholesky_inverse(subtraction_free_cholesky(matrix));
  }
  at::Tensor dense = -matrix.couplings;
  dense.diagonal().copy_(matrix.row_sums + matrix.couplings.sum(1) - matrix.couplings.diagonal());
  return at::cholesky_inverse(at::linalg_cholesky(dense));
}

at::Tensor log_inverse(const at::Tensor& log_couplings, const at::Tensor& log_row_sums) {
  at::Tensor couplings = log_couplings.clone(at::MemoryFormat::Contiguous);
  const at::Tensor sums = log_row_sums.contiguous();
  const double* first = sums.const_data_ptr<double>();
  const std::vector<double> pivots =
      eliminate_logarithms(couplings, std::vector<double>(first, first + sums.size(0)));
  const at::Tensor factor = log_inverse_of_factor(couplings, pivots);
  const at::Tensor scaled = factor - at::tensor(pivots, at::kDouble).unsqueeze(1);
  return symmetric_log_product(scaled.t(), factor);
}

}  // namespace einkorn::graph_proximity
