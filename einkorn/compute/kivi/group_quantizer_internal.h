// The group quantiser (spec of the paper's section 3): scale and minimum of a group as stored, and
// the code of one number. Every kernel rounds the same way, so codes agree bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "einkorn/compute/kivi/half_internal.h"

namespace einkorn::kivi {

struct GroupScale {
  float scale = 0;
  float minimum = 0;
};

// (maximum - minimum) / (2^bits - 1) as the element type holds it, at most its greatest number. A
// group with a NaN or an infinity is all NaN.
inline GroupScale group_scale(float minimum, float maximum, bool finite, int bits,
                              Element element) {
  if (!finite) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    return {nan, nan};
  }
  const auto steps = static_cast<float>((1 << bits) - 1);
  float scale = (maximum - minimum) / steps;
  if (std::isinf(scale)) scale = maximum / steps - minimum / steps;
  scale = rounded_to(element, std::min(scale, greatest_of(element)));
  // + 0 makes a negative zero positive, whichever of the two a kernel's minimum is.
  return {std::min(scale, greatest_of(element)), minimum + 0.0F};
}

// round_half_even(clamp((x - minimum) / scale, 0, 2^bits - 1)); 0 where scale is 0 or NaN.
inline unsigned group_code(float x, const GroupScale& group, int bits) {
  if (!(group.scale > 0)) return 0;
  const auto greatest = static_cast<float>((1 << bits) - 1);
  const float steps = (x - group.minimum) / group.scale;
  return static_cast<unsigned>(std::nearbyint(std::clamp(steps, 0.0F, greatest)));
}

}  // namespace einkorn::kivi
