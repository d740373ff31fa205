#include <vector>

#include "einkorn/core/random.h"
#include "einkorn/core/simd.h"
#include "einkorn/scaling/step_law/bootstrap_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/scaling/step_law/bootstrap_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef EINKORN_STEP_LAW_BLOCKS
#define EINKORN_STEP_LAW_BLOCKS
namespace einkorn::step_law {

// Philox blocks for one resample: enough for four draws each, and whole vectors at every level, so
// that all levels draw the same rows.
inline std::int64_t block_count(std::int64_t rows) {
  constexpr std::int64_t most_lanes = 16;
  return ((rows + 3) / 4 + most_lanes - 1) / most_lanes * most_lanes;
}

}  // namespace einkorn::step_law
#endif

// Products of every second lane want vectors of two lanes or more.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace einkorn::step_law {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Words = hn::ScalableTag<std::uint32_t>;
using Word = hn::Vec<Words>;
using Wide = hn::Repartition<std::uint64_t, Words>;

struct HighLow {
  Word high;
  Word low;
};

// Both halves of the products of all lanes; the instruction multiplies every second lane.
HighLow multiply(Word a, Word b) {
  const Words d;
  const Wide wide;
  const auto even = hn::MulEven(a, b);
  const auto odd = hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(wide, a))), b);
  const auto upper = hn::Set(wide, 0xFFFFFFFF00000000u);
  return {hn::BitCast(d, hn::Or(hn::ShiftRight<32>(even), hn::And(odd, upper))),
          hn::BitCast(d, hn::Or(hn::AndNot(upper, even), hn::ShiftLeft<32>(odd)))};
}

// The rows of one resample, `lanes` Philox blocks at a time; in the order of draw_plain.
void draw(std::int64_t rows, std::uint64_t seed, std::uint32_t attempt, std::uint64_t resample,
          std::int64_t blocks, std::uint32_t* draws) {
  const Words d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const Word row_count = hn::Set(d, static_cast<std::uint32_t>(rows));
  for (std::int64_t block = 0; block < blocks; block += lanes) {
    Word c0 = hn::Iota(d, static_cast<std::uint32_t>(block));
    Word c1 = hn::Set(d, attempt);
    Word c2 = hn::Set(d, static_cast<std::uint32_t>(resample));
    Word c3 = hn::Set(d, static_cast<std::uint32_t>(resample >> 32));
    auto key0 = static_cast<std::uint32_t>(seed);
    auto key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const HighLow first = multiply(c0, hn::Set(d, 0xD2511F53u));
      const HighLow second = multiply(c2, hn::Set(d, 0xCD9E8D57u));
      c0 = hn::Xor(hn::Xor(second.high, c1), hn::Set(d, key0));
      c1 = second.low;
      c2 = hn::Xor(hn::Xor(first.high, c3), hn::Set(d, key1));
      c3 = first.low;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    hn::StoreU(multiply(c0, row_count).high, d, draws + block);
    hn::StoreU(multiply(c1, row_count).high, d, draws + blocks + block);
    hn::StoreU(multiply(c2, row_count).high, d, draws + 2 * blocks + block);
    hn::StoreU(multiply(c3, row_count).high, d, draws + 3 * blocks + block);
  }
}

// Even and odd draws are summed apart, which halves the chain of dependent additions.
void sum_rows(const double* table, const std::uint32_t* draws, std::int64_t rows, double* sums) {
  const hn::CappedTag<double, 8> d;
  constexpr std::int64_t lanes = hn::MaxLanes(d);
  constexpr std::int64_t vectors = moment_width / lanes;
  static_assert(vectors * lanes == moment_width, "rows are whole vectors");
  hn::Vec<decltype(d)> even[vectors];
  hn::Vec<decltype(d)> odd[vectors];
  for (std::int64_t v = 0; v < vectors; ++v) even[v] = odd[v] = hn::Zero(d);
  for (std::int64_t i = 0; i + 1 < rows; i += 2) {
    const double* first = table + draws[i] * moment_width;
    const double* second = table + draws[i + 1] * moment_width;
    for (std::int64_t v = 0; v < vectors; ++v) {
      even[v] = hn::Add(even[v], hn::LoadU(d, first + v * lanes));
      odd[v] = hn::Add(odd[v], hn::LoadU(d, second + v * lanes));
    }
  }
  if (rows % 2 == 1) {
    const double* last = table + draws[rows - 1] * moment_width;
    for (std::int64_t v = 0; v < vectors; ++v) {
      even[v] = hn::Add(even[v], hn::LoadU(d, last + v * lanes));
    }
  }
  for (std::int64_t v = 0; v < vectors; ++v) {
    hn::StoreU(hn::Add(even[v], odd[v]), d, sums + v * lanes);
  }
}

void resample(const double* table, std::int64_t rows, std::uint64_t seed, std::uint32_t attempt,
              std::int64_t begin, std::int64_t end, double* sums) {
  const std::int64_t blocks = block_count(rows);
  std::vector<std::uint32_t> draws(static_cast<std::size_t>(4 * blocks));
  for (std::int64_t r = begin; r < end; ++r) {
    draw(rows, seed, attempt, static_cast<std::uint64_t>(r), blocks, draws.data());
    sum_rows(table, draws.data(), rows, sums + (r - begin) * moment_width);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::step_law
HWY_AFTER_NAMESPACE();
#endif

#if HWY_ONCE
namespace einkorn::step_law {
namespace {

// All first words of the blocks, then all second ones, ...: a row is the high half of word * rows,
// whose bias of rows / 2^32 is far below what a bootstrap can see.
void draw_plain(std::int64_t rows, std::uint64_t seed, std::uint32_t attempt,
                std::uint64_t resample, std::int64_t blocks, std::uint32_t* draws) {
  const auto low = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
  const auto high = [](std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); };
  for (std::int64_t block = 0; block < blocks; ++block) {
    const auto words =
        philox({static_cast<std::uint32_t>(block), attempt, low(resample), high(resample)},
               {low(seed), high(seed)});
    for (std::int64_t k = 0; k < 4; ++k) {
      draws[k * blocks + block] =
          high(words[static_cast<std::size_t>(k)] * static_cast<std::uint64_t>(rows));
    }
  }
}

void resample_plain(const double* table, std::int64_t rows, std::uint64_t seed,
                    std::uint32_t attempt, std::int64_t begin, std::int64_t end, double* sums) {
  const std::int64_t blocks = block_count(rows);
  std::vector<std::uint32_t> draws(static_cast<std::size_t>(4 * blocks));
  for (std::int64_t r = begin; r < end; ++r) {
    draw_plain(rows, seed, attempt, static_cast<std::uint64_t>(r), blocks, draws.data());
    double parts[2][moment_width] = {};
    for (std::int64_t i = 0; i < rows; ++i) {
      const double* row = table + draws[static_cast<std::size_t>(i)] * moment_width;
      for (std::int64_t m = 0; m < moment_width; ++m) parts[i % 2][m] += row[m];
    }
    double* total = sums + (r - begin) * moment_width;
    for (std::int64_t m = 0; m < moment_width; ++m) total[m] = parts[0][m] + parts[1][m];
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
