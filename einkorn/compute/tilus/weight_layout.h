// The order in which weights of any width lie in memory so that a warp loads them as whole bytes:
// a tile of weights, in the tensor core's register layout, seen as bytes (paper, weight layout
// transformation).
#pragma once

#include "einkorn/compute/tilus/layout.h"
#include "einkorn/core/tensor.h"

namespace einkorn::tilus {

// A tile of tile_k x tile_n weights that one warp holds.
struct WeightTile {
  std::int64_t tile_k = 16;
  std::int64_t tile_n = 16;
  // Of each pair of neighbours in k, which become one register of two 16-bit numbers, the first all
  // stand in the first half of a thread's bits and the second in the second half: then one shift
  // moves both codes of a pair to their place. Ours; the paper's order is that of codes().
  bool pairs_apart = false;

  // What each thread holds: local(tile_k / 16, tile_n / 8) * mma_b(), as codes; with pairs apart
  // the last of its local modes comes first.
  Layout codes() const;
  std::int64_t codes_per_thread() const { return tile_k * tile_n / 32; }
  std::int64_t bytes_per_thread(int bits) const { return codes_per_thread() * bits / 8; }
  // The bytes of one load of a thread: gcd(bytes_per_thread, 16).
  std::int64_t load_bytes(int bits) const;
  // The same registers as bytes, [32 bytes_per_thread]: local(outer).spatial(32).local(inner) with
  // inner = load_bytes.
  Layout bytes(int bits) const;

  // Throws InvalidArgument unless tile_k % 16 = 0, tile_n % 8 = 0, both are positive and a thread's
  // bits fill whole bytes.
  void check(int bits) const;
};

// The layout with its fastest local mode made the slowest.
Layout pairs_first(const Layout& layout);

// Row-major packed codes [rows, columns] (u8 [ceil(rows columns bits / 8)], on the CPU) in tiles:
// u8 [rows / tile_k, columns / tile_n, 32 bytes_per_thread]. Throws InvalidArgument where the tile
// does not divide the matrix or the bytes are too few or too many.
at::Tensor change_layout(const at::Tensor& packed, int bits, std::int64_t rows,
                         std::int64_t columns, const WeightTile& tile = {});

// The inverse.
at::Tensor restore_layout(const at::Tensor& tiles, int bits, const WeightTile& tile = {});

}  // namespace einkorn::tilus
