// What one reproduction came to, as the terminal, JSON and the report page need it.
#pragma once

#include <string>
#include <vector>

#include "einkorn/core/registry.h"

namespace einkorn::app {

struct Outcome {
  const System* system = nullptr;
  Device device = Device::cpu;
  double seconds = 0;
  Evidence evidence;
  std::string error;  // why the experiment could not be run to its end; empty if it was

  bool pass() const { return error.empty() && evidence.pass(); }
};

// One self-contained page: a summary table, then a section a system.
std::string html_page(const std::vector<Outcome>& outcomes, bool full);

// The same for what one job found.
std::string html_page(const std::string& system, const std::string& job, const Report& report);

// A plot as an SVG element that takes its colours from the page, or empty without gnuplot.
std::string svg(const Plot& plot);

}  // namespace einkorn::app
