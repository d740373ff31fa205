// Stored numbers on the device, and the group quantiser with the roundings of
// group_quantizer_internal.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "einkorn/compute/kivi/kivi_kernels.h"

namespace einkorn::kivi {

__device__ inline float to_float(__half x) {
  return __half2float(x);
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline float to_float(float x) {
  return x;
}

__device__ inline void from_float(float x, __half* to) {
  *to = __float2half_rn(x);
}
__device__ inline void from_float(float x, __nv_bfloat16* to) {
  *to = __float2bfloat16_rn(x);
}
__device__ inline void from_float(float x, float* to) {
  *to = x;
}

__device__ inline float greatest_of(__half) {
  return 65504.0F;
}
__device__ inline float greatest_of(__nv_bfloat16) {
  return 3.38953139e38F;
}
__device__ inline float greatest_of(float) {
  return 3.40282347e38F;
}

template <typename T>
__device__ inline float rounded_to(float x) {
  T stored;
  from_float(x, &stored);
  return to_float(stored);
}

// A pair of stored numbers as the f16 operands of a product.
__device__ inline std::uint32_t to_half2(std::uint32_t pair, __half) {
  return pair;
}
__device__ inline std::uint32_t to_half2(std::uint32_t pair, __nv_bfloat16) {
  const float low = __uint_as_float(pair << 16);
  const float high = __uint_as_float(pair & 0xFFFF0000U);
  const __half2 halves = __floats2half2_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(halves);
}

struct DeviceScale {
  float scale;
  float minimum;
};

template <typename T>
__device__ inline DeviceScale device_group_scale(float minimum, float maximum, bool finite,
                                                 int bits) {
  if (!finite) return {__int_as_float(0x7FC00000), __int_as_float(0x7FC00000)};
  const auto steps = static_cast<float>((1 << bits) - 1);
  float scale = __fdiv_rn(__fsub_rn(maximum, minimum), steps);
  if (isinf(scale)) scale = __fsub_rn(__fdiv_rn(maximum, steps), __fdiv_rn(minimum, steps));
  scale = rounded_to<T>(fminf(scale, greatest_of(T())));
  return {fminf(scale, greatest_of(T())), __fadd_rn(minimum, 0.0F)};
}

// What codes of a group are computed with.
struct DeviceCoder {
  DeviceScale group;
  float inverse;  // of the scale, about; 0 where all codes are 0
  float greatest;

  __device__ DeviceCoder(DeviceScale scale, int bits)
      : group(scale),
        inverse(scale.scale > 0 ? 1 / scale.scale : 0.0F),
        greatest(static_cast<float>((1 << bits) - 1)) {}

  // The code by a product; near a tie, where its last bits matter, by the quotient.
  __device__ unsigned operator()(float x) const {
    if (!(group.scale > 0)) return 0;
    const float above = __fsub_rn(x, group.minimum);
    float steps = fminf(fmaxf(above * inverse, 0.0F), greatest);
    constexpr float doubt = 2e-4F;  // 255 steps err by 6e-5 at most
    if (fabsf(steps - rintf(steps)) > 0.5F - doubt) {
      steps = fminf(fmaxf(__fdiv_rn(above, group.scale), 0.0F), greatest);
    }
    return static_cast<unsigned>(rintf(steps));
  }
};

// Least and greatest of some numbers, and whether all are finite.
struct DeviceRange {
  float least = INFINITY;
  float most = -INFINITY;
  bool finite = true;

  __device__ void add(float x) {
    least = fminf(least, x);
    most = fmaxf(most, x);
    finite = finite && isfinite(x);
  }
};

// count consecutive numbers (a compile-time 2, 4 or 8); one load where they lie on its boundary.
template <int count, typename T>
__device__ inline void load_numbers(const T* from, float (&to)[count]) {
  constexpr int bytes = count * static_cast<int>(sizeof(T));
  T loaded[count];
  if constexpr (bytes == 4 || bytes == 8 || bytes == 16) {
    using Vector =
        typename std::conditional<bytes == 4, std::uint32_t,
                                  typename std::conditional<bytes == 8, uint2, uint4>::type>::type;
    if (reinterpret_cast<std::uintptr_t>(from) % bytes == 0) {
      const Vector vector = *reinterpret_cast<const Vector*>(from);
      memcpy(loaded, &vector, bytes);
#pragma unroll
      for (int i = 0; i < count; ++i) to[i] = to_float(loaded[i]);
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

}  // namespace einkorn::kivi
