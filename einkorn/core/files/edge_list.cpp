#include <string_view>
#include <unordered_map>

#include "einkorn/core/error.h"
#include "einkorn/core/files/graph_file.h"
#include "einkorn/core/files/graph_internal.h"
#include "einkorn/core/files/text_internal.h"

namespace einkorn {
namespace {

constexpr std::string_view separators = " \t,";

// The next token of a line, empty at its end and where a comment begins.
std::string_view take_word(std::string_view& line) {
  const std::string_view word = take_token(line, separators);
  return word.starts_with('#') || word.starts_with('%') ? std::string_view() : word;
}

}  // namespace

GraphFile parse_edge_list(const std::string& content, const std::string& path) {
  GraphFile graph;
  std::unordered_map<std::string_view, std::int64_t> positions;
  const auto position_of = [&](std::string_view name) {
    const auto [found, added] =
        positions.try_emplace(name, static_cast<std::int64_t>(positions.size()));
    if (added) graph.nodes.emplace_back(name);
    return found->second;
  };
  Lines lines(require_text(content, path));
  while (lines.next()) {
    std::string_view rest = lines.text();
    if (rest.find('\r') != std::string_view::npos) {
      throw BadFile(path, line_place(lines.number()), std::string(bare_carriage_return));
    }
    const std::string_view source = take_word(rest);
    if (source.empty()) continue;
    const std::string_view target = take_word(rest);
    if (target.empty()) {
      throw BadFile(
          path, line_place(lines.number()),
          fmt::format("expected two nodes and perhaps a weight, got only '{}'", excerpt(source)));
    }
    const std::string_view weight = take_word(rest);
    const std::string_view more = weight.empty() ? weight : take_word(rest);
    if (!more.empty()) {
      throw BadFile(
          path, line_place(lines.number()),
          fmt::format("expected two nodes and perhaps a weight, then got '{}'", excerpt(more)));
    }
    Edge edge;
    edge.source = position_of(source);
    edge.target = position_of(target);
    if (!weight.empty()) {
      const auto value = to_weight(weight);
      if (!value) throw BadFile(path, line_place(lines.number()), weight_expected(weight));
      edge.weight = *value;
    }
    graph.edges.push_back(edge);
  }
  return graph;
}

}  // namespace einkorn
