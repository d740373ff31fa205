// Raw kernels of bit packing, on one thread.
#pragma once

#include <cstdint>

#include "einkorn/core/isa.h"

namespace einkorn::compute {

using PackKernel = void(int bits, std::int64_t count, const std::uint8_t* from, std::uint8_t* to);

extern const KernelTable<PackKernel*> pack_kernels;    // codes to packed
extern const KernelTable<PackKernel*> unpack_kernels;  // packed to codes

}  // namespace einkorn::compute
