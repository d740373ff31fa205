// Raw kernels of the recurrence on the CPU: pointers, sizes, strides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "einkorn/compute/flashrnn/cell.h"
#include "einkorn/core/isa.h"

namespace einkorn::flashrnn {

// What both directions of a pass agree on.
struct Sequence {
  Cell cell;
  std::int64_t batch = 0;
  std::int64_t time = 0;
  std::int64_t heads = 0;
  std::int64_t dim = 0;
  const std::int64_t* lengths = nullptr;  // [batch]; null: all run to `time`
  bool reverse = false;
  double forward_clip = std::numeric_limits<double>::infinity();
  double gradient_clip = std::numeric_limits<double>::infinity();
  bool gradient_cut = false;

  std::int64_t length(std::int64_t row) const { return lengths ? lengths[row] : time; }

  // Where the step-th step of a row lies in time; steps behind the end lie at their own number.
  std::int64_t position(std::int64_t row, std::int64_t step) const {
    const std::int64_t end = length(row);
    return reverse && step < end ? end - 1 - step : step;
  }
};

// [gates, heads, dim_out, dim_in] and the strides of an input [batch, time, gate, head, unit].
template <typename T>
struct InputView {
  const T* data = nullptr;
  std::ptrdiff_t batch = 0;
  std::ptrdiff_t time = 0;
  std::ptrdiff_t gate = 0;
  std::ptrdiff_t head = 0;
};

// All but the input lie densely: bias [G_t, N, D], initial [S, B, N, D], states [S, B, T, N, D],
// gates [B, T, G_saved, N, D] (null: not wanted).
template <typename T>
struct ForwardPass {
  Sequence sequence;
  InputView<T> input;
  const T* recurrent = nullptr;  // as it is for the reference, packed for the vector kernels
  const T* bias = nullptr;
  const T* initial = nullptr;
  T* states = nullptr;
  T* gates = nullptr;
  // Vector kernels: two buffers [N, B, row_stride(D)], the first holding initial h.
  T* hidden = nullptr;
};

// gradient_states [S, B, T, N, D] and gradient_last [S, B, N, D] may be null. input_gradient is
// [B, T, G_w, N, D]; recurrent_gradient [B, T, G_r, N, D] is that of R h, and null where it equals
// input_gradient (all cells but gru). carry [S, B, N, D]: zero at the start, the gradient of
// `initial` at the end.
template <typename T>
struct BackwardPass {
  Sequence sequence;
  const T* recurrent = nullptr;  // packed transposed for the vector kernels
  const T* initial = nullptr;
  const T* states = nullptr;
  const T* gates = nullptr;
  const T* gradient_states = nullptr;
  const T* gradient_last = nullptr;
  T* input_gradient = nullptr;
  T* recurrent_gradient = nullptr;
  T* carry = nullptr;
  // Vector kernels: two buffers [N, B, row_stride(G_r * D)], and how many blocks a panel has.
  T* gate_rows = nullptr;
  std::int64_t panel_blocks = 1;
};

// Rows of the operands that every step reads anew: not a multiple of 4 KiB apart, which would put
// all of them into the same cache sets.
constexpr std::int64_t row_stride(std::int64_t size) {
  return (size + 15) / 16 * 16 + 16;
}

// ---- the plain reference: rows and heads [begin, end) of batch * heads, all steps ----

void reference_forward(const ForwardPass<double>& pass, std::int64_t begin, std::int64_t end);
void reference_backward(const BackwardPass<double>& pass, std::int64_t begin, std::int64_t end);

// ---- vector kernels ----

// Part of one step: rows of one head and blocks of its units, a block being a vector wide.
struct StepPart {
  std::int64_t head = 0;
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  std::int64_t block_begin = 0;
  std::int64_t block_end = 0;
};

// R of one head, [gates, heads, dim, dim]: data points at the head, the stride is between gates.
template <typename T>
struct HeadMatrix {
  const T* data = nullptr;
  std::ptrdiff_t gate_stride = 0;
  std::int64_t gates = 0;
  std::int64_t dim = 0;
};

// The most blocks of units that a panel of R^T holds.
inline constexpr std::int64_t max_panel_blocks = 4;

// One instruction set's version.
template <typename T>
struct RecurrenceKernels {
  std::int64_t lanes;

  // R in panels [block, dim, gates, lanes], zero beyond dim; blocks [begin, end).
  void (*pack)(const HeadMatrix<T>& matrix, std::int64_t begin, std::int64_t end, T* packed);
  // R^T in panels of panel_blocks blocks of inputs, [panel, gates * dim, blocks of the panel,
  // lanes]; panels [begin, end). The last panel may have fewer blocks.
  void (*pack_transposed)(const HeadMatrix<T>& matrix, std::int64_t panel_blocks,
                          std::int64_t begin, std::int64_t end, T* packed);

  // One step of a part: reads hidden[step % 2], writes hidden[(step + 1) % 2].
  void (*forward_step)(const ForwardPass<T>& pass, std::int64_t step, const StepPart& part);

  // Gates of one step back, from the carries of the part's own units; writes gate_rows[step % 2].
  void (*backward_gates)(const BackwardPass<T>& pass, std::int64_t step, const StepPart& part);
  // carry of h += R^T gate_rows[step % 2]; the part begins with a panel and ends with one.
  void (*backward_carry)(const BackwardPass<T>& pass, std::int64_t step, const StepPart& part);
};

// Null where the level in force is the plain reference.
template <typename T>
const RecurrenceKernels<T>* recurrence_kernels();

Isa recurrence_level();

}  // namespace einkorn::flashrnn
