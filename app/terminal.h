// What people see: aligned tables, colours where they help, a progress line.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "einkorn/core/progress.h"
#include "einkorn/core/report.h"

namespace einkorn::app {

enum class Style { plain, bold, good, bad, faint };

// Colours only where the stream is a terminal, NO_COLOR is unset and TERM is not dumb.
bool wants_colour(std::FILE* stream);
std::string styled(const std::string& text, Style style, std::FILE* stream = stdout);

// Columns of the terminal behind the stream; 100 where there is none.
int terminal_width(std::FILE* stream);

// A number as people read it: six significant digits, no trailing zeros.
std::string readable(double value);
std::string readable(const Cell& cell);
std::string readable(const Value& value);

// Rows under a header line, numbers to the right; cells are cut where `widths` would overflow.
void print_table(const std::vector<std::string>& columns,
                 const std::vector<std::vector<std::string>>& rows);
void print_table(const Table& table);

// A progress line on stderr while it lives, if stderr is a terminal and not quiet: at most ten
// times a second, with the time that is left. Wiped at the end.
class ProgressLine {
 public:
  explicit ProgressLine(bool quiet);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  Progress progress();
  void clear();

 private:
  bool visible_;
  bool drawn_ = false;
  double last_ = 0;
  double stage_begin_ = 0;
  std::string stage_;
};

}  // namespace einkorn::app
