// Raw CPU kernels of y = x W for packed weights, on one thread.
//
// Weights lie in slabs of 16 columns. A slab is a sequence of blocks of 32 rows; a block has `bits`
// vectors of 16 words, and word w of lane i holds bits [32 w, 32 (w + 1)) of the 32 codes of column
// i, packed without gaps. So a code is one shift away from the low bits of a lane, two where it
// straddles words, whatever the width. Groups begin on a block: a group that is no multiple of 32
// rows is padded with code 0 rows, for which x is padded with zeros.
#pragma once

#include <array>
#include <cstdint>

#include "einkorn/core/isa.h"

namespace einkorn::tilus {

inline constexpr std::int64_t slab_columns = 16;
inline constexpr std::int64_t block_rows = 32;

// The codes of a type as the kernels read them.
struct CodeBook {
  int bits = 0;
  bool is_float = false;
  bool is_signed_integer = false;  // stored with the sign bit flipped, so that codes ascend
  int mantissa_bits = 0;
  std::array<float, 256> values{};  // of each stored code, repeated past 2^bits
  // value = slope[code >> mantissa_bits] * fraction[code] + base[code >> mantissa_bits], of floats.
  std::array<float, 128> slope{};
  std::array<float, 128> base{};
  std::array<float, 128> fraction{};
};

struct SlabMatmul {
  const CodeBook* book;
  const std::uint32_t* words;  // [slabs][groups][blocks][bits][16]
  const float* scales;         // [slabs][groups][16]
  const float* offsets;        // the same, or null
  const float* x;              // [rows][padded k], x_stride apart; rows of zeros up to 8 n
  const float* sums;           // [rows][groups] of x; where there are offsets
  float* out;                  // [rows][columns], rows out_stride apart
  std::int64_t rows;
  std::int64_t groups;
  std::int64_t blocks;  // of a group
  std::int64_t x_stride;
  std::int64_t out_stride;
  std::int64_t columns;  // of the whole matrix
};

// Computes slabs [begin, end). The order of the additions does not depend on the range.
using SlabMatmulKernel = void(const SlabMatmul& task, std::int64_t begin, std::int64_t end);

extern const KernelTable<SlabMatmulKernel*> slab_matmul_kernels;

}  // namespace einkorn::tilus
