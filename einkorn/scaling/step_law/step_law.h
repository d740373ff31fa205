// The Step Law and its competitors: which learning rate and batch size to pre-train a language
// model with, given its size and the number of training tokens.
//
// Li et al., "Predictable Scale: Part I - Optimal Hyperparameter Scaling Law in Large Language
// Model Pretraining", 2025, arXiv 2503.04715.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "einkorn/core/tensor.h"

namespace einkorn::step_law {

// L is the expected final loss, C = M D the compute. The Step Law paper's table prints 2e18 for the
// factor of the two laws in L, which would make batches of 1e16 tokens; the factors
// below, from memory of the laws' own papers, are used instead.
enum class Law {
  step,       // lr = 1.79 N^-0.713 D^0.307, B = 0.58 D^0.571
  openai,     // Kaplan et al. 2020: lr = 3.239e-3 - 1.395e-4 ln N, B = 2e8 L^-4.7619
  microsoft,  // Bjorck et al. 2024: lr = 1.3192e-5 N^-0.23 D^-0.32, no batch size
  deepseek,   // Bi et al. 2024: lr = 0.3188 C^-0.125, B = 0.2920 C^0.3271
  porian,     // Porian et al. 2024: lr = 3.7 N^-0.36, B = 0.7576 N^0.703
  minicpm,    // Hu et al. 2024: B = 1.21e9 L^-6.24, no learning rate
};

const std::vector<Law>& all_laws();
std::string to_string(Law law);
Law parse_law(const std::string& name);  // throws InvalidArgument

// Coefficients of ln lr = lr_intercept + lr_params ln N + lr_tokens ln D and
// ln B = batch_intercept + batch_tokens ln D (+ batch_params ln N where it was fitted).
struct Coefficients {
  double lr_intercept = 0;
  double lr_params = 0;
  double lr_tokens = 0;
  double batch_intercept = 0;
  double batch_tokens = 0;
  double batch_params = 0;
};

enum class Constants {
  released,  // means of the 1000 bootstrap fits that the authors released
  paper,     // rounded, as printed
};

Coefficients step_coefficients(Constants constants);

// What a law is asked about. A law that needs a quantity which is not given has no answer.
struct Question {
  double params = 0;  // N: all non-embedding parameters; for mixtures of experts the total. > 0
  double tokens = 0;  // D: training tokens, > 0
  std::optional<double> flops_per_token = std::nullopt;  // M of DeepSeek's C = M D; default 6 N
  std::optional<double> loss = std::nullopt;             // expected final loss (nats) for L-laws
};

struct Answer {
  std::optional<double> learning_rate;
  std::optional<double> batch_tokens;
};

// The law's optimum; Constants matter to Law::step alone. Throws InvalidArgument unless params and
// tokens (and, if given, flops_per_token and loss) are finite and > 0.
Answer evaluate(Law law, const Question& question, Constants constants = Constants::released);

// FLOPs per token of a dense LLaMA-like transformer with attention over seq_len positions, as in
// the released code: 6 (4 h + 3 ffn + 2 seq_len) layers h.
double flops_per_token(double hidden, double ffn_hidden, double layers, double sequence_length);

struct SuggestOptions {
  Law law = Law::step;
  Constants constants = Constants::released;
  std::int64_t sequence_length = 2048;  // tokens of one sequence, >= 1
  std::int64_t round_sequences_to = 8;  // batch in sequences is a multiple of this, >= 1
  std::optional<double> flops_per_token = std::nullopt;
  std::optional<double> loss = std::nullopt;
};

struct Band {
  double low = 0;
  double high = 0;
};

struct Suggestion {
  std::optional<double> learning_rate;  // peak
  std::optional<double> batch_tokens;
  std::optional<double> batch_sequences;     // batch_tokens / sequence_length
  std::int64_t batch_sequences_rounded = 0;  // 0 where the law gives no batch size
  // 95 % bootstrap bands of the Step Law; empty for other laws.
  std::optional<Band> learning_rate_band;
  std::optional<Band> batch_tokens_band;
  // Outside the studied range: N in [6e7, 1.1e9], D in [2e9, 1e11].
  bool extrapolated = false;
};

// Throws InvalidArgument for params or tokens that are not finite and > 0.
Suggestion suggest(double params, double tokens, const SuggestOptions& options = {});

// The Step Law over broadcast tensors of params and tokens (floating point; computed in f64,
// returned in f64). NaN where an entry is not finite and > 0.
at::Tensor learning_rate(const at::Tensor& params, const at::Tensor& tokens,
                         Constants constants = Constants::released);
at::Tensor batch_tokens(const at::Tensor& tokens, Constants constants = Constants::released);

// One way to run a global batch: sequences = micro_batch * accumulation * data_parallel.
struct BatchSplit {
  std::int64_t micro_batch = 0;
  std::int64_t accumulation = 0;
  std::int64_t data_parallel = 0;
  std::int64_t sequences = 0;
};

// Splits near a wanted batch, nearest first (ties: fewer accumulation steps first): for each micro
// batch that is a power of two up to max_micro_batch, the accumulation count that comes nearest.
// Throws InvalidArgument unless all arguments are >= 1.
std::vector<BatchSplit> batch_splits(std::int64_t sequences, std::int64_t data_parallel,
                                     std::int64_t max_micro_batch);

// Smooths a training log: Gaussian with sigma = min(100, 0.01 n) / log_interval entries for a log
// of n iterations taken every log_interval iterations, cut at 4 sigma, half-sample symmetric at the
// ends. Returns one value an entry; the last one is the "smooth loss" that the law was fitted to.
// Throws InvalidArgument for an empty log, values that are not finite, or log_interval < 1.
std::vector<double> smooth_losses(std::span<const double> losses, std::int64_t log_interval = 1);

}  // namespace einkorn::step_law
