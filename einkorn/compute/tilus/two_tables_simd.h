// One shuffle out of two vectors, which this Highway lacks. Included once a target.
#if defined(EINKORN_COMPUTE_TILUS_TWO_TABLES_SIMD_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EINKORN_COMPUTE_TILUS_TWO_TABLES_SIMD_H_
#undef EINKORN_COMPUTE_TILUS_TWO_TABLES_SIMD_H_
#else
#define EINKORN_COMPUTE_TILUS_TWO_TABLES_SIMD_H_
#endif

#include <hwy/highway.h>

#if HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace einkorn::tilus {
namespace HWY_NAMESPACE {
namespace {

// Lane i: low[j] for the four low bits j of code[i], high[j] where its fifth bit is set.
HWY_INLINE hwy::HWY_NAMESPACE::Vec512<float> TwoTables(
    hwy::HWY_NAMESPACE::Vec512<float> low, hwy::HWY_NAMESPACE::Vec512<float> high,
    hwy::HWY_NAMESPACE::Vec512<std::uint32_t> code) {
  return hwy::HWY_NAMESPACE::Vec512<float>{_mm512_permutex2var_ps(low.raw, code.raw, high.raw)};
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace einkorn::tilus
HWY_AFTER_NAMESPACE();
#endif

#endif
