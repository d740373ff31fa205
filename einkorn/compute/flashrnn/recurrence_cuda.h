// Device kernels of the recurrence: raw pointers, a stream, no synchronisation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "einkorn/compute/flashrnn/cell.h"

namespace einkorn::flashrnn {

enum class DeviceType { f32, f64, bf16, f16 };

// What both directions of a pass agree on.
struct DeviceSequence {
  Cell cell = Cell::lstm;
  DeviceType type = DeviceType::f32;
  bool wide_states = false;  // 16-bit tensors, but states in f32
  int batch = 0;
  int time = 0;
  int heads = 0;
  int dim = 0;
  const std::int64_t* lengths = nullptr;  // [batch] on the device; null: all run to `time`
  bool reverse = false;
  double forward_clip = 0;  // infinity for none, as the next
  double gradient_clip = 0;
  bool gradient_cut = false;
};

// Tensors of `type` unless said otherwise; "sums" are f64 for f64, else f32. All dense but input.
struct DeviceForward {
  DeviceSequence sequence;
  const void* input = nullptr;  // [B, T, G_w, N, D] with these strides in elements, and 1 for D
  std::ptrdiff_t input_batch = 0;
  std::ptrdiff_t input_time = 0;
  std::ptrdiff_t input_gate = 0;
  std::ptrdiff_t input_head = 0;
  const void* recurrent = nullptr;  // [G_r, N, D, D]
  const void* bias = nullptr;       // sums, [G_t, N, D]
  void* carry = nullptr;            // sums, [S, B, N, D]: initial states in, last states out
  void* states = nullptr;           // [S, B, T, N, D]
  void* gates = nullptr;            // [B, T, G_saved, N, D]; null: not wanted
  void* scratch = nullptr;          // as many bytes as the plan says
};

struct DeviceBackward {
  DeviceSequence sequence;
  const void* transposed = nullptr;  // R^T: [G_r, N, D_in, D_out]
  const void* initial = nullptr;     // sums, [S, B, N, D]
  const void* states = nullptr;
  const void* gates = nullptr;
  const void* gradient_states = nullptr;  // [S, B, T, N, D] of the states' type; null: zero
  const void* gradient_last = nullptr;    // sums, [S, B, N, D]; null: zero
  void* input_gradient = nullptr;         // [B, T, G_w, N, D]
  void* recurrent_gradient = nullptr;     // [B, T, G_r, N, D]; null where it is input_gradient
  void* carry = nullptr;                  // sums, [S, B, N, D]: zero in, gradient of initial out
  void* scratch = nullptr;
};

// One launch a step: any type and D. The scratch holds the fed-back operand of two steps in sums.
std::size_t alternating_forward_scratch(const DeviceSequence& sequence);
std::size_t alternating_backward_scratch(const DeviceSequence& sequence);
void launch_alternating_forward(const DeviceForward& pass, void* stream);
void launch_alternating_backward(const DeviceBackward& pass, void* stream);

// One launch for many steps: R in registers, blocks of one head exchange what feeds back through
// L2, where a value is its own flag: the scratch is filled with a NaN that no kernel writes.
// bf16 and f16 only.
struct FusedPlan {
  bool possible = false;
  const char* reason = "";   // why not
  int pairs_per_warp = 0;    // groups of 32 terms whose R a warp keeps
  int row_tiles = 0;         // tiles of 8 batch rows a block takes
  int blocks_per_group = 0;  // a group: one head, one tile of rows
  int groups_at_once = 0;    // so that all blocks are resident
  int steps_at_once = 0;     // so that the scratch stays small
  std::size_t scratch = 0;   // bytes
};
FusedPlan plan_fused_forward(const DeviceSequence& sequence);
FusedPlan plan_fused_backward(const DeviceSequence& sequence);
void launch_fused_forward(const DeviceForward& pass, const FusedPlan& plan, void* stream);
void launch_fused_backward(const DeviceBackward& pass, const FusedPlan& plan, void* stream);

}  // namespace einkorn::flashrnn
