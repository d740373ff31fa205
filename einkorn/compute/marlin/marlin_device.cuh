// Pieces that the kernels share: codes to numbers, copies, products of fragments.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace einkorn::marlin {

using half_t = __half;
using bf16_t = __nv_bfloat16;

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- copies ----

// 16 bytes to shared memory, zeros where `valid` is false (nothing is read then).
__device__ __forceinline__ void copy_16(std::uint32_t to, const void* from, bool valid) {
  const int size = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(size));
}
// The same for data that is read once and should not displace others from L2.
__device__ __forceinline__ void copy_16_once(std::uint32_t to, const void* from, bool valid,
                                             std::uint64_t policy) {
  const int size = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;\n" ::"r"(to),
               "l"(from), "r"(size), "l"(policy));
}
__device__ __forceinline__ std::uint64_t read_once_policy() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n");
}
template <int pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending));
}

// ---- elements ----

template <typename T>
struct Pair;

template <>
struct Pair<half_t> {
  using Type = __half2;
  static __device__ __forceinline__ Type broadcast(float value) {
    return __half2half2(__float2half_rn(value));
  }
  static __device__ __forceinline__ half_t from_float(float value) {
    return __float2half_rn(value);
  }
};

template <>
struct Pair<bf16_t> {
  using Type = __nv_bfloat162;
  static __device__ __forceinline__ Type broadcast(float value) {
    return __bfloat162bfloat162(__float2bfloat16_rn(value));
  }
  static __device__ __forceinline__ bf16_t from_float(float value) {
    return __float2bfloat16_rn(value);
  }
};

template <typename P>
__device__ __forceinline__ std::uint32_t as_bits(P pair) {
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
template <typename P>
__device__ __forceinline__ P as_pair(std::uint32_t bits) {
  return *reinterpret_cast<const P*>(&bits);
}

// Element i of eight 16-bit numbers as float.
__device__ __forceinline__ float number_at(const uint4& eight, int i, bool is_bf16) {
  const std::uint32_t word = i < 2 ? eight.x : i < 4 ? eight.y : i < 6 ? eight.z : eight.w;
  const std::uint32_t bits = i % 2 == 0 ? word & 0xffff : word >> 16;
  if (is_bf16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// ---- codes to numbers ----

template <std::uint32_t table>
__device__ __forceinline__ std::uint32_t logic(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, %4;\n" : "=r"(result) : "r"(a), "r"(b), "r"(c), "n"(table));
  return result;
}
// (a & mask) | magic
__device__ __forceinline__ std::uint32_t masked(std::uint32_t a, std::uint32_t mask,
                                                std::uint32_t magic) {
  return logic < (0xf0 & 0xcc) | 0xaa > (a, mask, magic);
}

// What is subtracted from the raw numbers of the two columns of a lane (row g and g + 8 of a
// fragment): the zero points, or the middle of the codes.
template <typename T, int bits>
struct Zeros;

// The fragment of a 16 x 16 tile of code - zero, exact: registers a0 .. a3 of mma.m16n8k16 with
// output columns as its rows.
template <typename T, int bits>
struct Dequantizer;

// 0x6400 is 1024, and its mantissa counts in ones: or-ing a code in gives 1024 + code.
template <>
struct Zeros<half_t, 4> {
  __half2 low[2];   // 1024 + zero
  __half2 high[2];  // -(64 + zero)
  __device__ __forceinline__ void set(int half, float zero) {
    low[half] = Pair<half_t>::broadcast(1024 + zero);
    high[half] = Pair<half_t>::broadcast(-(64 + zero));
  }
};
template <>
struct Dequantizer<half_t, 4> {
  static __device__ __forceinline__ void apply(const std::uint32_t* words,
                                               const Zeros<half_t, 4>& zeros,
                                               std::uint32_t (&a)[4]) {
    const __half2 sixteenth = as_pair<__half2>(0x2c002c00);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t word = words[0] >> (8 * half);
      const std::uint32_t low = masked(word, 0x000f000f, 0x64006400);
      const std::uint32_t high = masked(word, 0x00f000f0, 0x64006400);
      a[half] = as_bits(__hsub2(as_pair<__half2>(low), zeros.low[half]));
      a[half + 2] = as_bits(__hfma2(as_pair<__half2>(high), sixteenth, zeros.high[half]));
    }
  }
};

template <>
struct Zeros<half_t, 8> {
  __half2 low[2];
  __device__ __forceinline__ void set(int half, float zero) {
    low[half] = Pair<half_t>::broadcast(1024 + zero);
  }
};
template <>
struct Dequantizer<half_t, 8> {
  static __device__ __forceinline__ void apply(const std::uint32_t* words,
                                               const Zeros<half_t, 8>& zeros,
                                               std::uint32_t (&a)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t even = __byte_perm(words[half], 0x64646464, 0x4240);
      const std::uint32_t odd = __byte_perm(words[half], 0x64646464, 0x4341);
      a[half] = as_bits(__hsub2(as_pair<__half2>(even), zeros.low[half]));
      a[half + 2] = as_bits(__hsub2(as_pair<__half2>(odd), zeros.low[half]));
    }
  }
};

// 0x4300 is 128 in bf16, and its mantissa counts in ones.
template <>
struct Zeros<bf16_t, 4> {
  __nv_bfloat162 low[2];
  __device__ __forceinline__ void set(int half, float zero) {
    low[half] = Pair<bf16_t>::broadcast(128 + zero);
  }
};
template <>
struct Dequantizer<bf16_t, 4> {
  static __device__ __forceinline__ void apply(const std::uint32_t* words,
                                               const Zeros<bf16_t, 4>& zeros,
                                               std::uint32_t (&a)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t low = masked(words[0] >> (8 * half), 0x000f000f, 0x43004300);
      const std::uint32_t high = masked(words[0] >> (8 * half + 4), 0x000f000f, 0x43004300);
      a[half] = as_bits(__hsub2(as_pair<__nv_bfloat162>(low), zeros.low[half]));
      a[half + 2] = as_bits(__hsub2(as_pair<__nv_bfloat162>(high), zeros.low[half]));
    }
  }
};

// A byte in the mantissa of 2^23 counts in ones; differences of bytes are exact in bf16.
template <>
struct Zeros<bf16_t, 8> {
  float low[2];
  __device__ __forceinline__ void set(int half, float zero) { low[half] = 8388608.0f + zero; }
};
template <>
struct Dequantizer<bf16_t, 8> {
  static __device__ __forceinline__ float byte_at(std::uint32_t word, std::uint32_t selector,
                                                  float zero) {
    return __uint_as_float(__byte_perm(word, 0x4b000000, selector)) - zero;
  }
  static __device__ __forceinline__ void apply(const std::uint32_t* words,
                                               const Zeros<bf16_t, 8>& zeros,
                                               std::uint32_t (&a)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float zero = zeros.low[half];
      const float e0 = byte_at(words[half], 0x7540, zero);
      const float e1 = byte_at(words[half], 0x7542, zero);
      const float e2 = byte_at(words[half], 0x7541, zero);
      const float e3 = byte_at(words[half], 0x7543, zero);
      a[half] = as_bits(__floats2bfloat162_rn(e0, e1));
      a[half + 2] = as_bits(__floats2bfloat162_rn(e2, e3));
    }
  }
};

// ---- products ----

__device__ __forceinline__ void multiply_fragments(half_t, float (&c)[4],
                                                   const std::uint32_t (&a)[4], std::uint32_t b0,
                                                   std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply_fragments(bf16_t, float (&c)[4],
                                                   const std::uint32_t (&a)[4], std::uint32_t b0,
                                                   std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same without sums before.
__device__ __forceinline__ void multiply_first_fragments(half_t, float (&c)[4],
                                                         const std::uint32_t (&a)[4],
                                                         std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%10,%10,%10,%10};\n"
      : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}
// The same without sums before.
__device__ __forceinline__ void multiply_first_fragments(bf16_t, float (&c)[4],
                                                         const std::uint32_t (&a)[4],
                                                         std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%10,%10,%10,%10};\n"
      : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

// Fragments of eight rows: registers of one or two 8 x 16 blocks.
__device__ __forceinline__ void load_matrices_2(std::uint32_t address, std::uint32_t& r0,
                                                std::uint32_t& r1) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r0), "=r"(r1)
               : "r"(address));
}
__device__ __forceinline__ void load_matrices_4(std::uint32_t address, std::uint32_t& r0,
                                                std::uint32_t& r1, std::uint32_t& r2,
                                                std::uint32_t& r3) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
               : "r"(address));
}

}  // namespace einkorn::marlin
