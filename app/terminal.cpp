#include "app/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace einkorn::app {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool is_terminal(std::FILE* stream) {
  return isatty(fileno(stream)) == 1;
}

template <typename T>
std::string readable_list(const std::vector<T>& items) {
  constexpr std::size_t shown = 12;
  std::string text;
  for (std::size_t i = 0; i < std::min(items.size(), shown); ++i) {
    if (i > 0) text += ' ';
    if constexpr (std::is_same_v<T, double>) {
      text += readable(items[i]);
    } else {
      text += fmt::format("{}", items[i]);
    }
  }
  if (items.size() > shown) {
    text += fmt::format(" ... ({} values; --json shows all)", items.size());
  }
  return text;
}

// Characters as they take room on the screen: continuation bytes of UTF-8 take none.
std::size_t display_width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

bool looks_numeric(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789.+-einfa%x ") == std::string::npos;
}

std::string padded(const std::string& text, std::size_t width, bool right) {
  const std::size_t have = display_width(text);
  const std::string blanks(have < width ? width - have : 0, ' ');
  return right ? blanks + text : text + blanks;
}

}  // namespace

bool wants_colour(std::FILE* stream) {
  const char* no_colour = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  if (no_colour != nullptr && *no_colour != '\0') return false;
  if (terminal == nullptr || std::string(terminal) == "dumb") return false;
  return is_terminal(stream);
}

std::string styled(const std::string& text, Style style, std::FILE* stream) {
  if (style == Style::plain || !wants_colour(stream)) return text;
  const char* code = style == Style::bold   ? "1"
                     : style == Style::good ? "32"
                     : style == Style::bad  ? "31"
                                            : "2";
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

int terminal_width(std::FILE* stream) {
  winsize size = {};
  if (is_terminal(stream) && ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return 100;
}

std::string readable(double value) {
  return fmt::format("{:.6g}", value);
}

std::string readable(const Cell& cell) {
  if (const auto* number = std::get_if<double>(&cell)) return readable(*number);
  if (const auto* whole = std::get_if<std::int64_t>(&cell)) return fmt::format("{}", *whole);
  return std::get<std::string>(cell);
}

std::string readable(const Value& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, double>) {
          return fmt::format("{:.10g}", held);
        } else if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, std::int64_t> ||
                             std::is_same_v<T, std::string>) {
          return fmt::format("{}", held);
        } else {
          return readable_list(held);
        }
      },
      value);
}

void print_table(const std::vector<std::string>& columns,
                 const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  std::vector<bool> numeric;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    std::size_t width = display_width(columns[c]);
    bool all_numbers = !rows.empty();
    for (const auto& row : rows) {
      width = std::max(width, display_width(row[c]));
      all_numbers = all_numbers && looks_numeric(row[c]);
    }
    widths.push_back(width);
    numeric.push_back(all_numbers);
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      if (c > 0) text += "  ";
      text += padded(cells[c], widths[c], numeric[c]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
  };
  fmt::print("{}\n", styled(line(columns), Style::bold));
  for (const auto& row : rows) fmt::print("{}\n", line(row));
}

void print_table(const Table& table) {
  if (!table.title.empty()) fmt::print("\n{}\n", styled(table.title, Style::bold));
  std::vector<std::vector<std::string>> rows;
  for (const auto& row : table.rows) {
    std::vector<std::string> cells;
    for (const Cell& cell : row) cells.push_back(readable(cell));
    rows.push_back(std::move(cells));
  }
  print_table(table.columns, rows);
}

ProgressLine::ProgressLine(bool quiet) : visible_(!quiet && is_terminal(stderr)) {}

ProgressLine::~ProgressLine() {
  clear();
}

void ProgressLine::clear() {
  if (!drawn_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  drawn_ = false;
}

Progress ProgressLine::progress() {
  if (!visible_) return Progress();
  return Progress([this](const std::string& stage, std::int64_t done, std::int64_t total) {
    const double time = now();
    if (stage != stage_) {
      stage_ = stage;
      stage_begin_ = time;
    }
    if (time - last_ < 0.1) return;
    last_ = time;
    std::string line = stage;
    if (total > 0) {
      const double part =
          std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
      const int filled = static_cast<int>(part * 24);
      line += fmt::format("  [{}{}] {:3.0f}%", std::string(static_cast<std::size_t>(filled), '='),
                          std::string(static_cast<std::size_t>(24 - filled), ' '), part * 100);
      if (part > 0.02)
        line += fmt::format("  {:.0f} s left", (time - stage_begin_) * (1 / part - 1));
    } else if (done > 0) {
      line += fmt::format("  {}", done);
    }
    fmt::print(stderr, "\r\x1b[K{}",
               line.substr(0, static_cast<std::size_t>(terminal_width(stderr) - 1)));
    std::fflush(stderr);
    drawn_ = true;
  });
}

}  // namespace einkorn::app
