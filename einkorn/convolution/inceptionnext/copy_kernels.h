// Raw copy of equal runs of bytes at regular distances: the identity channels of every pixel.
#pragma once

#include <cstddef>
#include <cstdint>

namespace einkorn::inceptionnext {

// Run i is run_bytes bytes, from `from + i * from_pitch` to `to + i * to_pitch`. No overlap.
void copy_runs(const std::byte* from, std::ptrdiff_t from_pitch, std::byte* to,
               std::ptrdiff_t to_pitch, std::int64_t runs, std::int64_t run_bytes);

}  // namespace einkorn::inceptionnext
