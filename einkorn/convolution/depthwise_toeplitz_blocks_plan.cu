// Chooses the tiles of the blocks kernels by a rough count of cycles.
#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "einkorn/convolution/depthwise_toeplitz_blocks_device.cuh"

namespace einkorn::convolution::toeplitz::blocks {
namespace {

TileLayout tile_layout(const Tiling& tiling, int size) {
  TileLayout layout{};
  layout.rows =
      (tiling.strips - 1) * tiling.strip_rows + tiling.blocks_down() * block_rows + size - 1;
  layout.columns = (tiling.columns() + window_columns - block_columns + 7) / 8 * 8;
  layout.image_pixels = layout.rows * layout.columns;
  layout.chunks = (tiling.images * layout.image_pixels * tiling.planes + 63) / 64 * 64;
  return layout;
}

// Cycles of one tile, roughly: the larger of its arithmetic, its traffic with the second-level
// cache and its share of the memory's.
double tile_cycles(const Tiling& tiling, const TileLayout& layout, int size) {
  const int rounds = (tiling.unit_count() + units - 1) / units;
  const int warps_a_plane = warps / tiling.planes;
  const double walks = (rounds + warps_a_plane - 1) / warps_a_plane;
  const double arithmetic = walks * ((tiling.blocks_down() + 1.0) * 100 * row_pairs<7> + 400);
  const double chunks = static_cast<double>(tiling.planes) * tiling.images;
  const double read = chunks * layout.rows * layout.columns * chunk_bytes;
  const double inputs =
      chunks * (tiling.rows() + (size - 1) / 2.0) * tiling.columns() * chunk_bytes;
  const double written = chunks * tiling.rows() * tiling.columns() * chunk_bytes;
  return std::max({arithmetic, (read + written) / 32, (inputs + written) / 18}) + 600;
}

// The kernel's other shared memory, and what alignment takes.
constexpr int of_the_kernel = 4096;

struct PlanSearch {
  explicit PlanSearch(const DepthwiseProblem& given)
      : problem(given),
        size(static_cast<int>(given.kernel_height)),
        slots(multiprocessor_count()),
        most_shared(most_shared_bytes() - of_the_kernel) {}

  void consider(const Tiling& tiling) {
    Plan plan{};
    plan.tiling = tiling;
    plan.layout = tile_layout(tiling, size);
    const int tile_chunks = plan.layout.chunks;
    // The taps pass through what follows the first tile.
    const int taps_bytes = tiling.planes * chunk_channels * PaddedTaps<7>::size * 4;
    plan.shared_bytes = tile_chunks * chunk_bytes + std::max(tile_chunks * chunk_bytes, taps_bytes);
    if (plan.shared_bytes > most_shared || plan.layout.columns > 256 || plan.layout.rows > 256)
      return;
    const auto height = static_cast<int>(problem.height);
    const auto width = static_cast<int>(problem.width);
    Grid& grid = plan.grid;
    grid.channel_groups =
        static_cast<int>(divided_up(problem.channels, tiling.planes * chunk_channels));
    grid.column_tiles = static_cast<int>(divided_up(width, tiling.columns()));
    grid.row_tiles = static_cast<int>(divided_up(height, tiling.rows()));
    grid.tiles = static_cast<int>(divided_up(problem.images, tiling.images)) * grid.column_tiles *
                 grid.row_tiles;
    const auto parts =
        static_cast<int>(std::clamp<std::int64_t>(slots / grid.channel_groups, 1, grid.tiles));
    plan.blocks = parts * grid.channel_groups;
    const double rounds = static_cast<double>(divided_up(grid.tiles, parts)) *
                          static_cast<double>(divided_up(plan.blocks, slots));
    const double cycles = (rounds + 0.5) * tile_cycles(tiling, plan.layout, size);
    if (least == 0 || cycles < least) {
      least = cycles;
      best = plan;
    }
  }

  const DepthwiseProblem& problem;
  int size;
  std::int64_t slots;
  int most_shared;
  double least = 0;
  Plan best{};
};

Plan search_plan(const DepthwiseProblem& problem) {
  PlanSearch search(problem);
  const auto height = static_cast<int>(problem.height);
  const auto width = static_cast<int>(problem.width);
  // One plane, half a sector of memory, only where there are no more channels.
  const int fewest = problem.channels > chunk_channels ? 2 : 1;
  for (int planes = fewest; planes <= most_planes; planes *= 2) {
    if (planes > 1 && planes * chunk_channels >= 2 * problem.channels) break;
    for (int column_blocks = 1; column_blocks <= 32; ++column_blocks) {
      if ((column_blocks - 1) * block_columns >= width) break;
      for (int strips = 1; strips <= 8; ++strips) {
        for (int strip_rows = 1; strip_rows <= 32; ++strip_rows) {
          if ((strips - 1) * strip_rows >= height || strip_rows >= height + block_rows) break;
          const bool whole =
              strips * strip_rows >= height && column_blocks * block_columns >= width;
          const auto most_images =
              whole ? static_cast<int>(std::min<std::int64_t>(problem.images, 32)) : 1;
          for (int images = 1; images <= most_images; images *= 2) {
            search.consider({planes, images, strips, strip_rows, column_blocks});
          }
        }
      }
    }
  }
  return search.best;
}

}  // namespace

// The search takes longer than many a convolution: its results are kept.
Plan make_plan(const DepthwiseProblem& problem) {
  using Key = std::array<std::int64_t, 6>;
  static std::mutex mutex;
  static std::map<Key, Plan> plans;
  const Key key = {problem.images, problem.channels,      problem.height,
                   problem.width,  problem.kernel_height, multiprocessor_count()};
  const std::lock_guard lock(mutex);
  const auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  return plans[key] = search_plan(problem);
}

}  // namespace einkorn::convolution::toeplitz::blocks
