// A LLaMA-like decoder-only transformer: RMSNorm before each sublayer, causal attention with ALiBi
// positions (Press, Smith, Lewis 2022), SwiGLU feed-forward (Shazeer 2020), no biases.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

namespace einkorn::nn {

struct DecoderOptions {
  std::int64_t vocabulary = 256;
  std::int64_t hidden = 64;  // a multiple of heads
  std::int64_t ffn_hidden = 172;
  std::int64_t layers = 2;
  std::int64_t heads = 4;
};

// What is added to the mean square under the root of each RMSNorm.
constexpr double rms_norm_epsilon = 1e-6;

// ALiBi bias and causal mask in one [heads, length, length], [head, query, key]: slope (key -
// query) for keys not in the future, else -infinity, with slopes 2^(-8 h / heads), h = 1 .. heads.
torch::Tensor alibi(std::int64_t heads, std::int64_t length, const torch::TensorOptions& options);

class DecoderBlockImpl : public torch::nn::Module {
 public:
  explicit DecoderBlockImpl(const DecoderOptions& options);

  // states [batch, length, hidden], attention bias [heads, length, length].
  torch::Tensor forward(const torch::Tensor& states, const torch::Tensor& bias);

 private:
  torch::Tensor attention(const torch::Tensor& states, const torch::Tensor& bias);
  torch::Tensor feed_forward(const torch::Tensor& states);

  std::int64_t heads_;
  torch::Tensor attention_scale_;
  torch::Tensor ffn_scale_;
  torch::nn::Linear query_key_value_{nullptr};
  torch::nn::Linear output_{nullptr};
  torch::nn::Linear gate_up_{nullptr};
  torch::nn::Linear down_{nullptr};
};
TORCH_MODULE(DecoderBlock);

class DecoderImpl : public torch::nn::Module {
 public:
  // Weights are normal with standard deviation 0.02, those that write into the residual stream
  // divided by sqrt(2 layers); drawn from torch's current generator. Throws InvalidArgument for
  // sizes < 1 or a hidden size that is no multiple of heads.
  explicit DecoderImpl(const DecoderOptions& options);

  // tokens [batch, length] i64 -> logits [batch, length, vocabulary].
  torch::Tensor forward(const torch::Tensor& tokens);

  // Mean next-token cross-entropy (nats) of sequences [batch, length + 1] i64.
  torch::Tensor loss(const torch::Tensor& sequences);

  // All parameters but embedding and output head: layers (4 h^2 + 3 h ffn), norms not counted.
  std::int64_t non_embedding_parameters() const;

 private:
  DecoderOptions options_;
  torch::nn::Embedding embedding_{nullptr};
  std::vector<DecoderBlock> blocks_;
  torch::Tensor final_scale_;
  torch::nn::Linear head_{nullptr};
};
TORCH_MODULE(Decoder);

}  // namespace einkorn::nn
