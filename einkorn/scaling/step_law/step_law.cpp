#include "einkorn/scaling/step_law/step_law.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn::step_law {
namespace {

void require_positive(double value, const char* name) {
  require(std::isfinite(value) && value > 0, "{}: expected a finite number > 0, got {}", name,
          value);
}

double natural_line(double intercept, double slope, double log_x) {
  return intercept + slope * log_x;
}

// Half-width of a 95 % band in standard deviations of a normal distribution.
constexpr double half_width_95 = 1.959963984540054;

// Covariances of the 1000 released bootstrap fits, for the fitted line at N = 4e8, D = 2e10 (where
// it varies least) and the two slopes: derived figures that replace the table itself. The bands
// that they give differ from the percentiles of the table's own predictions by less than 1 % of the
// band.
constexpr double centre_params = 4e8;
constexpr double centre_tokens = 2e10;
constexpr double lr_covariance[3][3] = {{4.89112960e-04, -3.62785292e-05, 1.03070982e-04},
                                        {-3.62785292e-05, 8.91485737e-04, -1.74331789e-04},
                                        {1.03070982e-04, -1.74331789e-04, 3.66311843e-04}};
constexpr double batch_covariance[2][2] = {{5.5839e-04, 1.1492e-04}, {1.1492e-04, 3.4852e-04}};

template <int size>
double quadratic_form(const double (&matrix)[size][size], const double (&vector)[size]) {
  double sum = 0;
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) sum += vector[i] * matrix[i][j] * vector[j];
  }
  return sum;
}

Band band_around(double value, double variance_of_log) {
  const double factor = std::exp(half_width_95 * std::sqrt(variance_of_log));
  return {value / factor, value * factor};
}

Band learning_rate_band(double learning_rate, double params, double tokens) {
  const double x[3] = {1, std::log(params / centre_params), std::log(tokens / centre_tokens)};
  return band_around(learning_rate, quadratic_form(lr_covariance, x));
}

Band batch_band(double batch, double tokens) {
  const double x[2] = {1, std::log(tokens / centre_tokens)};
  return band_around(batch, quadratic_form(batch_covariance, x));
}

Answer evaluate_step(const Question& question, Constants constants) {
  const Coefficients c = step_coefficients(constants);
  const double log_params = std::log(question.params);
  const double log_tokens = std::log(question.tokens);
  return {
      std::exp(natural_line(c.lr_intercept, c.lr_params, log_params) + c.lr_tokens * log_tokens),
      std::exp(natural_line(c.batch_intercept, c.batch_tokens, log_tokens))};
}

at::Tensor as_positive_f64(const at::Tensor& values, const char* name) {
  require_dense(values, name);
  require(at::isFloatingType(values.scalar_type()) ||
              at::isIntegralType(values.scalar_type(), /*includeBool=*/false),
          "{}: expected numbers, got {}", name, at::toString(values.scalar_type()));
  const at::Tensor wide = values.to(at::kDouble);
  return at::where(wide.gt(0).logical_and(wide.isfinite()), wide,
                   at::full({}, NAN, wide.options()));
}

}  // namespace

const std::vector<Law>& all_laws() {
  static const std::vector<Law> laws = {Law::step,     Law::openai, Law::microsoft,
                                        Law::deepseek, Law::porian, Law::minicpm};
  return laws;
}

std::string to_string(Law law) {
  switch (law) {
    case Law::step:
      return "step";
    case Law::openai:
      return "openai";
    case Law::microsoft:
      return "microsoft";
    case Law::deepseek:
      return "deepseek";
    case Law::porian:
      return "porian";
    case Law::minicpm:
      break;
  }
  return "minicpm";
}

Law parse_law(const std::string& name) {
  std::vector<std::string> names;
  for (const Law law : all_laws()) {
    if (to_string(law) == name) return law;
    names.push_back(to_string(law));
  }
  throw InvalidArgument(fmt::format("no law '{}'{}", name, hint(name, names)));
}

Coefficients step_coefficients(Constants constants) {
  if (constants == Constants::paper) {
    return {.lr_intercept = std::log(1.79),
            .lr_params = -0.713,
            .lr_tokens = 0.307,
            .batch_intercept = std::log(0.58),
            .batch_tokens = 0.571};
  }
  return {.lr_intercept = 0.5863077907399267,
          .lr_params = -0.7129222911869904,
          .lr_tokens = 0.30749095041206964,
          .batch_intercept = -0.5435421736103339,
          .batch_tokens = 0.5709443646895045};
}

Answer evaluate(Law law, const Question& question, Constants constants) {
  require_positive(question.params, "params");
  require_positive(question.tokens, "tokens");
  if (question.flops_per_token) require_positive(*question.flops_per_token, "flops_per_token");
  if (question.loss) require_positive(*question.loss, "loss");
  switch (law) {
    case Law::step:
      return evaluate_step(question, constants);
    case Law::openai: {
      // The line falls below zero for absurdly large models, where it says nothing.
      const double rate = 3.239e-3 - 1.395e-4 * std::log(question.params);
      Answer answer;
      if (rate > 0) answer.learning_rate = rate;
      if (question.loss) answer.batch_tokens = 2e8 * std::pow(*question.loss, -4.76190);
      return answer;
    }
    case Law::microsoft:
      return {1.3192e-5 * std::pow(question.params, -0.23) * std::pow(question.tokens, -0.32),
              std::nullopt};
    case Law::deepseek: {
      const double flops = question.flops_per_token.value_or(6 * question.params) * question.tokens;
      return {0.3188 * std::pow(flops, -0.1250), 0.2920 * std::pow(flops, 0.3271)};
    }
    case Law::porian:
      return {3.7 * std::pow(question.params, -0.36), 0.7576 * std::pow(question.params, 0.703)};
    case Law::minicpm: {
      Answer answer;
      if (question.loss) answer.batch_tokens = 1.21e9 * std::pow(*question.loss, -6.24);
      return answer;
    }
  }
  throw std::logic_error("unknown law");
}

double flops_per_token(double hidden, double ffn_hidden, double layers, double sequence_length) {
  require_positive(hidden, "hidden");
  require_positive(ffn_hidden, "ffn_hidden");
  require_positive(layers, "layers");
  require_positive(sequence_length, "sequence_length");
  return 6 * (4 * hidden + 3 * ffn_hidden + 2 * sequence_length) * layers * hidden;
}

Suggestion suggest(double params, double tokens, const SuggestOptions& options) {
  require(options.sequence_length >= 1, "sequence_length: expected a whole number >= 1, got {}",
          options.sequence_length);
  require(options.round_sequences_to >= 1,
          "round_sequences_to: expected a whole number >= 1, got {}", options.round_sequences_to);
  const Answer answer = evaluate(
      options.law, {params, tokens, options.flops_per_token, options.loss}, options.constants);
  Suggestion suggestion;
  suggestion.learning_rate = answer.learning_rate;
  suggestion.batch_tokens = answer.batch_tokens;
  suggestion.extrapolated = params < 6e7 || params > 1.1e9 || tokens < 2e9 || tokens > 1e11;
  if (answer.batch_tokens) {
    const double sequences = *answer.batch_tokens / static_cast<double>(options.sequence_length);
    const auto multiple = static_cast<double>(options.round_sequences_to);
    suggestion.batch_sequences = sequences;
    // A batch beyond 2^62 sequences has no meaning, but must not overflow either.
    suggestion.batch_sequences_rounded = static_cast<std::int64_t>(
        std::min(std::max(std::round(sequences / multiple), 1.0) * multiple, 0x1p62));
  }
  if (options.law == Law::step) {
    suggestion.learning_rate_band = learning_rate_band(*answer.learning_rate, params, tokens);
    suggestion.batch_tokens_band = batch_band(*answer.batch_tokens, tokens);
  }
  return suggestion;
}

at::Tensor learning_rate(const at::Tensor& params, const at::Tensor& tokens, Constants constants) {
  const Coefficients c = step_coefficients(constants);
  const at::Tensor log_params = as_positive_f64(params, "params").log();
  const at::Tensor log_tokens = as_positive_f64(tokens, "tokens").log();
  return (log_params * c.lr_params + log_tokens * c.lr_tokens).add_(c.lr_intercept).exp_();
}

at::Tensor batch_tokens(const at::Tensor& tokens, Constants constants) {
  const Coefficients c = step_coefficients(constants);
  return (as_positive_f64(tokens, "tokens").log() * c.batch_tokens).add_(c.batch_intercept).exp_();
}

std::vector<BatchSplit> batch_splits(std::int64_t sequences, std::int64_t data_parallel,
                                     std::int64_t max_micro_batch) {
  require(sequences >= 1, "sequences: expected a whole number >= 1, got {}", sequences);
  require(data_parallel >= 1, "data_parallel: expected a whole number >= 1, got {}", data_parallel);
  require(max_micro_batch >= 1, "max_micro_batch: expected a whole number >= 1, got {}",
          max_micro_batch);
  std::vector<BatchSplit> splits;
  const auto wanted = static_cast<double>(sequences);
  for (std::int64_t micro = 1; micro <= max_micro_batch && micro <= sequences; micro *= 2) {
    const double one_step = static_cast<double>(micro) * static_cast<double>(data_parallel);
    const auto steps = static_cast<std::int64_t>(std::max(1.0, std::round(wanted / one_step)));
    splits.push_back({micro, steps, data_parallel, micro * steps * data_parallel});
  }
  std::stable_sort(splits.begin(), splits.end(), [&](const BatchSplit& a, const BatchSplit& b) {
    const auto off = [&](const BatchSplit& split) { return std::abs(split.sequences - sequences); };
    return off(a) != off(b) ? off(a) < off(b) : a.accumulation < b.accumulation;
  });
  return splits;
}

std::vector<double> smooth_losses(std::span<const double> losses, std::int64_t log_interval) {
  require(!losses.empty(), "losses: expected at least one value");
  require(log_interval >= 1, "log_interval: expected a whole number >= 1, got {}", log_interval);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    require(std::isfinite(losses[i]), "losses: entry {} is not finite", i);
  }
  const auto size = static_cast<std::int64_t>(losses.size());
  const double iterations = static_cast<double>(size) * static_cast<double>(log_interval);
  const double sigma = std::min(100.0, 0.01 * iterations) / static_cast<double>(log_interval);
  const auto radius = static_cast<std::int64_t>(4 * sigma + 0.5);
  std::vector<double> weights(static_cast<std::size_t>(radius + 1));
  double total = 0;
  for (std::int64_t k = 0; k <= radius; ++k) {
    const double z = static_cast<double>(k) / sigma;
    weights[static_cast<std::size_t>(k)] = std::exp(-0.5 * z * z);
    total += (k == 0 ? 1 : 2) * weights[static_cast<std::size_t>(k)];
  }
  // d c b a | a b c d | d c b a; the kernel is far shorter than the log, so one fold is enough.
  const auto mirrored = [&](std::int64_t i) {
    const std::int64_t folded = i < 0 ? -1 - i : i < size ? i : 2 * size - 1 - i;
    return losses[static_cast<std::size_t>(folded)];
  };
  std::vector<double> smooth(losses.size());
  for (std::int64_t i = 0; i < size; ++i) {
    double sum = weights[0] * mirrored(i);
    for (std::int64_t k = 1; k <= radius; ++k) {
      sum += weights[static_cast<std::size_t>(k)] * (mirrored(i - k) + mirrored(i + k));
    }
    smooth[static_cast<std::size_t>(i)] = sum / total;
  }
  return smooth;
}

}  // namespace einkorn::step_law
