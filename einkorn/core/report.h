// What a job or an experiment found: values, tables, plots and remarks. Rendered by the command as
// text, JSON or HTML, and handed to Python as plain dictionaries.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace einkorn {

using Value = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>,
                           std::vector<double>, std::vector<std::string>>;

struct Metric {
  std::string name;
  Value value;
  std::string unit;
};

// Cells are numbers or words; every row has one cell a column.
using Cell = std::variant<std::int64_t, double, std::string>;

struct Table {
  std::string title;
  std::vector<std::string> columns;
  std::vector<std::vector<Cell>> rows;
};

enum class Mark { line, points, line_points, bars };

struct Series {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;
  Mark mark = Mark::line;
  // Half-widths of error bars in y; empty for none.
  std::vector<double> error = {};
};

struct Plot {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<Series> series;
  bool log_x = false;
  bool log_y = false;
  // Words under the ticks at x = 0, 1, ... (bars); empty for numbers.
  std::vector<std::string> categories = {};
};

struct Report {
  std::vector<Metric> metrics;
  std::vector<Table> tables;
  std::vector<Plot> plots;
  std::vector<std::string> notes;

  Report& set(std::string name, Value value, std::string unit = "") {
    metrics.push_back({std::move(name), std::move(value), std::move(unit)});
    return *this;
  }
};

enum class Relation { less, at_most, greater, at_least, equal };

std::string to_string(Relation relation);  // "<", "<=", ">", ">=", "=="

// One measured figure beside what is expected of it. A measured NaN or infinity never passes.
struct Check {
  std::string name;
  double measured = 0;
  Relation relation = Relation::equal;
  double expected = 0;
  double tolerance = 0;  // absolute; widens any relation
  std::string unit = "";

  bool pass() const;
};

// The outcome of one reproduction. It holds if every check does and there is at least one.
struct Evidence {
  std::vector<Check> checks;
  std::vector<Table> tables;
  std::vector<Plot> plots;
  std::vector<std::string> notes;

  bool pass() const;
};

}  // namespace einkorn
