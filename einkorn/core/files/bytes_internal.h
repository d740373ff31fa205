// Sizes that cannot overflow, and integers in the byte order of a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace einkorn {

// The bytes of an array; empty where a dimension is negative or the array fits no address space.
// The dimensions other than 0 must fit as well, so that no product of some of them overflows.
inline std::optional<std::size_t> array_bytes(std::span<const std::int64_t> shape,
                                              std::size_t item_size) {
  std::int64_t bytes = static_cast<std::int64_t>(item_size);
  bool is_empty = false;
  for (const std::int64_t dimension : shape) {
    if (dimension < 0) return std::nullopt;
    is_empty = is_empty || dimension == 0;
    if (dimension > 0 && __builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return is_empty ? 0 : static_cast<std::size_t>(bytes);
}

// The unsigned little-endian integer of `width` bytes at the front.
inline std::uint64_t little_endian(std::span<const std::byte> content, std::size_t width) {
  std::uint64_t value = 0;
  for (std::size_t i = width; i-- > 0;) value = value << 8 | std::to_integer<unsigned>(content[i]);
  return value;
}

inline void append_little_endian(std::vector<std::byte>& content, std::uint64_t value,
                                 std::size_t width) {
  for (std::size_t i = 0; i < width; ++i) {
    content.push_back(static_cast<std::byte>(value >> (8 * i) & 0xFF));
  }
}

}  // namespace einkorn
