// The paper's quantised product as a program of the machine.
#pragma once

#include <string>
#include <vector>

#include "einkorn/compute/tilus/program.h"
#include "einkorn/compute/tilus/weight_layout.h"

namespace einkorn::tilus {

// Warps side by side (along m and n), and what each repeats of the 16 x 8 x 16 product of tensor
// cores: a block computes 16 warps_m repeat_m x 8 warps_n repeat_n outputs, 16 repeat_k of k at a
// time.
struct MatmulSchedule {
  int warps_m = 1;
  int warps_n = 4;
  int repeat_m = 1;
  int repeat_n = 8;
  int repeat_k = 1;
  int stages = 3;   // tiles of k in shared memory
  int split_k = 1;  // blocks that share a tile of outputs, which they add up in order

  std::int64_t block_m() const { return 16 * warps_m * repeat_m; }
  std::int64_t block_n() const { return 8 * warps_n * repeat_n; }
  std::int64_t block_k() const { return 16 * repeat_k; }
  // One warp's part of the block is one weight tile wide, so that a thread's bytes are all its own.
  WeightTile tile() const { return {16, 8 * repeat_n, true}; }
  std::string name() const;
};

struct MatmulTypes {
  NumberType weight;
  NumberType activation = NumberType("f16");  // or bf16
  std::int64_t group = 128;
  bool has_offsets = false;
};

// c[m, n] = a[m, k] (scale * weight + offset)[k, n]: parameters
//   a: ptr activation [m, k], w: ptr u8 [k / 16, n / tile_n, tile bytes] (change_layout with
//   tile()), s: ptr activation [k / group, n], o: the same (with offsets), c: ptr f32 [m, n],
//   flags: ptr i32 [ceil(m / block_m) n / block_n] of zeros (split_k > 1; left as zeros),
//   m: i32, n: i32, k: i32.
// Sums in f32, also over the blocks of a split; weights with offsets are rounded to the
// activation's type after scale and offset, others not at all. k must be a multiple of 16 repeat_k
// split_k, n of block_n. Throws InvalidArgument where the group is no multiple of block_k or a
// thread's bits are no whole bytes.
Program matmul_program(const MatmulTypes& types, const MatmulSchedule& schedule);

// Every schedule of the paper's search space, and narrower ones, that fits types and sizes.
std::vector<MatmulSchedule> matmul_schedules(const MatmulTypes& types, std::int64_t m,
                                             std::int64_t n, std::int64_t k);

}  // namespace einkorn::tilus
