#include "einkorn/core/files/fuzz/fuzz_internal.h"
#include "einkorn/core/files/fuzz/graph_fuzz_internal.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  const auto graph =
      parsed_or_nothing([&] { return parse_edge_list(as_string(data, size), "fuzz"); });
  if (!graph) return 0;
  must_hold(same_graph(*graph, parse_edge_list(format_edge_list(*graph), "fuzz")));
  return 0;
}
