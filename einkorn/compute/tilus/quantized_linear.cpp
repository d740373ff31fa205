#include "einkorn/compute/tilus/quantized_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/tilus/matmul_kernels.h"
#include "einkorn/compute/tilus/quantized_linear_internal.h"
#include "einkorn/compute/tilus/quantized_weights_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"

namespace einkorn::tilus {
namespace {

// From so many rows on the weights are written out, in strips, for a dense product.
constexpr std::int64_t dense_rows = 64;
// Columns of such a strip: it stays in the outer caches, and torch's product is efficient.
constexpr std::int64_t strip_columns = 512;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

CodeBook code_book(const NumberType& type) {
  CodeBook book;
  book.bits = type.bits();
  book.is_float = type.is_float();
  book.is_signed_integer = type.kind() == NumberKind::signed_integer;
  book.mantissa_bits = type.mantissa_bits();
  const std::array<float, 256> values = decode_table(type);
  const std::uint32_t flip = book.is_signed_integer ? 1u << (book.bits - 1) : 0;
  for (std::uint32_t code = 0; code < 256; ++code) book.values[code] = values[code ^ flip];
  if (!book.is_float) return book;
  const int mantissa = type.mantissa_bits();
  for (std::uint32_t i = 0; i < 128; ++i) {
    const double first = type.decode(i << mantissa);
    book.base[i] = static_cast<float>(first);
    book.slope[i] = static_cast<float>(type.decode(i << mantissa | 1) - first);
    book.fraction[i] = static_cast<float>(i % (1u << mantissa));
  }
  return book;
}

struct Extents {
  std::int64_t slabs;
  std::int64_t groups;
  std::int64_t blocks;

  explicit Extents(const PreparedWeights& weights)
      : slabs(ceil_div(weights.columns, slab_columns)),
        groups(weights.rows / weights.group),
        blocks(ceil_div(weights.group, block_rows)) {}

  std::int64_t padded_rows() const { return groups * blocks * block_rows; }
};

// [groups, columns] in slabs: f32 [slabs, groups, 16], zeros in the padding.
at::Tensor in_slabs(const at::Tensor& values, const Extents& extents) {
  const at::Tensor padded = at::constant_pad_nd(values.to(at::kFloat),
                                                {0, extents.slabs * slab_columns - values.size(1)});
  return padded.reshape({extents.groups, extents.slabs, slab_columns})
      .permute({1, 0, 2})
      .contiguous();
}

// x as rows of f32, each group padded to whole blocks, and rows of zeros up to a multiple of 8.
at::Tensor padded_rows(const at::Tensor& x, const Extents& extents, std::int64_t group) {
  const std::int64_t row_count = x.size(0);
  const std::int64_t extra_rows = ceil_div(row_count, 8) * 8 - row_count;
  const std::int64_t extra = extents.blocks * block_rows - group;
  at::Tensor values = x.to(at::kFloat);
  if (extra == 0 && (extra_rows == 0 || row_count == 1)) return values.contiguous();
  values = at::constant_pad_nd(values.reshape({row_count, extents.groups, group}),
                               {0, extra, 0, 0, 0, extra_rows});
  return values.reshape({row_count + extra_rows, extents.padded_rows()}).contiguous();
}

void require_prepared(const PreparedWeights& weights) {
  const Extents extents(weights);
  const at::Tensor& words = weights.words;
  require(words.defined() && words.is_cpu() && words.scalar_type() == at::kInt &&
              words.is_contiguous() &&
              words.sizes() == at::IntArrayRef({extents.slabs, extents.groups, extents.blocks,
                                                weights.type.bits(), slab_columns}),
          "words: expected contiguous i32 [{}, {}, {}, {}, {}] on the CPU", extents.slabs,
          extents.groups, extents.blocks, weights.type.bits(), slab_columns);
  const auto is_per_group = [&](const at::Tensor& tensor) {
    return tensor.defined() && tensor.is_cpu() && tensor.scalar_type() == at::kFloat &&
           tensor.is_contiguous() &&
           tensor.sizes() == at::IntArrayRef({extents.slabs, extents.groups, slab_columns});
  };
  require(
      is_per_group(weights.scales) && (!weights.offsets.defined() || is_per_group(weights.offsets)),
      "scales and offsets: expected contiguous f32 [{}, {}, {}] on the CPU", extents.slabs,
      extents.groups, slab_columns);
}

// Columns [begin, end) as f32 [rows, end - begin]; begin is a multiple of a slab.
at::Tensor dense_columns(const PreparedWeights& weights, std::int64_t begin, std::int64_t end) {
  const Extents extents(weights);
  const CodeBook book = code_book(weights.type);
  const int bits = weights.type.bits();
  const std::int64_t width = end - begin;
  at::Tensor result = at::empty({weights.rows, width}, at::kFloat);
  float* const to = result.data_ptr<float>();
  const auto* const words =
      reinterpret_cast<const std::uint32_t*>(weights.words.const_data_ptr<std::int32_t>());
  const float* const scales = weights.scales.const_data_ptr<float>();
  const float* const offsets =
      weights.offsets.defined() ? weights.offsets.const_data_ptr<float>() : nullptr;
  const auto slab_strip = [&](std::int64_t slab) {
    for (std::int64_t group = 0; group < extents.groups; ++group) {
      const std::int64_t place = slab * extents.groups + group;
      const float* const scale = scales + place * slab_columns;
      for (std::int64_t in_group = 0; in_group < weights.group; ++in_group) {
        const std::int64_t block = place * extents.blocks + in_group / block_rows;
        const std::int64_t bit = in_group % block_rows * bits;
        const std::uint32_t* const row = words + (block * bits + bit / 32) * slab_columns;
        float* const out =
            to + (group * weights.group + in_group) * width + slab * slab_columns - begin;
        const std::int64_t count = std::min(slab_columns, end - slab * slab_columns);
        for (std::int64_t lane = 0; lane < count; ++lane) {
          std::uint64_t pair = row[lane];
          if (bit % 32 + bits > 32)
            pair |= static_cast<std::uint64_t>(row[slab_columns + lane]) << 32;
          const auto code = static_cast<std::uint32_t>(pair >> (bit % 32)) & ((1u << bits) - 1);
          out[lane] = book.values[code] * scale[lane];
          if (offsets != nullptr) out[lane] += offsets[place * slab_columns + lane];
        }
      }
    }
  };
  at::parallel_for(begin / slab_columns, ceil_div(end, slab_columns), 1,
                   [&](std::int64_t first, std::int64_t last) {
                     for (std::int64_t slab = first; slab < last; ++slab) slab_strip(slab);
                   });
  return result;
}

at::Tensor product_in_strips(const at::Tensor& rows, const PreparedWeights& weights) {
  const at::Tensor x = rows.to(at::kFloat);
  at::Tensor out = at::empty({rows.size(0), weights.columns}, at::kFloat);
  for (std::int64_t begin = 0; begin < weights.columns; begin += strip_columns) {
    const std::int64_t end = std::min(begin + strip_columns, weights.columns);
    at::Tensor strip = out.narrow(1, begin, end - begin);
    strip.copy_(at::mm(x, dense_columns(weights, begin, end)));
  }
  return out;
}

at::Tensor product_of_slabs(const at::Tensor& rows, const PreparedWeights& weights) {
  const Extents extents(weights);
  const CodeBook book = code_book(weights.type);
  const at::Tensor x = padded_rows(rows, extents, weights.group);
  at::Tensor sums;
  if (weights.offsets.defined()) {
    sums = rows.to(at::kFloat).reshape({rows.size(0), extents.groups, weights.group}).sum(2);
    sums = sums.contiguous();
  }
  at::Tensor out = at::empty({rows.size(0), weights.columns}, at::kFloat);
  SlabMatmul task{};
  task.book = &book;
  task.words = reinterpret_cast<const std::uint32_t*>(weights.words.const_data_ptr<std::int32_t>());
  task.scales = weights.scales.const_data_ptr<float>();
  task.offsets = weights.offsets.defined() ? weights.offsets.const_data_ptr<float>() : nullptr;
  task.x = x.const_data_ptr<float>();
  task.sums = sums.defined() ? sums.const_data_ptr<float>() : nullptr;
  task.out = out.data_ptr<float>();
  task.rows = rows.size(0);
  task.groups = extents.groups;
  task.blocks = extents.blocks;
  task.x_stride = extents.padded_rows();
  task.out_stride = weights.columns;
  task.columns = weights.columns;
  SlabMatmulKernel* const kernel = slab_matmul_kernels.pick();
  at::parallel_for(0, extents.slabs, 1,
                   [&](std::int64_t begin, std::int64_t end) { kernel(task, begin, end); });
  return out;
}

}  // namespace

std::int64_t PreparedWeights::bytes() const {
  return static_cast<std::int64_t>(words.nbytes() + scales.nbytes() +
                                   (offsets.defined() ? offsets.nbytes() : 0));
}

PreparedWeights prepare(const QuantizedWeights& weights) {
  weights.check();
  PreparedWeights prepared{weights.type, weights.rows, weights.columns, weights.group, {}, {}, {}};
  const Extents extents(prepared);
  const int bits = weights.type.bits();
  const std::uint8_t flip = weights.type.kind() == NumberKind::signed_integer
                                ? static_cast<std::uint8_t>(1u << (bits - 1))
                                : 0;
  const at::Tensor codes =
      compute::unpack_bits(weights.packed, bits, weights.rows * weights.columns);
  prepared.words =
      at::zeros({extents.slabs, extents.groups, extents.blocks, bits, slab_columns}, at::kInt);
  const auto* const from = codes.const_data_ptr<std::uint8_t>();
  auto* const words = reinterpret_cast<std::uint32_t*>(prepared.words.data_ptr<std::int32_t>());
  const auto write_slab = [&](std::int64_t slab) {
    for (std::int64_t group = 0; group < extents.groups; ++group) {
      for (std::int64_t in_group = 0; in_group < weights.group; ++in_group) {
        const std::int64_t block =
            (slab * extents.groups + group) * extents.blocks + in_group / block_rows;
        const std::int64_t bit = in_group % block_rows * bits;
        std::uint32_t* const row = words + (block * bits + bit / 32) * slab_columns;
        const std::int64_t first =
            (group * weights.group + in_group) * weights.columns + slab * slab_columns;
        const std::int64_t count = std::min(slab_columns, weights.columns - slab * slab_columns);
        for (std::int64_t lane = 0; lane < count; ++lane) {
          const std::uint64_t code = static_cast<std::uint64_t>(from[first + lane] ^ flip)
                                     << (bit % 32);
          row[lane] |= static_cast<std::uint32_t>(code);
          if (bit % 32 + bits > 32) {
            row[slab_columns + lane] |= static_cast<std::uint32_t>(code >> 32);
          }
        }
      }
    }
  };
  at::parallel_for(0, extents.slabs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t slab = begin; slab < end; ++slab) write_slab(slab);
  });
  prepared.scales = in_slabs(weights.scales, extents);
  if (weights.has_offsets()) prepared.offsets = in_slabs(weights.offsets, extents);
  return prepared;
}

at::Tensor dequantize(const PreparedWeights& weights) {
  require_prepared(weights);
  return dense_columns(weights, 0, weights.columns);
}

at::Tensor linear_on_cpu(const at::Tensor& x, const PreparedWeights& weights) {
  require_dense(x, "x");
  require_prepared(weights);
  require(x.scalar_type() == at::kFloat || x.scalar_type() == at::kHalf ||
              x.scalar_type() == at::kBFloat16,
          "x: expected f32, f16 or bf16");
  require(x.dim() >= 1 && x.size(-1) == weights.rows, "x: expected a last dimension of {}, got {}",
          weights.rows, x.dim() >= 1 ? x.size(-1) : 0);
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weights.columns;
  if (x.numel() == 0 || weights.columns == 0) return at::zeros(shape, x.options());
  const at::Tensor rows = x.reshape({-1, weights.rows});
  const bool is_dense = rows.size(0) >= dense_rows;
  const auto m = static_cast<double>(rows.size(0));
  const Trace trace(
      "tilus.linear", is_dense ? "strips" : to_string(slab_matmul_kernels.level()).c_str(),
      [&] {
        return fmt::format("{} [{}, {}] x [{}, {}]", weights.type.name(), rows.size(0),
                           weights.rows, weights.rows, weights.columns);
      },
      Work{2 * m * static_cast<double>(weights.rows) * static_cast<double>(weights.columns),
           static_cast<double>(weights.bytes())});
  const at::Tensor out =
      is_dense ? product_in_strips(rows, weights) : product_of_slabs(rows, weights);
  return out.reshape(shape).to(x.scalar_type());
}

QuantizedLinear QuantizedLinear::from_weight(const at::Tensor& weight,
                                             const QuantizeOptions& options) {
  return QuantizedLinear(quantize(weight, options));
}

}  // namespace einkorn::tilus
