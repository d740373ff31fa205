#include "einkorn/core/random.h"
#include "einkorn/core/simd.h"
#include "einkorn/scaling/step_law/bootstrap_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/scaling/step_law/bootstrap_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef EINKORN_STEP_LAW_DRAWS
#define EINKORN_STEP_LAW_DRAWS
namespace einkorn::step_law {

// Calls add(row) for each draw of one resample. Four rows come from one Philox block; a row is the
// high half of word * rows, whose bias of rows / 2^32 is far below what a bootstrap can see.
template <typename Add>
inline void for_each_draw(std::int64_t rows, std::uint64_t seed, std::uint32_t attempt,
                          std::int64_t resample, Add add) {
  const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed),
                                            static_cast<std::uint32_t>(seed >> 32)};
  const auto number = static_cast<std::uint64_t>(resample);
  const auto row_of = [&](std::uint32_t word) {
    return static_cast<std::int64_t>((std::uint64_t{word} * static_cast<std::uint64_t>(rows)) >>
                                     32);
  };
  for (std::int64_t drawn = 0; drawn < rows; drawn += 4) {
    const auto words =
        philox({static_cast<std::uint32_t>(drawn / 4), attempt, static_cast<std::uint32_t>(number),
                static_cast<std::uint32_t>(number >> 32)},
               key);
    for (std::int64_t k = 0; k < 4 && drawn + k < rows; ++k) {
      add(row_of(words[static_cast<std::size_t>(k)]));
    }
  }
}

}  // namespace einkorn::step_law
#endif

HWY_BEFORE_NAMESPACE();
namespace einkorn::step_law {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void resample(const double* table, std::int64_t rows, std::uint64_t seed, std::uint32_t attempt,
              std::int64_t begin, std::int64_t end, double* sums) {
  const hn::CappedTag<double, 8> d;
  constexpr std::int64_t lanes = hn::MaxLanes(d);
  constexpr std::int64_t vectors = moment_width / lanes;
  static_assert(vectors * lanes == moment_width, "rows are whole vectors");
  for (std::int64_t r = begin; r < end; ++r) {
    hn::Vec<decltype(d)> total[vectors];
    for (auto& part : total) part = hn::Zero(d);
    for_each_draw(rows, seed, attempt, r, [&](std::int64_t row) {
      const double* moments = table + row * moment_width;
      for (std::int64_t v = 0; v < vectors; ++v) {
        total[v] = hn::Add(total[v], hn::LoadU(d, moments + v * lanes));
      }
    });
    for (std::int64_t v = 0; v < vectors; ++v) {
      hn::StoreU(total[v], d, sums + (r - begin) * moment_width + v * lanes);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::step_law
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn::step_law {
namespace {

void resample_plain(const double* table, std::int64_t rows, std::uint64_t seed,
                    std::uint32_t attempt, std::int64_t begin, std::int64_t end, double* sums) {
  for (std::int64_t r = begin; r < end; ++r) {
    double* total = sums + (r - begin) * moment_width;
    for (std::int64_t m = 0; m < moment_width; ++m) total[m] = 0;
    for_each_draw(rows, seed, attempt, r, [&](std::int64_t row) {
      for (std::int64_t m = 0; m < moment_width; ++m) total[m] += table[row * moment_width + m];
    });
  }
}

const KernelTable<decltype(&resample_plain)> versions =
    EINKORN_SIMD_VERSIONS(resample_plain, resample);

}  // namespace

void resample_moments(const double* table, std::int64_t rows, std::uint64_t seed,
                      std::uint32_t attempt, std::int64_t begin, std::int64_t end, double* sums) {
  versions.pick()(table, rows, seed, attempt, begin, end, sums);
}

}  // namespace einkorn::step_law
#endif  // HWY_ONCE
