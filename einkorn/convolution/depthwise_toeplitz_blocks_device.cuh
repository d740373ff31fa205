// How the blocks kernels of depthwise_toeplitz_blocks.cu cut images into tiles.
#pragma once

#include "einkorn/convolution/depthwise_toeplitz_device.cuh"

namespace einkorn::convolution::toeplitz::blocks {

inline constexpr int units = 16;  // of a warp at a time
inline constexpr int warps = 8;
inline constexpr int most_planes = 4;
inline constexpr int threads = 32 * warps;
inline constexpr int block_rows = 4;
inline constexpr int block_columns = 2;
inline constexpr int window_columns = 8;

// How one block of threads cuts the images: `images` images, each with `strips` strips of
// `strip_rows` output rows, each of `column_blocks` units, in `planes` chunks of channels.
struct Tiling {
  int planes;  // 1, 2 or 4
  int images;
  int strips;
  int strip_rows;
  int column_blocks;

  __host__ __device__ int rows() const { return strips * strip_rows; }
  __host__ __device__ int columns() const { return column_blocks * block_columns; }
  __host__ __device__ int unit_count() const { return images * strips * column_blocks; }
  __host__ __device__ int blocks_down() const { return (strip_rows + block_rows - 1) / block_rows; }
};

// Where pixels lie, in chunks: the planes of a pixel side by side, permuted as the copy engine does
// it so that the chunks of a plane in eight neighbouring pixels lie in different banks.
struct TileLayout {
  int rows;     // of one image, with its halo: so many that the last blocks' windows end inside
  int columns;  // a multiple of eight
  int image_pixels;
  int chunks;
};

// Pairs of window rows that the outputs of a block depend on.
template <int kSize>
constexpr int row_pairs = (block_rows + kSize - 1) / 2;

// The taps of one channel with zeros around them, so that every place of a window finds its tap.
template <int kSize>
struct PaddedTaps {
  static constexpr int above = block_rows - 1;
  static constexpr int left = block_columns - 1;
  static constexpr int rows = above + 2 * row_pairs<kSize>;
  static constexpr int columns = left + window_columns;
  static constexpr int size = rows * columns;
};

struct Plan {
  Tiling tiling;
  TileLayout layout;
  Grid grid;
  int shared_bytes;
  int blocks;
};

// The cheapest way found, remembered for each problem. No blocks: none fits.
Plan make_plan(const DepthwiseProblem& problem);

}  // namespace einkorn::convolution::toeplitz::blocks
