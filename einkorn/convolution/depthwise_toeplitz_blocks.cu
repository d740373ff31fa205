// Depthwise convolution of f16 and bf16 images in channels_last on the matrix units, kernels of 3,
// 5 and 7.
//
// A block of 4 rows x 2 columns of outputs of one channel is the product of its window of inputs,
// 8 columns wide, with a banded matrix of the taps. Two rows of that window are the 16 inner
// elements of one mma.m16n8k16, whose 16 rows are the windows of 16 "units": strips of image rows,
// two columns wide, that a warp walks down together. A pair of rows serves all blocks whose windows
// it is in: two or three, whose sums stay in registers.
//
// A warp owns eight channels, the 16 bytes of a pixel that one load brings: shared memory holds a
// plane of such chunks for each warp's channels, images go there and outputs leave without a change
// of order. The units of a load lie in different banks wherever two neighbours are in one row.
#include <cuda.h>

#include "einkorn/convolution/depthwise_toeplitz_blocks_device.cuh"

namespace einkorn::convolution::toeplitz {
namespace blocks {
namespace {

struct Arguments {
  Sides sides;
  Tiling tiling;
  TileLayout layout;
  Divider column_blocks;
  Divider strips;
  Grid grid;
  Source x;
  Target y;
  Parameters parameters;
  int pad_top;
  int pad_left;
  bool turned;  // taps in reverse order
};

struct Tile {
  std::int64_t image;
  int row;
  int column;
};

__device__ inline Tile tile_at(const Arguments& arguments, int index) {
  const Grid& grid = arguments.grid;
  const int column = index % grid.column_tiles;
  const int row = index / grid.column_tiles % grid.row_tiles;
  const int image = index / grid.column_tiles / grid.row_tiles;
  return {static_cast<std::int64_t>(image) * arguments.tiling.images, row * arguments.tiling.rows(),
          column * arguments.tiling.columns()};
}

struct Unit {
  int image;
  int strip;
  int column_block;
};

__device__ inline Unit unit_at(const Arguments& arguments, int index) {
  const int row = arguments.column_blocks.quotient(index);
  const int image = arguments.strips.quotient(row);
  return {image, row - image * arguments.strips.divisor,
          index - row * arguments.column_blocks.divisor};
}

// Barriers in shared memory that the copy engine reports to.
#if __CUDA_ARCH__ >= 900
__device__ inline std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ inline void initialise(std::uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}

__device__ inline void wait(std::uint64_t* barrier, int parity) {
  asm volatile(
      "{ .reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again; }" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Has the copy engine fetch a tile, with zeros outside the images. For one thread.
__device__ inline void fetch_tile(const CUtensorMap& map, const Arguments& arguments,
                                  const Tile& tile, int first_channel, uint4* shared,
                                  std::uint64_t* barrier) {
  const Tiling& tiling = arguments.tiling;
  const TileLayout& layout = arguments.layout;
  const int image_bytes = layout.image_pixels * tiling.planes * chunk_bytes;
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(image_bytes * tiling.images)
      : "memory");
  for (int image = 0; image < tiling.images; ++image) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared_address(shared) + image * image_bytes),
        "l"(&map), "r"(first_channel), "r"(tile.column - arguments.pad_left),
        "r"(tile.row - arguments.pad_top), "r"(static_cast<int>(tile.image) + image),
        "r"(shared_address(barrier))
        : "memory");
  }
}

__device__ inline void make_visible_to_copy_engine() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
#else  // compiled for older devices as well, where the kernel is never launched
__device__ inline void initialise(std::uint64_t*) {}
__device__ inline void wait(std::uint64_t*, int) {}
__device__ inline void fetch_tile(const CUtensorMap&, const Arguments&, const Tile&, int, uint4*,
                                  std::uint64_t*) {}
__device__ inline void make_visible_to_copy_engine() {}
#endif

// The first of the two columns of a window row that a lane reads; the other is two further on.
// Eight lanes, four of each of two neighbouring units, thus read eight neighbouring pixels.
__device__ inline int first_window_column(int lane) {
  const int quarter = lane % 4;
  return quarter + (quarter & 2);
}

// Padded taps of the tile's channels, zero for channels that do not exist. All loads are in flight
// at once: they are the first thing that a block waits for.
template <typename T, int kSize, bool kNarrow>
__device__ inline void load_taps(const Arguments& arguments, int first_channel, float* shared) {
  using Padded = PaddedTaps<kSize>;
  constexpr int at_once = (most_planes * chunk_channels * Padded::size + threads - 1) / threads;
  const int wanted = arguments.tiling.planes * chunk_channels * Padded::size;
  float values[at_once];
#pragma unroll
  for (int i = 0; i < at_once; ++i) {
    const int element = static_cast<int>(threadIdx.x) + i * threads;
    const int channel = element / Padded::size;
    const int row = element % Padded::size / Padded::columns - Padded::above;
    const int column = element % Padded::columns - Padded::left;
    const bool inside = element < wanted && row >= 0 && row < kSize && column >= 0 &&
                        column < kSize && first_channel + channel < arguments.sides.channels;
    const int tap = row * kSize + column;
    const std::int64_t index = static_cast<std::int64_t>(first_channel + channel) * kSize * kSize +
                               (arguments.turned ? kSize * kSize - 1 - tap : tap);
    values[i] = arguments.parameters.weight<T, kNarrow>(index, inside);
  }
#pragma unroll
  for (int i = 0; i < at_once; ++i) {
    const int element = static_cast<int>(threadIdx.x) + i * threads;
    if (element < wanted) shared[element] = values[i];
  }
}

// The taps as b of mma.m16n8k16 for each channel of a chunk and each pair of window rows.
// Output n of a block is in its row n / 2 and column n % 2.
template <typename T, int kSize>
struct Band {
  std::uint32_t words[chunk_channels][row_pairs<kSize>][2];

  __device__ void make(const float* taps) {
    using Padded = PaddedTaps<kSize>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float* of_lane = taps + (Padded::above - lane / 4 / block_columns) * Padded::columns +
                           Padded::left + first_window_column(lane) - lane / 4 % block_columns;
#pragma unroll
    for (int channel = 0; channel < chunk_channels; ++channel) {
#pragma unroll
      for (int row = 0; row < 2 * row_pairs<kSize>; ++row) {
        const float* at = of_lane + channel * Padded::size + row * Padded::columns;
        words[channel][row / 2][row % 2] = pack<T>(at[0], at[2]);
      }
    }
  }
};

// Where a lane reads its two places of a window row, in the units of either half.
struct WindowPlaces {
  const uint4* at[2][2];

  __device__ void advance(int chunks) {
#pragma unroll
    for (int i = 0; i < 4; ++i) at[i / 2][i % 2] += chunks;
  }
};

// Two rows of the windows of 16 units, eight channels of each pixel. [upper or lower half of the
// units][row and place].
struct Windows {
  uint4 chunks[2][4];

  __device__ void load(const WindowPlaces& places, int row, int row_chunks) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        chunks[half][i] = places.at[half][i % 2][(row + i / 2) * row_chunks];
      }
    }
  }

  // a of mma.m16n8k16 for channels 2 kWord and 2 kWord + 1.
  template <int kWord>
  __device__ void channels(std::uint32_t (&even)[4], std::uint32_t (&odd)[4]) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t first = word<kWord>(chunks[half][2 * row]);
        const std::uint32_t second = word<kWord>(chunks[half][2 * row + 1]);
        even[2 * row + half] = low_halves(first, second);
        odd[2 * row + half] = high_halves(first, second);
      }
    }
  }

  template <int kWord>
  __device__ static std::uint32_t word(const uint4& chunk) {
    return kWord == 0 ? chunk.x : kWord == 1 ? chunk.y : kWord == 2 ? chunk.z : chunk.w;
  }
};

// Outputs of a lane in a finished block: one row of two pixels, of a unit in each half.
struct Outputs {
  std::uint32_t words[2][block_columns][chunk_channels / 2];

  // From the sums of channels 2 kWord and 2 kWord + 1.
  template <typename T, int kWord>
  __device__ void set(const float (&even)[4], const float (&odd)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i / 2][i % 2][kWord] = pack<T>(even[i], odd[i]);
  }
};

// Where the outputs of one unit go.
struct alignas(16) UnitTarget {
  std::int64_t offset;  // of its first pixel
  int rows;             // that exist
  int columns;

  __device__ static UnitTarget of(const Arguments& arguments, const Tile& tile, int unit) {
    const Unit place = unit_at(arguments, unit);
    const std::int64_t image = tile.image + place.image;
    const int row = tile.row + place.strip * arguments.tiling.strip_rows;
    const int column = tile.column + place.column_block * block_columns;
    const bool exists = unit < arguments.tiling.unit_count() && image < arguments.sides.images;
    UnitTarget target;
    target.offset = image * arguments.y.image_bytes + row * arguments.y.row_bytes +
                    column * arguments.y.column_bytes;
    target.rows = exists ? min(arguments.tiling.strip_rows, arguments.sides.height - row) : 0;
    target.columns = arguments.sides.width - column;
    return target;
  }
};

// A warp's plane of a tile: where its chunks lie, and where its outputs go.
struct Plane {
  const UnitTarget* targets;  // of the units at hand
  int index;
  int plane_bits;  // 2^plane_bits planes
  std::int64_t channel;

  // A pixel's chunk, permuted as the copy engine does it.
  __device__ int chunk_of(int pixel) const {
    return (pixel << plane_bits) + (index ^ (pixel >> (3 - plane_bits) & ((1 << plane_bits) - 1)));
  }

  template <typename T>
  __device__ void store(const Arguments& arguments, int block, const Outputs& outputs) const {
    if (channel >= arguments.sides.channels) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = block * block_rows + lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const UnitTarget target = targets[half * units / 2 + lane / 4];
      if (row >= target.rows) continue;
#pragma unroll
      for (int column = 0; column < block_columns; ++column) {
        if (column >= target.columns) continue;
        const std::int64_t at = target.offset + row * arguments.y.row_bytes +
                                column * arguments.y.column_bytes + channel * 2;
        const auto& words = outputs.words[half][column];
        uint4 values = make_uint4(words[0], words[1], words[2], words[3]);
        if (arguments.y.addend != nullptr) {
          values =
              sum_of_chunks<T>(values, *reinterpret_cast<const uint4*>(arguments.y.addend + at));
        }
        *reinterpret_cast<uint4*>(arguments.y.data + at) = values;
      }
    }
  }
};

// The sums of the block that began at the last even step and of the one at the last odd step. A
// step is two pairs of window rows: a block begins with the first, and ends one or two steps on.
template <typename T, int kSize>
struct Walk {
  static constexpr int pairs = row_pairs<kSize>;
  // Whether a block ends with the first pair of a step, and how many steps after its first.
  static constexpr bool ends_early = pairs != 4;
  static constexpr int further_steps = pairs == 5 ? 2 : 1;

  const Band<T, kSize>& band;
  const float* biases;  // of the chunk's channels
  float sums[2][chunk_channels][4] = {};

  // The first pair of a step for channels 2 kWord and 2 kWord + 1.
  template <int kParity, bool kBegins, int kWord>
  __device__ void add_first(const Windows& windows, Outputs& outputs) {
    std::uint32_t a[2][4];
    windows.channels<kWord>(a[0], a[1]);
    float done[2][4];
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const auto& words = band.words[2 * kWord + side];
      float(&newest)[4] = sums[kParity][2 * kWord + side];
      float(&previous)[4] = sums[1 - kParity][2 * kWord + side];
      if constexpr (ends_early) {
        const float(&ending)[4] = further_steps == 2 ? newest : previous;
        multiply_16<T>(done[side], a[side], words[pairs - 1], ending[0], ending[1], ending[2],
                       ending[3]);
      }
      if constexpr (pairs > 3) multiply_16<T>(previous, a[side], words[2]);
      if constexpr (kBegins) {
        const float bias = biases[2 * kWord + side];
        multiply_16<T>(newest, a[side], words[0], bias, bias, bias, bias);
      }
    }
    if constexpr (ends_early) outputs.template set<T, kWord>(done[0], done[1]);
  }

  template <int kParity, bool kBegins, int kWord>
  __device__ void add_second(const Windows& windows, Outputs& outputs) {
    std::uint32_t a[2][4];
    windows.channels<kWord>(a[0], a[1]);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const auto& words = band.words[2 * kWord + side];
      if constexpr (pairs > 3) {
        multiply_16<T>(sums[1 - kParity][2 * kWord + side], a[side], words[3]);
      }
      if constexpr (kBegins) multiply_16<T>(sums[kParity][2 * kWord + side], a[side], words[1]);
    }
    if constexpr (!ends_early) {
      outputs.template set<T, kWord>(sums[1 - kParity][2 * kWord],
                                     sums[1 - kParity][2 * kWord + 1]);
    }
  }

  template <int kParity, bool kBegins>
  __device__ void add_first_pair(const Windows& windows, Outputs& outputs) {
    add_first<kParity, kBegins, 0>(windows, outputs);
    add_first<kParity, kBegins, 1>(windows, outputs);
    add_first<kParity, kBegins, 2>(windows, outputs);
    add_first<kParity, kBegins, 3>(windows, outputs);
  }

  template <int kParity, bool kBegins>
  __device__ void add_second_pair(const Windows& windows, Outputs& outputs) {
    add_second<kParity, kBegins, 0>(windows, outputs);
    add_second<kParity, kBegins, 1>(windows, outputs);
    add_second<kParity, kBegins, 2>(windows, outputs);
    add_second<kParity, kBegins, 3>(windows, outputs);
  }

  // Sums of blocks above the strip are formed and not stored: adding costs less than asking.
  template <int kParity, typename Store>
  __device__ void step(const WindowPlaces& places, int row_chunks, int step, Store store) {
    Windows windows;
    Outputs outputs;
    windows.load(places, 0, row_chunks);
    add_first_pair<kParity, true>(windows, outputs);
    if constexpr (ends_early) store(step - further_steps, outputs);
    windows.load(places, 2, row_chunks);
    add_second_pair<kParity, true>(windows, outputs);
    if constexpr (!ends_early) store(step - further_steps, outputs);
  }

  // The blocks that are left after the last step: no further ones begin.
  template <int kParity, typename Store>
  __device__ void finish(const WindowPlaces& places, int row_chunks, int step, Store store) {
    Windows windows;
    Outputs outputs;
    windows.load(places, 0, row_chunks);
    add_first_pair<kParity, false>(windows, outputs);
    if constexpr (ends_early) store(step - further_steps, outputs);
    if constexpr (pairs == 3) return;
    windows.load(places, 2, row_chunks);
    add_second_pair<kParity, false>(windows, outputs);
    if constexpr (pairs == 4) store(step - further_steps, outputs);
    if constexpr (pairs == 5) {
      windows.load(places, 4, row_chunks);
      add_first_pair<1 - kParity, false>(windows, outputs);
      store(step - 1, outputs);
    }
  }
};

template <typename T, int kSize>
__device__ inline void convolve_units(const Arguments& arguments, const uint4* tile, int first_unit,
                                      const Band<T, kSize>& band, const float* biases,
                                      const Plane& plane) {
  const TileLayout& layout = arguments.layout;
  const Tiling& tiling = arguments.tiling;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  WindowPlaces places;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int index = first_unit + lane / 4 + half * units / 2;
    // Units past the last one read the first.
    const Unit unit = unit_at(arguments, index < tiling.unit_count() ? index : 0);
    const int pixel = unit.image * layout.image_pixels +
                      unit.strip * tiling.strip_rows * layout.columns +
                      unit.column_block * block_columns + first_window_column(lane);
    places.at[half][0] = tile + plane.chunk_of(pixel);
    places.at[half][1] = tile + plane.chunk_of(pixel + 2);
  }
  const auto store = [&](int block, const Outputs& outputs) {
    if (block >= 0) plane.store<T>(arguments, block, outputs);
  };

  Walk<T, kSize> walk{band, biases};
  const int steps = tiling.blocks_down();
  const int row_chunks = layout.columns * tiling.planes;
  for (int step = 0;; step += 2) {
    if (step == steps) return walk.template finish<0>(places, row_chunks, step, store);
    walk.template step<0>(places, row_chunks, step, store);
    places.advance(block_rows * row_chunks);
    if (step + 1 == steps) return walk.template finish<1>(places, row_chunks, step + 1, store);
    walk.template step<1>(places, row_chunks, step + 1, store);
    places.advance(block_rows * row_chunks);
  }
}

template <typename T, int kSize>
__global__ void __launch_bounds__(threads, 1)
    blocks_kernel(const __grid_constant__ CUtensorMap map,
                  const __grid_constant__ Arguments arguments) {
  extern __shared__ __align__(1024) uint4 memory[];  // two tiles
  __shared__ float biases[warps][chunk_channels];
  __shared__ UnitTarget targets[warps][units];
  __shared__ std::uint64_t arrived[2];
  const Tiling& tiling = arguments.tiling;
  const int tile_chunks = arguments.layout.chunks;
  const int group = blockIdx.x % arguments.grid.channel_groups;
  const int first_channel = group * tiling.planes * chunk_channels;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int plane_bits = __ffs(tiling.planes) - 1;
  const int plane_index = warp & (tiling.planes - 1);
  const int channel = first_channel + plane_index * chunk_channels;

  int index = blockIdx.x / arguments.grid.channel_groups;
  const int stride = gridDim.x / arguments.grid.channel_groups;
  if (threadIdx.x == 0) {
    initialise(&arrived[0]);
    initialise(&arrived[1]);
    make_visible_to_copy_engine();
    if (index < arguments.grid.tiles) {
      fetch_tile(map, arguments, tile_at(arguments, index), first_channel, memory, &arrived[0]);
    }
  }
  // What follows the first tile is not in use yet.
  auto* taps = reinterpret_cast<float*>(memory + tile_chunks);
  if (arguments.parameters.narrow) {
    load_taps<T, kSize, true>(arguments, first_channel, taps);
  } else {
    load_taps<T, kSize, false>(arguments, first_channel, taps);
  }
  if (lane < chunk_channels) {
    biases[warp][lane] =
        arguments.parameters.bias<T>(channel + lane, channel < arguments.sides.channels);
  }
  __syncthreads();
  Band<T, kSize> band;
  band.make(taps + plane_index * chunk_channels * PaddedTaps<kSize>::size);
  make_visible_to_copy_engine();

  const Plane plane = {targets[warp], plane_index, plane_bits, channel};
  int current = 0;
  int parity = 0;
  for (; index < arguments.grid.tiles; index += stride) {
    wait(&arrived[current], parity);
    __syncthreads();
    if (threadIdx.x == 0 && index + stride < arguments.grid.tiles) {
      fetch_tile(map, arguments, tile_at(arguments, index + stride), first_channel,
                 memory + (1 - current) * tile_chunks, &arrived[1 - current]);
    }
    const Tile tile = tile_at(arguments, index);
    for (int unit = (warp >> plane_bits) * units; unit < tiling.unit_count();
         unit += (warps >> plane_bits) * units) {
      __syncwarp();
      if (lane < units) targets[warp][lane] = UnitTarget::of(arguments, tile, unit + lane);
      __syncwarp();
      convolve_units<T, kSize>(arguments, memory + current * tile_chunks, unit, band, biases[warp],
                               plane);
    }
    parity ^= current;
    current = 1 - current;
  }
}

bool has_copy_engine() {
  int device = 0;
  int major = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  return major >= 9;
}

// The images as the copy engine sees them. The driver's function is looked up, so that nothing
// links against the driver.
bool make_map(const DepthwiseProblem& problem, const ConstImages& x, const Plan& plan,
              CUtensorMap& map) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                                12000, cudaEnableDefault, &found);
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr) return false;
  const auto size = [](std::int64_t value) { return static_cast<cuuint64_t>(value); };
  const cuuint64_t sizes[4] = {size(problem.channels), size(problem.width), size(problem.height),
                               size(problem.images)};
  const cuuint64_t steps[3] = {size(x.strides.column * 2), size(x.strides.row * 2),
                               size(x.strides.image * 2)};
  const cuuint32_t box[4] = {static_cast<cuuint32_t>(plan.tiling.planes * chunk_channels),
                             static_cast<cuuint32_t>(plan.layout.columns),
                             static_cast<cuuint32_t>(plan.layout.rows), 1};
  const cuuint32_t ones[4] = {1, 1, 1, 1};
  const CUtensorMapSwizzle swizzle = plan.tiling.planes == 4   ? CU_TENSOR_MAP_SWIZZLE_64B
                                     : plan.tiling.planes == 2 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                               : CU_TENSOR_MAP_SWIZZLE_NONE;
  const CUtensorMapDataType type = problem.element == Element::f16
                                       ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return encode(&map, type, 4, const_cast<void*>(x.data), sizes, steps, box, ones,
                CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace
}  // namespace blocks

bool launch_blocks_convolution(const DepthwiseProblem& problem, Direction direction,
                               const void* weights, const void* biases, const ConstImages& x,
                               const void* addend, const Images& y, void* stream) {
  using namespace blocks;
  if (!has_copy_engine()) return false;
  const Plan plan = make_plan(problem);
  CUtensorMap map;
  if (plan.blocks == 0 || !make_map(problem, x, plan, map)) return false;
  Arguments arguments{};
  arguments.sides = sides_of(problem);
  arguments.tiling = plan.tiling;
  arguments.layout = plan.layout;
  arguments.column_blocks = divider(plan.tiling.column_blocks);
  arguments.strips = divider(plan.tiling.strips);
  arguments.grid = plan.grid;
  arguments.x = source_of(x);
  arguments.y = target_of(y, addend);
  arguments.parameters = {weights, biases, problem.narrow_weights};
  arguments.pad_top = static_cast<int>(problem.pad_top);
  arguments.pad_left = static_cast<int>(problem.pad_left);
  arguments.turned = direction == Direction::input_gradient;
  with_type(problem, [&](auto type) {
    const auto run = [&](auto size) {
      const auto kernel = &blocks_kernel<decltype(type), size.value>;
      const char* name = "depthwise toeplitz blocks";
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      plan.shared_bytes),
                 name);
      kernel<<<plan.blocks, threads, plan.shared_bytes, static_cast<cudaStream_t>(stream)>>>(
          map, arguments);
      check_launch(name);
    };
    switch (problem.kernel_height) {
      case 3:
        return run(std::integral_constant<int, 3>{});
      case 5:
        return run(std::integral_constant<int, 5>{});
      default:
        return run(std::integral_constant<int, 7>{});
    }
  });
  return true;
}

}  // namespace einkorn::convolution::toeplitz
