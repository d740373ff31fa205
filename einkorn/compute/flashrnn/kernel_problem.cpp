#include "einkorn/compute/flashrnn/kernel_problem.h"

#include <algorithm>

#include "einkorn/core/error.h"

namespace einkorn::flashrnn {
namespace {

// The backward kernel is the forward one with gate and hidden exchanged, so its problem is written
// once, in words of what the blocks divide (outer: gate rows forward, hidden units backward) and of
// what a block sums over (inner).
struct Words {
  const char* outer_tile;   // tile of a matrix instruction along outer
  const char* inner_tile;   // along the sum
  const char* outer_count;  // blocks along outer
  const char* inner_count;  // blocks along the sum
  const char* outer_loop;   // tiles along outer that one warp takes in turn
  const char* inner_warps;  // warps along the sum
};

constexpr Words forward_words = {"TDG", "TDH", "RTCG", "RTCH", "WLCG", "WTCH"};
constexpr Words backward_words = {"TDH", "TDG", "RTCH", "RTCG", "WLCH", "WTCG"};

const Words& words_of(KernelDirection direction) {
  return direction == KernelDirection::forward ? forward_words : backward_words;
}

}  // namespace

std::string kernel_constraints(KernelDirection direction, const KernelShape& shape,
                               const Hardware& hardware) {
  require(shape.dim >= 1 && shape.heads >= 1 && shape.batch >= 1 && shape.gates >= 1,
          "kernel: expected dim, heads, batch and gates >= 1");
  require(shape.element_bytes == 2 || shape.element_bytes == 4,
          "kernel: expected elements of 2 or 4 bytes, got {}", shape.element_bytes);
  require(hardware.threads_per_block >= 4 && hardware.registers_per_multiprocessor >= 1 &&
              hardware.multiprocessors >= 1 && hardware.shared_memory > 1024,
          "kernel: expected hardware with threads, registers, multiprocessors and shared memory");
  const bool is_forward = direction == KernelDirection::forward;
  const Words& w = words_of(direction);
  const bool is_short = shape.element_bytes == 2;
  const std::int64_t batch_step = is_short ? 8 : 16;
  const std::int64_t batch = (shape.batch + batch_step - 1) / batch_step * batch_step;
  const std::int64_t outer = (is_forward ? shape.gates : 1) * shape.dim;
  const std::int64_t inner = (is_forward ? 1 : shape.gates) * shape.dim;
  const std::int64_t shared = std::min<std::int64_t>(hardware.shared_memory - 1024, 227000);
  constexpr std::int64_t pad = 8;
  constexpr std::int64_t sum_bytes = 4;
  std::string text;
  const auto add = [&text](std::string line) { text += line + ";\n"; };
  add(fmt::format("TDB == {}", is_short ? "[8, 16, 32]" : "16"));
  add(fmt::format("{} == {}", w.outer_tile, is_short ? "[8, 16, 32]" : "16"));
  add(fmt::format("TDB * {} == 256", w.outer_tile));
  add(fmt::format("{} == {}", w.inner_tile, is_short ? 16 : 8));
  add("WLCB <= 4");
  add("FULLB == BTCB * WTCB * WLCB");
  add(fmt::format("{} % FULLB * TDB == 0", batch));
  add(fmt::format("{1} * WTCB * {0} == NUMW * {2} * {3} * {4}", outer, w.inner_warps, w.outer_count,
                  w.outer_loop, w.outer_tile));
  add(fmt::format("NUMW * 32 <= {}", hardware.threads_per_block / 4));
  add(fmt::format("{} % {} * {} * {} == 0", inner, w.inner_count, w.inner_warps, w.inner_tile));
  add(fmt::format("{} % {} * {} * {} == 0", outer, w.outer_loop, w.outer_count, w.outer_tile));
  add("NBLK == RTCG * RTCH * BTCB * MTC");
  add(fmt::format("NBLK <= {}", hardware.multiprocessors));
  add(fmt::format("{} % MTC == 0", shape.heads));
  add("REGR * WTCB == TDH * TDG * CACHED * NUMW");
  add(fmt::format("{} * CACHED * {} * {} <= {}", w.inner_count, w.inner_warps, w.inner_tile,
                  inner));
  // Registers are counted in elements of two bytes in the paper, whatever the element.
  add(fmt::format("REGR + NUMW * TDB * {0} * WLCB * {2} + NUMW * TDB * {1} <= {3}", w.outer_tile,
                  w.inner_tile, sum_bytes / shape.element_bytes,
                  hardware.registers_per_multiprocessor * 4 / shape.element_bytes));
  add(fmt::format("{0} * BTCB + {1} * BTCB + 64 == SMR + {2} * REGR * BTCB * RTCG * RTCH",
                  shape.element_bytes * shape.gates * shape.dim * shape.dim,
                  shape.element_bytes * outer * pad, shape.element_bytes));
  add(fmt::format("SMS == {0} * {3} * {2} * FULLB * TDB + {1} * {3} * RTCG * RTCH * FULLB * TDB",
                  sum_bytes * outer, sum_bytes * pad, w.inner_count, w.inner_warps));
  add(fmt::format("MTC * SMR + MTC * SMS <= {} * NBLK", shared));
  return text;
}

std::vector<std::pair<std::string, ValueOrder>> kernel_order(KernelDirection direction) {
  const Words& w = words_of(direction);
  constexpr auto up = ValueOrder::smallest_first;
  constexpr auto down = ValueOrder::largest_first;
  return {{w.inner_tile, down},  {"TDB", down},         {w.outer_tile, down}, {"MTC", down},
          {w.outer_count, down}, {w.inner_count, up},   {"BTCB", down},       {"WLCB", down},
          {w.outer_loop, up},    {w.inner_warps, down}, {"WTCB", down},       {"CACHED", down}};
}

SolveResult solve_kernel(KernelDirection direction, const KernelShape& shape,
                         const Hardware& hardware, std::int64_t count) {
  SolveOptions options;
  options.order = kernel_order(direction);
  options.count = count;
  const std::string text = kernel_constraints(direction, shape, hardware);
  return ConstraintProblem::parse(text, "kernel constraints").solve(options);
}

}  // namespace einkorn::flashrnn
