// Plots through gnuplot, as SVG that takes its foreground colour from the page.
#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "app/outcome.h"

namespace einkorn::app {
namespace {

// Colour-blind safe (Okabe and Ito), readable on white and on black.
constexpr const char* palette[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                   "#e69f00", "#56b4e9", "#8c8c8c", "#b2522c"};

std::string run_shell(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "";
  std::string output;
  char buffer[4096];
  for (std::size_t n = fread(buffer, 1, sizeof buffer, pipe); n > 0;
       n = fread(buffer, 1, sizeof buffer, pipe)) {
    output.append(buffer, n);
  }
  return pclose(pipe) == 0 ? output : "";
}

bool has_gnuplot() {
  static const bool found = !run_shell("gnuplot --version 2>/dev/null").empty();
  return found;
}

// A file that is gone when this is.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content) {
    std::string pattern = (std::filesystem::temp_directory_path() / "einkorn-XXXXXX").string();
    const int file = mkstemp(pattern.data());
    if (file < 0) return;
    path_ = pattern;
    std::FILE* stream = fdopen(file, "w");
    fwrite(content.data(), 1, content.size(), stream);
    std::fclose(stream);
  }
  ~TemporaryFile() {
    if (!path_.empty()) unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// gnuplot's double-quoted strings interpret backslashes; single-quoted ones double the quote.
std::string quoted(const std::string& text) {
  std::string safe = "'";
  for (const char c : text) {
    if (c == '\n') continue;
    safe += c;
    if (c == '\'') safe += c;
  }
  return safe + "'";
}

std::string data_block(const Series& series, std::size_t number, const Plot& plot) {
  std::string block = fmt::format("$series{} << EOD\n", number);
  for (std::size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
    const double x = series.x[i];
    const double y = series.y[i];
    const bool drawable =
        std::isfinite(x) && std::isfinite(y) && (!plot.log_x || x > 0) && (!plot.log_y || y > 0);
    if (!drawable) continue;
    block += fmt::format("{:.9g} {:.9g}", x, y);
    if (!series.error.empty()) block += fmt::format(" {:.9g}", series.error[i]);
    block += '\n';
  }
  return block + "EOD\n";
}

std::string style_of(const Series& series) {
  if (!series.error.empty()) return "with yerrorlines pt 7 ps 0.5 lw 1.5";
  switch (series.mark) {
    case Mark::points:
      return "with points pt 7 ps 0.6";
    case Mark::line_points:
      return "with linespoints pt 7 ps 0.5 lw 1.5";
    case Mark::bars:
      return "with boxes fs solid 0.7 noborder";
    case Mark::line:
      break;
  }
  return "with lines lw 1.8";
}

std::string script_for(const Plot& plot) {
  std::string script =
      "set terminal svg size 520,360 dynamic noenhanced font 'sans-serif,14'\n"
      "set grid\nset border 3\nset tics nomirror\nset key outside below\n";
  script += fmt::format("set title {}\nset xlabel {}\nset ylabel {}\n", quoted(plot.title),
                        quoted(plot.x_label), quoted(plot.y_label));
  if (plot.log_x) script += "set logscale x\nset format x '%.0e'\n";
  if (plot.log_y) script += "set logscale y\n";
  if (!plot.categories.empty()) {
    script += "set boxwidth 0.7\nset xtics rotate by -30 (";
    for (std::size_t i = 0; i < plot.categories.size(); ++i) {
      script += fmt::format("{}{} {}", i > 0 ? ", " : "", quoted(plot.categories[i]), i);
    }
    script += ")\n";
  }
  std::string curves;
  std::size_t number = 0;
  for (const Series& series : plot.series) {
    const std::string block = data_block(series, number, plot);
    if (block.find('\n') + 5 == block.size()) continue;  // nothing that can be drawn
    script += block;
    curves +=
        fmt::format("{}$series{} {} lc rgb '{}' title {}", curves.empty() ? "" : ", ", number,
                    style_of(series), palette[number % std::size(palette)], quoted(series.name));
    ++number;
  }
  return curves.empty() ? "" : script + "plot " + curves + "\n";
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos;
       at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

}  // namespace

std::string svg(const Plot& plot) {
  if (!has_gnuplot()) return "";
  const std::string script = script_for(plot);
  if (script.empty()) return "";
  const TemporaryFile file(script);
  if (file.path().empty()) return "";
  std::string image = run_shell("gnuplot '" + file.path() + "' 2>/dev/null");
  const std::size_t begin = image.find("<svg");
  if (begin == std::string::npos) return "";
  image.erase(0, begin);
  replace_all(image, "<title>Gnuplot</title>", "");
  for (const char* attribute : {"stroke", "fill", "color"}) {
    replace_all(image, fmt::format("{}='black'", attribute),
                fmt::format("{}='currentColor'", attribute));
    replace_all(image, fmt::format("{}=\"black\"", attribute),
                fmt::format("{}=\"currentColor\"", attribute));
  }
  // color="currentColor" means the inherited colour, which is the page's.
  replace_all(image, "color=\"white\"", "color=\"currentColor\"");
  return image;
}

}  // namespace einkorn::app
