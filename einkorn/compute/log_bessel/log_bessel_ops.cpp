// torch.ops.einkorn.log_iv and its kin: one operator for each function, with kernels for CPU, CUDA
// and meta tensors, and gradients.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include "einkorn/compute/log_bessel/log_bessel.h"
#include "einkorn/compute/log_bessel/log_bessel_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::log_bessel {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

using LogOperator = at::Tensor(const at::Tensor&, const at::Tensor&, c10::string_view);
using RatioOperator = at::Tensor(const at::Tensor&, const at::Tensor&);

template <typename Signature, typename... Arguments>
at::Tensor call(const char* name, Arguments... arguments) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>().call(
      arguments...);
}

// ---- derivatives, in differentiable terms ----

// v / x, and 0 at v = 0 even for x = 0.
at::Tensor order_over_argument(const at::Tensor& v, const at::Tensor& x) {
  return at::where(v == 0, at::zeros({}, x.options()), v / x);
}

at::Tensor slope(Quantity quantity, const at::Tensor& v, const at::Tensor& x) {
  switch (quantity) {
    case Quantity::log_i:
      return order_over_argument(v, x) + iv_ratio(v, x);
    case Quantity::log_i_scaled:
      return order_over_argument(v, x) - iv_ratio_c(v, x);
    case Quantity::log_k:
      return log_kve_slope(v.abs(), x) - 1;
    case Quantity::log_k_scaled:
      return log_kve_slope(v.abs(), x);
    case Quantity::ratio_i:
      return iv_ratio_dx(v, x);
    case Quantity::ratio_i_complement:
      return -iv_ratio_dx(v, x);
    case Quantity::ratio_k: {
      const at::Tensor ratio = kv_ratio(v, x);  // r' = r^2 - (2v+1) r / x - 1
      return ratio * (ratio - (2 * v + 1) / x) - 1;
    }
    case Quantity::slope_k_scaled: {  // d/dx (1 + v/x - K_{v+1}/K_v)
      const at::Tensor ratio = kv_ratio(v, x);
      return 1 - v / (x * x) - ratio * (ratio - (2 * v + 1) / x);
    }
    case Quantity::ratio_i_slope: {
      // r'' of r' = 1 - r^2 - (2v+1) r / x
      const at::Tensor ratio = iv_ratio(v, x);
      const at::Tensor first = iv_ratio_dx(v, x);
      return -2 * ratio * first - (2 * v + 1) / x * (first - ratio / x);
    }
  }
  return {};
}

at::Tensor slope_in_order(Quantity quantity, const at::Tensor& v, const at::Tensor& x) {
  const auto next_minus_this = [&](bool of_k) {
    return order_derivative(of_k, v + 1, x) - order_derivative(of_k, v, x);
  };
  switch (quantity) {
    case Quantity::log_i:
    case Quantity::log_i_scaled:
      return order_derivative(false, v, x);
    case Quantity::log_k:
    case Quantity::log_k_scaled:
      return order_derivative(true, v, x);
    case Quantity::ratio_i:
      return iv_ratio(v, x) * next_minus_this(false);
    case Quantity::ratio_i_complement:
      return -iv_ratio(v, x) * next_minus_this(false);
    case Quantity::ratio_k:
      return kv_ratio(v, x) * next_minus_this(true);
    case Quantity::slope_k_scaled:
      return 1 / x - kv_ratio(v, x) * next_minus_this(true);
    case Quantity::ratio_i_slope: {
      const at::Tensor ratio = iv_ratio(v, x);
      const at::Tensor in_order = ratio * next_minus_this(false);
      return -2 * ratio * in_order - 2 * ratio / x - (2 * v + 1) / x * in_order;
    }
  }
  return {};
}

// Of what a broadcast operand received, its own share.
at::Tensor gradient_for(const Variable& operand, const at::Tensor& gradient) {
  return at::sum_to(gradient, operand.sizes()).to(operand.options());
}

template <Quantity quantity>
struct Differentiable : torch::autograd::Function<Differentiable<quantity>> {
  template <typename Compute>
  static at::Tensor forward(AutogradContext* context, const at::Tensor& v, const at::Tensor& x,
                            const Compute& compute_below) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({v, x});
    return compute_below(v, x);
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& v = saved[0];
    const at::Tensor& x = saved[1];
    tensor_list result(3);
    if (context->needs_input_grad(0)) {
      result[0] = gradient_for(v, gradients[0] * slope_in_order(quantity, v, x));
    }
    if (context->needs_input_grad(1)) {
      result[1] = gradient_for(x, gradients[0] * slope(quantity, v, x));
    }
    return result;
  }
};

// x with ratio = A_v(x): dx = (dratio - A_v dv) / A_x.
struct DifferentiableInverse : torch::autograd::Function<DifferentiableInverse> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& v,
                            const at::Tensor& ratio) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor x = call<RatioOperator>("einkorn::iv_ratio_inv", v, ratio);
    context->save_for_backward({v, ratio, x});
    return x;
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& v = saved[0];
    const at::Tensor& x = saved[2];
    const at::Tensor scaled = gradients[0] / iv_ratio_dx(v, x);
    tensor_list result(2);
    if (context->needs_input_grad(0)) {
      result[0] = gradient_for(v, -scaled * slope_in_order(Quantity::ratio_i, v, x));
    }
    if (context->needs_input_grad(1)) result[1] = gradient_for(saved[1], scaled);
    return result;
  }
};

// ---- kernels ----

template <Quantity quantity>
struct Kernels {
  static const char* name;

  static at::Tensor log(const at::Tensor& v, const at::Tensor& x, c10::string_view table) {
    return compute(quantity, v, x, parse_switching_table(std::string(table)));
  }
  static at::Tensor log_with_gradient(const at::Tensor& v, const at::Tensor& x,
                                      c10::string_view table) {
    return Differentiable<quantity>::apply(v, x, [table](const at::Tensor& a, const at::Tensor& b) {
      return call<LogOperator>(name, a, b, table);
    });
  }
  static at::Tensor& log_out(const at::Tensor& v, const at::Tensor& x, c10::string_view table,
                             at::Tensor& out) {
    return evaluate_out(out, quantity, v, x, parse_switching_table(std::string(table)));
  }
  static at::Tensor log_meta(const at::Tensor& v, const at::Tensor& x, c10::string_view table) {
    parse_switching_table(std::string(table));
    return meta(v, x);
  }

  static at::Tensor ratio(const at::Tensor& v, const at::Tensor& x) {
    return compute(quantity, v, x, SwitchingTable::standard);
  }
  static at::Tensor ratio_with_gradient(const at::Tensor& v, const at::Tensor& x) {
    return Differentiable<quantity>::apply(v, x, [](const at::Tensor& a, const at::Tensor& b) {
      return call<RatioOperator>(name, a, b);
    });
  }
  static at::Tensor& ratio_out(const at::Tensor& v, const at::Tensor& x, at::Tensor& out) {
    return evaluate_out(out, quantity, v, x, SwitchingTable::standard);
  }

  static at::Tensor meta(const at::Tensor& v, const at::Tensor& x) {
    auto type = at::result_type(v, x);
    if (at::isIntegralType(type, true)) type = at::typeMetaToScalarType(at::get_default_dtype());
    return at::empty_symint(at::infer_size_symint(v.sym_sizes(), x.sym_sizes()),
                            at::TensorOptions().dtype(type).device(at::kMeta));
  }
};

template <>
const char* Kernels<Quantity::log_i>::name = "einkorn::log_iv";
template <>
const char* Kernels<Quantity::log_k>::name = "einkorn::log_kv";
template <>
const char* Kernels<Quantity::log_i_scaled>::name = "einkorn::log_ive";
template <>
const char* Kernels<Quantity::log_k_scaled>::name = "einkorn::log_kve";
template <>
const char* Kernels<Quantity::ratio_i>::name = "einkorn::iv_ratio";
template <>
const char* Kernels<Quantity::ratio_i_complement>::name = "einkorn::iv_ratio_c";
template <>
const char* Kernels<Quantity::ratio_i_slope>::name = "einkorn::iv_ratio_dx";
template <>
const char* Kernels<Quantity::ratio_k>::name = "einkorn::kv_ratio";
template <>
const char* Kernels<Quantity::slope_k_scaled>::name = "einkorn::log_kve_slope";

template <typename Visit>
void for_each_log(const Visit& visit) {
  visit.template operator()<Quantity::log_i>();
  visit.template operator()<Quantity::log_k>();
  visit.template operator()<Quantity::log_i_scaled>();
  visit.template operator()<Quantity::log_k_scaled>();
}

template <typename Visit>
void for_each_ratio(const Visit& visit) {
  visit.template operator()<Quantity::ratio_i>();
  visit.template operator()<Quantity::ratio_i_complement>();
  visit.template operator()<Quantity::ratio_i_slope>();
  visit.template operator()<Quantity::ratio_k>();
  visit.template operator()<Quantity::slope_k_scaled>();
}

at::Tensor log_iv_dv_kernel(const at::Tensor& v, const at::Tensor& x) {
  return compute_order_derivative(false, v, x);
}
at::Tensor log_kv_dv_kernel(const at::Tensor& v, const at::Tensor& x) {
  return compute_order_derivative(true, v, x);
}

void implement(torch::Library& m) {
  for_each_log([&]<Quantity quantity>() {
    m.impl(Kernels<quantity>::name, &Kernels<quantity>::log);
    m.impl((std::string(Kernels<quantity>::name) + ".out").c_str(), &Kernels<quantity>::log_out);
  });
  for_each_ratio([&]<Quantity quantity>() {
    m.impl(Kernels<quantity>::name, &Kernels<quantity>::ratio);
    m.impl((std::string(Kernels<quantity>::name) + ".out").c_str(), &Kernels<quantity>::ratio_out);
  });
  m.impl("iv_ratio_inv", &compute_ratio_inverse);
  m.impl("log_iv_dv", &log_iv_dv_kernel);
  m.impl("log_kv_dv", &log_kv_dv_kernel);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(einkorn, m) {
  for_each_log([&]<Quantity quantity>() {
    const std::string name = Kernels<quantity>::name;
    m.def((name + "(Tensor v, Tensor x, str table='default') -> Tensor").c_str());
    m.def((name + ".out(Tensor v, Tensor x, str table='default', *, Tensor(a!) out) -> Tensor(a!)")
              .c_str());
  });
  for_each_ratio([&]<Quantity quantity>() {
    const std::string name = Kernels<quantity>::name;
    m.def((name + "(Tensor v, Tensor x) -> Tensor").c_str());
    m.def((name + ".out(Tensor v, Tensor x, *, Tensor(a!) out) -> Tensor(a!)").c_str());
  });
  m.def("iv_ratio_inv(Tensor v, Tensor ratio) -> Tensor");
  m.def("log_iv_dv(Tensor v, Tensor x) -> Tensor");
  m.def("log_kv_dv(Tensor v, Tensor x) -> Tensor");
}

TORCH_LIBRARY_IMPL(einkorn, CPU, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(einkorn, CUDA, m) {
  implement(m);
}

TORCH_LIBRARY_IMPL(einkorn, Meta, m) {
  for_each_log(
      [&]<Quantity quantity>() { m.impl(Kernels<quantity>::name, &Kernels<quantity>::log_meta); });
  for_each_ratio(
      [&]<Quantity quantity>() { m.impl(Kernels<quantity>::name, &Kernels<quantity>::meta); });
  for (const char* name : {"iv_ratio_inv", "log_iv_dv", "log_kv_dv"}) {
    m.impl(name, &Kernels<Quantity::ratio_i>::meta);
  }
}

TORCH_LIBRARY_IMPL(einkorn, Autograd, m) {
  for_each_log([&]<Quantity quantity>() {
    m.impl(Kernels<quantity>::name, &Kernels<quantity>::log_with_gradient);
  });
  for_each_ratio([&]<Quantity quantity>() {
    m.impl(Kernels<quantity>::name, &Kernels<quantity>::ratio_with_gradient);
  });
  m.impl("iv_ratio_inv", [](const at::Tensor& v, const at::Tensor& ratio) {
    return DifferentiableInverse::apply(v, ratio);
  });
  m.impl("log_iv_dv", torch::autograd::autogradNotImplementedFallback());
  m.impl("log_kv_dv", torch::autograd::autogradNotImplementedFallback());
}

// ---- the public functions are the operators ----

at::Tensor log_iv(const at::Tensor& v, const at::Tensor& x, SwitchingTable table) {
  return call<LogOperator>("einkorn::log_iv", v, x, to_string(table));
}
at::Tensor log_kv(const at::Tensor& v, const at::Tensor& x, SwitchingTable table) {
  return call<LogOperator>("einkorn::log_kv", v, x, to_string(table));
}
at::Tensor log_ive(const at::Tensor& v, const at::Tensor& x, SwitchingTable table) {
  return call<LogOperator>("einkorn::log_ive", v, x, to_string(table));
}
at::Tensor log_kve(const at::Tensor& v, const at::Tensor& x, SwitchingTable table) {
  return call<LogOperator>("einkorn::log_kve", v, x, to_string(table));
}
at::Tensor iv_ratio(const at::Tensor& v, const at::Tensor& x) {
  return call<RatioOperator>("einkorn::iv_ratio", v, x);
}
at::Tensor iv_ratio_c(const at::Tensor& v, const at::Tensor& x) {
  return call<RatioOperator>("einkorn::iv_ratio_c", v, x);
}
at::Tensor iv_ratio_dx(const at::Tensor& v, const at::Tensor& x) {
  return call<RatioOperator>("einkorn::iv_ratio_dx", v, x);
}
at::Tensor kv_ratio(const at::Tensor& v, const at::Tensor& x) {
  return call<RatioOperator>("einkorn::kv_ratio", v, x);
}
at::Tensor iv_ratio_inv(const at::Tensor& v, const at::Tensor& ratio) {
  return call<RatioOperator>("einkorn::iv_ratio_inv", v, ratio);
}
at::Tensor log_kve_slope(const at::Tensor& v, const at::Tensor& x) {
  return call<RatioOperator>("einkorn::log_kve_slope", v, x);
}
at::Tensor order_derivative(bool of_k, const at::Tensor& v, const at::Tensor& x) {
  return call<RatioOperator>(of_k ? "einkorn::log_kv_dv" : "einkorn::log_iv_dv", v, x);
}

}  // namespace einkorn::log_bessel
