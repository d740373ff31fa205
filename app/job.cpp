#include <fmt/format.h>

#include <chrono>

#include "app/command.h"
#include "app/json.h"
#include "app/outcome.h"
#include "app/terminal.h"
#include "app/verbs.h"
#include "einkorn/core/files/content.h"

namespace einkorn::app {
namespace {

void print_report(const Report& report, double seconds) {
  std::size_t width = 0;
  for (const Metric& metric : report.metrics) width = std::max(width, metric.name.size());
  for (const Metric& metric : report.metrics) {
    fmt::print("{:{}}  {}{}\n", metric.name, width, readable(metric.value),
               metric.unit.empty() ? "" : " " + metric.unit);
  }
  for (const Table& table : report.tables) print_table(table);
  for (const std::string& note : report.notes) fmt::print("note: {}\n", note);
  fmt::print("{}\n", styled(fmt::format("{:.3g} s", seconds), Style::faint));
}

}  // namespace

int run_job(const JobRequest& request) {
  const System& system = find_system(request.system);
  const Job& job = find_job(system, request.job);
  const Options options(job.options, request.options, request.force);
  if (options.has("device")) require_available(options.device());
  if (request.html) {
    // Refused now rather than after the work.
    Options({output_file("html")}, {{"html", *request.html}}, request.force);
  }
  ProgressLine line(request.quiet || request.json);
  const auto begin = std::chrono::steady_clock::now();
  const Report report = job.run(options, line.progress());
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  line.clear();
  if (request.html) {
    write_text({*request.html, request.force}, html_page(system.name, job.name, report));
  }
  if (request.json) {
    print_json(to_json(system.name, job.name, options, report, elapsed.count()));
  } else {
    print_report(report, elapsed.count());
  }
  return done;
}

}  // namespace einkorn::app
