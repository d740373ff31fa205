// Programs as CUDA C++, one kernel each, for NVRTC or nvcc. The text needs no header.
#pragma once

#include <string>

#include "einkorn/compute/tilus/program.h"

namespace einkorn::tilus {

struct CudaSource {
  std::string text;
  std::string kernel;             // extern "C" name; parameters in the program's order
  int threads = 32;               // of a block
  std::int64_t shared_bytes = 0;  // dynamic
};

// Registers become arrays of 32-bit words in which a thread's elements are packed in local order,
// so that a view is a copy of words. Transfers use the widest vectors that layouts, extents and
// assumptions allow; loads of 16-bit tiles from shared memory use ldmatrix and products mma.sync
// where the layouts divide by their atoms. Pointers must be aligned to 16 bytes. Needs compute
// capability 8.0. Throws InvalidArgument for what cannot be generated.
CudaSource generate_cuda(const CheckedProgram& checked);

}  // namespace einkorn::tilus
