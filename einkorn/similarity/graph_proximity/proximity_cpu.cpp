#include "einkorn/similarity/graph_proximity/proximity_kernels.h"

#include "einkorn/core/simd.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/similarity/graph_proximity/proximity_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace einkorn::graph_proximity {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
T masked_minimum(const T* row, const T* penalty, std::int64_t n) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto infinity = hn::Set(d, std::numeric_limits<T>::infinity());
  auto least0 = infinity, least1 = infinity;
  std::int64_t k = 0;
  for (; k + 2 * lanes <= n; k += 2 * lanes) {
    least0 = hn::Min(least0, hn::Add(hn::LoadU(d, row + k), hn::LoadU(d, penalty + k)));
    least1 =
        hn::Min(least1, hn::Add(hn::LoadU(d, row + k + lanes), hn::LoadU(d, penalty + k + lanes)));
  }
  T least = hn::GetLane(hn::MinOfLanes(d, hn::Min(least0, least1)));
  for (; k < n; ++k) least = std::min(least, row[k] + penalty[k]);
  return least;
}

template <typename T>
std::int64_t first_equal(const T* row, const T* penalty, std::int64_t n, T value) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto wanted = hn::Set(d, value);
  std::int64_t k = 0;
  for (; k + lanes <= n; k += lanes) {
    const auto sum = hn::Add(hn::LoadU(d, row + k), hn::LoadU(d, penalty + k));
    const std::intptr_t found = hn::FindFirstTrue(d, hn::Eq(sum, wanted));
    if (found >= 0) return k + found;
  }
  while (k < n && row[k] + penalty[k] != value) ++k;
  return k;
}

// Not named like the public function, which argument-dependent lookup would find through WardMerge.
template <typename T>
void update_row(T* HWY_RESTRICT row_i, const T* HWY_RESTRICT row_j, const T* HWY_RESTRICT size,
                std::int64_t n, WardMerge<T> merge) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto size_i = hn::Set(d, merge.size_i);
  const auto size_j = hn::Set(d, merge.size_j);
  const auto d_ij = hn::Set(d, merge.d_ij);
  std::int64_t k = 0;
  for (; k + lanes <= n; k += lanes) {
    const auto size_k = hn::LoadU(d, size + k);
    const auto with_i = hn::Add(size_i, size_k);
    const auto gain = hn::MulAdd(with_i, hn::LoadU(d, row_i + k),
                                 hn::Mul(hn::Add(size_j, size_k), hn::LoadU(d, row_j + k)));
    const auto numerator = hn::NegMulAdd(size_k, d_ij, gain);
    hn::StoreU(hn::Div(numerator, hn::Add(with_i, size_j)), d, row_i + k);
  }
  for (; k < n; ++k) {
    const T gain = std::fma(merge.size_i + size[k], row_i[k], (merge.size_j + size[k]) * row_j[k]);
    row_i[k] = std::fma(-size[k], merge.d_ij, gain) / ((merge.size_i + size[k]) + merge.size_j);
  }
}

using D = hn::ScalableTag<double>;

// A block of columns whose largest term and running sum stay in the first-level cache.
constexpr std::int64_t block_columns = 512;

inline void largest_terms(const double* a_row, const double* b, std::int64_t n, std::int64_t first,
                          std::int64_t width, double* largest) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::fill_n(largest, width, -std::numeric_limits<double>::infinity());
  for (std::int64_t k = 0; k < n; ++k) {
    if (a_row[k] == -std::numeric_limits<double>::infinity()) continue;
    const auto a = hn::Set(d, a_row[k]);
    const double* b_row = b + k * n + first;
    std::int64_t j = 0;
    for (; j + lanes <= width; j += lanes) {
      hn::StoreU(hn::Max(hn::LoadU(d, largest + j), hn::Add(a, hn::LoadU(d, b_row + j))), d,
                 largest + j);
    }
    for (; j < width; ++j) largest[j] = std::max(largest[j], a_row[k] + b_row[j]);
  }
}

inline void sum_of_terms(const double* a_row, const double* b, std::int64_t n, std::int64_t first,
                         std::int64_t width, const double* shift, double* sum) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::fill_n(sum, width, 0.0);
  for (std::int64_t k = 0; k < n; ++k) {
    if (a_row[k] == -std::numeric_limits<double>::infinity()) continue;
    const auto a = hn::Set(d, a_row[k]);
    const double* b_row = b + k * n + first;
    std::int64_t j = 0;
    for (; j + lanes <= width; j += lanes) {
      const auto term = hn::Sub(hn::Add(a, hn::LoadU(d, b_row + j)), hn::LoadU(d, shift + j));
      hn::StoreU(hn::Add(hn::LoadU(d, sum + j), hn::Exp(d, term)), d, sum + j);
    }
    for (; j < width; ++j) sum[j] += std::exp(a_row[k] + b_row[j] - shift[j]);
  }
}

void log_product(const double* a, const double* b, double* out, std::int64_t n,
                 std::int64_t row_begin, std::int64_t row_end, bool lower) {
  std::array<double, block_columns> largest, sum, shift;
  for (std::int64_t i = row_begin; i < row_end; ++i) {
    const std::int64_t columns = lower ? i + 1 : n;
    for (std::int64_t first = 0; first < columns; first += block_columns) {
      const std::int64_t width = std::min(block_columns, columns - first);
      largest_terms(a + i * n, b, n, first, width, largest.data());
      for (std::int64_t j = 0; j < width; ++j) {
        shift[j] = std::isinf(largest[j]) ? 0 : largest[j];  // an empty sum has no scale
      }
      sum_of_terms(a + i * n, b, n, first, width, shift.data(), sum.data());
      for (std::int64_t j = 0; j < width; ++j) {
        out[i * n + first + j] = shift[j] + std::log(sum[j]);
      }
    }
  }
}

void log_add_scaled(double* HWY_RESTRICT y, double log_factor, const double* HWY_RESTRICT x,
                    std::int64_t n) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const double infinity = std::numeric_limits<double>::infinity();
  const auto factor = hn::Set(d, log_factor);
  const auto zero = hn::Set(d, -infinity);
  std::int64_t k = 0;
  for (; k + lanes <= n; k += lanes) {
    const auto first = hn::LoadU(d, y + k);
    const auto second = hn::Add(factor, hn::LoadU(d, x + k));
    const auto larger = hn::Max(first, second);
    const auto gap = hn::Sub(hn::Min(first, second), larger);
    const auto sum = hn::Add(larger, hn::Log1p(d, hn::Exp(d, gap)));
    hn::StoreU(hn::IfThenElse(hn::Eq(larger, zero), zero, sum), d, y + k);
  }
  for (; k < n; ++k) {
    const double second = log_factor + x[k];
    const double larger = std::max(y[k], second);
    y[k] = larger == -infinity ? larger
                               : larger + std::log1p(std::exp(std::min(y[k], second) - larger));
  }
}

double masked_minimum_f64(const double* row, const double* penalty, std::int64_t n) {
  return masked_minimum(row, penalty, n);
}
float masked_minimum_f32(const float* row, const float* penalty, std::int64_t n) {
  return masked_minimum(row, penalty, n);
}
std::int64_t first_equal_f64(const double* row, const double* penalty, std::int64_t n,
                             double value) {
  return first_equal(row, penalty, n, value);
}
std::int64_t first_equal_f32(const float* row, const float* penalty, std::int64_t n, float value) {
  return first_equal(row, penalty, n, value);
}
void ward_update_f64(double* row_i, const double* row_j, const double* size, std::int64_t n,
                     WardMerge<double> merge) {
  update_row(row_i, row_j, size, n, merge);
}
void ward_update_f32(float* row_i, const float* row_j, const float* size, std::int64_t n,
                     WardMerge<float> merge) {
  update_row(row_i, row_j, size, n, merge);
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::graph_proximity
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn::graph_proximity {
namespace reference {

template <typename T>
T masked_minimum(const T* row, const T* penalty, std::int64_t n) {
  T least = std::numeric_limits<T>::infinity();
  for (std::int64_t k = 0; k < n; ++k) least = std::min(least, row[k] + penalty[k]);
  return least;
}

template <typename T>
std::int64_t first_equal(const T* row, const T* penalty, std::int64_t n, T value) {
  std::int64_t k = 0;
  while (k < n && row[k] + penalty[k] != value) ++k;
  return k;
}

template <typename T>
void ward_update(T* row_i, const T* row_j, const T* size, std::int64_t n, WardMerge<T> merge) {
  for (std::int64_t k = 0; k < n; ++k) {
    const double with_i = static_cast<double>(merge.size_i) + size[k];
    const double with_j = static_cast<double>(merge.size_j) + size[k];
    const double numerator = with_i * row_i[k] + with_j * row_j[k] - double{size[k]} * merge.d_ij;
    row_i[k] = static_cast<T>(numerator / (with_i + merge.size_j));
  }
}

void log_product(const double* a, const double* b, double* out, std::int64_t n,
                 std::int64_t row_begin, std::int64_t row_end, bool lower) {
  for (std::int64_t i = row_begin; i < row_end; ++i) {
    for (std::int64_t j = 0; j < (lower ? i + 1 : n); ++j) {
      double largest = -std::numeric_limits<double>::infinity();
      for (std::int64_t k = 0; k < n; ++k) largest = std::max(largest, a[i * n + k] + b[k * n + j]);
      double sum = 0;
      for (std::int64_t k = 0; k < n && !std::isinf(largest); ++k) {
        sum += std::exp(a[i * n + k] + b[k * n + j] - largest);
      }
      out[i * n + j] = std::isinf(largest) ? largest : largest + std::log(sum);
    }
  }
}

void log_add_scaled(double* y, double log_factor, const double* x, std::int64_t n) {
  for (std::int64_t k = 0; k < n; ++k) {
    const double other = log_factor + x[k];
    const double larger = std::max(y[k], other);
    if (std::isinf(larger)) continue;
    y[k] = larger + std::log1p(std::exp(std::min(y[k], other) - larger));
  }
}

}  // namespace reference

namespace {

template <typename T>
using Minimum = T (*)(const T*, const T*, std::int64_t);
template <typename T>
using First = std::int64_t (*)(const T*, const T*, std::int64_t, T);
template <typename T>
using Update = void (*)(T*, const T*, const T*, std::int64_t, WardMerge<T>);
using Product = void (*)(const double*, const double*, double*, std::int64_t, std::int64_t,
                         std::int64_t, bool);
using AddScaled = void (*)(double*, double, const double*, std::int64_t);

const KernelTable<Minimum<double>> minima_f64 =
    EINKORN_SIMD_VERSIONS(reference::masked_minimum<double>, masked_minimum_f64);
const KernelTable<Minimum<float>> minima_f32 =
    EINKORN_SIMD_VERSIONS(reference::masked_minimum<float>, masked_minimum_f32);
const KernelTable<First<double>> firsts_f64 =
    EINKORN_SIMD_VERSIONS(reference::first_equal<double>, first_equal_f64);
const KernelTable<First<float>> firsts_f32 =
    EINKORN_SIMD_VERSIONS(reference::first_equal<float>, first_equal_f32);
const KernelTable<Update<double>> updates_f64 =
    EINKORN_SIMD_VERSIONS(reference::ward_update<double>, ward_update_f64);
const KernelTable<Update<float>> updates_f32 =
    EINKORN_SIMD_VERSIONS(reference::ward_update<float>, ward_update_f32);
const KernelTable<Product> products = EINKORN_SIMD_VERSIONS(reference::log_product, log_product);
const KernelTable<AddScaled> additions =
    EINKORN_SIMD_VERSIONS(reference::log_add_scaled, log_add_scaled);

}  // namespace

Isa kernel_level() {
  return products.level();
}

double masked_minimum(const double* row, const double* penalty, std::int64_t n) {
  return minima_f64.pick()(row, penalty, n);
}
float masked_minimum(const float* row, const float* penalty, std::int64_t n) {
  return minima_f32.pick()(row, penalty, n);
}
std::int64_t first_equal(const double* row, const double* penalty, std::int64_t n, double value) {
  return firsts_f64.pick()(row, penalty, n, value);
}
std::int64_t first_equal(const float* row, const float* penalty, std::int64_t n, float value) {
  return firsts_f32.pick()(row, penalty, n, value);
}
void ward_update(double* row_i, const double* row_j, const double* size, std::int64_t n,
                 WardMerge<double> merge) {
  updates_f64.pick()(row_i, row_j, size, n, merge);
}
void ward_update(float* row_i, const float* row_j, const float* size, std::int64_t n,
                 WardMerge<float> merge) {
  updates_f32.pick()(row_i, row_j, size, n, merge);
}
void log_product(const double* a, const double* b, double* out, std::int64_t n,
                 std::int64_t row_begin, std::int64_t row_end, bool lower) {
  products.pick()(a, b, out, n, row_begin, row_end, lower);
}
void log_add_scaled(double* y, double log_factor, const double* x, std::int64_t n) {
  additions.pick()(y, log_factor, x, n);
}

}  // namespace einkorn::graph_proximity
#endif  // HWY_ONCE
