// zlib's inflate with limits, for gzip files and for the members of zip files.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace einkorn {

enum class Wrapping { none, gzip };
enum class InflateStatus { complete, truncated, corrupt, too_large };

struct InflateResult {
  InflateStatus status = InflateStatus::complete;
  std::size_t consumed = 0;  // bytes of the input that belong to the stream
};

// Expands the one stream at the start of content and appends it to expanded, which grows with what
// was truly produced and never with what a header announced. Stops where expanded as a whole would
// exceed limit bytes.
InflateResult inflate_stream(std::span<const std::byte> content, Wrapping wrapping,
                             std::size_t limit, std::vector<std::byte>& expanded);

// What a compressed file of that size may expand to, at most limit. Beyond 1 GiB no honest file
// shrinks 256-fold, and a decompression bomb must not fill the memory.
std::size_t expansion_limit(std::size_t compressed_size, std::size_t limit);

bool is_gzip(std::span<const std::byte> content);

// All members of a gzip file, one after the other. Throws BadFile; path is only for messages.
std::vector<std::byte> expand_gzip(std::span<const std::byte> content, const std::string& path,
                                   std::size_t limit);

}  // namespace einkorn
