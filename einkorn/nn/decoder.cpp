#include "einkorn/nn/decoder.h"

#include <cmath>

#include "einkorn/core/error.h"

namespace einkorn::nn {
namespace {

torch::nn::Linear linear(std::int64_t in, std::int64_t out) {
  return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false));
}

torch::Tensor rms_norm(const torch::Tensor& states, const torch::Tensor& scale) {
  return at::rms_norm(states, {states.size(-1)}, scale, rms_norm_epsilon);
}

}  // namespace

torch::Tensor alibi(std::int64_t heads, std::int64_t length, const torch::TensorOptions& options) {
  const auto place = torch::arange(length, options);
  const auto distance = place.unsqueeze(0) - place.unsqueeze(1);
  const auto slopes =
      torch::exp2(torch::arange(1, heads + 1, options) * (-8.0 / static_cast<double>(heads)));
  return (slopes.view({heads, 1, 1}) * distance)
      .masked_fill(distance > 0, -std::numeric_limits<double>::infinity());
}

DecoderBlockImpl::DecoderBlockImpl(const DecoderOptions& options) : heads_(options.heads) {
  const std::int64_t hidden = options.hidden;
  attention_scale_ = register_parameter("attention_norm", torch::ones({hidden}));
  ffn_scale_ = register_parameter("ffn_norm", torch::ones({hidden}));
  query_key_value_ = register_module("query_key_value", linear(hidden, 3 * hidden));
  output_ = register_module("output", linear(hidden, hidden));
  gate_up_ = register_module("gate_up", linear(hidden, 2 * options.ffn_hidden));
  down_ = register_module("down", linear(options.ffn_hidden, hidden));
  const torch::NoGradGuard no_grad;
  const double residual = 0.02 / std::sqrt(2.0 * static_cast<double>(options.layers));
  query_key_value_->weight.normal_(0, 0.02);
  gate_up_->weight.normal_(0, 0.02);
  output_->weight.normal_(0, residual);
  down_->weight.normal_(0, residual);
}

torch::Tensor DecoderBlockImpl::forward(const torch::Tensor& states, const torch::Tensor& bias) {
  const auto attended = states + attention(rms_norm(states, attention_scale_), bias);
  return attended + feed_forward(rms_norm(attended, ffn_scale_));
}

torch::Tensor DecoderBlockImpl::attention(const torch::Tensor& states, const torch::Tensor& bias) {
  const std::int64_t batch = states.size(0);
  const std::int64_t length = states.size(1);
  const auto parts =
      query_key_value_(states).view({batch, length, 3, heads_, -1}).permute({2, 0, 3, 1, 4});
  const auto mixed =
      at::scaled_dot_product_attention(parts[0], parts[1], parts[2], bias.unsqueeze(0));
  return output_(mixed.transpose(1, 2).reshape({batch, length, -1}));
}

torch::Tensor DecoderBlockImpl::feed_forward(const torch::Tensor& states) {
  const auto parts = gate_up_(states).chunk(2, -1);
  return down_(torch::silu(parts[0]) * parts[1]);
}

DecoderImpl::DecoderImpl(const DecoderOptions& options) : options_(options) {
  require(options.vocabulary >= 1 && options.hidden >= 1 && options.ffn_hidden >= 1 &&
              options.layers >= 1 && options.heads >= 1,
          "decoder: all sizes must be >= 1");
  require(options.hidden % options.heads == 0, "decoder: hidden size {} is no multiple of {} heads",
          options.hidden, options.heads);
  embedding_ =
      register_module("embedding", torch::nn::Embedding(options.vocabulary, options.hidden));
  for (std::int64_t i = 0; i < options.layers; ++i) {
    blocks_.push_back(register_module("block" + std::to_string(i), DecoderBlock(options)));
  }
  final_scale_ = register_parameter("final_norm", torch::ones({options.hidden}));
  head_ = register_module("head", linear(options.hidden, options.vocabulary));
  const torch::NoGradGuard no_grad;
  embedding_->weight.normal_(0, 0.02);
  head_->weight.normal_(0, 0.02);
}

torch::Tensor DecoderImpl::forward(const torch::Tensor& tokens) {
  auto states = embedding_(tokens);
  const auto bias = alibi(options_.heads, tokens.size(1), states.options().requires_grad(false));
  for (DecoderBlock& block : blocks_) states = block(states, bias);
  return head_(rms_norm(states, final_scale_));
}

torch::Tensor DecoderImpl::loss(const torch::Tensor& sequences) {
  const std::int64_t length = sequences.size(1) - 1;
  const auto logits = forward(sequences.narrow(1, 0, length));
  return torch::nn::functional::cross_entropy(logits.reshape({-1, options_.vocabulary}),
                                              sequences.narrow(1, 1, length).reshape({-1}));
}

std::int64_t DecoderImpl::non_embedding_parameters() const {
  return options_.layers *
         (4 * options_.hidden * options_.hidden + 3 * options_.hidden * options_.ffn_hidden);
}

}  // namespace einkorn::nn
