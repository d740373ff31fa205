#include "einkorn/core/files/fuzz/fuzz_internal.h"
#include "einkorn/core/files/fuzz/graph_fuzz_internal.h"

// There is no writer of GraphML, but what it holds beside attributes must survive as GML.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  auto graph = parsed_or_nothing([&] { return parse_graphml(as_string(data, size), "fuzz"); });
  if (!graph) return 0;
  for (const auto& [name, values] : graph->attributes) {
    must_hold(values.size() == graph->nodes.size());
  }
  graph->attributes.clear();
  const GraphFile again = parse_gml(format_gml(*graph), "fuzz");
  must_hold(again.directed == graph->directed && same_edges(again, *graph));
  return 0;
}
