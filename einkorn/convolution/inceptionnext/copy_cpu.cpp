#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/convolution/inceptionnext/copy_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cstring>

#include "einkorn/convolution/inceptionnext/copy_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::inceptionnext {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Whole vectors, the last of which reaches back over the one before it. A call of memcpy for each
// pixel costs more than the copy.
void copy_vectors(const std::byte* from, std::ptrdiff_t from_pitch, std::byte* to,
                  std::ptrdiff_t to_pitch, std::int64_t runs, std::int64_t run_bytes) {
  const hn::ScalableTag<std::uint8_t> d;
  const auto vector_bytes = static_cast<std::int64_t>(hn::Lanes(d));
  if (run_bytes < vector_bytes) {
    for (std::int64_t i = 0; i < runs; ++i) {
      std::memcpy(to + i * to_pitch, from + i * from_pitch, static_cast<std::size_t>(run_bytes));
    }
    return;
  }
  for (std::int64_t i = 0; i < runs; ++i) {
    const auto* source = reinterpret_cast<const std::uint8_t*>(from + i * from_pitch);
    auto* target = reinterpret_cast<std::uint8_t*>(to + i * to_pitch);
    std::int64_t at = 0;
    for (; at + vector_bytes <= run_bytes; at += vector_bytes) {
      hn::StoreU(hn::LoadU(d, source + at), d, target + at);
    }
    at = run_bytes - vector_bytes;
    hn::StoreU(hn::LoadU(d, source + at), d, target + at);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::inceptionnext
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn::inceptionnext {
namespace {

void copy_plainly(const std::byte* from, std::ptrdiff_t from_pitch, std::byte* to,
                  std::ptrdiff_t to_pitch, std::int64_t runs, std::int64_t run_bytes) {
  for (std::int64_t i = 0; i < runs; ++i) {
    std::memcpy(to + i * to_pitch, from + i * from_pitch, static_cast<std::size_t>(run_bytes));
  }
}

const KernelTable<decltype(&copy_plainly)> table =
    EINKORN_SIMD_VERSIONS(copy_plainly, copy_vectors);

}  // namespace

void copy_runs(const std::byte* from, std::ptrdiff_t from_pitch, std::byte* to,
               std::ptrdiff_t to_pitch, std::int64_t runs, std::int64_t run_bytes) {
  table.pick()(from, from_pitch, to, to_pitch, runs, run_bytes);
}

}  // namespace einkorn::inceptionnext
#endif  // HWY_ONCE
