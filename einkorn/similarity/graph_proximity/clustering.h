// Clustering with a kernel or a distance matrix, and scores of the result.
// Labels are [n] i64 tensors on the CPU; the labels that functions return are 0, 1, ... in order of
// first appearance.
#pragma once

#include <cstdint>
#include <vector>

#include "einkorn/core/tensor.h"

namespace einkorn::graph_proximity {

// What n - 1 merges built. Cluster i < n is the single node i, cluster n + k the result of merge k.
struct Dendrogram {
  at::Tensor children;  // [n - 1, 2] i64, smaller number first; merges in order of height
  at::Tensor heights;   // [n - 1] f64, non-decreasing
  at::Tensor sizes;     // [n - 1] i64, nodes below each merge
};

enum class WardAlgorithm {
  // Nearest-neighbour chains: O(n^2). Chains start at the cluster with the smallest node;
  // among equally near neighbours the chain's last but one wins, else the one with the smallest
  // node.
  nearest_neighbor_chain,
  // Always the nearest pair (i, j), i < j, and the lexicographically first of equally near ones,
  // clusters
  // being ordered by their smallest node: about O(n^2), O(n^3) at worst.
  greedy,
};

struct WardOptions {
  WardAlgorithm algorithm = WardAlgorithm::nearest_neighbor_chain;
};

// Ward's clustering: every merge raises the sum of squares within clusters by the least amount.
// distances: [n, n] f32 or f64 on any device, n >= 1, symmetric and finite; for a kernel K the
// increments for single nodes, D_ij = (k_ii + k_jj - 2 k_ij) / 2 = distance_from_kernel(K), for a
// distance that is not squared (RSP, ...) that distance itself, which is D of the kernel
// -H Delta H / 2 up to a factor. D may be negative (kernels need not be positive semidefinite):
// Lance and Williams' update for Ward is reducible for every symmetric D, so both algorithms find
// the same tree where there are no ties. With ties (shortest paths have many) the trees may differ.
// Works on a copy: n^2 numbers of the input's dtype.
Dendrogram ward(const at::Tensor& distances, const WardOptions& options = {});

// The partition into `clusters` parts, 1 <= clusters <= n. Reads only the tree's children.
at::Tensor cut(const Dendrogram& dendrogram, std::int64_t clusters);

enum class KMeansUpdate {
  batch,      // assign all nodes, then recompute
  iterative,  // move one node at a time when the inertia falls, with factors n/(n + 1), n/(n - 1)
};
enum class KMeansStart {
  plus_plus,  // k-means++ in the kernel's feature space
  one,        // random distinct nodes as centres
  all,        // a random cluster for every node
};
enum class KMeansChoice { inertia, modularity };

struct KMeansOptions {
  std::int64_t clusters = 2;
  KMeansUpdate update = KMeansUpdate::batch;
  KMeansStart start = KMeansStart::plus_plus;
  KMeansChoice choice = KMeansChoice::inertia;  // of the best restart
  at::Tensor adjacency = {};                    // [n, n]; needed for modularity
  std::int64_t restarts = 10;
  std::int64_t max_iterations = 100;
  std::int64_t max_empty = 5;  // new starts allowed to one restart that lost a cluster
  std::uint64_t seed = 0;
};

struct KMeansResult {
  at::Tensor labels;
  double inertia = 0;     // sum_i (h_l(i) - e_i)^T K (h_l(i) - e_i), h = indicator / size
  double modularity = 0;  // of the labels on the adjacency, if one was given
  std::int64_t iterations = 0;
  bool converged = false;
};

// Kernel k-means. kernel: [n, n] f32 or f64, finite; of an asymmetric one the symmetric part
// counts. The result depends on the seed alone. Kernels that are not positive semidefinite are
// allowed: the iterative update still lowers the inertia at every move; the batch update may cycle,
// which ends after max_iterations. Throws InvalidArgument if every start lost a cluster.
KMeansResult kernel_kmeans(const at::Tensor& kernel, const KMeansOptions& options);

// k-means on the rows, scaled to unit length, of the leading eigenvectors (as many as clusters) of
// the symmetric part of the kernel.
KMeansResult spectral_clustering(const at::Tensor& kernel, const KMeansOptions& options);

// Scores of two partitions of the same nodes; labels are any integers.
double adjusted_rand_index(const at::Tensor& labels, const at::Tensor& truth);
double rand_index(const at::Tensor& labels, const at::Tensor& truth);
// Geometric normalisation: I / sqrt(H_1 H_2); 1 if both are single clusters, 0 if just one is.
double normalized_mutual_information(const at::Tensor& labels, const at::Tensor& truth);
// 1 - the fraction of nodes that agree under the best one-to-one matching of clusters to classes.
double misclassified_fraction(const at::Tensor& labels, const at::Tensor& truth);
// Newman and Girvan's modularity; self-loops count once. 0 for a graph without edges.
double modularity(const at::Tensor& adjacency, const at::Tensor& labels);

// How well a distance tells pairs of one class from pairs of two.
struct RejectCurve {
  // At every threshold: the shares of inter-class (x) and intra-class pairs (y) that are not
  // farther. From (0, 0) to (1, 1); equal distances make one step.
  std::vector<double> x;
  std::vector<double> y;
  // The probability that an intra-class pair is closer than an inter-class pair, ties counting 1/2.
  double area = 0;
};

// distances: [n, n] symmetric; labels with at least two classes, one of them with two nodes.
RejectCurve reject_curve(const at::Tensor& distances, const at::Tensor& labels);

// Copeland's score: scores [contests, competitors]; in every contest each competitor gains one
// for every other with a lower score and loses one for every other with a higher one.
std::vector<std::int64_t> copeland_scores(const std::vector<std::vector<double>>& scores);

}  // namespace einkorn::graph_proximity
