// Floating activations times packed codes, columns in the lanes of a vector. In 4 bits AVX-512
// looks codes up in a register of sixteen numbers (its permutation reads just the low four bits of
// each word); otherwise a code is masked where it lies, converted, and its power of two is divided
// out of the activations beforehand. Scales are applied once a group, zero points go with the sum
// of the group's activations.
#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/compute/marlin/slab_cpu.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <utility>

#include "einkorn/compute/marlin/marlin_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::marlin {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<D>;
using DI = hn::RebindToSigned<D>;
using V = hn::Vec<D>;
using VU = hn::Vec<DU>;

inline constexpr std::int64_t slab_width = 64;
inline constexpr auto lanes = static_cast<std::int64_t>(hn::MaxLanes(D()));

// How codes become numbers: code - base(bits), with what factor activations must make up for.
#if HWY_TARGET == HWY_AVX3
template <int bits>
inline constexpr bool looks_up = bits == 4;
#else
template <int bits>
inline constexpr bool looks_up = false;
#endif

template <int bits>
HWY_INLINE V CodeTable() {
  const D d;
  return hn::Sub(hn::Iota(d, 0.0f), hn::Set(d, 8.0f));
}

// The code of row p of an octet in each column, times its activation scale's inverse.
template <int bits, int p>
HWY_INLINE V Code(VU word, [[maybe_unused]] V table) {
  const D d;
  const DU du;
  const DI di;
  constexpr int shift = bits * p % 32;
#if HWY_TARGET == HWY_AVX3
  if constexpr (looks_up<bits>) {
    return hn::TableLookupLanes(table, hn::Indices512<float>{hn::ShiftRight<shift>(word).raw});
  }
#endif
  if constexpr (shift + bits == 32) {
    return hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<shift>(word)));
  } else {
    constexpr std::uint32_t mask = ((1U << bits) - 1) << shift;
    return hn::ConvertTo(d, hn::BitCast(di, hn::And(word, hn::Set(du, mask))));
  }
}

template <int bits>
std::array<float, 8> ActivationScalesFor() {
  std::array<float, 8> scales;
  for (int p = 0; p < 8; ++p) {
    const int shift = bits * p % 32;
    const bool in_place = !looks_up<bits> && shift + bits < 32;
    scales[static_cast<std::size_t>(p)] =
        in_place ? 1.0f / static_cast<float>(std::uint64_t{1} << shift) : 1.0f;
  }
  return scales;
}

std::array<float, 8> ActivationScales(int bits) {
  return bits == 4 ? ActivationScalesFor<4>() : ActivationScalesFor<8>();
}

// 16-bit scales of one vector of columns.
HWY_INLINE V LoadScales(const std::uint16_t* scales, bool are_bf16) {
  const D d;
  const DU du;
  const hn::Rebind<std::uint16_t, D> d16;
  const auto bits = hn::LoadU(d16, scales);
  if (are_bf16) return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
  return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), bits));
}

HWY_INLINE V LoadZeros(const std::uint8_t* zeros) {
  const D d;
  const DI di;
  return hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(hn::Rebind<std::uint8_t, D>(), zeros)));
}

template <int bits, int rows, int vectors>
struct Block {
  // sums[r][v] += a[r, k] code[k, columns of v] over octets [begin, end).
  static HWY_INLINE void Add(const std::uint32_t* words, const float* a, std::int64_t stride,
                             std::int64_t begin, std::int64_t end, V (&sums)[rows][vectors]) {
    const DU du;
    const V table = CodeTable<bits>();
    constexpr std::int64_t octet_words = slab_width * bits / 4;
    for (std::int64_t octet = begin; octet < end; ++octet) {
      const std::uint32_t* from = words + octet * octet_words;
      const float* inputs = a + octet * 8;
      if constexpr (rows <= 2) {
        // Ahead of the hardware's own prefetch, which stops at pages.
        constexpr std::int64_t line_words = 16;
        for (std::int64_t i = 0; i < vectors * lanes; i += line_words) {
          hwy::Prefetch(from + 12 * octet_words + i);
        }
      }
      VU word[vectors];
      const auto add_row = [&]<int p>(std::integral_constant<int, p>) HWY_ATTR {
        constexpr int word_row = bits * p / 32;
        if constexpr (bits * p % 32 == 0) {
          HWY_UNROLL(8)
          for (int v = 0; v < vectors; ++v) {
            word[v] = hn::LoadU(du, from + word_row * slab_width + v * lanes);
          }
        }
        HWY_UNROLL(8)
        for (int v = 0; v < vectors; ++v) {
          const V code = Code<bits, p>(word[v], table);
          HWY_UNROLL(12)
          for (int r = 0; r < rows; ++r) {
            sums[r][v] = hn::MulAdd(hn::Set(D(), inputs[r * stride + p]), code, sums[r][v]);
          }
        }
      };
      [&]<int... p>(std::integer_sequence<int, p...>) HWY_ATTR {
        (add_row(std::integral_constant<int, p>()), ...);
      }(std::make_integer_sequence<int, 8>());
    }
  }

  // total += scale (sums - (zero - base) activation sum), for one group.
  static HWY_INLINE void Finish(const SlabProblem<float>& problem, std::int64_t group_at,
                                std::int64_t group, std::int64_t row, std::int64_t column,
                                const V (&sums)[rows][vectors], float* totals) {
    const D d;
    constexpr float middle = bits == 4 ? 8 : 128;
    constexpr float base = looks_up<bits> ? middle : 0;
    const bool is_centred = looks_up<bits> && problem.zeros == nullptr;
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t at = group_at * slab_width + column + v * lanes;
      const V scale = LoadScales(problem.scales + at, problem.scales_are_bf16);
      V zero = hn::Set(d, middle - base);
      if (problem.zeros != nullptr) {
        zero = hn::Sub(LoadZeros(problem.zeros + at), hn::Set(d, base));
      }
      for (int r = 0; r < rows; ++r) {
        V sum = sums[r][v];
        if (!is_centred) {
          sum = hn::NegMulAdd(zero, hn::Set(d, problem.sums[(row + r) * problem.groups + group]),
                              sum);
        }
        float* total = totals + r * slab_width + column + v * lanes;
        hn::Store(hn::MulAdd(scale, sum, hn::Load(d, total)), d, total);
      }
    }
  }

  // Rows [row, row + rows) of one slab.
  static HWY_NOINLINE void Multiply(const SlabProblem<float>& problem, std::int64_t slab,
                                    std::int64_t row) {
    HWY_ALIGN float totals[rows * slab_width] = {};
    const std::int64_t stride = problem.octets * 8;
    const float* a = problem.a + row * stride;
    const std::uint32_t* words = problem.words + slab * problem.octets * (slab_width * bits / 4);
    for (std::int64_t group = 0; group < problem.groups; ++group) {
      const std::int64_t begin = group * problem.group_octets;
      const std::int64_t end = std::min(begin + problem.group_octets, problem.octets);
      for (std::int64_t column = 0; column < slab_width; column += vectors * lanes) {
        V sums[rows][vectors];
        HWY_UNROLL(12)
        for (int r = 0; r < rows; ++r) {
          HWY_UNROLL(8)
          for (int v = 0; v < vectors; ++v) sums[r][v] = hn::Zero(D());
        }
        Add(words + column, a, stride, begin, end, sums);
        Finish(problem, slab * problem.groups + group, group, row, column, sums, totals);
      }
    }
    const std::int64_t width = std::min(slab_width, problem.outputs - slab * slab_width);
    for (int r = 0; r < rows; ++r) {
      std::copy_n(totals + r * slab_width, width,
                  problem.out + (row + r) * problem.outputs + slab * slab_width);
    }
  }
};

// Sums in registers: 12 x 2 vectors of 32 registers, 4 x 2 of 16.
#if HWY_TARGET == HWY_AVX3
inline constexpr int row_block = 12;
inline constexpr int quad_vectors = 4;
#else
inline constexpr int row_block = 4;
inline constexpr int quad_vectors = 2;
#endif

template <int bits>
void MultiplySlabs(const SlabProblem<float>& problem, std::int64_t begin, std::int64_t end) {
  for (std::int64_t slab = begin; slab < end; ++slab) {
    std::int64_t row = 0;
    const auto block = [&]<int rows, int vectors>() HWY_ATTR {
      for (; row + rows <= problem.rows; row += rows) {
        Block<bits, rows, vectors>::Multiply(problem, slab, row);
      }
    };
    if constexpr (row_block > 8) {
      block.template operator()<row_block, 2>();
      block.template operator()<8, 2>();
    }
    block.template operator()<4, quad_vectors>();
    block.template operator()<2, 4>();
    block.template operator()<1, 4>();
  }
}

void Multiply(const SlabProblem<float>& problem, std::int64_t begin, std::int64_t end) {
  problem.bits == 4 ? MultiplySlabs<4>(problem, begin, end) : MultiplySlabs<8>(problem, begin, end);
}

const SlabKernels kernels = {&ActivationScales, &Multiply};

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::marlin
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn::marlin {
namespace {

std::array<float, 8> no_scales(int) {
  return {1, 1, 1, 1, 1, 1, 1, 1};
}

const SlabKernels reference = {&no_scales, &multiply_plainly};

}  // namespace

const KernelTable<const SlabKernels*> slab_kernels = EINKORN_SIMD_VERSIONS(reference, kernels);

}  // namespace einkorn::marlin
#endif  // HWY_ONCE
