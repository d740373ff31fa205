// The MARLIN file format, bit for bit: how integer codes, scales and 2:4 metadata lie in memory.
//
// A weight matrix W [K, N] multiplies activations from the right, C = A W. It is stored as codes q
// of 4 or 8 bits and one scale for each (group of rows, column): W = (q - zero) * scale, with zero
// = 2^(bits-1) unless zero points are given.
//
// Codes. W is cut into tiles of 16 x 16, four tiles side by side are a slab of 64 columns. A row of
// tiles is one row of the packed array; lane (n % 8) * 4 + (k % 8) / 2 of a slab owns the eight
// codes of a tile that one thread needs as fragment of mma.m16n8k16, numbered
// e = 4 (n%16 / 8) + 2 (k%16 / 8) + k % 2. In 4 bits they are one word with nibble order
// 0,2,4,6,1,3,5,7, in 8 bits two words with byte order 0,2,1,3.
//
// Frantar, Castro, Chen, Hoefler, Alistarh, "MARLIN: Mixed-Precision Auto-Regressive Parallel
// Inference on Large Language Models", 2024, arXiv 2408.11743; 8 bits as in vLLM's gptq_marlin.
#pragma once

#include <array>
#include <cstdint>

#include "einkorn/core/tensor.h"

namespace einkorn::marlin {

constexpr std::int64_t tile_size = 16;     // rows and columns of a tile
constexpr std::int64_t slab_columns = 64;  // columns that share a packed unit

// Where code (k, n) of a matrix with `columns` columns (a multiple of 64) lies.
struct CodePlace {
  std::int64_t row = 0;     // of the packed array
  std::int64_t column = 0;  // 32-bit word
  int shift = 0;            // bits
};
CodePlace code_place(std::int64_t k, std::int64_t n, int bits);

// codes [K, N] u8, each below 2^bits -> words i32, in 4 bits [K/16, 2 N], in 8 bits [K/16, 4 N]. K
// is filled up to a multiple of 16 and N to one of 64 with the code `padding`. Throws
// InvalidArgument for other dtypes, bits other than 4 and 8, codes too large.
at::Tensor pack_codes(const at::Tensor& codes, int bits, std::uint8_t padding);

// The inverse: the first `rows` rows and `columns` columns.
at::Tensor unpack_codes(const at::Tensor& words, int bits, std::int64_t rows, std::int64_t columns);

// Positions within a block of 64 scales: stored[i] = scale[order[i]], i + 8 j at 8 i + j. A thread
// reads the eight scales of its column of the tiles as one vector of 16 bytes.
std::array<std::int64_t, 64> grouped_scale_order();
// With one scale a column: blocks of 32, applied to the results.
std::array<std::int64_t, 32> column_scale_order();
// For 2:4 sparse weights with groups; sparse weights with one scale a column are not permuted.
std::array<std::int64_t, 64> sparse_scale_order();

enum class ScaleOrder { grouped, column, sparse, plain };

// scales [groups, N] -> [groups, N rounded up to 64] in the given order, zeros behind the end; and
// back, the first `columns` columns. Any dtype.
at::Tensor permute_scales(const at::Tensor& scales, ScaleOrder order);
at::Tensor unpermute_scales(const at::Tensor& scales, ScaleOrder order, std::int64_t columns);

// ---- 2:4 sparsity ----

// The four bits that say which two of four weights are kept: idx0 | idx1 << 2. Bit i of `flags` is
// set where weight i is kept; quads with fewer than two kept weights get a pair that covers them.
// Throws InvalidArgument for flags above 15. Of four kept weights the first two are taken, of three
// the official choice.
int quad_encoding(unsigned flags);

// The rows (k) that are kept: in each quad of rows of each column the two largest magnitudes, ties
// to the smaller row. weights [K, N] floating -> bool [K, N]; rows past K count as zeros.
at::Tensor prune_mask_2_4(const at::Tensor& weights);

// Kept codes and metadata of a matrix whose quads keep two codes each.
struct SparseCodes {
  at::Tensor words;     // i32 [K/32, 2 N] (8 bits: 4 N), K a multiple of 32, N of 64 after filling
  at::Tensor metadata;  // i16 [N, K/16], reordered as mma.sp reads it
};

// codes [K, N] u8, keep bool [K, N] with at most two in each quad. Padding as pack_codes.
SparseCodes pack_sparse_codes(const at::Tensor& codes, const at::Tensor& keep, int bits,
                              std::uint8_t padding);

// The dense codes [rows, columns] u8, with `zero_code` where nothing is kept.
at::Tensor unpack_sparse_codes(const SparseCodes& sparse, int bits, std::int64_t rows,
                               std::int64_t columns, std::uint8_t zero_code);

// Where the metadata of (row n, 16-row block c) lies in the flat array, for `rows` rows.
std::int64_t metadata_place(std::int64_t row, std::int64_t column, std::int64_t rows);

// For a slab of 16 kept rows x 64 columns: source index 16 k + n % 16 + 256 (n / 16) of each of the
// 1024 destinations, dense and sparse, before the packing into words.
std::array<std::int64_t, 1024> dense_code_order(int bits);
std::array<std::int64_t, 1024> sparse_code_order(int bits);

}  // namespace einkorn::marlin
