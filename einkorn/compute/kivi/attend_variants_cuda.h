// The compiled variants of the attention kernel.
#pragma once

#include <cstdint>

#include "einkorn/compute/kivi/kivi_kernels.h"

namespace einkorn::kivi {

struct AttendArguments;

struct AttendVariant {
  int chunks = 4;     // D / 32: 1, 2, 3, 4, 6 or 8
  int row_tiles = 1;  // of eight query rows
  int bits = 0;       // 2 or 4 of keys and values alike; 0: read at run time
};

void launch_attend_f16(const AttendArguments& args, const AttendVariant& variant, void* stream);
void launch_attend_bf16(const AttendArguments& args, const AttendVariant& variant, void* stream);

}  // namespace einkorn::kivi
