#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "einkorn/core/error.h"
#include "einkorn/core/files/graph_file.h"
#include "einkorn/core/files/graph_internal.h"
#include "einkorn/core/files/text_internal.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

// Pulls elements and text out of XML, one at a time. Comments and processing instructions are
// passed over. There are no document types, hence no entities but the five that XML itself has.
class XmlReader {
 public:
  enum class Event { start, end, text, finish };

  XmlReader(std::string_view content, const std::string& path) : content_(content), path_(path) {}

  Event next();

  // Of the element that started or ended last, without its namespace prefix.
  std::string_view name() const { return name_; }
  const std::string& text() const { return text_; }
  std::size_t position() const { return event_position_; }

  // An attribute of the element that started last.
  std::optional<std::string> attribute(std::string_view name) const;

  // Goes to the end of the element that started last.
  void skip_element();

  // The text of the element that started last, up to its end; elements in it are passed over.
  std::string read_text();

  [[noreturn]] void fail(std::size_t position, const std::string& problem) const;

 private:
  struct Attribute {
    std::string_view name;
    std::string value;
  };

  void read_start();
  void read_attributes();
  void read_end();
  void read_characters();
  bool pass_over();
  std::string_view take_section(std::string_view begin, std::string_view end,
                                std::string_view what);
  std::string_view take_name();
  std::string resolve(std::string_view raw, std::size_t position) const;
  void skip_blanks();
  bool at(std::string_view text) const { return content_.substr(position_).starts_with(text); }

  std::string_view content_;
  const std::string& path_;
  std::size_t position_ = 0;
  std::size_t event_position_ = 0;
  std::vector<std::string_view> open_;  // elements, with their prefixes
  bool has_root_ = false;
  bool ends_at_once_ = false;  // <element/>
  std::string_view name_;
  std::string text_;
  std::vector<Attribute> attributes_;
};

class GraphmlReader {
 public:
  GraphmlReader(std::string_view content, const std::string& path)
      : xml_(content, path), content_(content), path_(path) {}

  GraphFile read();

 private:
  struct Key {
    std::string name;
    std::optional<std::string> default_value;
    bool is_for_nodes = false;
    bool is_for_edges = false;
  };
  struct PendingEdge {
    std::string source;
    std::string target;
    double weight = 1;
    std::size_t position = 0;
  };

  bool next_child();
  void read_key();
  void read_graph();
  void read_node();
  void read_edge();
  void connect();
  const Key& key_of_data() const;
  double weight(std::string_view text, std::size_t position) const;
  std::string require_attribute(std::string_view name) const;

  XmlReader xml_;
  std::string_view content_;
  const std::string& path_;
  GraphFile graph_;
  AttributeCells attributes_;
  double default_weight_ = 1;
  std::unordered_map<std::string, Key> keys_;
  std::unordered_map<std::string, std::int64_t> positions_;  // of the nodes by their ids
  std::vector<PendingEdge> edges_;                           // may come before their nodes
};

std::string_view without_prefix(std::string_view name);

}  // namespace

GraphFile parse_graphml(const std::string& content, const std::string& path) {
  return GraphmlReader(require_text(content, path), path).read();
}

namespace {

GraphFile GraphmlReader::read() {
  while (xml_.next() == XmlReader::Event::text) {
  }
  if (xml_.name() != "graphml") {
    xml_.fail(xml_.position(),
              fmt::format("expected the element graphml, got '{}'", excerpt(xml_.name())));
  }
  bool has_graph = false;
  while (next_child()) {
    if (xml_.name() == "key") {
      if (has_graph) xml_.fail(xml_.position(), "a key behind the graph, expected it before");
      read_key();
    } else if (xml_.name() == "graph") {
      if (has_graph) xml_.fail(xml_.position(), "a second graph, expected one in a file");
      has_graph = true;
      read_graph();
    } else {
      xml_.skip_element();
    }
  }
  while (xml_.next() != XmlReader::Event::finish) {
  }
  if (!has_graph) xml_.fail(content_.size(), "no graph, expected an element graph");
  connect();
  graph_.attributes = std::move(attributes_).columns(graph_.nodes.size(), content_.size(), path_);
  return std::move(graph_);
}

// Goes to the next element within the one that is open; false at its end.
bool GraphmlReader::next_child() {
  while (true) {
    const XmlReader::Event event = xml_.next();
    if (event == XmlReader::Event::start) return true;
    if (event == XmlReader::Event::end) return false;
  }
}

void GraphmlReader::read_key() {
  const std::size_t position = xml_.position();
  const std::string id = require_attribute("id");
  const std::string domain = xml_.attribute("for").value_or("all");
  Key key;
  key.name = xml_.attribute("attr.name").value_or(id);
  key.is_for_nodes = domain == "node" || domain == "all";
  key.is_for_edges = domain == "edge" || domain == "all";
  while (next_child()) {
    if (xml_.name() == "default") {
      key.default_value = xml_.read_text();
    } else {
      xml_.skip_element();
    }
  }
  if (key.default_value && key.is_for_nodes) attributes_.set_default(key.name, *key.default_value);
  if (key.default_value && key.is_for_edges && key.name == "weight") {
    default_weight_ = weight(*key.default_value, position);
  }
  if (!keys_.try_emplace(id, std::move(key)).second) {
    xml_.fail(position, fmt::format("a second key with the id '{}'", excerpt(id)));
  }
}

void GraphmlReader::read_graph() {
  const std::string direction = require_attribute("edgedefault");
  if (direction != "directed" && direction != "undirected") {
    xml_.fail(xml_.position(), fmt::format("expected edgedefault directed or undirected, got '{}'",
                                           excerpt(direction)));
  }
  graph_.directed = direction == "directed";
  while (next_child()) {
    if (xml_.name() == "node") {
      read_node();
    } else if (xml_.name() == "edge") {
      read_edge();
    } else if (xml_.name() == "hyperedge") {
      xml_.fail(xml_.position(), "hyperedges are not supported, expected edges between two nodes");
    } else {
      xml_.skip_element();
    }
  }
}

void GraphmlReader::read_node() {
  const std::string id = require_attribute("id");
  const std::size_t node = graph_.nodes.size();
  if (!positions_.try_emplace(id, static_cast<std::int64_t>(node)).second) {
    xml_.fail(xml_.position(), fmt::format("a second node with the id '{}'", excerpt(id)));
  }
  while (next_child()) {
    if (xml_.name() == "data") {
      const std::size_t position = xml_.position();
      const Key& key = key_of_data();
      if (!attributes_.set(key.name, node, xml_.read_text())) {
        xml_.fail(position,
                  fmt::format("the attribute '{}' occurs twice in a node", excerpt(key.name)));
      }
    } else if (xml_.name() == "graph") {
      xml_.fail(xml_.position(), "graphs within nodes are not supported");
    } else {
      xml_.skip_element();
    }
  }
  graph_.nodes.push_back(id);
}

void GraphmlReader::read_edge() {
  PendingEdge edge;
  edge.position = xml_.position();
  edge.source = require_attribute("source");
  edge.target = require_attribute("target");
  const auto directed = xml_.attribute("directed");
  if (directed && *directed != (graph_.directed ? "true" : "false")) {
    xml_.fail(edge.position,
              fmt::format("directed is '{}' in a graph of {} edges, expected the same "
                          "direction for all",
                          excerpt(*directed), graph_.directed ? "directed" : "undirected"));
  }
  std::optional<double> own_weight;
  while (next_child()) {
    if (xml_.name() != "data") {
      xml_.skip_element();
      continue;
    }
    const std::size_t position = xml_.position();
    const bool is_weight = key_of_data().name == "weight";
    const std::string value = xml_.read_text();
    if (!is_weight) continue;
    if (own_weight) xml_.fail(position, "a second weight of an edge");
    own_weight = weight(value, position);
  }
  edge.weight = own_weight.value_or(default_weight_);
  edges_.push_back(std::move(edge));
}

void GraphmlReader::connect() {
  const auto position_of = [&](const std::string& id, std::size_t position) {
    const auto found = positions_.find(id);
    if (found == positions_.end()) {
      xml_.fail(position,
                fmt::format("an edge ends at node '{}', which does not exist", excerpt(id)));
    }
    return found->second;
  };
  graph_.edges.reserve(edges_.size());
  for (const PendingEdge& edge : edges_) {
    graph_.edges.push_back({position_of(edge.source, edge.position),
                            position_of(edge.target, edge.position), edge.weight});
  }
}

const GraphmlReader::Key& GraphmlReader::key_of_data() const {
  const std::string id = require_attribute("key");
  const auto found = keys_.find(id);
  if (found == keys_.end()) {
    xml_.fail(xml_.position(),
              fmt::format("data of the key '{}', which is not declared before", excerpt(id)));
  }
  return found->second;
}

double GraphmlReader::weight(std::string_view text, std::size_t position) const {
  const auto number = to_weight(text);
  if (!number) xml_.fail(position, weight_expected(text));
  return *number;
}

std::string GraphmlReader::require_attribute(std::string_view name) const {
  auto value = xml_.attribute(name);
  if (!value) {
    xml_.fail(xml_.position(),
              fmt::format("the element {} lacks its attribute {}", excerpt(xml_.name()), name));
  }
  return *std::move(value);
}

XmlReader::Event XmlReader::next() {
  if (ends_at_once_) {
    ends_at_once_ = false;
    open_.pop_back();
    return Event::end;
  }
  while (pass_over()) {
  }
  event_position_ = position_;
  if (position_ == content_.size()) {
    if (!open_.empty()) {
      fail(position_, fmt::format("the file ends within the element {}", excerpt(open_.back())));
    }
    if (!has_root_) fail(position_, "no XML element");
    return Event::finish;
  }
  if (at("</")) {
    read_end();
    return Event::end;
  }
  if (at("<") && !at("<![CDATA[")) {
    read_start();
    return Event::start;
  }
  read_characters();
  return Event::text;
}

std::optional<std::string> XmlReader::attribute(std::string_view name) const {
  for (const Attribute& attribute : attributes_) {
    if (attribute.name == name) return attribute.value;
  }
  return std::nullopt;
}

void XmlReader::skip_element() {
  const std::size_t depth = open_.size();
  while (open_.size() >= depth) next();
}

std::string XmlReader::read_text() {
  const std::size_t depth = open_.size();
  std::string text;
  while (open_.size() >= depth) {
    if (next() == Event::text && open_.size() == depth) text += text_;
  }
  return std::string(trim(text));
}

void XmlReader::fail(std::size_t position, const std::string& problem) const {
  throw BadFile(path_, line_place(line_at(content_, position)), problem);
}

void XmlReader::read_start() {
  // Deeper nesting says nothing in GraphML and would only serve to exhaust somebody.
  constexpr std::size_t deepest = 64;
  if (open_.empty() && has_root_) fail(position_, "a second element behind the first");
  has_root_ = true;
  ++position_;
  const std::string_view full_name = take_name();
  open_.push_back(full_name);
  if (open_.size() > deepest) {
    fail(event_position_, fmt::format("elements nested more than {} deep", deepest));
  }
  name_ = without_prefix(full_name);
  read_attributes();
}

// Reads up to and with the end of the tag.
void XmlReader::read_attributes() {
  // A quadratic search for duplicates is fine for as many as any format has.
  constexpr std::size_t most = 100;
  attributes_.clear();
  while (true) {
    const std::size_t before_blanks = position_;
    skip_blanks();
    if (at("/>")) {
      position_ += 2;
      ends_at_once_ = true;
      return;
    }
    if (at(">")) {
      ++position_;
      return;
    }
    if (position_ == before_blanks) fail(position_, "expected a blank, '>' or '/>' in a tag");
    const std::size_t begin = position_;
    const std::string_view name = take_name();
    if (std::ranges::find(attributes_, name, &Attribute::name) != attributes_.end()) {
      fail(begin, fmt::format("a second attribute {}", excerpt(name)));
    }
    if (attributes_.size() == most) fail(begin, fmt::format("more than {} attributes", most));
    skip_blanks();
    if (!at("=")) fail(position_, "expected '=' behind the name of an attribute");
    ++position_;
    skip_blanks();
    const char quote = at("\"") ? '"' : '\'';
    if (position_ == content_.size() || content_[position_] != quote) {
      fail(position_, "expected a value in quotes");
    }
    const std::size_t end = content_.find(quote, position_ + 1);
    if (end == std::string_view::npos) fail(position_, "a quote that is never closed");
    const std::string_view raw = content_.substr(position_ + 1, end - position_ - 1);
    if (raw.find('<') != std::string_view::npos) fail(position_, "a '<' within a value in quotes");
    attributes_.push_back({name, resolve(raw, position_)});
    position_ = end + 1;
  }
}

void XmlReader::read_end() {
  position_ += 2;
  const std::string_view full_name = take_name();
  skip_blanks();
  if (!at(">")) fail(position_, "expected '>'");
  ++position_;
  if (open_.empty() || open_.back() != full_name) {
    fail(event_position_, open_.empty() ? fmt::format("</{}> closes nothing", excerpt(full_name))
                                        : fmt::format("expected </{}>, got </{}>",
                                                      excerpt(open_.back()), excerpt(full_name)));
  }
  name_ = without_prefix(full_name);
  open_.pop_back();
}

// Up to the next tag, or one CDATA section.
void XmlReader::read_characters() {
  if (at("<![CDATA[")) {
    text_ = take_section("<![CDATA[", "]]>", "a CDATA section");
  } else {
    const std::size_t begin = position_;
    position_ = std::min(content_.find('<', begin), content_.size());
    text_ = resolve(content_.substr(begin, position_ - begin), begin);
  }
  if (open_.empty() && !trim(text_).empty()) {
    fail(event_position_, fmt::format("expected an element, got '{}'", excerpt(trim(text_))));
  }
}

// Comments, processing instructions and the XML declaration; false where there is none.
bool XmlReader::pass_over() {
  if (at("<!--")) {
    take_section("<!--", "-->", "a comment");
  } else if (at("<?")) {
    take_section("<?", "?>", "a processing instruction");
  } else if (at("<!DOCTYPE")) {
    fail(position_, "a document type declaration, which is not allowed");
  } else {
    return false;
  }
  return true;
}

std::string_view XmlReader::take_section(std::string_view begin, std::string_view end,
                                         std::string_view what) {
  const std::size_t first = position_ + begin.size();
  const std::size_t last = content_.find(end, first);
  if (last == std::string_view::npos) fail(position_, fmt::format("{} that never ends", what));
  position_ = last + end.size();
  return content_.substr(first, last - first);
}

std::string_view XmlReader::take_name() {
  const std::size_t end =
      std::min(content_.find_first_of(" \t\r\n/>=<\"'&", position_), content_.size());
  const std::string_view name = content_.substr(position_, end - position_);
  if (name.empty() || name[0] == '!' || name[0] == '?' || (name[0] >= '0' && name[0] <= '9')) {
    fail(position_,
         fmt::format("expected a name, got '{}'", excerpt(content_.substr(position_, 8))));
  }
  position_ = end;
  return name;
}

std::string XmlReader::resolve(std::string_view raw, std::size_t position) const {
  constexpr std::size_t longest = 10;
  std::string result;
  std::size_t done = 0;
  while (true) {
    const std::size_t begin = raw.find('&', done);
    result += raw.substr(done, begin - done);
    if (begin == std::string_view::npos) return result;
    const std::size_t end = raw.substr(begin, longest + 2).find(';');
    const auto resolved = end == std::string_view::npos
                              ? std::nullopt
                              : resolve_reference(raw.substr(begin + 1, end - 1));
    if (!resolved) {
      fail(position + begin, fmt::format("expected a reference such as &amp; or &#233;, got '{}'",
                                         excerpt(raw.substr(begin, 12))));
    }
    result += *resolved;
    done = begin + end + 1;
  }
}

void XmlReader::skip_blanks() {
  position_ = std::min(content_.find_first_not_of(" \t\r\n", position_), content_.size());
}

std::string_view without_prefix(std::string_view name) {
  return name.substr(name.find(':') + 1);  // npos + 1 is 0
}

}  // namespace
}  // namespace einkorn
