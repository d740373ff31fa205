// torch.ops.einkorn.flashrnn and the two passes beneath it: kernels for CPU, CUDA and meta tensors,
// and gradients, with or without keeping what they need.
#include <torch/library.h>
#include <torch/torch.h>

#include <algorithm>

#include "einkorn/compute/flashrnn/flashrnn.h"
#include "einkorn/compute/flashrnn/flashrnn_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::flashrnn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using T = const at::Tensor&;
using Maybe = const std::optional<at::Tensor>&;
using Two = std::tuple<at::Tensor, at::Tensor>;
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Four = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// The options of a call in the order of the schemas.
#define EINKORN_FLASHRNN_OPTIONS                                                       \
  c10::string_view cell, c10::string_view backend, std::optional<double> forward_clip, \
      std::optional<double> gradient_clip, bool gradient_cut, bool reverse,            \
      std::int64_t checkpoint_every, std::optional<at::ScalarType> state_dtype
#define EINKORN_FLASHRNN_PASS_OPTIONS \
  cell, backend, forward_clip, gradient_clip, gradient_cut, reverse, checkpoint_every, state_dtype

constexpr const char* option_schema =
    "str cell='lstm', str backend='auto', float? forward_clip=None, float? gradient_clip=None, "
    "bool gradient_cut=False, bool reverse=False, int checkpoint_every=0, "
    "ScalarType? state_dtype=None";

struct Call {
  Cell cell;
  RnnOptions options;
};

Call call_of(EINKORN_FLASHRNN_OPTIONS) {
  Call call = {parse_cell(std::string(cell)), {}};
  call.options.backend = parse_backend(std::string(backend));
  call.options.forward_clip = forward_clip;
  call.options.gradient_clip = gradient_clip;
  call.options.gradient_cut = gradient_cut;
  call.options.reverse = reverse;
  call.options.checkpoint_every = checkpoint_every;
  call.options.state_dtype = state_dtype;
  return call;
}

at::Tensor or_undefined(Maybe tensor) {
  return tensor.value_or(at::Tensor());
}
std::optional<at::Tensor> or_none(T tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

using WholeSignature = Two(T, T, T, Maybe, Maybe, EINKORN_FLASHRNN_OPTIONS);
using ForwardSignature = Three(T, T, T, Maybe, Maybe, EINKORN_FLASHRNN_OPTIONS);
using BackwardSignature = Four(Maybe, Maybe, T, T, T, T, Maybe, EINKORN_FLASHRNN_OPTIONS);

template <typename Signature, typename... Arguments>
auto dispatch(const char* name, const Call& call, const Arguments&... arguments) {
  const RnnOptions& o = call.options;
  const std::string cell = to_string(call.cell);
  const std::string backend = to_string(o.backend);
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>().call(
      arguments..., cell, backend, o.forward_clip, o.gradient_clip, o.gradient_cut, o.reverse,
      o.checkpoint_every, o.state_dtype);
}

Three forward_op(const Call& call, T input, T recurrent, T bias, T initial, T lengths) {
  return dispatch<ForwardSignature>("einkorn::flashrnn_forward", call, input, recurrent, bias,
                                    or_none(initial), or_none(lengths));
}

Four backward_op(const Call& call, T gradient_states, T gradient_last, T recurrent,
                 const Three& saved, T initial, T lengths) {
  return dispatch<BackwardSignature>("einkorn::flashrnn_backward", call, or_none(gradient_states),
                                     or_none(gradient_last), recurrent, std::get<0>(saved),
                                     std::get<2>(saved), initial, or_none(lengths));
}

// ---- gradients ----

// What a call stands for when its time is cut into segments, from the first to run to the last.
struct Segment {
  std::int64_t begin;
  std::int64_t end;
};

std::vector<Segment> segments_of(std::int64_t time, std::int64_t every, bool reverse) {
  std::vector<Segment> segments;
  for (std::int64_t begin = 0; begin < time; begin += every) {
    segments.push_back({begin, std::min(time, begin + every)});
  }
  if (reverse) std::reverse(segments.begin(), segments.end());
  return segments;
}

at::Tensor lengths_within(T lengths, const Segment& segment) {
  if (!lengths.defined()) return {};
  return (lengths - segment.begin).clamp(0, segment.end - segment.begin);
}

// Saved: input, recurrent, bias, lengths, and either (initial, states, gates) or the states before
// each segment.
struct Differentiable : torch::autograd::Function<Differentiable> {
  static variable_list forward(AutogradContext* context, T input, T recurrent, T bias,
                               const std::optional<at::Tensor>& initial,
                               const std::optional<at::Tensor>& lengths, const Call& call) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->saved_data["cell"] = static_cast<std::int64_t>(call.cell);
    const RnnOptions& o = call.options;
    context->saved_data["backend"] = static_cast<std::int64_t>(o.backend);
    context->saved_data["forward_clip"] = o.forward_clip;
    context->saved_data["gradient_clip"] = o.gradient_clip;
    context->saved_data["gradient_cut"] = o.gradient_cut;
    context->saved_data["reverse"] = o.reverse;
    context->saved_data["checkpoint_every"] = o.checkpoint_every;
    context->saved_data["has_initial"] = initial.has_value() && initial->defined();
    if (o.state_dtype)
      context->saved_data["state_dtype"] = static_cast<std::int64_t>(*o.state_dtype);
    context->set_materialize_grads(false);

    const Problem problem = make_problem(call.cell, input, recurrent, bias, or_undefined(initial),
                                         or_undefined(lengths), call.options);
    const at::Tensor start =
        initial ? *initial : at::zeros(problem.boundary_shape(), input.options());
    const std::int64_t every = o.checkpoint_every;
    if (every == 0 || every >= problem.time) {
      const auto [states, last, gates] =
          forward_op(call, input, recurrent, bias, start, problem.lengths);
      context->saved_data["segments"] = false;
      context->save_for_backward({input, recurrent, bias, problem.lengths, start, states, gates});
      return {states, last};
    }
    context->saved_data["segments"] = true;
    at::Tensor states =
        at::empty(problem.states_shape(), input.options().dtype(problem.state_type));
    variable_list starts;
    at::Tensor current = start;
    for (const Segment& segment : segments_of(problem.time, every, o.reverse)) {
      starts.push_back(current);
      const auto [part, last] = dispatch<WholeSignature>(
          "einkorn::flashrnn", call, input.slice(1, segment.begin, segment.end), recurrent, bias,
          or_none(current), or_none(lengths_within(problem.lengths, segment)));
      states.slice(2, segment.begin, segment.end).copy_(part);
      current = last;
    }
    context->save_for_backward({input, recurrent, bias, problem.lengths, at::stack(starts)});
    return {states, current};
  }

  static Call saved_call(AutogradContext* context) {
    Call call = {static_cast<Cell>(context->saved_data["cell"].toInt()), {}};
    RnnOptions& o = call.options;
    o.backend = static_cast<Backend>(context->saved_data["backend"].toInt());
    o.forward_clip = context->saved_data["forward_clip"].toOptional<double>();
    o.gradient_clip = context->saved_data["gradient_clip"].toOptional<double>();
    o.gradient_cut = context->saved_data["gradient_cut"].toBool();
    o.reverse = context->saved_data["reverse"].toBool();
    o.checkpoint_every = context->saved_data["checkpoint_every"].toInt();
    if (context->saved_data.count("state_dtype") > 0) {
      o.state_dtype = static_cast<at::ScalarType>(context->saved_data["state_dtype"].toInt());
    }
    return call;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Call call = saved_call(context);
    const bool in_segments = context->saved_data["segments"].toBool();
    const variable_list found = in_segments ? backward_in_segments(context, call, gradients)
                                            : backward_at_once(context, call, gradients);
    variable_list result(6);
    for (std::size_t i = 0; i < 3; ++i) {
      if (context->needs_input_grad(i)) result[i] = found[i];
    }
    if (context->saved_data["has_initial"].toBool()) result[3] = found[3];
    return result;
  }

  static variable_list backward_at_once(AutogradContext* context, const Call& call,
                                        const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto [input, recurrent, bias, initial] = backward_op(
        call, gradients[0], gradients[1], saved[1], {saved[5], {}, saved[6]}, saved[4], saved[3]);
    return {input, recurrent, bias, initial};
  }

  // What one segment hands to the next came through time, unless the row does not run in both.
  static void clip_carry(const Call& call, at::Tensor& carry, T lengths, std::int64_t border) {
    if (!call.options.gradient_clip) return;
    const double bound = *call.options.gradient_clip;
    at::Tensor h = carry.select(0, 0);
    const at::Tensor bounded = h.clamp(-bound, bound);
    if (lengths.defined()) {
      const at::Tensor runs = (lengths > border).to(h.device()).view({-1, 1, 1});
      h.copy_(at::where(runs, bounded, h));
    } else {
      h.copy_(bounded);
    }
  }

  static variable_list backward_in_segments(AutogradContext* context, const Call& call,
                                            const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &recurrent = saved[1], &bias = saved[2];
    const at::Tensor &lengths = saved[3], &starts = saved[4];
    at::Tensor input_gradient = at::empty_like(input, at::MemoryFormat::Contiguous);
    at::Tensor recurrent_gradient, bias_gradient;
    at::Tensor carry = gradients[1];
    const auto segments =
        segments_of(input.size(1), call.options.checkpoint_every, call.options.reverse);
    const auto add = [](at::Tensor& sum, T term) { sum = sum.defined() ? sum + term : term; };
    const bool is_short = c10::elementSize(recurrent.scalar_type()) < 4;
    const auto sum_type = is_short ? at::kFloat : recurrent.scalar_type();
    for (std::size_t i = segments.size(); i-- > 0;) {
      const Segment& segment = segments[i];
      const at::Tensor start = starts[static_cast<std::int64_t>(i)];
      const at::Tensor within = lengths_within(lengths, segment);
      const Three again = forward_op(call, input.slice(1, segment.begin, segment.end), recurrent,
                                     bias, start, within);
      const at::Tensor arriving =
          gradients[0].defined() ? gradients[0].slice(2, segment.begin, segment.end) : at::Tensor();
      const auto [dx, dr, db, ds] =
          backward_op(call, arriving, carry, recurrent, again, start, within);
      input_gradient.slice(1, segment.begin, segment.end).copy_(dx);
      add(recurrent_gradient, dr.to(sum_type));
      add(bias_gradient, db.to(sum_type));
      carry = ds;
      if (i > 0) clip_carry(call, carry, lengths, std::max(segment.begin, segments[i - 1].begin));
    }
    return {input_gradient, recurrent_gradient.to(recurrent.scalar_type()),
            bias_gradient.to(bias.scalar_type()), carry};
  }
};

Two whole_autograd(T input, T recurrent, T bias, Maybe initial, Maybe lengths,
                   EINKORN_FLASHRNN_OPTIONS) {
  const Call call = call_of(EINKORN_FLASHRNN_PASS_OPTIONS);
  const bool differentiates =
      at::GradMode::is_enabled() && (input.requires_grad() || recurrent.requires_grad() ||
                                     bias.requires_grad() || (initial && initial->requires_grad()));
  if (!differentiates) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return dispatch<WholeSignature>("einkorn::flashrnn", call, input, recurrent, bias, initial,
                                    lengths);
  }
  const variable_list found = Differentiable::apply(input, recurrent, bias, initial, lengths, call);
  return {found[0], found[1]};
}

// ---- kernels ----

Two whole(T input, T recurrent, T bias, Maybe initial, Maybe lengths, EINKORN_FLASHRNN_OPTIONS) {
  const Call call = call_of(EINKORN_FLASHRNN_PASS_OPTIONS);
  const RnnSaved found = rnn_forward(call.cell, input, recurrent, bias, or_undefined(initial),
                                     or_undefined(lengths), call.options, false);
  return {found.states, found.last};
}

Three forward(T input, T recurrent, T bias, Maybe initial, Maybe lengths,
              EINKORN_FLASHRNN_OPTIONS) {
  const Call call = call_of(EINKORN_FLASHRNN_PASS_OPTIONS);
  const RnnSaved found = rnn_forward(call.cell, input, recurrent, bias, or_undefined(initial),
                                     or_undefined(lengths), call.options, true);
  return {found.states, found.last, found.gates};
}

Four backward(Maybe gradient_states, Maybe gradient_last, T recurrent, T states, T gates, T initial,
              Maybe lengths, EINKORN_FLASHRNN_OPTIONS) {
  const Call call = call_of(EINKORN_FLASHRNN_PASS_OPTIONS);
  const RnnGradients found =
      rnn_backward(call.cell, or_undefined(gradient_states), or_undefined(gradient_last), recurrent,
                   {states, {}, gates}, initial, or_undefined(lengths), call.options);
  return {found.input, found.recurrent, found.bias, found.initial};
}

Three forward_meta(T input, T, T, Maybe, Maybe, EINKORN_FLASHRNN_OPTIONS) {
  const Call call = call_of(EINKORN_FLASHRNN_PASS_OPTIONS);
  const CellShape shape = shape_of(call.cell);
  require(input.dim() == 5, "input: expected [batch, time, gates, heads, dim]");
  const auto type = call.options.state_dtype.value_or(input.scalar_type());
  const auto batch = input.sym_size(0), time = input.sym_size(1), heads = input.sym_size(3),
             dim = input.sym_size(4);
  const auto states = input.options().dtype(type);
  return {at::empty_symint({shape.states, batch, time, heads, dim}, states),
          at::empty_symint({shape.states, batch, heads, dim}, states),
          at::empty_symint({batch, time, shape.saved_gates, heads, dim}, input.options())};
}

Two whole_meta(T input, T recurrent, T bias, Maybe initial, Maybe lengths,
               EINKORN_FLASHRNN_OPTIONS) {
  const auto [states, last, gates] =
      forward_meta(input, recurrent, bias, initial, lengths, EINKORN_FLASHRNN_PASS_OPTIONS);
  return {states, last};
}

Four backward_meta(Maybe, Maybe, T recurrent, T states, T gates, T, Maybe,
                   EINKORN_FLASHRNN_OPTIONS) {
  const CellShape shape = shape_of(call_of(EINKORN_FLASHRNN_PASS_OPTIONS).cell);
  const auto heads = states.sym_size(3), dim = states.sym_size(4);
  return {at::empty_symint({gates.sym_size(0), gates.sym_size(1), shape.input_gates, heads, dim},
                           recurrent.options()),
          at::empty_like(recurrent),
          at::empty_symint({shape.biases, heads, dim}, recurrent.options()),
          at::empty_symint({shape.states, gates.sym_size(0), heads, dim}, recurrent.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(einkorn, m) {
  const std::string inputs =
      "(Tensor input, Tensor recurrent, Tensor bias, Tensor? initial=None, Tensor? lengths=None, "
      "*, ";
  const std::string options = option_schema;
  m.def(("flashrnn" + inputs + options + ") -> (Tensor, Tensor)").c_str());
  m.def(("flashrnn_forward" + inputs + options + ") -> (Tensor, Tensor, Tensor)").c_str());
  m.def(("flashrnn_backward(Tensor? gradient_states, Tensor? gradient_last, Tensor recurrent, "
         "Tensor states, Tensor gates, Tensor initial, Tensor? lengths=None, *, " +
         options + ") -> (Tensor, Tensor, Tensor, Tensor)")
            .c_str());
}

TORCH_LIBRARY_IMPL(einkorn, CPU, m) {
  m.impl("flashrnn", &whole);
  m.impl("flashrnn_forward", &forward);
  m.impl("flashrnn_backward", &backward);
}
TORCH_LIBRARY_IMPL(einkorn, CUDA, m) {
  m.impl("flashrnn", &whole);
  m.impl("flashrnn_forward", &forward);
  m.impl("flashrnn_backward", &backward);
}
TORCH_LIBRARY_IMPL(einkorn, Meta, m) {
  m.impl("flashrnn", &whole_meta);
  m.impl("flashrnn_forward", &forward_meta);
  m.impl("flashrnn_backward", &backward_meta);
}
TORCH_LIBRARY_IMPL(einkorn, Autograd, m) {
  m.impl("flashrnn", &whole_autograd);
  m.impl("flashrnn_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("flashrnn_backward", torch::autograd::autogradNotImplementedFallback());
}

RnnResult rnn(Cell cell, const at::Tensor& input, const at::Tensor& recurrent,
              const at::Tensor& bias, const at::Tensor& initial, const at::Tensor& lengths,
              const RnnOptions& options) {
  const auto [states, last] =
      dispatch<WholeSignature>("einkorn::flashrnn", {cell, options}, input, recurrent, bias,
                               or_none(initial), or_none(lengths));
  return {states, last};
}

}  // namespace einkorn::flashrnn
