// Depthwise convolution by fused multiply-adds: forward, and the input gradient as a convolution
// with the taps turned round.
#include "einkorn/convolution/depthwise_direct_device.cuh"

namespace einkorn::convolution::direct {
namespace {

template <typename T>
struct ConvolutionArguments : Arguments<T> {
  const Accumulator<T>* biases;
  T* y;
  const T* addend;  // as y lies in memory; null: none
  ImageStrides y_strides;
  int rows_at_once;    // kernel rows whose weights are in shared memory
  int planes_at_once;  // planar: images per block
  int column_groups;   // planar: threads across a tile
  int row_groups;      // planar: threads down a tile

  __device__ void store(std::int64_t offset, Accumulator<T> value) const {
    if (addend != nullptr) value += widen<T>(addend[offset]);
    y[offset] = narrow<T>(value);
  }
};

// The kernel rows and columns of a patch of sums against one row of inputs.
//   sums[r][c] += weights(kernel_row, t) * window[c + t] for kernel_row = input_row - r
template <int kRows, int kColumns, int kTaps, typename A, typename Weights>
__device__ inline void add_row(A (&sums)[kRows][kColumns], const A (&window)[kColumns + kTaps - 1],
                               int input_row, int kernel_rows, Weights weights_of_row) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int kernel_row = input_row - r;
    if (kernel_row < 0 || kernel_row >= kernel_rows) continue;
    A taps[kTaps];
    weights_of_row(kernel_row, taps);
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums[r][c] += taps[t] * window[c + t];
    }
  }
}

constexpr int patch_rows = 4;
constexpr int patch_columns = 8;

// kTaps 0: the kernel width is known at run time only.
template <typename T, int kTaps>
__global__ void __launch_bounds__(threads_per_block)
    channels_last_convolution(const __grid_constant__ ConvolutionArguments<T> arguments) {
  using A = Accumulator<T>;
  constexpr int chunk = kTaps > 0 ? kTaps : runtime_chunk;
  extern __shared__ unsigned char memory[];
  A* weights = reinterpret_cast<A*>(memory);  // [kernel row][tap][lane]
  const int padded_width = (arguments.kernel_width + chunk - 1) / chunk * chunk;
  const int lane = threadIdx.x % lanes;
  const auto channel_groups = static_cast<unsigned>((arguments.channels + lanes - 1) / lanes);
  const std::int64_t channel =
      static_cast<std::int64_t>(blockIdx.x % channel_groups) * lanes + lane;
  const bool has_channel = channel < arguments.channels;

  const int column_tiles = (arguments.width + patch_columns - 1) / patch_columns;
  const int row_tiles = (arguments.height + patch_rows - 1) / patch_rows;
  const std::int64_t patch =
      static_cast<std::int64_t>(blockIdx.x / channel_groups) * warps_per_block +
      threadIdx.x / lanes;
  const std::int64_t image = patch / column_tiles / row_tiles;
  const int first_row = static_cast<int>(patch / column_tiles % row_tiles) * patch_rows;
  const int first_column = static_cast<int>(patch % column_tiles) * patch_columns;
  const bool active = has_channel && image < arguments.images;
  const T* x = arguments.x + image * arguments.x_strides.image + channel;

  A sums[patch_rows][patch_columns];
  const A bias = active && arguments.biases != nullptr ? arguments.biases[channel] : A(0);
#pragma unroll
  for (int i = 0; i < patch_rows * patch_columns; ++i)
    sums[i / patch_columns][i % patch_columns] = bias;

  for (int first_kernel_row = 0; first_kernel_row < arguments.kernel_height;
       first_kernel_row += arguments.rows_at_once) {
    const int kernel_rows = min(arguments.rows_at_once, arguments.kernel_height - first_kernel_row);
    __syncthreads();
    for (int i = threadIdx.x / lanes; i < kernel_rows * padded_width; i += warps_per_block) {
      const int row = i / padded_width;
      const int column = i % padded_width;
      const bool inside = has_channel && column < arguments.kernel_width;
      weights[i * lanes + lane] =
          inside ? arguments.weight(channel, first_kernel_row + row, column) : A(0);
    }
    __syncthreads();
    if (!active) continue;
    for (int input_row = 0; input_row < patch_rows + kernel_rows - 1; ++input_row) {
      const int y = first_row + first_kernel_row + input_row - arguments.pad_top;
      if (y < 0 || y >= arguments.height) continue;
      const T* row = x + y * arguments.x_strides.row;
      for (int first_tap = 0; first_tap < arguments.kernel_width; first_tap += chunk) {
        A window[patch_columns + chunk - 1];
#pragma unroll
        for (int i = 0; i < patch_columns + chunk - 1; ++i) {
          const int column = first_column + first_tap + i - arguments.pad_left;
          const bool inside = column >= 0 && column < arguments.width;
          window[i] = widen<T>(load_or_zero(row + column * arguments.x_strides.column, inside));
        }
        add_row<patch_rows, patch_columns, chunk>(
            sums, window, input_row, kernel_rows, [&](int kernel_row, A(&taps)[chunk]) {
#pragma unroll
              for (int t = 0; t < chunk; ++t) {
                taps[t] = weights[(kernel_row * padded_width + first_tap + t) * lanes + lane];
              }
            });
      }
    }
  }
  if (!active) return;
  const std::int64_t first = image * arguments.y_strides.image + channel;
#pragma unroll
  for (int r = 0; r < patch_rows; ++r) {
#pragma unroll
    for (int c = 0; c < patch_columns; ++c) {
      if (first_row + r < arguments.height && first_column + c < arguments.width) {
        arguments.store(first + (first_row + r) * arguments.y_strides.row +
                            (first_column + c) * arguments.y_strides.column,
                        sums[r][c]);
      }
    }
  }
}

constexpr int planar_rows = 8;
constexpr int planar_columns = 4;

template <int kTaps>
__host__ __device__ constexpr int padded_kernel_width(int kernel_width) {
  return kTaps > 0 ? round_up(kTaps, 4) : round_up(kernel_width, runtime_chunk);
}

// Elements of a tile row: the windows of the last thread end inside.
template <int kTaps>
__host__ __device__ constexpr int tile_row_size(int column_groups, int kernel_width) {
  return column_groups * planar_columns + padded_kernel_width<kTaps>(kernel_width) + 4;
}

template <typename T, int kTaps>
__global__ void __launch_bounds__(128)
    planar_convolution(const __grid_constant__ ConvolutionArguments<T> arguments) {
  using A = Accumulator<T>;
  constexpr int chunk = kTaps > 0 ? kTaps : runtime_chunk;
  extern __shared__ uint4 aligned_memory[];
  A* memory = reinterpret_cast<A*>(aligned_memory);
  const int padded_width = padded_kernel_width<kTaps>(arguments.kernel_width);
  const int row_size = tile_row_size<kTaps>(arguments.column_groups, arguments.kernel_width);
  const int tile_rows = arguments.row_groups * planar_rows + arguments.kernel_height - 1;
  const int plane_size = tile_rows * row_size + arguments.kernel_height * padded_width;

  const int tile_width = arguments.column_groups * planar_columns;
  const int tile_height = arguments.row_groups * planar_rows;
  const int column_tiles = (arguments.width + tile_width - 1) / tile_width;
  const int row_tiles = (arguments.height + tile_height - 1) / tile_height;
  const int tile_column = static_cast<int>(blockIdx.x % column_tiles) * tile_width;
  const int tile_row = static_cast<int>(blockIdx.x / column_tiles % row_tiles) * tile_height;
  const std::int64_t first_plane =
      static_cast<std::int64_t>(blockIdx.x / column_tiles / row_tiles) * arguments.planes_at_once;

  const int threads_per_plane = arguments.column_groups * arguments.row_groups;
  const int slot = threadIdx.x / threads_per_plane;
  const int thread = threadIdx.x % threads_per_plane;
  const std::int64_t plane = first_plane + slot;
  const bool active = plane < arguments.images * arguments.channels;
  const std::int64_t image = plane / arguments.channels;
  const std::int64_t channel = plane % arguments.channels;
  A* tile = memory + slot * plane_size;
  A* weights = tile + tile_rows * row_size;
  load_plane<T>(tile, tile_rows, row_size,
                active ? arguments.x + image * arguments.x_strides.image +
                             channel * arguments.x_strides.channel
                       : nullptr,
                arguments.x_strides, tile_row - arguments.pad_top, tile_column - arguments.pad_left,
                arguments.height, arguments.width, thread, threads_per_plane);
  for (int i = thread; i < arguments.kernel_height * padded_width; i += threads_per_plane) {
    const int column = i % padded_width;
    const bool inside = active && column < arguments.kernel_width;
    weights[i] = inside ? arguments.weight(channel, i / padded_width, column) : A(0);
  }
  __syncthreads();
  if (!active) return;

  A sums[planar_rows][planar_columns];
  const A bias = arguments.biases != nullptr ? arguments.biases[channel] : A(0);
#pragma unroll
  for (int i = 0; i < planar_rows * planar_columns; ++i) {
    sums[i / planar_columns][i % planar_columns] = bias;
  }
  const int first_row = thread / arguments.column_groups * planar_rows;
  const int first_column = thread % arguments.column_groups * planar_columns;
  for (int input_row = 0; input_row < planar_rows + arguments.kernel_height - 1; ++input_row) {
    const A* row = tile + (first_row + input_row) * row_size + first_column;
    for (int first_tap = 0; first_tap < arguments.kernel_width; first_tap += chunk) {
      A window[planar_columns + chunk - 1];
      load_vectors(row + first_tap, window);
      add_row<planar_rows, planar_columns, chunk>(
          sums, window, input_row, arguments.kernel_height, [&](int kernel_row, A(&taps)[chunk]) {
            load_vectors(weights + kernel_row * padded_width + first_tap, taps);
          });
    }
  }
  const std::int64_t first =
      image * arguments.y_strides.image + channel * arguments.y_strides.channel;
#pragma unroll
  for (int r = 0; r < planar_rows; ++r) {
#pragma unroll
    for (int c = 0; c < planar_columns; ++c) {
      const int y = tile_row + first_row + r;
      const int x = tile_column + first_column + c;
      if (y < arguments.height && x < arguments.width) {
        arguments.store(first + y * arguments.y_strides.row + x * arguments.y_strides.column,
                        sums[r][c]);
      }
    }
  }
}

template <typename T, int kTaps>
void convolve_channels_last(ConvolutionArguments<T>& arguments, void* stream) {
  constexpr int chunk = kTaps > 0 ? kTaps : runtime_chunk;
  const std::size_t row_bytes = static_cast<std::size_t>(round_up(arguments.kernel_width, chunk)) *
                                lanes * sizeof(Accumulator<T>);
  arguments.rows_at_once = static_cast<int>(std::min<std::size_t>(
      static_cast<std::size_t>(arguments.kernel_height), most_shared_bytes / 2 / row_bytes));
  const std::int64_t patches = arguments.images * divided_up(arguments.height, patch_rows) *
                               divided_up(arguments.width, patch_columns);
  const std::int64_t blocks =
      divided_up(patches, warps_per_block) * divided_up(arguments.channels, lanes);
  launch(&channels_last_convolution<T, kTaps>, dim3(static_cast<unsigned>(blocks)),
         threads_per_block, static_cast<std::size_t>(arguments.rows_at_once) * row_bytes, arguments,
         stream, "depthwise direct convolution");
}

template <typename T, int kTaps>
void convolve_planar(ConvolutionArguments<T>& arguments, void* stream) {
  arguments.column_groups =
      static_cast<int>(std::min<std::int64_t>(16, divided_up(arguments.width, planar_columns)));
  arguments.row_groups = static_cast<int>(
      std::min<std::int64_t>(planar_threads / 16, divided_up(arguments.height, planar_rows)));
  const int tile_rows = arguments.row_groups * planar_rows + arguments.kernel_height - 1;
  const std::size_t plane_bytes =
      sizeof(Accumulator<T>) *
      (static_cast<std::size_t>(tile_rows) *
           tile_row_size<kTaps>(arguments.column_groups, arguments.kernel_width) +
       static_cast<std::size_t>(arguments.kernel_height) *
           padded_kernel_width<kTaps>(arguments.kernel_width));
  const int threads_per_plane = arguments.column_groups * arguments.row_groups;
  arguments.planes_at_once = static_cast<int>(
      std::clamp<std::size_t>(most_shared_bytes / 2 / plane_bytes, 1,
                              static_cast<std::size_t>(planar_threads / threads_per_plane)));
  const std::int64_t blocks =
      divided_up(arguments.images * arguments.channels, arguments.planes_at_once) *
      divided_up(arguments.width, arguments.column_groups * planar_columns) *
      divided_up(arguments.height, arguments.row_groups * planar_rows);
  launch(&planar_convolution<T, kTaps>, dim3(static_cast<unsigned>(blocks)),
         threads_per_plane * arguments.planes_at_once,
         static_cast<std::size_t>(arguments.planes_at_once) * plane_bytes, arguments, stream,
         "depthwise direct convolution");
}

}  // namespace

void launch_convolution(const DepthwiseProblem& problem, Direction direction, const void* weights,
                        const void* biases, const ConstImages& x, const void* addend,
                        const Images& y, void* stream) {
  with_variant(problem, [&](auto type, auto taps, auto layout) {
    using T = decltype(type);
    ConvolutionArguments<T> arguments{};
    fill(arguments, problem, x);
    arguments.weights = static_cast<const Accumulator<T>*>(weights);
    arguments.biases = static_cast<const Accumulator<T>*>(biases);
    arguments.turned = direction == Direction::input_gradient;
    arguments.y = static_cast<T*>(y.data);
    arguments.addend = static_cast<const T*>(addend);
    arguments.y_strides = y.strides;
    if constexpr (layout.value == ImageLayout::channels_last) {
      convolve_channels_last<T, taps.value>(arguments, stream);
    } else {
      convolve_planar<T, taps.value>(arguments, stream);
    }
  });
}

}  // namespace einkorn::convolution::direct
