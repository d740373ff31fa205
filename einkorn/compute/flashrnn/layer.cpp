#include "einkorn/compute/flashrnn/layer.h"

#include <torch/torch.h>

#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/core/tensor.h"

namespace einkorn::flashrnn {
namespace {

void check(const LayerOptions& options) {
  require(options.input_size >= 1, "input_size: expected a number >= 1, got {}",
          options.input_size);
  require(options.hidden_size >= 1, "hidden_size: expected a number >= 1, got {}",
          options.hidden_size);
  require(options.heads >= 1 && options.hidden_size % options.heads == 0,
          "heads: expected a divisor of hidden_size {}, got {}", options.hidden_size,
          options.heads);
  require(options.layers >= 1, "layers: expected a number >= 1, got {}", options.layers);
  require(options.dropout >= 0 && options.dropout < 1,
          "dropout: expected a number in [0, 1), got {}", options.dropout);
  require(options.projection >= 0, "projection: expected a size, or 0 for none, got {}",
          options.projection);
  require(!options.recurrence.reverse, "recurrence.reverse: the layer sets it; use bidirectional");
}

std::string suffix(std::int64_t layer, bool reverse) {
  return fmt::format("_l{}{}", layer, reverse ? "_reverse" : "");
}

// Rows of torch's gates in the order of ours.
std::vector<std::int64_t> recurrent_order(Cell cell) {
  if (cell == Cell::gru) return {2, 0, 1};  // torch r, z, n; ours g (of n), r, z
  return cell == Cell::elman ? std::vector<std::int64_t>{0} : std::vector<std::int64_t>{0, 1, 2, 3};
}

}  // namespace

LayerImpl::LayerImpl(const LayerOptions& options) : options_(options) {
  check(options);
  const CellShape shape = shape_of(options.cell);
  const std::int64_t dim = options.hidden_size / options.heads;
  const double bound = 1 / std::sqrt(static_cast<double>(options.hidden_size));
  const auto uniform = [bound](at::IntArrayRef sizes) {
    return torch::empty(sizes).uniform_(-bound, bound);
  };
  for (std::int64_t layer = 0; layer < options.layers; ++layer) {
    const std::int64_t inputs = layer == 0 ? options.input_size : output_size();
    for (std::int64_t direction = 0; direction < directions(); ++direction) {
      const std::string end = suffix(layer, direction == 1);
      Direction weights;
      weights.input_weight = register_parameter(
          "weight_ih" + end, uniform({shape.input_gates * options.hidden_size, inputs}));
      weights.recurrent = register_parameter(
          "weight_hh" + end, uniform({shape.recurrent_gates, options.heads, dim, dim}));
      weights.bias = register_parameter("bias" + end, uniform({shape.biases, options.heads, dim}));
      if (options.projection > 0) {
        weights.projection = register_parameter("weight_hr" + end,
                                                uniform({options.projection, options.hidden_size}));
      }
      weights_.push_back(weights);
    }
  }
}

LayerResult LayerImpl::run_direction(const Direction& weights, const at::Tensor& input,
                                     const at::Tensor& initial, const at::Tensor& lengths,
                                     bool reverse) {
  const CellShape shape = shape_of(options_.cell);
  const std::int64_t batch = input.size(0), time = input.size(1);
  const std::int64_t dim = options_.hidden_size / options_.heads;
  const at::Tensor gates = at::linear(input, weights.input_weight)
                               .view({batch, time, shape.input_gates, options_.heads, dim});
  at::Tensor start;
  if (initial.defined()) start = initial.view({shape.states, batch, options_.heads, dim});
  RnnOptions how = options_.recurrence;
  how.reverse = reverse;
  const RnnResult found =
      rnn(options_.cell, gates, weights.recurrent, weights.bias, start, lengths, how);
  at::Tensor output = found.states.select(0, 0).reshape({batch, time, options_.hidden_size});
  if (options_.projection > 0) {
    output = at::linear(output.to(weights.projection.scalar_type()), weights.projection);
  }
  return {output, found.last.reshape({shape.states, batch, options_.hidden_size})};
}

LayerResult LayerImpl::forward(const at::Tensor& input, const at::Tensor& initial,
                               const at::Tensor& lengths) {
  const CellShape shape = shape_of(options_.cell);
  require_dense(input, "input");
  require(input.dim() == 3 && input.size(2) == options_.input_size,
          "input: expected [batch, time, {}], got {} dimensions, the last of {}",
          options_.input_size, input.dim(), input.dim() > 0 ? input.size(-1) : 0);
  const at::Tensor& first = weights_.front().input_weight;
  require(input.scalar_type() == first.scalar_type() && input.device() == first.device(),
          "input: {} on {}, expected {} on {} as the layer's parameters",
          toString(input.scalar_type()), input.device().str(), toString(first.scalar_type()),
          first.device().str());
  const auto count = static_cast<std::int64_t>(weights_.size());
  if (initial.defined()) {
    const std::vector<std::int64_t> expected = {shape.states, count, input.size(0),
                                                options_.hidden_size};
    require(initial.sizes() == at::IntArrayRef(expected),
            "initial: expected [states, layers * directions, batch, hidden] = [{}, {}, {}, {}]",
            expected[0], expected[1], expected[2], expected[3]);
  }
  at::Tensor current = input;
  std::vector<at::Tensor> last;
  for (std::int64_t layer = 0; layer < options_.layers; ++layer) {
    std::vector<at::Tensor> outputs;
    for (std::int64_t direction = 0; direction < directions(); ++direction) {
      const std::int64_t index = layer * directions() + direction;
      const at::Tensor start = initial.defined() ? initial.select(1, index).contiguous() : initial;
      const LayerResult found = run_direction(weights_[static_cast<std::size_t>(index)], current,
                                              start, lengths, direction == 1);
      outputs.push_back(found.output);
      last.push_back(found.last);
    }
    current = outputs.size() == 1 ? outputs[0] : at::cat(outputs, 2);
    if (layer + 1 < options_.layers) {
      current = at::dropout(current.to(first.scalar_type()), options_.dropout, is_training());
    }
  }
  return {current, at::stack(last, 1)};
}

void LayerImpl::load_torch(const std::vector<std::pair<std::string, at::Tensor>>& state) {
  require(options_.heads == 1 && options_.projection == 0 && options_.cell != Cell::slstm,
          "load_torch: expected an lstm, gru or elman layer with one head and no projection");
  const torch::NoGradGuard no_grad;
  const CellShape shape = shape_of(options_.cell);
  const std::int64_t hidden = options_.hidden_size;
  const auto named = [&](const std::string& name, bool optional) -> at::Tensor {
    for (const auto& [key, tensor] : state) {
      if (key == name) return tensor;
    }
    require(optional, "load_torch: '{}' is missing", name);
    return {};
  };
  const auto fitting = [](const at::Tensor& tensor, const std::string& name,
                          at::IntArrayRef sizes) {
    require(tensor.sizes() == sizes, "load_torch: '{}' has {} elements, expected {}", name,
            tensor.numel(), c10::multiply_integers(sizes));
    return tensor;
  };
  const at::Tensor order = at::tensor(recurrent_order(options_.cell), at::kLong);
  for (std::int64_t layer = 0; layer < options_.layers; ++layer) {
    for (std::int64_t direction = 0; direction < directions(); ++direction) {
      Direction& weights = weights_[static_cast<std::size_t>(layer * directions() + direction)];
      const std::string end = suffix(layer, direction == 1);
      const std::int64_t rows = shape.input_gates * hidden;
      const at::Tensor into =
          fitting(named("weight_ih" + end, false), "weight_ih" + end, weights.input_weight.sizes());
      const at::Tensor back =
          fitting(named("weight_hh" + end, false), "weight_hh" + end, {rows, hidden});
      const auto bias_of = [&](const char* name) {
        const at::Tensor found = named(name + end, true);
        return found.defined() ? fitting(found, name + end, {rows}).view({-1, hidden})
                               : at::zeros({shape.input_gates, hidden}, into.options());
      };
      const at::Tensor input_bias = bias_of("bias_ih");
      const at::Tensor recurrent_bias = bias_of("bias_hh");
      weights.input_weight.copy_(into);
      weights.recurrent.select(1, 0).copy_(back.view({shape.recurrent_gates, hidden, hidden})
                                               .index_select(0, order.to(back.device())));
      at::Tensor bias = input_bias + recurrent_bias;
      if (options_.cell == Cell::gru) {
        // The candidate's recurrent bias is scaled by r, so it stays apart, in front.
        bias = at::cat(
            {recurrent_bias.slice(0, 2, 3), bias.slice(0, 0, 2), input_bias.slice(0, 2, 3)}, 0);
      }
      weights.bias.select(1, 0).copy_(bias);
    }
  }
}

}  // namespace einkorn::flashrnn
