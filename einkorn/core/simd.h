// How CPU kernels are compiled once for AVX2 and once for AVX-512. Only kernel sources include this
// file, and first of all:
//
//   #include "einkorn/core/simd.h"
//   #define HWY_TARGET_INCLUDE "einkorn/<path of this very file>"
//   #include <hwy/foreach_target.h>  // includes this file once a target
//   #include <hwy/highway.h>
//   HWY_BEFORE_NAMESPACE();
//   namespace einkorn { namespace HWY_NAMESPACE { ... kernels ... } }
//   HWY_AFTER_NAMESPACE();
//   #if HWY_ONCE
//   namespace einkorn { const KernelTable<Fn*> table = EINKORN_SIMD_VERSIONS(reference, kernel); }
//   #endif
#pragma once

#include "einkorn/core/isa.h"

#if defined(__x86_64__)
// Between the plain reference and AVX2, and beside AVX-512's core, no further versions are
// compiled. (The baseline that Highway insists on is compiled as well, but never chosen.)
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#define EINKORN_SIMD_VERSIONS(reference, kernel) {&reference, &N_AVX2::kernel, &N_AVX3::kernel}
#else
#define EINKORN_SIMD_VERSIONS(reference, kernel) {&reference}
#endif
