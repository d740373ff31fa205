// Device kernels of the quantised cache. Addresses are device addresses; launches never wait.
#pragma once

#include <cstdint>

#include "einkorn/compute/kivi/kivi_kernels.h"

namespace einkorn::kivi {

// Quantises, stores, and brings the states up to date (in order: two launches when a sequence gets
// more than 64 tokens). f16 and bf16.
void launch_extend(const ExtendProblem& problem, void* stream);

// Head sizes: 32, 64, 96, 128, 192 and 256.
bool has_attend_kernel(const Geometry& geometry);

// How an attend call is cut: each sequence's pages into `splits` parts.
struct AttendPlan {
  int splits = 1;
  std::int64_t partial_floats = 0;  // workspace
  std::int64_t counters = 0;        // u32, zero at first; every call leaves them zero
};

// longest: the greatest length of a sequence, as far as known (it only steers the split).
AttendPlan plan_attend(const AttendProblem& problem, std::int64_t longest);

// Queries, out and cache have the cache's element type: f16 or bf16.
void launch_attend(const AttendProblem& problem, const AttendPlan& plan, float* partial,
                   std::uint32_t* counters, void* stream);

// ---- quantizer.h on the device; rows of `size` numbers, contiguous ----

// codes u32 [rows][size * bits / 32], scale and minimum [rows][size / group].
void launch_quantize_pack(Element element, std::int64_t rows, std::int64_t size, int bits,
                          int group, const void* x, std::uint32_t* codes, void* scale,
                          void* minimum, void* stream);
void launch_unpack_dequantize(Element element, std::int64_t rows, std::int64_t size, int bits,
                              int group, const std::uint32_t* codes, const void* scale,
                              const void* minimum, void* out, void* stream);

}  // namespace einkorn::kivi
