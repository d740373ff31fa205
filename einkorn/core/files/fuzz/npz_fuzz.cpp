#include <algorithm>

#include "einkorn/core/files/fuzz/fuzz_internal.h"
#include "einkorn/core/files/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  const auto arrays = parsed_or_nothing([&] { return parse_npz(as_span(data, size), "fuzz"); });
  if (!arrays) return 0;
  const auto again = parse_npz(format_npz(*arrays), "fuzz");
  must_hold(std::ranges::equal(*arrays, again, [](const auto& a, const auto& b) {
    return a.first == b.first && a.second.shape == b.second.shape &&
           a.second.bytes == b.second.bytes;
  }));
  return 0;
}
