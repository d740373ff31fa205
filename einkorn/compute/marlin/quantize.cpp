// Round to nearest and GPTQ.
#include "einkorn/compute/marlin/quantize.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "einkorn/core/error.h"

namespace einkorn::marlin {
namespace {

double largest_code(const QuantizeOptions& options) {
  return std::exp2(options.bits) - 1;
}

double middle_code(const QuantizeOptions& options) {
  return std::exp2(options.bits - 1);
}

void check_options(const QuantizeOptions& options) {
  require(options.bits == 4 || options.bits == 8, "bits: expected 4 or 8, got {}", options.bits);
  const std::int64_t group = options.group_size;
  require(group == -1 || group == 32 || group == 64 || group == 128,
          "group: expected 32, 64, 128 or -1 (all rows), got {}", group);
  require(options.scale_dtype == at::kHalf || options.scale_dtype == at::kBFloat16,
          "scale_dtype: expected float16 or bfloat16");
  require(!options.sparse_2_4 || options.symmetric,
          "sparse: 2:4 weights have no zero points, as pruned weights are 0");
  require(!options.sparse_2_4 || !options.act_order,
          "sparse: 2:4 pruning counts rows in their own order, so it goes not with act-order");
  require(options.damping > 0 && std::isfinite(options.damping),
          "damping: expected a number > 0, got {}", options.damping);
}

void check_weights(const at::Tensor& weights) {
  require_dense(weights, "weights");
  require(weights.dim() == 2 && at::isFloatingType(weights.scalar_type()),
          "weights: expected a floating matrix [K, N]");
  require(at::isfinite(weights).all().item<bool>(), "weights: expected finite numbers");
}

// How the columns of a group become codes: code = clamp(round(w / scale) + zero).
struct Grid {
  at::Tensor scale;  // [N] f64, already rounded to the dtype of scales
  at::Tensor zero;   // [N] f64, whole
};

at::Tensor rounded_scale(const at::Tensor& scale, const QuantizeOptions& options) {
  const at::Tensor stored = scale.to(options.scale_dtype).to(at::kDouble);
  const bool fits = at::isfinite(stored).all().item<bool>();
  require(fits,
          "weights: a scale of {:.3g} is beyond {}; divide the weights, or use bfloat16 scales",
          fits ? 0 : scale.max().item<double>(), c10::toString(options.scale_dtype));
  // Groups of zeros, and scales below the smallest of the dtype.
  return at::where(stored == 0, at::ones_like(stored), stored);
}

// w [rows, N] f64; the range is shrunk to `share` of itself.
Grid grid_for(const at::Tensor& w, double share, const QuantizeOptions& options) {
  if (options.symmetric) {
    const at::Tensor range = w.abs().amax(0) * (2 * share);
    Grid grid{rounded_scale(range / largest_code(options), options), {}};
    grid.zero = at::full_like(grid.scale, middle_code(options));
    return grid;
  }
  const at::Tensor low = at::clamp_max(w.amin(0), 0) * share;
  const at::Tensor high = at::clamp_min(w.amax(0), 0) * share;
  Grid grid{rounded_scale((high - low) / largest_code(options), options), {}};
  grid.zero = at::clamp(at::round(-low / grid.scale), 0, largest_code(options));
  return grid;
}

at::Tensor to_codes(const at::Tensor& w, const Grid& grid, const QuantizeOptions& options) {
  return at::clamp(at::round(w / grid.scale) + grid.zero, 0, largest_code(options));
}

at::Tensor from_grid(const at::Tensor& codes, const Grid& grid) {
  return (codes - grid.zero) * grid.scale;
}

// error(difference [rows, N]) -> [N]: what a choice of codes costs each column.
using ErrorMeasure = std::function<at::Tensor(const at::Tensor&)>;

// Ranges of 100 % down to 25 % of the largest magnitude; per column the one of least error (the
// paper's modified GPTQ), ties to the larger.
Grid search_grid(const at::Tensor& w, const QuantizeOptions& options, const ErrorMeasure& error) {
  constexpr int steps = 76;
  Grid best = grid_for(w, 1, options);
  if (!options.clip_search) return best;
  at::Tensor least = error(from_grid(to_codes(w, best, options), best) - w);
  for (int step = 1; step < steps; ++step) {
    const Grid grid = grid_for(w, 1 - step / 100.0, options);
    const at::Tensor cost = error(from_grid(to_codes(w, grid, options), grid) - w);
    const at::Tensor is_better = cost < least;
    best.scale = at::where(is_better, grid.scale, best.scale);
    best.zero = at::where(is_better, grid.zero, best.zero);
    least = at::where(is_better, cost, least);
  }
  return best;
}

at::Tensor squared_error(const at::Tensor& difference) {
  return difference.square().sum(0);
}

std::int64_t group_rows(const QuantizeOptions& options, std::int64_t rows) {
  return options.group_size == -1 ? std::max<std::int64_t>(rows, 1) : options.group_size;
}

// Codes, scales and zero points while they are made.
struct Result {
  at::Tensor codes;   // f64 [K, N]
  at::Tensor scales;  // f64 [groups, N]
  at::Tensor zeros;   // f64 [groups, N]

  Result(const at::Tensor& w, std::int64_t group)
      : codes(at::empty_like(w)),
        scales(at::empty({(w.size(0) + group - 1) / group, w.size(1)}, w.options())),
        zeros(at::empty_like(scales)) {}

  QuantizedWeights pack(const QuantizeOptions& options, const std::optional<at::Tensor>& order,
                        const std::optional<at::Tensor>& keep) const {
    std::optional<at::Tensor> zero_points;
    if (!options.symmetric) zero_points = zeros.to(at::kByte);
    return from_codes(codes.to(at::kByte), scales.to(options.scale_dtype), options.bits,
                      options.group_size, zero_points, order, keep);
  }
};

// The factor U of the inverse Hessian, inv(H) = U' U; empty where H is not positive definite.
at::Tensor inverse_factor(const at::Tensor& damped) {
  const auto [lower, info] = at::linalg_cholesky_ex(damped);
  if (info.item<int>() != 0) return {};
  const auto [upper, failed] = at::linalg_cholesky_ex(at::cholesky_inverse(lower), true);
  if (failed.item<int>() != 0 || !at::isfinite(upper).all().item<bool>()) return {};
  return upper;
}

// Rows are quantised in turn; the error of each is spread over the rows below it.
class GptqRun {
 public:
  GptqRun(at::Tensor w, at::Tensor upper, const at::Tensor& keep, const QuantizeOptions& options)
      : w_(std::move(w)),
        upper_(std::move(upper)),
        keep_(keep),
        options_(options),
        group_(group_rows(options, w_.size(0))),
        result_(w_, group_) {}

  void run(const Progress& progress) {
    constexpr std::int64_t block = 128;
    const std::int64_t rows = w_.size(0);
    for (std::int64_t begin = 0; begin < rows; begin += block) {
      progress("GPTQ", begin, rows);
      const std::int64_t end = std::min(begin + block, rows);
      const at::Tensor errors = at::zeros({end - begin, w_.size(1)}, w_.options());
      for (std::int64_t row = begin; row < end; ++row) {
        if (row % group_ == 0) start_group(row);
        const at::Tensor error = quantize_row(row);
        errors[row - begin].copy_(error);
        if (row + 1 < end) {
          w_.slice(0, row + 1, end).sub_(at::outer(upper_[row].slice(0, row + 1, end), error));
        }
      }
      if (end < rows) {
        w_.slice(0, end, rows)
            .sub_(upper_.slice(0, begin, end).slice(1, end, rows).t().matmul(errors));
      }
    }
  }

  const Result& result() const { return result_; }
  double loss() const { return loss_; }

 private:
  // The group's cost after the rows below it have made up for what they can: |d U_group^-1|^2.
  void start_group(std::int64_t row) {
    const std::int64_t end = std::min(row + group_, w_.size(0));
    const at::Tensor factor = upper_.slice(0, row, end).slice(1, row, end);
    at::Tensor rows = w_.slice(0, row, end);
    if (keep_.defined()) rows = rows * keep_.slice(0, row, end);
    grid_ = search_grid(rows, options_, [&](const at::Tensor& difference) {
      return squared_error(at::linalg_solve_triangular(factor.t(), difference, false));
    });
    result_.scales[row / group_].copy_(grid_.scale);
    result_.zeros[row / group_].copy_(grid_.zero);
  }

  at::Tensor quantize_row(std::int64_t row) {
    const at::Tensor w = w_[row];
    at::Tensor codes = to_codes(w, grid_, options_);
    if (keep_.defined()) codes = at::where(keep_[row], codes, grid_.zero);
    result_.codes[row].copy_(codes);
    const at::Tensor error = (w - from_grid(codes, grid_)) / upper_[row][row];
    loss_ += error.square().sum().item<double>() / 2;
    return error;
  }

  at::Tensor w_;
  at::Tensor upper_;
  at::Tensor keep_;
  QuantizeOptions options_;
  std::int64_t group_;
  Result result_;
  Grid grid_;
  double loss_ = 0;
};

}  // namespace

QuantizedWeights quantize_rtn(const at::Tensor& weights, const QuantizeOptions& options) {
  check_options(options);
  check_weights(weights);
  const c10::NoGradGuard no_gradients;
  std::optional<at::Tensor> keep;
  at::Tensor w = weights.to(at::kDouble);
  if (options.sparse_2_4) {
    keep = prune_mask_2_4(weights);
    w = w * *keep;
  }
  const std::int64_t group = group_rows(options, w.size(0));
  Result result(w, group);
  for (std::int64_t row = 0; row < w.size(0); row += group) {
    const at::Tensor rows = w.slice(0, row, std::min(row + group, w.size(0)));
    const Grid grid = search_grid(rows, options, squared_error);
    result.codes.slice(0, row, row + rows.size(0)).copy_(to_codes(rows, grid, options));
    result.scales[row / group].copy_(grid.scale);
    result.zeros[row / group].copy_(grid.zero);
  }
  return result.pack(options, std::nullopt, keep);
}

GptqResult gptq_quantize_hessian(const at::Tensor& weights, const at::Tensor& hessian,
                                 const QuantizeOptions& options, const Progress& progress) {
  check_options(options);
  check_weights(weights);
  require_dense(hessian, "hessian");
  const std::int64_t rows = weights.size(0);
  require(hessian.dim() == 2 && hessian.size(0) == rows && hessian.size(1) == rows &&
              at::isFloatingType(hessian.scalar_type()) && hessian.device() == weights.device(),
          "hessian: expected a floating matrix [{}, {}] on the device of the weights", rows, rows);
  require(at::isfinite(hessian).all().item<bool>(), "hessian: expected finite numbers");
  const c10::NoGradGuard no_gradients;
  at::Tensor w = weights.to(at::kDouble).clone();
  at::Tensor h = hessian.to(at::kDouble).clone();
  // Inputs that never occur say nothing about their weights.
  const at::Tensor dead = h.diagonal().eq(0);
  h.diagonal().masked_fill_(dead, 1);

  std::optional<at::Tensor> order;
  if (options.act_order) {
    order = h.diagonal().argsort(true, 0, true);
    w = w.index_select(0, *order);
    h = h.index_select(0, *order).index_select(1, *order);
  }
  std::optional<at::Tensor> keep;
  if (options.sparse_2_4) keep = prune_mask_2_4(w);

  GptqResult found;
  h.diagonal().add_(options.damping * h.diagonal().mean());
  at::Tensor upper = rows == 0 ? h : inverse_factor(h);
  found.factored = upper.defined();
  if (!found.factored) upper = at::eye(rows, h.options());
  GptqRun run(std::move(w), std::move(upper), keep.value_or(at::Tensor()), options);
  run.run(progress);
  found.loss = run.loss();
  found.weights = run.result().pack(options, order, keep);
  return found;
}

GptqResult gptq_quantize(const at::Tensor& weights, const at::Tensor& calibration,
                         const QuantizeOptions& options, const Progress& progress) {
  require_dense(calibration, "calibration");
  require_dense(weights, "weights");
  require(calibration.dim() == 2 && weights.dim() == 2 && calibration.size(0) >= 1 &&
              calibration.size(1) == weights.size(0) &&
              at::isFloatingType(calibration.scalar_type()),
          "calibration: expected floating inputs [n, K] with n >= 1 and K = {}",
          weights.dim() == 2 ? weights.size(0) : 0);
  const c10::NoGradGuard no_gradients;
  const at::Tensor x = calibration.to(at::kDouble).to(weights.device());
  const at::Tensor hessian = x.t().matmul(x) * (2.0 / static_cast<double>(x.size(0)));
  return gptq_quantize_hessian(weights, hessian, options, progress);
}

}  // namespace einkorn::marlin
