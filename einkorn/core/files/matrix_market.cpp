#include <algorithm>
#include <string_view>

#include "einkorn/core/error.h"
#include "einkorn/core/files/graph_file.h"
#include "einkorn/core/files/graph_internal.h"
#include "einkorn/core/files/text_internal.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

class MatrixReader {
 public:
  MatrixReader(std::string_view content, const std::string& path)
      : size_(content.size()), lines_(content), path_(path) {}

  GraphFile read();

 private:
  void read_banner();
  bool next_line();
  void read_coordinates();
  void read_array();
  void check_square(std::int64_t rows, std::int64_t columns);
  void name_nodes(std::int64_t count);
  void expect_end();
  std::int64_t take_count(std::string_view what);
  std::int64_t take_index();
  double take_value();
  void expect_line_end();
  [[noreturn]] void fail(const std::string& problem) const;

  std::size_t size_;
  Lines lines_;
  const std::string& path_;
  std::string_view rest_;  // of the current line
  bool is_array_ = false;
  bool is_integer_ = false;
  bool is_pattern_ = false;
  GraphFile graph_;
};

}  // namespace

GraphFile parse_matrix_market(const std::string& content, const std::string& path) {
  return MatrixReader(require_text(content, path), path).read();
}

namespace {

GraphFile MatrixReader::read() {
  read_banner();
  if (!next_line()) fail("the file ends too early, expected a line with the size of the matrix");
  if (is_array_) {
    read_array();
  } else {
    read_coordinates();
  }
  expect_end();
  return std::move(graph_);
}

void MatrixReader::read_banner() {
  lines_.next();
  rest_ = lines_.text();
  if (lower_ascii(take_token(rest_)) != "%%matrixmarket") {
    fail("not a Matrix Market file, expected it to begin with %%MatrixMarket");
  }
  const std::string object = lower_ascii(take_token(rest_));
  const std::string format = lower_ascii(take_token(rest_));
  const std::string field = lower_ascii(take_token(rest_));
  const std::string symmetry = lower_ascii(take_token(rest_));
  expect_line_end();
  if (object != "matrix")
    fail(fmt::format("expected the object matrix, got '{}'", excerpt(object)));
  if (format != "coordinate" && format != "array") {
    fail(fmt::format("expected the format coordinate or array, got '{}'", excerpt(format)));
  }
  if (field == "complex") fail("complex values cannot be edge weights, expected real or integer");
  if (field != "real" && field != "double" && field != "integer" && field != "pattern") {
    fail(fmt::format("expected the field real, integer or pattern, got '{}'", excerpt(field)));
  }
  if (symmetry == "skew-symmetric" || symmetry == "hermitian") {
    fail(fmt::format("a {} matrix is no graph, expected general or symmetric", symmetry));
  }
  if (symmetry != "general" && symmetry != "symmetric") {
    fail(fmt::format("expected the symmetry general or symmetric, got '{}'", excerpt(symmetry)));
  }
  is_array_ = format == "array";
  is_integer_ = field == "integer";
  is_pattern_ = field == "pattern";
  graph_.directed = symmetry == "general";
  if (is_array_ && is_pattern_) fail("an array has values, it cannot be a pattern");
}

// Goes to the next line that is neither blank nor a comment.
bool MatrixReader::next_line() {
  while (lines_.next()) {
    rest_ = trim(lines_.text());
    if (!rest_.empty() && rest_[0] != '%') return true;
  }
  rest_ = {};
  return false;
}

void MatrixReader::read_coordinates() {
  const std::int64_t rows = take_count("rows");
  const std::int64_t columns = take_count("columns");
  const std::int64_t entries = take_count("entries");
  expect_line_end();
  check_square(rows, columns);
  // The shortest entry is "1 1" and a line end.
  const std::size_t shortest = is_pattern_ ? 4 : 6;
  if (static_cast<std::size_t>(entries) > size_ / shortest + 1) {
    fail(fmt::format("{} entries do not fit a file of {} bytes", entries, size_));
  }
  name_nodes(rows);
  graph_.edges.reserve(static_cast<std::size_t>(entries));
  for (std::int64_t i = 0; i < entries; ++i) {
    if (!next_line()) fail(fmt::format("the file ends after {} of {} entries", i, entries));
    Edge edge;
    edge.source = take_index();
    edge.target = take_index();
    if (!is_pattern_) edge.weight = take_value();
    expect_line_end();
    graph_.edges.push_back(edge);
  }
}

// Column by column; of a symmetric matrix the part below the diagonal, with it.
void MatrixReader::read_array() {
  const std::int64_t rows = take_count("rows");
  const std::int64_t columns = take_count("columns");
  expect_line_end();
  check_square(rows, columns);
  // Each row has a value, at least a digit and a line end.
  if (static_cast<std::size_t>(rows) > size_ / 2 + 1) {
    fail(fmt::format("{} rows do not fit a file of {} bytes", rows, size_));
  }
  name_nodes(rows);
  for (std::int64_t column = 0; column < columns; ++column) {
    for (std::int64_t row = graph_.directed ? 0 : column; row < rows; ++row) {
      if (!next_line()) {
        fail(fmt::format("the file ends before the value of row {}, column {}", row + 1,
                         column + 1));
      }
      const double value = take_value();
      expect_line_end();
      if (value != 0) graph_.edges.push_back({row, column, value});
    }
  }
}

void MatrixReader::check_square(std::int64_t rows, std::int64_t columns) {
  if (rows != columns) {
    fail(fmt::format("{} rows and {} columns, expected a square matrix", rows, columns));
  }
}

void MatrixReader::name_nodes(std::int64_t count) {
  // Rows without entries take no space in the file, so its size bounds their number but loosely.
  const std::size_t most = std::max<std::size_t>(size_, 1 << 20);
  if (static_cast<std::size_t>(count) > most) {
    fail(fmt::format("{} rows are out of proportion to a file of {} bytes", count, size_));
  }
  graph_.nodes.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 1; i <= count; ++i) graph_.nodes.push_back(fmt::format("{}", i));
}

void MatrixReader::expect_end() {
  if (next_line()) fail(fmt::format("more entries than announced: '{}'", excerpt(rest_)));
}

std::int64_t MatrixReader::take_count(std::string_view what) {
  const std::string_view word = take_token(rest_);
  const auto count = to_integer(word);
  if (!count || *count < 0) {
    fail(fmt::format("expected the number of {}, got '{}'", what, excerpt(word)));
  }
  return *count;
}

std::int64_t MatrixReader::take_index() {
  const std::string_view word = take_token(rest_);
  const auto index = to_integer(word);
  if (!index || *index < 1 || *index > static_cast<std::int64_t>(graph_.nodes.size())) {
    fail(fmt::format("expected a row or column from 1 to {}, got '{}'", graph_.nodes.size(),
                     excerpt(word)));
  }
  return *index - 1;
}

double MatrixReader::take_value() {
  const std::string_view word = take_token(rest_);
  if (is_integer_ && !to_integer(word)) {
    fail(fmt::format("expected a whole number, got '{}'", excerpt(word)));
  }
  const auto value = to_weight(word);
  if (!value) fail(weight_expected(word));
  return *value;
}

void MatrixReader::expect_line_end() {
  const std::string_view word = take_token(rest_);
  if (!word.empty()) fail(fmt::format("expected the end of the line, got '{}'", excerpt(word)));
}

void MatrixReader::fail(const std::string& problem) const {
  throw BadFile(path_, line_place(std::max<std::size_t>(lines_.number(), 1)), problem);
}

}  // namespace
}  // namespace einkorn
