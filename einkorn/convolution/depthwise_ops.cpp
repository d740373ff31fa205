// torch.ops.einkorn.depthwise_conv2d with its gradients, to any order: the three operators are
// linear in each of their tensors, and each one's derivatives are the other two.
#include <torch/library.h>
#include <torch/torch.h>

#include "einkorn/convolution/depthwise.h"
#include "einkorn/convolution/depthwise_autograd.h"

namespace einkorn::convolution {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using MaybeTensor = std::optional<at::Tensor>;
using WeightGradients = std::tuple<at::Tensor, at::Tensor>;

at::Tensor call_forward(const at::Tensor& x, const at::Tensor& weight, const MaybeTensor& bias) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("einkorn::depthwise_conv2d", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const MaybeTensor&)>();
  return op.call(x, weight, bias);
}

at::Tensor call_input_gradient(const at::Tensor& dy, const at::Tensor& weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("einkorn::depthwise_conv2d_input_gradient", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&)>();
  return op.call(dy, weight);
}

WeightGradients call_weight_gradient(const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& weight) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("einkorn::depthwise_conv2d_weight_gradient", "")
          .typed<WeightGradients(const at::Tensor&, const at::Tensor&, const at::Tensor&)>();
  return op.call(dy, x, weight);
}

class Forward : public torch::autograd::Function<Forward> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const MaybeTensor& bias) {
    context->save_for_backward({x, weight});
    context->saved_data["has_bias"] = bias.has_value() && bias->defined();
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_forward(x, weight, bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outputs) {
    const auto saved = context->get_saved_variables();
    const bool needs_bias =
        context->saved_data["has_bias"].toBool() && context->needs_input_grad(2);
    variable_list found(3);
    if (context->needs_input_grad(0)) found[0] = call_input_gradient(outputs[0], saved[1]);
    if (context->needs_input_grad(1) || needs_bias) {
      const auto [weights, biases] = call_weight_gradient(outputs[0], saved[0], saved[1]);
      if (context->needs_input_grad(1)) found[1] = weights;
      if (needs_bias) found[2] = biases;
    }
    return found;
  }
};

class InputGradient : public torch::autograd::Function<InputGradient> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& dy,
                            const at::Tensor& weight) {
    context->save_for_backward({dy, weight});
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_input_gradient(dy, weight);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outputs) {
    const auto saved = context->get_saved_variables();
    variable_list found(2);
    if (context->needs_input_grad(0)) found[0] = call_forward(outputs[0], saved[1], std::nullopt);
    if (context->needs_input_grad(1)) {
      found[1] = std::get<0>(call_weight_gradient(saved[0], outputs[0], saved[1]));
    }
    return found;
  }
};

class WeightGradient : public torch::autograd::Function<WeightGradient> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& dy, const at::Tensor& x,
                               const at::Tensor& weight) {
    context->save_for_backward({dy, x});
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [weights, biases] = call_weight_gradient(dy, x, weight);
    return {weights, biases};
  }

  // The third tensor only lends its shape.
  static variable_list backward(AutogradContext* context, const variable_list& outputs) {
    const auto saved = context->get_saved_variables();
    variable_list found(3);
    if (context->needs_input_grad(0)) found[0] = call_forward(saved[1], outputs[0], outputs[1]);
    if (context->needs_input_grad(1)) found[1] = call_input_gradient(saved[0], outputs[0]);
    return found;
  }
};

WeightGradients weight_gradient_autograd(const at::Tensor& dy, const at::Tensor& x,
                                         const at::Tensor& weight) {
  const variable_list found = WeightGradient::apply(dy, x, weight);
  return {found[0], found[1]};
}

WeightGradients weight_gradient_pair(const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& weight) {
  auto [weights, biases] = depthwise_conv2d_weight_gradient(dy, x, weight);
  return {std::move(weights), std::move(biases)};
}

// Shapes and memory formats only, for torch.compile and export.
at::Tensor meta_images(const at::Tensor& x) {
  const auto format = x.dim() == 4 ? x.suggest_memory_format() : at::MemoryFormat::Contiguous;
  return at::empty_symint(x.sym_sizes(), x.options(), format);
}

at::Tensor meta_forward(const at::Tensor& x, const at::Tensor&, const MaybeTensor&) {
  return meta_images(x);
}

at::Tensor meta_input_gradient(const at::Tensor& dy, const at::Tensor&) {
  return meta_images(dy);
}

WeightGradients meta_weight_gradient(const at::Tensor&, const at::Tensor&,
                                     const at::Tensor& weight) {
  return {at::empty_symint(weight.sym_sizes(), weight.options()),
          at::empty_symint({weight.sym_size(0)}, weight.options())};
}

}  // namespace

at::Tensor differentiable_depthwise_conv2d(const at::Tensor& x, const at::Tensor& weight,
                                           const std::optional<at::Tensor>& bias) {
  return call_forward(x, weight, bias);
}

TORCH_LIBRARY_FRAGMENT(einkorn, m) {
  m.def("depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor");
  m.def("depthwise_conv2d_input_gradient(Tensor dy, Tensor weight) -> Tensor");
  m.def("depthwise_conv2d_weight_gradient(Tensor dy, Tensor x, Tensor weight) -> (Tensor, Tensor)");
}

void implement(torch::Library& library) {
  library.impl("depthwise_conv2d", &depthwise_conv2d);
  library.impl("depthwise_conv2d_input_gradient", &depthwise_conv2d_input_gradient);
  library.impl("depthwise_conv2d_weight_gradient", &weight_gradient_pair);
}

TORCH_LIBRARY_IMPL(einkorn, CPU, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(einkorn, CUDA, m) {
  implement(m);
}

TORCH_LIBRARY_IMPL(einkorn, Meta, m) {
  m.impl("depthwise_conv2d", &meta_forward);
  m.impl("depthwise_conv2d_input_gradient", &meta_input_gradient);
  m.impl("depthwise_conv2d_weight_gradient", &meta_weight_gradient);
}

TORCH_LIBRARY_IMPL(einkorn, Autograd, m) {
  m.impl("depthwise_conv2d",
         [](const at::Tensor& x, const at::Tensor& weight, const MaybeTensor& bias) {
           return Forward::apply(x, weight, bias);
         });
  m.impl("depthwise_conv2d_input_gradient", [](const at::Tensor& dy, const at::Tensor& weight) {
    return InputGradient::apply(dy, weight);
  });
  m.impl("depthwise_conv2d_weight_gradient", &weight_gradient_autograd);
}

}  // namespace einkorn::convolution
