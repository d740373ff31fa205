#include "einkorn/compute/tilus/cuda_source_internal.h"

namespace einkorn::tilus {

// The device functions that generated kernels call. Elements of `bits` bits are packed in 32-bit
// words; all positions are constants once loops are unrolled.
const char* const cuda_prelude = R"cuda(
#ifndef __CUDACC_RTC__
#include <cstdio>
#endif
// A kernel uses some of these functions only.
#pragma nv_diag_suppress 177
typedef unsigned int u32;
typedef unsigned char u8;
typedef unsigned short u16;
#define INLINE static __device__ __forceinline__

template <int bits>
INLINE u32 get(const u32* x, int i) {
  const int at = i * bits, word = at >> 5, shift = at & 31;
  if (bits == 32) return x[i];
  u32 value = x[word] >> shift;
  if (shift + bits > 32) value |= x[word + 1] << (32 - shift);
  return value & ((1u << (bits & 31)) - 1);
}
template <int bits>
INLINE void put(u32* x, int i, u32 value) {
  const int at = i * bits, word = at >> 5, shift = at & 31;
  if (bits == 32) {
    x[i] = value;
    return;
  }
  const u32 mask = (1u << (bits & 31)) - 1;
  x[word] = (x[word] & ~(mask << shift)) | ((value & mask) << shift);
  if (shift + bits > 32) {
    const int taken = 32 - shift;
    x[word + 1] = (x[word + 1] & ~(mask >> taken)) | ((value & mask) >> taken);
  }
}

// ---- number types: codes to f32 and back ----

struct F32 {
  INLINE float to(u32 code) { return __uint_as_float(code); }
  INLINE u32 from(float value) { return __float_as_uint(value); }
};
struct F16 {
  INLINE float to(u32 code) {
    float value;
    asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(value) : "r"(code));
    return value;
  }
  INLINE u32 from(float value) {
    u32 code;
    asm("{ .reg .b16 h; cvt.rn.f16.f32 h, %1; cvt.u32.u16 %0, h; }" : "=r"(code) : "f"(value));
    return code;
  }
};
struct BF16 {
  INLINE float to(u32 code) { return __uint_as_float(code << 16); }
  INLINE u32 from(float value) {
    u32 code;
    asm("{ .reg .b16 h; cvt.rn.bf16.f32 h, %1; cvt.u32.u16 %0, h; }" : "=r"(code) : "f"(value));
    return code;
  }
};
template <int bits>
struct Unsigned {
  INLINE float to(u32 code) { return __uint2float_rn(code); }
  INLINE long long integer(u32 code) { return code; }
  INLINE u32 from_integer(long long value) {
    const long long most = bits == 32 ? 0xffffffffll : (1ll << bits) - 1;
    return (u32)(value < 0 ? 0 : value > most ? most : value);
  }
  INLINE u32 from(float value) {
    const u32 most = bits == 32 ? 0xffffffffu : (1u << (bits & 31)) - 1;
    u32 nearest;
    asm("cvt.rni.u32.f32 %0, %1;" : "=r"(nearest) : "f"(value));
    return nearest < most ? nearest : most;
  }
};
template <int bits>
struct Signed {
  INLINE long long integer(u32 code) { return (int)(code << (32 - bits)) >> (32 - bits); }
  INLINE u32 from_integer(long long value) {
    const long long most = (1ll << (bits - 1)) - 1;
    value = value > most ? most : value < -most - 1 ? -most - 1 : value;
    return (u32)value & (bits == 32 ? 0xffffffffu : (1u << (bits & 31)) - 1);
  }
  INLINE float to(u32 code) { return __int2float_rn((int)integer(code)); }
  INLINE u32 from(float value) {
    const int most = (int)(0x7fffffffu >> (32 - bits));
    int nearest;
    asm("cvt.rni.s32.f32 %0, %1;" : "=r"(nearest) : "f"(value));
    nearest = nearest < most ? nearest : most;
    nearest = nearest > -most - 1 ? nearest : -most - 1;
    return (u32)nearest & (bits == 32 ? 0xffffffffu : (1u << (bits & 31)) - 1);
  }
};
// Sign, exponent, mantissa; `most` is the code of the largest number.
template <int exponent_bits, int mantissa_bits, u32 most>
struct Small {
  static const int bits = 1 + exponent_bits + mantissa_bits;
  static const int bias = (1 << (exponent_bits - 1)) - 1;
  INLINE float to(u32 code) {
    const u32 magnitude = code & ((1u << (bits - 1)) - 1);
    const u32 sign = (code >> (bits - 1)) << 31;
    // The exponent field of f32, wrong by a constant factor; the product is exact, subnormals too.
    const float scale = __uint_as_float((u32)(254 - bias) << 23);
    float value = __uint_as_float(magnitude << (23 - mantissa_bits)) * scale;
    if (exponent_bits == 5 && mantissa_bits == 2 && magnitude > most) {
      value = __uint_as_float(magnitude == most + 1 ? 0x7f800000u : 0x7fc00000u);
    }
    if (exponent_bits == 4 && mantissa_bits == 3 && magnitude > most) {
      value = __uint_as_float(0x7fc00000u);
    }
    return __uint_as_float(__float_as_uint(value) | sign);
  }
  INLINE u32 from(float value) {
    const u32 word = __float_as_uint(value);
    const u32 sign = word >> 31 << (bits - 1);
    const float magnitude = __uint_as_float(word & 0x7fffffffu);
    const float largest = to(most);
    if (!(magnitude < largest)) return sign | most;
    int exponent = (int)((word & 0x7fffffffu) >> 23) - 127;
    const int lowest = 1 - bias;
    exponent = exponent > lowest ? exponent : lowest;
    const float steps = rintf(magnitude * __uint_as_float((u32)(127 + mantissa_bits - exponent) << 23));
    return sign | (u32)(((exponent - lowest) << mantissa_bits) + (int)steps);
  }
};

// ---- pairs of f16 in a word ----

INLINE u32 mul_f16x2(u32 a, u32 b) {
  u32 c;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}
INLINE u32 sub_f16x2(u32 a, u32 b) {
  u32 c;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}
INLINE u32 add_f16x2(u32 a, u32 b) {
  u32 c;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}
// The f16 of an integer from 1 to 2047.
INLINE constexpr u32 half_of_integer(u32 value) {
  int power = 0;
  while (value >> (power + 1) != 0) ++power;
  return ((u32)(15 + power) << 10) | ((value << (10 - power)) & 0x3ffu);
}
// Integers of at most 8 bits: the code in the low mantissa of 1024, which is then subtracted. `flip`
// is the sign bit of signed codes.
template <u32 flip>
INLINE u32 integers_to_f16x2(u32 pair) {
  const u32 biased = (pair ^ (flip * 0x00010001u)) | 0x64006400u;
  return sub_f16x2(biased, (0x6400u + flip) * 0x00010001u);
}
// Codes of `bits` bits in both halves, `moved` + `shift` from the low end of each: after a move the
// code stays at `shift` in the mantissa of 1024, and an FMA scales it down.
template <int bits, int moved, int shift, u32 flip>
INLINE u32 shifted_integers_to_f16x2(u32 halves) {
  const u32 mask = ((1u << bits) - 1) << shift;
  const u32 biased = ((halves >> moved) & (mask * 0x00010001u)) ^ ((0x6400u | flip << shift) * 0x00010001u);
  if (shift == 0) return sub_f16x2(biased, (0x6400u + flip) * 0x00010001u);
  // (1024 + code 2^shift) 2^-shift - (1024 2^-shift + flip), exact. The constant of FMA in f16 bits:
  const u32 factor = (u32)(15 - shift) << 10;
  const u32 offset = half_of_integer((1024u >> shift) + flip) | 0x8000u;
  u32 result;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(biased), "r"(factor * 0x00010001u), "r"(offset * 0x00010001u));
  return result;
}
// Codes that begin at `shift` in each half of one word and end in the next word's halves.
template <int bits, int shift>
INLINE u32 straddling(u32 halves, u32 next) {
  const u32 first = (1u << (16 - shift)) - 1;
  const u32 second = ((1u << bits) - 1) & ~first;
  return ((halves >> shift) & (first * 0x00010001u)) | ((next << (16 - shift)) & (second * 0x00010001u));
}
// Small floats with up to 5 exponent bits: the bits at the top of each half, the exponent moved to
// where f16 has it, and its bias made up for by a power of two.
template <int exponent_bits, int mantissa_bits>
INLINE u32 floats_to_f16x2(u32 pair) {
  // Bits above the codes fall out of each half, or under the masks.
  const int bits = 1 + exponent_bits + mantissa_bits;
  const u32 mask = ((1u << (bits - 1)) - 1) << (10 - mantissa_bits);
  const u32 top = pair << (16 - bits);
  const u32 placed = ((top >> (5 - exponent_bits)) & (mask * 0x00010001u)) | (top & 0x80008000u);
  if (exponent_bits == 5) return placed;
  const u32 factor = (u32)(15 + 16 - (1 << (exponent_bits - 1))) << 10;
  return mul_f16x2(placed, factor * 0x00010001u);
}
// f8e4m3 has NaN, which the instruction knows (compute capability 8.9).
INLINE u32 e4m3_to_f16x2(u32 pair) {
#if __CUDA_ARCH__ >= 890
  u32 word;
  asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.rn.f16x2.e4m3x2 %0, h; }" : "=r"(word) : "r"((pair & 0xff) | pair >> 8));
  return word;
#else
  return F16::from(Small<4, 3, 126u>::to(pair & 0xff)) | F16::from(Small<4, 3, 126u>::to(pair >> 16)) << 16;
#endif
}

// ---- memory ----

template <int bytes>
INLINE void load_vector(u32* x, const u8* p, bool inside) {
  if (bytes == 16) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (inside) v = *(const uint4*)p;
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  } else if (bytes == 8) {
    uint2 v = make_uint2(0, 0);
    if (inside) v = *(const uint2*)p;
    x[0] = v.x, x[1] = v.y;
  } else if (bytes == 4) {
    x[0] = inside ? *(const u32*)p : 0;
  } else if (bytes == 2) {
    x[0] = inside ? *(const u16*)p : 0;
  } else {
    x[0] = inside ? *p : 0;
  }
}
template <int bytes>
INLINE void store_vector(u8* p, const u32* x) {
  if (bytes == 16) {
    *(uint4*)p = make_uint4(x[0], x[1], x[2], x[3]);
  } else if (bytes == 8) {
    *(uint2*)p = make_uint2(x[0], x[1]);
  } else if (bytes == 4) {
    *(u32*)p = x[0];
  } else if (bytes == 2) {
    *(u16*)p = (u16)x[0];
  } else {
    *p = (u8)x[0];
  }
}
template <int bytes>
INLINE void copy_vector(u8* to, const u8* from, bool inside) {
  if (bytes >= 4) {
    const u32 address = (u32)__cvta_generic_to_shared(to);
    const int present = inside ? bytes : 0;  // the rest becomes zeros
    if (bytes == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(present) : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(bytes), "r"(present) : "memory");
    }
  } else if (bytes == 2) {
    *(u16*)to = inside ? *(const u16*)from : 0;
  } else {
    *to = inside ? *from : 0;
  }
}
INLINE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
INLINE void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

INLINE void ldmatrix_x4(u32* x, const u8* row) {
  const u32 address = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(address) : "memory");
}

// ---- tensor cores ----

template <bool is_bf16>
INLINE void mma(u32* d, const u32* a, const u32* b, const u32* c) {
  float d0, d1, d2, d3;
  const float c0 = __uint_as_float(c[0]), c1 = __uint_as_float(c[1]);
  const float c2 = __uint_as_float(c[2]), c3 = __uint_as_float(c[3]);
  if (is_bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d0), "=f"(d1), "=f"(d2), "=f"(d3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d0), "=f"(d1), "=f"(d2), "=f"(d3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
  }
  d[0] = __float_as_uint(d0), d[1] = __float_as_uint(d1);
  d[2] = __float_as_uint(d2), d[3] = __float_as_uint(d3);
}

// ---- semaphores ----

INLINE void wait_for(const u8* p, int value) {
  if (threadIdx.x == 0) {
    int seen;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(p) : "memory");
    } while (seen != value);
  }
  __syncthreads();
}
INLINE void release_to(u8* p, int value) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
  }
}
)cuda";

}  // namespace einkorn::tilus
