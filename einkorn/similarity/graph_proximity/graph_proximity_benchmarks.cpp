#include <ATen/ATen.h>

#include <memory>
#include <sstream>

#include "einkorn/core/python_peer.h"
#include "einkorn/core/tensor.h"
#include "einkorn/similarity/graph_proximity/clustering.h"
#include "einkorn/similarity/graph_proximity/graph_proximity_experiments.h"
#include "einkorn/similarity/graph_proximity/random_graphs.h"

namespace einkorn::graph_proximity {
namespace {

constexpr std::int64_t nodes = 2000;

BlockModel benchmark_model() {
  return planted_partition(nodes, 4, 0.02, 0.004);
}

// The peer's adjacency matrix from the same edges.
std::string python_adjacency() {
  const GraphFile file = sample_edges(benchmark_model(), 1);
  std::string ends[2];
  for (const Edge& edge : file.edges) {
    ends[0] += fmt::format("{},", edge.source);
    ends[1] += fmt::format("{},", edge.target);
  }
  return fmt::format(
      "import numpy as np\n"
      "import scipy.linalg\n"
      "A = np.zeros(({0}, {0}))\n"
      "i, j = np.array([{1}]), np.array([{2}])\n"
      "A[i, j] = A[j, i] = 1\n"
      "d = A.sum(1)\n"
      "L = np.diag(d) - A\n"
      "I = np.eye({0})\n"
      "rho = np.linalg.eigvalsh(A)[-1]\n",
      nodes, ends[0], ends[1]);
}

const std::vector<double>& benchmark_grid() {
  static const std::vector<double> grid = parameter_grid(3);
  return grid;
}

// Half a matrix product a plain kernel is the least that a sweep needs, for it is symmetric: n^3
// FLOPs. Its logarithm needs no product, only to be written.
Work kernel_work(std::size_t plain_kernels) {
  const double n = static_cast<double>(nodes);
  const auto kernels = static_cast<double>(plain_kernels);
  return {.flops = kernels * n * n * n, .bytes = 2 * kernels * 8 * n * n};
}

Contest kernels_contest(Device device) {
  const auto graph = std::make_shared<Graph>(sample(benchmark_model(), 1));
  Contest contest;
  contest.ours = timed(
      [graph, device] {
        const Proximity proximity(*graph, {.device = device});
        for (const char* name :
             {"pWalk", "Walk", "For", "logFor", "Comm", "logComm", "Heat", "logHeat"}) {
          const Measure measure = parse_measure(name);
          for (const double s : benchmark_grid()) {
            proximity.kernel(measure, proximity.parameter(measure.family, s));
          }
        }
      },
      device);
  set_python_peer(contest, python_adjacency(),
                  "for s in (0.25, 0.5, 0.75):\n"
                  "    t = 0.5 * s / (1 - s)\n"
                  "    for K in (np.linalg.inv(I - s / rho * A), np.linalg.inv(I + t * L),\n"
                  "              scipy.linalg.expm(t * A), scipy.linalg.expm(-t * L)):\n"
                  "        np.log(K)\n");
  contest.work = kernel_work(4 * benchmark_grid().size());
  contest.arithmetic = Arithmetic::f64;
  return contest;
}

Contest ward_contest(Device) {
  const Graph graph = sample(benchmark_model(), 1);
  const auto distance =
      std::make_shared<at::Tensor>(Proximity(graph).distance(parse_measure("logComm"), 0.5));
  Contest contest;
  contest.ours = timed([distance] { ward(*distance); });
  // SciPy wants Euclidean distances, whose halved squares are ours, and condensed: both are
  // prepared.
  set_python_peer(contest,
                  python_adjacency() +
                      "from scipy.cluster.hierarchy import linkage\n"
                      "from scipy.spatial.distance import squareform\n"
                      "K = np.log(scipy.linalg.expm(0.5 * A))\n"
                      "k = K.diagonal()\n"
                      "D = (k[:, None] + k[None, :] - K - K.T) / 2\n"
                      "np.fill_diagonal(D, 0)\n"
                      "condensed = squareform(np.sqrt(2 * np.maximum(D, 0)), checks=False)\n",
                  "linkage(condensed, method='ward')\n");
  const double n = static_cast<double>(nodes);
  // About 3 n^2 / 2 distances looked at and n^2 / 2 updated.
  contest.work = {.flops = 4 * n * n, .bytes = 16 * n * n};
  contest.arithmetic = Arithmetic::f64;
  return contest;
}

}  // namespace

std::vector<Benchmark> benchmarks() {
  return {{"pWalk, For, Comm, Heat and their logarithms, 3 parameters, 2000 nodes",
           "numpy inv, scipy expm, numpy log",
           {Device::cpu, Device::cuda},
           kernels_contest},
          {"Ward, 2000 nodes", "scipy linkage", {Device::cpu}, ward_contest}};
}

}  // namespace einkorn::graph_proximity
