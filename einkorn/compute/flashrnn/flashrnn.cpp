#include "einkorn/compute/flashrnn/flashrnn.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "einkorn/compute/flashrnn/flashrnn_internal.h"
#include "einkorn/compute/flashrnn/recurrence_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"
#include "einkorn/core/trace.h"

namespace einkorn::flashrnn {
namespace {

template <typename Value>
Value named(const char* what, const std::vector<std::string>& names, const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  require(found != names.end(), "{}: expected one of {}, got '{}'{}", what, fmt::join(names, ", "),
          name, hint(name, names));
  return static_cast<Value>(found - names.begin());
}

std::string shape_text(at::IntArrayRef sizes) {
  return fmt::format("[{}]", fmt::join(sizes, ", "));
}

void require_shape(const at::Tensor& tensor, const char* name, at::IntArrayRef expected) {
  require(tensor.sizes() == expected, "{}: shape {}, expected {}", name, shape_text(tensor.sizes()),
          shape_text(expected));
}

void require_like(const at::Tensor& tensor, const char* name, const at::Tensor& input) {
  require_dense(tensor, name);
  require(tensor.scalar_type() == input.scalar_type() && tensor.device() == input.device(),
          "{}: {} on {}, expected {} on {} as the input", name, toString(tensor.scalar_type()),
          tensor.device().str(), toString(input.scalar_type()), input.device().str());
}

void require_positive(const std::optional<double>& bound, const char* name) {
  require(!bound || *bound > 0, "{}: expected a number > 0, got {}", name, bound.value_or(0));
}

// Double where the plain reference runs, float for 16-bit tensors on the CPU.
at::ScalarType compute_type(const Problem& problem) {
  if (problem.backend == Backend::reference) return at::kDouble;
  return problem.dtype == at::kDouble ? at::kDouble : at::kFloat;
}

// The same numbers in the kernels' type on the CPU, dense.
at::Tensor dense(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.to(at::kCPU, type).contiguous();
}

template <typename T>
T* pointer(at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}
template <typename T>
const T* const_pointer(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

template <typename T>
const RecurrenceKernels<T>* kernels_for(const Problem& problem) {
  return problem.backend == Backend::reference ? nullptr : recurrence_kernels<T>();
}

template <typename Run>
void with_type(at::ScalarType type, const Run& run) {
  if (type == at::kDouble) {
    run(double{});
  } else {
    run(float{});
  }
}

RnnSaved forward_on_cpu(const Problem& problem, const at::Tensor& input,
                        const at::Tensor& recurrent, const at::Tensor& bias,
                        const at::Tensor& initial, bool save_gates) {
  const at::ScalarType type = compute_type(problem);
  const CellShape shape = shape_of(problem.cell);
  at::Tensor x = input.to(at::kCPU, type);
  if (x.stride(-1) != 1 && x.size(-1) > 1) x = x.contiguous();
  const at::Tensor r = dense(recurrent, type);
  const at::Tensor b = dense(bias, type);
  const at::Tensor start = dense(initial, type);
  const auto options = x.options();
  RnnSaved out;
  out.states = at::empty(problem.states_shape(), options);
  if (save_gates) {
    out.gates = at::empty(
        {problem.batch, problem.time, shape.saved_gates, problem.heads, problem.dim}, options);
  }
  with_type(type, [&]<typename T>(T) {
    ForwardPass<T> pass;
    pass.sequence = problem.sequence();
    pass.input = {x.const_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
    pass.recurrent = r.const_data_ptr<T>();
    pass.bias = b.const_data_ptr<T>();
    pass.initial = start.const_data_ptr<T>();
    pass.states = pointer<T>(out.states);
    pass.gates = pointer<T>(out.gates);
    if (out.states.numel() > 0) run_forward(pass, kernels_for<T>(problem));
  });
  out.states = out.states.to(input.device(), problem.state_type);
  if (save_gates) out.gates = out.gates.to(input.device(), problem.dtype);
  return out;
}

// Gradients of the input and of R's products, [B, T, G, N, D], and of the initial states.
struct StepGradients {
  at::Tensor input;
  at::Tensor recurrent;
  at::Tensor initial;
};

StepGradients backward_on_cpu(const Problem& problem, const at::Tensor& gradient_states,
                              const at::Tensor& gradient_last, const at::Tensor& recurrent,
                              const RnnSaved& saved, const at::Tensor& initial) {
  const at::ScalarType type = compute_type(problem);
  const CellShape shape = shape_of(problem.cell);
  const auto maybe_dense = [type](const at::Tensor& tensor) {
    return tensor.defined() ? dense(tensor, type) : tensor;
  };
  const at::Tensor from_states = maybe_dense(gradient_states);
  const at::Tensor from_last = maybe_dense(gradient_last);
  const at::Tensor r = dense(recurrent, type);
  const at::Tensor start = dense(initial, type);
  const at::Tensor states = dense(saved.states, type);
  const at::Tensor gates = dense(saved.gates, type);
  const auto options = states.options();
  const auto gate_shape = [&](std::int64_t gates_here) {
    return std::vector<std::int64_t>{problem.batch, problem.time, gates_here, problem.heads,
                                     problem.dim};
  };
  StepGradients out;
  out.input = at::empty(gate_shape(shape.input_gates), options);
  if (problem.cell == Cell::gru) {
    out.recurrent = at::empty(gate_shape(shape.recurrent_gates), options);
  }
  out.initial = at::zeros(problem.boundary_shape(), options);
  with_type(type, [&]<typename T>(T) {
    BackwardPass<T> pass;
    pass.sequence = problem.sequence();
    pass.recurrent = r.const_data_ptr<T>();
    pass.initial = start.const_data_ptr<T>();
    pass.states = states.const_data_ptr<T>();
    pass.gates = gates.const_data_ptr<T>();
    pass.gradient_states = const_pointer<T>(from_states);
    pass.gradient_last = const_pointer<T>(from_last);
    pass.input_gradient = pointer<T>(out.input);
    pass.recurrent_gradient = pointer<T>(out.recurrent);
    pass.carry = pointer<T>(out.initial);
    if (out.initial.numel() > 0) run_backward(pass, kernels_for<T>(problem));
  });
  if (!out.recurrent.defined()) out.recurrent = out.input;
  return out;
}

// h before each step, at the place of that step: [B, T, N, D].
at::Tensor hidden_before(const Problem& problem, const at::Tensor& states,
                         const at::Tensor& initial) {
  const at::Tensor h = states.select(0, 0);
  if (problem.time == 0) return h;
  const at::Tensor start = initial.select(0, 0).unsqueeze(1).to(h.scalar_type());
  if (!problem.options.reverse) return at::cat({start, h.slice(1, 0, problem.time - 1)}, 1);
  at::Tensor shifted = at::cat({h.slice(1, 1), start}, 1);
  for (std::int64_t row = 0; row < problem.batch && problem.lengths.defined(); ++row) {
    const std::int64_t end = problem.length(row);
    if (end > 0) shifted.select(0, row).select(0, end - 1).copy_(start.select(0, row).select(0, 0));
  }
  return shifted;
}

// sum over rows and steps of gates h^T, with sums of at least 32 bits: [G, N, D, D].
at::Tensor outer_sum(const at::Tensor& gates, const at::Tensor& hidden) {
  const std::int64_t steps = gates.size(0) * gates.size(1);
  const std::int64_t count = gates.size(2), heads = gates.size(3), dim = gates.size(4);
  const at::Tensor left = gates.permute({3, 0, 1, 2, 4}).reshape({heads, steps, count * dim});
  const at::Tensor right =
      hidden.to(gates.scalar_type()).permute({2, 0, 1, 3}).reshape({heads, steps, dim});
  const bool is_short = c10::elementSize(gates.scalar_type()) < 4;
  const at::Tensor product = is_short && gates.is_cuda()
                                 ? at::bmm(left.transpose(1, 2), right, at::kFloat)
                                 : at::bmm(left.transpose(1, 2), right);
  return product.view({heads, count, dim, dim}).transpose(0, 1);
}

at::Tensor sum_over_steps(const at::Tensor& gates) {
  const bool is_short = c10::elementSize(gates.scalar_type()) < 4;
  return at::sum(gates, at::IntArrayRef({0, 1}), false,
                 is_short ? std::optional(at::kFloat) : std::optional<at::ScalarType>());
}

// dR and db from the gates of all steps at once.
RnnGradients assemble(const Problem& problem, const StepGradients& steps, const RnnSaved& saved,
                      const at::Tensor& initial) {
  RnnGradients out;
  at::Tensor hidden = hidden_before(problem, saved.states, initial);
  hidden = hidden.to(steps.recurrent.device());
  out.recurrent = outer_sum(steps.recurrent, hidden).to(problem.dtype);
  out.bias = sum_over_steps(steps.input);
  if (problem.cell == Cell::gru) {
    out.bias = at::cat({sum_over_steps(steps.recurrent.slice(2, 0, 1)), out.bias}, 0);
  }
  out.input = steps.input.to(problem.dtype);
  out.bias = out.bias.to(problem.dtype);
  out.initial = steps.initial.to(problem.dtype);
  return out;
}

Work work_of(const Problem& problem, double products) {
  const CellShape shape = shape_of(problem.cell);
  const auto points =
      static_cast<double>(problem.batch * problem.time * problem.heads * problem.dim);
  const auto gates = static_cast<double>(shape.recurrent_gates);
  return {products * 2 * gates * points * static_cast<double>(problem.dim) + 40 * gates * points,
          points * static_cast<double>(shape.input_gates + shape.saved_gates + shape.states) *
              static_cast<double>(c10::elementSize(problem.dtype))};
}

std::string trace_shape(const Problem& problem) {
  return fmt::format("{} B={} T={} N={} D={} {}", to_string(problem.cell), problem.batch,
                     problem.time, problem.heads, problem.dim, toString(problem.dtype));
}

}  // namespace

const std::vector<std::string>& cell_names() {
  static const std::vector<std::string> names = {"lstm", "gru", "elman", "slstm"};
  return names;
}
std::string to_string(Cell cell) {
  return cell_names()[static_cast<std::size_t>(cell)];
}
Cell parse_cell(const std::string& name) {
  return named<Cell>("cell", cell_names(), name);
}

const std::vector<std::string>& backend_names() {
  static const std::vector<std::string> names = {"auto", "cpu", "gpu-fused", "gpu-alternating",
                                                 "reference"};
  return names;
}
std::string to_string(Backend backend) {
  return backend_names()[static_cast<std::size_t>(backend)];
}
Backend parse_backend(const std::string& name) {
  return named<Backend>("backend", backend_names(), name);
}

Sequence Problem::sequence() const {
  Sequence q;
  q.cell = cell;
  q.batch = batch;
  q.time = time;
  q.heads = heads;
  q.dim = dim;
  q.lengths = lengths.defined() ? lengths.const_data_ptr<std::int64_t>() : nullptr;
  q.reverse = options.reverse;
  if (options.forward_clip) q.forward_clip = *options.forward_clip;
  if (options.gradient_clip) q.gradient_clip = *options.gradient_clip;
  q.gradient_cut = options.gradient_cut;
  return q;
}

std::int64_t Problem::length(std::int64_t row) const {
  return lengths.defined() ? lengths.const_data_ptr<std::int64_t>()[row] : time;
}

void check_options(const RnnOptions& options) {
  require_positive(options.forward_clip, "forward_clip");
  require_positive(options.gradient_clip, "gradient_clip");
  require(options.checkpoint_every >= 0, "checkpoint_every: expected a number >= 0, got {}",
          options.checkpoint_every);
}

Problem make_problem(Cell cell, const at::Tensor& input, const at::Tensor& recurrent,
                     const at::Tensor& bias, const at::Tensor& initial, const at::Tensor& lengths,
                     const RnnOptions& options) {
  const CellShape shape = shape_of(cell);
  require_dense(input, "input");
  const at::ScalarType type = input.scalar_type();
  require(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf,
          "input: dtype {}, expected float32, float64, bfloat16 or float16", toString(type));
  require(input.dim() == 5 && input.size(2) == shape.input_gates,
          "input: shape {}, expected [batch, time, {}, heads, dim] for {}",
          shape_text(input.sizes()), shape.input_gates, to_string(cell));
  Problem problem;
  problem.cell = cell;
  problem.batch = input.size(0);
  problem.time = input.size(1);
  problem.heads = input.size(3);
  problem.dim = input.size(4);
  problem.dtype = type;
  problem.options = options;
  require(problem.heads > 0 && problem.dim > 0,
          "input: shape {} has no units; heads and dim must be at least 1",
          shape_text(input.sizes()));
  require_like(recurrent, "recurrent", input);
  require_shape(recurrent, "recurrent",
                {shape.recurrent_gates, problem.heads, problem.dim, problem.dim});
  require_like(bias, "bias", input);
  require_shape(bias, "bias", {shape.biases, problem.heads, problem.dim});
  if (initial.defined()) {
    require_dense(initial, "initial");
    require(initial.device() == input.device(), "initial: on {}, expected {}",
            initial.device().str(), input.device().str());
    require(at::isFloatingType(initial.scalar_type()), "initial: dtype {}, expected real numbers",
            toString(initial.scalar_type()));
    require_shape(initial, "initial", problem.boundary_shape());
  }
  check_options(options);
  problem.state_type = options.state_dtype.value_or(type);
  require(problem.state_type == type || problem.state_type == at::kFloat,
          "state_dtype: expected float32 or the input's {}, got {}", toString(type),
          toString(problem.state_type));
  require(type != at::kDouble || problem.state_type == type,
          "state_dtype: a float64 input keeps float64 states");
  if (lengths.defined()) problem.lengths = checked_lengths(lengths, problem.batch, problem.time);
  problem.backend = choose_backend(problem, device_kind(input));
  return problem;
}

at::Tensor checked_lengths(const at::Tensor& lengths, std::int64_t batch, std::int64_t time) {
  require(at::isIntegralType(lengths.scalar_type(), false) && lengths.dim() == 1 &&
              lengths.size(0) == batch,
          "lengths: {} of shape {}, expected {} integers", toString(lengths.scalar_type()),
          shape_text(lengths.sizes()), batch);
  const at::Tensor found = lengths.to(at::kCPU, at::kLong).contiguous();
  const std::int64_t* data = found.const_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < batch; ++row) {
    require(data[row] >= 0 && data[row] <= time, "lengths: row {} has {}, expected 0 to {}", row,
            data[row], time);
  }
  return found;
}

Backend choose_backend(const Problem& problem, Device device) {
  const Backend wanted = problem.options.backend;
  if (device == Device::cpu) {
    require(wanted != Backend::gpu_fused && wanted != Backend::gpu_alternating,
            "backend: '{}' needs tensors on a GPU", to_string(wanted));
    const bool has_vectors = recurrence_level() != Isa::scalar;
    return wanted == Backend::reference || !has_vectors ? Backend::reference : Backend::cpu;
  }
  require(wanted != Backend::cpu, "backend: 'cpu' needs tensors on the CPU");
  if (wanted == Backend::reference) return wanted;
  return choose_gpu_backend(problem);
}

at::Tensor last_states(const Problem& problem, const at::Tensor& states,
                       const at::Tensor& initial) {
  if (problem.time == 0) return initial.to(problem.state_type, false, true);
  if (!problem.lengths.defined()) {
    return states.select(2, problem.options.reverse ? 0 : problem.time - 1).clone();
  }
  at::Tensor last = initial.to(problem.state_type, false, true);
  for (std::int64_t row = 0; row < problem.batch; ++row) {
    const std::int64_t end = problem.length(row);
    if (end == 0) continue;
    last.select(1, row).copy_(
        states.select(1, row).select(1, problem.options.reverse ? 0 : end - 1));
  }
  return last;
}

at::Tensor initial_or_zeros(const Problem& problem, const at::Tensor& input,
                            const at::Tensor& initial) {
  return initial.defined() ? initial : at::zeros(problem.boundary_shape(), input.options());
}

RnnSaved rnn_forward(Cell cell, const at::Tensor& input, const at::Tensor& recurrent,
                     const at::Tensor& bias, const at::Tensor& initial, const at::Tensor& lengths,
                     const RnnOptions& options, bool save_gates) {
  const at::NoGradGuard no_grad;
  const Problem problem = make_problem(cell, input, recurrent, bias, initial, lengths, options);
  const at::Tensor start = initial_or_zeros(problem, input, initial);
  const std::string implementation =
      problem.backend == Backend::cpu ? to_string(recurrence_level()) : to_string(problem.backend);
  const Trace trace(
      "flashrnn.rnn", implementation.c_str(), [&] { return trace_shape(problem); },
      work_of(problem, 1), device_kind(input));
  const bool on_gpu =
      problem.backend == Backend::gpu_fused || problem.backend == Backend::gpu_alternating;
  RnnSaved out = on_gpu ? forward_on_gpu(problem, input, recurrent, bias, start, save_gates)
                        : forward_on_cpu(problem, input, recurrent, bias, start, save_gates);
  out.last = last_states(problem, out.states, start);
  return out;
}

RnnGradients rnn_backward(Cell cell, const at::Tensor& gradient_states,
                          const at::Tensor& gradient_last, const at::Tensor& recurrent,
                          const RnnSaved& saved, const at::Tensor& initial,
                          const at::Tensor& lengths, const RnnOptions& options) {
  const at::NoGradGuard no_grad;
  const CellShape shape = shape_of(cell);
  require_dense(saved.states, "states");
  require_dense(saved.gates, "gates");
  require_dense(recurrent, "recurrent");
  require(saved.states.dim() == 5 && saved.states.size(0) == shape.states,
          "states: shape {}, expected [{}, batch, time, heads, dim] for {}",
          shape_text(saved.states.sizes()), shape.states, to_string(cell));
  Problem problem;
  problem.cell = cell;
  problem.batch = saved.states.size(1);
  problem.time = saved.states.size(2);
  problem.heads = saved.states.size(3);
  problem.dim = saved.states.size(4);
  problem.dtype = recurrent.scalar_type();
  problem.state_type = saved.states.scalar_type();
  problem.options = options;
  check_options(options);
  require_shape(recurrent, "recurrent",
                {shape.recurrent_gates, problem.heads, problem.dim, problem.dim});
  require_shape(saved.gates, "gates",
                {problem.batch, problem.time, shape.saved_gates, problem.heads, problem.dim});
  if (initial.defined()) require_shape(initial, "initial", problem.boundary_shape());
  if (gradient_states.defined()) {
    require_shape(gradient_states, "gradient_states", problem.states_shape());
  }
  if (gradient_last.defined()) {
    require_shape(gradient_last, "gradient_last", problem.boundary_shape());
  }
  if (lengths.defined()) problem.lengths = checked_lengths(lengths, problem.batch, problem.time);
  problem.backend = choose_backend(problem, device_kind(recurrent));
  const at::Tensor start = initial_or_zeros(problem, recurrent, initial);
  const std::string implementation =
      problem.backend == Backend::cpu ? to_string(recurrence_level()) : to_string(problem.backend);
  const Trace trace(
      "flashrnn.rnn_backward", implementation.c_str(), [&] { return trace_shape(problem); },
      work_of(problem, 2), device_kind(recurrent));
  StepGradients steps;
  if (problem.backend == Backend::gpu_fused || problem.backend == Backend::gpu_alternating) {
    backward_on_gpu(problem, gradient_states, gradient_last, recurrent, saved, start, steps.input,
                    steps.recurrent, steps.initial);
  } else {
    steps = backward_on_cpu(problem, gradient_states, gradient_last, recurrent, saved, start);
  }
  RnnGradients out = assemble(problem, steps, saved, start);
  const at::Device device = recurrent.device();
  return {out.input.to(device), out.recurrent.to(device), out.bias.to(device),
          out.initial.to(device)};
}

at::Tensor rnn_step(Cell cell, const at::Tensor& input, const at::Tensor& recurrent,
                    const at::Tensor& bias, const at::Tensor& states, const RnnOptions& options) {
  require_dense(input, "input");
  require(input.dim() == 4, "input: shape {}, expected [batch, gates, heads, dim]",
          shape_text(input.sizes()));
  return rnn(cell, input.unsqueeze(1), recurrent, bias, states, {}, options).last;
}

}  // namespace einkorn::flashrnn
