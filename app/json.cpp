#include "app/json.h"

#include <fmt/format.h>

#include "einkorn/core/error.h"

namespace einkorn::app {
namespace {

template <typename Items>
Json to_json_list(const Items& items) {
  Json list = Json::array();
  for (const auto& item : items) list.push_back(to_json(item));
  return list;
}

Json paper_json(const Paper& paper) {
  return {{"title", paper.title},
          {"authors", paper.authors},
          {"year", paper.year},
          {"arxiv", paper.arxiv}};
}

std::string type_name(OptionType type) {
  switch (type) {
    case OptionType::flag:
      return "flag";
    case OptionType::integer:
      return "integer";
    case OptionType::real:
      return "real";
    case OptionType::text:
      return "text";
    case OptionType::choice:
      return "choice";
    case OptionType::integers:
      return "integers";
    case OptionType::reals:
      return "reals";
    case OptionType::input_file:
      return "input_file";
    case OptionType::output_file:
      break;
  }
  return "output_file";
}

}  // namespace

Json to_json(const Value& value) {
  return std::visit([](const auto& held) { return Json(held); }, value);
}

Json to_json(const OptionValue& value) {
  return std::visit([](const auto& held) { return Json(held); }, value);
}

Json to_json(const Table& table) {
  Json rows = Json::array();
  for (const auto& row : table.rows) {
    Json cells = Json::array();
    for (const Cell& cell : row) {
      std::visit([&](const auto& held) { cells.push_back(held); }, cell);
    }
    rows.push_back(std::move(cells));
  }
  return {{"title", table.title}, {"columns", table.columns}, {"rows", std::move(rows)}};
}

Json to_json(const Plot& plot) {
  Json series = Json::array();
  for (const Series& one : plot.series) {
    Json entry = {{"name", one.name}, {"x", one.x}, {"y", one.y}};
    if (!one.error.empty()) entry["error"] = one.error;
    series.push_back(std::move(entry));
  }
  return {{"title", plot.title},        {"x_label", plot.x_label}, {"y_label", plot.y_label},
          {"log_x", plot.log_x},        {"log_y", plot.log_y},     {"categories", plot.categories},
          {"series", std::move(series)}};
}

Json to_json(const Check& check) {
  return {{"name", check.name},           {"measured", check.measured},
          {"expected", check.expected},   {"relation", to_string(check.relation)},
          {"tolerance", check.tolerance}, {"unit", check.unit},
          {"pass", check.pass()}};
}

Json to_json(const Option& option) {
  Json json = {{"name", option.name},
               {"type", type_name(option.type)},
               {"help", option.description},
               {"required", option.is_required},
               {"positional", option.is_positional},
               {"admissible", option.admissible()}};
  if (!option.unit_name.empty()) json["unit"] = option.unit_name;
  if (option.default_value) json["default"] = to_json(*option.default_value);
  if (!option.choices.empty()) json["choices"] = option.choices;
  return json;
}

Json to_json(const System& system) {
  Json jobs = Json::array();
  for (const Job& job : system.jobs) jobs.push_back(job.name);
  Json devices = Json::array();
  for (const Device device : system.devices) devices.push_back(to_string(device));
  return {{"name", system.name},       {"wing", to_string(system.wing)},
          {"summary", system.summary}, {"paper", paper_json(system.paper)},
          {"jobs", std::move(jobs)},   {"devices", std::move(devices)}};
}

Json to_json_in_full(const System& system) {
  Json json = to_json(system);
  json["jobs"] = Json::array();
  for (const Job& job : system.jobs) {
    json["jobs"].push_back({{"name", job.name},
                            {"summary", job.summary},
                            {"options", to_json_list(job.options)},
                            {"examples", job.examples}});
  }
  json["claim"] = system.reproduction.claim;
  json["data"] = system.reproduction.data;
  json["benchmarks"] = Json::array();
  for (const Benchmark& benchmark : system.benchmarks) {
    json["benchmarks"].push_back({{"case", benchmark.name}, {"peer", benchmark.peer}});
  }
  return json;
}

Json to_json(const Ceilings& ceilings) {
  return {{"processor", ceilings.processor},
          {"bandwidth_bytes_per_s", ceilings.bandwidth},
          {"flops_f64", ceilings.flops_f64},
          {"flops_f32", ceilings.flops_f32},
          {"flops_bf16", ceilings.flops_bf16}};
}

Json to_json(const std::string& system, const std::string& job, const Options& options,
             const Report& report, double seconds) {
  Json given = Json::object();
  for (const auto& [name, value] : options.values()) given[name] = to_json(value);
  Json result = Json::object();
  for (const Metric& metric : report.metrics) result[metric.name] = to_json(metric.value);
  return {{"system", system},
          {"job", job},
          {"options", std::move(given)},
          {"result", std::move(result)},
          {"tables", to_json_list(report.tables)},
          {"plots", to_json_list(report.plots)},
          {"notes", report.notes},
          {"seconds", seconds}};
}

OptionValue option_value_from(const Json& json) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  if (json.is_array()) {
    bool whole = true;
    for (const Json& item : json) {
      require(item.is_number(), "options take numbers, words or lists of numbers");
      whole = whole && item.is_number_integer();
    }
    if (whole) return json.get<std::vector<std::int64_t>>();
    return json.get<std::vector<double>>();
  }
  throw InvalidArgument("options take numbers, words or lists of numbers");
}

void print_json(const Json& json) {
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

}  // namespace einkorn::app
