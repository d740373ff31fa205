// The numbers of all codes of a small type, for kernels.
#pragma once

#include <array>

#include "einkorn/compute/tilus/number_type.h"

namespace einkorn::tilus {

// The number of each code; codes beyond the type's bits repeat (only the low bits count).
std::array<float, 256> decode_table(const NumberType& type);

}  // namespace einkorn::tilus
