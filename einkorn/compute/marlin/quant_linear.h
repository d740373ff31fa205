// A linear layer whose weights are quantised constants.
#pragma once

#include <torch/torch.h>

#include "einkorn/compute/marlin/marlin.h"

namespace einkorn::marlin {

// y = x W + bias with W [in, out] quantised. The buffers (B, s and where there are any zero_points,
// meta, order, bias) are those of the file format and move with the module (to(device); dtypes are
// kept, converting the module is refused at the next forward). Gradients reach x alone.
class QuantLinearImpl : public torch::nn::Module {
 public:
  // Throws InvalidArgument for weights that check() refuses.
  explicit QuantLinearImpl(const QuantizedWeights& weights);

  // From a linear layer's weight [out, in] and bias (may be undefined), rounded to nearest.
  static std::shared_ptr<QuantLinearImpl> from_linear(const at::Tensor& weight,
                                                      const at::Tensor& bias,
                                                      const QuantizeOptions& options = {});

  // x [.., in] -> [.., out], in x's dtype. Weights are arranged for the device at the first call
  // and again when the buffers change.
  torch::Tensor forward(const torch::Tensor& x);

  // Rounds activations to 8 bits on the CPU (floating by default).
  void set_activations(Activations activations) { activations_ = activations; }

  // The buffers as weights.
  QuantizedWeights weights() const;

  // As marlin::save and load.
  void save_weights(const OutputPath& path) const { marlin::save(path, weights()); }
  static std::shared_ptr<QuantLinearImpl> load_weights(const std::filesystem::path& path);

 private:
  const PreparedWeights& prepared();

  QuantizedWeights shape_;  // sizes alone; tensors are the module's buffers
  Activations activations_ = Activations::floating;
  PreparedWeights prepared_;
  std::vector<std::pair<const void*, std::uint32_t>> prepared_from_;
};
TORCH_MODULE(QuantLinear);

}  // namespace einkorn::marlin
