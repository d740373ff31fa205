// All steps in one launch. A block advances eight units (elman: sixteen) of one head for a tile of
// rows; its warps share the terms of the product and keep their part of R in registers. A step:
// wait for the fragments of h, multiply, add the warps' sums in shared memory, gates, publish h.
#include <algorithm>
#include <limits>

#include "einkorn/compute/flashrnn/fused_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::flashrnn {
namespace {

struct Launch {
  int first_group;
  int row_groups;
  int first_step;
  int steps;
  int warps;  // that multiply
};

template <Cell cell, typename T, int pairs, int tiles>
__global__ void __launch_bounds__(block_threads, 1)
    fused_forward(const DeviceForward pass, const Launch launch) {
  constexpr CellShape shape = shape_of(cell);
  constexpr int gates = static_cast<int>(shape.recurrent_gates);
  constexpr int units = units_of<cell>();
  constexpr int row_tiles = (gates * units + 15) / 16;
  constexpr int rows = 8 * tiles;
  constexpr int stride = sum_stride<tiles>();
  constexpr int cells = units * rows;
  static_assert(cells <= block_threads, "a thread has at most one unit of one row");
  extern __shared__ float sums[];  // [2][warps][16 row_tiles][stride]

  const DeviceSequence& q = pass.sequence;
  const int group = launch.first_group + blockIdx.y;
  const int head = group / launch.row_groups;
  const int first_row = group % launch.row_groups * rows;
  const int first_unit = blockIdx.x * units;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int width = padded_dim(q.dim);
  const int row_words = width / 2;
  const bool multiplies = warp < launch.warps;

  MatrixPart<row_tiles, pairs> matrix;
  const int first_term = warp * pairs * pair_terms;
  if (multiplies) {
    matrix.template load<T>(
        [&](int i) -> const T* {
          const int unit = first_unit + i % units;
          if (i >= gates * units || unit >= q.dim) return nullptr;
          return static_cast<const T*>(pass.recurrent) +
                 ((static_cast<std::int64_t>(i / units) * q.heads + head) * q.dim + unit) * q.dim;
        },
        first_term, q.dim);
  }

  // The thread's unit of one row. Units that only pad the head are published as zeros.
  const bool has_cell = threadIdx.x < cells;
  const int unit = first_unit + threadIdx.x % units;
  const int local_row = threadIdx.x / units;
  const int row = first_row + local_row;
  const bool publishes = has_cell && row < q.batch;
  const bool is_real = publishes && unit < q.dim;
  const RowClock clock(q, row);
  float state[shape.states] = {};
  float bias[shape.biases] = {};
  float next_input[shape.input_gates] = {};
  const auto fetch_input = [&](int step) {
    if (!is_real || !clock.runs(step) || step >= launch.first_step + launch.steps) return;
    const T* from = static_cast<const T*>(pass.input) + row * pass.input_batch +
                    clock.position(step) * pass.input_time + head * pass.input_head + unit;
#pragma unroll
    for (int g = 0; g < shape.input_gates; ++g) next_input[g] = widened(from[g * pass.input_gate]);
  };
  if (is_real) {
#pragma unroll
    for (int s = 0; s < shape.states; ++s) {
      state[s] = static_cast<const float*>(pass.carry)[boundary_offset(q, s, row, head, unit)];
    }
#pragma unroll
    for (int g = 0; g < shape.biases; ++g) {
      bias[g] = static_cast<const float*>(pass.bias)[(g * q.heads + head) * q.dim + unit];
    }
  }
  fetch_input(launch.first_step);

  // [slot][head][row][width / 2]; slot 0 is h before the first step of this launch.
  auto* exchange = static_cast<std::uint32_t*>(pass.scratch);
  const std::int64_t slot_words = static_cast<std::int64_t>(q.heads) * q.batch * row_words;
  const auto publish = [&](int slot) {
    if (!has_cell) return;
    const std::uint32_t word = packed_with_next<T>(state[0]);
    if (publishes && unit % 2 == 0 && unit < width) {
      store_exchanged(exchange + slot * slot_words +
                          (static_cast<std::int64_t>(head) * q.batch + row) * row_words + unit / 2,
                      word);
    }
  };
  publish(0);

  const auto bound = static_cast<float>(q.forward_clip);
  for (int i = 0; i < launch.steps; ++i) {
    const int step = launch.first_step + i;
    float* step_sums = sums + i % 2 * launch.warps * row_tiles * 16 * stride;
    if (multiplies) {
      Fragment h[pairs][tiles];
      const int lane_row = first_row + lane / 4;
      wait_for_rows(exchange + i * slot_words +
                        (static_cast<std::int64_t>(head) * q.batch + lane_row) * row_words +
                        first_term / 2 + lane % 4 * 4,
                    row_words, q.batch - lane_row, (width - first_term) / pair_terms, h);
      multiply_rows<row_tiles, pairs, tiles, T>(matrix, h,
                                                step_sums + warp * row_tiles * 16 * stride);
    }
    __syncthreads();
    if (!has_cell) continue;
    float product[gates] = {};
    for (int w = 0; w < launch.warps; ++w) {
#pragma unroll
      for (int g = 0; g < gates; ++g) {
        product[g] +=
            step_sums[(w * row_tiles * 16 + g * units + threadIdx.x % units) * stride + local_row];
      }
    }
    float saved[shape.saved_gates] = {};
    float states[shape.states] = {};
    const bool runs = is_real && clock.runs(step);
    if (runs) {
      UnitStep<cell, float>::forward(next_input, product, bias, state, states, saved);
      states[0] = clipped(states[0], bound);
#pragma unroll
      for (int s = 0; s < shape.states; ++s) state[s] = states[s];
    }
    publish(i + 1);
    fetch_input(step + 1);
    if (!is_real) continue;
    const int time = clock.position(step);
#pragma unroll
    for (int s = 0; s < shape.states; ++s) {
      store_state<T>(pass.states, q.wide_states, state_offset(q, s, row, time, head, unit),
                     states[s]);
    }
    if (pass.gates) {
#pragma unroll
      for (int g = 0; g < shape.saved_gates; ++g) {
        static_cast<T*>(pass.gates)[gate_offset(q, shape.saved_gates, row, time, g, head, unit)] =
            narrowed<T>(saved[g]);
      }
    }
  }
  if (!is_real) return;
#pragma unroll
  for (int s = 0; s < shape.states; ++s) {
    static_cast<float*>(pass.carry)[boundary_offset(q, s, row, head, unit)] = state[s];
  }
}

template <Cell cell, int tiles>
std::size_t shared_bytes(int warps) {
  constexpr int row_tiles =
      (static_cast<int>(shape_of(cell).recurrent_gates) * units_of<cell>() + 15) / 16;
  return sizeof(float) * 2 * warps * row_tiles * 16 * sum_stride<tiles>();
}

template <Cell cell, typename T, int pairs, int tiles>
void run(const DeviceForward& pass, const FusedPlan& plan, cudaStream_t stream) {
  const DeviceSequence& q = pass.sequence;
  constexpr int rows = 8 * tiles;
  const int row_groups = (q.batch + rows - 1) / rows;
  const int groups = row_groups * q.heads;
  const int all_pairs = padded_dim(q.dim) / pair_terms;
  Launch launch = {0, row_groups, 0, 0, (all_pairs + pairs - 1) / pairs};
  const auto kernel = fused_forward<cell, T, pairs, tiles>;
  const std::size_t shared = shared_bytes<cell, tiles>(launch.warps);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared)),
             "cudaFuncSetAttribute");
  for (launch.first_step = 0; launch.first_step < q.time; launch.first_step += launch.steps) {
    launch.steps = std::min(plan.steps_at_once, q.time - launch.first_step);
    const std::size_t slot =
        sizeof(std::uint16_t) * q.heads * q.batch * static_cast<std::size_t>(padded_dim(q.dim));
    check_cuda(cudaMemsetAsync(pass.scratch, 0xff, slot * (launch.steps + 1), stream),
               "cudaMemsetAsync");
    for (launch.first_group = 0; launch.first_group < groups;
         launch.first_group += plan.groups_at_once) {
      const int now = std::min(plan.groups_at_once, groups - launch.first_group);
      void* arguments[] = {const_cast<DeviceForward*>(&pass), &launch};
      check_cuda(cudaLaunchCooperativeKernel(kernel, dim3(plan.blocks_per_group, now),
                                             dim3(block_threads), arguments, shared, stream),
                 "fused_forward");
    }
  }
}

template <Cell cell, typename T, int pairs>
void with_tiles(const DeviceForward& pass, const FusedPlan& plan, cudaStream_t stream) {
  if constexpr (units_of<cell>() == 8) {
    if (plan.row_tiles == 4) return run<cell, T, pairs, 4>(pass, plan, stream);
  }
  run<cell, T, pairs, 2>(pass, plan, stream);
}

template <Cell cell, typename T>
void with_pairs(const DeviceForward& pass, const FusedPlan& plan, cudaStream_t stream) {
  switch (plan.pairs_per_warp) {
    case 1:
      return with_tiles<cell, T, 1>(pass, plan, stream);
    case 3:
      return with_tiles<cell, T, 3>(pass, plan, stream);
    default:
      return with_tiles<cell, T, 6>(pass, plan, stream);
  }
}

}  // namespace

FusedPlan plan_fused_forward(const DeviceSequence& q) {
  FusedPlan plan;
  if (q.type != DeviceType::bf16 && q.type != DeviceType::f16) {
    plan.reason = "the fused kernels take bfloat16 and float16";
    return plan;
  }
  constexpr int pair_choices[] = {1, 3, 6};
  const int width = padded_dim(q.dim);
  for (const int pairs : pair_choices) {
    if (width <= pairs * most_warps * pair_terms) {
      plan.pairs_per_warp = pairs;
      break;
    }
  }
  const int units = shape_of(q.cell).recurrent_gates == 1 ? 16 : 8;
  const int multiprocessors = multiprocessor_count();
  plan.blocks_per_group = (width + units - 1) / units;
  if (plan.pairs_per_warp == 0 || plan.blocks_per_group > multiprocessors) {
    plan.reason = "a head's R does not fit into the registers of the chip";
    return plan;
  }
  plan.groups_at_once = multiprocessors / plan.blocks_per_group;
  // Wide tiles where narrow ones would take a second round.
  const int narrow_groups = (q.batch + 15) / 16 * q.heads;
  plan.row_tiles = units == 8 && narrow_groups > plan.groups_at_once ? 4 : 2;
  constexpr std::size_t most_scratch = std::size_t{96} << 20;
  const std::size_t slot =
      sizeof(std::uint16_t) * q.heads * static_cast<std::size_t>(q.batch) * width;
  const std::size_t slots = std::max<std::size_t>(most_scratch / std::max<std::size_t>(slot, 1), 2);
  plan.steps_at_once =
      static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(q.time), slots - 1));
  plan.scratch = slot * (static_cast<std::size_t>(plan.steps_at_once) + 1);
  plan.possible = true;
  return plan;
}

void launch_fused_forward(const DeviceForward& pass, const FusedPlan& plan, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  with_cell(pass.sequence.cell, [&](auto cell) {
    if (pass.sequence.type == DeviceType::f16) {
      with_pairs<cell.value, __half>(pass, plan, queue);
    } else {
      with_pairs<cell.value, __nv_bfloat16>(pass, plan, queue);
    }
  });
}

}  // namespace einkorn::flashrnn
