// What the matrix-unit kernels of depthwise convolution share: fragments, copies and launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "einkorn/convolution/depthwise_kernels.h"
#include "einkorn/convolution/depthwise_launch_cuda.h"
#include "einkorn/convolution/predicated_load_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::convolution::toeplitz {

inline constexpr int chunk_bytes = 16;  // eight channels of a pixel
inline constexpr int chunk_channels = 8;

// Division of numbers below 2^16 by one divisor.
struct Divider {
  int divisor;
  unsigned reciprocal;  // 2^32 / divisor, rounded up

  __device__ int quotient(int number) const {
    if (divisor == 1) return number;  // whose reciprocal is no 32-bit number
    return static_cast<int>(__umulhi(static_cast<unsigned>(number), reciprocal));
  }
};

inline Divider divider(int divisor) {
  return {divisor, static_cast<unsigned>(((1ull << 32) + static_cast<unsigned>(divisor) - 1) /
                                         static_cast<unsigned>(divisor))};
}

inline std::int64_t divided_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

struct Sides {
  std::int64_t images;
  std::int64_t channels;
  int height;
  int width;
};

inline Sides sides_of(const DepthwiseProblem& problem) {
  return {problem.images, problem.channels, static_cast<int>(problem.height),
          static_cast<int>(problem.width)};
}

struct Source {
  const char* data;
  std::int64_t image_bytes;
  std::int64_t row_bytes;
  std::int64_t column_bytes;
};

inline Source source_of(const ConstImages& images) {
  return {static_cast<const char*>(images.data), images.strides.image * 2, images.strides.row * 2,
          images.strides.column * 2};
}

// Where outputs go, and what is added to them first.
struct Target {
  char* data;
  const char* addend;  // as the outputs lie in memory; null: none
  std::int64_t image_bytes;
  std::int64_t row_bytes;
  std::int64_t column_bytes;
};

inline Target target_of(const Images& images, const void* addend) {
  return {static_cast<char*>(images.data), static_cast<const char*>(addend),
          images.strides.image * 2, images.strides.row * 2, images.strides.column * 2};
}

// Weights [channels, taps] and biases [channels] (null: zeros), of the images' type or f32.
struct Parameters {
  const void* weights;
  const void* biases;
  bool narrow;

  template <typename T, bool kNarrow>
  __device__ float weight(std::int64_t index, bool valid) const {
    return load<T, kNarrow>(weights, index, valid);
  }
  template <typename T>
  __device__ float bias(std::int64_t channel, bool valid) const {
    const bool has_bias = valid && biases != nullptr;
    return narrow ? load<T, true>(biases, channel, has_bias)
                  : load<T, false>(biases, channel, has_bias);
  }

 private:
  template <typename T, bool kNarrow>
  __device__ static float load(const void* from, std::int64_t index, bool valid) {
    using Stored = std::conditional_t<kNarrow, T, float>;
    return static_cast<float>(load_or_zero(static_cast<const Stored*>(from) + index, valid));
  }
};

struct Grid {
  int channel_groups;
  int column_tiles;
  int row_tiles;
  int tiles;  // of one group of channels
};

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

template <typename T>
__device__ inline std::uint32_t sum_of_pairs(std::uint32_t a, std::uint32_t b) {
  using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  const Pair sum = __hadd2(reinterpret_cast<const Pair&>(a), reinterpret_cast<const Pair&>(b));
  return reinterpret_cast<const std::uint32_t&>(sum);
}

template <typename T>
__device__ inline uint4 sum_of_chunks(uint4 a, uint4 b) {
  return make_uint4(sum_of_pairs<T>(a.x, b.x), sum_of_pairs<T>(a.y, b.y), sum_of_pairs<T>(a.z, b.z),
                    sum_of_pairs<T>(a.w, b.w));
}

// to = a * b + from, with a [16, 16] and b [16, 8]: the fragments as PTX lays them out.
template <typename T>
__device__ inline void multiply_16(float (&to)[4], const std::uint32_t* a, const std::uint32_t* b,
                                   float from_0, float from_1, float from_2, float from_3) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(from_0),
          "f"(from_1), "f"(from_2), "f"(from_3));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(from_0),
          "f"(from_1), "f"(from_2), "f"(from_3));
  }
}

template <typename T>
__device__ inline void multiply_16(float (&sum)[4], const std::uint32_t* a,
                                   const std::uint32_t* b) {
  multiply_16<T>(sum, a, b, sum[0], sum[1], sum[2], sum[3]);
}

// sum += a * b with a [16, 8] and b [8, 8].
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

// 16 bytes to shared memory, zeros where not valid.
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

// That one block of threads may have on the current device.
inline int most_shared_bytes() {
  int device = 0;
  int bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  return bytes;
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

// Calls run(a value of the element type).
template <typename Run>
void with_type(const DepthwiseProblem& problem, Run run) {
  if (problem.element == Element::f16) {
    run(__half{});
  } else {
    run(__nv_bfloat16{});
  }
}

}  // namespace einkorn::convolution::toeplitz
