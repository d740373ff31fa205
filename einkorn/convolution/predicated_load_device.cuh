// Loads that give zero where a condition fails, without a branch: a compiler that turns such loads
// into branches waits for each before it issues the next.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace einkorn::convolution {

namespace predicated {

template <int kBytes>
struct Words;

template <>
struct Words<2> {
  std::uint16_t value;
  __device__ static Words load(const void* from, int valid) {
    Words words;
    asm("{ .reg .pred p; setp.ne.s32 p, %2, 0; mov.u16 %0, 0; @p ld.global.nc.u16 %0, [%1]; }"
        : "=h"(words.value)
        : "l"(from), "r"(valid));
    return words;
  }
};

template <>
struct Words<4> {
  std::uint32_t value;
  __device__ static Words load(const void* from, int valid) {
    Words words;
    asm("{ .reg .pred p; setp.ne.s32 p, %2, 0; mov.u32 %0, 0; @p ld.global.nc.u32 %0, [%1]; }"
        : "=r"(words.value)
        : "l"(from), "r"(valid));
    return words;
  }
};

template <>
struct Words<8> {
  std::uint32_t values[2];
  __device__ static Words load(const void* from, int valid) {
    Words words;
    asm("{ .reg .pred p; setp.ne.s32 p, %3, 0; mov.u32 %0, 0; mov.u32 %1, 0;"
        " @p ld.global.nc.v2.u32 {%0, %1}, [%2]; }"
        : "=r"(words.values[0]), "=r"(words.values[1])
        : "l"(from), "r"(valid));
    return words;
  }
};

template <>
struct Words<16> {
  std::uint32_t values[4];
  __device__ static Words load(const void* from, int valid) {
    Words words;
    asm("{ .reg .pred p; setp.ne.s32 p, %5, 0; mov.u32 %0, 0; mov.u32 %1, 0; mov.u32 %2, 0;"
        " mov.u32 %3, 0; @p ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4]; }"
        : "=r"(words.values[0]), "=r"(words.values[1]), "=r"(words.values[2]), "=r"(words.values[3])
        : "l"(from), "r"(valid));
    return words;
  }
};

}  // namespace predicated

// *from where valid, else all bits zero. V has 2, 4, 8, 16 or 32 bytes and is aligned to them (32:
// 16); no kernel may write what this reads while it runs.
template <typename V>
__device__ inline V load_or_zero(const V* from, bool valid) {
  V value;
  if constexpr (sizeof(V) == 32) {
    using Half = predicated::Words<16>;
    const Half halves[2] = {Half::load(from, valid),
                            Half::load(reinterpret_cast<const char*>(from) + 16, valid)};
    __builtin_memcpy(&value, halves, sizeof(V));
  } else {
    const auto words = predicated::Words<sizeof(V)>::load(from, valid);
    __builtin_memcpy(&value, &words, sizeof(V));
  }
  return value;
}

}  // namespace einkorn::convolution
