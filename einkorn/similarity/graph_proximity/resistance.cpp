#include "einkorn/similarity/graph_proximity/resistance.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <numeric>

#include "einkorn/core/error.h"
#include "einkorn/core/random.h"
#include "einkorn/core/trace.h"

namespace einkorn::graph_proximity {
namespace {

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// y += factor x
void add_scaled(std::vector<double>& y, double factor, const std::vector<double>& x) {
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += factor * x[i];
}

// Takes out the part along the null space of a connected graph's Laplacian.
void center(std::vector<double>& x) {
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  for (double& value : x) value -= mean;
}

}  // namespace

ResistanceNetwork::ResistanceNetwork(const GraphFile& file, const GraphPolicy& policy) {
  require(!file.nodes.empty(), "graph: the file has no nodes");
  const std::size_t n = file.nodes.size();
  std::vector<Edge> edges = undirected_edges(file, policy);
  std::erase_if(edges, [](const Edge& edge) { return edge.source == edge.target; });
  begin_.assign(n + 1, 0);
  degree_.assign(n, 0);
  for (const Edge& edge : edges) {
    for (const std::int64_t node : {edge.source, edge.target}) {
      ++begin_[node + 1];
      degree_[node] += edge.weight;
    }
  }
  std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
  neighbor_.resize(2 * edges.size());
  conductance_.resize(2 * edges.size());
  std::vector<std::int64_t> next(begin_.begin(), begin_.end() - 1);
  const auto put = [&](std::int64_t from, std::int64_t to, double weight) {
    neighbor_[next[from]] = to;
    conductance_[next[from]++] = weight;
  };
  for (const Edge& edge : edges) {
    put(edge.source, edge.target, edge.weight);
    put(edge.target, edge.source, edge.weight);
  }

  std::vector<bool> reached(n, false);
  std::vector<std::int64_t> waiting = {0};
  reached[0] = true;
  while (!waiting.empty()) {
    const std::int64_t node = waiting.back();
    waiting.pop_back();
    for (std::int64_t k = begin_[node]; k < begin_[node + 1]; ++k) {
      if (reached[neighbor_[k]]) continue;
      reached[neighbor_[k]] = true;
      waiting.push_back(neighbor_[k]);
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    require(reached[i],
            "resistance: the graph is disconnected (no way from '{}' to '{}'), and resistances "
            "between components are infinite; take one component at a time",
            file.nodes[0], file.nodes[i]);
  }
}

std::int64_t ResistanceNetwork::edges() const {
  return static_cast<std::int64_t>(neighbor_.size() / 2);
}

at::Tensor ResistanceNetwork::resistance(
    const std::vector<std::pair<std::int64_t, std::int64_t>>& pairs,
    const ResistanceOptions& options) const {
  for (const auto& [u, v] : pairs) {
    require(u >= 0 && v >= 0 && u < size() && v < size(),
            "resistance: the pair ({}, {}) is not of nodes 0 .. {}", u, v, size() - 1);
  }
  const auto count = static_cast<std::int64_t>(pairs.size());
  const Trace trace("graph_proximity.resistance", "conjugate gradients",
                    [&] { return fmt::format("n={} pairs={}", size(), count); }, {});
  at::Tensor result = at::zeros({count}, at::kDouble);
  double* resistances = result.mutable_data_ptr<double>();
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const auto [u, v] = pairs[k];
      if (u == v) continue;
      std::vector<double> currents(degree_.size(), 0.0);
      currents[u] = 1;
      currents[v] = -1;
      const std::vector<double> x = potentials(std::move(currents), options);
      resistances[k] = x[u] - x[v];
    }
  });
  return result;
}

at::Tensor ResistanceNetwork::embedding(double epsilon, std::uint64_t seed,
                                        const ResistanceOptions& options) const {
  require(epsilon > 0 && epsilon < 1, "epsilon: expected a number in (0, 1), got {}", epsilon);
  const double n = static_cast<double>(size());
  const auto dimensions =
      std::max<std::int64_t>(1, std::llround(std::ceil(24 * std::log(n) / (epsilon * epsilon))));
  const Trace trace("graph_proximity.embedding", "conjugate gradients",
                    [&] { return fmt::format("n={} dimensions={}", size(), dimensions); }, {});
  at::Tensor coordinates = at::empty({dimensions, size()}, at::kDouble);
  double* rows = coordinates.mutable_data_ptr<double>();
  const Random random(seed);
  const double scale = 1 / std::sqrt(static_cast<double>(dimensions));
  at::parallel_for(0, dimensions, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t d = begin; d < end; ++d) {
      Random stream = random.stream(static_cast<std::uint64_t>(d));
      std::vector<double> currents(degree_.size(), 0.0);
      for (std::int64_t u = 0; u < size(); ++u) {
        for (std::int64_t k = begin_[u]; k < begin_[u + 1]; ++k) {
          if (neighbor_[k] < u) continue;  // each edge once
          const double sign = stream() >> 63 ? 1 : -1;
          const double through = sign * scale * std::sqrt(conductance_[k]);
          currents[u] += through;
          currents[neighbor_[k]] -= through;
        }
      }
      const std::vector<double> x = potentials(std::move(currents), options);
      std::copy(x.begin(), x.end(), rows + d * size());
    }
  });
  return coordinates.t().contiguous();
}

// L x = currents, x centred. Restarts from the true residual where the recursive one has drifted.
std::vector<double> ResistanceNetwork::potentials(std::vector<double> currents,
                                                  const ResistanceOptions& options) const {
  require(options.tolerance > 0 && options.tolerance < 1,
          "tolerance: expected a number in (0, 1), got {}", options.tolerance);
  const std::size_t n = currents.size();
  std::int64_t left = options.max_iterations > 0 ? options.max_iterations : 10 * size();
  center(currents);
  const double goal = options.tolerance * options.tolerance * dot(currents, currents);
  std::vector<double> x(n, 0.0), residual = currents, preconditioned(n), image(n);
  while (dot(residual, residual) > goal) {
    std::vector<double> direction(n, 0.0);
    double energy = 1;
    bool first = true;
    while (dot(residual, residual) > goal) {
      require(left-- > 0,
              "resistance: conjugate gradients stand at a relative residual of {:.1e} after all "
              "iterations; raise max_iterations or the tolerance",
              options.tolerance * std::sqrt(dot(residual, residual) / goal));
      for (std::size_t i = 0; i < n; ++i) preconditioned[i] = residual[i] / degree_[i];
      center(preconditioned);
      const double next_energy = dot(residual, preconditioned);
      const double beta = first ? 0 : next_energy / energy;
      for (std::size_t i = 0; i < n; ++i) direction[i] = preconditioned[i] + beta * direction[i];
      energy = next_energy;
      first = false;
      multiply(direction, image);
      const double step = energy / dot(direction, image);
      add_scaled(x, step, direction);
      add_scaled(residual, -step, image);
    }
    multiply(x, image);
    for (std::size_t i = 0; i < n; ++i) residual[i] = currents[i] - image[i];
  }
  center(x);
  return x;
}

void ResistanceNetwork::multiply(const std::vector<double>& potential,
                                 std::vector<double>& current) const {
  for (std::size_t u = 0; u < degree_.size(); ++u) {
    double sum = degree_[u] * potential[u];
    for (std::int64_t k = begin_[u]; k < begin_[u + 1]; ++k) {
      sum -= conductance_[k] * potential[neighbor_[k]];
    }
    current[u] = sum;
  }
}

}  // namespace einkorn::graph_proximity
