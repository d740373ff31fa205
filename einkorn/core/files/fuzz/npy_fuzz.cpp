#include "einkorn/core/files/fuzz/fuzz_internal.h"
#include "einkorn/core/files/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  const auto array = parsed_or_nothing([&] { return parse_npy(as_span(data, size), "fuzz"); });
  if (!array) return 0;
  if (array->kind != 'c') {
    must_hold(array->to_doubles().size() == static_cast<std::size_t>(array->size()));
  }
  const NpyArray again = parse_npy(format_npy(*array), "fuzz");
  must_hold(again.kind == array->kind && again.item_size == array->item_size &&
            again.shape == array->shape && again.fortran_order == array->fortran_order &&
            again.bytes == array->bytes);
  return 0;
}
