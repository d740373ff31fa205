// Elements of images in memory (f64, f32, f16, bf16) to vectors of sums and back. Compiled once a
// target; only kernel sources include this file.

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(EINKORN_CONVOLUTION_ELEMENTS_SIMD_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EINKORN_CONVOLUTION_ELEMENTS_SIMD_H_
#undef EINKORN_CONVOLUTION_ELEMENTS_SIMD_H_
#else
#define EINKORN_CONVOLUTION_ELEMENTS_SIMD_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace einkorn::convolution {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Masked loads and stores cost nothing extra on AVX-512; elsewhere stores, and loads of 16-bit
// elements, are slow or missing.
#if HWY_TARGET == HWY_AVX3
inline constexpr bool masks_are_free = true;
#else
inline constexpr bool masks_are_free = false;
#endif

template <typename T>
using Tag = hn::ScalableTag<T>;

template <typename T>
constexpr std::int64_t lanes_of() {
  return static_cast<std::int64_t>(hn::MaxLanes(Tag<T>()));
}

// The first count lanes from memory, zeros behind them; nothing past them is touched.
template <class D>
HWY_INLINE hn::Vec<D> load_first(D d, const hn::TFromD<D>* from, std::int64_t count) {
  constexpr auto lanes_of_vector = static_cast<std::int64_t>(hn::MaxLanes(d));
  if (count >= lanes_of_vector) return hn::LoadU(d, from);
  if constexpr (masks_are_free) {
    return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(count)), d, from);
  } else {
    hn::TFromD<D> lanes[lanes_of_vector] = {};
    std::memcpy(lanes, from, static_cast<std::size_t>(count) * sizeof(lanes[0]));
    return hn::LoadU(d, lanes);
  }
}

template <class D>
HWY_INLINE void store_first(D d, hn::Vec<D> value, hn::TFromD<D>* to, std::int64_t count) {
  constexpr auto lanes_of_vector = static_cast<std::int64_t>(hn::MaxLanes(d));
  if (count >= lanes_of_vector) {
    hn::StoreU(value, d, to);
  } else if constexpr (masks_are_free) {
    hn::BlendedStore(value, hn::FirstN(d, static_cast<std::size_t>(count)), d, to);
  } else {
    hn::TFromD<D> lanes[lanes_of_vector];
    hn::StoreU(value, d, lanes);
    std::memcpy(to, lanes, static_cast<std::size_t>(count) * sizeof(lanes[0]));
  }
}

template <class D>
using BitsTag = hn::Rebind<std::uint16_t, D>;

template <class D>
HWY_INLINE hn::Vec<D> decode(D d, hn::Vec<BitsTag<D>> bits, hwy::float16_t) {
  return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), bits));
}

template <class D>
HWY_INLINE hn::Vec<D> decode(D d, hn::Vec<BitsTag<D>> bits, hwy::bfloat16_t) {
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(hn::RebindToUnsigned<D>(), bits)));
}

template <class D>
HWY_INLINE hn::Vec<BitsTag<D>> encode(D /*d*/, hn::Vec<D> value, hwy::float16_t) {
  return hn::BitCast(BitsTag<D>(), hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), value));
}

// To nearest even (Highway's own conversion cuts off); NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<BitsTag<D>> encode(D /*d*/, hn::Vec<D> value, hwy::bfloat16_t) {
  const hn::RebindToUnsigned<D> words;
  const auto bits = hn::BitCast(words, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7FFF)));
  const auto quiet_nan = hn::Set(words, 0x7FC00000);
  const auto kept = hn::IfThenElse(hn::RebindMask(words, hn::IsNaN(value)), quiet_nan, rounded);
  // The signed conversion saturates to 16 unsigned bits, which these values fit.
  const auto high = hn::BitCast(hn::RebindToSigned<D>(), hn::ShiftRight<16>(kept));
  return hn::DemoteTo(BitsTag<D>(), high);
}

template <class D, typename Stored>
HWY_INLINE hn::Vec<D> load_elements(D d, const Stored* from, std::int64_t count) {
  if constexpr (std::is_same_v<Stored, hn::TFromD<D>>) {
    return load_first(d, from, count);
  } else {
    const auto* bits = reinterpret_cast<const std::uint16_t*>(from);
    return decode(d, load_first(BitsTag<D>(), bits, count), Stored());
  }
}

template <class D, typename Stored>
HWY_INLINE void store_elements(D d, hn::Vec<D> value, Stored* to, std::int64_t count) {
  if constexpr (std::is_same_v<Stored, hn::TFromD<D>>) {
    store_first(d, value, to, count);
  } else {
    auto* bits = reinterpret_cast<std::uint16_t*>(to);
    store_first(BitsTag<D>(), encode(d, value, Stored()), bits, count);
  }
}

template <typename T, typename Stored>
void read_row(const Stored* from, std::int64_t count, T* to) {
  const Tag<T> d;
  for (std::int64_t i = 0; i < count; i += lanes_of<T>()) {
    store_first(d, load_elements(d, from + i, count - i), to + i, count - i);
  }
}

template <typename T, typename Stored>
void write_row(const T* from, std::int64_t count, Stored* to) {
  const Tag<T> d;
  for (std::int64_t i = 0; i < count; i += lanes_of<T>()) {
    store_elements(d, hn::LoadU(d, from + i), to + i, count - i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::convolution
HWY_AFTER_NAMESPACE();

#endif  // compiled once a target
