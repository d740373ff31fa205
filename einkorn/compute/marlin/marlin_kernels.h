// Raw CPU kernels: weights in slabs of 64 columns, eight rows a step.
//
// Words of a slab: for each eight successive rows k .. k+7 one word a column (4 bits, row k+p in
// bits 4p), or two (8 bits, k .. k+3 and k+4 .. k+7 as rows of 64 words). A slab is contiguous, so
// that one thread reads one stream. Scales and zero points of a slab are [groups, 64].
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "einkorn/core/isa.h"

namespace einkorn::marlin {

// Floating activations T. out[m, n] = sum_g scale_g sum_k a[m, k] (q[k, n] - zero_g).
template <typename T>
struct SlabProblem {
  const std::uint32_t* words = nullptr;
  const std::uint16_t* scales = nullptr;  // f16, or bf16
  bool scales_are_bf16 = false;
  const std::uint8_t* zeros = nullptr;  // null: 2^(bits-1)
  int bits = 4;
  std::int64_t octets = 0;        // ceil(K/8)
  std::int64_t group_octets = 0;  // of a group, at least 1
  std::int64_t groups = 0;
  const T* a = nullptr;  // [rows, 8 * octets], already multiplied by activation_scales
  std::int64_t rows = 0;
  const T* sums = nullptr;  // [rows, groups], of the activations of a group before that scaling
  T* out = nullptr;         // [rows, outputs]
  std::int64_t outputs = 0;
};

struct SlabKernels {
  // What row k + p of an octet is multiplied by beforehand. Powers of two: exact.
  std::array<float, 8> (*activation_scales)(int bits);
  // Slabs [begin, end).
  void (*multiply)(const SlabProblem<float>& problem, std::int64_t begin, std::int64_t end);
};

extern const KernelTable<const SlabKernels*> slab_kernels;

// The plain reference: sums in double, activations not scaled.
void multiply_plainly(const SlabProblem<float>& problem, std::int64_t begin, std::int64_t end);
void multiply_plainly(const SlabProblem<double>& problem, std::int64_t begin, std::int64_t end);

// Activations of 8 bits: a[m, k] ~ a_scale[m, g] * a8[m, k]. Integers throughout a group, so all
// versions give the same bits. Rows of an octet lie as two words, rows 0,2,4,6 and 1,3,5,7 (4 bits)
// or 0..3 and 4..7 (8 bits).
struct Int8Problem {
  SlabProblem<float> weights;            // a and sums unused
  const std::int8_t* a = nullptr;        // [rows, 8 * octets]
  const float* a_scales = nullptr;       // [rows, groups]
  const std::int32_t* a_sums = nullptr;  // [rows, groups]
};
using Int8Multiply = void(const Int8Problem& problem, std::int64_t begin, std::int64_t end);

// The best version at the level in force: VNNI (AVX-512), maddubs (AVX2, 4 bits), plain.
struct Int8Choice {
  Int8Multiply* multiply;
  const char* name;
};
Int8Choice int8_kernel(int bits);
void multiply_int8_plainly(const Int8Problem& problem, std::int64_t begin, std::int64_t end);

// One scale from its 16 bits.
float scale_value(std::uint16_t bits, bool is_bf16);

}  // namespace einkorn::marlin
