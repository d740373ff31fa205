#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"
#include "einkorn/similarity/graph_proximity/clustering.h"
#include "einkorn/similarity/graph_proximity/labels_internal.h"
#include "einkorn/similarity/graph_proximity/proximity_kernels.h"

namespace einkorn::graph_proximity {
namespace {

struct Merge {
  std::int64_t first;   // a node of one cluster, its smallest
  std::int64_t second;  // the smallest node of the other; first < second
  double height;
};

// The distances between the clusters that are left, one slot each, ordered by smallest node.
template <typename T>
class Clusters {
 public:
  explicit Clusters(at::Tensor distances)
      : matrix_(std::move(distances)),
        data_(matrix_.mutable_data_ptr<T>()),
        stride_(matrix_.size(0)),
        slots_(stride_),
        left_(stride_),
        penalty_(stride_, 0),
        size_(stride_, 1),
        smallest_node_(stride_) {
    std::iota(smallest_node_.begin(), smallest_node_.end(), std::int64_t{0});
    matrix_.diagonal().fill_(infinity);
  }

  std::int64_t slots() const { return slots_; }  // those of merged clusters included
  std::int64_t left() const { return left_; }
  bool alive(std::int64_t slot) const { return penalty_[slot] == 0; }
  T distance(std::int64_t i, std::int64_t j) const { return data_[i * stride_ + j]; }

  // The nearest cluster among the slots from `begin` on, the first of equally near ones.
  struct Neighbor {
    std::int64_t slot;
    T distance;
  };
  Neighbor nearest(std::int64_t i, std::int64_t begin = 0) const {
    const T* row = data_ + i * stride_ + begin;
    const T least = masked_minimum(row, penalty_.data() + begin, slots_ - begin);
    if (least == infinity) return {slots_, infinity};
    return {begin + first_equal(row, penalty_.data() + begin, slots_ - begin, least), least};
  }

  // The merged cluster takes the slot i < j.
  Merge merge(std::int64_t i, std::int64_t j) {
    const T d_ij = distance(i, j);
    T* row = data_ + i * stride_;
    ward_update(row, data_ + j * stride_, size_.data(), slots_, {size_[i], size_[j], d_ij});
    row[i] = infinity;
    size_[i] += size_[j];
    penalty_[j] = infinity;
    --left_;
    for (std::int64_t k = 0; k < slots_; ++k) {
      if (penalty_[k] == 0) data_[k * stride_ + i] = row[k];
    }
    return {smallest_node_[i], smallest_node_[j], static_cast<double>(d_ij)};
  }

  // Moves the clusters that are left together once half of the slots are empty, so that rows stay
  // short and near in memory. Returns the new slot of every old one, or nothing if nothing moved.
  std::vector<std::int64_t> compact() {
    if (2 * left_ > slots_ || slots_ < smallest_compaction) return {};
    std::vector<std::int64_t> moved(slots_, -1);
    std::vector<std::int64_t> kept;
    for (std::int64_t k = 0; k < slots_; ++k) {
      if (!alive(k)) continue;
      moved[k] = static_cast<std::int64_t>(kept.size());
      kept.push_back(k);
    }
    // Rows and columns only move forward, and each row is read before it is written over.
    for (std::int64_t i = 0; i < left_; ++i) {
      const T* from = data_ + kept[i] * stride_;
      T* to = data_ + i * left_;
      for (std::int64_t j = 0; j < left_; ++j) to[j] = from[kept[j]];
      size_[i] = size_[kept[i]];
      smallest_node_[i] = smallest_node_[kept[i]];
    }
    stride_ = slots_ = left_;
    std::fill_n(penalty_.begin(), left_, T{0});
    return moved;
  }

 private:
  static constexpr T infinity = std::numeric_limits<T>::infinity();
  static constexpr std::int64_t smallest_compaction = 64;

  at::Tensor matrix_;
  T* data_;
  std::int64_t stride_;
  std::int64_t slots_;
  std::int64_t left_;
  std::vector<T> penalty_;  // 0, or +inf for slots whose cluster was merged away
  std::vector<T> size_;
  std::vector<std::int64_t> smallest_node_;
};

template <typename T>
std::vector<Merge> merge_by_chains(Clusters<T> clusters) {
  std::vector<Merge> merges;
  std::vector<std::int64_t> chain;
  while (clusters.left() > 1) {
    if (chain.empty()) {
      std::int64_t first = 0;
      while (!clusters.alive(first)) ++first;
      chain.push_back(first);
    }
    const std::int64_t last = chain.back();
    const auto nearest = clusters.nearest(last);
    const std::int64_t before = chain.size() > 1 ? chain[chain.size() - 2] : -1;
    if (before < 0 || clusters.distance(last, before) != nearest.distance) {
      chain.push_back(nearest.slot);
      continue;
    }
    chain.resize(chain.size() - 2);
    merges.push_back(clusters.merge(std::min(last, before), std::max(last, before)));
    const auto moved = clusters.compact();
    if (moved.empty()) continue;
    for (std::int64_t& slot : chain) slot = moved[slot];
  }
  return merges;
}

template <typename T>
std::vector<Merge> merge_greedily(Clusters<T> clusters) {
  using Neighbor = typename Clusters<T>::Neighbor;
  std::vector<Merge> merges;
  // Each cluster's nearest among the later ones.
  std::vector<Neighbor> nearest(clusters.slots());
  const auto look_up = [&](std::int64_t i) { nearest[i] = clusters.nearest(i, i + 1); };
  for (std::int64_t i = 0; i < clusters.slots(); ++i) look_up(i);
  while (clusters.left() > 1) {
    std::int64_t i = -1;
    for (std::int64_t k = 0; k < clusters.slots(); ++k) {
      if (clusters.alive(k) && (i < 0 || nearest[k].distance < nearest[i].distance)) i = k;
    }
    const std::int64_t j = nearest[i].slot;
    merges.push_back(clusters.merge(i, j));
    for (std::int64_t k = 0; k < j; ++k) {
      if (!clusters.alive(k)) continue;
      if (k == i || nearest[k].slot == i || nearest[k].slot == j) {
        look_up(k);
      } else if (k < i) {
        const T distance = clusters.distance(k, i);
        const bool nearer = distance < nearest[k].distance ||
                            (distance == nearest[k].distance && i < nearest[k].slot);
        if (nearer) nearest[k] = {i, distance};
      }
    }
  }
  return merges;
}

// Orders merges by height and numbers clusters. Rounding may put a merge below one of its
// parts; it is lifted to that part's height, so that the order is that of a tree.
Dendrogram dendrogram_of(const std::vector<Merge>& merges) {
  const auto count = static_cast<std::int64_t>(merges.size());
  std::vector<double> heights(merges.size());
  std::vector<double> height_below(merges.size() + 1, -std::numeric_limits<double>::infinity());
  for (std::int64_t k = 0; k < count; ++k) {
    const auto [first, second, height] = merges[k];
    heights[k] = std::max({height, height_below[first], height_below[second]});
    height_below[first] = heights[k];
  }
  std::vector<std::int64_t> order(merges.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return heights[a] < heights[b]; });

  Dendrogram tree{.children = at::empty({count, 2}, at::kLong),
                  .heights = at::empty({count}, at::kDouble),
                  .sizes = at::empty({count}, at::kLong)};
  auto children = tree.children.accessor<std::int64_t, 2>();
  auto sorted_heights = tree.heights.accessor<double, 1>();
  auto sizes = tree.sizes.accessor<std::int64_t, 1>();
  std::vector<std::int64_t> cluster(merges.size() + 1);  // of each smallest node
  std::vector<std::int64_t> size(merges.size() + 1, 1);
  std::iota(cluster.begin(), cluster.end(), std::int64_t{0});
  for (std::int64_t k = 0; k < count; ++k) {
    const Merge& merge = merges[order[k]];
    std::tie(children[k][0], children[k][1]) =
        std::minmax(cluster[merge.first], cluster[merge.second]);
    size[merge.first] += size[merge.second];
    cluster[merge.first] = count + 1 + k;
    sorted_heights[k] = heights[order[k]];
    sizes[k] = size[merge.first];
  }
  return tree;
}

template <typename T>
std::vector<Merge> merges_of(at::Tensor distances, WardAlgorithm algorithm) {
  Clusters<T> clusters(std::move(distances));
  return algorithm == WardAlgorithm::greedy ? merge_greedily(std::move(clusters))
                                            : merge_by_chains(std::move(clusters));
}

}  // namespace

Dendrogram ward(const at::Tensor& distances, const WardOptions& options) {
  require_dense(distances, "distances");
  const auto type = distances.scalar_type();
  require(type == at::kDouble || type == at::kFloat, "distances: expected f32 or f64");
  require(distances.dim() == 2 && distances.size(0) == distances.size(1) && distances.size(0) > 0,
          "distances: expected a square matrix [n, n] with n >= 1");
  const at::Tensor copy = distances.detach().to(at::kCPU).clone(at::MemoryFormat::Contiguous);
  require(at::isfinite(copy).all().item<bool>(), "distances: not finite");
  require(copy.equal(copy.t()), "distances: not symmetric");
  const double n = static_cast<double>(copy.size(0));
  const Trace trace("graph_proximity.ward", to_string(kernel_level()).c_str(),
                    [&] { return fmt::format("n={}", n); },
                    {.flops = 4 * n * n, .bytes = n * n * copy.element_size()});
  return dendrogram_of(type == at::kDouble ? merges_of<double>(copy, options.algorithm)
                                           : merges_of<float>(copy, options.algorithm));
}

at::Tensor cut(const Dendrogram& dendrogram, std::int64_t clusters) {
  const std::int64_t n = dendrogram.children.size(0) + 1;
  require(clusters >= 1 && clusters <= n,
          "clusters: expected 1 <= clusters <= {} (the nodes), got {}", n, clusters);
  const auto children = dendrogram.children.accessor<std::int64_t, 2>();
  for (std::int64_t k = 0; k < n - 1; ++k) {
    for (int side = 0; side < 2; ++side) {
      require(children[k][side] >= 0 && children[k][side] < n + k,
              "children: merge {} names the cluster {}, expected 0 .. {}", k, children[k][side],
              n + k - 1);
    }
  }
  // The merge that each cluster went into, followed upwards from the last one that is kept.
  std::vector<std::int64_t> top(2 * n - clusters);
  std::iota(top.begin(), top.end(), std::int64_t{0});
  for (std::int64_t k = n - clusters - 1; k >= 0; --k) {
    for (int side = 0; side < 2; ++side) top[children[k][side]] = top[n + k];
  }
  top.resize(n);
  return labels_by_appearance(top);
}

}  // namespace einkorn::graph_proximity
