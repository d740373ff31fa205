// The JSON shapes that others rely on (docs/command.md).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "einkorn/core/machine.h"
#include "einkorn/core/registry.h"

namespace einkorn::app {

using Json = nlohmann::ordered_json;

Json to_json(const Value& value);
Json to_json(const OptionValue& value);
Json to_json(const Table& table);
Json to_json(const Plot& plot);
Json to_json(const Check& check);
Json to_json(const Option& option);
Json to_json(const System& system);          // an element of `list --json`
Json to_json_in_full(const System& system);  // `show --json`
Json to_json(const Ceilings& ceilings);

// {system, job, options, result, tables, notes, seconds}
Json to_json(const std::string& system, const std::string& job, const Options& options,
             const Report& report, double seconds);

// An option's value from JSON (numbers, strings, booleans, lists); checked later by Options.
// Throws InvalidArgument for shapes that no option has.
OptionValue option_value_from(const Json& json);

void print_json(const Json& json);

}  // namespace einkorn::app
