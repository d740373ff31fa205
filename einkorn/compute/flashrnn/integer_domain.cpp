#include "einkorn/compute/flashrnn/integer_domain.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

namespace einkorn::flashrnn {
namespace {

// Pairs of listed values that an operation may look at.
constexpr std::int64_t most_pairs = 1 << 14;

using Values = std::vector<std::int64_t>;

std::int64_t rounded_up(std::int64_t value, std::int64_t factor) {
  return limited_product((value + factor - 1) / factor, factor);
}

std::int64_t limited_lcm(std::int64_t a, std::int64_t b) {
  return limited_product(a / std::gcd(a, b), b);
}

bool can_pair(const IntegerDomain& a, const IntegerDomain& b) {
  return a.values() && b.values() && limited_product(a.size(), b.size()) <= most_pairs;
}

template <typename Keep>
IntegerDomain filtered(const IntegerDomain& domain, const Keep& keep) {
  Values kept;
  std::copy_if(domain.values()->begin(), domain.values()->end(), std::back_inserter(kept), keep);
  return kept.size() == domain.values()->size() ? domain : IntegerDomain(std::move(kept));
}

template <typename Combine>
IntegerDomain combined(const IntegerDomain& a, const IntegerDomain& b, const Combine& combine) {
  Values values;
  for (const std::int64_t x : *a.values()) {
    for (const std::int64_t y : *b.values()) values.push_back(combine(x, y));
  }
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  if (static_cast<std::int64_t>(values.size()) <= IntegerDomain::most_listed) {
    return IntegerDomain(std::move(values));
  }
  std::int64_t factor = 0;
  for (const std::int64_t value : values) factor = std::gcd(factor, value);
  return {values.front(), values.back(), factor};
}

// Divisors of all listed values; empty where they cannot be had.
std::optional<Values> all_divisors(const IntegerDomain& domain) {
  constexpr std::size_t most = 1 << 13;
  if (!domain.values()) return std::nullopt;
  Values all;
  for (const std::int64_t value : *domain.values()) {
    const Values& found = divisors(value);
    if (found.empty() || all.size() + found.size() > most) return std::nullopt;
    all.insert(all.end(), found.begin(), found.end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

}  // namespace

std::int64_t limited_sum(std::int64_t a, std::int64_t b) {
  return std::min(a + b, integer_limit);
}

std::int64_t limited_product(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) return integer_limit;
  return std::min(result, integer_limit);
}

std::int64_t limited_power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  for (std::int64_t i = 0; i < exponent && (base > 1 || i == 0); ++i) {
    result = limited_product(result, base);
    if (result == integer_limit) break;
  }
  return result;
}

std::int64_t integer_root(std::int64_t value, std::int64_t exponent) {
  if (exponent == 1 || value <= 1) return value;
  if (exponent >= 62) return value >= integer_limit && exponent == 62 ? 2 : 1;
  auto root = static_cast<std::int64_t>(
      std::pow(static_cast<double>(value), 1.0 / static_cast<double>(exponent)));
  while (root > 1 && limited_power(root, exponent) > value) --root;
  while (limited_power(root + 1, exponent) <= value && root < variable_limit) ++root;
  return root;
}

const std::vector<std::int64_t>& divisors(std::int64_t value) {
  constexpr std::int64_t largest = std::int64_t{1} << 40;
  constexpr std::size_t most_remembered = 4096;
  thread_local std::unordered_map<std::int64_t, Values> remembered;
  static const Values none;
  if (value < 1 || value > largest) return none;
  if (remembered.size() > most_remembered) remembered.clear();
  Values& found = remembered[value];
  if (!found.empty()) return found;
  found = {1};
  std::int64_t rest = value;
  const auto take = [&](std::int64_t prime) {
    const std::size_t before = found.size();
    for (std::int64_t power_of_prime = prime; rest % prime == 0; power_of_prime *= prime) {
      rest /= prime;
      for (std::size_t i = 0; i < before; ++i) found.push_back(found[i] * power_of_prime);
    }
  };
  for (std::int64_t prime = 2; prime * prime <= rest; ++prime) {
    if (rest % prime == 0) take(prime);
  }
  if (rest > 1) take(rest);
  std::sort(found.begin(), found.end());
  return found;
}

IntegerDomain::IntegerDomain(std::int64_t lowest, std::int64_t highest, std::int64_t factor)
    : lowest_(std::max<std::int64_t>(lowest, 1)), highest_(highest), factor_(factor) {
  tighten();
}

IntegerDomain::IntegerDomain(std::vector<std::int64_t> values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  if (values.empty()) return;
  lowest_ = values.front();
  highest_ = values.back();
  factor_ = 0;
  for (const std::int64_t value : values) factor_ = std::gcd(factor_, value);
  values_ = std::move(values);
}

void IntegerDomain::tighten() {
  if (lowest_ <= highest_) {
    lowest_ = rounded_up(lowest_, factor_);
    // The limit stands for everything above it.
    if (highest_ < integer_limit) highest_ = highest_ / factor_ * factor_;
  }
  if (lowest_ > highest_) {
    *this = IntegerDomain(Values{});
    return;
  }
  if ((highest_ - lowest_) / factor_ < most_listed && highest_ < integer_limit) {
    Values values;
    for (std::int64_t value = lowest_; value <= highest_; value += factor_) {
      values.push_back(value);
    }
    *this = IntegerDomain(std::move(values));
  }
}

bool IntegerDomain::contains(std::int64_t value) const {
  if (value < lowest_ || value > highest_) return false;
  if (values_) return std::binary_search(values_->begin(), values_->end(), value);
  return value == integer_limit || value % factor_ == 0;
}

std::int64_t IntegerDomain::size() const {
  if (empty()) return 0;
  if (values_) return static_cast<std::int64_t>(values_->size());
  return (highest_ - lowest_) / factor_ + 1;
}

bool IntegerDomain::operator==(const IntegerDomain& other) const {
  return lowest_ == other.lowest_ && highest_ == other.highest_ && factor_ == other.factor_ &&
         size() == other.size() && values_ == other.values_;
}

IntegerDomain intersection(const IntegerDomain& a, const IntegerDomain& b) {
  const auto within = [](const IntegerDomain& outer) {
    return [&outer](std::int64_t value) { return outer.contains(value); };
  };
  if (a.values()) return filtered(a, within(b));
  if (b.values()) return filtered(b, within(a));
  return {std::max(a.lowest(), b.lowest()), std::min(a.highest(), b.highest()),
          limited_lcm(a.factor(), b.factor())};
}

IntegerDomain hull(const IntegerDomain& a, const IntegerDomain& b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  if (a.values() && b.values()) {
    Values both = *a.values();
    both.insert(both.end(), b.values()->begin(), b.values()->end());
    return IntegerDomain(std::move(both));
  }
  return {std::min(a.lowest(), b.lowest()), std::max(a.highest(), b.highest()),
          std::gcd(a.factor(), b.factor())};
}

IntegerDomain sum(const IntegerDomain& a, const IntegerDomain& b) {
  if (a.empty() || b.empty()) return IntegerDomain(Values{});
  if (can_pair(a, b)) return combined(a, b, limited_sum);
  return {limited_sum(a.lowest(), b.lowest()), limited_sum(a.highest(), b.highest()),
          std::gcd(a.factor(), b.factor())};
}

IntegerDomain product(const IntegerDomain& a, const IntegerDomain& b) {
  if (a.empty() || b.empty()) return IntegerDomain(Values{});
  if (can_pair(a, b)) return combined(a, b, limited_product);
  const std::int64_t factor = limited_product(a.factor(), b.factor());
  return {limited_product(a.lowest(), b.lowest()), limited_product(a.highest(), b.highest()),
          factor < integer_limit ? factor : 1};
}

IntegerDomain power(const IntegerDomain& base, std::int64_t exponent) {
  if (base.empty()) return base;
  if (base.values()) {
    Values values;
    for (const std::int64_t value : *base.values()) {
      values.push_back(limited_power(value, exponent));
    }
    return IntegerDomain(std::move(values));
  }
  const std::int64_t factor = limited_power(base.factor(), exponent);
  return {limited_power(base.lowest(), exponent), limited_power(base.highest(), exponent),
          factor < integer_limit ? factor : 1};
}

IntegerDomain narrowed_term(const IntegerDomain& a, const IntegerDomain& b,
                            const IntegerDomain& result) {
  if (b.empty() || result.empty()) return IntegerDomain(Values{});
  // Beyond the limit a difference says nothing.
  const std::int64_t highest =
      result.highest() >= integer_limit ? integer_limit : result.highest() - b.lowest();
  const std::int64_t lowest = b.highest() >= integer_limit ? 1 : result.lowest() - b.highest();
  const IntegerDomain narrowed = intersection(a, IntegerDomain(lowest, highest));
  if (narrowed.empty() || !can_pair(narrowed, b)) return narrowed;
  return filtered(narrowed, [&](std::int64_t x) {
    return std::any_of(b.values()->begin(), b.values()->end(),
                       [&](std::int64_t y) { return result.contains(limited_sum(x, y)); });
  });
}

IntegerDomain narrowed_factor(const IntegerDomain& a, const IntegerDomain& b,
                              const IntegerDomain& result) {
  if (b.empty() || result.empty()) return IntegerDomain(Values{});
  const std::int64_t highest =
      result.highest() >= integer_limit ? integer_limit : result.highest() / b.lowest();
  const std::int64_t lowest = (result.lowest() + b.highest() - 1) / b.highest();
  IntegerDomain narrowed = intersection(a, IntegerDomain(lowest, highest));
  if (b.is_single() && b.lowest() < integer_limit && result.highest() < integer_limit) {
    const std::int64_t factor = result.factor() / std::gcd(result.factor(), b.lowest());
    narrowed = intersection(narrowed, IntegerDomain(1, integer_limit, factor));
  }
  if (narrowed.empty()) return narrowed;
  if (!narrowed.values()) {
    const std::optional<Values> candidates = all_divisors(result);
    if (!candidates) return narrowed;
    narrowed = intersection(IntegerDomain(*candidates), narrowed);
  }
  if (narrowed.empty()) return narrowed;
  if (can_pair(narrowed, b)) {
    return filtered(narrowed, [&](std::int64_t x) {
      return std::any_of(b.values()->begin(), b.values()->end(),
                         [&](std::int64_t y) { return result.contains(limited_product(x, y)); });
    });
  }
  if (can_pair(narrowed, result)) {
    return filtered(narrowed, [&](std::int64_t x) {
      return std::any_of(result.values()->begin(), result.values()->end(), [&](std::int64_t r) {
        return r >= integer_limit || (r % x == 0 && b.contains(r / x));
      });
    });
  }
  return narrowed;
}

IntegerDomain narrowed_base(const IntegerDomain& base, std::int64_t exponent,
                            const IntegerDomain& result) {
  if (result.empty()) return result;
  if (base.values()) {
    return filtered(
        base, [&](std::int64_t value) { return result.contains(limited_power(value, exponent)); });
  }
  const std::int64_t highest =
      result.highest() >= integer_limit ? integer_limit : integer_root(result.highest(), exponent);
  std::int64_t lowest = integer_root(result.lowest(), exponent);
  if (limited_power(lowest, exponent) < result.lowest()) ++lowest;
  const IntegerDomain narrowed = intersection(base, IntegerDomain(lowest, highest));
  return narrowed.values() ? narrowed_base(narrowed, exponent, result) : narrowed;
}

IntegerDomain narrowed_dividend(const IntegerDomain& a, const IntegerDomain& b) {
  if (b.empty()) return b;
  const IntegerDomain narrowed = intersection(
      a, IntegerDomain(b.lowest(), integer_limit, b.factor() < integer_limit ? b.factor() : 1));
  if (!can_pair(narrowed, b)) return narrowed;
  return filtered(narrowed, [&](std::int64_t x) {
    return std::any_of(b.values()->begin(), b.values()->end(),
                       [x](std::int64_t y) { return x % y == 0; });
  });
}

IntegerDomain narrowed_divisor(const IntegerDomain& b, const IntegerDomain& a) {
  if (a.empty()) return a;
  IntegerDomain narrowed = intersection(b, IntegerDomain(1, a.highest()));
  if (narrowed.empty()) return narrowed;
  if (can_pair(narrowed, a)) {
    return filtered(narrowed, [&](std::int64_t y) {
      return std::any_of(a.values()->begin(), a.values()->end(),
                         [y](std::int64_t x) { return x % y == 0; });
    });
  }
  const std::optional<Values> candidates = all_divisors(a);
  return candidates ? intersection(narrowed, IntegerDomain(*candidates)) : narrowed;
}

}  // namespace einkorn::flashrnn
