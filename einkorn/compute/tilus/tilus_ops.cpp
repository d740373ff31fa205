// torch.ops.einkorn.tilus_linear: the product with prepared weights, with a gradient in x, so that
// adapters can be trained through quantised layers.
#include <ATen/ATen.h>

#include "einkorn/compute/tilus/quantized_linear.h"
#include "einkorn/compute/tilus/quantized_linear_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

using LinearOperator = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                  const std::optional<at::Tensor>&, c10::string_view, std::int64_t,
                                  std::int64_t, std::int64_t);

PreparedWeights weights_of(const at::Tensor& words, const at::Tensor& scales,
                           const std::optional<at::Tensor>& offsets, c10::string_view type,
                           std::int64_t rows, std::int64_t columns, std::int64_t group) {
  require(rows >= 0 && columns >= 0 && group >= 1 && rows % group == 0,
          "weights: [{}, {}] in groups of {}: expected groups that divide the rows", rows, columns,
          group);
  return {NumberType(std::string(type)), rows, columns, group, words, scales,
          offsets.value_or(at::Tensor())};
}

at::Tensor linear_cpu(const at::Tensor& x, const at::Tensor& words, const at::Tensor& scales,
                      const std::optional<at::Tensor>& offsets, c10::string_view type,
                      std::int64_t rows, std::int64_t columns, std::int64_t group) {
  return linear_on_cpu(x, weights_of(words, scales, offsets, type, rows, columns, group));
}

at::Tensor linear_meta(const at::Tensor& x, const at::Tensor&, const at::Tensor&,
                       const std::optional<at::Tensor>&, c10::string_view, std::int64_t,
                       std::int64_t columns, std::int64_t) {
  c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
  require(!shape.empty(), "x: expected at least one dimension");
  shape.back() = columns;
  return at::empty_symint(shape, x.options());
}

struct Differentiable : torch::autograd::Function<Differentiable> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& words,
                            const at::Tensor& scales, const std::optional<at::Tensor>& offsets,
                            const std::string& type, std::int64_t rows, std::int64_t columns,
                            std::int64_t group) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({words, scales, offsets.value_or(at::Tensor())});
    context->saved_data["type"] = type;
    context->saved_data["sizes"] = std::vector<std::int64_t>{rows, columns, group};
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("einkorn::tilus_linear", "")
                               .typed<LinearOperator>();
    return op.call(x, words, scales, offsets, type, rows, columns, group);
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    tensor_list result(8);
    if (!context->needs_input_grad(0)) return result;
    const auto saved = context->get_saved_variables();
    const std::vector<std::int64_t> sizes = context->saved_data["sizes"].toIntVector();
    std::optional<at::Tensor> offsets;
    if (saved[2].defined()) offsets = saved[2];
    const PreparedWeights weights =
        weights_of(saved[0], saved[1], offsets, context->saved_data["type"].toStringRef(), sizes[0],
                   sizes[1], sizes[2]);
    result[0] = at::matmul(gradients[0].to(at::kFloat), dequantize(weights).t())
                    .to(gradients[0].scalar_type());
    return result;
  }
};

at::Tensor linear_autograd(const at::Tensor& x, const at::Tensor& words, const at::Tensor& scales,
                           const std::optional<at::Tensor>& offsets, c10::string_view type,
                           std::int64_t rows, std::int64_t columns, std::int64_t group) {
  return Differentiable::apply(x, words, scales, offsets, std::string(type), rows, columns, group);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(einkorn, m) {
  m.def(
      "tilus_linear(Tensor x, Tensor words, Tensor scales, Tensor? offsets, str type, int rows, "
      "int columns, int group) -> Tensor");
}
TORCH_LIBRARY_IMPL(einkorn, CPU, m) {
  m.impl("tilus_linear", &linear_cpu);
}
TORCH_LIBRARY_IMPL(einkorn, Meta, m) {
  m.impl("tilus_linear", &linear_meta);
}
TORCH_LIBRARY_IMPL(einkorn, Autograd, m) {
  m.impl("tilus_linear", &linear_autograd);
}

at::Tensor linear(const at::Tensor& x, const PreparedWeights& weights) {
  require_dense(x, "x");
  require(x.is_cpu(), "x: expected a tensor on the CPU, where the prepared weights are");
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("einkorn::tilus_linear", "")
                             .typed<LinearOperator>();
  std::optional<at::Tensor> offsets;
  if (weights.offsets.defined()) offsets = weights.offsets;
  return op.call(x, weights.words, weights.scales, offsets, weights.type.name(), weights.rows,
                 weights.columns, weights.group);
}

}  // namespace einkorn::tilus
