// Graphs as files: edge list, GML, GraphML, Matrix Market, each also gzip-compressed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "einkorn/core/options.h"

namespace einkorn {

struct Edge {
  std::int64_t source = 0;  // position in nodes
  std::int64_t target = 0;
  double weight = 1;
};

// A graph as its file tells it: self-loops, duplicates and direction are kept for the caller to
// judge.
struct GraphFile {
  bool directed = false;
  std::vector<std::string> nodes;  // names, as in the file
  std::vector<Edge> edges;
  // attribute -> one value a node, "" where the node has none
  std::map<std::string, std::vector<std::string>> attributes;
};

// Parsers of a whole file in memory; path is only for messages. All throw BadFile with the place.
// Weights that are not finite are refused; negative ones are kept for the caller to judge.

// Lines "u v [weight]", separated by blanks, tabs or commas; a word that begins with '#' or '%'
// begins a comment. Undirected.
GraphFile parse_edge_list(const std::string& content, const std::string& path);

// Nodes are named by their label, else their id. Node attributes are all other scalar keys of a
// node; the edge weight is "weight", else "value", else 1.
GraphFile parse_gml(const std::string& content, const std::string& path);

// Nodes are named by their id. Node attributes by their attr.name; the edge weight is the data key
// named "weight". A document type declaration is refused, so no entity can grow or fetch anything.
GraphFile parse_graphml(const std::string& content, const std::string& path);

// Coordinate or array, real, integer or pattern, general or symmetric; must be square. A symmetric
// file gives an undirected graph, a general one a directed graph. Nodes are named 1, 2, ...; zeros
// of an array are no edges.
GraphFile parse_matrix_market(const std::string& content, const std::string& path);

// By extension: .gml, .graphml/.xml, .mtx, else edge list; ".gz" behind any of them.
GraphFile read_graph(const std::filesystem::path& path);

// Nodes get their positions as ids and their names as labels. Throws InvalidArgument for attributes
// that GML has no key for.
std::string format_gml(const GraphFile& graph);

// Throws InvalidArgument for what an edge list cannot tell: nodes without an edge, names with
// separators. Direction and attributes are left out.
std::string format_edge_list(const GraphFile& graph);

}  // namespace einkorn
