// Options: declared once by a job, and from that one declaration parsed by the command, offered by
// shell completion, printed in help and man pages, and turned into Python signatures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "einkorn/core/device.h"

namespace einkorn {

enum class OptionType {
  flag,         // present or absent
  integer,      // std::int64_t
  real,         // double
  text,         // any string
  choice,       // one of a fixed set of strings
  integers,     // comma-separated std::int64_t
  reals,        // comma-separated double
  input_file,   // an existing file
  output_file,  // a file to write; an existing one is kept unless the caller forces it
};

using OptionValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>,
                                 std::vector<double>>;

// What one option is. Built by the functions below and their chained setters:
//   real("bandwidth").above(0).otherwise(0.3).unit("same as the data").help("kernel bandwidth")
struct Option {
  std::string name;  // as typed after "--", words joined by hyphens
  OptionType type = OptionType::text;
  std::string description;
  std::string unit_name;
  std::vector<std::string> choices;
  std::optional<OptionValue> default_value;
  std::optional<double> minimum;
  std::optional<double> maximum;
  bool minimum_excluded = false;
  bool maximum_excluded = false;
  bool is_required = false;
  bool is_positional = false;

  Option help(std::string text) &&;
  Option unit(std::string name) &&;
  Option required() &&;
  Option positional() &&;  // may also be given without its "--name"; implies nothing about required
  Option otherwise(OptionValue value) &&;
  Option otherwise(const char* value) &&;
  template <typename Number>
    requires std::is_arithmetic_v<Number>
  Option otherwise(Number value) &&;
  Option at_least(double bound) &&;
  Option at_most(double bound) &&;
  Option above(double bound) &&;
  Option below(double bound) &&;
  Option between(double low, double high) &&;

  // "a number > 0", "one of step, openai", ...: for help and for errors.
  std::string admissible() const;

  // Parses and checks one value; throws InvalidArgument that names the option and what it admits.
  OptionValue parse(const std::string& text) const;

  // Checks type and range; integers are accepted where reals are wanted.
  OptionValue check(OptionValue value) const;
};

template <typename Number>
  requires std::is_arithmetic_v<Number>
Option Option::otherwise(Number value) && {
  if constexpr (std::is_same_v<Number, bool>) {
    return std::move(*this).otherwise(OptionValue(value));
  } else if constexpr (std::is_integral_v<Number>) {
    return std::move(*this).otherwise(OptionValue(static_cast<std::int64_t>(value)));
  } else {
    return std::move(*this).otherwise(OptionValue(static_cast<double>(value)));
  }
}

Option flag(std::string name);
Option integer(std::string name);
Option real(std::string name);
Option text(std::string name);
Option choice(std::string name, std::vector<std::string> choices);
Option integers(std::string name);
Option reals(std::string name);
Option input_file(std::string name);
Option output_file(std::string name);
Option seed_option();    // --seed, default 0
Option device_option();  // --device cpu|cuda, default cpu

// A default (or any value) as a user would type it.
std::string to_string(const OptionValue& value);

// A file that a job may write: where, and whether an existing file may be replaced.
struct OutputPath {
  std::filesystem::path path;
  bool force = false;
};

// The values of one call, complete: defaults are filled in, every value checked.
class Options {
 public:
  // given: only what the caller set. Throws InvalidArgument for unknown or missing options (with
  // the nearest known name as a hint), values outside their range, missing input files, and output
  // files that exist while force is false or whose folder cannot be written.
  Options(const std::vector<Option>& declared, std::map<std::string, OptionValue> given,
          bool force = false);

  bool has(const std::string& name) const;    // given or defaulted
  bool given(const std::string& name) const;  // by the caller, not by a default
  bool flag(const std::string& name) const;
  std::int64_t integer(const std::string& name) const;
  double real(const std::string& name) const;
  const std::string& text(const std::string& name) const;  // text, choice
  const std::vector<std::int64_t>& integers(const std::string& name) const;
  const std::vector<double>& reals(const std::string& name) const;
  std::filesystem::path input(const std::string& name) const;
  OutputPath output(const std::string& name) const;
  std::uint64_t seed() const;
  Device device() const;

  const std::map<std::string, OptionValue>& values() const { return values_; }
  bool force() const { return force_; }

 private:
  template <typename T>
  const T& get(const std::string& name) const;

  std::map<std::string, OptionValue> values_;
  std::set<std::string> given_;
  bool force_;
};

}  // namespace einkorn
