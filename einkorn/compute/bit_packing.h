// Codes of 1 to 8 bits, packed without gaps: code i occupies bits [i * bits, (i + 1) * bits) of the
// byte stream, bit p being bit p % 8 of byte p / 8. Codes may straddle bytes. Read as little-endian
// 32-bit words, widths that divide 32 have code i in bits [(i % f) * bits, ...) of word i / f,
// f = 32 / bits.
#pragma once

#include <cstdint>

#include "einkorn/core/tensor.h"

namespace einkorn::compute {

// Bytes that count codes take: ceil(count * bits / 8).
constexpr std::int64_t packed_bytes(std::int64_t count, int bits) {
  return (count * bits + 7) / 8;
}

// Packs count codes (their low `bits` bits; higher ones are ignored) into packed_bytes(count, bits)
// bytes; unused bits of the last byte are 0. The ranges must not overlap. 1 <= bits <= 8.
void pack_bits(int bits, std::int64_t count, const std::uint8_t* codes, std::uint8_t* packed);

// The inverse: one byte a code. Nothing past packed_bytes(count, bits) bytes is read.
void unpack_bits(int bits, std::int64_t count, const std::uint8_t* packed, std::uint8_t* codes);

// Rows of u8 codes, [..., n] -> u8 [..., ceil(n * bits / 8)], each row packed on its own; and back,
// where count is n. On the CPU, on all of torch's threads. Throws InvalidArgument for bits outside
// [1, 8], other dtypes and devices, 0-dimensional tensors, and rows whose bytes are not
// packed_bytes(count, bits). Codes must be below 2^bits (higher bits are dropped).
at::Tensor pack_bits(const at::Tensor& codes, int bits);
at::Tensor unpack_bits(const at::Tensor& packed, int bits, std::int64_t count);

}  // namespace einkorn::compute
