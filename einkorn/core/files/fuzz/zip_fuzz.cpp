#include "einkorn/core/files/fuzz/fuzz_internal.h"
#include "einkorn/core/files/zip_internal.h"

// Members of any content, written again in both widths of the format.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  const auto read = [](std::span<const std::byte> archive) {
    std::vector<ZipMember> members;
    std::vector<std::byte> storage;
    for (const ZipEntry& entry : list_zip(archive, "fuzz")) {
      const auto bytes = unpack(entry, "fuzz", storage);
      members.push_back({entry.name, {bytes.begin(), bytes.end()}});
    }
    return members;
  };
  const auto members = parsed_or_nothing([&] { return read(as_span(data, size)); });
  if (!members) return 0;
  for (const std::uint64_t wide_from : {std::uint64_t{0}, std::uint64_t{100}, ~std::uint64_t{0}}) {
    const auto again = read(format_zip(*members, wide_from));
    must_hold(again.size() == members->size());
    for (std::size_t i = 0; i < again.size(); ++i) {
      must_hold(again[i].name == (*members)[i].name && again[i].bytes == (*members)[i].bytes);
    }
  }
  return 0;
}
