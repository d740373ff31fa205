// One stored number to float and back, for plain code.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <limits>

#include "einkorn/compute/kivi/cache_layout_internal.h"

namespace einkorn::kivi {

inline float load_number(Element element, const void* from, std::int64_t index) {
  switch (element) {
    case Element::f16:
      return static_cast<const c10::Half*>(from)[index];
    case Element::bf16:
      return static_cast<const c10::BFloat16*>(from)[index];
    case Element::f32:
      break;
  }
  return static_cast<const float*>(from)[index];
}

inline void store_number(Element element, void* to, std::int64_t index, float value) {
  switch (element) {
    case Element::f16:
      static_cast<c10::Half*>(to)[index] = value;
      return;
    case Element::bf16:
      static_cast<c10::BFloat16*>(to)[index] = value;
      return;
    case Element::f32:
      static_cast<float*>(to)[index] = value;
  }
}

inline float rounded_to(Element element, float value) {
  switch (element) {
    case Element::f16:
      return static_cast<c10::Half>(value);
    case Element::bf16:
      return static_cast<c10::BFloat16>(value);
    case Element::f32:
      break;
  }
  return value;
}

inline float greatest_of(Element element) {
  switch (element) {
    case Element::f16:
      return std::numeric_limits<c10::Half>::max();
    case Element::bf16:
      return std::numeric_limits<c10::BFloat16>::max();
    case Element::f32:
      break;
  }
  return std::numeric_limits<float>::max();
}

}  // namespace einkorn::kivi
