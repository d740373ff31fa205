// The plain references of the slab kernels.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "einkorn/compute/marlin/marlin_kernels.h"

namespace einkorn::marlin {
namespace {

constexpr std::int64_t slab_columns = 64;

// Code of row 8 * octet + p of a column.
unsigned code_at(const std::uint32_t* slab_words, int bits, std::int64_t octet, int p,
                 std::int64_t column) {
  if (bits == 4) return slab_words[octet * slab_columns + column] >> (4 * p) & 15;
  return slab_words[(octet * 2 + p / 4) * slab_columns + column] >> (8 * (p % 4)) & 255;
}

template <typename T>
const std::uint32_t* words_of(const SlabProblem<T>& problem, std::int64_t slab) {
  return problem.words + slab * problem.octets * slab_columns * problem.bits / 4;
}

template <typename T>
double scale_of(const SlabProblem<T>& problem, std::int64_t slab, std::int64_t group,
                std::int64_t column) {
  return scale_value(problem.scales[(slab * problem.groups + group) * slab_columns + column],
                     problem.scales_are_bf16);
}

template <typename T>
int zero_of(const SlabProblem<T>& problem, std::int64_t slab, std::int64_t group,
            std::int64_t column) {
  if (problem.zeros == nullptr) return 1 << (problem.bits - 1);
  return problem.zeros[(slab * problem.groups + group) * slab_columns + column];
}

template <typename T>
void multiply_in_double(const SlabProblem<T>& problem, std::int64_t begin, std::int64_t end) {
  for (std::int64_t slab = begin; slab < end; ++slab) {
    const std::uint32_t* words = words_of(problem, slab);
    const std::int64_t width = std::min(slab_columns, problem.outputs - slab * slab_columns);
    for (std::int64_t row = 0; row < problem.rows; ++row) {
      const T* a = problem.a + row * problem.octets * 8;
      for (std::int64_t column = 0; column < width; ++column) {
        double total = 0;
        for (std::int64_t octet = 0; octet < problem.octets; ++octet) {
          const std::int64_t group = octet / problem.group_octets;
          const double scale = scale_of(problem, slab, group, column);
          const int zero = zero_of(problem, slab, group, column);
          for (int p = 0; p < 8; ++p) {
            const int code = static_cast<int>(code_at(words, problem.bits, octet, p, column));
            total += static_cast<double>(a[octet * 8 + p]) * ((code - zero) * scale);
          }
        }
        problem.out[row * problem.outputs + slab * slab_columns + column] = static_cast<T>(total);
      }
    }
  }
}

}  // namespace

float scale_value(std::uint16_t bits, bool is_bf16) {
  std::uint32_t wide = 0;
  if (is_bf16) {
    wide = static_cast<std::uint32_t>(bits) << 16;
  } else {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
    const std::uint32_t exponent = bits >> 10 & 31;
    const std::uint32_t mantissa = bits & 1023;
    if (exponent == 0) {  // zero or subnormal
      const float value = std::ldexp(static_cast<float>(mantissa), -24);
      return sign != 0 ? -value : value;
    }
    wide = sign | (exponent == 31 ? 255U : exponent + 112) << 23 | mantissa << 13;
  }
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

void multiply_plainly(const SlabProblem<float>& problem, std::int64_t begin, std::int64_t end) {
  multiply_in_double(problem, begin, end);
}

void multiply_plainly(const SlabProblem<double>& problem, std::int64_t begin, std::int64_t end) {
  multiply_in_double(problem, begin, end);
}

void multiply_int8_plainly(const Int8Problem& problem, std::int64_t begin, std::int64_t end) {
  const SlabProblem<float>& w = problem.weights;
  for (std::int64_t slab = begin; slab < end; ++slab) {
    const std::uint32_t* words = words_of(w, slab);
    const std::int64_t width = std::min(slab_columns, w.outputs - slab * slab_columns);
    for (std::int64_t row = 0; row < w.rows; ++row) {
      const std::int8_t* a = problem.a + row * w.octets * 8;
      for (std::int64_t column = 0; column < width; ++column) {
        float total = 0;
        for (std::int64_t group = 0; group < w.groups; ++group) {
          std::int32_t sum = 0;
          const std::int64_t last = std::min((group + 1) * w.group_octets, w.octets);
          for (std::int64_t octet = group * w.group_octets; octet < last; ++octet) {
            for (int p = 0; p < 8; ++p) {
              // Place of row p among the octet's bytes.
              const int place = w.bits == 4 ? p / 2 + p % 2 * 4 : p;
              sum +=
                  a[octet * 8 + place] * static_cast<int>(code_at(words, w.bits, octet, p, column));
            }
          }
          const std::int64_t at = row * w.groups + group;
          sum -= problem.a_sums[at] * zero_of(w, slab, group, column);
          const auto scale = static_cast<float>(scale_of(w, slab, group, column));
          total = std::fma(scale * problem.a_scales[at], static_cast<float>(sum), total);
        }
        w.out[row * w.outputs + slab * slab_columns + column] = total;
      }
    }
  }
}

}  // namespace einkorn::marlin
