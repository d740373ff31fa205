#include "einkorn/similarity/graph_proximity/random_graphs.h"

#include <cmath>
#include <numeric>

#include "einkorn/core/error.h"
#include "einkorn/core/random.h"

namespace einkorn::graph_proximity {
namespace {

void check(const BlockModel& model) {
  const std::size_t classes = model.sizes.size();
  require(classes >= 1, "block model: no classes");
  for (const std::int64_t size : model.sizes) {
    require(size >= 1, "block model: a class has {} nodes, expected at least 1", size);
  }
  require(model.probabilities.size() == classes,
          "block model: {} classes need {} rows of probabilities, got {}", classes, classes,
          model.probabilities.size());
  for (std::size_t r = 0; r < classes; ++r) {
    require(model.probabilities[r].size() == classes,
            "block model: row {} of the probabilities has {} entries, expected {}", r,
            model.probabilities[r].size(), classes);
    for (std::size_t c = 0; c < classes; ++c) {
      const double p = model.probabilities[r][c];
      require(p >= 0 && p <= 1, "block model: the probability {} is outside [0, 1]", p);
    }
  }
  for (std::size_t r = 0; r < classes; ++r) {
    for (std::size_t c = 0; c < r; ++c) {
      require(model.probabilities[r][c] == model.probabilities[c][r],
              "block model: the probabilities of classes {} and {} differ by direction ({} and {})",
              c, r, model.probabilities[c][r], model.probabilities[r][c]);
    }
  }
  require(model.max_attempts >= 1, "block model: expected max_attempts >= 1, got {}",
          model.max_attempts);
}

// Visits each of `count` trials that succeeds, by drawing the gaps between successes
// (V. Batagelj, U. Brandes, Phys. Rev. E 71, 2005).
template <typename Visit>
void visit_successes(std::int64_t count, double p, Random& random, Visit visit) {
  if (p == 0) return;
  const double log_failure = std::log1p(-p);  // -inf for p = 1: every gap is 0
  std::int64_t trial = 0;
  while (true) {
    const double gap = std::floor(std::log1p(-random.uniform()) / log_failure);
    if (!(gap < static_cast<double>(count - trial))) return;
    trial += static_cast<std::int64_t>(gap);
    visit(trial);
    if (++trial == count) return;
  }
}

// Row r > 0 and column c < r of the k-th entry below the diagonal, by rows.
std::pair<std::int64_t, std::int64_t> below_diagonal(std::int64_t k) {
  auto r = static_cast<std::int64_t>((1 + std::sqrt(1 + 8 * static_cast<double>(k))) / 2);
  while (r * (r - 1) / 2 > k) --r;
  while (r * (r + 1) / 2 <= k) ++r;
  return {r, k - r * (r - 1) / 2};
}

std::vector<Edge> draw_edges(const BlockModel& model, Random random) {
  std::vector<std::int64_t> first(model.sizes.size() + 1, 0);
  std::partial_sum(model.sizes.begin(), model.sizes.end(), first.begin() + 1);
  std::vector<Edge> edges;
  for (std::size_t r = 0; r < model.sizes.size(); ++r) {
    const std::int64_t size = model.sizes[r];
    visit_successes(size * (size - 1) / 2, model.probabilities[r][r], random, [&](std::int64_t k) {
      const auto [i, j] = below_diagonal(k);
      edges.push_back({first[r] + j, first[r] + i, 1.0});
    });
    for (std::size_t c = r + 1; c < model.sizes.size(); ++c) {
      const std::int64_t width = model.sizes[c];
      visit_successes(size * width, model.probabilities[r][c], random, [&](std::int64_t k) {
        edges.push_back({first[r] + k / width, first[c] + k % width, 1.0});
      });
    }
  }
  return edges;
}

// Union and find, with halving of paths.
bool is_connected(std::int64_t nodes, const std::vector<Edge>& edges) {
  std::vector<std::int64_t> parent(nodes);
  std::iota(parent.begin(), parent.end(), std::int64_t{0});
  const auto root = [&](std::int64_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  std::int64_t components = nodes;
  for (const Edge& edge : edges) {
    const std::int64_t a = root(edge.source);
    const std::int64_t b = root(edge.target);
    if (a == b) continue;
    parent[a] = b;
    --components;
  }
  return components == 1;
}

}  // namespace

BlockModel planted_partition(std::int64_t nodes, std::int64_t classes, double p_in, double p_out) {
  require(classes >= 1 && nodes >= classes,
          "planted partition: expected 1 <= classes <= nodes, got {} classes of {} nodes", classes,
          nodes);
  BlockModel model;
  for (std::int64_t c = 0; c < classes; ++c) {
    model.sizes.push_back(nodes / classes + (c < nodes % classes ? 1 : 0));
    model.probabilities.emplace_back(classes, p_out);
    model.probabilities.back()[c] = p_in;
  }
  check(model);
  return model;
}

GraphFile sample_edges(const BlockModel& model, std::uint64_t seed) {
  check(model);
  GraphFile file;
  std::vector<std::string>& labels = file.attributes["class"];
  for (std::size_t c = 0; c < model.sizes.size(); ++c) {
    for (std::int64_t i = 0; i < model.sizes[c]; ++i) {
      file.nodes.push_back(std::to_string(file.nodes.size()));
      labels.push_back(std::to_string(c));
    }
  }
  const auto nodes = static_cast<std::int64_t>(file.nodes.size());
  const Random random(seed);
  for (std::int64_t attempt = 0; attempt < model.max_attempts; ++attempt) {
    file.edges = draw_edges(model, random.stream(static_cast<std::uint64_t>(attempt)));
    if (!model.connected || is_connected(nodes, file.edges)) return file;
  }
  throw InvalidArgument(
      fmt::format("block model: none of {} graphs was connected; raise the probabilities or allow "
                  "disconnected ones",
                  model.max_attempts));
}

Graph sample(const BlockModel& model, std::uint64_t seed) {
  return graph_from_file(sample_edges(model, seed));
}

}  // namespace einkorn::graph_proximity
