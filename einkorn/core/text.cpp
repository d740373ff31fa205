#include "einkorn/core/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

namespace einkorn {
namespace {

std::size_t edit_distance(std::string_view a, std::string_view b);
std::string_view without_plus(std::string_view text);

// The number that is all of the text; error tells a misfit from something that is no number.
template <typename T>
std::optional<T> parse_all(std::string_view text, std::errc& error) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, code] = std::from_chars(text.data(), end, value);
  error = stop == end ? code : std::errc::invalid_argument;
  if (error != std::errc()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates) {
  const std::string plain = lower_ascii(word);
  const std::size_t threshold = std::clamp<std::size_t>(word.size() / 3, 1, 3);
  const std::string* best = nullptr;
  std::size_t best_distance = threshold + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t longer = std::max(word.size(), candidate.size());
    const std::size_t shorter = std::min(word.size(), candidate.size());
    if (longer - shorter >= best_distance) continue;
    const std::size_t distance = edit_distance(plain, lower_ascii(candidate));
    // With every letter changed nothing of the word is left to go by.
    if (distance < best_distance && distance < std::max<std::size_t>(longer, 1)) {
      best = &candidate;
      best_distance = distance;
    }
  }
  if (best == nullptr) return std::nullopt;
  return *best;
}

std::string hint(std::string_view word, const std::vector<std::string>& candidates) {
  const auto found = nearest(word, candidates);
  return found ? fmt::format("; did you mean '{}'?", *found) : "";
}

std::optional<double> to_real(std::string_view text) {
  text = without_plus(text);
  std::errc error;
  if (const auto value = parse_all<double>(text, error)) return value;
  if (error != std::errc::result_out_of_range) return std::nullopt;
  // from_chars does not say whether the number was too large or too small; the wider type does.
  const auto wide = parse_all<long double>(text, error);
  if (!wide || std::fabs(*wide) > 1) return std::nullopt;
  return static_cast<double>(*wide);
}

std::optional<std::int64_t> to_integer(std::string_view text) {
  text = without_plus(text);
  std::errc error;
  if (const auto value = parse_all<std::int64_t>(text, error)) return value;
  // long double holds every 64-bit integer exactly on x86, so nothing is rounded on the way.
  const auto wide = parse_all<long double>(text, error);
  constexpr long double bound = 9223372036854775808.0L;
  if (!wide || !(*wide >= -bound && *wide < bound) || std::trunc(*wide) != *wide) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(*wide);
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> pieces;
  while (true) {
    const std::size_t end = text.find(separator);
    pieces.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return pieces;
    text.remove_prefix(end + 1);
  }
}

std::string lower_ascii(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n\f\v";
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

namespace {

// Optimal string alignment: insert, delete, replace, or swap two neighbours.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::swap(before_last, last);
    std::swap(last, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
  }
  return row[b.size()];
}

std::string_view without_plus(std::string_view text) {
  const bool plus = text.size() > 1 && text[0] == '+' && text[1] != '-';
  return plus ? text.substr(1) : text;
}

}  // namespace
}  // namespace einkorn
