#include "einkorn/compute/marlin/quant_linear.h"

#include "einkorn/core/error.h"

namespace einkorn::marlin {
namespace {

struct NamedPart {
  const char* name;
  at::Tensor QuantizedWeights::* tensor;
};
constexpr NamedPart parts[] = {
    {"B", &QuantizedWeights::words},
    {"s", &QuantizedWeights::scales},
    {"zero_points", &QuantizedWeights::zero_points},
    {"meta", &QuantizedWeights::metadata},
    {"order", &QuantizedWeights::order},
    {"bias", &QuantizedWeights::bias},
};

}  // namespace

QuantLinearImpl::QuantLinearImpl(const QuantizedWeights& weights) : shape_(weights) {
  check(weights);
  for (const NamedPart& part : parts) {
    const at::Tensor& tensor = weights.*part.tensor;
    if (tensor.defined()) register_buffer(part.name, tensor);
    shape_.*part.tensor = at::Tensor();
  }
}

std::shared_ptr<QuantLinearImpl> QuantLinearImpl::from_linear(const at::Tensor& weight,
                                                              const at::Tensor& bias,
                                                              const QuantizeOptions& options) {
  require_dense(weight, "weight");
  require(weight.dim() == 2, "weight: expected a matrix [out, in]");
  QuantizedWeights weights = quantize_rtn(weight.detach().t(), options);
  if (bias.defined()) weights.bias = bias.detach().cpu().to(at::kFloat).contiguous();
  return std::make_shared<QuantLinearImpl>(to_device(weights, weight.device()));
}

QuantizedWeights QuantLinearImpl::weights() const {
  QuantizedWeights weights = shape_;
  const auto buffers = named_buffers(false);
  for (const NamedPart& part : parts) {
    if (const at::Tensor* tensor = buffers.find(part.name)) weights.*part.tensor = *tensor;
  }
  return weights;
}

const PreparedWeights& QuantLinearImpl::prepared() {
  std::vector<std::pair<const void*, std::uint32_t>> from;
  for (const at::Tensor& buffer : buffers(false)) {
    from.emplace_back(buffer.const_data_ptr(), buffer._version());
  }
  if (from != prepared_from_) {
    const QuantizedWeights current = weights();
    prepared_ = prepare(current, current.words.device());
    prepared_from_ = std::move(from);
  }
  return prepared_;
}

torch::Tensor QuantLinearImpl::forward(const torch::Tensor& x) {
  return matmul(x, prepared(), activations_);
}

std::shared_ptr<QuantLinearImpl> QuantLinearImpl::load_weights(const std::filesystem::path& path) {
  return std::make_shared<QuantLinearImpl>(marlin::load(path));
}

}  // namespace einkorn::marlin
