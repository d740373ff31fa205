// The vector kernels: points are sorted by branch in blocks, each branch runs without a branch of
// its own on whole vectors, and the results go back to their places.
#include "einkorn/compute/log_bessel/log_bessel_kernels.h"
#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/compute/log_bessel/log_bessel_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "einkorn/compute/log_bessel/branches_simd.h"
#include "einkorn/compute/log_bessel/ratios_simd.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::log_bessel {
namespace HWY_NAMESPACE {

// Branches by the distance from the origin, s = sqrt(v^2 + x^2).
enum Branch {
  uniform_4,
  uniform_6,
  uniform_9,
  uniform_14,
  outer,  // x >= 12: apart from smaller x, as these take more terms or nodes
  near,
  middle,
  origin,
  half,  // v = 1/2
  special,
  branches
};

// From which s on the uniform expansions with 14, 9, 6 and 4 terms serve. Compared with 50-digit
// arithmetic, truncation costs less than 3e-17 of the larger of the result and 1 for logarithms in
// double, 1e-8 in float (where the two shortest have 4 and 2 terms), and 1e-16 relative for ratios.
struct Borders {
  double uniform_14;
  double uniform_9;
  double uniform_6;
  double uniform_4;
  bool large_orders;  // close to the axis x = 0 the expansion of the logarithms is better
  bool half;          // order 1/2 is closed
};

constexpr double never = 0x1p450;
constexpr Borders log_borders_f64 = {28, 60, 150, 2048, true, true};
constexpr Borders log_borders_f32 = {never, never, 20, 256, false, true};
constexpr Borders ratio_borders = {36, 84, 280, never, false, false};

HWY_INLINE V Classify(const Borders& borders, V v, V x) {
  const V zero = hn::Zero(Doubles());
  const V square = hn::MulAdd(v, v, x * x);
  V branch = hn::IfThenElse(x < Constant(12), Constant(near), Constant(outer));
  branch = hn::IfThenElse(x < Constant(5), Constant(middle), branch);
  branch = hn::IfThenElse(x < Constant(1), Constant(origin), branch);
  const auto from = [&](double s, Branch next) HWY_ATTR {
    branch = hn::IfThenElse(square >= Constant(s * s), Constant(next), branch);
  };
  from(borders.uniform_14, uniform_14);
  if (borders.large_orders) {
    const M is_large = v >= hn::MulAdd(x, Constant(0.75), Constant(11));
    branch = hn::IfThenElse(is_large, Constant(uniform_14), branch);
  }
  from(borders.uniform_9, uniform_9);
  from(borders.uniform_6, uniform_6);
  from(borders.uniform_4, uniform_4);
  if (borders.half) branch = hn::IfThenElse(v == Constant(0.5), Constant(half), branch);
  // The comparisons are false for NaN.
  const M regular =
      hn::And(hn::And(v >= zero, x > zero), hn::And(v < Constant(0x1p400), x < Constant(0x1p400)));
  return hn::IfThenElse(regular, branch, Constant(special));
}

template <V (*kAt)(V, V)>
HWY_INLINE void ForEachVector(std::size_t size, const double* v, const double* x, double* out) {
  const Doubles d;
  for (std::size_t i = 0; i < size; i += hn::Lanes(d)) {
    hn::Store(kAt(hn::LoadU(d, v + i), hn::LoadU(d, x + i)), d, out + i);
  }
}

// A method runs whole vectors of points of one branch other than `special`.
template <Function kFunction, bool kScaled>
struct LogMethod {
  static constexpr Borders borders = log_borders_f64;

  static HWY_NOINLINE void Run(Branch branch, std::size_t size, const double* v, const double* x,
                               double* out) {
    switch (branch) {
      case uniform_4:
        return ForEachVector<Uniform<kFunction, kScaled, 4>>(size, v, x, out);
      case uniform_6:
        return ForEachVector<Uniform<kFunction, kScaled, 6>>(size, v, x, out);
      case uniform_9:
        return ForEachVector<Uniform<kFunction, kScaled, 9>>(size, v, x, out);
      case uniform_14:
        return ForEachVector<Uniform<kFunction, kScaled, 14>>(size, v, x, out);
      case origin:
        return ForEachVector<Near<kFunction, kScaled, true, Zone::origin>>(size, v, x, out);
      case middle:
        return ForEachVector<Near<kFunction, kScaled, true, Zone::middle>>(size, v, x, out);
      case near:
        return ForEachVector<Near<kFunction, kScaled, true, Zone::near>>(size, v, x, out);
      case half:
        return ForEachVector<OrderHalf<kFunction, kScaled>>(size, v, x, out);
      default:
        return ForEachVector<Near<kFunction, kScaled, true, Zone::outer>>(size, v, x, out);
    }
  }
};

// For float: fewer terms and no compensation.
template <Function kFunction, bool kScaled>
struct SingleLogMethod {
  static constexpr Borders borders = log_borders_f32;

  static HWY_NOINLINE void Run(Branch branch, std::size_t size, const double* v, const double* x,
                               double* out) {
    switch (branch) {
      case uniform_4:
        return ForEachVector<UniformSingle<kFunction, kScaled, 2>>(size, v, x, out);
      case uniform_6:
        return ForEachVector<UniformSingle<kFunction, kScaled, 4>>(size, v, x, out);
      case origin:
        return ForEachVector<Near<kFunction, kScaled, false, Zone::origin>>(size, v, x, out);
      case middle:
        return ForEachVector<Near<kFunction, kScaled, false, Zone::middle>>(size, v, x, out);
      case near:
        return ForEachVector<Near<kFunction, kScaled, false, Zone::near>>(size, v, x, out);
      case half:
        return ForEachVector<OrderHalf<kFunction, kScaled>>(size, v, x, out);
      default:
        return ForEachVector<Near<kFunction, kScaled, false, Zone::outer>>(size, v, x, out);
    }
  }
};

template <Ratio kRatio>
struct RatioMethod {
  static constexpr Borders borders = ratio_borders;

  static HWY_NOINLINE void Run(Branch branch, std::size_t size, const double* v, const double* x,
                               double* out) {
    switch (branch) {
      case uniform_6:
        return ForEachVector<UniformRatio<kRatio, 6>>(size, v, x, out);
      case uniform_9:
        return ForEachVector<UniformRatio<kRatio, 9>>(size, v, x, out);
      case uniform_14:
        return ForEachVector<UniformRatio<kRatio, 14>>(size, v, x, out);
      case origin:
        return ForEachVector<NearRatio<kRatio, Zone::origin>>(size, v, x, out);
      case middle:
        return ForEachVector<NearRatio<kRatio, Zone::middle>>(size, v, x, out);
      case near:
        return ForEachVector<NearRatio<kRatio, Zone::near>>(size, v, x, out);
      default:
        return ForEachVector<NearRatio<kRatio, Zone::outer>>(size, v, x, out);
    }
  }
};

constexpr std::size_t block = 1024;
constexpr std::size_t padded = block + 8;  // room for a whole vector behind the last point

struct Buffers {
  alignas(64) std::array<double, padded> v;
  alignas(64) std::array<double, padded> x;
  alignas(64) std::array<double, padded> out;
  alignas(64) std::array<double, padded> branch;
  alignas(64) std::array<double, padded> chosen_v;
  alignas(64) std::array<double, padded> chosen_x;
  alignas(64) std::array<double, padded> chosen_out;
  alignas(64) std::array<double, padded> place;
};

// The points of one block as doubles that may be read in whole vectors: where they lie, or copied.
template <typename T>
HWY_INLINE const double* Gather(const T* from, std::int64_t stride, std::size_t size,
                                std::array<double, padded>& copy) {
  if constexpr (std::is_same_v<T, double>) {
    if (stride == 1 && size == block) return from;
  }
  if (stride == 1) {
    std::copy_n(from, size, copy.begin());
  } else {
    for (std::size_t i = 0; i < size; ++i) copy[i] = from[static_cast<std::int64_t>(i) * stride];
  }
  // Lanes behind the end repeat the last point.
  std::fill_n(copy.begin() + static_cast<std::ptrdiff_t>(size), padded - block, copy[size - 1]);
  return copy.data();
}

// Writes the chosen lanes side by side, then whatever. Highway 1.0 has this as Compress, but copies
// the table behind it to the stack at every call on 64-bit lanes.
#if HWY_TARGET == HWY_AVX3
HWY_INLINE void StoreChosen(V lanes, M is_chosen, double* to) {
  _mm512_storeu_pd(to, _mm512_maskz_compress_pd(is_chosen.raw, lanes.raw));
}
#elif HWY_TARGET == HWY_AVX2
// Pairs of 32-bit lanes that bring the 64-bit lanes of each subset of four to the front.
constexpr std::array<std::array<std::int32_t, 8>, 16> MakeSubsets() {
  std::array<std::array<std::int32_t, 8>, 16> subsets{};
  for (int bits = 0; bits < 16; ++bits) {
    std::size_t next = 0;
    for (int lane = 0; lane < 4; ++lane) {
      if ((bits >> lane) % 2 == 0) continue;
      subsets[static_cast<std::size_t>(bits)][next++] = 2 * lane;
      subsets[static_cast<std::size_t>(bits)][next++] = 2 * lane + 1;
    }
  }
  return subsets;
}

HWY_INLINE void StoreChosen(V lanes, M is_chosen, double* to) {
  alignas(32) static constexpr auto subsets = MakeSubsets();
  const auto bits = static_cast<std::size_t>(_mm256_movemask_pd(is_chosen.raw));
  const __m256i places = _mm256_load_si256(reinterpret_cast<const __m256i*>(subsets[bits].data()));
  const __m256i chosen = _mm256_permutevar8x32_epi32(_mm256_castpd_si256(lanes.raw), places);
  _mm256_storeu_pd(to, _mm256_castsi256_pd(chosen));
}
#else
HWY_INLINE void StoreChosen(V lanes, M is_chosen, double* to) {
  hn::StoreU(hn::Compress(lanes, is_chosen), Doubles(), to);
}
#endif

// Collects the points of one branch; returns how many there are.
HWY_INLINE std::size_t Choose(Branch branch, std::size_t size, const double* v, const double* x,
                              Buffers& buffers) {
  const Doubles d;
  std::size_t count = 0;
  for (std::size_t i = 0; i < size; i += hn::Lanes(d)) {
    const M is_chosen =
        hn::And(hn::Load(d, &buffers.branch[i]) == Constant(branch), hn::FirstN(d, size - i));
    StoreChosen(hn::LoadU(d, v + i), is_chosen, &buffers.chosen_v[count]);
    StoreChosen(hn::LoadU(d, x + i), is_chosen, &buffers.chosen_x[count]);
    StoreChosen(hn::Iota(d, static_cast<double>(i)), is_chosen, &buffers.place[count]);
    count += hn::CountTrue(d, is_chosen);
  }
  return count;
}

template <class Method, typename T>
void EvaluateAll(Quantity quantity, const Points<T>& points);

// A point outside the range of the vector kernels. K_{-v} = K_v and I_{-n} = I_n to the last bit.
template <class Method>
double EvaluateSpecial(Quantity quantity, double v, double x) {
  const bool is_k = quantity == Quantity::log_k || quantity == Quantity::log_k_scaled;
  const bool is_log = quantity <= Quantity::log_k_scaled;
  if (v < 0 && is_log && (is_k || v == std::floor(v))) {
    const double order = -v;
    double result = 0;
    EvaluateAll<Method>(quantity, Points<double>{1, &order, 1, &x, 1, &result, 1});
    return result;
  }
  return reference(quantity, v, x);
}

// Computes the collected points and puts the results in their places.
template <class Method>
void EvaluateChosen(Quantity quantity, Branch branch, std::size_t count, Buffers& buffers) {
  if (branch == special) {
    for (std::size_t i = 0; i < count; ++i) {
      buffers.chosen_out[i] =
          EvaluateSpecial<Method>(quantity, buffers.chosen_v[i], buffers.chosen_x[i]);
    }
  } else {
    const auto end = static_cast<std::ptrdiff_t>(count);
    std::fill_n(buffers.chosen_v.begin() + end, padded - block, buffers.chosen_v[count - 1]);
    std::fill_n(buffers.chosen_x.begin() + end, padded - block, buffers.chosen_x[count - 1]);
    Method::Run(branch, count, buffers.chosen_v.data(), buffers.chosen_x.data(),
                buffers.chosen_out.data());
  }
  for (std::size_t i = 0; i < count; ++i) {
    buffers.out[static_cast<std::size_t>(buffers.place[i])] = buffers.chosen_out[i];
  }
}

// Finds the branches of a block, and which of them there are.
struct Range {
  int first;
  int last;
};

template <class Method>
Range ClassifyBlock(std::size_t size, const double* v, const double* x, Buffers& buffers) {
  const Doubles d;
  V lowest = Constant(branches);
  V highest = Constant(0);
  for (std::size_t i = 0; i < size; i += hn::Lanes(d)) {
    const V branch = Classify(Method::borders, hn::LoadU(d, v + i), hn::LoadU(d, x + i));
    hn::Store(branch, d, &buffers.branch[i]);
    lowest = hn::Min(lowest, branch);
    highest = hn::Max(highest, branch);
  }
  return {static_cast<int>(Smallest(lowest)), static_cast<int>(Largest(highest))};
}

// The number of points of a branch, counting those that repeat the last point.
HWY_INLINE std::size_t Count(int branch, std::size_t size, const Buffers& buffers) {
  const Doubles d;
  std::size_t count = 0;
  for (std::size_t i = 0; i < size; i += hn::Lanes(d)) {
    count += hn::CountTrue(d, hn::Load(d, &buffers.branch[i]) == Constant(branch));
  }
  return count;
}

// Leaves the results in buffers.out. A uniform expansion that most points belong to is computed in
// place for all of them, before the others get their own. (The branches near the origin would count
// terms by the arguments of points that are not theirs.)
template <class Method>
void EvaluateBlock(Quantity quantity, std::size_t size, const double* v, const double* x,
                   Buffers& buffers) {
  const Range range = ClassifyBlock<Method>(size, v, x, buffers);
  int in_place = branches;
  for (int i = range.first; i <= range.last && i != special; ++i) {
    const bool for_most = i <= uniform_14 && 2 * Count(i, size, buffers) > size;
    if (range.first == range.last || for_most) in_place = i;
  }
  if (in_place != branches) {
    Method::Run(static_cast<Branch>(in_place), size, v, x, buffers.out.data());
  }
  for (int i = range.first; i <= range.last; ++i) {
    if (i == in_place) continue;
    const auto branch = static_cast<Branch>(i);
    const std::size_t count = Choose(branch, size, v, x, buffers);
    if (count > 0) EvaluateChosen<Method>(quantity, branch, count, buffers);
  }
}

template <class Method, typename T>
void EvaluateAll(Quantity quantity, const Points<T>& points) {
  Buffers buffers;
  for (std::int64_t begin = 0; begin < points.size; begin += static_cast<std::int64_t>(block)) {
    const auto size =
        static_cast<std::size_t>(std::min(points.size - begin, static_cast<std::int64_t>(block)));
    const double* v = Gather(points.v + begin * points.v_stride, points.v_stride, size, buffers.v);
    const double* x = Gather(points.x + begin * points.x_stride, points.x_stride, size, buffers.x);
    EvaluateBlock<Method>(quantity, size, v, x, buffers);
    T* const out = points.out + begin * points.out_stride;
    if (points.out_stride == 1) {
      std::transform(buffers.out.begin(), buffers.out.begin() + static_cast<std::ptrdiff_t>(size),
                     out, [](double value) { return static_cast<T>(value); });
    } else {
      for (std::size_t i = 0; i < size; ++i) {
        out[static_cast<std::int64_t>(i) * points.out_stride] = static_cast<T>(buffers.out[i]);
      }
    }
  }
}

template <Function kFunction, bool kScaled, typename T>
void EvaluateLog(Quantity quantity, const Points<T>& points) {
  if constexpr (std::is_same_v<T, double>) {
    EvaluateAll<LogMethod<kFunction, kScaled>>(quantity, points);
  } else {
    EvaluateAll<SingleLogMethod<kFunction, kScaled>>(quantity, points);
  }
}

template <typename T>
void Evaluate(Quantity quantity, const Points<T>& points) {
  switch (quantity) {
    case Quantity::log_i:
      return EvaluateLog<Function::i, false>(quantity, points);
    case Quantity::log_k:
      return EvaluateLog<Function::k, false>(quantity, points);
    case Quantity::log_i_scaled:
      return EvaluateLog<Function::i, true>(quantity, points);
    case Quantity::log_k_scaled:
      return EvaluateLog<Function::k, true>(quantity, points);
    case Quantity::ratio_i:
      return EvaluateAll<RatioMethod<Ratio::i>>(quantity, points);
    case Quantity::ratio_i_complement:
      return EvaluateAll<RatioMethod<Ratio::i_complement>>(quantity, points);
    case Quantity::ratio_i_slope:
      return EvaluateAll<RatioMethod<Ratio::i_slope>>(quantity, points);
    case Quantity::ratio_k:
      return EvaluateAll<RatioMethod<Ratio::k>>(quantity, points);
    case Quantity::slope_k_scaled:
      return EvaluateAll<RatioMethod<Ratio::k_slope>>(quantity, points);
  }
}

void EvaluateF64(Quantity quantity, const Points<double>& points) {
  Evaluate(quantity, points);
}
void EvaluateF32(Quantity quantity, const Points<float>& points) {
  Evaluate(quantity, points);
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::log_bessel
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn::log_bessel {
namespace {

template <typename T>
void evaluate_plainly(Quantity quantity, const Points<T>& points) {
  for (std::int64_t i = 0; i < points.size; ++i) {
    points.out[i * points.out_stride] =
        static_cast<T>(reference(quantity, static_cast<double>(points.v[i * points.v_stride]),
                                 static_cast<double>(points.x[i * points.x_stride])));
  }
}

}  // namespace

const KernelTable<Kernel<double>*> kernels_f64 =
    EINKORN_SIMD_VERSIONS(evaluate_plainly<double>, EvaluateF64);
const KernelTable<Kernel<float>*> kernels_f32 =
    EINKORN_SIMD_VERSIONS(evaluate_plainly<float>, EvaluateF32);

}  // namespace einkorn::log_bessel
#endif
