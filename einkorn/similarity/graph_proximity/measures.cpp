// The families by name, their parameters and the map of s to them.
#include <algorithm>
#include <array>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"
#include "einkorn/similarity/graph_proximity/graph_proximity.h"

namespace einkorn::graph_proximity {
namespace {

struct FamilyName {
  Family family;
  const char* plain;
  const char* logarithmic;  // null: the family has no logarithm
};

constexpr std::array<FamilyName, 18> family_names = {{
    {Family::walk, "pWalk", "Walk"},
    {Family::forest, "For", "logFor"},
    {Family::communicability, "Comm", "logComm"},
    {Family::heat, "Heat", "logHeat"},
    {Family::commute_time, "CT", nullptr},
    {Family::sigmoid_commute_time, "SCT", nullptr},
    {Family::corrected_commute_time, "CCT", nullptr},
    {Family::sigmoid_corrected_commute_time, "SCCT", nullptr},
    {Family::randomized_shortest_path, "RSP", nullptr},
    {Family::free_energy, "FE", nullptr},
    {Family::shortest_path, "SP", nullptr},
    {Family::shortest_path_commute_time, "SP-CT", nullptr},
    {Family::normalized_heat, "NHeat", "logNHeat"},
    {Family::pagerank, "PPR", "logPPR"},
    {Family::modified_pagerank, "ModifPPR", "logModifPPR"},
    {Family::heat_pagerank, "HeatPR", "logHeatPR"},
    {Family::absorption, "Abs", "logAbs"},
    {Family::double_factorial, "DF", "logDF"},
}};

const FamilyName& names_of(Family family) {
  return *std::find_if(family_names.begin(), family_names.end(),
                       [&](const FamilyName& entry) { return entry.family == family; });
}

}  // namespace

std::string to_string(Measure measure) {
  const FamilyName& names = names_of(measure.family);
  return measure.logarithmic && names.logarithmic ? names.logarithmic : names.plain;
}

Measure parse_measure(const std::string& name) {
  std::vector<std::string> known;
  for (const Measure& measure : all_measures()) {
    known.push_back(to_string(measure));
    if (known.back() == name) return measure;
  }
  std::string list;
  for (const std::string& entry : known) list += (list.empty() ? "" : ", ") + entry;
  throw InvalidArgument(
      fmt::format("measure: expected one of {}, got '{}'{}", list, name, hint(name, known)));
}

Measure logarithm(Measure measure) {
  require(names_of(measure.family).logarithmic != nullptr,
          "{}: has no logarithmic version; the families that do are pWalk, For, Comm, Heat, NHeat, "
          "PPR, ModifPPR, HeatPR, Abs and DF",
          to_string(measure));
  require(!measure.logarithmic, "{}: is logarithmic already", to_string(measure));
  return {measure.family, true};
}

std::vector<Measure> all_measures() {
  std::vector<Measure> measures;
  for (const FamilyName& names : family_names) {
    measures.push_back({names.family, false});
    if (names.logarithmic) measures.push_back({names.family, true});
  }
  return measures;
}

std::vector<Measure> paper_measures() {
  return {{Family::walk, false},
          {Family::walk, true},
          {Family::forest, false},
          {Family::forest, true},
          {Family::communicability, false},
          {Family::communicability, true},
          {Family::heat, false},
          {Family::heat, true},
          {Family::sigmoid_commute_time, false},
          {Family::sigmoid_corrected_commute_time, false},
          {Family::randomized_shortest_path, false},
          {Family::free_energy, false},
          {Family::shortest_path_commute_time, false}};
}

bool is_distance(Measure measure) {
  return measure.family == Family::randomized_shortest_path ||
         measure.family == Family::free_energy || measure.family == Family::shortest_path ||
         measure.family == Family::shortest_path_commute_time;
}

std::string to_string(Path path) {
  switch (path) {
    case Path::spectral:
      return "spectral";
    case Path::positive:
      return "positive";
    case Path::logarithmic:
      return "logarithmic";
    case Path::automatic:
      break;
  }
  return "automatic";
}

ParameterRange Proximity::range(Family family) const {
  switch (family) {
    case Family::walk: {
      const double radius = spectral_radius();
      return {.symbol = "t", .high = radius > 0 ? 1 / radius : ParameterRange{}.high};
    }
    case Family::commute_time:
    case Family::corrected_commute_time:
    case Family::shortest_path:
      return {};
    case Family::sigmoid_commute_time:
    case Family::sigmoid_corrected_commute_time:
      return {.symbol = "a"};
    case Family::randomized_shortest_path:
    case Family::free_energy:
      return {.symbol = "beta"};
    case Family::shortest_path_commute_time:
      return {.symbol = "lambda", .high = 1, .closed = true};
    case Family::pagerank:
    case Family::modified_pagerank:
      return {.symbol = "alpha", .high = 1};
    default:
      return {.symbol = "t"};
  }
}

std::optional<double> Proximity::parameter(Family family, double s) const {
  require(s > 0 && s < 1, "s: expected a number in (0, 1), got {}", s);
  constexpr double epsilon = 1e-10;
  switch (family) {
    case Family::walk:
      return s / (spectral_radius() + epsilon);
    case Family::commute_time:
    case Family::corrected_commute_time:
    case Family::shortest_path:
      return std::nullopt;
    case Family::randomized_shortest_path:
    case Family::free_energy:
      return (1 - s) / (s + epsilon);
    case Family::shortest_path_commute_time:
    case Family::pagerank:
    case Family::modified_pagerank:
      return s;
    default:
      return 0.5 * s / (1 - s + epsilon);
  }
}

std::vector<double> parameter_grid(std::int64_t count) {
  require(count >= 1, "parameter grid: expected at least one point, got {}", count);
  std::vector<double> grid;
  for (std::int64_t i = 1; i <= count; ++i) {
    grid.push_back(static_cast<double>(i) / static_cast<double>(count + 1));
  }
  return grid;
}

void sweep(const Proximity& proximity, const std::vector<Measure>& measures,
           const std::vector<double>& s_grid, const std::function<void(const SweepPoint&)>& visit) {
  for (const Measure& measure : measures) {
    at::Tensor constant;
    for (std::size_t index = 0; index < s_grid.size(); ++index) {
      const auto parameter = proximity.parameter(measure.family, s_grid[index]);
      if (!parameter && !constant.defined()) constant = proximity.distance(measure);
      visit({measure, index, s_grid[index], parameter,
             parameter ? proximity.distance(measure, parameter) : constant});
    }
  }
}

}  // namespace einkorn::graph_proximity
