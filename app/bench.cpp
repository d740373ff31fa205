#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "app/command.h"
#include "app/json.h"
#include "app/terminal.h"
#include "app/verbs.h"
#include "einkorn/core/error.h"
#include "einkorn/core/machine.h"

namespace einkorn::app {
namespace {

struct Row {
  std::string system;
  std::string name;
  Device device = Device::cpu;
  double ours = NAN;
  std::string peer;
  double peer_seconds = NAN;
  std::string peer_missing;
  std::string bound;
  double fraction_of_ceiling = NAN;

  double ratio() const { return peer_seconds / ours; }
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// A call of a side after an untimed one, unless a call takes long: the other side's turn has put
// the threads to sleep and its own data into the caches, which a loop of such calls would not meet.
TimedCall warmed(const TimedCall& call) {
  constexpr double long_call = 0.1;  // seconds
  call();
  return call() > long_call ? call : [call] {
    call();
    return call();
  };
}

// Ours and the peer in turn, so that drift of the machine's speed meets both; at least five rounds.
void compete(const Contest& contest, double budget, Row& row, const Progress& progress) {
  constexpr std::size_t fewest = 5;
  constexpr std::size_t most = 1001;
  const TimedCall call_ours = warmed(contest.ours);
  const TimedCall call_peer = contest.peer ? warmed(contest.peer) : TimedCall();
  std::vector<double> ours;
  std::vector<double> peers;
  const auto begin = std::chrono::steady_clock::now();
  const auto spent = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  while (ours.size() < fewest || (ours.size() < most && spent() < budget)) {
    ours.push_back(call_ours());
    if (call_peer) peers.push_back(call_peer());
    progress(row.name, static_cast<std::int64_t>(1000 * std::min(spent() / budget, 1.0)), 1000);
  }
  row.ours = median(ours);
  if (!peers.empty()) row.peer_seconds = median(peers);
}

Row run_one(const System& system, const Benchmark& benchmark, Device device, double budget,
            const Progress& progress) {
  Row row;
  row.system = system.name;
  row.name = benchmark.name;
  row.device = device;
  row.peer = benchmark.peer;
  const Contest contest = benchmark.prepare(device);
  row.peer_missing = contest.peer_missing;
  compete(contest, budget, row, progress);
  const Ceilings& machine = ceilings(device);
  row.bound = machine.bound(contest.work, contest.arithmetic);
  row.fraction_of_ceiling = machine.floor_seconds(contest.work, contest.arithmetic) / row.ours;
  return row;
}

std::vector<Row> run_all(const BenchRequest& request) {
  std::vector<Row> rows;
  ProgressLine line(request.quiet || request.json);
  const Progress progress = line.progress();
  for (const System* system : find_systems(request.systems)) {
    for (const Benchmark& benchmark : system->benchmarks) {
      if (benchmark.name.find(request.only) == std::string::npos) continue;
      for (const Device device : benchmark.devices) {
        if (request.device ? *request.device != device : !is_available(device)) continue;
        rows.push_back(run_one(*system, benchmark, device, request.seconds, progress));
      }
    }
  }
  return rows;
}

Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json to_json(const Row& row) {
  Json json = {{"system", row.system},
               {"case", row.name},
               {"device", to_string(row.device)},
               {"ours_s", row.ours},
               {"peer", row.peer},
               {"peer_s", number_or_null(row.peer_seconds)},
               {"ratio", number_or_null(row.ratio())},
               {"bound", row.bound},
               {"fraction_of_ceiling", number_or_null(row.fraction_of_ceiling)}};
  if (!row.peer_missing.empty()) json["peer_missing"] = row.peer_missing;
  return json;
}

std::string time_words(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.2f} s", seconds);
}

void print_rows(const std::vector<Row>& rows) {
  std::vector<std::vector<std::string>> cells;
  for (const Row& row : rows) {
    cells.push_back({row.system, row.name, to_string(row.device), time_words(row.ours), row.peer,
                     row.peer_missing.empty() ? time_words(row.peer_seconds) : row.peer_missing,
                     std::isfinite(row.ratio()) ? fmt::format("{:.2f}x", row.ratio()) : "-",
                     fmt::format("{:.0f}% of {}", row.fraction_of_ceiling * 100, row.bound)});
  }
  print_table({"system", "case", "device", "ours", "peer", "peer time", "ratio", "ceiling"}, cells);
}

}  // namespace

int bench(const BenchRequest& request) {
  const std::vector<Row> rows = run_all(request);
  require(!rows.empty(), "no benchmark matches");
  std::vector<Device> devices;
  for (const Row& row : rows) {
    if (std::find(devices.begin(), devices.end(), row.device) == devices.end()) {
      devices.push_back(row.device);
    }
  }
  if (!request.json) {
    print_rows(rows);
    return done;
  }
  Json machine = Json::object();
  for (const Device device : devices) machine[to_string(device)] = app::to_json(ceilings(device));
  Json list = Json::array();
  for (const Row& row : rows) list.push_back(to_json(row));
  print_json({{"machine", std::move(machine)}, {"rows", std::move(list)}});
  return done;
}

}  // namespace einkorn::app
