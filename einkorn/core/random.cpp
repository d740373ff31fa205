#include "einkorn/core/random.h"

#include <numbers>
#include <numeric>
#include <utility>

namespace einkorn {
namespace {

std::pair<std::uint32_t, std::uint32_t> multiply(std::uint32_t a, std::uint32_t b) {
  const std::uint64_t product = std::uint64_t{a} * b;
  return {static_cast<std::uint32_t>(product >> 32), static_cast<std::uint32_t>(product)};
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const auto [high0, low0] = multiply(0xD2511F53u, counter[0]);
    const auto [high1, low1] = multiply(0xCD9E8D57u, counter[2]);
    counter = {high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

Random::result_type Random::operator()() {
  if (left_ == 0) {
    const auto low = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
    const auto high = [](std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); };
    const auto block =
        philox({low(block_), high(block_), low(stream_), high(stream_)}, {low(seed_), high(seed_)});
    words_ = {std::uint64_t{block[1]} << 32 | block[0], std::uint64_t{block[3]} << 32 | block[2]};
    ++block_;
    left_ = 2;
  }
  return words_[static_cast<std::size_t>(2 - left_--)];
}

double Random::uniform() {
  return static_cast<double>((*this)() >> 11) * 0x1p-53;
}

double Random::uniform(double low, double high) {
  return low + (high - low) * uniform();
}

double Random::normal() {
  if (!std::isnan(spare_normal_)) return std::exchange(spare_normal_, NAN);
  const double radius = std::sqrt(-2 * std::log1p(-uniform()));
  const double angle = 2 * std::numbers::pi * uniform();
  spare_normal_ = radius * std::sin(angle);
  return radius * std::cos(angle);
}

double Random::gamma(double shape) {
  if (shape < 1) return gamma(shape + 1) * std::pow(1 - uniform(), 1 / shape);
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = normal();
    const double cube_root = 1 + c * x;
    if (cube_root <= 0) continue;
    const double v = cube_root * cube_root * cube_root;
    if (std::log1p(-uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

double Random::beta(double a, double b) {
  const double first = gamma(a);
  return first / (first + gamma(b));
}

std::int64_t Random::integer(std::int64_t bound) {
  // Lemire's multiplication with rejection of the few words that would make some results likelier.
  const auto range = static_cast<std::uint64_t>(bound);
  __extension__ using Wide = unsigned __int128;
  Wide product = Wide{(*this)()} * range;
  if (static_cast<std::uint64_t>(product) < range) {
    const std::uint64_t threshold = -range % range;
    while (static_cast<std::uint64_t>(product) < threshold) product = Wide{(*this)()} * range;
  }
  return static_cast<std::int64_t>(product >> 64);
}

std::vector<std::int64_t> Random::permutation(std::int64_t size) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[static_cast<std::size_t>(integer(static_cast<std::int64_t>(i)))]);
  }
  return order;
}

}  // namespace einkorn
