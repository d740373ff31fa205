// What fitting one distribution and fitting mixtures share.
#pragma once

#include <algorithm>

#include "einkorn/core/tensor.h"

namespace einkorn::log_bessel {

// The rows of points [n, p], checked as von_mises_fisher.h says and scaled to unit length if asked.
at::Tensor unit_rows(const at::Tensor& points, bool normalize);

// Calls visit(rows in f64, index of the first) for a few thousand rows at a time, so that f32 data
// are never widened as a whole.
template <typename Visit>
void for_each_chunk(const at::Tensor& rows, const Visit& visit) {
  const std::int64_t chunk = std::clamp<std::int64_t>((1 << 22) / rows.size(1), 64, 8192);
  for (std::int64_t begin = 0; begin < rows.size(0); begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, rows.size(0));
    visit(rows.slice(0, begin, end).to(at::kDouble), begin);
  }
}

}  // namespace einkorn::log_bessel
