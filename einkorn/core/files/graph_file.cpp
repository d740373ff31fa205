#include "einkorn/core/files/graph_file.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/graph_internal.h"
#include "einkorn/core/files/text_internal.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

bool is_weighted(const GraphFile& graph);
void check(const GraphFile& graph);
bool is_canonical_number(const std::string& text);
std::string gml_value(const std::string& text);
std::string gml_string(std::string_view text);
std::string gml_real(double value);

}  // namespace

GraphFile read_graph(const std::filesystem::path& path) {
  std::string extension = lower_ascii(path.extension().string());
  if (extension == ".gz") extension = lower_ascii(path.stem().extension().string());
  const std::string content = read_text(path);
  if (extension == ".gml") return parse_gml(content, path.string());
  if (extension == ".graphml" || extension == ".xml") return parse_graphml(content, path.string());
  if (extension == ".mtx") return parse_matrix_market(content, path.string());
  return parse_edge_list(content, path.string());
}

std::string format_gml(const GraphFile& graph) {
  check(graph);
  for (const auto& [name, values] : graph.attributes) {
    require(is_gml_key(name) && name != "id" && name != "label",
            "the attribute '{}' cannot be a GML key: expected letters, digits and underscores, and "
            "neither id nor label",
            excerpt(name));
  }
  std::string text = "graph [\n";
  if (graph.directed) text += "  directed 1\n";
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    text += fmt::format("  node [\n    id {}\n    label {}\n", i, gml_string(graph.nodes[i]));
    for (const auto& [name, values] : graph.attributes) {
      if (!values[i].empty()) text += fmt::format("    {} {}\n", name, gml_value(values[i]));
    }
    text += "  ]\n";
  }
  const bool weighted = is_weighted(graph);
  for (const Edge& edge : graph.edges) {
    text += fmt::format("  edge [\n    source {}\n    target {}\n", edge.source, edge.target);
    if (weighted) text += fmt::format("    weight {}\n", gml_real(edge.weight));
    text += "  ]\n";
  }
  text += "]\n";
  return text;
}

std::string format_edge_list(const GraphFile& graph) {
  check(graph);
  std::vector<bool> has_edge(graph.nodes.size(), false);
  for (const Edge& edge : graph.edges) {
    has_edge[static_cast<std::size_t>(edge.source)] = true;
    has_edge[static_cast<std::size_t>(edge.target)] = true;
  }
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const std::string& name = graph.nodes[i];
    require(has_edge[i], "the node '{}' has no edge, which an edge list cannot tell; write GML",
            excerpt(name));
    require(!name.empty() && name[0] != '#' && name[0] != '%' &&
                name.find_first_of(" \t,\r\n") == std::string::npos,
            "the node name '{}' cannot stand in an edge list; write GML", excerpt(name));
  }
  const bool weighted = is_weighted(graph);
  std::string text = weighted ? "# source target weight\n" : "# source target\n";
  for (const Edge& edge : graph.edges) {
    text += graph.nodes[static_cast<std::size_t>(edge.source)];
    text += ' ';
    text += graph.nodes[static_cast<std::size_t>(edge.target)];
    if (weighted) text += fmt::format(" {}", edge.weight);
    text += '\n';
  }
  return text;
}

bool AttributeCells::set(const std::string& attribute, std::size_t node, std::string value) {
  Column& column = columns_[attribute];
  if (column.last_node == node) return false;
  column.last_node = node;
  column.cells.emplace_back(node, std::move(value));
  return true;
}

void AttributeCells::set_default(const std::string& attribute, std::string value) {
  columns_[attribute].default_value = std::move(value);
}

std::map<std::string, std::vector<std::string>> AttributeCells::columns(
    std::size_t nodes, std::size_t file_size, const std::string& path) && {
  std::erase_if(columns_, [&](const auto& named) {
    const Column& column = named.second;
    const auto is_empty = [](const auto& cell) { return cell.second.empty(); };
    return column.default_value.empty() && std::ranges::all_of(column.cells, is_empty);
  });
  // A dense attribute takes at least four bytes a node in the file, and few attributes are sparse.
  const std::size_t most = std::max<std::size_t>(file_size, 1 << 20);
  std::size_t size = 0;
  for (const auto& [name, column] : columns_) {
    const std::size_t without_value = nodes - column.cells.size();
    size += nodes + without_value * column.default_value.size();
    if (size > most) {
      throw BadFile(path, fmt::format("attribute '{}'", excerpt(name)),
                    fmt::format("{} attributes of {} nodes take too much memory for a file of {} "
                                "bytes",
                                columns_.size(), nodes, file_size));
    }
  }
  std::map<std::string, std::vector<std::string>> result;
  for (auto& [name, column] : columns_) {
    std::vector<std::string>& values = result[name];
    values.assign(nodes, column.default_value);
    for (auto& [node, value] : column.cells) values[node] = std::move(value);
  }
  return result;
}

bool is_gml_key(std::string_view name) {
  const auto is_letter = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  };
  return !name.empty() && is_letter(name[0]) &&
         std::ranges::all_of(name, [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

std::optional<double> to_weight(std::string_view text) {
  const auto weight = to_real(text);
  return weight && std::isfinite(*weight) ? weight : std::nullopt;
}

std::string weight_expected(std::string_view got) {
  return fmt::format("expected a finite number as weight, got '{}'", excerpt(got));
}

namespace {

bool is_weighted(const GraphFile& graph) {
  return std::ranges::any_of(graph.edges, [](const Edge& edge) { return edge.weight != 1; });
}

void check(const GraphFile& graph) {
  const auto count = static_cast<std::int64_t>(graph.nodes.size());
  for (const Edge& edge : graph.edges) {
    require(edge.source >= 0 && edge.source < count && edge.target >= 0 && edge.target < count,
            "an edge from {} to {} in a graph of {} nodes", edge.source, edge.target, count);
    require(std::isfinite(edge.weight), "an edge weight of {}, expected a finite number",
            edge.weight);
  }
  const auto check_text = [](const std::string& text) {
    require(is_utf8(text) && text.find('\0') == std::string::npos,
            "'{}' is not UTF-8 text without NUL", excerpt(text));
  };
  for (const std::string& name : graph.nodes) check_text(name);
  for (const auto& [name, values] : graph.attributes) {
    require(values.size() == graph.nodes.size(), "the attribute '{}' has {} values for {} nodes",
            excerpt(name), values.size(), graph.nodes.size());
    for (const std::string& value : values) check_text(value);
  }
}

// Whether other readers of GML get the same text back from a number without quotes.
bool is_canonical_number(const std::string& text) {
  if (text.find_first_not_of("0123456789.-") != std::string::npos) return false;
  const auto value = to_real(text);
  // GML's integers have 32 bits.
  if (!value || std::fabs(*value) > 2147483647.0) return false;
  return fmt::format("{}", *value) == text && text != "-0";
}

std::string gml_value(const std::string& text) {
  return is_canonical_number(text) ? text : gml_string(text);
}

// GML is ASCII; other characters are written as references.
std::string gml_string(std::string_view text) {
  std::string quoted = "\"";
  while (!text.empty()) {
    const char32_t character = *take_character(text);
    if (character == '&') {
      quoted += "&amp;";
    } else if (character == '"') {
      quoted += "&quot;";
    } else if (character < 0x20 || character >= 0x7F) {
      quoted += fmt::format("&#{};", static_cast<std::uint32_t>(character));
    } else {
      quoted += static_cast<char>(character);
    }
  }
  return quoted + '"';
}

// GML's reals have a point before the exponent.
std::string gml_real(double value) {
  std::string text = fmt::format("{}", value);
  const std::size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) {
    text.insert(exponent, ".0");
  }
  return text;
}

}  // namespace
}  // namespace einkorn
