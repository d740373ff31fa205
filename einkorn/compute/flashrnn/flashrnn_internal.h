// A checked call, and what its parts share.
#pragma once

#include <vector>

#include "einkorn/compute/flashrnn/flashrnn.h"
#include "einkorn/compute/flashrnn/recurrence_kernels.h"

namespace einkorn::flashrnn {

struct Problem {
  Cell cell = Cell::lstm;
  std::int64_t batch = 0;
  std::int64_t time = 0;
  std::int64_t heads = 0;
  std::int64_t dim = 0;
  at::ScalarType dtype = at::kFloat;
  at::ScalarType state_type = at::kFloat;
  Backend backend = Backend::cpu;  // what runs: never automatic
  RnnOptions options;
  at::Tensor lengths;  // [B] i64 on the CPU, or undefined

  std::int64_t length(std::int64_t row) const;
  std::vector<std::int64_t> states_shape() const {
    return {shape_of(cell).states, batch, time, heads, dim};
  }
  std::vector<std::int64_t> boundary_shape() const {
    return {shape_of(cell).states, batch, heads, dim};
  }
  // Points at `lengths`, so it must not outlive this.
  Sequence sequence() const;
};

// Throw InvalidArgument for anything that does not fit.
Problem make_problem(Cell cell, const at::Tensor& input, const at::Tensor& recurrent,
                     const at::Tensor& bias, const at::Tensor& initial, const at::Tensor& lengths,
                     const RnnOptions& options);
void check_options(const RnnOptions& options);
at::Tensor checked_lengths(const at::Tensor& lengths, std::int64_t batch, std::int64_t time);
Backend choose_backend(const Problem& problem, Device device);

// ---- GPU: flashrnn_gpu.cpp ----

// Throws InvalidArgument where the wanted backend cannot run the problem.
Backend choose_gpu_backend(const Problem& problem);

RnnSaved forward_on_gpu(const Problem& problem, const at::Tensor& input,
                        const at::Tensor& recurrent, const at::Tensor& bias,
                        const at::Tensor& initial, bool save_gates);

// Sets the gradients of the input, of R's products and of the initial states.
void backward_on_gpu(const Problem& problem, const at::Tensor& gradient_states,
                     const at::Tensor& gradient_last, const at::Tensor& recurrent,
                     const RnnSaved& saved, const at::Tensor& initial, at::Tensor& input_gradient,
                     at::Tensor& recurrent_gradient, at::Tensor& initial_gradient);

}  // namespace einkorn::flashrnn
