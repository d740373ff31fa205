// What the registry runs: the paper's competition as a reproduction, the benchmarks, and how the
// outcome of a competition is shown.
#pragma once

#include <vector>

#include "einkorn/core/system.h"
#include "einkorn/similarity/graph_proximity/competition.h"

namespace einkorn::graph_proximity {

Reproduction reproduction();
std::vector<Benchmark> benchmarks();

Table standings_table(const Competition& competition, const std::vector<double>& s_grid);

// Mean score of every measure over s.
Plot score_plot(const Competition& competition, const std::vector<double>& s_grid);

}  // namespace einkorn::graph_proximity
