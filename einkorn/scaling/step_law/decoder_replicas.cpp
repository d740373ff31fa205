#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/scaling/step_law/decoder_replicas_internal.h"

namespace einkorn::step_law {
namespace {

constexpr double first_decay = 0.9;
constexpr double second_decay = 0.95;
constexpr double epsilon = 1e-8;
constexpr double weight_decay = 0.1;
constexpr double final_rate = 1e-5;

// states [replicas, tokens, in] times each replica's weight [replicas, out, in].
at::Tensor project(const at::Tensor& states, const at::Tensor& weight) {
  return at::bmm(states, weight.transpose(1, 2));
}

at::Tensor rms_norm(const at::Tensor& states, const at::Tensor& scale) {
  return at::rms_norm(states, {states.size(-1)}, {}, nn::rms_norm_epsilon) * scale.unsqueeze(1);
}

}  // namespace

DecoderWeights draw_weights(const nn::DecoderOptions& options,
                            const std::vector<std::uint64_t>& seeds) {
  require(!seeds.empty(), "weights: expected at least one seed");
  DecoderWeights weights;
  std::vector<at::Tensor> rows;
  for (const std::uint64_t seed : seeds) {
    torch::manual_seed(seed);
    const nn::Decoder model(options);
    std::vector<at::Tensor> row;
    weights.names.clear();
    weights.shapes.clear();
    for (const auto& parameter : model->named_parameters()) {
      weights.names.push_back(parameter.key());
      weights.shapes.push_back(parameter.value().sizes().vec());
      row.push_back(parameter.value().detach().flatten());
    }
    rows.push_back(at::cat(row));
  }
  weights.rows = at::stack(rows);
  return weights;
}

at::Tensor learning_rates(const std::vector<double>& peaks, std::int64_t steps) {
  const auto rates = at::empty({steps, static_cast<std::int64_t>(peaks.size())}, at::kFloat);
  auto* rate = rates.data_ptr<float>();
  const std::int64_t warm_up = std::max<std::int64_t>(1, steps / 10);
  for (std::int64_t step = 0; step < steps; ++step) {
    const double done = static_cast<double>(step - warm_up) /
                        static_cast<double>(std::max<std::int64_t>(1, steps - warm_up));
    for (const double peak : peaks) {
      *rate++ = static_cast<float>(
          step < warm_up ? peak * static_cast<double>(step + 1) / static_cast<double>(warm_up)
                         : final_rate + 0.5 * (peak - final_rate) * (1 + std::cos(M_PI * done)));
    }
  }
  return rates;
}

// One block's weights, [replicas, ...] each.
struct DecoderReplicas::Layer {
  at::Tensor attention_norm;
  at::Tensor ffn_norm;
  at::Tensor query_key_value;
  at::Tensor output;
  at::Tensor gate_up;
  at::Tensor down;
};

DecoderReplicas::DecoderReplicas(const nn::DecoderOptions& options, const DecoderWeights& weights,
                                 std::int64_t rates)
    : options_(options),
      names_(weights.names),
      shapes_(weights.shapes),
      texts_(weights.rows.size(0)),
      rates_(rates) {
  require(rates >= 1, "replicas: expected at least one learning rate, got {}", rates);
  for (const auto& shape : shapes_) sizes_.push_back(c10::multiply_integers(shape));
  parameters_ = weights.rows.repeat_interleave(rates, 0).requires_grad_();
  first_moment_ = at::zeros_like(parameters_, at::TensorOptions().requires_grad(false));
  second_moment_ = at::zeros_like(first_moment_);
  update_ = at::empty_like(first_moment_);
}

at::Tensor DecoderReplicas::losses(const at::Tensor& sequences) {
  const std::int64_t length = sequences.size(2) - 1;
  const std::vector<at::Tensor> all = weights();
  const auto weight = [&](const std::string& name) {
    const auto place = std::find(names_.begin(), names_.end(), name) - names_.begin();
    return all.at(static_cast<std::size_t>(place));
  };
  at::Tensor states = embed(sequences.narrow(2, 0, length), weight("embedding.weight"));
  for (std::int64_t i = 0; i < options_.layers; ++i) {
    const std::string block = fmt::format("block{}.", i);
    const Layer layer = {weight(block + "attention_norm"),         weight(block + "ffn_norm"),
                         weight(block + "query_key_value.weight"), weight(block + "output.weight"),
                         weight(block + "gate_up.weight"),         weight(block + "down.weight")};
    states = states + attend(rms_norm(states, layer.attention_norm), layer, length);
    const auto parts = project(rms_norm(states, layer.ffn_norm), layer.gate_up).chunk(2, -1);
    states = states + project(at::silu(parts[0]) * parts[1], layer.down);
  }
  const auto logits = project(rms_norm(states, weight("final_norm")), weight("head.weight"));
  const auto targets =
      sequences.narrow(2, 1, length).reshape({texts_, 1, -1}).expand({-1, rates_, -1}).reshape(-1);
  return at::cross_entropy_loss(logits.view({-1, options_.vocabulary}), targets, {},
                                at::Reduction::None)
      .view({texts_ * rates_, -1})
      .mean(1);
}

void DecoderReplicas::step(const at::Tensor& sequences, const at::Tensor& learning_rates) {
  // The replicas share no parameter, so the gradient of the sum is each one's own.
  const at::Tensor gradient = torch::autograd::grad({losses(sequences).sum()}, {parameters_})[0];
  const torch::NoGradGuard no_grad;
  ++steps_;
  const at::Tensor norms = at::linalg_vector_norm(gradient, 2, at::IntArrayRef{1}, true);
  gradient.mul_((norms + 1e-6).reciprocal_().clamp_max_(1));
  first_moment_.lerp_(gradient, 1 - first_decay);
  second_moment_.mul_(second_decay).addcmul_(gradient, gradient, 1 - second_decay);
  const double first_share = 1 - std::pow(first_decay, static_cast<double>(steps_));
  const double second_share = 1 - std::pow(second_decay, static_cast<double>(steps_));
  at::sqrt_out(update_, second_moment_).mul_(1 / std::sqrt(second_share)).add_(epsilon);
  at::div_out(update_, first_moment_, update_);
  const at::Tensor rates = learning_rates.unsqueeze(1);
  parameters_.mul_(1 - weight_decay * rates).addcmul_(update_, rates * (-1 / first_share));
}

std::vector<at::Tensor> DecoderReplicas::weights() const {
  std::vector<at::Tensor> parts = parameters_.split_with_sizes(sizes_, 1);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::vector<std::int64_t> shape = {texts_ * rates_};
    shape.insert(shape.end(), shapes_[i].begin(), shapes_[i].end());
    parts[i] = parts[i].view(shape);
  }
  return parts;
}

// As a product with one-hot rows: the gradient of a look-up would scatter, which is slower at these
// vocabularies and on a GPU adds up in no fixed order. [texts, batch, length] ->
// [replicas, batch * length, hidden].
at::Tensor DecoderReplicas::embed(const at::Tensor& tokens, const at::Tensor& embedding) const {
  const auto classes = at::arange(options_.vocabulary, tokens.options());
  const auto one_hot = tokens.reshape({texts_, 1, -1, 1}).eq(classes).to(embedding.scalar_type());
  return one_hot.expand({-1, rates_, -1, -1})
      .reshape({texts_ * rates_, -1, options_.vocabulary})
      .bmm(embedding);
}

at::Tensor DecoderReplicas::attend(const at::Tensor& states, const Layer& layer,
                                   std::int64_t length) {
  const auto parts = project(states, layer.query_key_value)
                         .view({-1, length, 3, options_.heads, options_.hidden / options_.heads})
                         .permute({2, 0, 3, 1, 4});
  const auto mixed =
      at::scaled_dot_product_attention(parts[0], parts[1], parts[2], bias(length).unsqueeze(0));
  return project(mixed.transpose(1, 2).reshape(states.sizes()), layer.output);
}

const at::Tensor& DecoderReplicas::bias(std::int64_t length) {
  if (!bias_.defined() || bias_.size(-1) != length) {
    bias_ = nn::alibi(options_.heads, length, first_moment_.options());
  }
  return bias_;
}

}  // namespace einkorn::step_law
