// Depthwise convolution by fused multiply-adds, for any kernel size, type and layout.
//
// channels_last: a lane owns a channel, a thread computes a patch of outputs of it. planar: a block
// keeps tiles of images in shared memory, a thread computes a patch of one. In both, a row of
// inputs is read once into registers and serves every kernel row that meets it. Kernels wider than
// 13 columns (and widths without a version of their own) go through the taps in chunks of eight.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "einkorn/convolution/depthwise_launch_cuda.h"
#include "einkorn/convolution/predicated_load_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::convolution::direct {
namespace {

constexpr int lanes = 32;
constexpr int warps_per_block = 8;
constexpr int threads_per_block = lanes * warps_per_block;
constexpr int runtime_chunk =
    8;  // taps of a kernel row at a time when their number is not compiled in
constexpr int most_shared_bytes = 96 * 1024;

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
__device__ inline Accumulator<T> widen(T value) {
  return static_cast<Accumulator<T>>(value);
}
template <>
__device__ inline float widen<__half>(__half value) {
  return __half2float(value);
}
template <>
__device__ inline float widen<__nv_bfloat16>(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

template <typename T>
__device__ inline T narrow(Accumulator<T> value) {
  return static_cast<T>(value);
}

template <typename T>
struct Arguments {
  std::int64_t images;
  std::int64_t channels;
  int height;
  int width;
  int kernel_height;
  int kernel_width;
  int pad_top;
  int pad_left;
  const T* x;
  ImageStrides x_strides;
  const Accumulator<T>* weights;
  bool turned;  // taps in reverse order

  __device__ Accumulator<T> weight(std::int64_t channel, int row, int column) const {
    const int taps = kernel_height * kernel_width;
    const int tap = row * kernel_width + column;
    return weights[channel * taps + (turned ? taps - 1 - tap : tap)];
  }
};

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

// 16 bytes of shared memory at once.
template <typename A>
struct alignas(16) Vector {
  static constexpr int size = 16 / sizeof(A);
  A values[size];
};

template <int kCount, typename A>
__device__ inline void load_vectors(const A* shared, A (&values)[kCount]) {
  constexpr int size = Vector<A>::size;
#pragma unroll
  for (int i = 0; i < (kCount + size - 1) / size; ++i) {
    const Vector<A> vector = *reinterpret_cast<const Vector<A>*>(shared + i * size);
#pragma unroll
    for (int j = 0; j < size; ++j) {
      if (i * size + j < kCount) values[i * size + j] = vector.values[j];
    }
  }
}

constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A tile of one plane, with its halo, in shared memory as accumulators; zeros outside the image.
template <typename T>
__device__ inline void load_plane(Accumulator<T>* tile, int rows, int row_size, const T* plane,
                                  const ImageStrides& strides, int first_row, int first_column,
                                  int height, int width, int thread, int threads) {
#pragma unroll 8
  for (int i = thread; i < rows * row_size; i += threads) {
    const int row = first_row + i / row_size;
    const int column = first_column + i % row_size;
    const bool inside =
        plane != nullptr && row >= 0 && row < height && column >= 0 && column < width;
    tile[i] = widen<T>(load_or_zero(plane + row * strides.row + column * strides.column, inside));
  }
}

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

constexpr int planar_threads = 128;

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

std::int64_t divided_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

template <typename Kernel, typename A>
void launch(Kernel kernel, dim3 blocks, int threads, std::size_t shared_bytes, const A& arguments,
            void* stream, const char* name) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes)),
             name);
  kernel<<<blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments);
  check_launch(name);
}

template <ImageLayout kLayout>
using Layout = std::integral_constant<ImageLayout, kLayout>;
using ChannelsLast = Layout<ImageLayout::channels_last>;
using Planar = Layout<ImageLayout::planar>;

// Calls run(type, kernel width, layout) with the width 0 where no version for it is compiled.
template <typename Type, typename LayoutOf, typename Run>
void with_taps(Type type, LayoutOf layout, std::int64_t kernel_width, Run run) {
  switch (kernel_width) {
    case 1:
      return run(type, std::integral_constant<int, 1>{}, layout);
    case 3:
      return run(type, std::integral_constant<int, 3>{}, layout);
    case 5:
      return run(type, std::integral_constant<int, 5>{}, layout);
    case 7:
      return run(type, std::integral_constant<int, 7>{}, layout);
    case 9:
      return run(type, std::integral_constant<int, 9>{}, layout);
    case 11:
      return run(type, std::integral_constant<int, 11>{}, layout);
    case 13:
      return run(type, std::integral_constant<int, 13>{}, layout);
    default:
      return run(type, std::integral_constant<int, 0>{}, layout);
  }
}

// 16-bit channels_last images come here only in rare cases, and double ones only in tests.
template <typename Run>
void with_variant(const DepthwiseProblem& problem, Run run) {
  const std::integral_constant<int, 0> any_width;
  const std::int64_t width = problem.kernel_width;
  if (problem.layout == ImageLayout::planar) {
    switch (problem.element) {
      case Element::f32:
        return with_taps(float{}, Planar{}, width, run);
      case Element::f64:
        return run(double{}, any_width, Planar{});
      case Element::f16:
        return with_taps(__half{}, Planar{}, width, run);
      case Element::bf16:
        return with_taps(__nv_bfloat16{}, Planar{}, width, run);
    }
  }
  switch (problem.element) {
    case Element::f32:
      return with_taps(float{}, ChannelsLast{}, width, run);
    case Element::f64:
      return run(double{}, any_width, ChannelsLast{});
    case Element::f16:
      return run(__half{}, any_width, ChannelsLast{});
    case Element::bf16:
      return run(__nv_bfloat16{}, any_width, ChannelsLast{});
  }
}

template <typename T>
void fill(Arguments<T>& arguments, const DepthwiseProblem& problem, const ConstImages& x) {
  arguments.images = problem.images;
  arguments.channels = problem.channels;
  arguments.height = static_cast<int>(problem.height);
  arguments.width = static_cast<int>(problem.width);
  arguments.kernel_height = static_cast<int>(problem.kernel_height);
  arguments.kernel_width = static_cast<int>(problem.kernel_width);
  arguments.pad_top = static_cast<int>(problem.pad_top);
  arguments.pad_left = static_cast<int>(problem.pad_left);
  arguments.x = static_cast<const T*>(x.data);
  arguments.x_strides = x.strides;
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
