#include "einkorn/similarity/graph_proximity/proximity_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "einkorn/core/random.h"

namespace einkorn::graph_proximity {
namespace {

const std::vector<std::int64_t> awkward_sizes = {0,  1,  3,  7,  8,  9,  15,  16,  17,
                                                 31, 32, 33, 63, 64, 65, 511, 513, 1000};

template <typename T>
std::vector<T> random_values(std::int64_t n, std::uint64_t seed, double low, double high) {
  Random random(seed);
  std::vector<T> values(n);
  for (T& value : values) value = static_cast<T>(random.uniform(low, high));
  return values;
}

// Penalties hide every third entry.
template <typename T>
std::vector<T> some_penalties(std::int64_t n) {
  std::vector<T> penalties(n, 0);
  for (std::int64_t k = 0; k < n; k += 3) penalties[k] = std::numeric_limits<T>::infinity();
  return penalties;
}

template <typename T>
class RowKernels : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(RowKernels, Precisions);

TYPED_TEST(RowKernels, FindTheFirstSmallestEntry) {
  using T = TypeParam;
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    for (const std::int64_t n : awkward_sizes) {
      std::vector<T> row = random_values<T>(n, 5, -1, 1);
      const std::vector<T> penalties = some_penalties<T>(n);
      T least = std::numeric_limits<T>::infinity();
      for (std::int64_t k = 0; k < n; ++k) {
        if (penalties[k] == 0) least = std::min(least, row[k]);
      }
      EXPECT_EQ(masked_minimum(row.data(), penalties.data(), n), least) << n;
      if (n < 2) continue;
      // Ties: the first of three equal entries, wherever it lies in a vector.
      for (std::int64_t first = 1; first < n; first += 3) {
        std::vector<T> tied = row;
        for (std::int64_t k = first; k < n; k += 7) tied[k] = -2;
        const T found = masked_minimum(tied.data(), penalties.data(), n);
        EXPECT_EQ(found, -2);
        EXPECT_EQ(first_equal(tied.data(), penalties.data(), n, found), first) << n;
      }
      EXPECT_EQ(first_equal(row.data(), penalties.data(), n, T{5}), n);
    }
  }
}

TYPED_TEST(RowKernels, UpdateDistancesAfterAMerge) {
  using T = TypeParam;
  // Two roundings of numbers below (1e2 + 1e2) * 4 in the numerator, one in the quotient.
  const double tolerance = 8 * std::numeric_limits<T>::epsilon() * 4;
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    for (const std::int64_t n : awkward_sizes) {
      std::vector<T> row_i = random_values<T>(n, 1, -1, 3);
      const std::vector<T> row_j = random_values<T>(n, 2, -1, 3);
      std::vector<T> size = random_values<T>(n, 3, 1, 100);
      for (T& value : size) value = std::floor(value);
      const std::vector<T> before = row_i;
      ward_update(row_i.data(), row_j.data(), size.data(), n, WardMerge<T>{17, 4, T{-0.5}});
      for (std::int64_t k = 0; k < n; ++k) {
        const double expected =
            ((17.0 + size[k]) * before[k] + (4.0 + size[k]) * row_j[k] + size[k] * 0.5) /
            (21.0 + size[k]);
        EXPECT_NEAR(row_i[k], expected, tolerance) << n << " " << k;
      }
    }
  }
}

TEST(LogarithmKernels, MultiplyMatricesBeyondTheRangeOfDouble) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    for (const std::int64_t n : {1, 3, 7, 8, 9, 15, 17, 33, 65}) {
      std::vector<double> a = random_values<double>(n * n, 1, -2000, 2000);
      std::vector<double> b = random_values<double>(n * n, 2, -2000, 2000);
      for (std::int64_t k = 0; k < n * n; k += 5) a[k] = -infinity;
      for (std::int64_t k = 0; k < n * n; k += 2) b[k] = -infinity;
      std::vector<double> out(n * n, 7);
      log_product(a.data(), b.data(), out.data(), n, 0, n, false);
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          long double largest = -infinity;
          for (std::int64_t k = 0; k < n; ++k) {
            largest = std::max<long double>(largest, a[i * n + k] + b[k * n + j]);
          }
          if (std::isinf(largest)) {
            EXPECT_EQ(out[i * n + j], -infinity);
            continue;
          }
          long double sum = 0;
          for (std::int64_t k = 0; k < n; ++k) {
            sum += std::exp(static_cast<long double>(a[i * n + k]) + b[k * n + j] - largest);
          }
          // One rounding of sums up to 4000, and n terms of the exponential at a few units each.
          EXPECT_NEAR(out[i * n + j], static_cast<double>(largest + std::log(sum)), 2e-12);
        }
      }
    }
  }
}

TEST(LogarithmKernels, WriteOnlyWhatTheyAreAsked) {
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    const std::int64_t n = 19;
    const std::vector<double> a = random_values<double>(n * n, 1, -1, 1);
    std::vector<double> whole(n * n), part(n * n, 7);
    log_product(a.data(), a.data(), whole.data(), n, 0, n, false);
    log_product(a.data(), a.data(), part.data(), n, 4, 11, true);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        const bool asked = i >= 4 && i < 11 && j <= i;
        EXPECT_NEAR(part[i * n + j], asked ? whole[i * n + j] : 7, 1e-14);
      }
    }
  }
}

TEST(LogarithmKernels, AddScaledRows) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    for (const std::int64_t n : awkward_sizes) {
      std::vector<double> x = random_values<double>(n, 1, -800, 800);
      std::vector<double> y = random_values<double>(n, 2, -800, 800);
      for (std::int64_t k = 0; k < n; k += 4) x[k] = -infinity;
      for (std::int64_t k = 0; k < n; k += 6) y[k] = -infinity;
      for (std::int64_t k = 1; k < n; k += 5) y[k] = x[k] + 1.5;
      const std::vector<double> before = y;
      log_add_scaled(y.data(), 1.5, x.data(), n);
      for (std::int64_t k = 0; k < n; ++k) {
        const long double first = before[k];
        const long double second = static_cast<long double>(x[k]) + 1.5;
        const long double larger = std::max(first, second);
        if (std::isinf(larger)) {
          EXPECT_EQ(y[k], -infinity) << n << " " << k;
          continue;
        }
        const long double expected =
            larger + std::log1p(std::exp(std::min(first, second) - larger));
        EXPECT_NEAR(y[k], static_cast<double>(expected), 3e-13) << n << " " << k;
      }
    }
  }
}

}  // namespace
}  // namespace einkorn::graph_proximity
