#include "einkorn/core/files/fuzz/fuzz_internal.h"
#include "einkorn/core/files/inflate_internal.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  constexpr std::size_t limit = 1 << 20;
  const auto expanded =
      parsed_or_nothing([&] { return expand_gzip(as_span(data, size), "fuzz", limit); });
  if (expanded) must_hold(expanded->size() <= limit);
  return 0;
}
