// The paper's experiment: families compete in clustering graphs with known classes.
#pragma once

#include <string>
#include <vector>

#include "einkorn/core/progress.h"
#include "einkorn/similarity/graph_proximity/clustering.h"
#include "einkorn/similarity/graph_proximity/graph_proximity.h"

namespace einkorn::graph_proximity {

enum class ClusteringMethod { ward, kmeans, spectral };

ClusteringMethod parse_clustering_method(const std::string& name);

struct ClusteringOptions {
  ClusteringMethod method = ClusteringMethod::ward;
  WardOptions ward = {};
  KMeansOptions kmeans = {};  // `clusters` is for all methods, the rest for k-means and spectral
};

// Clusters the nodes with one measure: [n] i64. Ward works on the distance, k-means and the
// spectral method on the kernel (of a distance by definition: -H Delta H / 2).
at::Tensor cluster(const Proximity& proximity, Measure measure, std::optional<double> parameter,
                   const ClusteringOptions& options);

struct Contestant {
  Graph graph;
  at::Tensor truth;  // [n] i64; as many clusters are asked for as it has classes
};

struct CompetitionOptions {
  std::vector<Measure> measures = paper_measures();
  std::vector<double> s_grid = parameter_grid(30);
  ClusteringOptions clustering = {};  // the number of clusters is each graph's number of classes
  ProximityOptions proximity = {};
};

struct Standing {
  Measure measure;
  std::vector<double> mean_scores;  // over the graphs, at every s
  std::size_t best_index = 0;       // of the s with the highest mean
  double best_score = 0;
  double standard_error = 0;  // of that mean; 0 for a single graph
  double median_score = 0;    // over s, of the means
  double mean_of_best = 0;    // mean over graphs of each graph's own best score
  std::int64_t copeland = 0;  // at each family's best s
  RejectCurve curve = {};     // at the best s, on the first graph
  double mean_area = 0;       // of the reject curves at the best s, over the graphs
};

struct Competition {
  std::vector<Standing> standings;  // in the order of the measures
  // scores[measure][s][graph]: adjusted Rand indices
  std::vector<std::vector<std::vector<double>>> scores;
};

// Adjusted Rand index of every measure, s and graph. Graphs of up to 512 nodes run side by side,
// one a thread. A Walk, say, has its own range of t on every graph: s is what they share.
Competition compete(const std::vector<Contestant>& contestants, const CompetitionOptions& options,
                    const Progress& progress = {});

}  // namespace einkorn::graph_proximity
