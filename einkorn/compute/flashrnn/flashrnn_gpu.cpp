// Tensors to the device kernels.
#include <ATen/ATen.h>

#include <limits>

#include "einkorn/compute/flashrnn/flashrnn_internal.h"
#include "einkorn/compute/flashrnn/recurrence_cuda.h"
#include "einkorn/core/error.h"

#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace einkorn::flashrnn {

#if EINKORN_WITH_CUDA

namespace {

DeviceType device_type(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return DeviceType::f64;
    case at::kBFloat16:
      return DeviceType::bf16;
    case at::kHalf:
      return DeviceType::f16;
    default:
      return DeviceType::f32;
  }
}

at::ScalarType sum_type(const Problem& problem) {
  return problem.dtype == at::kDouble ? at::kDouble : at::kFloat;
}

// lengths: those of the problem on the device; must live as long as the launches are queued.
DeviceSequence device_sequence(const Problem& problem, const at::Tensor& lengths) {
  constexpr std::int64_t most = std::numeric_limits<int>::max();
  require(problem.batch <= most && problem.time <= most && problem.heads <= 65535 &&
              problem.batch <= 8 * 65535 && problem.dim <= most,
          "input: more rows, steps or heads than the device kernels count");
  constexpr double infinity = std::numeric_limits<double>::infinity();
  DeviceSequence q;
  q.cell = problem.cell;
  q.type = device_type(problem.dtype);
  q.wide_states = problem.state_type != problem.dtype;
  q.batch = static_cast<int>(problem.batch);
  q.time = static_cast<int>(problem.time);
  q.heads = static_cast<int>(problem.heads);
  q.dim = static_cast<int>(problem.dim);
  q.lengths = lengths.defined() ? lengths.const_data_ptr<std::int64_t>() : nullptr;
  q.reverse = problem.options.reverse;
  q.forward_clip = problem.options.forward_clip.value_or(infinity);
  q.gradient_clip = problem.options.gradient_clip.value_or(infinity);
  q.gradient_cut = problem.options.gradient_cut;
  return q;
}

at::Tensor lengths_on(const Problem& problem, at::Device device) {
  return problem.lengths.defined() ? problem.lengths.to(device) : at::Tensor();
}

void* stream_of(const at::Tensor& tensor) {
  return c10::cuda::getCurrentCUDAStream(tensor.get_device()).stream();
}

const void* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

at::Tensor bytes_on(std::size_t size, const at::Tensor& like) {
  return at::empty({static_cast<std::int64_t>(size)}, like.options().dtype(at::kByte));
}

}  // namespace

Backend choose_gpu_backend(const Problem& problem) {
  const DeviceSequence q = device_sequence(problem, {});
  const FusedPlan forward = plan_fused_forward(q);
  const FusedPlan backward = plan_fused_backward(q);
  const bool possible = forward.possible && backward.possible;
  require(problem.options.backend != Backend::gpu_fused || possible, "backend gpu-fused: {}",
          forward.possible ? backward.reason : forward.reason);
  if (problem.options.backend != Backend::automatic) return problem.options.backend;
  return possible ? Backend::gpu_fused : Backend::gpu_alternating;
}

RnnSaved forward_on_gpu(const Problem& problem, const at::Tensor& input,
                        const at::Tensor& recurrent, const at::Tensor& bias,
                        const at::Tensor& initial, bool save_gates) {
  const CellShape shape = shape_of(problem.cell);
  const at::Tensor x = input.stride(-1) != 1 && problem.dim > 1 ? input.contiguous() : input;
  const at::Tensor r = recurrent.contiguous();
  const at::Tensor b = bias.to(sum_type(problem)).contiguous();
  const at::Tensor lengths = lengths_on(problem, input.device());
  at::Tensor carry = initial.to(sum_type(problem), false, true).contiguous();
  RnnSaved out;
  out.states = at::empty(problem.states_shape(), input.options().dtype(problem.state_type));
  if (save_gates) {
    out.gates =
        at::empty({problem.batch, problem.time, shape.saved_gates, problem.heads, problem.dim},
                  input.options());
  }
  if (out.states.numel() == 0) return out;
  DeviceForward pass;
  pass.sequence = device_sequence(problem, lengths);
  pass.input = x.const_data_ptr();
  pass.input_batch = x.stride(0);
  pass.input_time = x.stride(1);
  pass.input_gate = x.stride(2);
  pass.input_head = x.stride(3);
  pass.recurrent = r.const_data_ptr();
  pass.bias = b.const_data_ptr();
  pass.carry = carry.mutable_data_ptr();
  pass.states = out.states.mutable_data_ptr();
  pass.gates = save_gates ? out.gates.mutable_data_ptr() : nullptr;
  if (problem.backend == Backend::gpu_fused) {
    const FusedPlan plan = plan_fused_forward(pass.sequence);
    const at::Tensor scratch = bytes_on(plan.scratch, input);
    pass.scratch = scratch.mutable_data_ptr();
    launch_fused_forward(pass, plan, stream_of(input));
  } else {
    const at::Tensor scratch = bytes_on(alternating_forward_scratch(pass.sequence), input);
    pass.scratch = scratch.mutable_data_ptr();
    launch_alternating_forward(pass, stream_of(input));
  }
  return out;
}

void backward_on_gpu(const Problem& problem, const at::Tensor& gradient_states,
                     const at::Tensor& gradient_last, const at::Tensor& recurrent,
                     const RnnSaved& saved, const at::Tensor& initial, at::Tensor& input_gradient,
                     at::Tensor& recurrent_gradient, at::Tensor& initial_gradient) {
  const CellShape shape = shape_of(problem.cell);
  const auto gates_like = [&](std::int64_t gates) {
    return at::empty({problem.batch, problem.time, gates, problem.heads, problem.dim},
                     recurrent.options());
  };
  input_gradient = gates_like(shape.input_gates);
  const bool is_apart = problem.cell == Cell::gru;
  recurrent_gradient = is_apart ? gates_like(shape.recurrent_gates) : input_gradient;
  initial_gradient =
      at::zeros(problem.boundary_shape(), recurrent.options().dtype(sum_type(problem)));
  if (initial_gradient.numel() == 0) return;
  const auto dense = [](const at::Tensor& tensor, at::ScalarType type) {
    return tensor.defined() ? tensor.to(type).contiguous() : tensor;
  };
  const at::Tensor transposed = recurrent.transpose(2, 3).contiguous();
  const at::Tensor start = dense(initial, sum_type(problem));
  const at::Tensor states = dense(saved.states, problem.state_type);
  const at::Tensor gates = dense(saved.gates, problem.dtype);
  const at::Tensor from_states = dense(gradient_states, problem.state_type);
  const at::Tensor from_last = dense(gradient_last, sum_type(problem));
  const at::Tensor lengths = lengths_on(problem, recurrent.device());
  DeviceBackward pass;
  pass.sequence = device_sequence(problem, lengths);
  pass.transposed = transposed.const_data_ptr();
  pass.initial = start.const_data_ptr();
  pass.states = states.const_data_ptr();
  pass.gates = gates.const_data_ptr();
  pass.gradient_states = data_or_null(from_states);
  pass.gradient_last = data_or_null(from_last);
  pass.input_gradient = input_gradient.mutable_data_ptr();
  pass.recurrent_gradient = is_apart ? recurrent_gradient.mutable_data_ptr() : nullptr;
  pass.carry = initial_gradient.mutable_data_ptr();
  if (problem.backend == Backend::gpu_fused) {
    const FusedPlan plan = plan_fused_backward(pass.sequence);
    const at::Tensor scratch = bytes_on(plan.scratch, recurrent);
    pass.scratch = scratch.mutable_data_ptr();
    launch_fused_backward(pass, plan, stream_of(recurrent));
  } else {
    const at::Tensor scratch = bytes_on(alternating_backward_scratch(pass.sequence), recurrent);
    pass.scratch = scratch.mutable_data_ptr();
    launch_alternating_backward(pass, stream_of(recurrent));
  }
}

#else

namespace {

[[noreturn]] void no_kernels() {
  throw InvalidArgument("flashrnn: this build has no CUDA kernels; move the tensors to the CPU");
}

}  // namespace

Backend choose_gpu_backend(const Problem&) {
  no_kernels();
}

RnnSaved forward_on_gpu(const Problem&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                        const at::Tensor&, bool) {
  no_kernels();
}

void backward_on_gpu(const Problem&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                     const RnnSaved&, const at::Tensor&, at::Tensor&, at::Tensor&, at::Tensor&) {
  no_kernels();
}

#endif

}  // namespace einkorn::flashrnn
