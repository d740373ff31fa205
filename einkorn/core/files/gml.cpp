#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "einkorn/core/error.h"
#include "einkorn/core/files/graph_file.h"
#include "einkorn/core/files/graph_internal.h"
#include "einkorn/core/files/text_internal.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

struct Token {
  enum class Kind { word, string, open, close, end };
  Kind kind = Kind::end;
  std::string_view text;  // of a string: what stands between its quotes
  std::size_t position = 0;
};

// GML is a list of keys, each followed by a number, a string or a list in brackets.
class GmlReader {
 public:
  GmlReader(std::string_view content, const std::string& path) : content_(content), path_(path) {}

  GraphFile read();

 private:
  struct PendingEdge {
    std::int64_t source = 0;
    std::int64_t target = 0;
    double weight = 1;
    std::size_t position = 0;
  };

  void read_graph();
  void read_node(std::size_t position);
  void read_edge(std::size_t position);
  void connect();
  bool take_key(std::string_view list, Token& key);
  void skip_value(const Token& key);
  void skip_list(std::size_t position);
  std::string scalar(const Token& value) const;
  std::int64_t integer(const Token& key, const Token& value) const;
  Token next();
  template <typename T>
  void set_once(std::optional<T>& slot, T value, const Token& key) const;
  [[noreturn]] void fail(std::size_t position, const std::string& problem) const;

  std::string_view content_;
  const std::string& path_;
  std::size_t position_ = 0;
  GraphFile graph_;
  AttributeCells attributes_;
  std::unordered_map<std::int64_t, std::int64_t> positions_;  // of the nodes by their ids
  std::vector<PendingEdge> edges_;                            // may come before their nodes
};

std::string without_references(std::string_view text);

}  // namespace

GraphFile parse_gml(const std::string& content, const std::string& path) {
  return GmlReader(require_text(content, path), path).read();
}

namespace {

GraphFile GmlReader::read() {
  bool has_graph = false;
  Token key;
  while (take_key("", key)) {
    if (key.text != "graph") {
      skip_value(key);
      continue;
    }
    if (has_graph) fail(key.position, "a second graph, expected one in a file");
    has_graph = true;
    if (next().kind != Token::Kind::open) fail(key.position, "expected '[' behind graph");
    read_graph();
  }
  if (!has_graph) fail(content_.size(), "no graph, expected 'graph [ ... ]'");
  connect();
  graph_.attributes = std::move(attributes_).columns(graph_.nodes.size(), content_.size(), path_);
  return std::move(graph_);
}

void GmlReader::read_graph() {
  Token key;
  while (take_key("graph", key)) {
    if (key.text == "node" || key.text == "edge") {
      if (next().kind != Token::Kind::open) {
        fail(key.position, fmt::format("expected '[' behind {}", key.text));
      }
      if (key.text == "node") {
        read_node(key.position);
      } else {
        read_edge(key.position);
      }
    } else if (key.text == "directed") {
      const std::string value = scalar(next());
      if (value != "0" && value != "1") {
        fail(key.position, fmt::format("expected directed 0 or 1, got '{}'", excerpt(value)));
      }
      graph_.directed = value == "1";
    } else {
      skip_value(key);
    }
  }
}

void GmlReader::read_node(std::size_t position) {
  std::optional<std::int64_t> id;
  std::optional<std::string> label;
  Token key;
  while (take_key("node", key)) {
    const Token value = next();
    if (key.text == "id") {
      set_once(id, integer(key, value), key);
    } else if (value.kind == Token::Kind::open) {
      skip_list(value.position);
    } else if (key.text == "label") {
      set_once(label, scalar(value), key);
    } else if (!attributes_.set(std::string(key.text), graph_.nodes.size(), scalar(value))) {
      fail(key.position, fmt::format("the key {} occurs twice in a node", excerpt(key.text)));
    }
  }
  if (!id) fail(position, "a node without id");
  if (!positions_.try_emplace(*id, static_cast<std::int64_t>(graph_.nodes.size())).second) {
    fail(position, fmt::format("a second node with the id {}", *id));
  }
  graph_.nodes.push_back(label && !label->empty() ? std::move(*label) : fmt::format("{}", *id));
}

void GmlReader::read_edge(std::size_t position) {
  std::optional<std::int64_t> source, target;
  std::optional<std::string> weight, value_as_weight;
  Token key;
  while (take_key("edge", key)) {
    const Token value = next();
    if (key.text == "source") {
      set_once(source, integer(key, value), key);
    } else if (key.text == "target") {
      set_once(target, integer(key, value), key);
    } else if (value.kind == Token::Kind::open) {
      skip_list(value.position);
    } else if (key.text == "weight") {
      set_once(weight, scalar(value), key);
    } else if (key.text == "value") {
      set_once(value_as_weight, scalar(value), key);
    } else {
      scalar(value);
    }
  }
  if (!source || !target) {
    fail(position, fmt::format("an edge without {}", source ? "target" : "source"));
  }
  if (!weight) weight = std::move(value_as_weight);
  const auto number = weight ? to_weight(*weight) : 1;
  if (!number) fail(position, weight_expected(*weight));
  edges_.push_back({*source, *target, *number, position});
}

void GmlReader::connect() {
  const auto position_of = [&](std::int64_t id, std::size_t position) {
    const auto found = positions_.find(id);
    if (found == positions_.end()) {
      fail(position, fmt::format("an edge ends at node {}, which does not exist", id));
    }
    return found->second;
  };
  graph_.edges.reserve(edges_.size());
  for (const PendingEdge& edge : edges_) {
    graph_.edges.push_back({position_of(edge.source, edge.position),
                            position_of(edge.target, edge.position), edge.weight});
  }
}

// Takes the next key of a list; false at the list's end. list is empty for the file as a whole.
bool GmlReader::take_key(std::string_view list, Token& key) {
  key = next();
  if (key.kind == (list.empty() ? Token::Kind::end : Token::Kind::close)) return false;
  if (key.kind == Token::Kind::end) {
    fail(key.position, fmt::format("the file ends within a {}, expected ']'", list));
  }
  if (key.kind != Token::Kind::word || !is_gml_key(key.text)) {
    fail(key.position, fmt::format("expected a key, got '{}'", excerpt(key.text)));
  }
  return true;
}

void GmlReader::skip_value(const Token& key) {
  const Token value = next();
  if (value.kind == Token::Kind::open) {
    skip_list(key.position);
  } else {
    scalar(value);
  }
}

void GmlReader::skip_list(std::size_t position) {
  for (std::size_t depth = 1; depth > 0;) {
    const Token token = next();
    if (token.kind == Token::Kind::end) fail(position, "a list that is never closed");
    if (token.kind == Token::Kind::open) ++depth;
    if (token.kind == Token::Kind::close) --depth;
  }
}

std::string GmlReader::scalar(const Token& value) const {
  if (value.kind == Token::Kind::string) return without_references(value.text);
  if (value.kind != Token::Kind::word || !to_real(value.text)) {
    fail(value.position,
         fmt::format("expected a number, a string or a list, got '{}'", excerpt(value.text)));
  }
  return std::string(value.text);
}

std::int64_t GmlReader::integer(const Token& key, const Token& value) const {
  const auto number = value.kind == Token::Kind::word ? to_integer(value.text) : std::nullopt;
  if (!number) {
    fail(value.position,
         fmt::format("expected a whole number as {}, got '{}'", key.text, excerpt(value.text)));
  }
  return *number;
}

Token GmlReader::next() {
  constexpr std::string_view blanks = " \t\r\n\f\v";
  while (true) {
    position_ = std::min(content_.find_first_not_of(blanks, position_), content_.size());
    if (position_ == content_.size() || content_[position_] != '#') break;
    position_ = std::min(content_.find('\n', position_), content_.size());
  }
  Token token;
  token.position = position_;
  if (position_ == content_.size()) return token;
  if (content_[position_] == '"') {
    const std::size_t end = content_.find('"', position_ + 1);
    if (end == std::string_view::npos) fail(position_, "a string that is never closed");
    token.kind = Token::Kind::string;
    token.text = content_.substr(position_ + 1, end - position_ - 1);
    position_ = end + 1;
    return token;
  }
  if (content_[position_] == '[' || content_[position_] == ']') {
    token.kind = content_[position_] == '[' ? Token::Kind::open : Token::Kind::close;
    token.text = content_.substr(position_, 1);
    ++position_;
    return token;
  }
  token.kind = Token::Kind::word;
  const std::size_t end = content_.find_first_of(" \t\r\n\f\v[]\"", position_);
  token.text = content_.substr(position_, end - position_);
  position_ += token.text.size();
  return token;
}

template <typename T>
void GmlReader::set_once(std::optional<T>& slot, T value, const Token& key) const {
  if (slot) fail(key.position, fmt::format("the key {} occurs twice in a list", key.text));
  slot = std::move(value);
}

void GmlReader::fail(std::size_t position, const std::string& problem) const {
  throw BadFile(path_, line_place(line_at(content_, position)), problem);
}

// References that nobody knows stay as they are: many writers do not escape '&'.
std::string without_references(std::string_view text) {
  constexpr std::size_t longest = 10;
  std::string result;
  while (true) {
    const std::size_t begin = text.find('&');
    result += text.substr(0, begin);
    if (begin == std::string_view::npos) return result;
    text.remove_prefix(begin + 1);
    const std::size_t end = text.substr(0, longest).find(';');
    const auto resolved =
        end == std::string_view::npos ? std::nullopt : resolve_reference(text.substr(0, end));
    if (resolved) {
      result += *resolved;
      text.remove_prefix(end + 1);
    } else {
      result += '&';
    }
  }
}

}  // namespace
}  // namespace einkorn
