// What the fused multiply-add kernels of depthwise convolution share. They serve any kernel size,
// type and layout.
//
// channels_last: a lane owns a channel, a thread computes a patch of outputs of it. planar: a block
// keeps tiles of images in shared memory, a thread computes a patch of one. In both, a row of
// inputs is read once into registers and serves every kernel row that meets it. Kernels wider than
// 13 columns (and widths without a version of their own) go through the taps in chunks of eight.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "einkorn/convolution/depthwise_launch_cuda.h"
#include "einkorn/convolution/predicated_load_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::convolution::direct {

inline constexpr int lanes = 32;
inline constexpr int warps_per_block = 8;
inline constexpr int threads_per_block = lanes * warps_per_block;
// Taps of a kernel row at a time when their number is not compiled in.
inline constexpr int runtime_chunk = 8;
inline constexpr int most_shared_bytes = 96 * 1024;

inline constexpr int planar_threads = 128;

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

inline std::int64_t divided_up(std::int64_t a, std::int64_t b) {
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

}  // namespace einkorn::convolution::direct
