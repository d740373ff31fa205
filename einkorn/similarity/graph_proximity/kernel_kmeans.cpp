#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "einkorn/core/error.h"
#include "einkorn/core/random.h"
#include "einkorn/core/trace.h"
#include "einkorn/similarity/graph_proximity/clustering.h"
#include "einkorn/similarity/graph_proximity/labels_internal.h"

namespace einkorn::graph_proximity {
namespace {

using Labels = std::vector<std::int64_t>;

// A kernel and what a partition makes of it: sums over clusters, from which the squared distance of
// every node to every centre follows,
//   ||phi_i - h_c||^2 = k_ii - 2 / n_c sum_{j in c} k_ij + 1 / n_c^2 sum_{j, l in c} k_jl.
class KernelPartition {
 public:
  KernelPartition(const at::Tensor& kernel, std::int64_t clusters)
      : kernel_(kernel),
        k_(kernel.const_data_ptr<double>()),
        n_(kernel.size(0)),
        clusters_(clusters),
        size_(clusters),
        within_(clusters) {}

  const Labels& labels() const { return labels_; }

  void assign(Labels labels) {
    labels_ = std::move(labels);
    const at::Tensor index = at::tensor(labels_, at::kLong);
    const at::Tensor indicator =
        at::zeros({n_, clusters_}, at::kDouble).scatter_(1, index.unsqueeze(1), 1.0);
    sums_ = at::matmul(kernel_, indicator);
    to_cluster_ = sums_.mutable_data_ptr<double>();
    std::fill(size_.begin(), size_.end(), 0.0);
    std::fill(within_.begin(), within_.end(), 0.0);
    for (std::int64_t i = 0; i < n_; ++i) {
      size_[labels_[i]] += 1;
      within_[labels_[i]] += to_cluster_[i * clusters_ + labels_[i]];
    }
  }

  bool has_empty_cluster() const {
    return std::find(size_.begin(), size_.end(), 0.0) != size_.end();
  }

  double squared_distance(std::int64_t i, std::int64_t cluster) const {
    const double size = size_[cluster];
    return k_[i * n_ + i] - 2 * to_cluster_[i * clusters_ + cluster] / size +
           within_[cluster] / (size * size);
  }

  double inertia() const {
    double sum = 0;
    for (std::int64_t i = 0; i < n_; ++i) sum += squared_distance(i, labels_[i]);
    return sum;
  }

  Labels nearest_centers() const {
    Labels nearest(n_);
    for (std::int64_t i = 0; i < n_; ++i) {
      double least = std::numeric_limits<double>::infinity();
      for (std::int64_t c = 0; c < clusters_; ++c) {
        const double distance = squared_distance(i, c);
        if (distance < least) {
          least = distance;
          nearest[i] = c;
        }
      }
    }
    return nearest;
  }

  // Moves the node where that lowers the inertia most; a cluster's last node stays.
  bool move_if_better(std::int64_t i) {
    const std::int64_t from = labels_[i];
    if (size_[from] == 1) return false;
    const double loss = size_[from] / (size_[from] - 1) * squared_distance(i, from);
    // A gain within rounding would let a node go back and forth.
    double least = loss - 1e-12 * (std::abs(loss) + std::abs(k_[i * n_ + i]));
    std::int64_t to = from;
    for (std::int64_t c = 0; c < clusters_; ++c) {
      if (c == from) continue;
      const double cost = size_[c] / (size_[c] + 1) * squared_distance(i, c);
      if (cost < least) {
        least = cost;
        to = c;
      }
    }
    if (to == from) return false;
    move(i, from, to);
    return true;
  }

 private:
  void move(std::int64_t i, std::int64_t from, std::int64_t to) {
    const double* row = k_ + i * n_;
    within_[from] += row[i] - 2 * to_cluster_[i * clusters_ + from];
    within_[to] += row[i] + 2 * to_cluster_[i * clusters_ + to];
    for (std::int64_t j = 0; j < n_; ++j) {
      to_cluster_[j * clusters_ + from] -= row[j];
      to_cluster_[j * clusters_ + to] += row[j];
    }
    size_[from] -= 1;
    size_[to] += 1;
    labels_[i] = to;
  }

  at::Tensor kernel_;
  const double* k_;
  std::int64_t n_;
  std::int64_t clusters_;
  Labels labels_;
  at::Tensor sums_;  // [n, clusters]: sum of k_ij over the nodes j of each cluster
  double* to_cluster_ = nullptr;
  std::vector<double> size_;
  std::vector<double> within_;
};

// Every node to the nearest of the chosen nodes.
Labels nearest_nodes(const at::Tensor& kernel, const Labels& centers) {
  const auto k = kernel.accessor<double, 2>();
  Labels labels(kernel.size(0));
  for (std::int64_t i = 0; i < kernel.size(0); ++i) {
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t c = 0; c < centers.size(); ++c) {
      const double distance = k[centers[c]][centers[c]] - 2 * k[i][centers[c]];
      if (distance < least) {
        least = distance;
        labels[i] = static_cast<std::int64_t>(c);
      }
    }
  }
  // A centre is its own, even where a kernel that is not positive semidefinite puts it nearer to
  // others.
  for (std::size_t c = 0; c < centers.size(); ++c)
    labels[centers[c]] = static_cast<std::int64_t>(c);
  return labels;
}

// k-means++ (Arthur and Vassilvitskii): each next centre with probability proportional to the
// squared distance from the nearest one so far; negative ones count as 0.
Labels plus_plus_centers(const at::Tensor& kernel, std::int64_t clusters, Random& random) {
  const std::int64_t n = kernel.size(0);
  const auto k = kernel.accessor<double, 2>();
  Labels centers = {random.integer(n)};
  std::vector<double> weight(n, std::numeric_limits<double>::infinity());
  while (static_cast<std::int64_t>(centers.size()) < clusters) {
    const std::int64_t last = centers.back();
    double total = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double distance = k[i][i] + k[last][last] - 2 * k[i][last];
      weight[i] = std::max(0.0, std::min(weight[i], distance));
      if (i == last) weight[i] = 0;
      total += weight[i];
    }
    double left = random.uniform() * total;
    std::int64_t chosen = -1;
    for (std::int64_t i = 0; i < n; ++i) {
      if (weight[i] == 0) continue;
      chosen = i;
      left -= weight[i];
      if (left < 0) break;
    }
    while (chosen < 0) {  // all nodes coincide with centres: any that is not one
      const std::int64_t candidate = random.integer(n);
      if (std::find(centers.begin(), centers.end(), candidate) == centers.end()) chosen = candidate;
    }
    centers.push_back(chosen);
  }
  return centers;
}

Labels starting_labels(const at::Tensor& kernel, const KMeansOptions& options, Random& random) {
  const std::int64_t n = kernel.size(0);
  switch (options.start) {
    case KMeansStart::plus_plus:
      return nearest_nodes(kernel, plus_plus_centers(kernel, options.clusters, random));
    case KMeansStart::one: {
      Labels centers = random.permutation(n);
      centers.resize(options.clusters);
      return nearest_nodes(kernel, centers);
    }
    case KMeansStart::all:
      break;
  }
  Labels labels(n);
  for (std::int64_t& label : labels) label = random.integer(options.clusters);
  return labels;
}

// One run; nothing if a cluster was lost.
std::optional<KMeansResult> run_once(const at::Tensor& kernel, const KMeansOptions& options,
                                     Random& random) {
  KernelPartition partition(kernel, options.clusters);
  partition.assign(starting_labels(kernel, options, random));
  KMeansResult result;
  while (!partition.has_empty_cluster() && result.iterations < options.max_iterations) {
    ++result.iterations;
    bool changed = false;
    if (options.update == KMeansUpdate::iterative) {
      for (std::int64_t i = 0; i < kernel.size(0); ++i) changed |= partition.move_if_better(i);
    } else {
      Labels nearest = partition.nearest_centers();
      changed = nearest != partition.labels();
      if (changed) partition.assign(std::move(nearest));
    }
    result.converged = !changed;
    if (result.converged) break;
  }
  if (partition.has_empty_cluster()) return std::nullopt;
  partition.assign(partition.labels());  // sums without the rounding of many moves
  result.inertia = partition.inertia();
  if (options.adjacency.defined()) {
    result.modularity = modularity_of(options.adjacency, partition.labels());
  }
  result.labels = labels_by_appearance(partition.labels());
  return result;
}

void check(const at::Tensor& kernel, const KMeansOptions& options) {
  require_dense(kernel, "kernel");
  require(kernel.dim() == 2 && kernel.size(0) == kernel.size(1) && kernel.size(0) > 0 &&
              at::isFloatingType(kernel.scalar_type()),
          "kernel: expected a square matrix [n, n] of f32 or f64 with n >= 1");
  require(at::isfinite(kernel).all().item<bool>(), "kernel: not finite");
  const std::int64_t n = kernel.size(0);
  require(options.clusters >= 1 && options.clusters <= n,
          "clusters: expected 1 <= clusters <= {} (the nodes), got {}", n, options.clusters);
  require(options.restarts >= 1 && options.max_iterations >= 1 && options.max_empty >= 0,
          "k-means: expected restarts >= 1, max_iterations >= 1 and max_empty >= 0");
  require(options.choice == KMeansChoice::inertia || options.adjacency.defined(),
          "k-means: to choose by modularity needs the adjacency matrix");
  if (!options.adjacency.defined()) return;
  require(options.adjacency.dim() == 2 && options.adjacency.size(0) == n &&
              options.adjacency.size(1) == n,
          "adjacency: expected shape [{0}, {0}] like the kernel", n);
}

}  // namespace

KMeansResult kernel_kmeans(const at::Tensor& kernel, const KMeansOptions& options) {
  check(kernel, options);
  const at::Tensor values = kernel.detach().to(at::kCPU, at::kDouble);
  const at::Tensor symmetric = ((values + values.t()) / 2).contiguous();
  const double n = static_cast<double>(kernel.size(0));
  const Trace trace(
      "graph_proximity.kernel_kmeans", "torch",
      [&] { return fmt::format("n={} clusters={}", n, options.clusters); },
      {.flops = 2 * n * n * static_cast<double>(options.clusters), .bytes = 8 * n * n});

  std::optional<KMeansResult> best;
  const Random random(options.seed);
  for (std::int64_t restart = 0; restart < options.restarts; ++restart) {
    Random stream = random.stream(static_cast<std::uint64_t>(restart));
    std::optional<KMeansResult> result;
    for (std::int64_t start = 0; start <= options.max_empty && !result; ++start) {
      result = run_once(symmetric, options, stream);
    }
    if (!result) continue;
    const bool better =
        !best || (options.choice == KMeansChoice::inertia ? result->inertia < best->inertia
                                                          : result->modularity > best->modularity);
    if (better) best = std::move(result);
  }
  require(best.has_value(),
          "k-means: every start lost one of the {} clusters; ask for fewer, or use the iterative "
          "update",
          options.clusters);
  return *best;
}

KMeansResult spectral_clustering(const at::Tensor& kernel, const KMeansOptions& options) {
  check(kernel, options);
  const at::Tensor values = kernel.detach().to(at::kDouble);
  const auto [eigenvalues, vectors] = at::linalg_eigh((values + values.t()) / 2);
  const std::int64_t n = kernel.size(0);
  const at::Tensor leading = vectors.slice(1, n - options.clusters, n);
  const at::Tensor lengths = leading.norm(2, {1}, /*keepdim=*/true);
  const at::Tensor rows = leading / lengths.clamp_min(std::numeric_limits<double>::min());
  return kernel_kmeans(at::matmul(rows, rows.t()), options);
}

}  // namespace einkorn::graph_proximity
