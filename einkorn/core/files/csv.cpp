#include "einkorn/core/files/csv.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <unordered_set>

#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/text_internal.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

// Takes a table apart, record by record.
class CsvReader {
 public:
  CsvReader(std::string_view content, const std::string& path, char separator)
      : content_(content), path_(path), separator_(separator) {}

  // Reads the next record that is not a blank line; false at the end.
  bool next(std::vector<std::string>& cells);

  std::size_t line() const { return record_line_; }

 private:
  std::string quoted_cell();
  std::string_view plain_cell();
  bool take_line_end();
  [[noreturn]] void fail(std::size_t line, const std::string& problem) const;

  std::string_view content_;
  const std::string& path_;
  char separator_;
  std::size_t position_ = 0;
  std::size_t line_ = 1;
  std::size_t record_line_ = 1;
};

void check_header(const CsvTable& table);
void append_cell(std::string& text, const std::string& cell, bool alone);

}  // namespace

bool CsvTable::has(const std::string& name) const {
  return std::find(columns.begin(), columns.end(), name) != columns.end();
}

std::size_t CsvTable::column(const std::string& name) const {
  const auto found = std::find(columns.begin(), columns.end(), name);
  if (found == columns.end()) {
    throw BadFile(path, "header",
                  fmt::format("no column '{}'; there are {}{}", name, fmt::join(columns, ", "),
                              hint(name, columns)));
  }
  return static_cast<std::size_t>(found - columns.begin());
}

std::vector<double> CsvTable::numbers(const std::string& name, bool allow_empty) const {
  const std::size_t position = column(name);
  std::vector<double> values;
  values.reserve(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string_view cell = trim(rows[i][position]);
    const auto value = cell.empty() ? std::numeric_limits<double>::quiet_NaN() : to_real(cell);
    if (!value || (std::isnan(*value) && !allow_empty)) {
      const std::string row =
          i < lines.size() ? line_place(lines[i]) : fmt::format("row {}", i + 1);
      throw BadFile(path, fmt::format("{}, column '{}'", row, excerpt(name)),
                    cell.empty() ? "empty, expected a number"
                                 : fmt::format("expected a number, got '{}'", excerpt(cell)));
    }
    values.push_back(*value);
  }
  return values;
}

CsvTable parse_csv(const std::string& content, const std::string& path, char separator) {
  require(separator != '"' && separator != '\n' && separator != '\r' && separator != '\0',
          "a CSV separator cannot be a quote, a line end or NUL");
  CsvReader reader(require_text(content, path), path, separator);
  CsvTable table;
  table.path = path;
  if (!reader.next(table.columns)) {
    throw BadFile(path, "line 1", "no header, expected a line with the names of the columns");
  }
  check_header(table);
  std::vector<std::string> cells;
  while (true) {
    cells.reserve(table.columns.size());
    if (!reader.next(cells)) return table;
    if (cells.size() != table.columns.size()) {
      throw BadFile(path, line_place(reader.line()),
                    fmt::format("{} cells, expected {} as in the header", cells.size(),
                                table.columns.size()));
    }
    table.rows.push_back(std::move(cells));
    table.lines.push_back(reader.line());
    cells.clear();
  }
}

CsvTable read_csv(const std::filesystem::path& path, char separator) {
  return parse_csv(read_text(path), path.string(), separator);
}

std::string format_csv(const CsvTable& table) {
  std::string text;
  const auto append_record = [&](const std::vector<std::string>& cells) {
    require(cells.size() == table.columns.size(), "a row has {} cells, expected {}", cells.size(),
            table.columns.size());
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (i > 0) text += ',';
      append_cell(text, cells[i], cells.size() == 1);
    }
    text += '\n';
  };
  append_record(table.columns);
  for (const auto& row : table.rows) append_record(row);
  return text;
}

void write_csv(const OutputPath& path, const CsvTable& table) {
  write_text(path, format_csv(table));
}

namespace {

bool CsvReader::next(std::vector<std::string>& cells) {
  while (take_line_end()) {
  }
  if (position_ == content_.size()) return false;
  record_line_ = line_;
  while (true) {
    if (position_ < content_.size() && content_[position_] == '"') {
      cells.push_back(quoted_cell());
    } else {
      cells.emplace_back(plain_cell());
    }
    if (position_ == content_.size() || take_line_end()) return true;
    ++position_;
  }
}

// Ends on a separator, a line end or the end of the content.
std::string_view CsvReader::plain_cell() {
  const std::size_t begin = position_;
  for (; position_ < content_.size(); ++position_) {
    const char c = content_[position_];
    if (c == separator_ || c == '\n') break;
    if (c == '\r') {
      if (position_ + 1 < content_.size() && content_[position_ + 1] == '\n') break;
      fail(line_, std::string(bare_carriage_return));
    }
  }
  return content_.substr(begin, position_ - begin);
}

std::string CsvReader::quoted_cell() {
  const std::size_t first_line = line_;
  std::string cell;
  ++position_;
  while (true) {
    const std::size_t quote = content_.find('"', position_);
    if (quote == std::string_view::npos) fail(first_line, "a quote that is never closed");
    const std::string_view piece = content_.substr(position_, quote - position_);
    cell += piece;
    line_ += static_cast<std::size_t>(std::count(piece.begin(), piece.end(), '\n'));
    position_ = quote + 1;
    if (position_ == content_.size() || content_[position_] != '"') break;
    cell += '"';
    ++position_;
  }
  const std::string_view rest = content_.substr(position_, 2);
  if (!rest.empty() && rest[0] != separator_ && rest[0] != '\n' && rest != "\r\n") {
    fail(line_, "text behind a closing quote, expected a separator or the end of the line");
  }
  return cell;
}

bool CsvReader::take_line_end() {
  const std::string_view rest = content_.substr(position_, 2);
  const std::size_t length = rest.starts_with('\n') ? 1 : rest == "\r\n" ? 2 : 0;
  position_ += length;
  if (length > 0) ++line_;
  return length > 0;
}

void CsvReader::fail(std::size_t line, const std::string& problem) const {
  throw BadFile(path_, line_place(line), problem);
}

void check_header(const CsvTable& table) {
  std::unordered_set<std::string_view> seen;
  for (std::size_t i = 0; i < table.columns.size(); ++i) {
    const std::string& name = table.columns[i];
    if (name.empty()) {
      throw BadFile(table.path, "header", fmt::format("column {} has no name", i + 1));
    }
    if (!seen.insert(name).second) {
      throw BadFile(table.path, "header",
                    fmt::format("the column '{}' occurs twice", excerpt(name)));
    }
  }
}

// alone: the cell is the whole record, which must not look like a blank line.
void append_cell(std::string& text, const std::string& cell, bool alone) {
  require(cell.find('\0') == std::string::npos && is_utf8(cell),
          "a CSV cell must be UTF-8 without NUL: '{}'", excerpt(cell));
  // A byte order mark at the very start of a file would be taken off.
  const bool quote = cell.find_first_of(",\"\r\n") != std::string::npos ||
                     cell.starts_with("\xEF\xBB\xBF") || (alone && cell.empty());
  if (!quote) {
    text += cell;
    return;
  }
  text += '"';
  for (const char c : cell) {
    if (c == '"') text += '"';
    text += c;
  }
  text += '"';
}

}  // namespace
}  // namespace einkorn
