// What the fuzz targets share. A target lets a parser read anything: it may throw BadFile and
// nothing else. What it reads, the writer must write so that the parser reads the same again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>

#include "einkorn/core/error.h"

namespace einkorn {

// What parse returns; empty if it throws BadFile.
template <typename Parse>
auto parsed_or_nothing(Parse parse) -> std::optional<decltype(parse())> {
  try {
    return parse();
  } catch (const BadFile&) {
    return std::nullopt;
  }
}

inline void must_hold(bool condition) {
  if (!condition) std::abort();
}

inline std::span<const std::byte> as_span(const std::uint8_t* data, std::size_t size) {
  return std::as_bytes(std::span(data, size));
}

inline std::string as_string(const std::uint8_t* data, std::size_t size) {
  return std::string(reinterpret_cast<const char*>(data), size);
}

}  // namespace einkorn
