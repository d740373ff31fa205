#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "einkorn/core/error.h"
#include "einkorn/scaling/step_law/step_law_demonstration_internal.h"

namespace einkorn::step_law {
namespace {

constexpr double window = 1.02;  // the study's: runs within 2 % of the best make the landscape

// 2^first, 2^(first + 1), ..., 2^last.
template <typename Number>
std::vector<Number> octaves(int first, int last) {
  std::vector<Number> values;
  for (int i = first; i <= last; ++i) values.push_back(static_cast<Number>(std::exp2(i)));
  return values;
}

Study study(std::int64_t hidden, int log2_tokens, std::pair<int, int> log2_rates,
            std::pair<int, int> log2_batches, std::int64_t seeds) {
  return {hidden, std::int64_t{1} << log2_tokens,
          octaves<double>(log2_rates.first, log2_rates.second),
          octaves<std::int64_t>(log2_batches.first, log2_batches.second), seeds};
}

// None where too few runs are near the best to determine one.
std::optional<Landscape> landscape_of(const RunGroup& group) {
  try {
    return fit_landscape(group, training_sequence_length, window);
  } catch (const InvalidArgument&) {
    return std::nullopt;
  }
}

struct Optimum {
  const TrainedStudy& trained;
  std::optional<Landscape> landscape;
  double rate_error = NAN;   // standard error of ln lr*, by the jackknife over seeds
  double batch_error = NAN;  // of ln B*

  bool convex() const { return landscape && landscape->is_minimum(); }

  // A stationary point beyond the runs is an extrapolation of the quadratic and says nothing.
  bool inside() const {
    if (!convex()) return false;
    const Study& grid = trained.study;
    const double batch = landscape->batch_tokens;
    const double rate = landscape->learning_rate / Study::root_of_batch(batch);
    return rate >= grid.rates.front() && rate <= grid.rates.back() &&
           batch >= static_cast<double>(grid.batches.front()) &&
           batch <= static_cast<double>(grid.batches.back());
  }
};

double jackknife_error(const std::vector<double>& leave_one_out) {
  const auto count = static_cast<double>(leave_one_out.size());
  double mean = 0;
  for (const double value : leave_one_out) mean += value / count;
  double squares = 0;
  for (const double value : leave_one_out) squares += (value - mean) * (value - mean);
  return std::sqrt((count - 1) / count * squares);
}

Optimum find_optimum(const TrainedStudy& trained) {
  Optimum optimum{trained, landscape_of(trained.group())};
  if (trained.study.seeds < 2) return optimum;
  std::vector<double> rates;
  std::vector<double> batches;
  for (std::int64_t seed = 0; seed < trained.study.seeds; ++seed) {
    const std::optional<Landscape> without = landscape_of(trained.group(seed));
    if (!without || !without->is_minimum()) return optimum;
    rates.push_back(std::log(without->learning_rate));
    batches.push_back(std::log(without->batch_tokens));
  }
  optimum.rate_error = jackknife_error(rates);
  optimum.batch_error = jackknife_error(batches);
  return optimum;
}

struct Exponent {
  double value = NAN;
  double error = NAN;  // standard, from the optima's
};

// Slopes of ln lr* and ln B* in ln N and ln D, by least squares over the optima that lie within
// their grids; NaN where these do not determine them.
struct Exponents {
  Exponent rate_in_params;
  Exponent rate_in_tokens;
  Exponent batch_in_params;
  Exponent batch_in_tokens;
};

Exponents fit_exponents(const std::vector<Optimum>& optima) {
  std::vector<const Optimum*> usable;
  for (const Optimum& optimum : optima) {
    if (optimum.inside()) usable.push_back(&optimum);
  }
  const auto count = static_cast<Eigen::Index>(usable.size());
  if (count < 3) return {};
  Eigen::MatrixXd columns(count, 3);
  Eigen::MatrixXd values(count, 2);
  Eigen::MatrixXd variances(count, 2);
  for (Eigen::Index row = 0; row < count; ++row) {
    const Optimum& optimum = *usable[static_cast<std::size_t>(row)];
    columns.row(row) << 1, std::log(static_cast<double>(optimum.trained.params)),
        std::log(static_cast<double>(optimum.trained.study.tokens));
    values.row(row) << std::log(optimum.landscape->learning_rate),
        std::log(optimum.landscape->batch_tokens);
    variances.row(row) << optimum.rate_error * optimum.rate_error,
        optimum.batch_error * optimum.batch_error;
  }
  const auto factors = columns.colPivHouseholderQr();
  if (factors.rank() < 3) return {};
  const Eigen::MatrixXd weights = factors.solve(Eigen::MatrixXd::Identity(count, count));
  const Eigen::MatrixXd slopes = weights * values;
  const Eigen::MatrixXd errors = (weights.cwiseAbs2() * variances).cwiseSqrt();
  const auto exponent = [&](Eigen::Index of, Eigen::Index in) {
    return Exponent{slopes(in, of), errors(in, of)};
  };
  return {exponent(0, 1), exponent(0, 2), exponent(1, 1), exponent(1, 2)};
}

Table optima_table(const std::vector<Optimum>& optima) {
  Table table{"Optima of models trained here, from the runs within 2 % of the best",
              {"hidden", "N", "D", "lr*", "lr* error (x)", "B* (tokens)", "B* error (x)",
               "loss (nats)", "least curvature", "runs kept", "of"},
              {}};
  for (const Optimum& optimum : optima) {
    const Study& grid = optimum.trained.study;
    const auto shown = [&](double Landscape::* value) {
      return optimum.landscape ? *optimum.landscape.*value : NAN;
    };
    table.rows.push_back({grid.hidden, optimum.trained.params, grid.tokens,
                          shown(&Landscape::learning_rate), std::exp(optimum.rate_error),
                          shown(&Landscape::batch_tokens), std::exp(optimum.batch_error),
                          shown(&Landscape::loss),
                          optimum.landscape ? optimum.landscape->eigenvalues[0] : NAN,
                          optimum.landscape ? optimum.landscape->runs : 0,
                          static_cast<std::int64_t>(grid.rates.size() * grid.batches.size())});
  }
  return table;
}

Table exponents_table(const Exponents& exponents) {
  const Coefficients law = step_coefficients(Constants::released);
  Table table{"Exponents of the optima trained here, and the law's",
              {"exponent", "trained here", "error", "Step Law"},
              {}};
  const auto add = [&](const char* name, const Exponent& exponent, double of_law) {
    table.rows.push_back({name, exponent.value, exponent.error, of_law});
  };
  add("learning rate in N", exponents.rate_in_params, law.lr_params);
  add("learning rate in D", exponents.rate_in_tokens, law.lr_tokens);
  add("batch in N", exponents.batch_in_params, law.batch_params);
  add("batch in D", exponents.batch_in_tokens, law.batch_tokens);
  return table;
}

Plot losses_plot(const TrainedStudy& trained) {
  Plot plot{fmt::format("Trained here: N {}, D {}", trained.params, trained.study.tokens),
            "learning rate",
            "held-out loss (nats), mean over seeds",
            {},
            true};
  std::map<double, Series> by_batch;
  for (const Run& run : trained.group().runs) {
    const double tokens = run.batch_sequences * training_sequence_length;
    Series& series = by_batch[tokens];
    series.name = fmt::format("batch of {:g} tokens", tokens);
    series.mark = Mark::line_points;
    series.x.push_back(run.learning_rate);
    series.y.push_back(run.loss);
  }
  for (auto& [tokens, series] : by_batch) plot.series.push_back(std::move(series));
  return plot;
}

}  // namespace

// Placed about the lowest losses of a sweep that was made once with other seeds (README.md). All
// studies of a device share one grid of learning rates, those of one D their batches too.
std::vector<Study> demonstration_studies(Device device) {
  if (device == Device::cpu) {
    return {study(32, 16, {-12, -8}, {4, 10}, 2), study(64, 16, {-12, -8}, {4, 10}, 2),
            study(32, 19, {-12, -8}, {6, 11}, 2)};
  }
  std::vector<Study> all;
  for (const std::int64_t hidden : {32, 64, 128}) {
    for (const auto& [log2_tokens, log2_batches] :
         {std::pair{16, std::pair{4, 10}}, std::pair{17, std::pair{4, 10}},
          std::pair{18, std::pair{5, 11}}, std::pair{19, std::pair{6, 11}}}) {
      all.push_back(study(hidden, log2_tokens, {-13, -8}, log2_batches, 4));
    }
  }
  return all;
}

void judge_trained(const std::vector<TrainedStudy>& trained, Evidence& evidence) {
  std::vector<Optimum> optima;
  for (const TrainedStudy& one : trained) {
    optima.push_back(find_optimum(one));
    evidence.plots.push_back(losses_plot(one));
  }
  const auto share = [&](auto&& holds) {
    return static_cast<double>(std::count_if(optima.begin(), optima.end(), holds)) /
           static_cast<double>(optima.size());
  };
  evidence.checks.push_back({"share of landscapes trained here that are convex",
                             share([](const Optimum& one) { return one.convex(); }),
                             Relation::at_least, 2.0 / 3});
  evidence.checks.push_back({"share of optima trained here that lie within their grid",
                             share([](const Optimum& one) { return one.inside(); }),
                             Relation::at_least, 1});
  const Exponents exponents = fit_exponents(optima);
  evidence.checks.push_back({"exponent of the best learning rate in N, trained here",
                             exponents.rate_in_params.value, Relation::less, 0});
  evidence.checks.push_back({"exponent of the best batch in D, trained here",
                             exponents.batch_in_tokens.value, Relation::greater, 0});
  evidence.tables.push_back(optima_table(optima));
  evidence.tables.push_back(exponents_table(exponents));
}

}  // namespace einkorn::step_law
