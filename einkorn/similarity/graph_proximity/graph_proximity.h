// Proximity measures between the nodes of a graph, plain and logarithmic.
// V. Ivashkin, P. Chebotarev, "Do logarithmic proximity measures outperform plain ones in graph
// clustering?", arXiv 1605.01046.
//
// A: adjacency matrix, d = A 1 the degrees, D = diag(d), L = D - A, P = D^-1 A, N = D^-1/2 A
// D^-1/2, rho: the largest eigenvalue of A, vol = 1^T A 1, H = I - 1 1^T / n.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "einkorn/similarity/graph_proximity/graph.h"

namespace einkorn::graph_proximity {

enum class Family {
  walk,                    // (I - tA)^-1              0 < t < 1/rho   Katz, von Neumann
  forest,                  // (I + tL)^-1              t > 0           regularised Laplacian
  communicability,         // exp(tA)                  t > 0
  heat,                    // exp(-tL)                 t > 0
  commute_time,            // L^+                      no parameter
  sigmoid_commute_time,    // 1/(1 + exp(-a L^+/sigma)), elementwise; a > 0
  corrected_commute_time,  // H D^-1/2 M (I - M)^+ M D^-1/2 H, M = N - D^1/2 11^T D^1/2 / vol
  sigmoid_corrected_commute_time,  // as above, of the corrected commute time; a > 0
  randomized_shortest_path,        // a distance               beta > 0
  free_energy,                     // a distance               beta > 0
  shortest_path,                   // a distance               no parameter
  shortest_path_commute_time,      // (1 - l) CT + l SP, a distance; 0 <= l <= 1
  normalized_heat,                 // exp(-t(I - N))           t > 0
  pagerank,                        // (I - aP)^-1              0 < a < 1
  modified_pagerank,               // (D - aA)^-1              0 < a < 1
  heat_pagerank,                   // exp(-t(I - P))           t > 0
  absorption,                      // (tA + L)^+               t > 0
  double_factorial,                // sum_{k < 30} (tA)^k / k!!  t > 0
};

// A family, or the elementwise logarithm of it. Their names: pWalk Walk, For logFor, Comm logComm,
// Heat logHeat, CT, SCT, CCT, SCCT, RSP, FE, SP, SP-CT, NHeat logNHeat, PPR logPPR,
// ModifPPR logModifPPR, HeatPR logHeatPR, Abs logAbs, DF logDF. Walk is the logarithm of pWalk.
struct Measure {
  Family family = Family::communicability;
  bool logarithmic = false;

  friend bool operator==(const Measure&, const Measure&) = default;
};

std::string to_string(Measure measure);

// Throws InvalidArgument with the nearest name as a hint.
Measure parse_measure(const std::string& name);

// The logarithm of a plain measure; throws InvalidArgument where it is not defined (the entries of
// CT and CCT change sign, SCT and SCCT are logarithmic odds already, RSP, FE and SP are distances).
Measure logarithm(Measure measure);

std::vector<Measure> all_measures();

// The 13 that the paper compares: pWalk, Walk, For, logFor, Comm, logComm, Heat, logHeat, SCT,
// SCCT, RSP, FE, SP-CT.
std::vector<Measure> paper_measures();

// True for measures that are distances by definition (RSP, FE, SP, SP-CT).
bool is_distance(Measure measure);

// How a matrix was computed. `automatic` takes the cheapest path that keeps the entries accurate.
enum class Path {
  automatic,
  spectral,     // V f(w) V^T from one eigendecomposition that all parameters share
  positive,     // without subtraction, so that every entry keeps relative accuracy; f64
  logarithmic,  // the same on logarithms: nothing underflows; O(n^3) exponentials, on the CPU
};

std::string to_string(Path path);

struct ProximityOptions {
  Device device = Device::cpu;
  bool single_precision = false;  // compute plain kernels in f32; distances by definition and
                                  // logarithms are refused then
  bool normalize_mixture = true;  // SP-CT: divide SP and CT by their standard deviations first
  Path path = Path::automatic;    // for kernels that have a choice: exponentials
};

// A kernel is exp(log_scale) * values if plain, values + log_scale if logarithmic. log_scale is 0
// except for a Comm that would overflow (t rho > 700); distances and clusterings of the kernel do
// not depend on it up to a factor (plain) or at all (logarithmic).
struct Kernel {
  at::Tensor values =
      {};  // [n, n] on the device of the options; symmetric except for PPR and HeatPR
  double log_scale = 0;
  Path path = Path::automatic;  // the path taken
  // By about how much rounding errors of the input are magnified in the inverse of an
  // M-matrix (1 for other kernels): large for pWalk near t = 1/rho.
  double condition = 1;
};

struct ParameterRange {
  std::string symbol;  // "t", "a", "alpha", "beta", "lambda"; empty: the family has no parameter
  double low = 0;
  double high = std::numeric_limits<double>::infinity();
  bool closed = false;  // whether the ends belong to it
};

// Measures of one graph. What parameters share (eigendecompositions, powers, L^+, shortest paths)
// is computed when first needed and kept. Safe to use from several threads.
class Proximity {
 public:
  explicit Proximity(Graph graph, const ProximityOptions& options = {});

  const Graph& graph() const;
  double spectral_radius() const;  // rho
  ParameterRange range(Family family) const;

  // The map of s in (0, 1) to each family's parameter that puts all curves on one axis, with
  // e = 1e-10: pWalk: s/(rho + e); exponentials, For, SCT, SCCT, Abs, DF: s/(2(1 - s + e));
  // RSP, FE: (1 - s)/(s + e); SP-CT, PPR, ModifPPR: s. Nothing for families without a parameter.
  std::optional<double> parameter(Family family, double s) const;

  // Throws InvalidArgument: a parameter that is missing, not wanted or outside the range (which the
  // message tells); isolated nodes where D^-1 is needed (NHeat, PPR, ModifPPR, HeatPR, CCT, SCCT,
  // RSP, FE); a disconnected graph for logarithms and distances; entries whose logarithm
  // does not exist (Abs with t > 1, DF between nodes 30 or more hops apart).
  // For distances by definition it is -H Delta H / 2.
  Kernel kernel(Measure measure, std::optional<double> parameter = std::nullopt) const;

  // The distance that the measure is by definition, or of its kernel,
  // (h_ii + h_jj - h_ij - h_ji) / 2: half the squared distance in feature space. [n, n], symmetric,
  // zero diagonal. A global factor exp(log_scale) of an overflowing plain Comm is left out.
  at::Tensor distance(Measure measure, std::optional<double> parameter = std::nullopt) const;

  // Effective resistances R_ij = L^+_ii + L^+_jj - 2 L^+_ij, [n, n]. Connected graphs.
  at::Tensor resistance() const;

  // Lengths of the shortest paths, an edge of weight a being 1/a long, [n, n]. Connected graphs.
  at::Tensor shortest_paths() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Visits the distances of all measures at all s, sharing what can be shared. Measures without a
// parameter are computed once and visited at every s.
struct SweepPoint {
  Measure measure;
  std::size_t index = 0;  // of s in the grid
  double s = 0;
  std::optional<double> parameter;
  at::Tensor distance;
};
void sweep(const Proximity& proximity, const std::vector<Measure>& measures,
           const std::vector<double>& s_grid, const std::function<void(const SweepPoint&)>& visit);

// count equidistant points inside (0, 1): i / (count + 1).
std::vector<double> parameter_grid(std::int64_t count);

// The distance of any kernel [n, n] f32 or f64, (k_ii + k_jj - k_ij - k_ji) / 2.
at::Tensor distance_from_kernel(const at::Tensor& kernel);

// The kernel -H Delta H / 2 of a symmetric distance [n, n] (which is not squared); its
// distance_from_kernel is Delta / 2.
at::Tensor kernel_from_distance(const at::Tensor& distance);

// Checks that all entries are positive and returns their logarithms.
at::Tensor elementwise_log(const at::Tensor& kernel);

}  // namespace einkorn::graph_proximity
