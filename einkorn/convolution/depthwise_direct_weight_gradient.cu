// Gradients of depthwise taps and biases by fused multiply-adds: threads sum the taps of a strip of
// the image in registers.
#include "einkorn/convolution/depthwise_direct_device.cuh"

namespace einkorn::convolution::direct {
namespace {

template <typename T>
struct WeightGradientArguments : Arguments<T> {
  const T* dy;
  ImageStrides dy_strides;
  Accumulator<T>* partial_sums;  // [parts, channels, taps + 1], the bias last
  int parts;
  int planes_at_once;
  int column_groups;
  int row_groups;
};

constexpr int strip_columns = 4;
constexpr int strip_rows = 16;

// Gradients of kRows x kTaps taps in registers, summed down strips of the image.
template <typename A, int kRows, int kTaps>
struct TapSums {
  A taps[kRows][kTaps] = {};
  A bias = 0;

  // load_gradients(row, values) for output rows, load_inputs(row, values) for the input rows that
  // meet output row `row` at the first of the kernel rows.
  template <typename LoadGradients, typename LoadInputs>
  __device__ void add_strip(LoadGradients load_gradients, LoadInputs load_inputs) {
    A recent[kRows][strip_columns];  // of dy
    for (int base = 0; base < strip_rows + kRows - 1; base += kRows) {
#pragma unroll
      for (int phase = 0; phase < kRows; ++phase) {
        const int step = base + phase;
        if (step >= strip_rows + kRows - 1) break;
        if (step < strip_rows) {
          load_gradients(step, recent[phase]);
#pragma unroll
          for (int c = 0; c < strip_columns; ++c) bias += recent[phase][c];
        }
        A window[strip_columns + kTaps - 1];
        load_inputs(step, window);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (step - r < 0 || step - r >= strip_rows) continue;
          const A(&gradients)[strip_columns] = recent[(phase - r + kRows) % kRows];
#pragma unroll
          for (int t = 0; t < kTaps; ++t) {
#pragma unroll
            for (int c = 0; c < strip_columns; ++c) taps[r][t] += gradients[c] * window[c + t];
          }
        }
      }
    }
  }
};

// Which taps a block sums: rows [first_row, first_row + kRows), columns [first_tap, first_tap +
// kTaps).
struct TapBlock {
  int first_row;
  int first_tap;
};

__device__ inline TapBlock tap_block(int index, int rows, int taps, int kernel_width) {
  const int column_blocks = (kernel_width + taps - 1) / taps;
  return {index / column_blocks * rows, index % column_blocks * taps};
}

template <typename T, int kRows, int kTaps>
__global__ void __launch_bounds__(threads_per_block)
    channels_last_weight_gradient(const __grid_constant__ WeightGradientArguments<T> arguments) {
  using A = Accumulator<T>;
  extern __shared__ unsigned char memory[];
  A* shared = reinterpret_cast<A*>(memory);  // [warp][tap][lane]
  const int lane = threadIdx.x % lanes;
  const int warp = threadIdx.x / lanes;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * lanes + lane;
  const TapBlock block = tap_block(blockIdx.y, kRows, kTaps, arguments.kernel_width);
  const int part = blockIdx.z;

  const int column_strips = (arguments.width + strip_columns - 1) / strip_columns;
  const int row_strips = (arguments.height + strip_rows - 1) / strip_rows;
  const std::int64_t strips = arguments.images * column_strips * row_strips;
  TapSums<A, kRows, kTaps> sums;
  if (channel < arguments.channels) {
    for (std::int64_t strip = static_cast<std::int64_t>(part) * warps_per_block + warp;
         strip < strips; strip += static_cast<std::int64_t>(arguments.parts) * warps_per_block) {
      const int first_column = static_cast<int>(strip % column_strips) * strip_columns;
      const int first_row = static_cast<int>(strip / column_strips % row_strips) * strip_rows;
      const std::int64_t image = strip / column_strips / row_strips;
      const T* x = arguments.x + image * arguments.x_strides.image + channel;
      const T* dy = arguments.dy + image * arguments.dy_strides.image + channel;
      const auto load = [&](const T* from, const ImageStrides& strides, int row, int column,
                            auto& values) {
        const bool has_row = row >= 0 && row < arguments.height;
        const T* at = from + row * strides.row;
#pragma unroll
        for (int i = 0; i < static_cast<int>(sizeof(values) / sizeof(A)); ++i) {
          const bool inside = has_row && column + i >= 0 && column + i < arguments.width;
          values[i] = widen<T>(load_or_zero(at + (column + i) * strides.column, inside));
        }
      };
      sums.add_strip(
          [&](int row, A(&values)[strip_columns]) {
            load(dy, arguments.dy_strides, first_row + row, first_column, values);
          },
          [&](int row, A(&values)[strip_columns + kTaps - 1]) {
            load(x, arguments.x_strides, first_row + row + block.first_row - arguments.pad_top,
                 first_column + block.first_tap - arguments.pad_left, values);
          });
    }
  }
  constexpr int elements = kRows * kTaps + 1;
#pragma unroll
  for (int i = 0; i < elements; ++i) {
    shared[(warp * elements + i) * lanes + lane] =
        i < kRows * kTaps ? sums.taps[i / kTaps][i % kTaps] : sums.bias;
  }
  __syncthreads();
  if (channel >= arguments.channels) return;
  const int taps = arguments.kernel_height * arguments.kernel_width;
  A* out = arguments.partial_sums + (part * arguments.channels + channel) * (taps + 1);
  for (int i = warp; i < elements; i += warps_per_block) {
    A sum = 0;
    for (int w = 0; w < warps_per_block; ++w) sum += shared[(w * elements + i) * lanes + lane];
    const int row = block.first_row + i / kTaps;
    const int column = block.first_tap + i % kTaps;
    if (i == kRows * kTaps) {
      if (blockIdx.y == 0) out[taps] = sum;
    } else if (row < arguments.kernel_height && column < arguments.kernel_width) {
      out[row * arguments.kernel_width + column] = sum;
    }
  }
}

template <typename A>
__device__ inline A sum_of_warp(A value) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value += __shfl_down_sync(0xffffffffu, value, distance);
  }
  return value;
}

template <typename T, int kRows, int kTaps>
__global__ void __launch_bounds__(planar_threads)
    planar_weight_gradient(const __grid_constant__ WeightGradientArguments<T> arguments) {
  using A = Accumulator<T>;
  extern __shared__ uint4 aligned_memory[];
  A* memory = reinterpret_cast<A*>(aligned_memory);
  const std::int64_t channel = blockIdx.x;
  const TapBlock block = tap_block(blockIdx.y, kRows, kTaps, arguments.kernel_width);
  const int part = blockIdx.z;

  const int tile_width = arguments.column_groups * strip_columns;
  const int tile_height = arguments.row_groups * strip_rows;
  const int x_row_size = tile_width + round_up(kTaps, 4) + 4;
  const int x_rows = tile_height + kRows - 1;
  const int plane_size = x_rows * x_row_size + tile_height * tile_width;
  const int threads_per_plane = arguments.column_groups * arguments.row_groups;
  const int slot = threadIdx.x / threads_per_plane;
  const int thread = threadIdx.x % threads_per_plane;
  const bool has_slot = slot < arguments.planes_at_once;
  A* x_tile = memory + slot * plane_size;
  A* dy_tile = x_tile + x_rows * x_row_size;
  const A* x_strip = x_tile + thread / arguments.column_groups * strip_rows * x_row_size +
                     thread % arguments.column_groups * strip_columns;
  const A* dy_strip = dy_tile + thread / arguments.column_groups * strip_rows * tile_width +
                      thread % arguments.column_groups * strip_columns;

  const int column_tiles = (arguments.width + tile_width - 1) / tile_width;
  const int row_tiles = (arguments.height + tile_height - 1) / tile_height;
  const std::int64_t tiles = arguments.images * column_tiles * row_tiles;
  const std::int64_t stride = static_cast<std::int64_t>(arguments.parts) * arguments.planes_at_once;
  TapSums<A, kRows, kTaps> sums;
  for (std::int64_t first = static_cast<std::int64_t>(part) * arguments.planes_at_once;
       first < tiles; first += stride) {
    const std::int64_t tile = first + slot;
    const bool active = has_slot && tile < tiles;
    const int column = static_cast<int>(tile % column_tiles) * tile_width;
    const int row = static_cast<int>(tile / column_tiles % row_tiles) * tile_height;
    const std::int64_t image = tile / column_tiles / row_tiles;
    __syncthreads();
    if (active) {
      load_plane<T>(
          x_tile, x_rows, x_row_size,
          arguments.x + image * arguments.x_strides.image + channel * arguments.x_strides.channel,
          arguments.x_strides, row + block.first_row - arguments.pad_top,
          column + block.first_tap - arguments.pad_left, arguments.height, arguments.width, thread,
          threads_per_plane);
      load_plane<T>(dy_tile, tile_height, tile_width,
                    arguments.dy + image * arguments.dy_strides.image +
                        channel * arguments.dy_strides.channel,
                    arguments.dy_strides, row, column, arguments.height, arguments.width, thread,
                    threads_per_plane);
    }
    __syncthreads();
    if (active) {
      sums.add_strip(
          [&](int strip_row, A(&values)[strip_columns]) {
            load_vectors(dy_strip + strip_row * tile_width, values);
          },
          [&](int strip_row, A(&values)[strip_columns + kTaps - 1]) {
            load_vectors(x_strip + strip_row * x_row_size, values);
          });
    }
  }
  __syncthreads();
  constexpr int elements = kRows * kTaps + 1;
  const int lane = threadIdx.x % lanes;
  const int warp = threadIdx.x / lanes;
#pragma unroll
  for (int i = 0; i < elements; ++i) {
    const A sum = sum_of_warp(i < kRows * kTaps ? sums.taps[i / kTaps][i % kTaps] : sums.bias);
    if (lane == 0) memory[warp * elements + i] = sum;
  }
  __syncthreads();
  const int taps = arguments.kernel_height * arguments.kernel_width;
  A* out = arguments.partial_sums + (part * arguments.channels + channel) * (taps + 1);
  for (int i = threadIdx.x; i < elements; i += planar_threads) {
    A sum = 0;
    for (int w = 0; w < planar_threads / lanes; ++w) sum += memory[w * elements + i];
    const int row = block.first_row + i / kTaps;
    const int column = block.first_tap + i % kTaps;
    if (i == kRows * kTaps) {
      if (blockIdx.y == 0) out[taps] = sum;
    } else if (row < arguments.kernel_height && column < arguments.kernel_width) {
      out[row * arguments.kernel_width + column] = sum;
    }
  }
}

// Kernel rows and taps that a thread keeps for a kernel of compiled width (0: any).
template <int kTaps>
constexpr int gradient_rows = kTaps == 0   ? 4
                              : kTaps <= 7 ? kTaps
                                           : 3;
template <int kTaps>
constexpr int gradient_taps = kTaps == 0 ? runtime_chunk : kTaps;

template <int kTaps>
int tap_blocks(const DepthwiseProblem& problem) {
  return static_cast<int>(divided_up(problem.kernel_height, gradient_rows<kTaps>) *
                          divided_up(problem.kernel_width, gradient_taps<kTaps>));
}

struct PlanarSplit {
  int column_groups;
  int row_groups;
  int planes_at_once;
  std::size_t plane_bytes;
};

template <typename A, int kTaps>
PlanarSplit planar_split(const DepthwiseProblem& problem) {
  PlanarSplit split{};
  split.column_groups =
      static_cast<int>(std::min<std::int64_t>(16, divided_up(problem.width, strip_columns)));
  split.row_groups =
      static_cast<int>(std::min<std::int64_t>(4, divided_up(problem.height, strip_rows)));
  const int tile_width = split.column_groups * strip_columns;
  const int tile_height = split.row_groups * strip_rows;
  split.plane_bytes =
      sizeof(A) * (static_cast<std::size_t>(tile_height + gradient_rows<kTaps> - 1) *
                       (tile_width + round_up(gradient_taps<kTaps>, 4) + 4) +
                   static_cast<std::size_t>(tile_height) * tile_width);
  split.planes_at_once = static_cast<int>(std::clamp<std::size_t>(
      most_shared_bytes / split.plane_bytes, 1,
      static_cast<std::size_t>(planar_threads / (split.column_groups * split.row_groups))));
  return split;
}

// Enough parts that all multiprocessors have blocks, and no more than there is work to share.
int parts_for(std::int64_t blocks_of_one_part, std::int64_t shares) {
  const std::int64_t wanted = divided_up(4LL * multiprocessor_count(), blocks_of_one_part);
  return static_cast<int>(std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(1, shares)));
}

template <typename A, int kTaps, ImageLayout kLayout>
int parts_of(const DepthwiseProblem& problem) {
  if constexpr (kLayout == ImageLayout::channels_last) {
    const std::int64_t strips = problem.images * divided_up(problem.width, strip_columns) *
                                divided_up(problem.height, strip_rows);
    return parts_for(divided_up(problem.channels, lanes) * tap_blocks<kTaps>(problem),
                     divided_up(strips, warps_per_block));
  } else {
    const PlanarSplit split = planar_split<A, kTaps>(problem);
    const std::int64_t tiles = problem.images *
                               divided_up(problem.width, split.column_groups * strip_columns) *
                               divided_up(problem.height, split.row_groups * strip_rows);
    return parts_for(problem.channels * tap_blocks<kTaps>(problem),
                     divided_up(tiles, split.planes_at_once));
  }
}

}  // namespace

int weight_gradient_parts(const DepthwiseProblem& problem) {
  int parts = 0;
  with_variant(problem, [&](auto type, auto taps, auto layout) {
    parts = parts_of<Accumulator<decltype(type)>, taps.value, layout.value>(problem);
  });
  return parts;
}

void launch_weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                            const ConstImages& dy, void* partial_sums, void* stream) {
  with_variant(problem, [&](auto type, auto taps, auto layout) {
    using T = decltype(type);
    using A = Accumulator<T>;
    constexpr int rows = gradient_rows<taps.value>;
    constexpr int columns = gradient_taps<taps.value>;
    WeightGradientArguments<T> arguments{};
    fill(arguments, problem, x);
    arguments.dy = static_cast<const T*>(dy.data);
    arguments.dy_strides = dy.strides;
    arguments.partial_sums = static_cast<A*>(partial_sums);
    arguments.parts = parts_of<A, taps.value, layout.value>(problem);
    const auto tap_block_count = static_cast<unsigned>(tap_blocks<taps.value>(problem));
    const auto part_count = static_cast<unsigned>(arguments.parts);
    constexpr std::size_t elements = rows * columns + 1;
    if constexpr (layout.value == ImageLayout::channels_last) {
      const dim3 blocks(static_cast<unsigned>(divided_up(problem.channels, lanes)), tap_block_count,
                        part_count);
      launch(&channels_last_weight_gradient<T, rows, columns>, blocks, threads_per_block,
             elements * threads_per_block * sizeof(A), arguments, stream,
             "depthwise direct weight gradient");
    } else {
      const PlanarSplit split = planar_split<A, taps.value>(problem);
      arguments.column_groups = split.column_groups;
      arguments.row_groups = split.row_groups;
      arguments.planes_at_once = split.planes_at_once;
      const std::size_t shared_bytes =
          std::max(split.plane_bytes * static_cast<std::size_t>(split.planes_at_once),
                   elements * (planar_threads / lanes) * sizeof(A));
      launch(&planar_weight_gradient<T, rows, columns>,
             dim3(static_cast<unsigned>(problem.channels), tap_block_count, part_count),
             planar_threads, shared_bytes, arguments, stream, "depthwise direct weight gradient");
    }
  });
}

}  // namespace einkorn::convolution::direct
