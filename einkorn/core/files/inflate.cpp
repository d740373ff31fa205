#include <zlib.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <new>

#include "einkorn/core/error.h"
#include "einkorn/core/files/inflate_internal.h"

namespace einkorn {

InflateResult inflate_stream(std::span<const std::byte> content, Wrapping wrapping,
                             std::size_t limit, std::vector<std::byte>& expanded) {
  constexpr std::size_t largest_step = std::size_t{1} << 30;  // zlib counts in 32 bits
  z_stream stream{};
  if (inflateInit2(&stream, wrapping == Wrapping::gzip ? 16 + MAX_WBITS : -MAX_WBITS) != Z_OK) {
    throw std::bad_alloc();
  }
  const std::unique_ptr<z_stream, int (*)(z_stream*)> guard(&stream, inflateEnd);

  // One byte of room beyond the limit tells a stream that ends there from one that goes on.
  const std::size_t ceiling = limit == std::numeric_limits<std::size_t>::max() ? limit : limit + 1;
  std::size_t produced = expanded.size();
  std::size_t consumed = 0;
  // Small at first: a file may consist of very many short streams.
  std::size_t step = 1 << 12;
  int code = Z_OK;
  while (code == Z_OK && produced <= limit) {
    if (produced == expanded.size()) {
      expanded.resize(produced + std::min(step, ceiling - produced));
      step *= 2;
    }
    const std::size_t input = std::min(content.size() - consumed, largest_step);
    const std::size_t room = std::min(expanded.size() - produced, largest_step);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(content.data())) + consumed;
    stream.avail_in = static_cast<uInt>(input);
    stream.next_out = reinterpret_cast<Bytef*>(expanded.data()) + produced;
    stream.avail_out = static_cast<uInt>(room);
    code = inflate(&stream, Z_NO_FLUSH);
    consumed += input - stream.avail_in;
    produced += room - stream.avail_out;
  }
  expanded.resize(std::min(produced, limit));
  if (code == Z_MEM_ERROR) throw std::bad_alloc();
  if (produced > limit) return {InflateStatus::too_large, consumed};
  if (code == Z_STREAM_END) return {InflateStatus::complete, consumed};
  return {code == Z_BUF_ERROR ? InflateStatus::truncated : InflateStatus::corrupt, consumed};
}

std::size_t expansion_limit(std::size_t compressed_size, std::size_t limit) {
  constexpr std::size_t harmless = std::size_t{1} << 30;
  constexpr std::size_t honest_ratio = 256;
  if (compressed_size > std::numeric_limits<std::size_t>::max() / honest_ratio) return limit;
  return std::min(limit, std::max(harmless, compressed_size * honest_ratio));
}

bool is_gzip(std::span<const std::byte> content) {
  if (content.size() < 3) return false;
  const bool magic =
      content[0] == std::byte{0x1f} && content[1] == std::byte{0x8b} && content[2] == std::byte{8};
  // A safetensors file may begin with the same three bytes, as the length of its header; its ninth
  // byte opens the header, and no gzip writer has such a flag.
  return magic && !(content.size() > 8 && content[8] == std::byte{'{'});
}

std::vector<std::byte> expand_gzip(std::span<const std::byte> content, const std::string& path,
                                   std::size_t limit) {
  const std::size_t most = expansion_limit(content.size(), limit);
  std::vector<std::byte> expanded;
  std::size_t position = 0;
  while (position < content.size()) {
    const auto rest = content.subspan(position);
    // Tapes and block devices pad with zeros, and gzip itself lets them pass.
    const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
    if (position > 0 && std::all_of(rest.begin(), rest.end(), is_zero)) break;
    if (!is_gzip(rest)) {
      throw BadFile(path, fmt::format("byte {}", position),
                    "expected another gzip member or the end of the file");
    }
    const InflateResult result = inflate_stream(rest, Wrapping::gzip, most, expanded);
    position += result.consumed;
    switch (result.status) {
      case InflateStatus::complete:
        break;
      case InflateStatus::truncated:
        throw BadFile(path, fmt::format("byte {}", position), "the gzip data end too early");
      case InflateStatus::corrupt:
        throw BadFile(path, fmt::format("byte {}", position), "the gzip data are corrupt");
      case InflateStatus::too_large:
        throw BadFile(path, "",
                      fmt::format("{} bytes of gzip data expand to more than {} bytes, the most "
                                  "that is read",
                                  content.size(), most));
    }
  }
  return expanded;
}

}  // namespace einkorn
