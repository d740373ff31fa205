#include "einkorn/core/simd.h"

#define HWY_TARGET_INCLUDE "einkorn/compute/tilus/matmul_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "einkorn/compute/tilus/matmul_kernels.h"
#include "einkorn/compute/tilus/two_tables_simd.h"

// Highway's baseline is never chosen, and these kernels take long to compile.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace einkorn::tilus {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, slab_columns>;
using I = hn::RebindToSigned<F>;
using U = hn::RebindToUnsigned<F>;
using VF = hn::Vec<F>;
using VU = hn::Vec<U>;

constexpr int kLanes = HWY_TARGET == HWY_AVX3 ? 16 : 8;
constexpr int kLogLanes = HWY_TARGET == HWY_AVX3 ? 4 : 3;

HWY_INLINE VF AsFloat(VU bits) {
  return hn::BitCast(F(), bits);
}

// table[code & (2^bits - 1)], bits above them ignored. Shuffles look only at the index bits that
// they need, so nothing is masked; tables shorter than a vector are repeated in memory.
template <int kBits>
HWY_INLINE VF LookUp(const float* table, VU code) {
  const F f;
  if constexpr (kBits <= kLogLanes) {
    const auto index = hn::IndicesFromVec(f, hn::BitCast(I(), code));
    return hn::TableLookupLanes(hn::LoadU(f, table), index);
#if HWY_TARGET == HWY_AVX3
  } else if constexpr (kBits == kLogLanes + 1) {
    return TwoTables(hn::LoadU(f, table), hn::LoadU(f, table + kLanes), code);
#endif
  } else {
    const VF low = LookUp<kBits - 1>(table, code);
    const VF high = LookUp<kBits - 1>(table + (1 << (kBits - 1)), code);
    const auto is_high = hn::MaskFromVec(AsFloat(hn::ShiftLeft<32 - kBits>(code)));
    return hn::IfThenElse(is_high, high, low);
  }
}

// The 32 bits that begin at code number kStep of a block; the code is their low part.
template <int kBits, int kStep>
HWY_INLINE VU Extract(const std::uint32_t* words) {
  const U u;
  constexpr int kBit = kStep * kBits;
  constexpr int kWord = kBit / 32;
  constexpr int kShift = kBit % 32;
  const VU low = hn::ShiftRight<kShift>(hn::LoadU(u, words + kWord * slab_columns));
  if constexpr (kShift + kBits <= 32) {
    return low;
  } else {
    const VU next = hn::LoadU(u, words + (kWord + 1) * slab_columns);
    return hn::Or(low, hn::ShiftLeft<32 - kShift>(next));
  }
}

// ---- from codes to numbers: four ways, of which each type takes the cheapest ----

template <int kBitsOf>
struct ByTable {
  static constexpr int kBits = kBitsOf;
  static HWY_INLINE VF Decode(const CodeBook& book, VU code) {
    return LookUp<kBits>(book.values.data(), code);
  }
};

// Floats are symmetric: the table of the magnitudes, and the sign bit moved to where f32 has it.
template <int kBitsOf>
struct BySignedTable {
  static constexpr int kBits = kBitsOf;
  static HWY_INLINE VF Decode(const CodeBook& book, VU code) {
    const VU sign = hn::And(hn::ShiftLeft<32 - kBits>(code), hn::Set(U(), 0x80000000u));
    const VU magnitude = hn::BitCast(U(), LookUp<kBits - 1>(book.values.data(), code));
    return AsFloat(hn::Xor(magnitude, sign));
  }
};

// Floats: a line in the mantissa for each sign and exponent. Three short tables and an FMA.
template <int kBitsOf, int kMantissa>
struct ByLines {
  static constexpr int kBits = kBitsOf;
  static HWY_INLINE VF Decode(const CodeBook& book, VU code) {
    const VU line = hn::ShiftRight<kMantissa>(code);
    constexpr int kLineBits = kBits - kMantissa;
    const VF fraction = LookUp<kMantissa>(book.fraction.data(), code);
    return hn::MulAdd(LookUp<kLineBits>(book.slope.data(), line), fraction,
                      LookUp<kLineBits>(book.base.data(), line));
  }
};

// Integers: the code becomes the low mantissa bits of 2^23, from which 2^23 (and the offset of
// signed codes) is subtracted.
template <int kBitsOf>
struct ByMagic {
  static constexpr int kBits = kBitsOf;
  static HWY_INLINE VF Decode(const CodeBook& book, VU code) {
    const U u;
    const VU number = hn::OrAnd(hn::Set(u, 0x4B000000u), code, hn::Set(u, (1u << kBits) - 1));
    const float magic = 8388608.0f - book.values[0];
    return hn::Sub(AsFloat(number), hn::Set(F(), magic));
  }
};

// ---- the product ----

// Sums of kRows rows; a single row has four sums a vector, so that the latency of an FMA is hidden.
template <int kRows>
struct Sums {
  static constexpr int kCount = kRows == 1 ? 4 : kRows;
  VF values[kCount];
};

template <typename Decoder, int kRows, int kStep>
HWY_INLINE void Steps(const CodeBook& book, const std::uint32_t* words, const float* x,
                      std::int64_t x_stride, Sums<kRows>& sums) {
  if constexpr (kStep < block_rows) {
    const VF weight = Decoder::Decode(book, Extract<Decoder::kBits, kStep>(words));
    const F f;
    if constexpr (kRows == 1) {
      VF& sum = sums.values[kStep % 4];
      sum = hn::MulAdd(hn::Set(f, x[kStep]), weight, sum);
    } else {
      for (int row = 0; row < kRows; ++row) {
        sums.values[row] =
            hn::MulAdd(hn::Set(f, x[row * x_stride + kStep]), weight, sums.values[row]);
      }
    }
    Steps<Decoder, kRows, kStep + 1>(book, words, x, x_stride, sums);
  }
}

// Some rows of x times one vector of columns.
template <typename Decoder, int kRows>
void Columns(const SlabMatmul& task, std::int64_t slab, std::int64_t lane, std::int64_t first_row,
             std::int64_t row_count) {
  const F f;
  const std::uint32_t* words =
      task.words + slab * task.groups * task.blocks * Decoder::kBits * slab_columns + lane;
  const std::int64_t first_scale = slab * task.groups * slab_columns + lane;
  const float* x = task.x + first_row * task.x_stride;
  VF totals[kRows];
  for (int row = 0; row < kRows; ++row) totals[row] = hn::Zero(f);
  for (std::int64_t group = 0; group < task.groups; ++group) {
    Sums<kRows> sums;
    for (int i = 0; i < Sums<kRows>::kCount; ++i) sums.values[i] = hn::Zero(f);
    for (std::int64_t block = 0; block < task.blocks; ++block) {
      Steps<Decoder, kRows, 0>(*task.book, words, x, task.x_stride, sums);
      words += Decoder::kBits * slab_columns;
      x += block_rows;
    }
    if constexpr (kRows == 1) {
      sums.values[0] =
          hn::Add(hn::Add(sums.values[0], sums.values[1]), hn::Add(sums.values[2], sums.values[3]));
    }
    const VF scale = hn::LoadU(f, task.scales + first_scale + group * slab_columns);
    for (int row = 0; row < kRows; ++row) {
      totals[row] = hn::MulAdd(sums.values[row], scale, totals[row]);
    }
    if (task.offsets != nullptr) {
      const VF offset = hn::LoadU(f, task.offsets + first_scale + group * slab_columns);
      for (int row = 0; row < kRows; ++row) {
        // Rows that pad the last few have no sums; theirs are not used.
        const std::int64_t known = std::min<std::int64_t>(row, row_count - 1);
        const float sum = task.sums[(first_row + known) * task.groups + group];
        totals[row] = hn::MulAdd(hn::Set(f, sum), offset, totals[row]);
      }
    }
  }
  const std::int64_t column = slab * slab_columns + lane;
  const std::int64_t count = std::clamp<std::int64_t>(task.columns - column, 0, kLanes);
  for (int row = 0; row < kRows && row < row_count; ++row) {
    float* const out = task.out + (first_row + row) * task.out_stride + column;
    if (count == kLanes) {
      hn::StoreU(totals[row], f, out);
    } else {
      float values[kLanes];
      hn::StoreU(totals[row], f, values);
      std::copy_n(values, count, out);
    }
  }
}

template <typename Decoder>
void Slabs(const SlabMatmul& task, std::int64_t begin, std::int64_t end) {
  for (std::int64_t slab = begin; slab < end; ++slab) {
    for (std::int64_t lane = 0; lane < slab_columns; lane += kLanes) {
      std::int64_t row = 0;
      if (task.rows == 1) {
        Columns<Decoder, 1>(task, slab, lane, 0, 1);
        continue;
      }
      for (; task.rows - row > 4; row += 8) {
        Columns<Decoder, 8>(task, slab, lane, row, std::min<std::int64_t>(8, task.rows - row));
      }
      if (row < task.rows) Columns<Decoder, 4>(task, slab, lane, row, task.rows - row);
    }
  }
}

template <int kBits>
void IntegerSlabs(const SlabMatmul& task, std::int64_t begin, std::int64_t end) {
  if constexpr (kBits <= kLogLanes + 1) {
    Slabs<ByTable<kBits>>(task, begin, end);
  } else {
    Slabs<ByMagic<kBits>>(task, begin, end);
  }
}

template <int kBits, int kMantissa>
void FloatSlabs(const SlabMatmul& task, std::int64_t begin, std::int64_t end) {
  if constexpr (kMantissa >= kBits - 1) {
    // No such type.
  } else if (task.book->mantissa_bits != kMantissa) {
    FloatSlabs<kBits, kMantissa + 1>(task, begin, end);
  } else if constexpr (kBits <= kLogLanes + 1) {
    Slabs<ByTable<kBits>>(task, begin, end);
  } else if constexpr (kBits > kLogLanes + 2 && kBits - kMantissa <= kLogLanes + 1 &&
                       kMantissa <= kLogLanes + 1) {
    Slabs<ByLines<kBits, kMantissa>>(task, begin, end);
  } else {
    Slabs<BySignedTable<kBits>>(task, begin, end);
  }
}

template <int kBits>
void SlabsOfWidth(const SlabMatmul& task, std::int64_t begin, std::int64_t end) {
  if constexpr (kBits >= 3) {
    if (task.book->is_float) return FloatSlabs<kBits, 1>(task, begin, end);
  }
  IntegerSlabs<kBits>(task, begin, end);
}

}  // namespace

void SlabProduct(const SlabMatmul& task, std::int64_t begin, std::int64_t end) {
  switch (task.book->bits) {
    case 1:
      return SlabsOfWidth<1>(task, begin, end);
    case 2:
      return SlabsOfWidth<2>(task, begin, end);
    case 3:
      return SlabsOfWidth<3>(task, begin, end);
    case 4:
      return SlabsOfWidth<4>(task, begin, end);
    case 5:
      return SlabsOfWidth<5>(task, begin, end);
    case 6:
      return SlabsOfWidth<6>(task, begin, end);
    case 7:
      return SlabsOfWidth<7>(task, begin, end);
    default:
      return SlabsOfWidth<8>(task, begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::tilus
HWY_AFTER_NAMESPACE();
#endif

#if HWY_ONCE
namespace einkorn::tilus {
namespace {

std::uint32_t stored_code(const std::uint32_t* block, int bits, std::int64_t row,
                          std::int64_t lane) {
  const std::int64_t bit = row * bits;
  const std::int64_t word = bit / 32;
  const std::int64_t shift = bit % 32;
  std::uint64_t pair = block[word * slab_columns + lane];
  if (shift + bits > 32) {
    pair |= static_cast<std::uint64_t>(block[(word + 1) * slab_columns + lane]) << 32;
  }
  return static_cast<std::uint32_t>(pair >> shift) & ((1u << bits) - 1);
}

void multiply_plainly(const SlabMatmul& task, std::int64_t begin, std::int64_t end) {
  const int bits = task.book->bits;
  const std::int64_t block_words = bits * slab_columns;
  for (std::int64_t slab = begin; slab < end; ++slab) {
    for (std::int64_t lane = 0; lane < slab_columns; ++lane) {
      const std::int64_t column = slab * slab_columns + lane;
      if (column >= task.columns) continue;
      for (std::int64_t row = 0; row < task.rows; ++row) {
        double total = 0;
        for (std::int64_t group = 0; group < task.groups; ++group) {
          const std::int64_t place = slab * task.groups + group;
          double sum = 0;
          for (std::int64_t k = 0; k < task.blocks * block_rows; ++k) {
            const std::int64_t block = place * task.blocks + k / block_rows;
            const std::uint32_t code =
                stored_code(task.words + block * block_words, bits, k % block_rows, lane);
            const std::int64_t x_at = row * task.x_stride + group * task.blocks * block_rows + k;
            sum += static_cast<double>(task.x[x_at]) * task.book->values[code];
          }
          total += sum * task.scales[place * slab_columns + lane];
          if (task.offsets != nullptr) {
            total += static_cast<double>(task.sums[row * task.groups + group]) *
                     task.offsets[place * slab_columns + lane];
          }
        }
        task.out[row * task.out_stride + column] = static_cast<float>(total);
      }
    }
  }
}

}  // namespace

const KernelTable<SlabMatmulKernel*> slab_matmul_kernels =
    EINKORN_SIMD_VERSIONS(multiply_plainly, SlabProduct);

}  // namespace einkorn::tilus
#endif
