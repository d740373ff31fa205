// torch.ops.einkorn.inception_dwconv with its gradients, to any order: the operators are linear in
// the images and in the weights, and each one's derivatives are the others.
#include <torch/library.h>
#include <torch/torch.h>

#include "einkorn/convolution/inceptionnext/inception_mixer.h"
#include "einkorn/convolution/inceptionnext/mixer_autograd.h"

namespace einkorn::inceptionnext {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Six = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Operators take images first, then weights (square, wide, tall) and, forward, their biases.
using T = const at::Tensor&;
using ForwardSignature = at::Tensor(T, T, T, T, T, T, T);
using InputGradientSignature = at::Tensor(T, T, T, T);
using WeightGradientSignature = Six(T, T, T, T, T);

template <typename Signature>
auto find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor call_forward(T x, T square, T wide, T tall, T square_bias, T wide_bias, T tall_bias) {
  static const auto op = find<ForwardSignature>("einkorn::inception_dwconv");
  return op.call(x, square, wide, tall, square_bias, wide_bias, tall_bias);
}

at::Tensor call_branches(T x, T square, T wide, T tall, T square_bias, T wide_bias, T tall_bias) {
  static const auto op = find<ForwardSignature>("einkorn::inception_dwconv_branches");
  return op.call(x, square, wide, tall, square_bias, wide_bias, tall_bias);
}

at::Tensor call_input_gradient(T dy, T square, T wide, T tall) {
  static const auto op = find<InputGradientSignature>("einkorn::inception_dwconv_input_gradient");
  return op.call(dy, square, wide, tall);
}

Six call_weight_gradient(T dy, T x, T square, T wide, T tall) {
  static const auto op = find<WeightGradientSignature>("einkorn::inception_dwconv_weight_gradient");
  return op.call(dy, x, square, wide, tall);
}

variable_list as_list(const Six& six) {
  return std::apply([](const auto&... tensor) { return variable_list{tensor...}; }, six);
}

at::Tensor no_bias(T weight) {
  return at::zeros_symint({weight.sym_size(0)}, weight.options());
}

// Zeros for the identity channels, then the given ones.
at::Tensor behind_identity(const at::Tensor& branches, const at::Tensor& x) {
  const c10::SymInt identity = x.sym_size(1) - branches.sym_size(1);
  return at::constant_pad_nd_symint(branches, {0, 0, 0, 0, identity, 0}, 0);
}

class Forward : public torch::autograd::Function<Forward> {
 public:
  static at::Tensor forward(AutogradContext* context, T x, T square, T wide, T tall, T square_bias,
                            T wide_bias, T tall_bias) {
    context->save_for_backward({x, square, wide, tall});
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_forward(x, square, wide, tall, square_bias, wide_bias, tall_bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outputs) {
    const auto saved = context->get_saved_variables();
    variable_list found(7);
    if (context->needs_input_grad(0)) {
      found[0] = call_input_gradient(outputs[0], saved[1], saved[2], saved[3]);
    }
    bool needs_weights = false;
    for (std::size_t i = 1; i < 7; ++i) needs_weights |= context->needs_input_grad(i);
    if (!needs_weights) return found;
    const auto gradients =
        as_list(call_weight_gradient(outputs[0], saved[0], saved[1], saved[2], saved[3]));
    for (std::size_t i = 0; i < 6; ++i) {
      if (context->needs_input_grad(1 + i)) found[1 + i] = gradients[i];
    }
    return found;
  }
};

class InputGradient : public torch::autograd::Function<InputGradient> {
 public:
  static at::Tensor forward(AutogradContext* context, T dy, T square, T wide, T tall) {
    context->save_for_backward({dy, square, wide, tall});
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_input_gradient(dy, square, wide, tall);
  }

  static variable_list backward(AutogradContext* context, const variable_list& outputs) {
    const auto saved = context->get_saved_variables();
    variable_list found(4);
    if (context->needs_input_grad(0)) {
      found[0] = call_forward(outputs[0], saved[1], saved[2], saved[3], no_bias(saved[1]),
                              no_bias(saved[2]), no_bias(saved[3]));
    }
    const auto gradients =
        as_list(call_weight_gradient(saved[0], outputs[0], saved[1], saved[2], saved[3]));
    for (std::size_t i = 1; i < 4; ++i) {
      if (context->needs_input_grad(i)) found[i] = gradients[i - 1];
    }
    return found;
  }
};

class WeightGradient : public torch::autograd::Function<WeightGradient> {
 public:
  static variable_list forward(AutogradContext* context, T dy, T x, T square, T wide, T tall) {
    context->save_for_backward({dy, x});
    const at::AutoDispatchBelowADInplaceOrView below;
    return as_list(call_weight_gradient(dy, x, square, wide, tall));
  }

  // The weights only lend their shapes.
  static variable_list backward(AutogradContext* context, const variable_list& outputs) {
    const auto saved = context->get_saved_variables();
    variable_list found(5);
    if (context->needs_input_grad(0)) {
      found[0] = behind_identity(call_branches(saved[1], outputs[0], outputs[1], outputs[2],
                                               outputs[3], outputs[4], outputs[5]),
                                 saved[1]);
    }
    if (context->needs_input_grad(1)) {
      const at::Tensor all = call_input_gradient(saved[0], outputs[0], outputs[1], outputs[2]);
      const c10::SymInt convolved = outputs[0].sym_size(0) * 3;
      found[1] =
          behind_identity(all.narrow_symint(1, all.sym_size(1) - convolved, convolved), saved[0]);
    }
    return found;
  }
};

Six weight_gradient_autograd(T dy, T x, T square, T wide, T tall) {
  const variable_list found = WeightGradient::apply(dy, x, square, wide, tall);
  return {found[0], found[1], found[2], found[3], found[4], found[5]};
}

at::Tensor forward_autograd(T x, T square, T wide, T tall, T square_bias, T wide_bias,
                            T tall_bias) {
  return Forward::apply(x, square, wide, tall, square_bias, wide_bias, tall_bias);
}

// Only worth its while where nothing is differentiated; else the mixer's last channels.
at::Tensor branches_autograd(T x, T square, T wide, T tall, T square_bias, T wide_bias,
                             T tall_bias) {
  const bool differentiated =
      at::GradMode::is_enabled() &&
      (x.requires_grad() || square.requires_grad() || wide.requires_grad() ||
       tall.requires_grad() || square_bias.requires_grad() || wide_bias.requires_grad() ||
       tall_bias.requires_grad());
  if (differentiated) {
    const at::Tensor all = call_forward(x, square, wide, tall, square_bias, wide_bias, tall_bias);
    const c10::SymInt convolved = square.sym_size(0) * 3;
    return all.narrow_symint(1, all.sym_size(1) - convolved, convolved)
        .contiguous(x.suggest_memory_format());
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return call_branches(x, square, wide, tall, square_bias, wide_bias, tall_bias);
}

at::Tensor forward(T x, T square, T wide, T tall, T square_bias, T wide_bias, T tall_bias) {
  return inception_dwconv(x, {square, wide, tall, square_bias, wide_bias, tall_bias});
}

at::Tensor branches(T x, T square, T wide, T tall, T square_bias, T wide_bias, T tall_bias) {
  return inception_dwconv_branches(x, {square, wide, tall, square_bias, wide_bias, tall_bias});
}

at::Tensor input_gradient(T dy, T square, T wide, T tall) {
  return inception_dwconv_input_gradient(
      dy, {square, wide, tall, no_bias(square), no_bias(wide), no_bias(tall)});
}

Six weight_gradient(T dy, T x, T square, T wide, T tall) {
  const MixerWeights found = inception_dwconv_weight_gradient(
      dy, x, {square, wide, tall, no_bias(square), no_bias(wide), no_bias(tall)});
  return {found.square,      found.wide,      found.tall,
          found.square_bias, found.wide_bias, found.tall_bias};
}

// Shapes and memory formats only, for torch.compile and export.
at::Tensor meta_images(T x, const c10::SymInt& channels) {
  if (x.dim() != 4) return at::empty_symint(x.sym_sizes(), x.options());
  return at::empty_symint({x.sym_size(0), channels, x.sym_size(2), x.sym_size(3)}, x.options(),
                          x.suggest_memory_format());
}

at::Tensor meta_forward(T x, T, T, T, T, T, T) {
  return meta_images(x, x.sym_size(1));
}

at::Tensor meta_branches(T x, T square, T, T, T, T, T) {
  return meta_images(x, square.sym_size(0) * 3);
}

at::Tensor meta_input_gradient(T dy, T, T, T) {
  return meta_images(dy, dy.sym_size(1));
}

Six meta_weight_gradient(T, T, T square, T wide, T tall) {
  const auto weight = [](T like) { return at::empty_symint(like.sym_sizes(), like.options()); };
  return {weight(square),  weight(wide),  weight(tall),
          no_bias(square), no_bias(wide), no_bias(tall)};
}

void implement(torch::Library& library) {
  library.impl("inception_dwconv", &forward);
  library.impl("inception_dwconv_branches", &branches);
  library.impl("inception_dwconv_input_gradient", &input_gradient);
  library.impl("inception_dwconv_weight_gradient", &weight_gradient);
}

}  // namespace

at::Tensor differentiable_inception_dwconv(const at::Tensor& x, const MixerWeights& weights) {
  return call_forward(x, weights.square, weights.wide, weights.tall, weights.square_bias,
                      weights.wide_bias, weights.tall_bias);
}

TORCH_LIBRARY_FRAGMENT(einkorn, m) {
  m.def(
      "inception_dwconv(Tensor x, Tensor w_hw, Tensor w_w, Tensor w_h, Tensor b_hw, Tensor b_w, "
      "Tensor b_h) -> Tensor");
  m.def(
      "inception_dwconv_branches(Tensor x, Tensor w_hw, Tensor w_w, Tensor w_h, Tensor b_hw, "
      "Tensor b_w, Tensor b_h) -> Tensor");
  m.def(
      "inception_dwconv_input_gradient(Tensor dy, Tensor w_hw, Tensor w_w, Tensor w_h) -> Tensor");
  m.def(
      "inception_dwconv_weight_gradient(Tensor dy, Tensor x, Tensor w_hw, Tensor w_w, Tensor w_h) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(einkorn, CPU, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(einkorn, CUDA, m) {
  implement(m);
}

TORCH_LIBRARY_IMPL(einkorn, Meta, m) {
  m.impl("inception_dwconv", &meta_forward);
  m.impl("inception_dwconv_branches", &meta_branches);
  m.impl("inception_dwconv_input_gradient", &meta_input_gradient);
  m.impl("inception_dwconv_weight_gradient", &meta_weight_gradient);
}

TORCH_LIBRARY_IMPL(einkorn, Autograd, m) {
  m.impl("inception_dwconv", &forward_autograd);
  m.impl("inception_dwconv_branches", &branches_autograd);
  m.impl("inception_dwconv_input_gradient", [](T dy, T square, T wide, T tall) {
    return InputGradient::apply(dy, square, wide, tall);
  });
  m.impl("inception_dwconv_weight_gradient", &weight_gradient_autograd);
}

}  // namespace einkorn::inceptionnext
