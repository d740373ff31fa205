#include "einkorn/core/system.h"

#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/core/files/csv.h"
#include "einkorn/core/files/npy.h"
#include "einkorn/core/python_peer.h"
#include "einkorn/core/random.h"
#include "einkorn/scaling/step_law/step_law.h"
#include "einkorn/scaling/step_law/step_law_experiments.h"
#include "einkorn/scaling/step_law/step_law_fit.h"

namespace einkorn::step_law {
namespace {

std::vector<std::string> law_names() {
  std::vector<std::string> names;
  for (const Law law : all_laws()) names.push_back(to_string(law));
  return names;
}

Option sequence_length_option() {
  return integer("sequence-length")
      .at_least(1)
      .otherwise(2048)
      .unit("tokens")
      .help("length of one training sequence");
}

Option constants_option() {
  return choice("constants", {"released", "paper"})
      .otherwise("released")
      .help("the Step Law's constants: means of the released bootstrap, or as printed");
}

Constants constants_of(const Options& options) {
  return options.text("constants") == "paper" ? Constants::paper : Constants::released;
}

std::optional<double> real_if_given(const Options& options, const char* name) {
  if (!options.has(name)) return std::nullopt;
  return options.real(name);
}

Table split_table(std::int64_t sequences, std::int64_t data_parallel, std::int64_t max_micro) {
  Table table{
      "Splits of the batch", {"micro batch", "accumulation", "data parallel", "sequences"}, {}};
  for (const BatchSplit& split : batch_splits(sequences, data_parallel, max_micro)) {
    table.rows.push_back(
        {split.micro_batch, split.accumulation, split.data_parallel, split.sequences});
  }
  return table;
}

Plot rate_plot(double params, double tokens, const SuggestOptions& options) {
  Plot plot{
      "Peak learning rate at this model size", "training tokens", "learning rate", {}, true, true};
  Series middle{"suggested", {}, {}, Mark::line};
  Series low{"95 % low", {}, {}, Mark::line};
  Series high{"95 % high", {}, {}, Mark::line};
  for (double factor = 0.01; factor < 101; factor *= std::pow(10, 0.125)) {
    const Suggestion at = suggest(params, tokens * factor, options);
    if (!at.learning_rate || !at.learning_rate_band) return plot;
    middle.x.push_back(tokens * factor);
    middle.y.push_back(*at.learning_rate);
    low.x.push_back(tokens * factor);
    low.y.push_back(at.learning_rate_band->low);
    high.x.push_back(tokens * factor);
    high.y.push_back(at.learning_rate_band->high);
  }
  plot.series = {middle, low, high};
  return plot;
}

Report run_suggest(const Options& options, const Progress&) {
  const double params = options.real("params");
  const double tokens = options.real("tokens");
  SuggestOptions how;
  how.law = parse_law(options.text("law"));
  how.constants = constants_of(options);
  how.sequence_length = options.integer("sequence-length");
  how.round_sequences_to = options.integer("round-to");
  how.flops_per_token = real_if_given(options, "flops-per-token");
  how.loss = real_if_given(options, "loss");
  const Suggestion found = suggest(params, tokens, how);
  Report report;
  if (found.learning_rate) report.set("learning_rate", *found.learning_rate);
  if (found.learning_rate_band) {
    report.set("learning_rate_low", found.learning_rate_band->low);
    report.set("learning_rate_high", found.learning_rate_band->high);
  }
  if (found.batch_tokens) {
    report.set("batch_tokens", *found.batch_tokens, "tokens");
    report.set("batch_sequences", found.batch_sequences_rounded, "sequences");
    report.set("batch_sequences_exact", *found.batch_sequences, "sequences");
    report.tables.push_back(split_table(found.batch_sequences_rounded,
                                        options.integer("data-parallel"),
                                        options.integer("max-micro-batch")));
  }
  if (found.batch_tokens_band) {
    report.set("batch_tokens_low", found.batch_tokens_band->low, "tokens");
    report.set("batch_tokens_high", found.batch_tokens_band->high, "tokens");
  }
  report.set("extrapolated", found.extrapolated);
  if (found.extrapolated) {
    report.notes.push_back(
        "outside the studied range (N 6e7 to 1.1e9, D 2e9 to 1e11): an extrapolation");
  }
  if (!found.learning_rate) report.notes.push_back("this law gives no learning rate");
  if (!found.batch_tokens) {
    report.notes.push_back("this law gives no batch size" +
                           std::string(how.loss ? "" : " unless --loss is given"));
  }
  report.notes.push_back(
      "fitted for AdamW, cosine decay to 1e-5 and 2000 warm-up steps; not transferable to other "
      "optimisers or schedules");
  if (how.law == Law::step) report.plots.push_back(rate_plot(params, tokens, how));
  return report;
}

Report run_fit(const Options& options, const Progress& progress) {
  const RunTable table = read_runs(options.input("table"), options.integer("sequence-length"));
  FitOptions how;
  how.threshold = options.real("threshold");
  how.resamples = options.integer("resamples");
  how.seed = options.seed();
  how.sequence_length = table.sequence_length;
  how.batch_on_params = options.flag("batch-on-params");
  const LawFit fit = fit_law(table.runs, how, progress);
  Report report;
  Table coefficients{"Coefficients (natural logarithms)",
                     {"coefficient", "least squares", "bootstrap mean", "2.5 %", "97.5 %"},
                     {}};
  const auto direct = as_array(fit.least_squares);
  const auto mean = as_array(fit.bootstrap_mean);
  for (std::size_t i = 0; i < coefficient_count; ++i) {
    const std::string name = coefficient_names()[i];
    if (name == "batch_params" && !how.batch_on_params) continue;
    report.set(name, direct[i]);
    coefficients.rows.push_back(
        {name, direct[i], mean[i], fit.intervals[i].low, fit.intervals[i].high});
  }
  for (std::size_t i = 0; i < coefficient_count; ++i) {
    const std::string name = coefficient_names()[i];
    if (name == "batch_params" && !how.batch_on_params) continue;
    report.set(name + "_interval",
               std::vector<double>{fit.intervals[i].low, fit.intervals[i].high});
  }
  report.set("runs", static_cast<std::int64_t>(table.runs.size()));
  report.set("kept", fit.kept);
  report.set("groups", fit.groups);
  report.set("dropped", table.dropped);
  report.tables.push_back(std::move(coefficients));
  const auto groups = group_runs(table.runs);
  if (groups.size() < 5) {
    report.notes.push_back("fewer than five (N, D): no loss law was fitted");
    return report;
  }
  const LossLaw law = fit_loss_law(groups);
  report.tables.push_back(
      {"Loss law L = E + A / (N/1e9)^a + B / (D/1e9)^b over the groups' best runs",
       {"E", "A", "a", "B", "b", "objective", "worst log residual"},
       {{law.irreducible, law.params_factor, law.params_exponent, law.tokens_factor,
         law.tokens_exponent, law.objective, law.worst_log_residual}}});
  return report;
}

Table grid_table(const RunGroup& group) {
  Table table{
      "Loss of each run", {"learning rate", "batch (sequences)", "loss", "above the best (%)"}, {}};
  const double best = group.best().loss;
  for (const Run& run : group.runs) {
    table.rows.push_back(
        {run.learning_rate, run.batch_sequences, run.loss, 100 * (run.loss / best - 1)});
  }
  return table;
}

Plot slice_plot(const RunGroup& group) {
  Plot plot{"Loss against learning rate, one line a batch size", "learning rate", "loss", {}, true};
  std::map<double, std::map<double, double>> by_batch;
  for (const Run& run : group.runs) by_batch[run.batch_sequences][run.learning_rate] = run.loss;
  for (const auto& [batch, losses] : by_batch) {
    Series series{fmt::format("{:g} sequences", batch), {}, {}, Mark::line_points};
    for (const auto& [rate, loss] : losses) {
      series.x.push_back(rate);
      series.y.push_back(loss);
    }
    plot.series.push_back(std::move(series));
  }
  return plot;
}

RunGroup one_group(const std::vector<RunGroup>& groups, const Options& options) {
  const auto params = real_if_given(options, "params");
  const auto tokens = real_if_given(options, "tokens");
  std::vector<RunGroup> matching;
  for (const RunGroup& group : groups) {
    const auto close = [](double a, double b) { return std::abs(a / b - 1) < 1e-3; };
    if (params && !close(group.params, *params)) continue;
    if (tokens && !close(group.tokens, *tokens)) continue;
    matching.push_back(group);
  }
  std::string there;
  for (const RunGroup& group : groups)
    there += fmt::format(" ({:g}, {:g})", group.params, group.tokens);
  require(!matching.empty(), "no runs at that (N, D); there are:{}", there);
  require(matching.size() == 1, "{} groups match; name one by --params and --tokens:{}",
          matching.size(), there);
  return matching.front();
}

Report run_landscape(const Options& options, const Progress&) {
  const RunTable table = read_runs(options.input("table"), options.integer("sequence-length"));
  const RunGroup group = one_group(group_runs(table.runs), options);
  const Landscape landscape = fit_landscape(group, table.sequence_length, options.real("window"));
  Report report;
  report.set("learning_rate", landscape.learning_rate);
  report.set("batch_tokens", landscape.batch_tokens, "tokens");
  report.set("batch_sequences", landscape.batch_tokens / static_cast<double>(table.sequence_length),
             "sequences");
  report.set("loss", landscape.loss, "nats");
  report.set("is_minimum", landscape.is_minimum());
  report.set("eigenvalues",
             std::vector<double>(landscape.eigenvalues.begin(), landscape.eigenvalues.end()));
  report.set("hessian", std::vector<double>(landscape.hessian.begin(), landscape.hessian.end()));
  report.set("runs", landscape.runs);
  if (!landscape.is_minimum()) {
    report.notes.push_back("the quadratic is not convex: the stationary point is no minimum");
  }
  Table cost{"What a deviation costs", {"learning rate x", "batch x", "extra loss (nats)"}, {}};
  for (const double lr_factor : {0.5, 1.0, 2.0}) {
    for (const double batch_factor : {0.5, 1.0, 2.0}) {
      cost.rows.push_back({lr_factor, batch_factor,
                           landscape.excess(landscape.learning_rate * lr_factor,
                                            landscape.batch_tokens * batch_factor)});
    }
  }
  report.tables = {std::move(cost), grid_table(group)};
  report.plots.push_back(slice_plot(group));
  return report;
}

Report run_score(const Options& options, const Progress&) {
  const RunTable table = read_runs(options.input("table"), options.integer("sequence-length"));
  const auto groups = group_runs(table.runs);
  ScoreOptions how;
  how.sequence_length = table.sequence_length;
  how.least_runs = options.integer("least-runs");
  how.constants = constants_of(options);
  Report report;
  Table summary{"Loss above the group's best run, at the run nearest to the law's choice",
                {"law", "mean (%)", "worst (%)", "groups"},
                {}};
  Table details{
      "By group", {"law", "N", "D", "learning rate", "batch (tokens)", "above best (%)"}, {}};
  Plot plot{"Mean loss above the best run", "",    "per cent",
            {{"mean", {}, {}, Mark::bars}}, false, true};
  for (const Law law : all_laws()) {
    const LawScore score = score_law(law, groups, how);
    const std::string name = to_string(law);
    report.set(name + "_mean", score.mean);
    report.set(name + "_worst", score.worst);
    summary.rows.push_back({name, 100 * score.mean, 100 * score.worst,
                            static_cast<std::int64_t>(score.groups.size())});
    plot.series[0].x.push_back(static_cast<double>(plot.categories.size()));
    plot.series[0].y.push_back(100 * score.mean);
    plot.categories.push_back(name);
    for (const GroupScore& one : score.groups) {
      details.rows.push_back({name, one.params, one.tokens, one.learning_rate, one.batch_tokens,
                              100 * one.relative_excess});
    }
  }
  report.tables = {std::move(summary), std::move(details)};
  report.plots.push_back(std::move(plot));
  if (table.dropped > 0) {
    report.notes.push_back(fmt::format("{} rows without a loss were dropped", table.dropped));
  }
  return report;
}

std::vector<double> read_losses(const Options& options) {
  const auto path = options.input("log");
  if (path.extension() == ".npy") return read_npy(path).to_doubles();
  return read_csv(path).numbers(options.text("column"));
}

Report run_smooth(const Options& options, const Progress&) {
  const std::vector<double> losses = read_losses(options);
  const std::vector<double> smooth = smooth_losses(losses, options.integer("log-interval"));
  std::int64_t at = static_cast<std::int64_t>(smooth.size()) - 1;
  if (options.has("entry")) {
    at = options.integer("entry");
    require(at < static_cast<std::int64_t>(smooth.size()),
            "--entry: the log has {} entries, got {}", smooth.size(), at);
  }
  Report report;
  report.set("smooth_loss", smooth[static_cast<std::size_t>(at)], "nats");
  report.set("entries", static_cast<std::int64_t>(smooth.size()));
  Plot plot{"Training loss", "entry", "loss", {{"logged", {}, losses}, {"smooth", {}, smooth}}};
  for (std::size_t i = 0; i < smooth.size(); ++i)
    plot.series[0].x.push_back(static_cast<double>(i));
  plot.series[1].x = plot.series[0].x;
  report.plots.push_back(std::move(plot));
  if (options.has("out")) {
    write_npy(options.output("out"),
              npy_from_doubles(smooth, {static_cast<std::int64_t>(smooth.size())}));
  }
  return report;
}

// Runs as the bench needs them: 129 rows at 17 (N, D), as many as the published table keeps.
std::vector<Run> synthetic_runs() {
  Random random(7);
  std::vector<Run> runs;
  const std::vector<StudiedGroup> groups = studied_groups();
  for (std::size_t i = 0; i < 129; ++i) {
    const StudiedGroup& group = groups[i % groups.size()];
    runs.push_back({group.params, group.tokens,
                    group.best_learning_rate * std::exp(0.3 * random.normal()),
                    group.best_batch_tokens / 2048 * std::exp(0.3 * random.normal()),
                    group.best_loss, group.params});
  }
  return runs;
}

std::string python_list(const std::vector<Run>& runs) {
  std::string text = "[";
  for (const Run& run : runs) {
    text += fmt::format("({:.17g},{:.17g},{:.17g},{:.17g}),", run.params, run.tokens,
                        run.learning_rate, run.batch_sequences * 2048);
  }
  return text + "]";
}

Contest bootstrap_contest(std::int64_t resamples) {
  const auto runs = std::make_shared<std::vector<Run>>(synthetic_runs());
  Contest contest;
  contest.ours = timed([runs, resamples] {
    FitOptions options;
    options.resamples = resamples;
    fit_law(*runs, options);
  });
  // The peer runs a hundredth of the resamples, and its time is scaled: the loop is linear in them.
  const std::int64_t peer_resamples = resamples / 100;
  set_python_peer(contest,
                  "import numpy as np\n"
                  "rows = np.array(" +
                      python_list(*runs) +
                      ")\n"
                      "log = np.log(rows)\n"
                      "one = np.ones(len(log))\n"
                      "A = np.column_stack([one, log[:, 0], log[:, 1]])\n"
                      "B = np.column_stack([one, log[:, 1]])\n"
                      "rng = np.random.default_rng(0)\n",
                  fmt::format("draws = rng.integers(0, len(log), (({}), len(log)))\n"
                              "fits = np.empty((len(draws), 5))\n"
                              "for i, d in enumerate(draws):\n"
                              "    fits[i, :3] = np.linalg.lstsq(A[d], log[d, 2], rcond=None)[0]\n"
                              "    fits[i, 3:] = np.linalg.lstsq(B[d], log[d, 3], rcond=None)[0]\n"
                              "np.percentile(fits, [2.5, 97.5], axis=0)\n",
                              peer_resamples));
  if (contest.peer) {
    contest.peer = [peer = contest.peer] { return 100 * peer(); };
  }
  const double rows = 129;
  const auto count = static_cast<double>(resamples);
  contest.work = {count * rows * 11, count * 6 * 8};
  contest.arithmetic = Arithmetic::f64;
  return contest;
}

std::vector<Job> jobs() {
  return {
      {"suggest",
       "learning rate and batch size for a model and a number of tokens",
       {real("params")
            .above(0)
            .required()
            .unit("parameters")
            .help("N: all non-embedding parameters (mixtures of experts: the total)"),
        real("tokens").above(0).required().unit("tokens").help("D: training tokens"),
        choice("law", law_names()).otherwise("step").help("which law"), constants_option(),
        sequence_length_option(),
        integer("round-to")
            .at_least(1)
            .otherwise(8)
            .help("batch in sequences is a multiple of this"),
        real("flops-per-token").above(0).help("M of the DeepSeek law's C = M D (default 6 N)"),
        real("loss").above(0).unit("nats").help("expected final loss, for the laws in L"),
        integer("data-parallel").at_least(1).otherwise(1).help("replicas, for the splits"),
        integer("max-micro-batch")
            .at_least(1)
            .otherwise(64)
            .help("largest micro batch of one replica, for the splits")},
       run_suggest,
       {"step-law suggest --params 1e9 --tokens 1e11",
        "step-law suggest --params 7e9 --tokens 1.4e12 --data-parallel 64 --max-micro-batch 8"}},
      {"fit",
       "fit the law to a table of runs, with bootstrap intervals",
       {input_file("table").positional().required().help(
            "CSV with columns N, D, lr, bs, smooth loss"),
        real("threshold")
            .above(0)
            .otherwise(0.0025)
            .help("keep runs within this relative distance of their group's best"),
        integer("resamples").between(1, 1e8).otherwise(1000).help("bootstrap resamples"),
        flag("batch-on-params").help("regress the batch size on N as well"),
        sequence_length_option(), seed_option()},
       run_fit,
       {"step-law fit runs.csv --resamples 100000"}},
      {"landscape",
       "the loss around one optimum, as a quadratic in ln lr and ln batch",
       {input_file("table").positional().required().help(
            "CSV with columns N, D, lr, bs, smooth loss"),
        real("params").above(0).help("which N (needed if the table has several)"),
        real("tokens").above(0).help("which D (needed if the table has several)"),
        real("window").at_least(1).otherwise(1.02).help(
            "use runs with a loss up to this times the best"),
        sequence_length_option()},
       run_landscape,
       {"step-law landscape runs.csv --params 536872960 --tokens 1e10"}},
      {"score",
       "how far each law's choice is from the best run of a table",
       {input_file("table").positional().required().help(
            "CSV with columns N, D, lr, bs, smooth loss"),
        integer("least-runs").at_least(1).otherwise(60).help("leave out groups with fewer runs"),
        constants_option(), sequence_length_option()},
       run_score,
       {"step-law score runs.csv"}},
      {"smooth",
       "the smooth loss of a training log",
       {input_file("log").positional().required().help("CSV with a loss column, or .npy"),
        text("column").otherwise("loss").help("the CSV's column"),
        integer("log-interval")
            .at_least(1)
            .otherwise(1)
            .unit("iterations")
            .help("iterations between two entries"),
        integer("entry").at_least(0).help("which entry (default: the last)"),
        output_file("out").help("write all smooth values to this .npy")},
       run_smooth,
       {"step-law smooth log.csv --column loss"}},
  };
}

}  // namespace

System system() {
  System system;
  system.name = "step-law";
  system.wing = Wing::scaling;
  system.paper = {
      "Predictable Scale: Part I - Optimal Hyperparameter Scaling Law in Large Language "
      "Model Pretraining",
      "Li, Zheng, Hu, Zhang, et al.", 2025, "2503.04715"};
  system.summary = "learning rate and batch size for pre-training a language model";
  system.devices = {Device::cpu, Device::cuda};
  system.jobs = jobs();
  system.reproduction = {
      "The Step Law's choice costs less than 0.12 % of loss on average, five times less than the "
      "DeepSeek and Porian laws",
      "landscapes of 17 (N, D) derived from the published runs; with --full, models trained here",
      reproduce};
  system.benchmarks = {{"bootstrap fit, 1e5 resamples of 129 runs",
                        "numpy lstsq loop (1e3 timed, x 100)",
                        {Device::cpu},
                        [](Device) { return bootstrap_contest(100000); }}};
  return system;
}

}  // namespace einkorn::step_law
