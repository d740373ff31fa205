#include <cstdint>
#include <cstring>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/bit_packing_kernels.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace einkorn::compute {
namespace {

void pack_scalar(int bits, std::int64_t count, const std::uint8_t* codes, std::uint8_t* packed) {
  const std::uint32_t mask = (1U << bits) - 1;
  std::uint32_t held = 0;  // bits that do not fill a byte yet
  int held_bits = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    held |= (codes[i] & mask) << held_bits;
    held_bits += bits;
    if (held_bits >= 8) {
      *packed++ = static_cast<std::uint8_t>(held);
      held >>= 8;
      held_bits -= 8;
    }
  }
  if (held_bits > 0) *packed = static_cast<std::uint8_t>(held);
}

void unpack_scalar(int bits, std::int64_t count, const std::uint8_t* packed, std::uint8_t* codes) {
  const std::uint32_t mask = (1U << bits) - 1;
  std::uint32_t held = 0;
  int held_bits = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (held_bits < bits) {
      held |= static_cast<std::uint32_t>(*packed++) << held_bits;
      held_bits += 8;
    }
    codes[i] = static_cast<std::uint8_t>(held & mask);
    held >>= bits;
    held_bits -= bits;
  }
}

#if defined(__x86_64__)

// Eight codes are eight bytes on one side and `bits` bytes on the other, whatever the width: one
// pext or pdep each (three cycles; a microcoded loop only before Zen 3).
constexpr std::uint64_t mask_of(int bits) {
  return 0x0101010101010101U * ((1U << bits) - 1);
}

// A store of eight bytes, of which only `bits` count, spills into what is written next; near the
// end exactly `bits` bytes are stored.
template <int bits>
[[gnu::target("bmi2")]] void pack_width(std::int64_t count, const std::uint8_t* codes,
                                        std::uint8_t* packed) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t bytes;
    std::memcpy(&bytes, codes + i, 8);
    const std::uint64_t word = _pext_u64(bytes, mask_of(bits));
    std::memcpy(packed + i / 8 * bits, &word, count - i >= 64 ? 8 : bits);
  }
  pack_scalar(bits, count - i, codes + i, packed + i / 8 * bits);
}

template <int bits>
[[gnu::target("bmi2")]] void unpack_width(std::int64_t count, const std::uint8_t* packed,
                                          std::uint8_t* codes) {
  std::int64_t i = 0;
  // A load of eight bytes must stay inside the packed_bytes(count, bits) that there are.
  for (; (count - i) * bits >= 64 && i + 8 <= count; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, packed + i / 8 * bits, 8);
    const std::uint64_t bytes = _pdep_u64(word, mask_of(bits));
    std::memcpy(codes + i, &bytes, 8);
  }
  unpack_scalar(bits, count - i, packed + i / 8 * bits, codes + i);
}

void pack_bmi2(int bits, std::int64_t count, const std::uint8_t* codes, std::uint8_t* packed) {
  using Width = void (*)(std::int64_t, const std::uint8_t*, std::uint8_t*);
  static constexpr Width widths[] = {&pack_width<1>, &pack_width<2>, &pack_width<3>,
                                     &pack_width<4>, &pack_width<5>, &pack_width<6>,
                                     &pack_width<7>, &pack_width<8>};
  widths[bits - 1](count, codes, packed);
}

void unpack_bmi2(int bits, std::int64_t count, const std::uint8_t* packed, std::uint8_t* codes) {
  using Width = void (*)(std::int64_t, const std::uint8_t*, std::uint8_t*);
  static constexpr Width widths[] = {&unpack_width<1>, &unpack_width<2>, &unpack_width<3>,
                                     &unpack_width<4>, &unpack_width<5>, &unpack_width<6>,
                                     &unpack_width<7>, &unpack_width<8>};
  widths[bits - 1](count, packed, codes);
}

#endif

}  // namespace

// isa.h counts BMI2 to the level avx2.
#if defined(__x86_64__)
const KernelTable<PackKernel*> pack_kernels = {&pack_scalar, &pack_bmi2};
const KernelTable<PackKernel*> unpack_kernels = {&unpack_scalar, &unpack_bmi2};
#else
const KernelTable<PackKernel*> pack_kernels = {&pack_scalar};
const KernelTable<PackKernel*> unpack_kernels = {&unpack_scalar};
#endif

}  // namespace einkorn::compute
