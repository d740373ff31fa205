#include "einkorn/core/system.h"

#include <ATen/ATen.h>

#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/csv.h"
#include "einkorn/core/files/graph_file.h"
#include "einkorn/core/tensor.h"
#include "einkorn/core/text.h"
#include "einkorn/similarity/graph_proximity/clustering.h"
#include "einkorn/similarity/graph_proximity/competition.h"
#include "einkorn/similarity/graph_proximity/graph_proximity.h"
#include "einkorn/similarity/graph_proximity/graph_proximity_experiments.h"
#include "einkorn/similarity/graph_proximity/proximity_kernels.h"
#include "einkorn/similarity/graph_proximity/random_graphs.h"
#include "einkorn/similarity/graph_proximity/resistance.h"

namespace einkorn::graph_proximity {
namespace {

std::vector<std::string> measure_names() {
  std::vector<std::string> names;
  for (const Measure& measure : all_measures()) names.push_back(to_string(measure));
  return names;
}

std::vector<Option> operator+(std::vector<Option> first, const std::vector<Option>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

Option graph_option() {
  return input_file("graph").positional().required().help(
      "edge list, .gml, .graphml or .mtx, also with .gz; or the adjacency matrix as .npy or .npz");
}

std::vector<Option> policy_options() {
  return {choice("symmetrize", {"refuse", "sum", "mean", "maximum"})
              .otherwise("refuse")
              .help("how the two directions of a directed graph become one edge"),
          choice("repeated", {"refuse", "sum", "maximum"})
              .otherwise("refuse")
              .help("the weight of an edge that is listed more than once"),
          choice("self-loops", {"refuse", "drop", "keep"})
              .otherwise("refuse")
              .help("kept loops count once in the degree")};
}

Option component_option() {
  return choice("component", {"all", "largest"})
      .otherwise("all")
      .help("the whole graph, or its largest connected component alone");
}

std::vector<Option> parameter_options() {
  return {real("parameter").help("the family's own parameter: t, a, alpha, beta or lambda"),
          real("s").above(0).below(1).help(
              "the parameter on the axis that all families share, instead of --parameter")};
}

GraphPolicy policy_of(const Options& options) {
  return {parse_directed(options.text("symmetrize")), parse_repeated(options.text("repeated")),
          parse_self_loops(options.text("self-loops"))};
}

Graph read_checked(const std::filesystem::path& path, const Options& options) {
  const Graph graph = load_graph(path, policy_of(options));
  return options.text("component") == "largest" ? largest_component(graph) : graph;
}

// --parameter, or --s on the shared axis, or `fallback` on that axis; nothing for a family without.
std::optional<double> parameter_of(const Options& options, const Proximity& proximity,
                                   Measure measure, std::optional<double> fallback = std::nullopt) {
  require(!(options.has("parameter") && options.has("s")),
          "--parameter and --s both name the parameter; give one of them");
  if (options.has("parameter")) return options.real("parameter");
  const bool wanted = !proximity.range(measure.family).symbol.empty();
  if (options.has("s")) {
    require(wanted, "--s: {} has no parameter", to_string(measure));
    return proximity.parameter(measure.family, options.real("s"));
  }
  return wanted && fallback ? proximity.parameter(measure.family, *fallback) : std::nullopt;
}

void describe(Report& report, const Proximity& proximity, Measure measure,
              std::optional<double> parameter) {
  report.set("measure", to_string(measure));
  if (parameter) report.set(proximity.range(measure.family).symbol, *parameter);
  report.set("nodes", proximity.graph().size());
  report.set("edges", (proximity.graph().adjacency.triu() > 0).sum().item<std::int64_t>());
}

Report run_measure(const Options& options, const Progress&) {
  Measure measure = parse_measure(options.text("measure"));
  if (options.flag("log")) measure = logarithm(measure);
  const Proximity proximity(read_checked(options.input("graph"), options),
                            {.device = options.device(),
                             .single_precision = options.text("precision") == "single",
                             .normalize_mixture = !options.flag("raw-mixture")});
  require(!options.flag("raw-mixture") || measure.family == Family::shortest_path_commute_time,
          "--raw-mixture: only SP-CT is a mixture");
  const auto parameter = parameter_of(options, proximity, measure);
  Report report;
  describe(report, proximity, measure, parameter);
  at::Tensor matrix;
  if (options.flag("distance")) {
    matrix = proximity.distance(measure, parameter);
    if (options.flag("root")) matrix = matrix.sqrt();
  } else {
    require(!options.flag("root"), "--root: only with --distance");
    const Kernel kernel = proximity.kernel(measure, parameter);
    matrix = kernel.values;
    report.set("log_scale", kernel.log_scale);
    report.set("condition", kernel.condition);
    report.set("path", to_string(kernel.path));
    if (kernel.log_scale != 0) {
      report.notes.push_back("the kernel would overflow: it is exp(log_scale) times the matrix");
    }
  }
  report.set("smallest", matrix.min().item<double>());
  report.set("largest", matrix.max().item<double>());
  write_tensor(options.output("out"), matrix);
  return report;
}

ClusteringOptions clustering_options(const Options& options, std::int64_t clusters) {
  ClusteringOptions clustering{.method = parse_clustering_method(options.text("method"))};
  const bool is_ward = clustering.method == ClusteringMethod::ward;
  for (const char* name : {"update", "start", "restarts"}) {
    require(!is_ward || !options.has(name), "--{}: only with --method kmeans or spectral", name);
  }
  require(is_ward || !options.has("ties"), "--ties: only with --method ward");
  clustering.kmeans.clusters = clusters;
  clustering.kmeans.seed = options.seed();
  if (options.has("ties") && options.text("ties") == "lexicographic") {
    clustering.ward.algorithm = WardAlgorithm::greedy;
  }
  if (options.has("update") && options.text("update") == "iterative") {
    clustering.kmeans.update = KMeansUpdate::iterative;
  }
  if (options.has("start")) {
    const std::string& start = options.text("start");
    clustering.kmeans.start = start == "one"   ? KMeansStart::one
                              : start == "all" ? KMeansStart::all
                                               : KMeansStart::plus_plus;
  }
  if (options.has("restarts")) clustering.kmeans.restarts = options.integer("restarts");
  return clustering;
}

std::vector<Option> method_options() {
  return {
      choice("method", {"ward", "kmeans", "spectral"}).otherwise("ward").help("clustering method"),
      choice("ties", {"chain", "lexicographic"})
          .help("Ward: equally near pairs as nearest-neighbour chains meet them (default), or the "
                "first in lexicographic order"),
      choice("update", {"batch", "iterative"})
          .help("k-means: all nodes at once (default), or one by one"),
      choice("start", {"plus-plus", "one", "all"})
          .help("k-means: k-means++ (default), random nodes as centres, or random clusters"),
      integer("restarts")
          .at_least(1)
          .help("k-means: starts, of which the best counts (default 10)"),
      seed_option()};
}

void write_labels(const OutputPath& path, const Graph& graph, const at::Tensor& labels,
                  const char* column) {
  CsvTable table{.path = path.path.string(), .columns = {"node", column}, .rows = {}, .lines = {}};
  for (std::int64_t i = 0; i < graph.size(); ++i) {
    table.rows.push_back({graph.nodes[i], std::to_string(labels[i].item<std::int64_t>())});
  }
  write_csv(path, table);
}

Plot reject_plot(std::vector<std::pair<std::string, RejectCurve>> curves) {
  Plot plot{"Reject curves", "share of pairs between classes", "share of pairs within classes", {}};
  for (auto& [name, curve] : curves) {
    plot.series.push_back({name, std::move(curve.x), std::move(curve.y), Mark::line});
  }
  return plot;
}

void add_scores(Report& report, const at::Tensor& labels, const at::Tensor& truth) {
  report.set("ari", adjusted_rand_index(labels, truth));
  report.set("nmi", normalized_mutual_information(labels, truth));
  report.set("rand_index", rand_index(labels, truth));
  report.set("misclassified", misclassified_fraction(labels, truth));
}

std::vector<std::int64_t> to_list(const at::Tensor& labels) {
  const auto* data = labels.const_data_ptr<std::int64_t>();
  return {data, data + labels.numel()};
}

Report run_cluster(const Options& options, const Progress&) {
  const Measure measure = parse_measure(options.text("measure"));
  const Proximity proximity(read_checked(options.input("graph"), options),
                            {.device = options.device()});
  const Graph& graph = proximity.graph();
  const auto parameter = parameter_of(options, proximity, measure, 0.5);
  const ClusteringOptions clustering = clustering_options(options, options.integer("clusters"));
  const at::Tensor labels = cluster(proximity, measure, parameter, clustering);
  Report report;
  describe(report, proximity, measure, parameter);
  report.set("labels", to_list(labels));
  report.set("sizes", to_list(at::bincount(labels)));
  report.set("modularity", modularity(graph.adjacency, labels));
  Table table{"Clusters", {"node", "cluster"}, {}};
  if (options.has("truth")) {
    const std::string& attribute = options.text("truth");
    const at::Tensor truth = classes(graph, attribute);
    add_scores(report, labels, truth);
    const RejectCurve curve = reject_curve(proximity.distance(measure, parameter), truth);
    report.set("reject_area", curve.area);
    report.plots.push_back(reject_plot({{to_string(measure), curve}}));
    table.columns.push_back(attribute);
  }
  for (std::int64_t i = 0; i < graph.size(); ++i) {
    table.rows.push_back({graph.nodes[i], labels[i].item<std::int64_t>()});
    if (options.has("truth")) {
      table.rows.back().push_back(graph.attributes.at(options.text("truth"))[i]);
    }
  }
  report.tables.push_back(std::move(table));
  if (options.has("out")) write_labels(options.output("out"), graph, labels, "cluster");
  return report;
}

BlockModel planted_model(const std::vector<double>& numbers, const char* option) {
  require(numbers.size() == 4 && numbers[0] == std::floor(numbers[0]) &&
              numbers[1] == std::floor(numbers[1]) && std::abs(numbers[0]) < 1e15 &&
              std::abs(numbers[1]) < 1e15,
          "--{}: expected NODES,CLASSES,P_IN,P_OUT, such as 100,2,0.3,0.1", option);
  return planted_partition(static_cast<std::int64_t>(numbers[0]),
                           static_cast<std::int64_t>(numbers[1]), numbers[2], numbers[3]);
}

std::vector<Contestant> contestants_of(const Options& options) {
  std::vector<Contestant> contestants;
  require(options.has("graphs") != options.has("random"),
          "give either graph files or --random, to say what is clustered");
  if (options.has("random")) {
    for (const char* name : {"truth", "component", "symmetrize", "repeated", "self-loops"}) {
      require(!options.given(name), "--{}: only with graph files", name);
    }
    const BlockModel model = planted_model(options.reals("random"), "random");
    const std::int64_t count = options.has("count") ? options.integer("count") : 20;
    for (std::int64_t g = 0; g < count; ++g) {
      Graph graph = sample(model, options.seed() + static_cast<std::uint64_t>(g));
      const at::Tensor truth = classes(graph, "class");
      contestants.push_back({std::move(graph), truth});
    }
    return contestants;
  }
  require(!options.has("count"), "--count: only with --random");
  require(options.has("truth"), "--truth is missing: the node attribute that tells the classes");
  for (const std::string& path : split(options.text("graphs"), ',')) {
    Graph graph = read_checked(std::string(trim(path)), options);
    const at::Tensor truth = classes(graph, options.text("truth"));
    contestants.push_back({std::move(graph), truth});
  }
  return contestants;
}

std::vector<Measure> measures_of(const std::string& list) {
  if (list == "paper") return paper_measures();
  if (list == "all") return all_measures();
  std::vector<Measure> measures;
  for (const std::string& name : split(list, ',')) {
    measures.push_back(parse_measure(std::string(trim(name))));
  }
  return measures;
}

void write_scores(const OutputPath& path, const Competition& competition,
                  const CompetitionOptions& how) {
  CsvTable table{.path = path.path.string(),
                 .columns = {"measure", "s", "graph", "ari"},
                 .rows = {},
                 .lines = {}};
  for (std::size_t m = 0; m < how.measures.size(); ++m) {
    for (std::size_t s = 0; s < how.s_grid.size(); ++s) {
      for (std::size_t g = 0; g < competition.scores[m][s].size(); ++g) {
        table.rows.push_back({to_string(how.measures[m]), fmt::format("{}", how.s_grid[s]),
                              std::to_string(g), fmt::format("{}", competition.scores[m][s][g])});
      }
    }
  }
  write_csv(path, table);
}

Report run_compare(const Options& options, const Progress& progress) {
  const std::vector<Contestant> contestants = contestants_of(options);
  const CompetitionOptions how{.measures = measures_of(options.text("measures")),
                               .s_grid = parameter_grid(options.integer("points")),
                               .clustering = clustering_options(options, 1),
                               .proximity = {.device = options.device()}};
  const Competition competition = compete(contestants, how, progress);
  Report report;
  std::vector<std::string> names;
  std::vector<double> best;
  std::vector<std::int64_t> copeland;
  std::vector<std::pair<std::string, RejectCurve>> curves;
  for (const Standing& standing : competition.standings) {
    names.push_back(to_string(standing.measure));
    best.push_back(standing.best_score);
    copeland.push_back(standing.copeland);
    curves.emplace_back(names.back(), standing.curve);
  }
  const auto winner = std::max_element(best.begin(), best.end()) - best.begin();
  report.set("graphs", static_cast<std::int64_t>(contestants.size()));
  report.set("winner", names[static_cast<std::size_t>(winner)]);
  report.set("measures", names);
  report.set("best_ari", best);
  report.set("copeland", copeland);
  report.tables.push_back(standings_table(competition, how.s_grid));
  report.plots = {score_plot(competition, how.s_grid), reject_plot(std::move(curves))};
  if (options.has("out")) write_scores(options.output("out"), competition, how);
  return report;
}

BlockModel block_model_of(const Options& options) {
  require(options.has("planted") != options.has("sizes"),
          "give either --planted, or --sizes with --probabilities");
  if (options.has("planted")) {
    require(!options.has("probabilities"), "--probabilities: only with --sizes");
    return planted_model(options.reals("planted"), "planted");
  }
  require(options.has("probabilities"), "--probabilities is missing: the matrix, row by row");
  BlockModel model{.sizes = options.integers("sizes"), .probabilities = {}};
  const std::vector<double>& entries = options.reals("probabilities");
  const std::size_t m = model.sizes.size();
  require(entries.size() == m * m, "--probabilities: {} classes need {} numbers, got {}", m, m * m,
          entries.size());
  for (std::size_t r = 0; r < m; ++r) {
    const auto row = entries.begin() + static_cast<std::ptrdiff_t>(r * m);
    model.probabilities.emplace_back(row, row + static_cast<std::ptrdiff_t>(m));
  }
  return model;
}

Report run_generate(const Options& options, const Progress&) {
  BlockModel model = block_model_of(options);
  model.connected = !options.flag("disconnected");
  const GraphFile file = sample_edges(model, options.seed());
  const OutputPath out = options.output("out");
  const bool is_gml = out.path.extension() == ".gml";
  require(
      is_gml || options.has("labels"),
      "--labels is missing: an edge list cannot tell the classes, so they go to a CSV of their own "
      "(or let --out end in .gml)");
  write_text(out, is_gml ? format_gml(file) : format_edge_list(file));
  if (options.has("labels")) {
    CsvTable table{.path = "", .columns = {"node", "class"}, .rows = {}, .lines = {}};
    for (std::size_t i = 0; i < file.nodes.size(); ++i) {
      table.rows.push_back({file.nodes[i], file.attributes.at("class")[i]});
    }
    write_csv(options.output("labels"), table);
  }
  Report report;
  report.set("nodes", static_cast<std::int64_t>(file.nodes.size()));
  report.set("edges", static_cast<std::int64_t>(file.edges.size()));
  report.set("classes", static_cast<std::int64_t>(model.sizes.size()));
  return report;
}

// "a:b,c:d" by the nodes' names.
std::vector<std::pair<std::int64_t, std::int64_t>> node_pairs(const GraphFile& file,
                                                              const std::string& text) {
  std::map<std::string, std::int64_t> position;
  for (std::size_t i = 0; i < file.nodes.size(); ++i) {
    position[file.nodes[i]] = static_cast<std::int64_t>(i);
  }
  const auto find = [&](const std::string& name) {
    const auto found = position.find(std::string(trim(name)));
    require(found != position.end(), "--pairs: no node '{}'{}", trim(name), hint(name, file.nodes));
    return found->second;
  };
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
  for (const std::string& pair : split(text, ',')) {
    const auto ends = split(pair, ':');
    require(ends.size() == 2, "--pairs: expected U:V,U:V,... by node names, got '{}'", pair);
    pairs.emplace_back(find(ends[0]), find(ends[1]));
  }
  return pairs;
}

Report run_resistance(const Options& options, const Progress&) {
  require(options.has("pairs") || options.has("embedding"),
          "give --pairs for single resistances, or --embedding for approximate ones of all pairs");
  for (const char* name : {"epsilon", "seed"}) {
    require(options.has("embedding") || !options.given(name), "--{}: only with --embedding", name);
  }
  const GraphFile file = read_graph(options.input("graph"));
  const ResistanceNetwork network(file, policy_of(options));
  const ResistanceOptions how{.tolerance = options.real("tolerance")};
  Report report;
  report.set("nodes", network.size()).set("edges", network.edges());
  if (options.has("pairs")) {
    const auto pairs = node_pairs(file, options.text("pairs"));
    const at::Tensor found = network.resistance(pairs, how);
    const double* values = found.const_data_ptr<double>();
    report.set("resistance", std::vector<double>(values, values + found.numel()));
    Table table{"Effective resistances", {"from", "to", "resistance"}, {}};
    for (std::size_t k = 0; k < pairs.size(); ++k) {
      table.rows.push_back({file.nodes[pairs[k].first], file.nodes[pairs[k].second], values[k]});
    }
    report.tables.push_back(std::move(table));
  }
  if (options.has("embedding")) {
    const at::Tensor coordinates = network.embedding(options.real("epsilon"), options.seed(), how);
    report.set("dimensions", coordinates.size(1));
    write_tensor(options.output("embedding"), coordinates);
  }
  return report;
}

std::vector<Job> jobs() {
  const Option measure = choice("measure", measure_names());
  const std::vector<Option> labels = {
      integer("clusters").at_least(1).required().help("number of clusters"),
      text("truth").help(
          "node attribute that tells the classes: adds ari, nmi, ... and the reject curve"),
      output_file("out").help("write node and cluster to this CSV")};
  const std::vector<Option> contest = {
      text("graphs").positional().help("graph files, separated by commas"),
      reals("random").help("instead: NODES,CLASSES,P_IN,P_OUT of planted partitions"),
      integer("count").at_least(1).help("random graphs (default 20)"),
      text("truth").help("node attribute of the files that tells the classes"),
      text("measures")
          .otherwise("paper")
          .help("measures separated by commas; paper: the 13 of the paper; all: every one"),
      integer("points").between(1, 1e4).otherwise(30).help("values of s, equidistant in (0, 1)"),
      output_file("out").help("write the score of every measure, s and graph to this CSV")};
  return {
      {"measure",
       "the proximity or distance matrix of a graph",
       std::vector<Option>{graph_option(), Option(measure).required().help("proximity measure")} +
           parameter_options() +
           std::vector<Option>{
               flag("log").help("take the elementwise logarithm of a plain measure"),
               flag("distance")
                   .help("(h_ii + h_jj - h_ij - h_ji) / 2 of the kernel, or the distance "
                         "that the measure is by definition"),
               flag("root").help("the square root of the distance"),
               flag("raw-mixture")
                   .help("SP-CT: do not divide SP and CT by their standard deviations"),
               choice("precision", {"double", "single"})
                   .otherwise("double")
                   .help("of plain kernels"),
               output_file("out").required().help("write the matrix to this .npy"),
               component_option()} +
           policy_options() + std::vector<Option>{device_option()},
       run_measure,
       {"graph-proximity measure karate.gml --measure logComm --parameter 0.5 --out K.npy",
        "graph-proximity measure karate.gml --measure RSP --s 0.98 --distance --out D.npy"}},
      {"cluster",
       "clusters of a graph's nodes",
       std::vector<Option>{graph_option(),
                           Option(measure).otherwise("logComm").help("proximity measure")} +
           parameter_options() + labels + method_options() +
           std::vector<Option>{component_option()} + policy_options() +
           std::vector<Option>{device_option()},
       run_cluster,
       {"graph-proximity cluster karate.gml --measure logComm --s 0.5 --clusters 2 --truth club"}},
      {"compare",
       "measures against each other on graphs with known classes",
       contest + method_options() + std::vector<Option>{component_option()} + policy_options() +
           std::vector<Option>{device_option()},
       run_compare,
       {"graph-proximity compare --random 100,2,0.3,0.1 --count 20",
        "graph-proximity compare football.gml,polbooks.gml --truth gt --measures Comm,logComm"}},
      {"generate",
       "a random graph with planted classes",
       {reals("planted").help("NODES,CLASSES,P_IN,P_OUT"),
        integers("sizes").help("nodes of each class"),
        reals("probabilities").help("edge probabilities between classes, row by row"),
        flag("disconnected").help("take the first graph drawn even if it is not connected"),
        output_file("out").required().help(
            "edge list, or GML with the node attribute class (.gml)"),
        output_file("labels").help("write node and class to this CSV"), seed_option()},
       run_generate,
       {"graph-proximity generate --planted 100,2,0.3,0.1 --out graph.gml",
        "graph-proximity generate --sizes 30,70 --probabilities 0.3,0.1,0.1,0.2 --out graph.gml"}},
      {"resistance",
       "effective resistances of a large sparse graph",
       std::vector<Option>{input_file("graph").positional().required().help(
                               "edge list, .gml, .graphml or .mtx, also with .gz"),
                           text("pairs").help("U:V,U:V,... by node names"),
                           output_file("embedding")
                               .help("write coordinates, whose squared distances approximate all "
                                     "resistances, to this "
                                     ".npy"),
                           real("epsilon").above(0).below(1).otherwise(0.3).help(
                               "relative error of the embedding's resistances"),
                           real("tolerance")
                               .above(0)
                               .below(1)
                               .otherwise(1e-10)
                               .help("relative residual of solutions")} +
           policy_options() + std::vector<Option>{seed_option()},
       run_resistance,
       {"graph-proximity resistance karate.gml --pairs 0:33,0:1"}},
  };
}

std::vector<KernelChoice> kernels() {
  const Isa level = kernel_level();
  std::string reason;
  for (const Isa isa : {Isa::avx512, Isa::avx2}) {
    if (isa > level && reason.empty()) reason = why_not(isa);
  }
  return {{"graph_proximity.ward", to_string(level), reason},
          {"graph_proximity.log_product", to_string(level), reason}};
}

}  // namespace

System system() {
  System system;
  system.name = "graph-proximity";
  system.wing = Wing::similarity;
  system.paper = {"Do logarithmic proximity measures outperform plain ones in graph clustering?",
                  "Ivashkin, Chebotarev", 2016, "1605.01046"};
  system.summary = "proximity measures on graphs, plain and logarithmic, and clustering with them";
  system.devices = {Device::cpu, Device::cuda};
  system.jobs = jobs();
  system.reproduction = reproduction();
  system.benchmarks = benchmarks();
  system.kernels = kernels;
  return system;
}

}  // namespace einkorn::graph_proximity
