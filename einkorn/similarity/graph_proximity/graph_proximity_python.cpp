#include <torch/extension.h>

#include "einkorn/core/device.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"
#include "einkorn/similarity/graph_proximity/clustering.h"
#include "einkorn/similarity/graph_proximity/competition.h"
#include "einkorn/similarity/graph_proximity/graph_proximity.h"
#include "einkorn/similarity/graph_proximity/random_graphs.h"
#include "einkorn/similarity/graph_proximity/resistance.h"

namespace einkorn::graph_proximity {
namespace {

namespace py = pybind11;
using NoGil = py::call_guard<py::gil_scoped_release>;

template <typename Choice>
Choice choose(const char* what, const std::string& name,
              const std::vector<std::pair<std::string, Choice>>& choices) {
  std::vector<std::string> names;
  std::string list;
  for (const auto& [known, choice] : choices) {
    if (known == name) return choice;
    names.push_back(known);
    list += (list.empty() ? "" : ", ") + known;
  }
  throw InvalidArgument(
      fmt::format("{}: expected one of {}, got '{}'{}", what, list, name, hint(name, names)));
}

GraphPolicy policy_of(const std::string& symmetrize, const std::string& repeated,
                      const std::string& self_loops) {
  return {parse_directed(symmetrize), parse_repeated(repeated), parse_self_loops(self_loops)};
}

Path path_named(const std::string& name) {
  return choose<Path>("path", name,
                      {{"automatic", Path::automatic},
                       {"spectral", Path::spectral},
                       {"positive", Path::positive},
                       {"logarithmic", Path::logarithmic}});
}

Graph read_checked(const std::string& file, const GraphPolicy& policy, bool largest) {
  const Graph graph = load_graph(file, policy);
  return largest ? largest_component(graph) : graph;
}

Proximity make_proximity(const Graph& graph, const std::string& device, bool single_precision,
                         bool normalize_mixture, const std::string& path) {
  return Proximity(graph, {.device = parse_device(device),
                           .single_precision = single_precision,
                           .normalize_mixture = normalize_mixture,
                           .path = path_named(path)});
}

Measure measure_named(const std::string& name, bool log) {
  const Measure measure = parse_measure(name);
  return log ? logarithm(measure) : measure;
}

py::dict kernel_for_python(const Proximity& proximity, const std::string& name, bool log,
                           std::optional<double> parameter) {
  const Kernel kernel = [&] {
    const py::gil_scoped_release release;
    return proximity.kernel(measure_named(name, log), parameter);
  }();
  py::dict result;
  result["values"] = kernel.values;
  result["log_scale"] = kernel.log_scale;
  result["condition"] = kernel.condition;
  result["path"] = to_string(kernel.path);
  return result;
}

py::tuple range_for_python(const Proximity& proximity, const std::string& name) {
  const ParameterRange range = proximity.range(parse_measure(name).family);
  return py::make_tuple(range.symbol, range.low, range.high, range.closed);
}

KMeansOptions kmeans_options(std::int64_t clusters, const std::string& update,
                             const std::string& start, const std::optional<at::Tensor>& adjacency,
                             std::int64_t restarts, std::int64_t max_iterations,
                             std::uint64_t seed) {
  KMeansOptions options{
      .clusters = clusters, .restarts = restarts, .max_iterations = max_iterations, .seed = seed};
  options.update = choose<KMeansUpdate>(
      "update", update, {{"batch", KMeansUpdate::batch}, {"iterative", KMeansUpdate::iterative}});
  options.start = choose<KMeansStart>("start", start,
                                      {{"plus_plus", KMeansStart::plus_plus},
                                       {"one", KMeansStart::one},
                                       {"all", KMeansStart::all}});
  if (adjacency) {
    options.adjacency = *adjacency;
    options.choice = KMeansChoice::modularity;
  }
  return options;
}

py::dict kmeans_for_python(const at::Tensor& kernel, bool spectral, const KMeansOptions& options) {
  const KMeansResult found = [&] {
    const py::gil_scoped_release release;
    return spectral ? spectral_clustering(kernel, options) : kernel_kmeans(kernel, options);
  }();
  py::dict result;
  result["labels"] = found.labels;
  result["inertia"] = found.inertia;
  result["modularity"] = found.modularity;
  result["iterations"] = found.iterations;
  result["converged"] = found.converged;
  return result;
}

py::tuple ward_for_python(const at::Tensor& distances, const std::string& ties) {
  const WardOptions options{choose<WardAlgorithm>("ties", ties,
                                                  {{"chain", WardAlgorithm::nearest_neighbor_chain},
                                                   {"lexicographic", WardAlgorithm::greedy}})};
  const Dendrogram tree = [&] {
    const py::gil_scoped_release release;
    return ward(distances, options);
  }();
  return py::make_tuple(tree.children, tree.heights, tree.sizes);
}

py::list compete_for_python(const std::vector<Graph>& graphs, const std::vector<at::Tensor>& truths,
                            const std::vector<std::string>& measures,
                            const std::vector<double>& s_grid, const std::string& method,
                            std::uint64_t seed) {
  require(graphs.size() == truths.size(), "competition: {} graphs and {} truths", graphs.size(),
          truths.size());
  std::vector<Contestant> contestants;
  for (std::size_t g = 0; g < graphs.size(); ++g) contestants.push_back({graphs[g], truths[g]});
  CompetitionOptions options{.measures = {}, .s_grid = s_grid};
  for (const std::string& name : measures) options.measures.push_back(parse_measure(name));
  options.clustering.method = parse_clustering_method(method);
  options.clustering.kmeans.seed = seed;
  const Competition competition = [&] {
    const py::gil_scoped_release release;
    return compete(contestants, options);
  }();
  py::list rows;
  for (std::size_t m = 0; m < competition.standings.size(); ++m) {
    const Standing& standing = competition.standings[m];
    py::dict row;
    row["measure"] = to_string(standing.measure);
    row["scores"] = competition.scores[m];
    row["mean_scores"] = standing.mean_scores;
    row["best_s"] = s_grid[standing.best_index];
    row["best_score"] = standing.best_score;
    row["standard_error"] = standing.standard_error;
    row["median_score"] = standing.median_score;
    row["copeland"] = standing.copeland;
    row["reject_area"] = standing.mean_area;
    rows.append(row);
  }
  return rows;
}

void bind_graphs(py::module_& module) {
  py::class_<Graph>(module, "Graph")
      .def_readonly("adjacency", &Graph::adjacency)
      .def_readonly("nodes", &Graph::nodes)
      .def_readonly("attributes", &Graph::attributes);
  module.def(
      "from_adjacency",
      [](const at::Tensor& adjacency, const std::string& symmetrize,
         const std::string& self_loops) {
        return graph_from_adjacency(adjacency, policy_of(symmetrize, "refuse", self_loops));
      },
      NoGil());
  module.def(
      "from_edges",
      [](std::vector<std::string> nodes,
         const std::vector<std::tuple<std::int64_t, std::int64_t, double>>& edges, bool directed,
         const std::string& symmetrize, const std::string& repeated,
         const std::string& self_loops) {
        GraphFile file{
            .directed = directed, .nodes = std::move(nodes), .edges = {}, .attributes = {}};
        const auto n = static_cast<std::int64_t>(file.nodes.size());
        for (const auto& [u, v, weight] : edges) {
          require(u >= 0 && v >= 0 && u < n && v < n, "edges: ({}, {}) is not of nodes 0 .. {}", u,
                  v, n - 1);
          file.edges.push_back({u, v, weight});
        }
        return graph_from_file(file, policy_of(symmetrize, repeated, self_loops));
      },
      NoGil());
  module.def(
      "read",
      [](const std::string& file, const std::string& symmetrize, const std::string& repeated,
         const std::string& self_loops, bool largest) {
        return read_checked(file, policy_of(symmetrize, repeated, self_loops), largest);
      },
      NoGil());
  module.def("largest_component", &largest_component, NoGil());
  module.def("classes", &classes, NoGil());
  module.def("zachary_karate_club", &zachary_karate_club, NoGil());
  module.def(
      "sample",
      [](const std::vector<std::int64_t>& sizes,
         const std::vector<std::vector<double>>& probabilities, std::uint64_t seed, bool connected,
         std::int64_t max_attempts) {
        return sample({sizes, probabilities, connected, max_attempts}, seed);
      },
      NoGil());
}

void bind_measures(py::module_& module) {
  module.def("measures", [](bool paper_only) {
    std::vector<std::string> names;
    for (const Measure& measure : paper_only ? paper_measures() : all_measures()) {
      names.push_back(to_string(measure));
    }
    return names;
  });
  py::class_<Proximity>(module, "Proximity")
      .def(py::init(&make_proximity), NoGil())
      .def("spectral_radius", &Proximity::spectral_radius, NoGil())
      .def("range", &range_for_python)
      .def(
          "parameter",
          [](const Proximity& proximity, const std::string& name, double s) {
            return proximity.parameter(parse_measure(name).family, s);
          },
          NoGil())
      .def("kernel", &kernel_for_python)
      .def(
          "distance",
          [](const Proximity& proximity, const std::string& name, bool log,
             std::optional<double> parameter) {
            return proximity.distance(measure_named(name, log), parameter);
          },
          NoGil())
      .def("resistance", &Proximity::resistance, NoGil());
  module.def("distance_from_kernel", &distance_from_kernel, NoGil());
  module.def("kernel_from_distance", &kernel_from_distance, NoGil());
}

void bind_clustering(py::module_& module) {
  module.def("ward", &ward_for_python);
  module.def(
      "cut",
      [](const at::Tensor& children, std::int64_t clusters) {
        require(children.dim() == 2 && children.size(1) == 2 && children.scalar_type() == at::kLong,
                "children: expected shape [n - 1, 2] of i64");
        return cut({.children = children.contiguous(), .heights = {}, .sizes = {}}, clusters);
      },
      NoGil());
  module.def("kmeans", [](const at::Tensor& kernel, bool spectral, std::int64_t clusters,
                          const std::string& update, const std::string& start,
                          const std::optional<at::Tensor>& adjacency, std::int64_t restarts,
                          std::int64_t max_iterations, std::uint64_t seed) {
    return kmeans_for_python(
        kernel, spectral,
        kmeans_options(clusters, update, start, adjacency, restarts, max_iterations, seed));
  });
  module.def("adjusted_rand_index", &adjusted_rand_index, NoGil());
  module.def("rand_index", &rand_index, NoGil());
  module.def("normalized_mutual_information", &normalized_mutual_information, NoGil());
  module.def("misclassified_fraction", &misclassified_fraction, NoGil());
  module.def("modularity", &modularity, NoGil());
  module.def(
      "reject_curve",
      [](const at::Tensor& distances, const at::Tensor& labels) {
        RejectCurve curve = reject_curve(distances, labels);
        return std::make_tuple(at::tensor(curve.x, at::kDouble), at::tensor(curve.y, at::kDouble),
                               curve.area);
      },
      NoGil());
  module.def("compete", &compete_for_python);
}

void bind_resistance(py::module_& module) {
  py::class_<ResistanceNetwork>(module, "ResistanceNetwork")
      .def(py::init([](const std::string& file, const std::string& symmetrize,
                       const std::string& repeated, const std::string& self_loops) {
             return ResistanceNetwork(read_graph(file),
                                      policy_of(symmetrize, repeated, self_loops));
           }),
           NoGil())
      .def(py::init([](const Graph& graph) { return ResistanceNetwork(to_graph_file(graph)); }),
           NoGil())
      .def_property_readonly("size", &ResistanceNetwork::size)
      .def_property_readonly("edges", &ResistanceNetwork::edges)
      .def(
          "resistance",
          [](const ResistanceNetwork& network,
             const std::vector<std::pair<std::int64_t, std::int64_t>>& pairs, double tolerance,
             std::int64_t max_iterations) {
            return network.resistance(pairs, {tolerance, max_iterations});
          },
          NoGil())
      .def(
          "embedding",
          [](const ResistanceNetwork& network, double epsilon, std::uint64_t seed, double tolerance,
             std::int64_t max_iterations) {
            return network.embedding(epsilon, seed, {tolerance, max_iterations});
          },
          NoGil());
}

}  // namespace

void bind(pybind11::module_& module) {
  bind_graphs(module);
  bind_measures(module);
  bind_clustering(module);
  bind_resistance(module);
}

}  // namespace einkorn::graph_proximity
