// torch.ops.einkorn.marlin_matmul and marlin_dequantize: kernels for CPU, CUDA and meta tensors,
// and the gradient in the activations.
#include "einkorn/compute/marlin/marlin.h"
#include "einkorn/compute/marlin/matmul_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::marlin {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using OptionalTensor = std::optional<at::Tensor>;

using MatmulOperator = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                  const OptionalTensor&, const OptionalTensor&,
                                  const OptionalTensor&, std::int64_t, std::int64_t, std::int64_t,
                                  bool);
using DequantizeOperator = at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                                      const OptionalTensor&, std::int64_t, std::int64_t,
                                      std::int64_t, std::int64_t, at::ScalarType);

template <typename Signature>
auto operator_named(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

PreparedWeights weights_from(const at::Tensor& words, const at::Tensor& scales,
                             const OptionalTensor& zero_points, const OptionalTensor& order,
                             const OptionalTensor& bias, std::int64_t bits, std::int64_t group_size,
                             std::int64_t inputs, std::int64_t outputs) {
  PreparedWeights weights;
  weights.words = words;
  weights.scales = scales;
  weights.zero_points = zero_points.value_or(at::Tensor());
  weights.order = order.value_or(at::Tensor());
  weights.bias = bias.value_or(at::Tensor());
  weights.bits = static_cast<int>(bits);
  weights.group_size = group_size;
  weights.inputs = inputs;
  weights.outputs = outputs;
  return weights;
}

at::Tensor matmul_kernel(const at::Tensor& activations, const at::Tensor& words,
                         const at::Tensor& scales, const OptionalTensor& zero_points,
                         const OptionalTensor& order, const OptionalTensor& bias, std::int64_t bits,
                         std::int64_t group_size, std::int64_t outputs, bool int8_activations) {
  require(activations.dim() >= 1, "activations: expected at least one dimension");
  const PreparedWeights weights = weights_from(words, scales, zero_points, order, bias, bits,
                                               group_size, activations.size(-1), outputs);
  const Activations how = int8_activations ? Activations::int8 : Activations::floating;
  check_call(activations, weights, how);
  std::vector<std::int64_t> shape = activations.sizes().vec();
  shape.back() = outputs;
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  if (rows == 0 || outputs == 0) return at::empty(shape, activations.options());
  if (weights.inputs == 0) {
    at::Tensor zeros = at::zeros(shape, activations.options());
    return weights.bias.defined() ? zeros.add_(weights.bias) : zeros;
  }
  const at::Tensor matrix = activations.reshape({rows, weights.inputs});
  const at::Tensor out =
      activations.is_cuda() ? multiply_cuda(matrix, weights) : multiply_cpu(matrix, weights, how);
  return out.reshape(shape);
}

at::Tensor matmul_meta(const at::Tensor& activations, const at::Tensor&, const at::Tensor&,
                       const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                       std::int64_t, std::int64_t, std::int64_t outputs, bool) {
  auto shape = activations.sym_sizes().vec();
  require(!shape.empty(), "activations: expected at least one dimension");
  shape.back() = outputs;
  return at::empty_symint(shape, activations.options());
}

at::Tensor dequantize_kernel(const at::Tensor& words, const at::Tensor& scales,
                             const OptionalTensor& zero_points, const OptionalTensor& order,
                             std::int64_t bits, std::int64_t group_size, std::int64_t inputs,
                             std::int64_t outputs, at::ScalarType dtype) {
  const PreparedWeights weights = weights_from(words, scales, zero_points, order, std::nullopt,
                                               bits, group_size, inputs, outputs);
  check_prepared(weights);
  require(at::isFloatingType(dtype), "dtype: expected a floating type");
  if (weights.device().is_cuda()) return dequantize_cuda(weights, dtype);
  return dequantize(restore(weights), dtype);
}

at::Tensor dequantize_meta(const at::Tensor& words, const at::Tensor&, const OptionalTensor&,
                           const OptionalTensor&, std::int64_t, std::int64_t, std::int64_t inputs,
                           std::int64_t outputs, at::ScalarType dtype) {
  return at::empty({inputs, outputs}, words.options().dtype(dtype));
}

// The weights are constants: dA = dC W', in terms that are differentiable again.
struct DifferentiableMatmul : torch::autograd::Function<DifferentiableMatmul> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& activations,
                            const at::Tensor& words, const at::Tensor& scales,
                            const OptionalTensor& zero_points, const OptionalTensor& order,
                            const OptionalTensor& bias, std::int64_t bits, std::int64_t group_size,
                            std::int64_t outputs, bool int8_activations) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({words, scales, zero_points.value_or(at::Tensor()),
                                order.value_or(at::Tensor()), bias.value_or(at::Tensor())});
    context->saved_data["bits"] = bits;
    context->saved_data["group_size"] = group_size;
    context->saved_data["inputs"] = activations.size(-1);
    context->saved_data["outputs"] = outputs;
    return operator_named<MatmulOperator>("einkorn::marlin_matmul")
        .call(activations, words, scales, zero_points, order, bias, bits, group_size, outputs,
              int8_activations);
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    tensor_list result(10);
    const auto saved = context->get_saved_variables();
    const at::Tensor& gradient = gradients[0];
    if (context->needs_input_grad(0)) {
      // Half precision on the CPU is summed in f32, as the forward product is.
      const bool widens = gradient.is_cpu() && gradient.element_size() == 2;
      const at::ScalarType type = widens ? at::kFloat : gradient.scalar_type();
      const at::Tensor weights =
          operator_named<DequantizeOperator>("einkorn::marlin_dequantize")
              .call(saved[0], saved[1], optional(saved[2]), optional(saved[3]),
                    context->saved_data["bits"].toInt(), context->saved_data["group_size"].toInt(),
                    context->saved_data["inputs"].toInt(), context->saved_data["outputs"].toInt(),
                    type);
      result[0] = gradient.to(type).matmul(weights.t()).to(gradient.scalar_type());
    }
    if (saved[4].defined() && context->needs_input_grad(5)) {
      result[5] = gradient.reshape({-1, gradient.size(-1)}).to(at::kFloat).sum(0);
    }
    return result;
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(einkorn, m) {
  m.def(
      "marlin_matmul(Tensor activations, Tensor words, Tensor scales, Tensor? zero_points=None, "
      "Tensor? order=None, Tensor? bias=None, *, int bits, int group_size, int outputs, "
      "bool int8_activations=False) -> Tensor");
  m.def(
      "marlin_dequantize(Tensor words, Tensor scales, Tensor? zero_points=None, "
      "Tensor? order=None, *, int bits, int group_size, int inputs, int outputs, "
      "ScalarType dtype) -> Tensor");
}

TORCH_LIBRARY_IMPL(einkorn, CPU, m) {
  m.impl("marlin_matmul", &matmul_kernel);
  m.impl("marlin_dequantize", &dequantize_kernel);
}
TORCH_LIBRARY_IMPL(einkorn, CUDA, m) {
  m.impl("marlin_matmul", &matmul_kernel);
  m.impl("marlin_dequantize", &dequantize_kernel);
}
TORCH_LIBRARY_IMPL(einkorn, Meta, m) {
  m.impl("marlin_matmul", &matmul_meta);
  m.impl("marlin_dequantize", &dequantize_meta);
}
TORCH_LIBRARY_IMPL(einkorn, Autograd, m) {
  m.impl(
      "marlin_matmul",
      [](const at::Tensor& activations, const at::Tensor& words, const at::Tensor& scales,
         const OptionalTensor& zero_points, const OptionalTensor& order, const OptionalTensor& bias,
         std::int64_t bits, std::int64_t group_size, std::int64_t outputs, bool int8_activations) {
        return DifferentiableMatmul::apply(activations, words, scales, zero_points, order, bias,
                                           bits, group_size, outputs, int8_activations);
      });
  m.impl("marlin_dequantize", torch::CppFunction::makeFallthrough());
}

at::Tensor matmul(const at::Tensor& activations, const PreparedWeights& w, Activations how) {
  require_dense(activations, "activations");
  check_call(activations, w, how);
  return operator_named<MatmulOperator>("einkorn::marlin_matmul")
      .call(activations, w.words, w.scales, optional(w.zero_points), optional(w.order),
            optional(w.bias), w.bits, w.group_size, w.outputs, how == Activations::int8);
}

at::Tensor dequantize(const PreparedWeights& w, at::ScalarType dtype) {
  return operator_named<DequantizeOperator>("einkorn::marlin_dequantize")
      .call(w.words, w.scales, optional(w.zero_points), optional(w.order), w.bits, w.group_size,
            w.inputs, w.outputs, dtype);
}

at::Tensor mul(const at::Tensor& A, const at::Tensor& B, const at::Tensor& s) {
  require_dense(A, "A");
  return matmul(A, prepare(from_official(B, s), A.device()));
}

at::Tensor mul_2_4(const at::Tensor& A, const at::Tensor& B, const at::Tensor& meta,
                   const at::Tensor& s) {
  require_dense(A, "A");
  return matmul(A, prepare(from_official_2_4(B, meta, s), A.device()));
}

}  // namespace einkorn::marlin
