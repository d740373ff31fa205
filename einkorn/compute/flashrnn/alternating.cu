// One launch a step, for any size and type: products and gates of a step in one kernel. A warp
// takes one unit for a tile of rows; its lanes share the terms. What feeds back alternates between
// two buffers in the type of sums.
#include <utility>

#include "einkorn/compute/flashrnn/cells_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::flashrnn {
namespace {

constexpr int tile_rows = 8;
constexpr int warps = 8;

template <typename A>
__device__ inline A sum_of_lanes(A value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

// products[g][j]: the g-th matrix row times the j-th operand row, whole in every lane.
template <int gates, typename T>
__device__ inline void multiply(const T* const (&matrix)[gates], const SumOf<T>* operand,
                                std::int64_t operand_stride, int count, int terms,
                                SumOf<T> (&products)[gates][tile_rows]) {
  using A = SumOf<T>;
  for (int k = threadIdx.x % 32; k < terms; k += 32) {
    A factor[gates];
#pragma unroll
    for (int g = 0; g < gates; ++g) factor[g] = widened(matrix[g][k]);
#pragma unroll
    for (int j = 0; j < tile_rows; ++j) {
      const A value = j < count ? operand[j * operand_stride + k] : A(0);
#pragma unroll
      for (int g = 0; g < gates; ++g) products[g][j] += factor[g] * value;
    }
  }
#pragma unroll
  for (int g = 0; g < gates; ++g) {
#pragma unroll
    for (int j = 0; j < tile_rows; ++j) products[g][j] = sum_of_lanes(products[g][j]);
  }
}

// Of the values that every lane has, the one of this lane's row.
template <typename A>
__device__ inline A of_row(const A (&values)[tile_rows], int lane) {
  A value = 0;
#pragma unroll
  for (int j = 0; j < tile_rows; ++j) {
    if (j == lane) value = values[j];
  }
  return value;
}

template <Cell cell, typename T>
__global__ void __launch_bounds__(32 * warps)
    forward_step(const DeviceForward pass, const int step, const SumOf<T>* hidden,
                 SumOf<T>* next_hidden) {
  using A = SumOf<T>;
  constexpr CellShape shape = shape_of(cell);
  constexpr int gates = static_cast<int>(shape.recurrent_gates);
  const DeviceSequence& q = pass.sequence;
  const int lane = threadIdx.x % 32;
  const int unit = blockIdx.x * warps + threadIdx.x / 32;
  const int head = blockIdx.y;
  const int first_row = blockIdx.z * tile_rows;
  if (unit >= q.dim) return;
  const T* matrix[gates];
#pragma unroll
  for (int g = 0; g < gates; ++g) {
    matrix[g] = static_cast<const T*>(pass.recurrent) +
                ((static_cast<std::int64_t>(g) * q.heads + head) * q.dim + unit) * q.dim;
  }
  const std::int64_t row_stride = static_cast<std::int64_t>(q.heads) * q.dim;
  const A* operand = hidden + boundary_offset(q, 0, first_row, head, 0);
  A products[gates][tile_rows] = {};
  multiply<gates, T>(matrix, operand, row_stride, q.batch - first_row, q.dim, products);

  const int row = first_row + lane;
  if (lane >= tile_rows || row >= q.batch) return;
  const RowClock clock(q, row);
  const int time = clock.position(step);
  A w[shape.input_gates], y[gates], b[shape.biases], previous[shape.states];
  A states[shape.states] = {}, saved[shape.saved_gates] = {};
  auto* carry = static_cast<A*>(pass.carry);
#pragma unroll
  for (int s = 0; s < shape.states; ++s) {
    previous[s] = carry[boundary_offset(q, s, row, head, unit)];
  }
  A* next = next_hidden + boundary_offset(q, 0, row, head, unit);
  if (clock.runs(step)) {
    const T* input = static_cast<const T*>(pass.input) + row * pass.input_batch +
                     time * pass.input_time + head * pass.input_head + unit;
#pragma unroll
    for (int g = 0; g < shape.input_gates; ++g) w[g] = widened(input[g * pass.input_gate]);
#pragma unroll
    for (int g = 0; g < gates; ++g) y[g] = of_row(products[g], lane);
#pragma unroll
    for (int g = 0; g < shape.biases; ++g) {
      b[g] = static_cast<const A*>(pass.bias)[(g * q.heads + head) * q.dim + unit];
    }
    UnitStep<cell, A>::forward(w, y, b, previous, states, saved);
    states[0] = clipped(states[0], static_cast<A>(q.forward_clip));
#pragma unroll
    for (int s = 0; s < shape.states; ++s) {
      carry[boundary_offset(q, s, row, head, unit)] = states[s];
    }
    *next = states[0];
  } else {
    *next = previous[0];
  }
#pragma unroll
  for (int s = 0; s < shape.states; ++s) {
    store_state<T>(pass.states, q.wide_states, state_offset(q, s, row, time, head, unit),
                   states[s]);
  }
  if (!pass.gates) return;
#pragma unroll
  for (int g = 0; g < shape.saved_gates; ++g) {
    static_cast<T*>(pass.gates)[gate_offset(q, shape.saved_gates, row, time, g, head, unit)] =
        narrowed<T>(saved[g]);
  }
}

// carry of h += R^T times the gates of the step that ran before (not at the first), then the gates
// of this step; step -1 only adds.
template <Cell cell, typename T>
__global__ void __launch_bounds__(32 * warps)
    backward_step(const DeviceBackward pass, const int step, const bool adds,
                  const SumOf<T>* gate_rows, SumOf<T>* next_gate_rows) {
  using A = SumOf<T>;
  constexpr CellShape shape = shape_of(cell);
  constexpr int gates = static_cast<int>(shape.recurrent_gates);
  constexpr bool is_apart = cell == Cell::gru;
  const DeviceSequence& q = pass.sequence;
  const int lane = threadIdx.x % 32;
  const int unit = blockIdx.x * warps + threadIdx.x / 32;
  const int head = blockIdx.y;
  const int first_row = blockIdx.z * tile_rows;
  if (unit >= q.dim) return;
  // Rows of gates: [row, gate, head, unit].
  const std::int64_t gate_stride = static_cast<std::int64_t>(q.heads) * q.dim;
  const auto gate_row = [&](int row, int g) {
    return (static_cast<std::int64_t>(row) * gates + g) * gate_stride + head * q.dim;
  };
  A products[1][tile_rows] = {};
  if (adds) {
    for (int g = 0; g < gates; ++g) {
      const T* const matrix[1] = {static_cast<const T*>(pass.transposed) +
                                  ((static_cast<std::int64_t>(g) * q.heads + head) * q.dim + unit) *
                                      q.dim};
      A part[1][tile_rows] = {};
      multiply<1, T>(matrix, gate_rows + gate_row(first_row, g), gates * gate_stride,
                     q.batch - first_row, q.dim, part);
#pragma unroll
      for (int j = 0; j < tile_rows; ++j) products[0][j] += part[0][j];
    }
  }

  const int row = first_row + lane;
  if (lane >= tile_rows || row >= q.batch) return;
  const RowClock clock(q, row);
  A carry[shape.states];
  auto* carries = static_cast<A*>(pass.carry);
#pragma unroll
  for (int s = 0; s < shape.states; ++s) {
    carry[s] = carries[boundary_offset(q, s, row, head, unit)];
  }
  carry[0] += of_row(products[0], lane);
  A input[4] = {}, recurrent[4] = {};
  const int time = step < 0 ? 0 : clock.position(step);
  if (step >= 0 && clock.runs(step)) {
    A d[shape.states], states[shape.states], previous[shape.states], saved[shape.saved_gates];
#pragma unroll
    for (int s = 0; s < shape.states; ++s) {
      const std::int64_t at = state_offset(q, s, row, time, head, unit);
      const std::int64_t boundary = boundary_offset(q, s, row, head, unit);
      d[s] = s == 0 ? clipped(carry[0], static_cast<A>(q.gradient_clip)) : carry[s];
      if (pass.gradient_states) d[s] += load_state<T>(pass.gradient_states, q.wide_states, at);
      if (pass.gradient_last && step == clock.length - 1) {
        d[s] += static_cast<const A*>(pass.gradient_last)[boundary];
      }
      states[s] = load_state<T>(pass.states, q.wide_states, at);
      previous[s] =
          step == 0 ? static_cast<const A*>(pass.initial)[boundary]
                    : load_state<T>(pass.states, q.wide_states,
                                    state_offset(q, s, row, clock.position(step - 1), head, unit));
    }
#pragma unroll
    for (int g = 0; g < shape.saved_gates; ++g) {
      saved[g] = widened(static_cast<const T*>(
          pass.gates)[gate_offset(q, shape.saved_gates, row, time, g, head, unit)]);
    }
    UnitStep<cell, A>::backward(d, saved, states, previous, static_cast<A>(q.forward_clip), input,
                                recurrent, carry);
  } else if (step < 0 && clock.length == 0 && pass.gradient_last) {
    // A row without steps hands the gradient of its last state straight on.
#pragma unroll
    for (int s = 0; s < shape.states; ++s) {
      carry[s] += static_cast<const A*>(pass.gradient_last)[boundary_offset(q, s, row, head, unit)];
    }
  }
#pragma unroll
  for (int s = 0; s < shape.states; ++s) {
    carries[boundary_offset(q, s, row, head, unit)] = carry[s];
  }
  if (step < 0) return;
#pragma unroll
  for (int g = 0; g < gates; ++g) {
    const A value = is_apart ? recurrent[g] : input[g];
    next_gate_rows[gate_row(row, g) + unit] = value;
    if constexpr (is_apart) {
      static_cast<T*>(pass.recurrent_gradient)[gate_offset(q, gates, row, time, g, head, unit)] =
          narrowed<T>(value);
    }
  }
#pragma unroll
  for (int g = 0; g < shape.input_gates; ++g) {
    static_cast<T*>(
        pass.input_gradient)[gate_offset(q, shape.input_gates, row, time, g, head, unit)] =
        narrowed<T>(input[g]);
  }
}

dim3 grid_of(const DeviceSequence& q) {
  return dim3((q.dim + warps - 1) / warps, q.heads, (q.batch + tile_rows - 1) / tile_rows);
}

std::size_t sum_bytes(const DeviceSequence& q) {
  return q.type == DeviceType::f64 ? sizeof(double) : sizeof(float);
}
std::size_t row_bytes(const DeviceSequence& q) {
  return sum_bytes(q) * static_cast<std::size_t>(q.batch) * q.heads * q.dim;
}

template <typename Run>
void with_type(DeviceType type, const Run& run) {
  switch (type) {
    case DeviceType::f32:
      return run(float{});
    case DeviceType::f64:
      return run(double{});
    case DeviceType::bf16:
      return run(__nv_bfloat16{});
    case DeviceType::f16:
      return run(__half{});
  }
}

template <Cell cell, typename T>
void run_forward(const DeviceForward& pass, cudaStream_t stream) {
  using A = SumOf<T>;
  const DeviceSequence& q = pass.sequence;
  auto* hidden = static_cast<A*>(pass.scratch);
  auto* next = hidden + row_bytes(q) / sizeof(A);
  check_cuda(cudaMemcpyAsync(hidden, pass.carry, row_bytes(q), cudaMemcpyDeviceToDevice, stream),
             "cudaMemcpyAsync");
  for (int step = 0; step < q.time; ++step) {
    forward_step<cell, T><<<grid_of(q), 32 * warps, 0, stream>>>(pass, step, hidden, next);
    check_launch("forward_step");
    std::swap(hidden, next);
  }
}

template <Cell cell, typename T>
void run_backward(const DeviceBackward& pass, cudaStream_t stream) {
  using A = SumOf<T>;
  const DeviceSequence& q = pass.sequence;
  constexpr auto gates = static_cast<std::size_t>(shape_of(cell).recurrent_gates);
  auto* rows = static_cast<A*>(pass.scratch);
  auto* next = rows + gates * row_bytes(q) / sizeof(A);
  for (int step = q.time - 1; step >= -1; --step) {
    const bool adds = step < q.time - 1 && !q.gradient_cut;
    backward_step<cell, T><<<grid_of(q), 32 * warps, 0, stream>>>(pass, step, adds, rows, next);
    check_launch("backward_step");
    std::swap(rows, next);
  }
}

}  // namespace

std::size_t alternating_forward_scratch(const DeviceSequence& q) {
  return 2 * row_bytes(q);
}
std::size_t alternating_backward_scratch(const DeviceSequence& q) {
  return 2 * row_bytes(q) * static_cast<std::size_t>(shape_of(q.cell).recurrent_gates);
}

void launch_alternating_forward(const DeviceForward& pass, void* stream) {
  with_cell(pass.sequence.cell, [&](auto cell) {
    with_type(pass.sequence.type, [&](auto zero) {
      run_forward<cell.value, decltype(zero)>(pass, static_cast<cudaStream_t>(stream));
    });
  });
}

void launch_alternating_backward(const DeviceBackward& pass, void* stream) {
  with_cell(pass.sequence.cell, [&](auto cell) {
    with_type(pass.sequence.type, [&](auto zero) {
      run_backward<cell.value, decltype(zero)>(pass, static_cast<cudaStream_t>(stream));
    });
  });
}

}  // namespace einkorn::flashrnn
