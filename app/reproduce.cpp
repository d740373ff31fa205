#include <fmt/format.h>

#include <chrono>

#include "app/command.h"
#include "app/json.h"
#include "app/outcome.h"
#include "app/terminal.h"
#include "app/verbs.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"

namespace einkorn::app {
namespace {

bool runs_on(const System& system, Device device) {
  return std::find(system.devices.begin(), system.devices.end(), device) != system.devices.end();
}

Outcome run_one(const System& system, const ReproduceRequest& request) {
  Outcome outcome;
  outcome.system = &system;
  outcome.device = request.device;
  ProgressLine line(request.quiet);
  const auto begin = std::chrono::steady_clock::now();
  try {
    outcome.evidence = system.reproduction.run({request.device, request.full, line.progress()});
  } catch (const Interrupted&) {
    throw;
  } catch (const std::exception& error) {
    // One system that cannot run must not hide what the others show.
    const std::string words = error.what();
    outcome.error = words.substr(0, words.find('\n'));
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return outcome;
}

Json outcome_json(const Outcome& outcome) {
  Json metrics = Json::array();
  for (const Check& check : outcome.evidence.checks) metrics.push_back(to_json(check));
  Json json = {{"system", outcome.system->name},
               {"claim", outcome.system->reproduction.claim},
               {"device", to_string(outcome.device)},
               {"seconds", outcome.seconds},
               {"pass", outcome.pass()},
               {"metrics", std::move(metrics)},
               {"notes", outcome.evidence.notes}};
  if (!outcome.error.empty()) json["error"] = outcome.error;
  return json;
}

std::string verdict(bool pass) {
  return pass ? styled("PASS", Style::good) : styled("FAIL", Style::bad);
}

void print_outcome(const Outcome& outcome) {
  fmt::print("{}  {}  ({}, {:.1f} s)\n", verdict(outcome.pass()),
             styled(outcome.system->name, Style::bold), to_string(outcome.device), outcome.seconds);
  fmt::print("      {}\n", outcome.system->reproduction.claim);
  if (!outcome.error.empty()) fmt::print("      could not run: {}\n", outcome.error);
  for (const Check& check : outcome.evidence.checks) {
    fmt::print("      {}  {}: {} {} {}{}{}\n", verdict(check.pass()), check.name,
               readable(check.measured), to_string(check.relation), readable(check.expected),
               check.tolerance > 0 ? fmt::format(" (+- {})", readable(check.tolerance)) : "",
               check.unit.empty() ? "" : " " + check.unit);
  }
  for (const std::string& note : outcome.evidence.notes) fmt::print("      note: {}\n", note);
  std::fflush(stdout);
}

}  // namespace

int reproduce(const ReproduceRequest& request) {
  const auto wanted = find_systems(request.systems);
  require(!wanted.empty(), "this build holds no systems");
  if (request.html) {
    // Refused now rather than after minutes of work.
    Options({output_file("html")}, {{"html", *request.html}}, request.force);
  }
  std::vector<Outcome> outcomes;
  for (const System* system : wanted) {
    if (!runs_on(*system, request.device)) {
      require(request.systems.empty(), "{} does not run on {}", system->name,
              to_string(request.device));
      continue;
    }
    outcomes.push_back(run_one(*system, request));
    if (!request.json) print_outcome(outcomes.back());
  }
  require(!outcomes.empty(), "no system of this build runs on {}", to_string(request.device));
  std::size_t held = 0;
  for (const Outcome& outcome : outcomes) held += outcome.pass() ? 1 : 0;
  if (request.html) {
    write_text({*request.html, request.force}, html_page(outcomes, request.full));
  }
  if (request.json) {
    Json all = Json::array();
    for (const Outcome& outcome : outcomes) all.push_back(outcome_json(outcome));
    print_json(all);
  } else {
    fmt::print("\n{} of {} claims hold on this machine{}\n", held, outcomes.size(),
               request.html ? fmt::format("; report in {}", *request.html) : "");
  }
  return held == outcomes.size() ? done : check_failed;
}

}  // namespace einkorn::app
