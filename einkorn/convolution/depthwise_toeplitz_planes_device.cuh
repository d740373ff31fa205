// Tiles of images in shared memory as planes of channel pairs, 32-bit words of two channels of one
// pixel, in which a warp walks down the rows of 16 "units" at once: strips of image rows, eight
// columns wide.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "einkorn/convolution/depthwise_toeplitz_device.cuh"

namespace einkorn::convolution::toeplitz {

inline constexpr int units = 16;
inline constexpr int block_columns = 8;
inline constexpr int channels_per_block = 16;
inline constexpr int planes = channels_per_block / 2;

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

// Where pixels lie in a plane, in words.
struct PlaneLayout {
  Divider rows;  // of one image, with its halo
  int columns;   // that are filled
  int row_words;
  int image_words;
  int plane_words;
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

// Blocks that share the kernel rows of a large kernel among them; each reads the tiles.
constexpr int kernel_row_groups(int size) {
  return size <= 9 ? 1 : 2;
}

// Loads of four neighbouring units that share a bank.
inline int bank_conflicts(const Tiling& tiling, const PlaneLayout& layout) {
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

inline PlaneLayout plane_layout(const Tiling& tiling, int halo_rows, int halo_columns) {
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

// The matrix units read whole windows of 16 or 24 (weight gradient: 16 or 32) columns.
inline int halo_columns_of(int size, bool weight_gradient) {
  if (size + block_columns - 1 <= 16) return 16 - block_columns;
  return (weight_gradient ? 32 : 24) - block_columns;
}

// Cycles of one tile, roughly: instructions of eight warps at 2.4 a cycle, or matrix products.
inline double tile_cycles(const Tiling& tiling, const PlaneLayout& layout, int size) {
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

inline Plan search_plan(const DepthwiseProblem& problem, bool weight_gradient) {
  const int size = static_cast<int>(problem.kernel_height);
  const int height = static_cast<int>(problem.height);
  const int width = static_cast<int>(problem.width);
  const int blocks_per_multiprocessor = size <= 7 ? 2 : 1;
  const int most_shared =
      std::min(blocks_per_multiprocessor == 2 ? 110 * 1024 : 220 * 1024, most_shared_bytes());
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
inline Plan make_plan(const DepthwiseProblem& problem, bool weight_gradient) {
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

// Calls run(type, size) with the element type and the kernel size as compile-time constants.
template <typename Run>
void with_type_and_size(const DepthwiseProblem& problem, Run run) {
  with_type(problem, [&](auto type) {
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
  });
}

}  // namespace einkorn::convolution::toeplitz
