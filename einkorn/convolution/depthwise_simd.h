// Register tiles of the depthwise kernels. Compiled once a target; only depthwise_cpu.cpp includes
// this file.
//
// A tile is a run of outputs along one axis, the slide axis. Its sums stay in registers while the
// taps pass by: a run of at most seven taps is held in registers too, and every input vector is
// loaded once for all of them. Along the other axis, the outer axis, taps are plain loop
// iterations. A vector holds channels (channels last) or columns (planar).
//
// Loads for one multiply-add, 7 taps and 14 outputs: (20 inputs + 7 weights) / 98 = 0.28, where a
// core starts one 64-byte load for each 64-byte multiply-add.

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "einkorn/convolution/elements_simd.h"

#if defined(EINKORN_CONVOLUTION_DEPTHWISE_SIMD_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EINKORN_CONVOLUTION_DEPTHWISE_SIMD_H_
#undef EINKORN_CONVOLUTION_DEPTHWISE_SIMD_H_
#else
#define EINKORN_CONVOLUTION_DEPTHWISE_SIMD_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace einkorn::convolution {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 14 sums, 7 weights and an input fit 32 registers and divide the maps of 7, 14, 28 and 56 pixels
// that classifiers have; with 16 registers it is 7 sums.
#if HWY_TARGET == HWY_AVX3
inline constexpr int tile_width = 14;
#else
inline constexpr int tile_width = 7;
#endif
inline constexpr int tap_run = 7;

// Whether a vector of weights holds one for each lane (channels last) or one for all (planar).
enum class WeightLanes { each, shared };

// Steps through memory in elements, and the extent of the slide axis.
struct Walk {
  std::ptrdiff_t x_slide = 0;
  std::ptrdiff_t x_outer = 0;
  std::ptrdiff_t y_slide = 0;
  std::ptrdiff_t y_outer = 0;
  std::int64_t slide_taps = 1;
};

// Bits [begin, end) of a word, both clamped to [0, bits].
inline std::uint32_t bit_range(std::int64_t begin, std::int64_t end, int bits) {
  const auto low = std::clamp<std::int64_t>(begin, 0, bits);
  const auto high = std::clamp<std::int64_t>(end, low, bits);
  return (std::uint32_t{1} << high) - (std::uint32_t{1} << low);
}

// Calls body(integral_constant<width>, first) for tiles that cover [0, count), widest first.
template <class Body>
HWY_INLINE void for_each_tile(std::int64_t count, const Body& body) {
  std::int64_t first = 0;
  if constexpr (tile_width > 7) {
    for (; first + tile_width <= count; first += tile_width) {
      body(std::integral_constant<int, tile_width>(), first);
    }
  }
  for (; first + 7 <= count; first += 7) body(std::integral_constant<int, 7>(), first);
  if (first + 4 <= count) body(std::integral_constant<int, 4>(), std::exchange(first, first + 4));
  if (first + 2 <= count) body(std::integral_constant<int, 2>(), std::exchange(first, first + 2));
  if (first + 1 <= count) body(std::integral_constant<int, 1>(), first);
}

// Calls body(integral_constant<taps>) for a run of 1 to tap_run taps.
template <class Body>
HWY_INLINE void with_taps(std::int64_t taps, const Body& body) {
  switch (taps) {
    case 7:
      return body(std::integral_constant<int, 7>());
    case 6:
      return body(std::integral_constant<int, 6>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 2:
      return body(std::integral_constant<int, 2>());
    default:
      return body(std::integral_constant<int, 1>());
  }
}

template <bool masked, class D, class M>
HWY_INLINE hn::Vec<D> load_lanes(D d, M mask, const hn::TFromD<D>* from) {
  if constexpr (masked) {
    return hn::MaskedLoad(mask, d, from);
  } else {
    return hn::LoadU(d, from);
  }
}

template <class D, class M>
HWY_INLINE void store_lanes(D d, M mask, hn::Vec<D> value, hn::TFromD<D>* to) {
  if constexpr (masks_are_free) {
    hn::BlendedStore(value, mask, d, to);
  } else {
    hn::StoreU(value, d, to);
  }
}

// Adds taps_in_run taps to width sums. Bit t of `valid` says whether input t lies in the image.
template <int width, int taps_in_run, WeightLanes weight_lanes, class D, class M>
HWY_INLINE void add_taps(D d, M mask, const hn::TFromD<D>* x, std::ptrdiff_t x_step,
                         std::uint32_t valid, const hn::TFromD<D>* weights,
                         hn::Vec<D> (&sums)[width]) {
  constexpr bool masked = masks_are_free && weight_lanes == WeightLanes::each;
  hn::Vec<D> w[taps_in_run];
  HWY_UNROLL(tap_run)
  for (int s = 0; s < taps_in_run; ++s) {
    if constexpr (weight_lanes == WeightLanes::each) {
      w[s] = hn::LoadU(d, weights + s * hn::MaxLanes(d));
    } else {
      w[s] = hn::Set(d, weights[s]);
    }
  }
  HWY_UNROLL(tile_width + tap_run)
  for (int t = 0; t < width + taps_in_run - 1; ++t) {
    if (valid & (std::uint32_t{1} << t)) {
      const auto input = load_lanes<masked>(d, mask, x);
      HWY_UNROLL(tap_run)
      for (int s = 0; s < taps_in_run; ++s) {
        if (t - s >= 0 && t - s < width) sums[t - s] = hn::MulAdd(w[s], input, sums[t - s]);
      }
    }
    x += x_step;
  }
}

// width outputs along the slide axis. x: the input under tap (0, 0) of the first output, which may
// lie outside the image. Slide inputs [slide_begin, slide_end) from there, and outer taps
// [outer_begin, outer_end), lie inside. packed: biases, then weights [outer][slide].
template <int width, WeightLanes weight_lanes, class D, class M>
HWY_NOINLINE void forward_tile(D d, M mask, const Walk& walk, const hn::TFromD<D>* x,
                               std::int64_t slide_begin, std::int64_t slide_end,
                               std::int64_t outer_begin, std::int64_t outer_end,
                               const hn::TFromD<D>* packed, hn::TFromD<D>* y) {
  constexpr std::ptrdiff_t weight_step =
      weight_lanes == WeightLanes::each ? static_cast<std::ptrdiff_t>(hn::MaxLanes(d)) : 1;
  hn::Vec<D> sums[width];
  const auto bias =
      weight_lanes == WeightLanes::each ? hn::LoadU(d, packed) : hn::Set(d, packed[0]);
  HWY_UNROLL(tile_width)
  for (int u = 0; u < width; ++u) sums[u] = bias;

  const auto* weights = packed + weight_step * (1 + outer_begin * walk.slide_taps);
  for (std::int64_t outer = outer_begin; outer < outer_end; ++outer) {
    const auto* input = x + outer * walk.x_outer;
    for (std::int64_t s = 0; s < walk.slide_taps; s += tap_run) {
      const auto taps = std::min<std::int64_t>(tap_run, walk.slide_taps - s);
      const std::uint32_t valid =
          bit_range(slide_begin - s, slide_end - s, width + static_cast<int>(taps) - 1);
      with_taps(taps, [&]<int taps_in_run>(std::integral_constant<int, taps_in_run>) HWY_ATTR {
        add_taps<width, taps_in_run, weight_lanes>(d, mask, input, walk.x_slide, valid, weights,
                                                   sums);
      });
      input += taps * walk.x_slide;
      weights += taps * weight_step;
    }
  }
  HWY_UNROLL(tile_width)
  for (int u = 0; u < width; ++u) store_lanes(d, mask, sums[u], y + u * walk.y_slide);
}

// Independent sums for each tap, so that a chain of multiply-adds (latency 4, one 64-byte or two
// 32-byte ones a cycle) never waits for itself. Five taps and more are enough as they are.
template <int taps_in_run>
inline constexpr int sum_sets = taps_in_run >= 5 ? 1 : (masks_are_free ? 4 : 8) / taps_in_run;

// Adds to sums[.][s] the products of width output gradients with the inputs s steps further on.
template <int width, int taps_in_run, class D, class M>
HWY_INLINE void add_products(D d, M mask, const hn::TFromD<D>* x, std::ptrdiff_t x_step,
                             std::uint32_t valid, const hn::TFromD<D>* dy, std::ptrdiff_t dy_step,
                             hn::Vec<D> (&sums)[sum_sets<taps_in_run>][taps_in_run]) {
  hn::Vec<D> gradient[width];
  HWY_UNROLL(tile_width)
  for (int u = 0; u < width; ++u)
    gradient[u] = load_lanes<masks_are_free>(d, mask, dy + u * dy_step);
  HWY_UNROLL(tile_width + tap_run)
  for (int t = 0; t < width + taps_in_run - 1; ++t) {
    if (valid & (std::uint32_t{1} << t)) {
      const auto input = load_lanes<masks_are_free>(d, mask, x);
      HWY_UNROLL(tap_run)
      for (int s = 0; s < taps_in_run; ++s) {
        auto& sum = sums[t % sum_sets<taps_in_run>][s];
        if (t - s >= 0 && t - s < width) sum = hn::MulAdd(gradient[t - s], input, sum);
      }
    }
    x += x_step;
  }
}

// What the gradient of a run of taps is summed over: outer_count x slide_count output positions.
// x and dy are those of the first position (x under the first tap of the run); of the inputs along
// the slide axis, [slide_begin, slide_end) from x lie in the image.
template <typename T>
struct GradientRange {
  const T* x = nullptr;
  const T* dy = nullptr;
  std::int64_t slide_count = 0;
  std::int64_t slide_begin = 0;
  std::int64_t slide_end = 0;
  std::int64_t outer_count = 0;
};

// Adds the gradients of taps_in_run neighbouring taps to totals (one vector a tap).
template <int taps_in_run, class D, class M>
HWY_NOINLINE void gradient_taps(D d, M mask, const Walk& walk,
                                const GradientRange<hn::TFromD<D>>& range, hn::TFromD<D>* totals) {
  hn::Vec<D> sums[sum_sets<taps_in_run>][taps_in_run];
  HWY_UNROLL(8)
  for (auto& set : sums) {
    HWY_UNROLL(tap_run)
    for (auto& sum : set) sum = hn::Zero(d);
  }
  for (std::int64_t outer = 0; outer < range.outer_count; ++outer) {
    const auto* x = range.x + outer * walk.x_outer;
    const auto* dy = range.dy + outer * walk.y_outer;
    const auto add = [&]<int width>(std::integral_constant<int, width>, std::int64_t p) HWY_ATTR {
      const std::uint32_t valid =
          bit_range(range.slide_begin - p, range.slide_end - p, width + taps_in_run - 1);
      add_products<width, taps_in_run>(d, mask, x + p * walk.x_slide, walk.x_slide, valid,
                                       dy + p * walk.y_slide, walk.y_slide, sums);
    };
    for_each_tile(range.slide_count, add);
  }
  HWY_UNROLL(tap_run)
  for (int s = 0; s < taps_in_run; ++s) {
    auto sum = sums[0][s];
    HWY_UNROLL(8)
    for (int set = 1; set < sum_sets<taps_in_run>; ++set) sum = hn::Add(sum, sums[set][s]);
    auto* total = totals + s * static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
    hn::StoreU(hn::Add(hn::LoadU(d, total), sum), d, total);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::convolution
HWY_AFTER_NAMESPACE();

#endif  // compiled once a target
