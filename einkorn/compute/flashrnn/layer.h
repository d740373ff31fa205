// A recurrent layer for networks: input projections, several layers, both directions, dropout,
// sequences of different lengths.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "einkorn/compute/flashrnn/flashrnn.h"

namespace einkorn::flashrnn {

struct LayerOptions {
  Cell cell = Cell::lstm;
  std::int64_t input_size = 0;   // >= 1
  std::int64_t hidden_size = 0;  // >= 1, a multiple of heads
  std::int64_t heads = 1;        // R is block-diagonal in so many blocks
  std::int64_t layers = 1;
  bool bidirectional = false;
  double dropout = 0;           // of each layer's output but the last, in [0, 1), while training
  std::int64_t projection = 0;  // > 0: a layer's output is a linear map of h to this size
  RnnOptions recurrence = {};   // `reverse` is the layer's own
};

struct LayerResult {
  at::Tensor output;  // [B, T, directions * (projection or hidden_size)]; zero behind the ends
  at::Tensor last;    // [S, layers * directions, B, hidden_size]; layer major, as torch's
};

// Parameters of layer l and direction d ("", or "_reverse"), in torch's names:
//   weight_ih_l{l}{d}  [G_w * hidden, inputs], gates as rows in the cell's input order
//   weight_hh_l{l}{d}  [G_r, heads, D, D]
//   bias_l{l}{d}       [G_t, heads, D]
//   weight_hr_l{l}{d}  [projection, hidden], where there is one
// They start uniform in +-1/sqrt(hidden_size), as torch's.
class LayerImpl : public torch::nn::Module {
 public:
  explicit LayerImpl(const LayerOptions& options);

  // input: [B, T, input_size], of the parameters' dtype and device. initial: [S, layers *
  // directions, B, hidden_size] or undefined for zeros. lengths: [B] or undefined, as for rnn.
  // Dropout draws from torch's generators.
  LayerResult forward(const at::Tensor& input, const at::Tensor& initial = {},
                      const at::Tensor& lengths = {});

  const LayerOptions& options() const { return options_; }
  std::int64_t directions() const { return options_.bidirectional ? 2 : 1; }
  std::int64_t output_size() const {
    return directions() * (options_.projection > 0 ? options_.projection : options_.hidden_size);
  }

  // Takes the weights of a torch.nn.LSTM, GRU or RNN (tanh) of the same sizes: `state` has its
  // names, as weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 (biases may be missing: zeros).
  // heads must be 1 and projection 0. Throws InvalidArgument for what is missing or does not fit.
  void load_torch(const std::vector<std::pair<std::string, at::Tensor>>& state);

 private:
  struct Direction {
    at::Tensor input_weight;
    at::Tensor recurrent;
    at::Tensor bias;
    at::Tensor projection;
  };
  LayerResult run_direction(const Direction& weights, const at::Tensor& input,
                            const at::Tensor& initial, const at::Tensor& lengths, bool reverse);

  LayerOptions options_;
  std::vector<Direction> weights_;  // layer major
};
TORCH_MODULE(Layer);

}  // namespace einkorn::flashrnn
