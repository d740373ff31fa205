// The tile sizes of the published fused kernel as a constraint problem (section 3.7 of the paper).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "einkorn/compute/flashrnn/constraints.h"

namespace einkorn::flashrnn {

// What a multiprocessor and a chip have; the defaults are an H100's and an H200's.
struct Hardware {
  std::int64_t threads_per_block = 1024;
  std::int64_t registers_per_multiprocessor = 65536;  // of 32 bits
  std::int64_t multiprocessors = 132;
  std::int64_t shared_memory = 232448;  // bytes a block can have
};

struct KernelShape {
  std::int64_t dim = 768;
  std::int64_t heads = 1;
  std::int64_t batch = 16;
  std::int64_t gates = 4;
  std::int64_t element_bytes = 2;  // 2 (bf16, f16) or 4
};

enum class KernelDirection { forward, backward };

// The constraints as text, for reading, for the solver and for a file. Throws InvalidArgument for
// shapes or hardware without units.
std::string kernel_constraints(KernelDirection direction, const KernelShape& shape,
                               const Hardware& hardware = {});

// In which order the paper's search chooses, and from which end.
std::vector<std::pair<std::string, ValueOrder>> kernel_order(KernelDirection direction);

// The first solutions; none where the kernel cannot be fused.
SolveResult solve_kernel(KernelDirection direction, const KernelShape& shape,
                         const Hardware& hardware = {}, std::int64_t count = 1);

}  // namespace einkorn::flashrnn
