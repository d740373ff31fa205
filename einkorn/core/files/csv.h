// Comma-separated tables with a header line (RFC 4180 quoting).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "einkorn/core/options.h"

namespace einkorn {

// Cells as text; every row has one cell a column. lines[i] is where row i began in the file.
struct CsvTable {
  std::string path;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
  std::vector<std::size_t> lines;

  bool has(const std::string& column) const;

  // Position of a column; throws BadFile, which lists the columns there are, if it is missing.
  std::size_t column(const std::string& name) const;

  // A column as numbers; empty cells and "nan" become NaN if allowed, else BadFile with line and
  // column. Infinities are kept for the caller to judge.
  std::vector<double> numbers(const std::string& name, bool allow_empty = false) const;
};

// Blank lines are skipped. Throws BadFile: ragged rows, unclosed quotes, duplicate or empty header
// names, text that is not UTF-8 or has NUL bytes.
CsvTable parse_csv(const std::string& content, const std::string& path, char separator = ',');
CsvTable read_csv(const std::filesystem::path& path, char separator = ',');

// Throws InvalidArgument for rows that do not fit the header and for text that is not UTF-8.
std::string format_csv(const CsvTable& table);
void write_csv(const OutputPath& path, const CsvTable& table);

}  // namespace einkorn
