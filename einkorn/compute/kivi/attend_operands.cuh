// Instructions of the attention kernel, and codes as operands of products.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "einkorn/compute/kivi/device_numbers.cuh"

namespace einkorn::kivi {

__device__ __forceinline__ void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ std::uint32_t transposed(std::uint32_t tile) {
  std::uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(tile));
  return result;
}

__device__ __forceinline__ std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

__device__ __forceinline__ float exp2_of(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ __forceinline__ std::uint32_t pack_halves(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_init(std::uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}
__device__ __forceinline__ void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void barrier_expect(std::uint64_t* barrier, unsigned bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ __forceinline__ void barrier_wait(std::uint64_t* barrier, unsigned phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
}
__device__ __forceinline__ void bulk_copy(void* to, const void* from, unsigned bytes,
                                          std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// ---- codes to operands ----

// Bits that a code of row class q stands above the lowest of an f16: its factor is 2^(shift - 24).
__device__ __forceinline__ int code_shift(int bits, int q) {
  switch (bits) {
    case 1:
      return q;
    case 4:
      return 4 * (q % 2);
    case 8:
      return 0;
    default:
      return 2 * q;
  }
}

// The 16 x 16 operands of rows 8 q + r (two of q each) and columns 8 i + 4 s + ... of a chunk, for
// a lane's words lanes apart from `words` on.
template <int bits>
__device__ __forceinline__ void load_words(const std::uint32_t* words, std::uint32_t (&own)[8]) {
#pragma unroll
  for (int word = 0; word < bits; ++word) own[word] = words[word * lanes];
}

template <int bits>
__device__ __forceinline__ void unpack_operands(const std::uint32_t (&own)[8], int s,
                                                std::uint32_t (&a)[2][4]) {
#pragma unroll
  for (int q = 0; q < 4; ++q) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      std::uint32_t& operand = a[q / 2][2 * pair + q % 2];
      if constexpr (bits == 1) {
        operand = own[0] >> (8 * pair + 4 * s) & 0x00010001U << q;
      } else if constexpr (bits == 2) {
        operand = own[s] >> 8 * pair & 0x00030003U << 2 * q;
      } else if constexpr (bits == 3) {
        const int right = 6 + s;
        const std::uint32_t high = pair == 0 ? own[2] << (2 - s) : own[2] >> right;
        operand = (own[s] >> 8 * pair & 0x00030003U << 2 * q) | (high & 0x00040004U << 2 * q);
      } else if constexpr (bits == 4) {
        operand = own[2 * s + q / 2] >> 8 * pair & 0x000F000FU << 4 * (q % 2);
      } else {
        operand = own[4 * s + q] >> 8 * pair & 0x00FF00FFU;
      }
    }
  }
}

// Calls body(s, operands) for both halves of a chunk. bits = 0: chosen at run time.
template <int bits, class Body>
__device__ __forceinline__ void for_operands(const std::uint32_t* words, int run_time_bits,
                                             const Body& body) {
  if constexpr (bits != 0) {
    std::uint32_t own[8];
    load_words<bits>(words, own);
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      std::uint32_t a[2][4];
      unpack_operands<bits>(own, s, a);
      body(s, a);
    }
  } else {
    std::uint32_t all[2][2][4];
    const auto unpack = [&](auto constant) {
      std::uint32_t own[8];
      load_words<constant.value>(words, own);
      unpack_operands<constant.value>(own, 0, all[0]);
      unpack_operands<constant.value>(own, 1, all[1]);
    };
    switch (run_time_bits) {
      case 1:
        unpack(std::integral_constant<int, 1>());
        break;
      case 2:
        unpack(std::integral_constant<int, 2>());
        break;
      case 3:
        unpack(std::integral_constant<int, 3>());
        break;
      case 4:
        unpack(std::integral_constant<int, 4>());
        break;
      default:
        unpack(std::integral_constant<int, 8>());
        break;
    }
    body(0, all[0]);
    body(1, all[1]);
  }
}

// Eight stored numbers on a 16-byte boundary as four f16 pairs.
template <typename T>
__device__ __forceinline__ void load_pairs(const void* from, std::uint32_t (&to)[4]) {
  const uint4 loaded = *static_cast<const uint4*>(from);
  to[0] = to_half2(loaded.x, T());
  to[1] = to_half2(loaded.y, T());
  to[2] = to_half2(loaded.z, T());
  to[3] = to_half2(loaded.w, T());
}

}  // namespace einkorn::kivi
