// Activations of 8 bits: dot products of four bytes an instruction. Raw intrinsics, as Highway's
// targets here have no VNNI.
#include <algorithm>

#include "einkorn/compute/marlin/marlin_kernels.h"

#if defined(__x86_64__)
// GCC 12 takes the intrinsics' own deliberately undefined values for mistakes (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#endif

namespace einkorn::marlin {
namespace {

constexpr std::int64_t slab_columns = 64;

#if defined(__x86_64__)

#define EINKORN_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c,fma")))
#define EINKORN_AVX2 __attribute__((target("avx2,f16c,fma")))

// Four bytes of activations.
std::int32_t word_at(const std::int8_t* a) {
  std::int32_t word = 0;
  __builtin_memcpy(&word, a, sizeof word);
  return word;
}

EINKORN_VNNI inline __m512 load_scales_512(const std::uint16_t* scales, bool are_bf16) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales));
  if (!are_bf16) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// One group of `rows` rows: sums of four vectors of columns.
template <int bits, int rows>
EINKORN_VNNI inline void add_octets_vnni(const std::uint32_t* words, const std::int8_t* a,
                                         std::int64_t stride, std::int64_t begin, std::int64_t end,
                                         __m512i (&sums)[rows][4]) {
  const __m512i low = _mm512_set1_epi8(15);
  for (std::int64_t octet = begin; octet < end; ++octet) {
    for (int v = 0; v < 4; ++v) {
      const std::uint32_t* from = words + octet * slab_columns * bits / 4 + 16 * v;
      _mm_prefetch(reinterpret_cast<const char*>(from + 16 * slab_columns), _MM_HINT_T0);
      const __m512i word = _mm512_loadu_si512(from);
      const __m512i first = bits == 4 ? _mm512_and_si512(word, low) : word;
      const __m512i second = bits == 4 ? _mm512_and_si512(_mm512_srli_epi32(word, 4), low)
                                       : _mm512_loadu_si512(from + (bits == 4 ? 0 : slab_columns));
      for (int r = 0; r < rows; ++r) {
        const std::int8_t* inputs = a + r * stride + octet * 8;
        sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], first, _mm512_set1_epi32(word_at(inputs)));
        sums[r][v] =
            _mm512_dpbusd_epi32(sums[r][v], second, _mm512_set1_epi32(word_at(inputs + 4)));
      }
    }
  }
}

template <int bits, int rows>
EINKORN_VNNI void multiply_rows_vnni(const Int8Problem& problem, std::int64_t slab,
                                     std::int64_t row) {
  const SlabProblem<float>& w = problem.weights;
  const std::uint32_t* words = w.words + slab * w.octets * slab_columns * bits / 4;
  const std::int64_t stride = w.octets * 8;
  __m512 totals[rows][4];
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < 4; ++v) totals[r][v] = _mm512_setzero_ps();
  }
  for (std::int64_t group = 0; group < w.groups; ++group) {
    const std::int64_t begin = group * w.group_octets;
    const std::int64_t end = std::min(begin + w.group_octets, w.octets);
    __m512i sums[rows][4];
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < 4; ++v) sums[r][v] = _mm512_setzero_si512();
    }
    add_octets_vnni<bits, rows>(words, problem.a + row * stride, stride, begin, end, sums);
    for (int v = 0; v < 4; ++v) {
      const std::int64_t at = (slab * w.groups + group) * slab_columns + 16 * v;
      const __m512 scale = load_scales_512(w.scales + at, w.scales_are_bf16);
      __m512i zero = _mm512_set1_epi32(1 << (bits - 1));
      if (w.zeros != nullptr) {
        zero =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + at)));
      }
      for (int r = 0; r < rows; ++r) {
        const std::int64_t place = (row + r) * w.groups + group;
        const __m512i correction =
            _mm512_mullo_epi32(zero, _mm512_set1_epi32(problem.a_sums[place]));
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][v], correction));
        const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(problem.a_scales[place]));
        totals[r][v] = _mm512_fmadd_ps(factor, sum, totals[r][v]);
      }
    }
  }
  alignas(64) float stored[slab_columns];
  const std::int64_t width = std::min(slab_columns, w.outputs - slab * slab_columns);
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < 4; ++v) _mm512_store_ps(stored + 16 * v, totals[r][v]);
    std::copy_n(stored, width, w.out + (row + r) * w.outputs + slab * slab_columns);
  }
}

template <int bits>
void multiply_vnni(const Int8Problem& problem, std::int64_t begin, std::int64_t end) {
  for (std::int64_t slab = begin; slab < end; ++slab) {
    std::int64_t row = 0;
    for (; row + 2 <= problem.weights.rows; row += 2) {
      multiply_rows_vnni<bits, 2>(problem, slab, row);
    }
    if (row < problem.weights.rows) multiply_rows_vnni<bits, 1>(problem, slab, row);
  }
}

// Codes below 16 times bytes: two products sum to at most 3810, so the 16-bit sums never saturate.
EINKORN_AVX2 void multiply_row_avx2(const Int8Problem& problem, std::int64_t slab,
                                    std::int64_t row) {
  const SlabProblem<float>& w = problem.weights;
  const std::uint32_t* words = w.words + slab * w.octets * slab_columns;
  const std::int8_t* a = problem.a + row * w.octets * 8;
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1);
  alignas(32) float totals[slab_columns] = {};
  for (std::int64_t group = 0; group < w.groups; ++group) {
    const std::int64_t begin = group * w.group_octets;
    const std::int64_t end = std::min(begin + w.group_octets, w.octets);
    __m256i sums[8];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    for (std::int64_t octet = begin; octet < end; ++octet) {
      const __m256i even = _mm256_set1_epi32(word_at(a + octet * 8));
      const __m256i odd = _mm256_set1_epi32(word_at(a + octet * 8 + 4));
      for (int v = 0; v < 8; ++v) {
        const __m256i word = _mm256_loadu_si256(
            reinterpret_cast<const __m256i*>(words + octet * slab_columns + 8 * v));
        const __m256i products = _mm256_add_epi16(
            _mm256_maddubs_epi16(_mm256_and_si256(word, low), even),
            _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi32(word, 4), low), odd));
        sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(products, ones));
      }
    }
    const std::int64_t place = row * w.groups + group;
    const __m256i a_sum = _mm256_set1_epi32(problem.a_sums[place]);
    for (int v = 0; v < 8; ++v) {
      const std::int64_t at = (slab * w.groups + group) * slab_columns + 8 * v;
      const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w.scales + at));
      const __m256 scale =
          w.scales_are_bf16
              ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))
              : _mm256_cvtph_ps(bits);
      __m256i zero = _mm256_set1_epi32(8);
      if (w.zeros != nullptr) {
        zero =
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zeros + at)));
      }
      const __m256 sum =
          _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[v], _mm256_mullo_epi32(zero, a_sum)));
      const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(problem.a_scales[place]));
      const __m256 total = _mm256_load_ps(totals + 8 * v);
      _mm256_store_ps(totals + 8 * v, _mm256_fmadd_ps(factor, sum, total));
    }
  }
  const std::int64_t width = std::min(slab_columns, w.outputs - slab * slab_columns);
  std::copy_n(totals, width, w.out + row * w.outputs + slab * slab_columns);
}

void multiply_avx2(const Int8Problem& problem, std::int64_t begin, std::int64_t end) {
  for (std::int64_t slab = begin; slab < end; ++slab) {
    for (std::int64_t row = 0; row < problem.weights.rows; ++row) {
      multiply_row_avx2(problem, slab, row);
    }
  }
}

#pragma GCC diagnostic pop
#endif

}  // namespace

Int8Choice int8_kernel(int bits) {
#if defined(__x86_64__)
  const Isa isa = active_isa();
  if (isa == Isa::avx512 && __builtin_cpu_supports("avx512vnni")) {
    return {bits == 4 ? &multiply_vnni<4> : &multiply_vnni<8>, "avx512-vnni"};
  }
  if (isa >= Isa::avx2 && bits == 4) return {&multiply_avx2, "avx2"};
#endif
  return {&multiply_int8_plainly, "scalar"};
}

}  // namespace einkorn::marlin
