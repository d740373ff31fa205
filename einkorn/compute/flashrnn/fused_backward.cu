// The way back, all steps in one launch. A cluster has one block for each recurrent gate; block g
// multiplies R[g]^T with the exchanged gradients of gate g, for all units of the cluster, and sends
// its sums to the block that owns the unit (distributed shared memory). That block adds what the
// blocks sent, takes its units through the gates and publishes the gradients of all their gates.
#include <cooperative_groups.h>

#include <algorithm>
#include <limits>

#include "einkorn/compute/flashrnn/fused_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::flashrnn {
namespace {

namespace cg = cooperative_groups;

struct Launch {
  int first_group;
  int row_groups;
  int last_step;  // the first to run
  int steps;
  int warps;
  bool is_last;  // the launch that ends at step 0
};

template <Cell cell, typename T, int pairs, int tiles>
__global__ void __launch_bounds__(block_threads, 1)
    fused_backward(const DeviceBackward pass, const Launch launch) {
  constexpr CellShape shape = shape_of(cell);
  constexpr int gates = static_cast<int>(shape.recurrent_gates);
  constexpr int units = units_of<cell>();
  constexpr int cluster_units = units * gates;
  constexpr int row_tiles = (cluster_units + 15) / 16;
  constexpr int rows = 8 * tiles;
  constexpr int stride = sum_stride<tiles>();
  constexpr int cells = units * rows;
  static_assert(cells <= block_threads, "a thread has at most one unit of one row");
  constexpr bool is_apart = cell == Cell::gru;
  // [2][gates][units][rows] that the cluster's blocks sent, then [2][warps][16 row_tiles][stride].
  extern __shared__ float shared[];
  float* received = shared;
  float* sums = shared + 2 * gates * cells;

  const DeviceSequence& q = pass.sequence;
  const cg::cluster_group cluster = cg::this_cluster();
  const int gate = gates > 1 ? static_cast<int>(cluster.block_rank()) : 0;
  const int group = launch.first_group + blockIdx.y;
  const int head = group / launch.row_groups;
  const int first_row = group % launch.row_groups * rows;
  const int cluster_first = static_cast<int>(blockIdx.x) / gates * cluster_units;
  const int first_unit = cluster_first + gate * units;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int width = padded_dim(q.dim);
  const int row_words = width / 2;
  const bool multiplies = warp < launch.warps && !q.gradient_cut;

  MatrixPart<row_tiles, pairs> matrix;
  const int first_term = warp * pairs * pair_terms;
  if (multiplies) {
    matrix.template load<T>(
        [&](int i) -> const T* {
          const int unit = cluster_first + i;
          if (i >= cluster_units || unit >= q.dim) return nullptr;
          return static_cast<const T*>(pass.transposed) +
                 ((static_cast<std::int64_t>(gate) * q.heads + head) * q.dim + unit) * q.dim;
        },
        first_term, q.dim);
  }

  const bool has_cell = threadIdx.x < cells;
  const int unit = first_unit + threadIdx.x % units;
  const int local_row = threadIdx.x / units;
  const int row = first_row + local_row;
  const bool publishes = has_cell && row < q.batch && unit < width;
  const bool is_real = publishes && unit < q.dim;
  const RowClock clock(q, row);
  float carry[shape.states] = {};
  if (is_real) {
#pragma unroll
    for (int s = 0; s < shape.states; ++s) {
      carry[s] = static_cast<const float*>(pass.carry)[boundary_offset(q, s, row, head, unit)];
    }
  }
  const auto bound = static_cast<float>(q.forward_clip);
  const auto gradient_bound = static_cast<float>(q.gradient_clip);

  // [slot][head][gate][row][width / 2]; slot i holds the gates of the i-th step of this launch.
  auto* exchange = static_cast<std::uint32_t*>(pass.scratch);
  const std::int64_t gate_words = static_cast<std::int64_t>(q.batch) * row_words;
  const std::int64_t slot_words = gate_words * gates * q.heads;

  // carry[0] += the products with the gates of the launch's i-th step.
  const auto add_products = [&](int i) {
    if (q.gradient_cut) return;
    float* step_sums = sums + i % 2 * launch.warps * row_tiles * 16 * stride;
    float* step_received = received + i % 2 * gates * cells;
    if (multiplies) {
      Fragment b[pairs][tiles];
      const int lane_row = first_row + lane / 4;
      wait_for_rows(exchange + i * slot_words + (head * gates + gate) * gate_words +
                        static_cast<std::int64_t>(lane_row) * row_words + first_term / 2 +
                        lane % 4 * 4,
                    row_words, q.batch - lane_row, (width - first_term) / pair_terms, b);
      multiply_rows<row_tiles, pairs, tiles, T>(matrix, b,
                                                step_sums + warp * row_tiles * 16 * stride);
    }
    __syncthreads();
    for (int j = threadIdx.x; j < cluster_units * rows; j += block_threads) {
      const int target_unit = j % cluster_units;
      const int target_row = j / cluster_units;
      float sum = 0;
      for (int w = 0; w < launch.warps; ++w) {
        sum += step_sums[(w * row_tiles * 16 + target_unit) * stride + target_row];
      }
      float* own = step_received + gate * cells + target_row * units + target_unit % units;
      if constexpr (gates > 1) {
        *cluster.map_shared_rank(own, target_unit / units) = sum;
      } else {
        *own = sum;
      }
    }
    if constexpr (gates > 1) {
      cluster.sync();
    } else {
      __syncthreads();
    }
    if (!has_cell) return;
#pragma unroll
    for (int g = 0; g < gates; ++g) carry[0] += step_received[g * cells + threadIdx.x];
  };

  StepInput<cell> in = {};
  const auto fetch_step = [&](int i) {
    const int step = launch.last_step - i;
    if (is_real && i < launch.steps && clock.runs(step)) {
      in = step_input<cell, T>(pass, clock, row, head, unit, step);
    }
  };
  fetch_step(0);
  for (int i = 0; i < launch.steps; ++i) {
    const int step = launch.last_step - i;
    if (i > 0) add_products(i - 1);
    if (!has_cell) continue;
    float input[gates > 3 ? 4 : 3] = {};
    float recurrent[gates > 3 ? 4 : 3] = {};
    const bool runs = is_real && clock.runs(step);
    if (runs) {
      float d[shape.states];
#pragma unroll
      for (int s = 0; s < shape.states; ++s) {
        d[s] = in.arriving[s] + (s == 0 ? clipped(carry[0], gradient_bound) : carry[s]);
      }
      UnitStep<cell, float>::backward(d, in.gates, in.states, in.previous, bound, input, recurrent,
                                      carry);
    }
#pragma unroll
    for (int g = 0; g < gates; ++g) {
      const std::uint32_t word = packed_with_next<T>(is_apart ? recurrent[g] : input[g]);
      if (publishes && unit % 2 == 0 && !q.gradient_cut) {
        store_exchanged(exchange + i * slot_words + (head * gates + g) * gate_words +
                            static_cast<std::int64_t>(row) * row_words + unit / 2,
                        word);
      }
    }
    fetch_step(i + 1);
    if (!is_real) continue;
    const int time = clock.position(step);
#pragma unroll
    for (int g = 0; g < shape.input_gates; ++g) {
      static_cast<T*>(
          pass.input_gradient)[gate_offset(q, shape.input_gates, row, time, g, head, unit)] =
          narrowed<T>(input[g]);
    }
    if constexpr (is_apart) {
#pragma unroll
      for (int g = 0; g < gates; ++g) {
        static_cast<T*>(pass.recurrent_gradient)[gate_offset(q, gates, row, time, g, head, unit)] =
            narrowed<T>(recurrent[g]);
      }
    }
  }
  add_products(launch.steps - 1);
  if (is_real) {
#pragma unroll
    for (int s = 0; s < shape.states; ++s) {
      const std::int64_t at = boundary_offset(q, s, row, head, unit);
      // A row without steps hands the gradient of its last state straight on.
      if (launch.is_last && clock.length == 0 && pass.gradient_last) {
        carry[s] += static_cast<const float*>(pass.gradient_last)[at];
      }
      static_cast<float*>(pass.carry)[at] = carry[s];
    }
  }
  // No block leaves while another may still write into its shared memory.
  if constexpr (gates > 1) cluster.sync();
}

template <Cell cell, int tiles>
std::size_t shared_bytes(int warps) {
  constexpr int gates = static_cast<int>(shape_of(cell).recurrent_gates);
  constexpr int units = units_of<cell>();
  constexpr int row_tiles = (gates * units + 15) / 16;
  return sizeof(float) * 2 *
         (gates * units * 8 * tiles + warps * row_tiles * 16 * sum_stride<tiles>());
}

template <Cell cell, typename T, int pairs, int tiles>
void run(const DeviceBackward& pass, const FusedPlan& plan, cudaStream_t stream) {
  const DeviceSequence& q = pass.sequence;
  constexpr int gates = static_cast<int>(shape_of(cell).recurrent_gates);
  constexpr int rows = 8 * tiles;
  const int row_groups = (q.batch + rows - 1) / rows;
  const int groups = row_groups * q.heads;
  const int all_pairs = padded_dim(q.dim) / pair_terms;
  Launch launch = {0, row_groups, 0, 0, (all_pairs + pairs - 1) / pairs, false};
  const auto kernel = fused_backward<cell, T, pairs, tiles>;
  const std::size_t shared = shared_bytes<cell, tiles>(launch.warps);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared)),
             "cudaFuncSetAttribute");
  cudaLaunchConfig_t config = {};
  config.blockDim = dim3(block_threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(gates), 1, 1};
  config.attrs = attributes;
  config.numAttrs = 2;
  const std::size_t slot = sizeof(std::uint16_t) * gates * q.heads * q.batch *
                           static_cast<std::size_t>(padded_dim(q.dim));
  for (int left = q.time; left > 0; left -= launch.steps) {
    launch.last_step = left - 1;
    launch.steps = std::min(plan.steps_at_once, left);
    launch.is_last = launch.steps == left;
    if (!q.gradient_cut) {
      check_cuda(cudaMemsetAsync(pass.scratch, 0xff, slot * launch.steps, stream),
                 "cudaMemsetAsync");
    }
    for (launch.first_group = 0; launch.first_group < groups;
         launch.first_group += plan.groups_at_once) {
      const int now = std::min(plan.groups_at_once, groups - launch.first_group);
      config.gridDim = dim3(plan.blocks_per_group, now);
      check_cuda(cudaLaunchKernelEx(&config, kernel, pass, launch), "fused_backward");
    }
  }
}

template <Cell cell, typename T, int pairs>
void with_tiles(const DeviceBackward& pass, const FusedPlan& plan, cudaStream_t stream) {
  if constexpr (units_of<cell>() == 8) {
    if (plan.row_tiles == 4) return run<cell, T, pairs, 4>(pass, plan, stream);
  }
  run<cell, T, pairs, 2>(pass, plan, stream);
}

template <Cell cell, typename T>
void with_pairs(const DeviceBackward& pass, const FusedPlan& plan, cudaStream_t stream) {
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

FusedPlan plan_fused_backward(const DeviceSequence& q) {
  FusedPlan plan = plan_fused_forward(q);
  if (!plan.possible) return plan;
  const int gates = static_cast<int>(shape_of(q.cell).recurrent_gates);
  const int units = gates == 1 ? 16 : 8;
  const int width = padded_dim(q.dim);
  const int clusters = (width + gates * units - 1) / (gates * units);
  plan.blocks_per_group = clusters * gates;
  // Clusters do not straddle the chip's parts, whose sizes differ: of 132 multiprocessors an H200
  // fills 120 with clusters of four, 117 with clusters of three.
  const int idle[] = {0, 0, 2, 15, 12};
  const int usable = multiprocessor_count() - idle[gates];
  if (plan.blocks_per_group > usable) {
    plan.possible = false;
    plan.reason = "a head's R does not fit into the registers of the chip on the way back";
    return plan;
  }
  plan.groups_at_once = usable / plan.blocks_per_group;
  const int narrow_groups = (q.batch + 15) / 16 * q.heads;
  plan.row_tiles = units == 8 && narrow_groups > plan.groups_at_once ? 4 : 2;
  constexpr std::size_t most_scratch = std::size_t{128} << 20;
  const std::size_t slot =
      sizeof(std::uint16_t) * gates * q.heads * static_cast<std::size_t>(q.batch) * width;
  const std::size_t slots = std::max<std::size_t>(most_scratch / std::max<std::size_t>(slot, 1), 1);
  plan.steps_at_once =
      static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(q.time), slots));
  plan.scratch = slot * static_cast<std::size_t>(plan.steps_at_once);
  return plan;
}

void launch_fused_backward(const DeviceBackward& pass, const FusedPlan& plan, void* stream) {
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
