#include "einkorn/scaling/step_law/step_law_fit.h"

#include <ATen/Parallel.h>
#include <ceres/ceres.h>

#include <Eigen/Dense>
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <set>
#include <tuple>

#include "einkorn/core/data.h"
#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"
#include "einkorn/scaling/step_law/bootstrap_kernels.h"

namespace einkorn::step_law {
namespace {

// A column with its place in the file, for messages.
std::vector<double> positive_column(const CsvTable& table, const std::string& name,
                                    bool allow_empty = false) {
  std::vector<double> values = table.numbers(name, allow_empty);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool missing = allow_empty && std::isnan(values[i]);
    if (missing || (std::isfinite(values[i]) && values[i] > 0)) continue;
    throw BadFile(table.path, fmt::format("line {}, column '{}'", table.lines[i], name),
                  fmt::format("expected a finite number > 0, got {}", values[i]));
  }
  return values;
}

double batch_tokens_of(const Run& run, std::int64_t sequence_length) {
  return run.batch_sequences * static_cast<double>(sequence_length);
}

// ln N, ln D, ln lr and ln B of the kept runs, less their means: the normal equations of columns
// near 20 and 24 with a constant would lose half of the digits.
struct CentredRuns {
  double mean_params = 0;
  double mean_tokens = 0;
  double mean_lr = 0;
  double mean_batch = 0;
  std::vector<double> moments;  // [rows][moment_width]
  std::int64_t rows = 0;
};

// Positions in a row of moments, and in sums of rows.
enum Moment { u, w, uu, uw, ww, p, pu, pw, q, qu, qw, moment_count };
static_assert(moment_count <= moment_width);

std::vector<Run> near_best(const std::vector<RunGroup>& groups, double threshold) {
  std::vector<Run> kept;
  for (const RunGroup& group : groups) {
    const double best = group.best().loss;
    for (const Run& run : group.runs) {
      if (std::abs(run.loss / best - 1) < threshold) kept.push_back(run);
    }
  }
  return kept;
}

CentredRuns centred(const std::vector<Run>& runs, std::int64_t sequence_length) {
  CentredRuns result;
  result.rows = static_cast<std::int64_t>(runs.size());
  const auto mean = [&](auto value) {
    double sum = 0;
    for (const Run& run : runs) sum += value(run);
    return sum / static_cast<double>(runs.size());
  };
  const auto log_params = [](const Run& run) { return std::log(run.params); };
  const auto log_tokens = [](const Run& run) { return std::log(run.tokens); };
  const auto log_lr = [](const Run& run) { return std::log(run.learning_rate); };
  const auto log_batch = [&](const Run& run) {
    return std::log(batch_tokens_of(run, sequence_length));
  };
  result.mean_params = mean(log_params);
  result.mean_tokens = mean(log_tokens);
  result.mean_lr = mean(log_lr);
  result.mean_batch = mean(log_batch);
  result.moments.assign(runs.size() * moment_width, 0.0);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const double x = log_params(runs[i]) - result.mean_params;
    const double y = log_tokens(runs[i]) - result.mean_tokens;
    const double rate = log_lr(runs[i]) - result.mean_lr;
    const double batch = log_batch(runs[i]) - result.mean_batch;
    double* row = result.moments.data() + i * moment_width;
    row[u] = x;
    row[w] = y;
    row[uu] = x * x;
    row[uw] = x * y;
    row[ww] = y * y;
    row[p] = rate;
    row[pu] = rate * x;
    row[pw] = rate * y;
    row[q] = batch;
    row[qu] = batch * x;
    row[qw] = batch * y;
  }
  return result;
}

// Solves both regressions from sums of moments; empty if the rows do not determine them.
std::optional<Coefficients> solve(const double* sums, const CentredRuns& runs,
                                  bool batch_on_params) {
  const auto n = static_cast<double>(runs.rows);
  const auto centred_product = [&](Moment product, Moment a, Moment b) {
    return sums[product] - sums[a] * sums[b] / n;
  };
  const double cuu = centred_product(uu, u, u);
  const double cuw = centred_product(uw, u, w);
  const double cww = centred_product(ww, w, w);
  const double determinant = cuu * cww - cuw * cuw;
  if (!(determinant > 1e-10 * cuu * cww)) return std::nullopt;
  const auto slopes = [&](double along_u, double along_w) {
    return std::pair{(cww * along_u - cuw * along_w) / determinant,
                     (cuu * along_w - cuw * along_u) / determinant};
  };
  const double at_u = runs.mean_params + sums[u] / n;
  const double at_w = runs.mean_tokens + sums[w] / n;
  Coefficients c;
  std::tie(c.lr_params, c.lr_tokens) = slopes(centred_product(pu, p, u), centred_product(pw, p, w));
  c.lr_intercept = runs.mean_lr + sums[p] / n - c.lr_params * at_u - c.lr_tokens * at_w;
  const double along_w = centred_product(qw, q, w);
  if (batch_on_params) {
    std::tie(c.batch_params, c.batch_tokens) = slopes(centred_product(qu, q, u), along_w);
  } else {
    c.batch_tokens = along_w / cww;
  }
  c.batch_intercept = runs.mean_batch + sums[q] / n - c.batch_params * at_u - c.batch_tokens * at_w;
  return c;
}

// One resample that the first draw left undetermined: drawn again until it is determined.
Coefficients solve_again(const CentredRuns& runs, const FitOptions& options,
                         std::int64_t resample) {
  constexpr std::uint32_t most_attempts = 1000;
  double sums[moment_width];
  for (std::uint32_t attempt = 1; attempt < most_attempts; ++attempt) {
    resample_moments(runs.moments.data(), runs.rows, options.seed, attempt, resample, resample + 1,
                     sums);
    if (const auto c = solve(sums, runs, options.batch_on_params)) return *c;
  }
  throw InvalidArgument(
      "the runs near the best are too few to bootstrap: nearly every resample "
      "leaves the coefficients undetermined");
}

using CoefficientRow = std::array<double, coefficient_count>;

std::vector<CoefficientRow> bootstrap(const CentredRuns& runs, const FitOptions& options,
                                      const Progress& progress) {
  constexpr std::int64_t block = 256;
  std::vector<CoefficientRow> rows(static_cast<std::size_t>(options.resamples));
  // Progress is reported between slices, from the calling thread.
  const std::int64_t slice = std::max<std::int64_t>(block, 1 << 18);
  for (std::int64_t first = 0; first < options.resamples; first += slice) {
    progress("bootstrap", first, options.resamples);
    const std::int64_t last = std::min(first + slice, options.resamples);
    at::parallel_for(first, last, block, [&](std::int64_t begin, std::int64_t end) {
      std::array<double, block * moment_width> sums;
      for (std::int64_t from = begin; from < end; from += block) {
        const std::int64_t to = std::min(from + block, end);
        resample_moments(runs.moments.data(), runs.rows, options.seed, 0, from, to, sums.data());
        for (std::int64_t r = from; r < to; ++r) {
          const auto solved =
              solve(sums.data() + (r - from) * moment_width, runs, options.batch_on_params);
          rows[static_cast<std::size_t>(r)] =
              as_array(solved ? *solved : solve_again(runs, options, r));
        }
      }
    });
  }
  return rows;
}

// The value at fraction of the way through the sorted values, linearly between neighbours.
double percentile(std::vector<double>& values, double fraction) {
  const double position = fraction * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(position);
  std::nth_element(values.begin(), values.begin() + below, values.end());
  const double low = values[static_cast<std::size_t>(below)];
  if (static_cast<std::size_t>(below) + 1 == values.size()) return low;
  const double high = *std::min_element(values.begin() + below + 1, values.end());
  return low + (position - static_cast<double>(below)) * (high - low);
}

void summarise(const std::vector<CoefficientRow>& rows, LawFit& fit) {
  const auto count = static_cast<double>(rows.size());
  CoefficientRow mean = {};
  for (const CoefficientRow& row : rows) {
    for (std::size_t i = 0; i < coefficient_count; ++i) mean[i] += row[i] / count;
  }
  for (const CoefficientRow& row : rows) {
    for (std::size_t i = 0; i < coefficient_count; ++i) {
      for (std::size_t j = 0; j < coefficient_count; ++j) {
        fit.covariance[i][j] += (row[i] - mean[i]) * (row[j] - mean[j]) / std::max(count - 1, 1.0);
      }
    }
  }
  std::vector<double> column(rows.size());
  for (std::size_t i = 0; i < coefficient_count; ++i) {
    for (std::size_t r = 0; r < rows.size(); ++r) column[r] = rows[r][i];
    fit.intervals[i] = {percentile(column, 0.025), percentile(column, 0.975)};
  }
  fit.bootstrap_mean = {.lr_intercept = mean[0],
                        .lr_params = mean[1],
                        .lr_tokens = mean[2],
                        .batch_intercept = mean[3],
                        .batch_tokens = mean[4],
                        .batch_params = mean[5]};
}

// ln prediction - ln loss, with the three factors as logarithms so that they stay positive.
struct LossResidual {
  double params;  // in 1e9
  double tokens;
  double loss;

  template <typename T>
  bool operator()(const T* theta, T* residual) const {
    using std::exp;
    using std::log;
    const T prediction = exp(theta[0]) + exp(theta[1] - theta[2] * std::log(params)) +
                         exp(theta[3] - theta[4] * std::log(tokens));
    residual[0] = log(prediction) - std::log(loss);
    return true;
  }
};

constexpr double loss_unit = 1e9;  // N and D are counted in these
constexpr double huber_delta = 1e-3;

LossLaw loss_law_from(const std::vector<RunGroup>& groups, std::array<double, 5> theta) {
  ceres::Problem problem;
  for (const RunGroup& group : groups) {
    problem.AddResidualBlock(
        new ceres::AutoDiffCostFunction<LossResidual, 1, 5>(new LossResidual{
            group.params / loss_unit, group.tokens / loss_unit, group.best().loss}),
        new ceres::HuberLoss(huber_delta), theta.data());
  }
  ceres::Solver::Options options;
  options.max_num_iterations = 2000;
  options.function_tolerance = 1e-15;
  options.parameter_tolerance = 1e-13;
  options.gradient_tolerance = 1e-15;
  options.linear_solver_type = ceres::DENSE_QR;
  options.logging_type = ceres::SILENT;
  ceres::Solver::Summary summary;
  ceres::Solve(options, &problem, &summary);
  LossLaw law;
  law.irreducible = std::exp(theta[0]);
  law.params_factor = std::exp(theta[1]);
  law.params_exponent = theta[2];
  law.tokens_factor = std::exp(theta[3]);
  law.tokens_exponent = theta[4];
  law.objective = summary.final_cost;
  for (const RunGroup& group : groups) {
    const double residual = std::log(law.predict(group.params, group.tokens) / group.best().loss);
    law.worst_log_residual = std::max(law.worst_log_residual, std::abs(residual));
  }
  return law;
}

double squared_distance(const Run& run, double log_lr, double log_batch,
                        std::int64_t sequence_length) {
  const double dx = std::log(run.learning_rate) - log_lr;
  const double dy = std::log(batch_tokens_of(run, sequence_length)) - log_batch;
  return dx * dx + dy * dy;
}

}  // namespace

RunTable run_table(const CsvTable& table, std::int64_t sequence_length) {
  require(sequence_length >= 1, "sequence_length: expected a whole number >= 1, got {}",
          sequence_length);
  const std::string loss_column =
      table.has("smooth loss") || !table.has("loss") ? "smooth loss" : "loss";
  const auto params = positive_column(table, "N");
  const auto tokens = positive_column(table, "D");
  const auto rates = positive_column(table, "lr");
  const auto batches = positive_column(table, "bs");
  const auto losses = positive_column(table, loss_column, /*allow_empty=*/true);
  std::vector<double> activated = params;
  if (table.has("Na")) activated = positive_column(table, "Na");
  std::vector<double> flops;
  if (table.has("M")) {
    flops = positive_column(table, "M");
  } else if (table.has("h") && table.has("ffnh") && table.has("numl")) {
    const auto hidden = positive_column(table, "h");
    const auto ffn = positive_column(table, "ffnh");
    const auto layers = positive_column(table, "numl");
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      flops.push_back(
          flops_per_token(hidden[i], ffn[i], layers[i], static_cast<double>(sequence_length)));
    }
  }
  RunTable result;
  result.sequence_length = sequence_length;
  for (std::size_t i = 0; i < params.size(); ++i) {
    if (std::isnan(losses[i])) {
      ++result.dropped;
      continue;
    }
    Run run{params[i], tokens[i], rates[i], batches[i], losses[i], activated[i]};
    if (!flops.empty()) run.flops_per_token = flops[i];
    result.runs.push_back(run);
  }
  if (result.runs.empty()) throw BadFile(table.path, "", "holds no run with a loss");
  return result;
}

RunTable read_runs(const std::filesystem::path& path, std::int64_t sequence_length) {
  return run_table(read_csv(path), sequence_length);
}

const Run& RunGroup::best() const {
  return *std::min_element(runs.begin(), runs.end(),
                           [](const Run& a, const Run& b) { return a.loss < b.loss; });
}

std::vector<RunGroup> group_runs(const std::vector<Run>& runs) {
  std::map<std::tuple<double, double, double>, RunGroup> groups;
  for (const Run& run : runs) {
    RunGroup& group = groups[{run.params, run.tokens, run.activated_params}];
    group.params = run.params;
    group.tokens = run.tokens;
    group.runs.push_back(run);
  }
  std::vector<RunGroup> sorted;
  for (auto& entry : groups) sorted.push_back(std::move(entry.second));
  return sorted;
}

std::array<double, coefficient_count> as_array(const Coefficients& c) {
  return {c.lr_intercept,    c.lr_params,    c.lr_tokens,
          c.batch_intercept, c.batch_tokens, c.batch_params};
}

const std::array<const char*, coefficient_count>& coefficient_names() {
  static const std::array<const char*, coefficient_count> names = {
      "lr_intercept", "lr_params", "lr_tokens", "batch_intercept", "batch_tokens", "batch_params"};
  return names;
}

LawFit fit_law(const std::vector<Run>& runs, const FitOptions& options, const Progress& progress) {
  require(options.threshold > 0, "threshold: expected a number > 0, got {}", options.threshold);
  require(options.resamples >= 1, "resamples: expected a whole number >= 1, got {}",
          options.resamples);
  require(options.sequence_length >= 1, "sequence_length: expected a whole number >= 1, got {}",
          options.sequence_length);
  // Draws are numbered by 32-bit words.
  require(runs.size() < (std::size_t{1} << 31), "runs: more than 2^31 are not supported");
  const auto groups = group_runs(runs);
  const std::vector<Run> kept = near_best(groups, options.threshold);
  std::set<std::pair<double, double>> places;
  for (const Run& run : kept) places.insert({run.params, run.tokens});
  require(places.size() >= 3, "a fit needs runs of at least three different (N, D), got {}",
          places.size());
  const CentredRuns centre = centred(kept, options.sequence_length);

  LawFit fit;
  fit.kept = centre.rows;
  fit.groups = static_cast<std::int64_t>(groups.size());
  double sums[moment_width] = {};
  for (std::size_t i = 0; i < kept.size(); ++i) {
    for (std::size_t m = 0; m < moment_width; ++m) sums[m] += centre.moments[i * moment_width + m];
  }
  const auto all = solve(sums, centre, options.batch_on_params);
  require(all.has_value(),
          "the runs' (ln N, ln D) lie on one line, so the exponents cannot be told apart");
  fit.least_squares = *all;

  const auto count = static_cast<double>(options.resamples);
  const auto rows = static_cast<double>(centre.rows);
  Trace trace(
      "step_law.fit_law", "bootstrap",
      [&] { return fmt::format("rows={} resamples={}", centre.rows, options.resamples); },
      Work{count * rows * moment_width, count * sizeof(CoefficientRow)});
  summarise(bootstrap(centre, options, progress), fit);
  return fit;
}

double Landscape::excess(double lr, double batch) const {
  const double x = std::log(lr / learning_rate);
  const double y = std::log(batch / batch_tokens);
  return 0.5 * (hessian[0] * x * x + 2 * hessian[1] * x * y + hessian[2] * y * y);
}

Landscape fit_landscape(const RunGroup& group, std::int64_t sequence_length, double window) {
  require(window >= 1, "window: expected a number >= 1, got {}", window);
  require(!group.runs.empty(), "the group holds no runs");
  const double limit = window * group.best().loss;
  std::vector<std::array<double, 3>> points;
  for (const Run& run : group.runs) {
    if (run.loss > limit) continue;
    points.push_back(
        {std::log(run.learning_rate), std::log(batch_tokens_of(run, sequence_length)), run.loss});
  }
  const auto count = static_cast<Eigen::Index>(points.size());
  require(count >= 6, "a landscape needs at least 6 runs within {:.4g} of the best, got {}", window,
          count);
  double centre_x = 0;
  double centre_y = 0;
  for (const auto& point : points) {
    centre_x += point[0] / static_cast<double>(count);
    centre_y += point[1] / static_cast<double>(count);
  }
  Eigen::MatrixXd columns(count, 6);
  Eigen::VectorXd losses(count);
  for (Eigen::Index i = 0; i < count; ++i) {
    const double x = points[static_cast<std::size_t>(i)][0] - centre_x;
    const double y = points[static_cast<std::size_t>(i)][1] - centre_y;
    columns.row(i) << 1, x, y, x * x, x * y, y * y;
    losses(i) = points[static_cast<std::size_t>(i)][2];
  }
  const auto factors = columns.colPivHouseholderQr();
  require(factors.rank() == 6,
          "the runs' (lr, batch) do not determine a quadratic: vary both more widely");
  const Eigen::VectorXd c = factors.solve(losses);

  Landscape landscape;
  landscape.runs = count;
  landscape.hessian = {2 * c(3), c(4), 2 * c(5)};
  Eigen::Matrix2d hessian;
  hessian << 2 * c(3), c(4), c(4), 2 * c(5);
  const Eigen::Vector2d values =
      Eigen::SelfAdjointEigenSolver<Eigen::Matrix2d>(hessian).eigenvalues();
  landscape.eigenvalues = {values(0), values(1)};
  const Eigen::Vector2d step = hessian.fullPivLu().solve(Eigen::Vector2d(-c(1), -c(2)));
  landscape.learning_rate = std::exp(centre_x + step(0));
  landscape.batch_tokens = std::exp(centre_y + step(1));
  landscape.loss = c(0) + 0.5 * (c(1) * step(0) + c(2) * step(1));
  // Back from centred to plain coordinates.
  const double a = centre_x;
  const double b = centre_y;
  landscape.coefficients = {c(0) - c(1) * a - c(2) * b + c(3) * a * a + c(4) * a * b + c(5) * b * b,
                            c(1) - 2 * c(3) * a - c(4) * b,
                            c(2) - c(4) * a - 2 * c(5) * b,
                            c(3),
                            c(4),
                            c(5)};
  return landscape;
}

double LossLaw::predict(double params, double tokens) const {
  return irreducible + params_factor * std::pow(params / loss_unit, -params_exponent) +
         tokens_factor * std::pow(tokens / loss_unit, -tokens_exponent);
}

LossLaw fit_loss_law(const std::vector<RunGroup>& groups) {
  require(groups.size() >= 5, "a loss law has five parameters and needs as many groups, got {}",
          groups.size());
  double least = std::numeric_limits<double>::infinity();
  for (const RunGroup& group : groups) least = std::min(least, group.best().loss);
  std::optional<LossLaw> best;
  for (const double irreducible : {0.3 * least, 0.6 * least, 0.9 * least}) {
    for (const double params_exponent : {0.1, 0.3, 0.6}) {
      for (const double tokens_exponent : {0.1, 0.3, 0.6}) {
        const double rest = std::log(0.5 * (least - irreducible));
        const LossLaw law = loss_law_from(
            groups, {std::log(irreducible), rest, params_exponent, rest, tokens_exponent});
        if (!best || law.objective < best->objective) best = law;
      }
    }
  }
  return *best;
}

LawScore score_law(Law law, const std::vector<RunGroup>& groups, const ScoreOptions& options) {
  LawScore score;
  score.law = law;
  for (const RunGroup& group : groups) {
    if (static_cast<std::int64_t>(group.runs.size()) < options.least_runs) continue;
    const Run& best = group.best();
    const Answer answer = evaluate(
        law, {group.params, group.tokens, best.flops_per_token, best.loss}, options.constants);
    GroupScore one{group.params, group.tokens, answer.learning_rate.value_or(best.learning_rate),
                   answer.batch_tokens.value_or(batch_tokens_of(best, options.sequence_length)), 0};
    const double log_lr = std::log(one.learning_rate);
    const double log_batch = std::log(one.batch_tokens);
    const auto nearest =
        std::min_element(group.runs.begin(), group.runs.end(), [&](const Run& a, const Run& b) {
          return squared_distance(a, log_lr, log_batch, options.sequence_length) <
                 squared_distance(b, log_lr, log_batch, options.sequence_length);
        });
    one.relative_excess = nearest->loss / best.loss - 1;
    score.groups.push_back(one);
  }
  require(!score.groups.empty(), "no group has {} runs or more", options.least_runs);
  for (const GroupScore& one : score.groups) {
    score.mean += one.relative_excess / static_cast<double>(score.groups.size());
    score.worst = std::max(score.worst, one.relative_excess);
  }
  return score;
}

std::vector<StudiedGroup> studied_groups() {
  const CsvTable table = read_csv(bundled_data("step_law_groups.csv"));
  const auto column = [&](const char* name) { return table.numbers(name); };
  const auto params = column("params");
  const auto tokens = column("tokens");
  const auto flops = column("flops_per_token");
  const auto runs = column("runs");
  const auto best_lr = column("best_learning_rate");
  const auto best_batch = column("best_batch_tokens");
  const auto best_loss = column("best_loss");
  const auto lr = column("landscape_learning_rate");
  const auto batch = column("landscape_batch_tokens");
  const auto loss = column("landscape_loss");
  const auto xx = column("hessian_xx");
  const auto xy = column("hessian_xy");
  const auto yy = column("hessian_yy");
  const auto used = column("landscape_runs");
  std::vector<StudiedGroup> groups;
  for (std::size_t i = 0; i < params.size(); ++i) {
    StudiedGroup group{params[i],  tokens[i],     flops[i],     static_cast<std::int64_t>(runs[i]),
                       best_lr[i], best_batch[i], best_loss[i], {}};
    group.landscape.learning_rate = lr[i];
    group.landscape.batch_tokens = batch[i];
    group.landscape.loss = loss[i];
    group.landscape.hessian = {xx[i], xy[i], yy[i]};
    const double half_trace = 0.5 * (xx[i] + yy[i]);
    const double radius = std::hypot(0.5 * (xx[i] - yy[i]), xy[i]);
    group.landscape.eigenvalues = {half_trace - radius, half_trace + radius};
    group.landscape.runs = static_cast<std::int64_t>(used[i]);
    groups.push_back(group);
  }
  return groups;
}

std::vector<double> landscape_excess(Law law, const std::vector<StudiedGroup>& groups,
                                     Constants constants) {
  std::vector<double> excesses;
  for (const StudiedGroup& group : groups) {
    const Answer answer = evaluate(
        law, {group.params, group.tokens, group.flops_per_token, group.best_loss}, constants);
    const double excess =
        group.landscape.excess(answer.learning_rate.value_or(group.landscape.learning_rate),
                               answer.batch_tokens.value_or(group.landscape.batch_tokens));
    excesses.push_back(excess / group.landscape.loss);
  }
  return excesses;
}

}  // namespace einkorn::step_law
