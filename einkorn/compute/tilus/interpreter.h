// Runs programs on the CPU, block by block and statement by statement, exactly and slowly: the
// oracle of everything that is generated. It finds what a GPU hides: races in shared memory, reads
// of what was never written, copies used before they are waited for, replicas that disagree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "einkorn/compute/tilus/program.h"

namespace einkorn::tilus {

// Memory that a pointer parameter points to: elements of the parameter's type, little-endian.
using Buffer = std::span<std::byte>;

// One a parameter, in order: an i32 or a buffer.
using Argument = std::variant<std::int64_t, Buffer>;

struct InterpretOptions {
  bool check_races = true;
  bool shuffle_blocks = false;  // else in order, x fastest
  std::uint64_t seed = 0;
  std::int64_t most_steps = 100'000'000;  // statements, over all blocks
};

struct RunStatistics {
  std::int64_t blocks = 0;
  std::int64_t steps = 0;  // statements
  // Bytes that threads moved; copies count on both sides.
  std::int64_t global_read = 0;
  std::int64_t global_written = 0;
  std::int64_t shared_read = 0;
  std::int64_t shared_written = 0;
  double dot_flops = 0;
  std::vector<std::string> printed;
};

// Semantics beyond the program's text (the paper leaves them open):
// - floats are computed in f32 and rounded once to the tensor's type, i32 wraps around; casts to
//   integers round half to even and saturate, casts to small floats saturate, to f16 and bf16 they
//   go to infinity; a dot sums in double and rounds once.
// - loads of global elements outside their view are 0, such stores are dropped; in shared memory
//   both are errors.
// - a block that waits for a semaphore lets others run; if all wait, that is an error.
// Throws InvalidArgument, with the program, the block and the statement, for anything that a
// correct program does not do, and for arguments that do not fit the parameters.
RunStatistics interpret(const CheckedProgram& checked, std::span<const Argument> arguments,
                        const InterpretOptions& options = {});

}  // namespace einkorn::tilus
