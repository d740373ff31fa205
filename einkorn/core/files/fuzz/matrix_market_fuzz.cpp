#include "einkorn/core/files/fuzz/fuzz_internal.h"
#include "einkorn/core/files/fuzz/graph_fuzz_internal.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  const auto graph =
      parsed_or_nothing([&] { return parse_matrix_market(as_string(data, size), "fuzz"); });
  if (!graph) return 0;
  const auto count = static_cast<std::int64_t>(graph->nodes.size());
  for (const Edge& edge : graph->edges) {
    must_hold(edge.source >= 0 && edge.source < count && edge.target >= 0 && edge.target < count);
  }
  return 0;
}
