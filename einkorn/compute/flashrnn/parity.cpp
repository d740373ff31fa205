#include "einkorn/compute/flashrnn/parity.h"

#include <torch/torch.h>

#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/core/random.h"

namespace einkorn::flashrnn {
namespace {

at::Tensor normal(Random& random, at::IntArrayRef sizes, double scale) {
  std::vector<float> values(static_cast<std::size_t>(c10::multiply_integers(sizes)));
  for (float& value : values) value = static_cast<float>(scale * random.normal());
  return at::tensor(values).view(sizes);
}

struct Bits {
  at::Tensor signs;   // [B, T], +-1
  at::Tensor parity;  // [B, T], 0 or 1
};

Bits draw_bits(Random& random, std::int64_t batch, std::int64_t time) {
  std::vector<float> signs;
  std::vector<float> parity;
  for (std::int64_t row = 0; row < batch; ++row) {
    std::int64_t odd = 0;
    for (std::int64_t t = 0; t < time; ++t) {
      const std::int64_t bit = random.integer(2);
      odd ^= bit;
      signs.push_back(bit == 1 ? 1.0f : -1.0f);
      parity.push_back(static_cast<float>(odd));
    }
  }
  return {at::tensor(signs).view({batch, time}), at::tensor(parity).view({batch, time})};
}

class ParityNetwork {
 public:
  explicit ParityNetwork(const ParityOptions& options) : options_(options) {
    const CellShape shape = shape_of(options.cell);
    Random random(options.seed);
    const auto parameter = [&](const at::Tensor& tensor) {
      parameters_.push_back(tensor.to(to_torch(options.device)).requires_grad_());
      return parameters_.back();
    };
    const std::int64_t n = options.heads, d = options.dim;
    input_ = parameter(normal(random, {shape.input_gates, n, d}, 1));
    recurrent_ = parameter(
        normal(random, {shape.recurrent_gates, n, d, d}, 1 / std::sqrt(static_cast<double>(d))));
    bias_ = parameter(at::zeros({shape.biases, n, d}));
    readout_ = parameter(normal(random, {n * d}, 1 / std::sqrt(static_cast<double>(n * d))));
    readout_bias_ = parameter(at::zeros({1}));
  }

  at::Tensor logits(const at::Tensor& signs) const {
    RnnOptions how;
    how.backend = options_.backend;
    const at::Tensor gates = signs.view({signs.size(0), signs.size(1), 1, 1, 1}) * input_;
    const at::Tensor h = rnn(options_.cell, gates, recurrent_, bias_, {}, {}, how).states[0];
    return at::matmul(h.flatten(2), readout_) + readout_bias_;
  }

  const std::vector<at::Tensor>& parameters() const { return parameters_; }

 private:
  ParityOptions options_;
  std::vector<at::Tensor> parameters_;
  at::Tensor input_, recurrent_, bias_, readout_, readout_bias_;
};

double share_right(const at::Tensor& logits, const at::Tensor& parity) {
  return logits.gt(0).eq(parity.gt(0.5)).to(at::kDouble).mean().item<double>();
}

}  // namespace

ParityResult train_parity(const ParityOptions& options, const Progress& progress) {
  require(options.heads >= 1 && options.dim >= 1 && options.batch >= 1 && options.time >= 1 &&
              options.steps >= 1 && options.test_sequences >= 1 && options.test_time >= 1,
          "parity: expected counts >= 1");
  require(options.learning_rate > 0 && options.gradient_norm > 0,
          "parity: expected a learning rate and a gradient norm > 0");
  require_available(options.device);
  const at::Device device = to_torch(options.device);
  const ParityNetwork network(options);
  torch::optim::Adam adam(network.parameters(),
                          torch::optim::AdamOptions(options.learning_rate).betas({0.9, 0.999}));
  Random data(options.seed, 1);
  ParityResult result;
  for (std::int64_t step = 0; step < options.steps; ++step) {
    const Bits bits = draw_bits(data, options.batch, options.time);
    const at::Tensor parity = bits.parity.to(device);
    const at::Tensor logits = network.logits(bits.signs.to(device));
    const at::Tensor loss = at::binary_cross_entropy_with_logits(logits, parity);
    adam.zero_grad();
    loss.backward();
    torch::nn::utils::clip_grad_norm_(network.parameters(), options.gradient_norm);
    adam.step();
    result.losses.push_back(loss.item<double>());
    if (step + 1 == options.steps) result.train_accuracy = share_right(logits, parity);
    progress("training", step + 1, options.steps);
  }
  result.loss = result.losses.back();
  const torch::NoGradGuard no_grad;
  Random test(options.seed, 2);
  const Bits bits = draw_bits(test, options.test_sequences, options.test_time);
  result.accuracy = share_right(network.logits(bits.signs.to(device)), bits.parity.to(device));
  return result;
}

}  // namespace einkorn::flashrnn
