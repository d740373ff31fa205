// What the readers of graphs with named nodes and attributes share.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "einkorn/core/files/graph_file.h"

namespace einkorn {

// Node attributes while a file is read: only the cells that it fills. As whole columns they take
// one cell a node, so a small file with many attributes could ask for any amount of memory.
class AttributeCells {
 public:
  // Nodes come in ascending order. False if the node has a value for the attribute already.
  bool set(const std::string& attribute, std::size_t node, std::string value);

  // What nodes without a value get.
  void set_default(const std::string& attribute, std::string value);

  // Whole columns for that many nodes. Throws BadFile if they are out of proportion to the size of
  // the file.
  std::map<std::string, std::vector<std::string>> columns(std::size_t nodes, std::size_t file_size,
                                                          const std::string& path) &&;

 private:
  struct Column {
    std::size_t last_node = static_cast<std::size_t>(-1);
    std::string default_value;
    std::vector<std::pair<std::size_t, std::string>> cells;
  };
  std::map<std::string, Column> columns_;
};

// Letters, digits and underscores, no digit first.
bool is_gml_key(std::string_view name);

// An edge weight from its text, empty unless it is a finite number, and what to say then.
std::optional<double> to_weight(std::string_view text);
std::string weight_expected(std::string_view got);

}  // namespace einkorn
