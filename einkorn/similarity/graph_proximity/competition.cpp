#include "einkorn/similarity/graph_proximity/competition.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"
#include "einkorn/similarity/graph_proximity/labels_internal.h"

namespace einkorn::graph_proximity {
namespace {

constexpr std::int64_t largest_side_by_side = 512;

// Small graphs run one a thread; large ones one after the other, each on all threads. Progress is
// told between them.
template <typename Run>
void for_each_graph(const std::vector<Contestant>& contestants, const Progress& progress, Run run) {
  const auto count = static_cast<std::int64_t>(contestants.size());
  const bool small = std::all_of(
      contestants.begin(), contestants.end(),
      [](const auto& contestant) { return contestant.graph.size() <= largest_side_by_side; });
  const std::int64_t at_once = small ? at::get_num_threads() : 1;
  for (std::int64_t begin = 0; begin < count; begin += at_once) {
    progress("clustering graphs", begin, count);
    const std::int64_t end = std::min(begin + at_once, count);
    if (end - begin == 1) {
      run(static_cast<std::size_t>(begin));
      continue;
    }
    at::parallel_for(begin, end, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t g = first; g < last; ++g) run(static_cast<std::size_t>(g));
    });
  }
}

// [measure][s]
using GraphScores = std::vector<std::vector<double>>;

GraphScores score_graph(const Contestant& contestant, const CompetitionOptions& options) {
  const Proximity proximity(contestant.graph, options.proximity);
  ClusteringOptions clustering = options.clustering;
  clustering.kmeans.clusters = label_count(checked_labels(contestant.truth, "truth"));
  GraphScores scores(options.measures.size());
  for (std::size_t m = 0; m < options.measures.size(); ++m) {
    const Measure measure = options.measures[m];
    for (const double s : options.s_grid) {
      const auto parameter = proximity.parameter(measure.family, s);
      if (!parameter && !scores[m].empty()) {
        scores[m].push_back(scores[m].front());
        continue;
      }
      const at::Tensor labels = cluster(proximity, measure, parameter, clustering);
      scores[m].push_back(adjusted_rand_index(labels, contestant.truth));
    }
  }
  return scores;
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_error(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  double squares = 0;
  for (const double value : values) squares += std::pow(value - mean(values), 2);
  const double n = static_cast<double>(values.size());
  return std::sqrt(squares / (n - 1) / n);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// scores[s][graph]
Standing standing_of(Measure measure, const std::vector<std::vector<double>>& scores) {
  Standing standing{.measure = measure, .mean_scores = {}};
  for (const auto& at_s : scores) standing.mean_scores.push_back(mean(at_s));
  const auto best = std::max_element(standing.mean_scores.begin(), standing.mean_scores.end());
  standing.best_index = static_cast<std::size_t>(best - standing.mean_scores.begin());
  standing.best_score = *best;
  standing.standard_error = standard_error(scores[standing.best_index]);
  standing.median_score = median(standing.mean_scores);
  std::vector<double> own_best = scores.front();
  for (const auto& at_s : scores) {
    for (std::size_t g = 0; g < own_best.size(); ++g) own_best[g] = std::max(own_best[g], at_s[g]);
  }
  standing.mean_of_best = mean(own_best);
  return standing;
}

void add_reject_curves(Competition& competition, const std::vector<Contestant>& contestants,
                       const CompetitionOptions& options) {
  std::vector<std::vector<RejectCurve>> curves(contestants.size());
  for_each_graph(contestants, {}, [&](std::size_t g) {
    const Proximity proximity(contestants[g].graph, options.proximity);
    for (const Standing& standing : competition.standings) {
      const double s = options.s_grid[standing.best_index];
      const auto parameter = proximity.parameter(standing.measure.family, s);
      curves[g].push_back(
          reject_curve(proximity.distance(standing.measure, parameter), contestants[g].truth));
    }
  });
  for (std::size_t m = 0; m < competition.standings.size(); ++m) {
    Standing& standing = competition.standings[m];
    standing.curve = curves[0][m];
    for (const auto& of_graph : curves) {
      standing.mean_area += of_graph[m].area / static_cast<double>(contestants.size());
    }
  }
}

void check(const std::vector<Contestant>& contestants, const CompetitionOptions& options) {
  require(!contestants.empty(), "competition: no graphs given");
  require(!options.measures.empty() && !options.s_grid.empty(),
          "competition: expected at least one measure and one s");
  for (const Contestant& contestant : contestants) {
    require(checked_labels(contestant.truth, "truth").size() ==
                static_cast<std::size_t>(contestant.graph.size()),
            "truth: expected one label for each of {} nodes", contestant.graph.size());
  }
}

}  // namespace

ClusteringMethod parse_clustering_method(const std::string& name) {
  if (name == "ward") return ClusteringMethod::ward;
  if (name == "kmeans") return ClusteringMethod::kmeans;
  if (name == "spectral") return ClusteringMethod::spectral;
  throw InvalidArgument(fmt::format("method: expected one of ward, kmeans, spectral, got '{}'{}",
                                    name, hint(name, {"ward", "kmeans", "spectral"})));
}

at::Tensor cluster(const Proximity& proximity, Measure measure, std::optional<double> parameter,
                   const ClusteringOptions& options) {
  if (options.method == ClusteringMethod::ward) {
    return cut(ward(proximity.distance(measure, parameter), options.ward), options.kmeans.clusters);
  }
  const at::Tensor kernel = proximity.kernel(measure, parameter).values;
  return (options.method == ClusteringMethod::kmeans ? kernel_kmeans(kernel, options.kmeans)
                                                     : spectral_clustering(kernel, options.kmeans))
      .labels;
}

Competition compete(const std::vector<Contestant>& contestants, const CompetitionOptions& options,
                    const Progress& progress) {
  check(contestants, options);
  std::vector<GraphScores> by_graph(contestants.size());
  for_each_graph(contestants, progress,
                 [&](std::size_t g) { by_graph[g] = score_graph(contestants[g], options); });

  Competition competition;
  std::vector<std::vector<double>> at_best(contestants.size());
  for (std::size_t m = 0; m < options.measures.size(); ++m) {
    auto& scores = competition.scores.emplace_back(options.s_grid.size());
    for (std::size_t s = 0; s < options.s_grid.size(); ++s) {
      for (const GraphScores& graph : by_graph) scores[s].push_back(graph[m][s]);
    }
    competition.standings.push_back(standing_of(options.measures[m], scores));
    const auto& best = scores[competition.standings.back().best_index];
    for (std::size_t g = 0; g < contestants.size(); ++g) at_best[g].push_back(best[g]);
  }
  const std::vector<std::int64_t> copeland = copeland_scores(at_best);
  for (std::size_t m = 0; m < copeland.size(); ++m) competition.standings[m].copeland = copeland[m];
  add_reject_curves(competition, contestants, options);
  return competition;
}

}  // namespace einkorn::graph_proximity
