#include "einkorn/core/options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

Option make(std::string name, OptionType type) {
  Option option;
  option.name = std::move(name);
  option.type = type;
  return option;
}

bool is_numeric(OptionType type) {
  return type == OptionType::integer || type == OptionType::real || type == OptionType::integers ||
         type == OptionType::reals;
}

std::string noun(OptionType type) {
  switch (type) {
    case OptionType::flag:
      return "true or false";
    case OptionType::integer:
      return "a whole number";
    case OptionType::real:
      return "a number";
    case OptionType::integers:
      return "whole numbers separated by commas";
    case OptionType::reals:
      return "numbers separated by commas";
    case OptionType::input_file:
      return "an existing file";
    case OptionType::output_file:
      return "a file to write";
    case OptionType::text:
    case OptionType::choice:
      break;
  }
  return "text";
}

[[noreturn]] void refuse(const Option& option, const std::string& got) {
  throw InvalidArgument(
      fmt::format("--{}: expected {}, got '{}'", option.name, option.admissible(), got));
}

void check_range(const Option& option, double value) {
  const bool low = option.minimum &&
                   (option.minimum_excluded ? value <= *option.minimum : value < *option.minimum);
  const bool high = option.maximum &&
                    (option.maximum_excluded ? value >= *option.maximum : value > *option.maximum);
  if (low || high || !std::isfinite(value)) refuse(option, fmt::format("{}", value));
}

template <typename T, typename Parse>
std::vector<T> parse_list(const Option& option, const std::string& text, Parse parse) {
  std::vector<T> values;
  for (const std::string& item : split(text, ',')) {
    const auto value = parse(trim(item));
    if (!value) refuse(option, text);
    values.push_back(*value);
  }
  return values;
}

void check_input(const Option& option, const std::string& path) {
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (!std::filesystem::exists(status)) {
    throw BadFile(path, "", fmt::format("no such file (--{})", option.name));
  }
  if (std::filesystem::is_directory(status)) {
    throw BadFile(path, "", fmt::format("is a folder, expected a file (--{})", option.name));
  }
}

void check_output(const Option& option, const std::string& path, bool force) {
  std::error_code ignored;
  const std::filesystem::path parent = std::filesystem::absolute(path, ignored).parent_path();
  if (!std::filesystem::is_directory(parent, ignored)) {
    throw BadFile(path, "", fmt::format("its folder does not exist (--{})", option.name));
  }
  if (std::filesystem::is_directory(path, ignored)) {
    throw BadFile(path, "", fmt::format("is a folder, expected a file (--{})", option.name));
  }
  if (!force && std::filesystem::exists(path, ignored)) {
    throw BadFile(path, "", fmt::format("exists; --force replaces it (--{})", option.name));
  }
}

}  // namespace

Option Option::help(std::string text) && {
  description = std::move(text);
  return std::move(*this);
}

Option Option::unit(std::string name_of_unit) && {
  unit_name = std::move(name_of_unit);
  return std::move(*this);
}

Option Option::required() && {
  is_required = true;
  return std::move(*this);
}

Option Option::positional() && {
  is_positional = true;
  return std::move(*this);
}

Option Option::otherwise(OptionValue value) && {
  default_value = check(std::move(value));
  return std::move(*this);
}

Option Option::otherwise(const char* value) && {
  return std::move(*this).otherwise(OptionValue(std::string(value)));
}

Option Option::at_least(double bound) && {
  minimum = bound;
  return std::move(*this);
}

Option Option::at_most(double bound) && {
  maximum = bound;
  return std::move(*this);
}

Option Option::above(double bound) && {
  minimum = bound;
  minimum_excluded = true;
  return std::move(*this);
}

Option Option::below(double bound) && {
  maximum = bound;
  maximum_excluded = true;
  return std::move(*this);
}

Option Option::between(double low, double high) && {
  minimum = low;
  maximum = high;
  return std::move(*this);
}

std::string Option::admissible() const {
  if (type == OptionType::choice) return fmt::format("one of {}", fmt::join(choices, ", "));
  std::string words = noun(type);
  if (!is_numeric(type)) return words;
  if (minimum && maximum) {
    words += fmt::format(" in {}{}, {}{}", minimum_excluded ? '(' : '[', *minimum, *maximum,
                         maximum_excluded ? ')' : ']');
  } else if (minimum) {
    words += fmt::format(" {} {}", minimum_excluded ? ">" : ">=", *minimum);
  } else if (maximum) {
    words += fmt::format(" {} {}", maximum_excluded ? "<" : "<=", *maximum);
  }
  return words;
}

OptionValue Option::parse(const std::string& text) const {
  switch (type) {
    case OptionType::flag:
      if (text == "true" || text == "1") return true;
      if (text == "false" || text == "0") return false;
      refuse(*this, text);
    case OptionType::integer:
      if (const auto value = to_integer(text)) return check(*value);
      refuse(*this, text);
    case OptionType::real:
      if (const auto value = to_real(text)) return check(*value);
      refuse(*this, text);
    case OptionType::integers:
      return check(parse_list<std::int64_t>(*this, text, to_integer));
    case OptionType::reals:
      return check(parse_list<double>(*this, text, to_real));
    case OptionType::text:
    case OptionType::choice:
    case OptionType::input_file:
    case OptionType::output_file:
      break;
  }
  return check(text);
}

OptionValue Option::check(OptionValue value) const {
  if (type == OptionType::real && std::holds_alternative<std::int64_t>(value)) {
    value = static_cast<double>(std::get<std::int64_t>(value));
  }
  if (type == OptionType::reals && std::holds_alternative<std::vector<std::int64_t>>(value)) {
    const auto& whole = std::get<std::vector<std::int64_t>>(value);
    value = std::vector<double>(whole.begin(), whole.end());
  }
  const bool type_fits = [&] {
    switch (type) {
      case OptionType::flag:
        return std::holds_alternative<bool>(value);
      case OptionType::integer:
        return std::holds_alternative<std::int64_t>(value);
      case OptionType::real:
        return std::holds_alternative<double>(value);
      case OptionType::integers:
        return std::holds_alternative<std::vector<std::int64_t>>(value);
      case OptionType::reals:
        return std::holds_alternative<std::vector<double>>(value);
      default:
        return std::holds_alternative<std::string>(value);
    }
  }();
  if (!type_fits) refuse(*this, to_string(value));
  if (const auto* whole = std::get_if<std::int64_t>(&value)) {
    check_range(*this, static_cast<double>(*whole));
  }
  if (const auto* number = std::get_if<double>(&value)) check_range(*this, *number);
  if (const auto* wholes = std::get_if<std::vector<std::int64_t>>(&value)) {
    for (const std::int64_t whole : *wholes) check_range(*this, static_cast<double>(whole));
  }
  if (const auto* numbers = std::get_if<std::vector<double>>(&value)) {
    for (const double number : *numbers) check_range(*this, number);
  }
  if (type == OptionType::choice) {
    const std::string& word = std::get<std::string>(value);
    if (std::find(choices.begin(), choices.end(), word) == choices.end()) {
      throw InvalidArgument(fmt::format("--{}: expected {}, got '{}'{}", name, admissible(), word,
                                        hint(word, choices)));
    }
  }
  return value;
}

Option flag(std::string name) {
  return make(std::move(name), OptionType::flag).otherwise(false);
}
Option integer(std::string name) {
  return make(std::move(name), OptionType::integer);
}
Option real(std::string name) {
  return make(std::move(name), OptionType::real);
}
Option text(std::string name) {
  return make(std::move(name), OptionType::text);
}
Option integers(std::string name) {
  return make(std::move(name), OptionType::integers);
}
Option reals(std::string name) {
  return make(std::move(name), OptionType::reals);
}
Option input_file(std::string name) {
  return make(std::move(name), OptionType::input_file);
}
Option output_file(std::string name) {
  return make(std::move(name), OptionType::output_file);
}

Option choice(std::string name, std::vector<std::string> choices) {
  Option option = make(std::move(name), OptionType::choice);
  option.choices = std::move(choices);
  return option;
}

Option seed_option() {
  return integer("seed").at_least(0).otherwise(0).help("seed of all randomness");
}

Option device_option() {
  return choice("device", {"cpu", "cuda"}).otherwise("cpu").help("where to run");
}

std::string to_string(const OptionValue& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, std::vector<std::int64_t>> ||
                      std::is_same_v<T, std::vector<double>>) {
          return fmt::format("{}", fmt::join(held, ","));
        } else {
          return fmt::format("{}", held);
        }
      },
      value);
}

Options::Options(const std::vector<Option>& declared, std::map<std::string, OptionValue> given,
                 bool force)
    : force_(force) {
  for (const Option& option : declared) {
    auto found = given.extract(option.name);
    if (!found.empty()) {
      values_[option.name] = option.check(std::move(found.mapped()));
      given_.insert(option.name);
    } else if (option.default_value) {
      values_[option.name] = *option.default_value;
    } else if (option.is_required) {
      throw InvalidArgument(
          option.is_positional
              ? fmt::format("{} is missing: {}", option.name, option.description)
              : fmt::format("--{} is missing: {}", option.name, option.description));
    }
  }
  if (!given.empty()) {
    std::vector<std::string> names;
    for (const Option& option : declared) names.push_back(option.name);
    const std::string& unknown = given.begin()->first;
    throw InvalidArgument(fmt::format("unknown option --{}{}", unknown, hint(unknown, names)));
  }
  for (const Option& option : declared) {
    const auto value = values_.find(option.name);
    if (value == values_.end()) continue;
    if (option.type == OptionType::input_file) {
      check_input(option, std::get<std::string>(value->second));
    } else if (option.type == OptionType::output_file) {
      check_output(option, std::get<std::string>(value->second), force);
    }
  }
}

bool Options::has(const std::string& name) const {
  return values_.count(name) > 0;
}

bool Options::given(const std::string& name) const {
  return given_.count(name) > 0;
}

template <typename T>
const T& Options::get(const std::string& name) const {
  const auto value = values_.find(name);
  if (value == values_.end() || !std::holds_alternative<T>(value->second)) {
    throw std::logic_error(fmt::format("option '{}' has no value of the type asked for", name));
  }
  return std::get<T>(value->second);
}

bool Options::flag(const std::string& name) const {
  return get<bool>(name);
}
std::int64_t Options::integer(const std::string& name) const {
  return get<std::int64_t>(name);
}
double Options::real(const std::string& name) const {
  return get<double>(name);
}
const std::string& Options::text(const std::string& name) const {
  return get<std::string>(name);
}

const std::vector<std::int64_t>& Options::integers(const std::string& name) const {
  return get<std::vector<std::int64_t>>(name);
}

const std::vector<double>& Options::reals(const std::string& name) const {
  return get<std::vector<double>>(name);
}

std::filesystem::path Options::input(const std::string& name) const {
  return get<std::string>(name);
}

OutputPath Options::output(const std::string& name) const {
  return {get<std::string>(name), force_};
}

std::uint64_t Options::seed() const {
  return static_cast<std::uint64_t>(integer("seed"));
}

Device Options::device() const {
  return text("device") == "cuda" ? Device::cuda : Device::cpu;
}

}  // namespace einkorn
