#include <algorithm>

#include "einkorn/core/files/fuzz/fuzz_internal.h"
#include "einkorn/core/files/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  const auto file =
      parsed_or_nothing([&] { return parse_safetensors(as_span(data, size), "fuzz"); });
  if (!file) return 0;
  const SafetensorsFile again = parse_safetensors(format_safetensors(*file), "fuzz");
  must_hold(again.metadata == file->metadata);
  must_hold(std::ranges::equal(file->tensors, again.tensors, [](const auto& a, const auto& b) {
    return a.first == b.first && a.second.dtype == b.second.dtype &&
           a.second.shape == b.second.shape && a.second.bytes == b.second.bytes;
  }));
  return 0;
}
