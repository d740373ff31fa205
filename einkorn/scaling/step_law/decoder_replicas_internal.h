// Decoders of one shape trained side by side: one per text and learning rate, all in one batched
// product a layer. A run alone is too small to fill a processor, less so a GPU; nn::Decoder with
// torch's AdamW is the plain form of the same thing, and the tests hold the two together.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "einkorn/nn/decoder.h"

namespace einkorn::step_law {

// Weights of several nn::Decoder of one shape, each flattened into a row in the order of names.
struct DecoderWeights {
  std::vector<std::string> names;
  std::vector<std::vector<std::int64_t>> shapes;
  at::Tensor rows;  // [draws, parameters] f32
};

// As nn::Decoder draws them after torch::manual_seed(seed), one row a seed. Reseeds torch's
// generators.
DecoderWeights draw_weights(const nn::DecoderOptions& options,
                            const std::vector<std::uint64_t>& seeds);

// The study's schedule (section 3.4 of the released recipe): linear warm-up over a tenth of the
// steps, then a cosine down to a fixed 1e-5. Returns [steps, peaks] f32.
at::Tensor learning_rates(const std::vector<double>& peaks, std::int64_t steps);

class DecoderReplicas {
 public:
  // Each row of the weights starts `rates` replicas; replica text * rates + rate has the weights of
  // row `text`. On the device of the weights.
  DecoderReplicas(const nn::DecoderOptions& options, const DecoderWeights& weights,
                  std::int64_t rates);

  // Mean next-token cross-entropy (nats) of every replica on its text's sequences:
  // [texts, batch, length + 1] i64 -> [replicas].
  at::Tensor losses(const at::Tensor& sequences);

  // One step of AdamW (0.9, 0.95, eps 1e-8) with weight decay 0.1 on all parameters, each replica's
  // gradient clipped to norm 1. learning_rates [replicas] f32, on the replicas' device.
  void step(const at::Tensor& sequences, const at::Tensor& learning_rates);

  // [replicas, parameters], in the order of the weights' names.
  at::Tensor parameters() const { return parameters_.detach(); }

 private:
  struct Layer;

  std::vector<at::Tensor> weights() const;
  at::Tensor embed(const at::Tensor& tokens, const at::Tensor& embedding) const;
  at::Tensor attend(const at::Tensor& states, const Layer& layer, std::int64_t length);
  const at::Tensor& bias(std::int64_t length);

  nn::DecoderOptions options_;
  std::vector<std::string> names_;
  std::vector<std::vector<std::int64_t>> shapes_;
  std::vector<std::int64_t> sizes_;
  std::int64_t texts_;
  std::int64_t rates_;
  std::int64_t steps_ = 0;
  at::Tensor parameters_;  // the leaf of the graph
  at::Tensor first_moment_;
  at::Tensor second_moment_;
  at::Tensor update_;  // kept, so that a step allocates no array of this size but the gradient
  at::Tensor bias_;
};

}  // namespace einkorn::step_law
