// Fitting hyper-parameter laws to tables of runs, and scoring laws on them.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "einkorn/core/files/csv.h"
#include "einkorn/core/progress.h"
#include "einkorn/scaling/step_law/step_law.h"

namespace einkorn::step_law {

// One pre-training run.
struct Run {
  double params = 0;            // N
  double tokens = 0;            // D
  double learning_rate = 0;     // peak
  double batch_sequences = 0;   // as tables of runs have it
  double loss = 0;              // final smooth loss, nats
  double activated_params = 0;  // of mixtures of experts; equal to params for dense models
  std::optional<double> flops_per_token =
      std::nullopt;  // from the model's shape, if the table has it
};

struct RunTable {
  std::vector<Run> runs;
  std::int64_t dropped = 0;             // rows without a loss
  std::int64_t sequence_length = 2048;  // tokens of one sequence
};

// Columns N, D, lr, bs (sequences) and "smooth loss" (else "loss"); used where present: Na, M, and
// the shape h, ffnh, numl. Throws BadFile for missing columns and for values that are not finite
// and > 0.
RunTable run_table(const CsvTable& table, std::int64_t sequence_length = 2048);
RunTable read_runs(const std::filesystem::path& path, std::int64_t sequence_length = 2048);

// The runs of one (N, D, activated N), in the order of the table.
struct RunGroup {
  double params = 0;
  double tokens = 0;
  std::vector<Run> runs;

  const Run& best() const;  // least loss; the first of equals
};

// Sorted by params, then tokens, then activated params.
std::vector<RunGroup> group_runs(const std::vector<Run>& runs);

struct FitOptions {
  double threshold = 0.0025;      // runs within this relative distance of their group's best, > 0
  std::int64_t resamples = 1000;  // >= 1
  std::uint64_t seed = 0;
  std::int64_t sequence_length = 2048;
  bool batch_on_params = false;  // regress ln B on ln N as well
};

struct Interval {
  double low = 0;   // 2.5th percentile, linear interpolation
  double high = 0;  // 97.5th
};

// Order of coefficients everywhere below: lr_intercept, lr_params, lr_tokens, batch_intercept,
// batch_tokens, batch_params (0 unless batch_on_params).
constexpr std::size_t coefficient_count = 6;
std::array<double, coefficient_count> as_array(const Coefficients& coefficients);
const std::array<const char*, coefficient_count>& coefficient_names();

struct LawFit {
  Coefficients least_squares;   // of the kept runs themselves
  Coefficients bootstrap_mean;  // mean of the resamples' coefficients
  std::array<std::array<double, coefficient_count>, coefficient_count> covariance = {};
  std::array<Interval, coefficient_count> intervals = {};
  std::int64_t kept = 0;
  std::int64_t groups = 0;
};

// The released procedure: keep runs near their group's best, resample them with replacement,
// ordinary least squares of ln lr on 1, ln N, ln D and of ln B (tokens) on 1, ln D (section 3.2 of
// the released code). The i-th resample depends on (seed, i) alone, not on the number of threads.
// A resample that does not determine the coefficients is drawn again. Throws InvalidArgument if the
// kept runs hold fewer than three different (N, D), or all on one line in (ln N, ln D).
LawFit fit_law(const std::vector<Run>& runs, const FitOptions& options = {},
               const Progress& progress = {});

// Loss of one group as a quadratic in x = ln lr, y = ln B (tokens):
//   L = c0 + c1 x + c2 y + c3 x^2 + c4 x y + c5 y^2.
struct Landscape {
  std::array<double, 6> coefficients = {};
  double learning_rate = 0;  // of the stationary point
  double batch_tokens = 0;
  double loss = 0;
  std::array<double, 3> hessian = {};      // xx, xy, yy
  std::array<double, 2> eigenvalues = {};  // ascending
  std::int64_t runs = 0;

  bool is_minimum() const { return eigenvalues[0] > 0; }

  // 0.5 s^T H s with s = (ln lr, ln B) - (ln lr*, ln B*): expected extra loss in nats.
  double excess(double lr, double batch) const;
};

// Least squares over the group's runs with loss <= window * best. Throws InvalidArgument unless at
// least six runs in general position remain, or window < 1.
Landscape fit_landscape(const RunGroup& group, std::int64_t sequence_length = 2048,
                        double window = 1.02);

// L = E + A / (N/1e9)^a + B / (D/1e9)^b over the groups' best runs: Huber loss (delta 1e-3) on the
// log residuals, from a grid of starts, by Ceres.
struct LossLaw {
  double irreducible = 0;  // E
  double params_factor = 0;
  double params_exponent = 0;
  double tokens_factor = 0;
  double tokens_exponent = 0;
  double objective = 0;           // sum of Huber losses
  double worst_log_residual = 0;  // in absolute value
  double predict(double params, double tokens) const;
};

// Throws InvalidArgument for fewer than five groups.
LossLaw fit_loss_law(const std::vector<RunGroup>& groups);

// How far from its group's best run a law's choice ends up.
struct GroupScore {
  double params = 0;
  double tokens = 0;
  double learning_rate = 0;    // the law's
  double batch_tokens = 0;     // the law's
  double relative_excess = 0;  // loss / best loss - 1 at the nearest run in (ln lr, ln B)
};

struct LawScore {
  Law law = Law::step;
  std::vector<GroupScore> groups;
  double mean = 0;  // relative excess
  double worst = 0;
};

struct ScoreOptions {
  std::int64_t sequence_length = 2048;
  std::int64_t least_runs = 1;  // groups with fewer runs are left out
  Constants constants = Constants::released;
};

// A law without a learning rate or a batch size of its own is scored with the group's best run's
// value in its place, so that only what it says counts against it. Laws in L get the group's best
// loss. Throws InvalidArgument if no group is left.
LawScore score_law(Law law, const std::vector<RunGroup>& groups, const ScoreOptions& options = {});

// The bundled table of landscapes derived from the published runs (data/step_law_groups.csv).
struct StudiedGroup {
  double params = 0;
  double tokens = 0;
  double flops_per_token = 0;
  std::int64_t runs = 0;
  double best_learning_rate = 0;
  double best_batch_tokens = 0;
  double best_loss = 0;
  Landscape landscape;
};
std::vector<StudiedGroup> studied_groups();

// Relative excess loss of a law on the landscapes: excess / loss at the minimum, one value a group.
std::vector<double> landscape_excess(Law law, const std::vector<StudiedGroup>& groups,
                                     Constants constants = Constants::released);

}  // namespace einkorn::step_law
