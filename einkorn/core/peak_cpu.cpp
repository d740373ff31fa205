#include "einkorn/core/peak_kernels.h"
#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/core/peak_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef EINKORN_PEAK_KEEP
#define EINKORN_PEAK_KEEP
namespace einkorn {

// Makes the compiler believe that the value is used.
template <typename T>
void keep(T value) {
  asm volatile("" : : "x"(value));
}

}  // namespace einkorn
#endif

HWY_BEFORE_NAMESPACE();
namespace einkorn {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Ten chains hide the latency of a multiply-add on cores that start two a cycle.
template <typename T>
double run_fma(std::int64_t iterations) {
  const hn::ScalableTag<T> d;
  const auto factor = hn::Set(d, static_cast<T>(0.999));
  const auto term = hn::Set(d, static_cast<T>(0.001));
  auto a0 = hn::Iota(d, 0), a1 = hn::Iota(d, 1), a2 = hn::Iota(d, 2), a3 = hn::Iota(d, 3),
       a4 = hn::Iota(d, 4), a5 = hn::Iota(d, 5), a6 = hn::Iota(d, 6), a7 = hn::Iota(d, 7),
       a8 = hn::Iota(d, 8), a9 = hn::Iota(d, 9);
  for (std::int64_t i = 0; i < iterations; ++i) {
    a0 = hn::MulAdd(a0, factor, term);
    a1 = hn::MulAdd(a1, factor, term);
    a2 = hn::MulAdd(a2, factor, term);
    a3 = hn::MulAdd(a3, factor, term);
    a4 = hn::MulAdd(a4, factor, term);
    a5 = hn::MulAdd(a5, factor, term);
    a6 = hn::MulAdd(a6, factor, term);
    a7 = hn::MulAdd(a7, factor, term);
    a8 = hn::MulAdd(a8, factor, term);
    a9 = hn::MulAdd(a9, factor, term);
  }
  const auto low = hn::Add(hn::Add(a0, a1), hn::Add(a2, a3));
  const auto high = hn::Add(hn::Add(a4, a5), hn::Add(a6, a7));
  const T sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(low, high), hn::Add(a8, a9))));
  keep(sum);
  return 2.0 * 10 * static_cast<double>(hn::Lanes(d)) * static_cast<double>(iterations);
}

double run_f32(std::int64_t iterations) {
  return run_fma<float>(iterations);
}
double run_f64(std::int64_t iterations) {
  return run_fma<double>(iterations);
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn {
namespace {

template <typename T>
double run_plain(std::int64_t iterations) {
  T sums[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  for (std::int64_t i = 0; i < iterations; ++i) {
    for (T& sum : sums) sum = sum * static_cast<T>(0.999) + static_cast<T>(0.001);
  }
  keep(sums[iterations % 10]);
  return 2.0 * 10 * static_cast<double>(iterations);
}

using Loop = double (*)(std::int64_t);
const KernelTable<Loop> f32_loops = EINKORN_SIMD_VERSIONS(run_plain<float>, run_f32);
const KernelTable<Loop> f64_loops = EINKORN_SIMD_VERSIONS(run_plain<double>, run_f64);

}  // namespace

double run_fma_f32(std::int64_t iterations) {
  return f32_loops.pick()(iterations);
}
double run_fma_f64(std::int64_t iterations) {
  return f64_loops.pick()(iterations);
}

}  // namespace einkorn
#endif  // HWY_ONCE
