#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "einkorn/core/error.h"
#include "einkorn/similarity/graph_proximity/clustering.h"
#include "einkorn/similarity/graph_proximity/labels_internal.h"

namespace einkorn::graph_proximity {
namespace {

// How many nodes have each pair of labels, and each label.
struct Contingency {
  std::int64_t nodes = 0;
  std::vector<std::vector<std::int64_t>> counts = {};  // [labels, classes]
  std::vector<std::int64_t> rows = {};
  std::vector<std::int64_t> columns = {};
};

Contingency contingency(const at::Tensor& labels, const at::Tensor& truth) {
  const auto first = checked_labels(labels, "labels");
  const auto second = checked_labels(truth, "truth");
  require(first.size() == second.size(),
          "labels and truth: expected as many of one as of the other, got {} and {}", first.size(),
          second.size());
  Contingency table{.nodes = static_cast<std::int64_t>(first.size())};
  table.rows.assign(label_count(first), 0);
  table.columns.assign(label_count(second), 0);
  table.counts.assign(table.rows.size(), std::vector<std::int64_t>(table.columns.size(), 0));
  for (std::size_t i = 0; i < first.size(); ++i) {
    ++table.counts[first[i]][second[i]];
    ++table.rows[first[i]];
    ++table.columns[second[i]];
  }
  return table;
}

std::int64_t pairs(std::int64_t n) {
  return n * (n - 1) / 2;
}

std::int64_t pairs_within(const std::vector<std::int64_t>& sizes) {
  std::int64_t sum = 0;
  for (const std::int64_t size : sizes) sum += pairs(size);
  return sum;
}

// Pairs of nodes that are together: in both partitions, in the first, in the second, at all.
struct PairCounts {
  std::int64_t both = 0;
  std::int64_t first;
  std::int64_t second;
  std::int64_t all;
};

PairCounts count_pairs(const Contingency& table) {
  PairCounts count{.first = pairs_within(table.rows),
                   .second = pairs_within(table.columns),
                   .all = pairs(table.nodes)};
  for (const auto& row : table.counts) count.both += pairs_within(row);
  return count;
}

double entropy(const std::vector<std::int64_t>& sizes, double total) {
  double sum = 0;
  for (const std::int64_t size : sizes) sum -= size / total * std::log(size / total);
  return sum;
}

// The largest sum of entries, one a row and column of a matrix with no more rows than columns: the
// Hungarian algorithm with potentials (Kuhn; Munkres), O(rows^2 columns). Row and column 0 are
// sentinels.
std::int64_t largest_matching(const std::vector<std::vector<std::int64_t>>& gain) {
  const std::size_t rows = gain.size();
  const std::size_t columns = gain.front().size();
  constexpr std::int64_t unreached = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> row_potential(rows + 1, 0), column_potential(columns + 1, 0);
  std::vector<std::size_t> row_of(columns + 1, 0);
  for (std::size_t row = 1; row <= rows; ++row) {
    std::vector<std::int64_t> slack(columns + 1, unreached);
    std::vector<std::size_t> previous(columns + 1, 0);
    std::vector<bool> visited(columns + 1, false);
    row_of[0] = row;
    std::size_t column = 0;
    do {
      visited[column] = true;
      const std::size_t from = row_of[column];
      std::int64_t least = unreached;
      std::size_t next = 0;
      for (std::size_t j = 1; j <= columns; ++j) {
        if (visited[j]) continue;
        const std::int64_t cost =
            -gain[from - 1][j - 1] - row_potential[from] - column_potential[j];
        if (cost < slack[j]) {
          slack[j] = cost;
          previous[j] = column;
        }
        if (slack[j] < least) {
          least = slack[j];
          next = j;
        }
      }
      for (std::size_t j = 0; j <= columns; ++j) {
        if (visited[j]) {
          row_potential[row_of[j]] += least;
          column_potential[j] -= least;
        } else {
          slack[j] -= least;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    while (column != 0) {
      row_of[column] = row_of[previous[column]];
      column = previous[column];
    }
  }
  std::int64_t sum = 0;
  for (std::size_t j = 1; j <= columns; ++j) {
    if (row_of[j] != 0) sum += gain[row_of[j] - 1][j - 1];
  }
  return sum;
}

std::vector<std::vector<std::int64_t>> transposed(
    const std::vector<std::vector<std::int64_t>>& matrix) {
  std::vector<std::vector<std::int64_t>> result(matrix.front().size(),
                                                std::vector<std::int64_t>(matrix.size()));
  for (std::size_t i = 0; i < matrix.size(); ++i) {
    for (std::size_t j = 0; j < result.size(); ++j) result[j][i] = matrix[i][j];
  }
  return result;
}

}  // namespace

std::vector<std::int64_t> checked_labels(const at::Tensor& labels, const char* name) {
  require_dense(labels, name);
  require(
      labels.dim() == 1 && labels.size(0) > 0 && at::isIntegralType(labels.scalar_type(), false),
      "{}: expected integers of shape [n], n >= 1", name);
  const at::Tensor values = labels.to(at::kCPU, at::kLong).contiguous();
  const auto* data = values.const_data_ptr<std::int64_t>();
  std::map<std::int64_t, std::int64_t> number;
  std::vector<std::int64_t> renamed;
  for (std::int64_t i = 0; i < values.size(0); ++i) {
    const auto next = static_cast<std::int64_t>(number.size());
    renamed.push_back(number.try_emplace(data[i], next).first->second);
  }
  return renamed;
}

at::Tensor labels_by_appearance(const std::vector<std::int64_t>& labels) {
  return at::tensor(checked_labels(at::tensor(labels, at::kLong), "labels"), at::kLong);
}

std::int64_t label_count(const std::vector<std::int64_t>& labels) {
  return 1 + *std::max_element(labels.begin(), labels.end());
}

double adjusted_rand_index(const at::Tensor& labels, const at::Tensor& truth) {
  const PairCounts count = count_pairs(contingency(labels, truth));
  const double expected = count.all == 0 ? 0
                                         : static_cast<double>(count.first) *
                                               static_cast<double>(count.second) /
                                               static_cast<double>(count.all);
  const double largest = (static_cast<double>(count.first) + static_cast<double>(count.second)) / 2;
  // Both partitions trivial in the same way: they agree.
  if (largest == expected) return 1;
  return (static_cast<double>(count.both) - expected) / (largest - expected);
}

double rand_index(const at::Tensor& labels, const at::Tensor& truth) {
  const PairCounts count = count_pairs(contingency(labels, truth));
  if (count.all == 0) return 1;
  const std::int64_t agreeing = count.all + 2 * count.both - count.first - count.second;
  return static_cast<double>(agreeing) / static_cast<double>(count.all);
}

double normalized_mutual_information(const at::Tensor& labels, const at::Tensor& truth) {
  const Contingency table = contingency(labels, truth);
  const double n = static_cast<double>(table.nodes);
  const double entropies = entropy(table.rows, n) * entropy(table.columns, n);
  if (table.rows.size() == 1 && table.columns.size() == 1) return 1;
  if (table.rows.size() == 1 || table.columns.size() == 1) return 0;
  double information = 0;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    for (std::size_t j = 0; j < table.columns.size(); ++j) {
      const double count = static_cast<double>(table.counts[i][j]);
      if (count == 0) continue;
      const double independent =
          static_cast<double>(table.rows[i]) * static_cast<double>(table.columns[j]) / n;
      information += count / n * std::log(count / independent);
    }
  }
  return std::max(0.0, information / std::sqrt(entropies));
}

double misclassified_fraction(const at::Tensor& labels, const at::Tensor& truth) {
  const Contingency table = contingency(labels, truth);
  const std::int64_t matched = largest_matching(
      table.rows.size() <= table.columns.size() ? table.counts : transposed(table.counts));
  return 1 - static_cast<double>(matched) / static_cast<double>(table.nodes);
}

double modularity_of(const at::Tensor& adjacency, const std::vector<std::int64_t>& labels) {
  const at::Tensor a = adjacency.to(at::kCPU, at::kDouble);
  const at::Tensor index = at::tensor(labels, at::kLong);
  const at::Tensor degrees = a.sum(1);
  const double volume = degrees.sum().item<double>();
  if (volume == 0) return 0;
  const at::Tensor to_clusters =
      at::zeros({a.size(0), label_count(labels)}, a.options()).index_add_(1, index, a);
  const double inside = to_clusters.gather(1, index.unsqueeze(1)).sum().item<double>();
  const at::Tensor volumes = to_clusters.sum(0);
  return inside / volume - volumes.square().sum().item<double>() / (volume * volume);
}

double modularity(const at::Tensor& adjacency, const at::Tensor& labels) {
  require_dense(adjacency, "adjacency");
  const auto renamed = checked_labels(labels, "labels");
  const auto n = static_cast<std::int64_t>(renamed.size());
  require(adjacency.dim() == 2 && adjacency.size(0) == n && adjacency.size(1) == n,
          "adjacency: expected shape [{0}, {0}] for {0} labels", n);
  return modularity_of(adjacency, renamed);
}

RejectCurve reject_curve(const at::Tensor& distances, const at::Tensor& labels) {
  require_dense(distances, "distances");
  const auto renamed = checked_labels(labels, "labels");
  const auto n = static_cast<std::int64_t>(renamed.size());
  require(distances.dim() == 2 && distances.size(0) == n && distances.size(1) == n,
          "distances: expected shape [{0}, {0}] for {0} labels", n);
  const at::Tensor dense = distances.detach().to(at::kCPU, at::kDouble).contiguous();
  require(!at::isnan(dense).any().item<bool>(), "distances: NaN");
  const double* d = dense.const_data_ptr<double>();

  struct Pair {
    double distance;
    bool intra;
  };
  std::vector<Pair> all;
  all.reserve(pairs(n));
  double intra_count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i + 1; j < n; ++j) {
      all.push_back({d[i * n + j], renamed[i] == renamed[j]});
      intra_count += all.back().intra;
    }
  }
  const double inter_count = static_cast<double>(all.size()) - intra_count;
  require(intra_count > 0 && inter_count > 0,
          "labels: a reject curve needs pairs within a class and pairs between classes");
  std::sort(all.begin(), all.end(),
            [](const Pair& a, const Pair& b) { return a.distance < b.distance; });

  RejectCurve curve{.x = {0}, .y = {0}};
  double intra = 0;
  double inter = 0;
  for (std::size_t k = 0; k < all.size(); ++k) {
    (all[k].intra ? intra : inter) += 1;
    if (k + 1 < all.size() && all[k + 1].distance == all[k].distance) continue;
    const double x = inter / inter_count;
    const double y = intra / intra_count;
    curve.area += (x - curve.x.back()) * (y + curve.y.back()) / 2;
    curve.x.push_back(x);
    curve.y.push_back(y);
  }
  return curve;
}

std::vector<std::int64_t> copeland_scores(const std::vector<std::vector<double>>& scores) {
  if (scores.empty()) return {};
  std::vector<std::int64_t> totals(scores.front().size(), 0);
  for (const auto& contest : scores) {
    require(contest.size() == totals.size(),
            "scores: expected {} competitors in every contest, got {}", totals.size(),
            contest.size());
    for (std::size_t i = 0; i < totals.size(); ++i) {
      for (const double other : contest) totals[i] += (contest[i] > other) - (contest[i] < other);
    }
  }
  return totals;
}

}  // namespace einkorn::graph_proximity
