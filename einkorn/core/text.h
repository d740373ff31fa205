// Small text helpers that the command and the readers share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace einkorn {

// The candidate nearest to the word in edit distance (case aside, neighbours swapped count one), if
// it is near enough to be a slip of the hand.
std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates);

// "; did you mean 'x'?" or nothing.
std::string hint(std::string_view word, const std::vector<std::string>& candidates);

// Whole-string conversions without locale; empty where the text is not exactly one number or the
// number does not fit. A leading '+' is allowed; reals may be inf or nan, and round to 0 below the
// smallest double. Integers also accept 1e9, as long as the value is whole and fits.
std::optional<double> to_real(std::string_view text);
std::optional<std::int64_t> to_integer(std::string_view text);

// The pieces between separators, empty ones too: one more than there are separators.
std::vector<std::string> split(std::string_view text, char separator);
// ASCII letters in lower case, all else as it is.
std::string lower_ascii(std::string_view text);

// Without the white space at both ends.
std::string_view trim(std::string_view text);

}  // namespace einkorn
