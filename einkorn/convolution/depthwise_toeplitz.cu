// Depthwise convolution of f16 and bf16 images in channels_last on the matrix units.
//
// For one channel and one kernel row, eight neighbouring outputs of an image row are the product of
// a window of 8 + size - 1 inputs with a banded Toeplitz matrix of the taps. Sixteen such windows,
// one a "unit" (a strip of image rows, eight columns wide), are the rows of one mma.m16n8k16: the
// matrix unit does size of them for 16 x 8 outputs. A warp owns two channels, walks down the rows
// of all 16 units at once and keeps the outputs of `size` rows in registers, so that each input is
// read from shared memory once.
//
// Shared memory holds a plane for each pair of channels (32-bit words: two channels of one pixel).
// A row is overwritten with outputs once no unit needs it.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <type_traits>

#include "einkorn/convolution/depthwise_launch_cuda.h"
#include "einkorn/convolution/predicated_load_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::convolution::toeplitz {
namespace {

constexpr int units = 16;
constexpr int block_columns = 8;
constexpr int channels_per_block = 16;
constexpr int planes = channels_per_block / 2;
constexpr int chunk_bytes = 16;  // eight channels of a pixel
constexpr int chunk_channels = 8;

// How one block of threads cuts the images: `images` images, each with `strips` strips of
// `strip_rows` output rows and `column_blocks` blocks of eight columns; at most 16 units in all.
struct Tiling {
  int images;
  int strips;
  int strip_rows;
  int column_blocks;

  __host__ __device__ int rows() const { return strips * strip_rows; }
  __host__ __device__ int columns() const { return column_blocks * block_columns; }
  __host__ __device__ int used_units() const { return images * strips * column_blocks; }
};

// Division of numbers below 2^16 by one divisor.
struct Divider {
  int divisor;
  unsigned reciprocal;  // 2^32 / divisor, rounded up

  __device__ int quotient(int number) const {
    return static_cast<int>(__umulhi(static_cast<unsigned>(number), reciprocal));
  }
};

// Where pixels lie in a plane, in words.
struct PlaneLayout {
  Divider rows;  // of one image, with its halo
  int columns;   // that are filled
  int row_words;
  int image_words;
  int plane_words;
};

struct Sides {
  std::int64_t images;
  std::int64_t channels;
  int height;
  int width;
};

struct Source {
  const char* data;
  std::int64_t image_bytes;
  std::int64_t row_bytes;
  std::int64_t column_bytes;
};

struct Grid {
  int channel_groups;
  int column_tiles;
  int row_tiles;
  int tiles;  // of one group of channels
};

struct Tile {
  std::int64_t image;
  int row;
  int column;
};

__device__ inline Tile tile_at(const Grid& grid, const Tiling& tiling, int index) {
  const int column = index % grid.column_tiles;
  const int row = index / grid.column_tiles % grid.row_tiles;
  const int image = index / grid.column_tiles / grid.row_tiles;
  return {static_cast<std::int64_t>(image) * tiling.images, row * tiling.rows(),
          column * tiling.columns()};
}

// The first word of a unit in a plane. Units past the last one repeat the first.
__device__ inline int unit_word(const Tiling& tiling, const PlaneLayout& layout, int unit) {
  if (unit >= tiling.used_units()) unit = 0;
  const int column_block = unit % tiling.column_blocks;
  const int strip = unit / tiling.column_blocks % tiling.strips;
  const int image = unit / tiling.column_blocks / tiling.strips;
  return image * layout.image_words + strip * tiling.strip_rows * layout.row_words +
         column_block * block_columns;
}

template <typename T>
__device__ inline std::uint32_t pack(float low, float high);
template <>
__device__ inline std::uint32_t pack<__half>(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(both);
}
template <>
__device__ inline std::uint32_t pack<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(both);
}

__device__ inline std::uint32_t low_halves(std::uint32_t a, std::uint32_t b) {
  return __byte_perm(a, b, 0x5410);
}
__device__ inline std::uint32_t high_halves(std::uint32_t a, std::uint32_t b) {
  return __byte_perm(a, b, 0x7632);
}

// sum += a * b with a [16, 16] and b [16, 8], the fragments as PTX lays them out.
template <typename T>
__device__ inline void multiply_16(float (&sum)[4], const std::uint32_t* a,
                                   const std::uint32_t* b) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// Likewise with a [16, 8] and b [8, 8].
template <typename T>
__device__ inline void multiply_8(float (&sum)[4], const std::uint32_t* a, const std::uint32_t* b) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  }
}

__device__ inline void copy_async(void* shared, const void* global, bool valid) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? chunk_bytes : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(bytes)
               : "memory");
}

__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// The chunks of a tile in the order of the staging buffer: image, row, column, chunk. Calls
// visit(place in that order, plane word, source, valid), for kRows rows of a warp at a time.
template <int kRows, typename Visit>
__device__ inline void for_each_chunk(const Tiling& tiling, const PlaneLayout& layout,
                                      const Sides& sides, const Source& source, const Tile& tile,
                                      int row_offset, int column_offset, int first_channel,
                                      Visit visit) {
  constexpr int columns_at_once = 16;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int rows = tiling.images * layout.rows.divisor;
  const int chunk = lane % 2;
  const int channel = first_channel + chunk * chunk_channels;
  const int first_x = tile.column + lane / 2 - column_offset;
  const char* data =
      source.data + tile.image * source.image_bytes + channel * 2 + first_x * source.column_bytes;
  for (int base = static_cast<int>(threadIdx.x) / 32; base < rows; base += kRows * planes) {
    for (int column = lane / 2; column < layout.columns; column += 4 * columns_at_once) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int row = base + i * planes;
        const int image = layout.rows.quotient(row);
        const int image_row = row - image * layout.rows.divisor;
        const int y = tile.row + image_row - row_offset;
        const bool has_row = channel < sides.channels && y >= 0 && y < sides.height &&
                             tile.image + image < sides.images;
        const char* from = data + image * source.image_bytes + y * source.row_bytes +
                           (column - lane / 2) * source.column_bytes;
        const int word = image * layout.image_words + image_row * layout.row_words + column;
        const int place = (row * layout.columns + column) * 2 + chunk;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (row >= rows || column + j * columns_at_once >= layout.columns) continue;
          const int x = first_x + column - lane / 2 + j * columns_at_once;
          visit(place + j * 2 * columns_at_once, word + j * columns_at_once,
                from + j * columns_at_once * source.column_bytes,
                has_row && x >= 0 && x < sides.width);
        }
      }
    }
  }
}

// The four words of a chunk to their planes; the lane's parity is the chunk.
__device__ inline void write_planes(std::uint32_t* shared, const PlaneLayout& layout, int word,
                                    uint4 values) {
  std::uint32_t* at = shared + threadIdx.x % 2 * 4 * layout.plane_words + word;
  at[0] = values.x;
  at[layout.plane_words] = values.y;
  at[2 * layout.plane_words] = values.z;
  at[3 * layout.plane_words] = values.w;
}

struct ConvolutionArguments {
  Sides sides;
  Tiling tiling;
  PlaneLayout layout;
  Divider output_rows;  // of one image
  Grid grid;
  Source x;
  char* y;
  const char* addend;  // as y lies in memory; null: none
  std::int64_t y_image_bytes;
  std::int64_t y_row_bytes;
  std::int64_t y_column_bytes;
  const float* weights;
  const float* biases;
  int pad_top;
  int pad_left;
  bool turned;  // taps in reverse order
};

// The taps of the block's channels, [channel][tap], zero for channels that do not exist.
template <int kSize>
__device__ inline void load_taps(const ConvolutionArguments& arguments, int first_channel,
                                 float* shared) {
  constexpr int taps = kSize * kSize;
  const std::int64_t first = static_cast<std::int64_t>(first_channel) * taps;
  const std::int64_t count = arguments.sides.channels * taps;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < channels_per_block * taps; i += planes * 32) {
    shared[i] = load_or_zero(arguments.weights + first + i, first + i < count);
  }
}

// One kernel row of a channel as a banded matrix: b of mma.m16n8k16 (two words), then of
// mma.m16n8k8 (one).
template <typename T, int kSize>
__device__ inline void make_band(const float* row, bool turned, std::uint32_t* band) {
  constexpr int words = kSize + block_columns - 1 > 16 ? 3 : 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int word = 0; word < words; ++word) {
    float pair[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int tap = lane % 4 * 2 + half + word * 8 - lane / 4;
      const bool inside = tap >= 0 && tap < kSize;
      const float value = row[inside ? (turned ? kSize - 1 - tap : tap) : 0];
      pair[half] = inside ? value : 0.0f;
    }
    band[word] = pack<T>(pair[0], pair[1]);
  }
}

// Windows of 16 (or 24) columns of all units in one row, for both channels of the pair.
template <int kWords>
__device__ inline void load_windows(const std::uint32_t* upper, const std::uint32_t* lower,
                                    std::uint32_t (&a)[2][2 * kWords]) {
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    const uint2 first = *reinterpret_cast<const uint2*>(upper + word * 8);
    const uint2 second = *reinterpret_cast<const uint2*>(lower + word * 8);
    a[0][2 * word] = low_halves(first.x, first.y);
    a[1][2 * word] = high_halves(first.x, first.y);
    a[0][2 * word + 1] = low_halves(second.x, second.y);
    a[1][2 * word + 1] = high_halves(second.x, second.y);
  }
}

// Rows above and below a strip meet sums that are never stored: adding to them costs less than
// asking.
template <typename T, int kSize>
__device__ inline void convolve_units(const ConvolutionArguments& arguments, std::uint32_t* plane,
                                      const std::uint32_t (&band)[kSize][2][3], float2 bias) {
  constexpr int words = kSize + block_columns - 1 > 16 ? 3 : 2;
  const Tiling& tiling = arguments.tiling;
  const int row_words = arguments.layout.row_words;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::uint32_t* upper = plane + unit_word(tiling, arguments.layout, lane / 4) + lane % 4 * 2;
  std::uint32_t* lower = plane + unit_word(tiling, arguments.layout, lane / 4 + 8) + lane % 4 * 2;
  const int steps = tiling.strip_rows + kSize - 1;
  float sums[kSize][2][4];
  for (int base = 0; base < steps; base += kSize) {
#pragma unroll
    for (int phase = 0; phase < kSize; ++phase) {
      const int step = base + phase;
      if (step >= steps) break;
      std::uint32_t a[2][2 * words];
      load_windows<words>(upper, lower, a);
#pragma unroll
      for (int channel = 0; channel < 2; ++channel) {
#pragma unroll
        for (int element = 0; element < 4; ++element) sums[phase][channel][element] = 0;
#pragma unroll
        for (int kernel_row = 0; kernel_row < kSize; ++kernel_row) {
          float(&sum)[4] = sums[(phase - kernel_row + kSize) % kSize][channel];
          multiply_16<T>(sum, a[channel], band[kernel_row][channel]);
          if constexpr (words == 3) {
            multiply_8<T>(sum, a[channel] + 4, band[kernel_row][channel] + 2);
          }
        }
      }
      if (step >= kSize - 1) {
        // Every lane has read this row by now, and no unit reads it again.
        const float(&done)[2][4] = sums[(phase + 1) % kSize];
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = pack<T>(done[0][i] + bias.x, done[1][i] + bias.y);
        __syncwarp();
        *reinterpret_cast<uint2*>(upper) = make_uint2(pairs[0], pairs[1]);
        *reinterpret_cast<uint2*>(lower) = make_uint2(pairs[2], pairs[3]);
      }
      upper += row_words;
      lower += row_words;
    }
  }
}

template <typename T>
__device__ inline std::uint32_t sum_of_pairs(std::uint32_t a, std::uint32_t b) {
  using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  const Pair sum = __hadd2(reinterpret_cast<const Pair&>(a), reinterpret_cast<const Pair&>(b));
  return reinterpret_cast<const std::uint32_t&>(sum);
}

// Outputs of the tile from the planes, where output row r lies in row r + size - 1.
template <typename T>
__device__ inline void store_tile(const ConvolutionArguments& arguments,
                                  const std::uint32_t* shared, const Tile& tile, int first_channel,
                                  int halo_rows) {
  constexpr int columns_at_once = 16;
  const Tiling& tiling = arguments.tiling;
  const PlaneLayout& layout = arguments.layout;
  const Sides& sides = arguments.sides;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int rows = tiling.images * arguments.output_rows.divisor;
  const int columns = min(tiling.columns(), sides.width - tile.column);
  const int channel = first_channel + lane % 2 * chunk_channels;
  if (channel >= sides.channels) return;
  const std::uint32_t* planes_of_chunk = shared + lane % 2 * 4 * layout.plane_words;
  const std::int64_t first = tile.image * arguments.y_image_bytes + channel * 2 +
                             (tile.column + lane / 2) * arguments.y_column_bytes;
  for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += planes) {
    const int image = arguments.output_rows.quotient(row);
    const int image_row = row - image * arguments.output_rows.divisor;
    const int y = tile.row + image_row;
    if (y >= sides.height || tile.image + image >= sides.images) continue;
    std::int64_t offset = first + image * arguments.y_image_bytes + y * arguments.y_row_bytes;
    const std::uint32_t* at = planes_of_chunk + image * layout.image_words +
                              (image_row + halo_rows) * layout.row_words + lane / 2;
#pragma unroll 4
    for (int column = lane / 2; column < columns; column += columns_at_once) {
      uint4 values = make_uint4(at[0], at[layout.plane_words], at[2 * layout.plane_words],
                                at[3 * layout.plane_words]);
      if (arguments.addend != nullptr) {
        const uint4 added = *reinterpret_cast<const uint4*>(arguments.addend + offset);
        values = make_uint4(sum_of_pairs<T>(values.x, added.x), sum_of_pairs<T>(values.y, added.y),
                            sum_of_pairs<T>(values.z, added.z), sum_of_pairs<T>(values.w, added.w));
      }
      *reinterpret_cast<uint4*>(arguments.y + offset) = values;
      offset += columns_at_once * arguments.y_column_bytes;
      at += columns_at_once;
    }
  }
}

template <typename T, int kSize>
__global__ void __launch_bounds__(planes * 32, kSize <= 7 ? 2 : 1)
    convolution_kernel(const __grid_constant__ ConvolutionArguments arguments) {
  extern __shared__ uint4 memory[];
  const PlaneLayout& layout = arguments.layout;
  const Tiling& tiling = arguments.tiling;
  uint4* staging = memory;
  auto* shared = reinterpret_cast<std::uint32_t*>(memory + tiling.images * layout.rows.divisor *
                                                               layout.columns * 2);
  const int group = blockIdx.x % arguments.grid.channel_groups;
  const int first_channel = group * channels_per_block;
  const int warp = threadIdx.x / 32;
  const int channel = first_channel + 2 * warp;

  const auto stage = [&](int index) {
    for_each_chunk<1>(tiling, layout, arguments.sides, arguments.x,
                      tile_at(arguments.grid, tiling, index), arguments.pad_top, arguments.pad_left,
                      first_channel, [&](int place, int, const char* from, bool valid) {
                        copy_async(staging + place, from, valid);
                      });
  };
  int index = blockIdx.x / arguments.grid.channel_groups;
  const int stride = gridDim.x / arguments.grid.channel_groups;
  if (index < arguments.grid.tiles) stage(index);

  // The planes are not in use yet.
  auto* taps = reinterpret_cast<float*>(shared);
  load_taps<kSize>(arguments, first_channel, taps);
  __syncthreads();
  std::uint32_t band[kSize][2][3];
#pragma unroll
  for (int kernel_row = 0; kernel_row < kSize; ++kernel_row) {
    const int row = arguments.turned ? kSize - 1 - kernel_row : kernel_row;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      make_band<T, kSize>(taps + ((2 * warp + side) * kSize + row) * kSize, arguments.turned,
                          band[kernel_row][side]);
    }
  }
  float2 bias = make_float2(0, 0);
  if (arguments.biases != nullptr && channel < arguments.sides.channels) {
    bias = make_float2(arguments.biases[channel], arguments.biases[channel + 1]);
  }

  for (; index < arguments.grid.tiles; index += stride) {
    const Tile tile = tile_at(arguments.grid, tiling, index);
    wait_for_copies();
    __syncthreads();
    for_each_chunk<1>(tiling, layout, arguments.sides, arguments.x, tile, arguments.pad_top,
                      arguments.pad_left, first_channel,
                      [&](int place, int word, const char*, bool) {
                        write_planes(shared, layout, word, staging[place]);
                      });
    __syncthreads();
    if (index + stride < arguments.grid.tiles) stage(index + stride);
    convolve_units<T, kSize>(arguments, shared + warp * layout.plane_words, band, bias);
    __syncthreads();
    store_tile<T>(arguments, shared, tile, first_channel, kSize - 1);
  }
}

struct WeightGradientArguments {
  Sides sides;
  Tiling tiling;
  PlaneLayout x_layout;
  PlaneLayout dy_layout;
  Grid grid;
  Source x;
  Source dy;
  float* partial_sums;  // [parts, channels, size * size + 1], the bias last
  int pad_top;
  int pad_left;
};

template <typename T>
constexpr std::uint32_t pair_of_ones = std::is_same_v<T, __half> ? 0x3c003c00u : 0x3f803f80u;

// Gradients of kRows kernel rows of two channels in the registers of a warp. For each kernel row,
// element [m][n] sums input column m times output-gradient column n over all units and rows; the
// gradient of tap k is the sum of the elements with m - n = k.
template <typename T, int kSize, int kRows>
struct TapSums {
  static constexpr int column_tiles = (kSize + block_columns - 1 + 15) / 16;
  float taps[kRows][2][column_tiles][4] = {};
  float bias[2][4] = {};

  // Units in the order of mma's inner index, so that the lanes of a load hit different banks.
  static __device__ int unit_of(int element) { return threadIdx.x % 4 + 4 * element; }

  __device__ void add_tile(const WeightGradientArguments& arguments, const std::uint32_t* x_plane,
                           const std::uint32_t* dy_plane, int first_kernel_row) {
    const Tiling& tiling = arguments.tiling;
    const int lane = threadIdx.x % 32;
    const std::uint32_t* x[4];
    const std::uint32_t* dy[4];
    std::uint32_t mask[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = x_plane + unit_word(tiling, arguments.x_layout, unit_of(i)) + lane / 4 +
             first_kernel_row * arguments.x_layout.row_words;
      dy[i] = dy_plane + unit_word(tiling, arguments.dy_layout, unit_of(i)) + lane / 4;
      mask[i] = unit_of(i) < tiling.used_units() ? 0xffffffffu : 0u;
    }
    // Rows of dy; zero above and below the strip, so that every product may be added.
    std::uint32_t recent[kRows][2][2] = {};
    // No further than the kernel's last row, where the planes end.
    const int steps = tiling.strip_rows + min(kRows, kSize - first_kernel_row) - 1;
    for (int base = 0; base < steps; base += kRows) {
#pragma unroll
      for (int phase = 0; phase < kRows; ++phase) {
        const int step = base + phase;
        if (step >= steps) break;
        load_gradients(dy, mask, step * arguments.dy_layout.row_words, step < tiling.strip_rows,
                       recent[phase]);
        if (first_kernel_row == 0) {
          const std::uint32_t ones[4] = {pair_of_ones<T>, pair_of_ones<T>, pair_of_ones<T>,
                                         pair_of_ones<T>};
          multiply_16<T>(bias[0], ones, recent[phase][0]);
          multiply_16<T>(bias[1], ones, recent[phase][1]);
        }
#pragma unroll
        for (int tile = 0; tile < column_tiles; ++tile) {
          std::uint32_t a[2][4];
          load_inputs(x, step * arguments.x_layout.row_words, tile, a);
#pragma unroll
          for (int row = 0; row < kRows; ++row) {
            const int slot = (phase - row + kRows) % kRows;
            multiply_16<T>(taps[row][0][tile], a[0], recent[slot][0]);
            multiply_16<T>(taps[row][1][tile], a[1], recent[slot][1]);
          }
        }
      }
    }
  }

  __device__ static void load_gradients(const std::uint32_t* const (&dy)[4],
                                        const std::uint32_t (&mask)[4], int offset, bool inside,
                                        std::uint32_t (&b)[2][2]) {
#pragma unroll
    for (int word = 0; word < 2; ++word) {
      const std::uint32_t first = inside ? dy[2 * word][offset] & mask[2 * word] : 0;
      const std::uint32_t second = inside ? dy[2 * word + 1][offset] & mask[2 * word + 1] : 0;
      b[0][word] = low_halves(first, second);
      b[1][word] = high_halves(first, second);
    }
  }

  __device__ static void load_inputs(const std::uint32_t* const (&x)[4], int offset, int tile,
                                     std::uint32_t (&a)[2][4]) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const int column = tile * 16 + word % 2 * 8;
      if (column >= kSize + block_columns - 1) {
        a[0][word] = a[1][word] = 0;
        continue;
      }
      const std::uint32_t first = x[word / 2 * 2][offset + column];
      const std::uint32_t second = x[word / 2 * 2 + 1][offset + column];
      a[0][word] = low_halves(first, second);
      a[1][word] = high_halves(first, second);
    }
  }

  // Sums along the diagonals by way of [columns][8] floats of shared memory.
  __device__ void store(const WeightGradientArguments& arguments, float* diagonal, int channel,
                        int first_kernel_row, std::int64_t part) const {
    const int lane = threadIdx.x % 32;
    for (int side = 0; side < 2; ++side) {
      if (channel + side >= arguments.sides.channels) return;
      float* out = arguments.partial_sums +
                   (part * arguments.sides.channels + channel + side) * (kSize * kSize + 1);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
#pragma unroll
        for (int tile = 0; tile < column_tiles; ++tile) {
#pragma unroll
          for (int element = 0; element < 4; ++element) {
            diagonal[(tile * 16 + lane / 4 + element / 2 * 8) * block_columns + lane % 4 * 2 +
                     element % 2] =
                side == 0 ? taps[row][0][tile][element] : taps[row][1][tile][element];
          }
        }
        __syncwarp();
        if (lane < kSize && first_kernel_row + row < kSize) {
          float sum = 0;
          for (int n = 0; n < block_columns; ++n) sum += diagonal[(n + lane) * block_columns + n];
          out[(first_kernel_row + row) * kSize + lane] = sum;
        }
        __syncwarp();
      }
      if (first_kernel_row == 0) {
        // All rows of the bias product are equal.
        float sum = side == 0 ? bias[0][0] + bias[0][1] : bias[1][0] + bias[1][1];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane == 0) out[kSize * kSize] = sum;
      }
    }
  }
};

// Blocks that share the kernel rows of a large kernel among them; each reads the tiles.
constexpr int kernel_row_groups(int size) {
  return size <= 9 ? 1 : 2;
}

template <typename T, int kSize>
__global__ void __launch_bounds__(planes * 32, kSize <= 7 ? 2 : 1)
    weight_gradient_kernel(const __grid_constant__ WeightGradientArguments arguments) {
  extern __shared__ uint4 memory[];
  constexpr int row_groups = kernel_row_groups(kSize);
  constexpr int kernel_rows = (kSize + row_groups - 1) / row_groups;
  auto* x_planes = reinterpret_cast<std::uint32_t*>(memory);
  std::uint32_t* dy_planes = x_planes + planes * arguments.x_layout.plane_words;
  const int first_channel = blockIdx.x % arguments.grid.channel_groups * channels_per_block;
  const int plane = threadIdx.x / 32;
  const int block = blockIdx.x / arguments.grid.channel_groups;
  const int first_kernel_row = block % row_groups * kernel_rows;
  const int part = block / row_groups;
  const int parts = gridDim.x / arguments.grid.channel_groups / row_groups;

  TapSums<T, kSize, kernel_rows> sums;
  for (int index = part; index < arguments.grid.tiles; index += parts) {
    const Tile tile = tile_at(arguments.grid, arguments.tiling, index);
    const auto load = [&](std::uint32_t* to, const PlaneLayout& layout, const Source& source,
                          int row_offset, int column_offset) {
      for_each_chunk<2>(arguments.tiling, layout, arguments.sides, source, tile, row_offset,
                        column_offset, first_channel,
                        [&](int, int word, const char* from, bool valid) {
                          write_planes(to, layout, word,
                                       load_or_zero(reinterpret_cast<const uint4*>(from), valid));
                        });
    };
    __syncthreads();
    load(x_planes, arguments.x_layout, arguments.x, arguments.pad_top, arguments.pad_left);
    load(dy_planes, arguments.dy_layout, arguments.dy, 0, 0);
    __syncthreads();
    sums.add_tile(arguments, x_planes + plane * arguments.x_layout.plane_words,
                  dy_planes + plane * arguments.dy_layout.plane_words, first_kernel_row);
  }
  __syncthreads();
  constexpr int diagonal_floats = TapSums<T, kSize, kernel_rows>::column_tiles * 16 * block_columns;
  sums.store(arguments, reinterpret_cast<float*>(memory) + plane * diagonal_floats,
             first_channel + 2 * plane, first_kernel_row, part);
}

Divider divider(int divisor) {
  return {divisor, static_cast<unsigned>(((1ull << 32) + static_cast<unsigned>(divisor) - 1) /
                                         static_cast<unsigned>(divisor))};
}

// Loads of four neighbouring units that share a bank.
int bank_conflicts(const Tiling& tiling, const PlaneLayout& layout) {
  int conflicts = 0;
  for (int first = 0; first < units; first += 4) {
    bool used[4] = {};
    for (int unit = first; unit < first + 4; ++unit) {
      const int u = unit < tiling.used_units() ? unit : 0;
      const int word =
          u % tiling.column_blocks * block_columns +
          u / tiling.column_blocks % tiling.strips * tiling.strip_rows * layout.row_words +
          u / tiling.column_blocks / tiling.strips * layout.image_words;
      bool& bank = used[word / block_columns % 4];
      conflicts += bank ? 1 : 0;
      bank = true;
    }
  }
  return conflicts;
}

PlaneLayout plane_layout(const Tiling& tiling, int halo_rows, int halo_columns) {
  PlaneLayout best{};
  int least = units + 1;
  for (int row_padding = 0; row_padding < 32; row_padding += 8) {
    for (int image_padding = 0; image_padding < 32; image_padding += 8) {
      PlaneLayout layout{};
      layout.rows = divider(tiling.rows() + halo_rows);
      layout.columns = tiling.columns() + halo_columns;
      layout.row_words = layout.columns + row_padding;
      layout.image_words = layout.rows.divisor * layout.row_words + image_padding;
      // An odd multiple of four: the two chunks of a pixel then go to different banks.
      layout.plane_words = (tiling.images * layout.image_words + 7) / 8 * 8 + 4;
      const int conflicts = bank_conflicts(tiling, layout);
      if (conflicts < least) {
        least = conflicts;
        best = layout;
      }
    }
  }
  return best;
}

struct Plan {
  Tiling tiling;
  PlaneLayout x_layout;
  PlaneLayout dy_layout;  // of the weight gradient
  Grid grid;
  int shared_bytes;
  int parts;  // of a channel group's tiles, each done by one block
  int blocks;
};

std::int64_t divided_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// The matrix units read whole windows of 16 or 24 (weight gradient: 16 or 32) columns.
int halo_columns_of(int size, bool weight_gradient) {
  if (size + block_columns - 1 <= 16) return 16 - block_columns;
  return (weight_gradient ? 32 : 24) - block_columns;
}

// Cycles of one tile, roughly: instructions of eight warps at 2.4 a cycle, or matrix products.
double tile_cycles(const Tiling& tiling, const PlaneLayout& layout, int size) {
  const double conflicts = bank_conflicts(tiling, layout);
  const double matrix_steps = size <= 9 ? 1 : 1.5;
  const double steps = tiling.strip_rows + size - 1;
  const double products = planes * steps * 2 * size * matrix_steps;
  const double inputs = static_cast<double>(tiling.images) * layout.rows.divisor * layout.columns;
  const double outputs = static_cast<double>(tiling.images) * tiling.rows() * tiling.columns();
  const double instructions = products + planes * (35 * steps + 300) + 25 * inputs / 16 +
                              15 * outputs / 16 + 10.0 * tiling.images * layout.rows.divisor;
  return std::max(instructions / 2.4, products * 1.8) + 0.5 * planes * steps * conflicts + 800;
}

Plan search_plan(const DepthwiseProblem& problem, bool weight_gradient) {
  const int size = static_cast<int>(problem.kernel_height);
  const int height = static_cast<int>(problem.height);
  const int width = static_cast<int>(problem.width);
  const int blocks_per_multiprocessor = size <= 7 ? 2 : 1;
  const int most_shared = blocks_per_multiprocessor == 2 ? 110 * 1024 : 220 * 1024;
  const std::int64_t slots =
      static_cast<std::int64_t>(multiprocessor_count()) * blocks_per_multiprocessor;
  Plan best{};
  double least = 0;
  for (int column_blocks = 1; column_blocks <= block_columns; ++column_blocks) {
    for (int strips = 1; strips * column_blocks <= units; ++strips) {
      for (int strip_rows = 1; strip_rows <= 16; ++strip_rows) {
        if (strips > 1 && (strips - 1) * strip_rows >= height) break;
        Plan plan{};
        const bool whole = strips * strip_rows >= height && column_blocks * block_columns >= width;
        const int images = whole ? static_cast<int>(std::min<std::int64_t>(
                                       problem.images, units / (strips * column_blocks)))
                                 : 1;
        plan.tiling = {images, strips, strip_rows, column_blocks};
        plan.x_layout = plane_layout(plan.tiling, size - 1, halo_columns_of(size, weight_gradient));
        int words = planes * plan.x_layout.plane_words;
        if (weight_gradient) {
          plan.dy_layout = plane_layout(plan.tiling, 0, 0);
          words += planes * plan.dy_layout.plane_words;
          // The sums along diagonals need their room as well.
          words = std::max(words, planes * 32 * block_columns);
        } else {
          // The taps pass through the planes.
          words = std::max(words, channels_per_block * size * size);
          words += images * plan.x_layout.rows.divisor * plan.x_layout.columns * planes;
        }
        plan.shared_bytes = words * 4;
        if (plan.shared_bytes > most_shared) continue;
        plan.grid.channel_groups =
            static_cast<int>(divided_up(problem.channels, channels_per_block));
        plan.grid.column_tiles = static_cast<int>(divided_up(width, plan.tiling.columns()));
        plan.grid.row_tiles = static_cast<int>(divided_up(height, plan.tiling.rows()));
        plan.grid.tiles = static_cast<int>(divided_up(problem.images, images)) *
                          plan.grid.column_tiles * plan.grid.row_tiles;
        const std::int64_t copies = weight_gradient ? kernel_row_groups(size) : 1;
        plan.parts = static_cast<int>(std::clamp<std::int64_t>(
            slots / (plan.grid.channel_groups * copies), 1, plan.grid.tiles));
        plan.blocks = static_cast<int>(plan.parts * plan.grid.channel_groups * copies);
        const double rounds = static_cast<double>(divided_up(plan.grid.tiles, plan.parts)) *
                              static_cast<double>(divided_up(plan.blocks, slots));
        const double cycles = rounds * tile_cycles(plan.tiling, plan.x_layout, size);
        if (least == 0 || cycles < least) {
          least = cycles;
          best = plan;
        }
      }
    }
  }
  return best;
}

// The search takes longer than many a convolution: its results are kept.
Plan make_plan(const DepthwiseProblem& problem, bool weight_gradient) {
  using Key = std::array<std::int64_t, 7>;
  static std::mutex mutex;
  static std::map<Key, Plan> plans;
  const Key key = {problem.images,        problem.channels,      problem.height,
                   problem.width,         problem.kernel_height, weight_gradient ? 1 : 0,
                   multiprocessor_count()};
  const std::lock_guard lock(mutex);
  const auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  return plans[key] = search_plan(problem, weight_gradient);
}

Sides sides_of(const DepthwiseProblem& problem) {
  return {problem.images, problem.channels, static_cast<int>(problem.height),
          static_cast<int>(problem.width)};
}

Source source_of(const ConstImages& images) {
  return {static_cast<const char*>(images.data), images.strides.image * 2, images.strides.row * 2,
          images.strides.column * 2};
}

template <typename Kernel, typename Arguments>
void launch(Kernel kernel, int blocks, int threads, int shared_bytes, const Arguments& arguments,
            void* stream, const char* name) {
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
      name);
  kernel<<<blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments);
  check_launch(name);
}

// Calls run with the element type and the kernel size as compile-time constants.
template <typename Run>
void with_type_and_size(const DepthwiseProblem& problem, Run run) {
  const auto with_size = [&](auto type) {
    switch (problem.kernel_height) {
      case 3:
        return run(type, std::integral_constant<int, 3>{});
      case 5:
        return run(type, std::integral_constant<int, 5>{});
      case 7:
        return run(type, std::integral_constant<int, 7>{});
      case 9:
        return run(type, std::integral_constant<int, 9>{});
      case 11:
        return run(type, std::integral_constant<int, 11>{});
      default:
        return run(type, std::integral_constant<int, 13>{});
    }
  };
  if (problem.element == Element::f16) {
    with_size(__half{});
  } else {
    with_size(__nv_bfloat16{});
  }
}

}  // namespace

bool accepts(const DepthwiseProblem& problem, const ConstImages& x, const ConstImages& y) {
  const auto aligned = [](const ConstImages& images) {
    const ImageStrides& strides = images.strides;
    return strides.channel == 1 && strides.image % chunk_channels == 0 &&
           strides.row % chunk_channels == 0 && strides.column % chunk_channels == 0 &&
           reinterpret_cast<std::uintptr_t>(images.data) % chunk_bytes == 0;
  };
  const std::int64_t size = problem.kernel_height;
  const bool half = problem.element == Element::f16 || problem.element == Element::bf16;
  return half && problem.layout == ImageLayout::channels_last && size == problem.kernel_width &&
         size % 2 == 1 && size >= 3 && size <= 13 && problem.channels % chunk_channels == 0 &&
         problem.height < (1 << 24) && problem.width < (1 << 24) && aligned(x) && aligned(y);
}

void launch_convolution(const DepthwiseProblem& problem, Direction direction, const float* weights,
                        const float* biases, const ConstImages& x, const void* addend,
                        const Images& y, void* stream) {
  const Plan plan = make_plan(problem, false);
  ConvolutionArguments arguments{};
  arguments.sides = sides_of(problem);
  arguments.tiling = plan.tiling;
  arguments.layout = plan.x_layout;
  arguments.output_rows = divider(plan.tiling.rows());
  arguments.grid = plan.grid;
  arguments.x = source_of(x);
  arguments.y = static_cast<char*>(y.data);
  arguments.addend = static_cast<const char*>(addend);
  arguments.y_image_bytes = y.strides.image * 2;
  arguments.y_row_bytes = y.strides.row * 2;
  arguments.y_column_bytes = y.strides.column * 2;
  arguments.weights = weights;
  arguments.biases = biases;
  arguments.pad_top = static_cast<int>(problem.pad_top);
  arguments.pad_left = static_cast<int>(problem.pad_left);
  arguments.turned = direction == Direction::input_gradient;
  with_type_and_size(problem, [&](auto type, auto size) {
    launch(&convolution_kernel<decltype(type), size.value>, plan.blocks, planes * 32,
           plan.shared_bytes, arguments, stream, "depthwise toeplitz convolution");
  });
}

int weight_gradient_parts(const DepthwiseProblem& problem) {
  return make_plan(problem, true).parts;
}

void launch_weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                            const ConstImages& dy, float* partial_sums, void* stream) {
  const Plan plan = make_plan(problem, true);
  WeightGradientArguments arguments{};
  arguments.sides = sides_of(problem);
  arguments.tiling = plan.tiling;
  arguments.x_layout = plan.x_layout;
  arguments.dy_layout = plan.dy_layout;
  arguments.grid = plan.grid;
  arguments.x = source_of(x);
  arguments.dy = source_of(dy);
  arguments.partial_sums = partial_sums;
  arguments.pad_top = static_cast<int>(problem.pad_top);
  arguments.pad_left = static_cast<int>(problem.pad_left);
  with_type_and_size(problem, [&](auto type, auto size) {
    launch(&weight_gradient_kernel<decltype(type), size.value>, plan.blocks, planes * 32,
           plan.shared_bytes, arguments, stream, "depthwise toeplitz weight gradient");
  });
}

}  // namespace einkorn::convolution::toeplitz
