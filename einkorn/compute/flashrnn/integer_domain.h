// Sets of positive integers as constraints narrow them: an interval of multiples, listed once it is
// short enough.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace einkorn::flashrnn {

// Sums and products stop growing here; nothing above it is told apart.
inline constexpr std::int64_t integer_limit = std::int64_t{1} << 62;
inline constexpr std::int64_t variable_limit = std::int64_t{1} << 30;

std::int64_t limited_sum(std::int64_t a, std::int64_t b);
std::int64_t limited_product(std::int64_t a, std::int64_t b);
std::int64_t limited_power(std::int64_t base, std::int64_t exponent);
// The greatest r >= 0 with r^exponent <= value.
std::int64_t integer_root(std::int64_t value, std::int64_t exponent);

// All divisors in ascending order; empty for numbers too large to factor at once (above 2^40).
const std::vector<std::int64_t>& divisors(std::int64_t value);

// The multiples of `factor` in [lowest, highest], or of those the listed ones. Kept tight: both
// ends belong to the set, and a set of at most `most_listed` candidates is listed.
class IntegerDomain {
 public:
  static constexpr std::int64_t most_listed = 2048;

  IntegerDomain() : IntegerDomain(1, variable_limit) {}
  IntegerDomain(std::int64_t lowest, std::int64_t highest, std::int64_t factor = 1);
  explicit IntegerDomain(std::vector<std::int64_t> values);  // in any order

  bool empty() const { return lowest_ > highest_; }
  std::int64_t lowest() const { return lowest_; }
  std::int64_t highest() const { return highest_; }
  std::int64_t factor() const { return factor_; }
  bool is_single() const { return lowest_ == highest_; }
  // Ascending; empty optional where there are too many to list.
  const std::optional<std::vector<std::int64_t>>& values() const { return values_; }
  bool contains(std::int64_t value) const;
  // How many it has, or could have.
  std::int64_t size() const;

  bool operator==(const IntegerDomain& other) const;

 private:
  void tighten();

  std::int64_t lowest_ = 1;
  std::int64_t highest_ = 0;
  std::int64_t factor_ = 1;
  std::optional<std::vector<std::int64_t>> values_;
};

IntegerDomain intersection(const IntegerDomain& a, const IntegerDomain& b);
// A superset of the union: exact where both are listed.
IntegerDomain hull(const IntegerDomain& a, const IntegerDomain& b);

IntegerDomain sum(const IntegerDomain& a, const IntegerDomain& b);
IntegerDomain product(const IntegerDomain& a, const IntegerDomain& b);
IntegerDomain power(const IntegerDomain& base, std::int64_t exponent);

// The part of `a` that some b can complete to a member of `result`; sound, not always tight.
IntegerDomain narrowed_term(const IntegerDomain& a, const IntegerDomain& b,
                            const IntegerDomain& result);
IntegerDomain narrowed_factor(const IntegerDomain& a, const IntegerDomain& b,
                              const IntegerDomain& result);
IntegerDomain narrowed_base(const IntegerDomain& base, std::int64_t exponent,
                            const IntegerDomain& result);
// The parts of a and b with a % b == 0.
IntegerDomain narrowed_dividend(const IntegerDomain& a, const IntegerDomain& b);
IntegerDomain narrowed_divisor(const IntegerDomain& b, const IntegerDomain& a);

}  // namespace einkorn::flashrnn
