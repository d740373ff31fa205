// The inner loop of the bootstrap: sums of rows drawn with replacement.
#pragma once

#include <cstdint>

namespace einkorn::step_law {

// Row width of the moment table, in doubles: room for all first and second moments that the two
// regressions need, padded to whole vectors of any level.
constexpr std::int64_t moment_width = 16;

// For each resample r in [begin, end): sums[r - begin][...] = sum over `rows` draws of
// table[draw][...]. The draws of resample r are a pure function of (seed, r, attempt). table:
// [rows][moment_width]; sums: [end - begin][moment_width].
void resample_moments(const double* table, std::int64_t rows, std::uint64_t seed,
                      std::uint32_t attempt, std::int64_t begin, std::int64_t end, double* sums);

}  // namespace einkorn::step_law
