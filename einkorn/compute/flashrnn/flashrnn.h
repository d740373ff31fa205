// Recurrent networks whose state feeds back through a matrix (LSTM, GRU, Elman, sLSTM), with the
// recurrent matrix kept close to the arithmetic for all steps. Head-wise: the hidden state is cut
// into N heads of D units, and each head's gates see that head's units alone (R is block-diagonal).
// N = 1 is the usual network; D = 1 gives a diagonal R (IndRNN).
// Poeppel, Beck, Hochreiter, "FlashRNN: Optimizing Traditional RNNs on Modern Hardware",
// arXiv 2412.07752.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "einkorn/compute/flashrnn/cell.h"
#include "einkorn/core/tensor.h"

namespace einkorn::flashrnn {

const std::vector<std::string>& cell_names();
std::string to_string(Cell cell);
Cell parse_cell(const std::string& name);

// automatic: on a CPU the vector kernels; on a GPU the fused kernel where the head fits into the
// chip's registers and the dtype is bf16 or f16, else the alternating one.
// gpu_fused: one launch for all steps. gpu_alternating: one launch a step, for any D and dtype.
// reference: plain loops in double, on the CPU whatever the device.
enum class Backend { automatic, cpu, gpu_fused, gpu_alternating, reference };

const std::vector<std::string>& backend_names();
std::string to_string(Backend backend);
Backend parse_backend(const std::string& name);

struct RnnOptions {
  Backend backend = Backend::automatic;
  // Bounds |h| after every step, > 0. The gradient through a bounded unit is zero.
  std::optional<double> forward_clip = {};
  // Bounds the gradient that comes back through time into h, > 0, before the step's own is added.
  std::optional<double> gradient_clip = {};
  // No gradient through R h: each step's gates see h as a constant.
  bool gradient_cut = false;
  // Runs from the last step of each sequence to its first; step t still lies at index t.
  bool reverse = false;
  // k > 0: the graph keeps the states at every k-th step alone and computes the others once more
  // for the gradient: less memory for 4/3 of the time. 0: keeps states and gates of all steps.
  std::int64_t checkpoint_every = 0;
  // dtype of the states on a GPU: that of Wx (default), or f32, which keeps c exact with bf16.
  std::optional<at::ScalarType> state_dtype = {};
};

struct RnnResult {
  at::Tensor states;  // [S, B, T, N, D]; zero behind a sequence's end
  at::Tensor last;    // [S, B, N, D]: after the last step of each sequence
};

// Runs the recurrence. With G_w, G_r, G_t, S of shape_of(cell):
//   input      Wx, already multiplied by the input matrix: [B, T, G_w, N, D], f32, f64, bf16 or f16
//   recurrent  R: [G_r, N, D_out, D_in]; bias: [G_t, N, D]; both of input's dtype and device
//   initial    [S, B, N, D]; undefined for zeros
//   lengths    [B] integers in [0, T] on the CPU; undefined for T. Steps behind the end change
//              nothing: the state stays, outputs and gradients are zero.
// Any strides. T = 0 gives last = initial. bf16 and f16 are computed in f32 on CPUs and with f32
// sums on GPUs. Differentiable once in all four tensors. NaN spreads along its own head and row.
// The same bits for every number of threads. Throws InvalidArgument for shapes, dtypes, lengths
// and options that do not fit, and for a backend that cannot run them.
RnnResult rnn(Cell cell, const at::Tensor& input, const at::Tensor& recurrent,
              const at::Tensor& bias, const at::Tensor& initial = {},
              const at::Tensor& lengths = {}, const RnnOptions& options = {});

// One step, for inference: input [B, G_w, N, D] and states [S, B, N, D] give the next states.
at::Tensor rnn_step(Cell cell, const at::Tensor& input, const at::Tensor& recurrent,
                    const at::Tensor& bias, const at::Tensor& states,
                    const RnnOptions& options = {});

struct RnnSaved {
  at::Tensor states;
  at::Tensor last;
  at::Tensor gates;  // [B, T, G_saved, N, D], what the gradient needs beside the states
};

// The forward pass with what rnn_backward needs; outside autograd.
RnnSaved rnn_forward(Cell cell, const at::Tensor& input, const at::Tensor& recurrent,
                     const at::Tensor& bias, const at::Tensor& initial, const at::Tensor& lengths,
                     const RnnOptions& options, bool save_gates);

struct RnnGradients {
  at::Tensor input;      // [B, T, G_w, N, D]
  at::Tensor recurrent;  // [G_r, N, D, D]
  at::Tensor bias;       // [G_t, N, D]
  at::Tensor initial;    // [S, B, N, D]
};

// Gradients for those arriving at `states` and `last` (undefined: zero). The stabiliser m of slstm
// is a scaling: gradients at c and n are with respect to the scaled states, m is a constant.
RnnGradients rnn_backward(Cell cell, const at::Tensor& gradient_states,
                          const at::Tensor& gradient_last, const at::Tensor& recurrent,
                          const RnnSaved& saved, const at::Tensor& initial,
                          const at::Tensor& lengths, const RnnOptions& options);

}  // namespace einkorn::flashrnn
