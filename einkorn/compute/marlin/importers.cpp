// Tensors of AutoGPTQ, AutoAWQ and the official layer.
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "einkorn/compute/marlin/quantize.h"
#include "einkorn/core/error.h"

namespace einkorn::marlin {
namespace {

void require_words(const at::Tensor& tensor, const char* name) {
  require_dense(tensor, name);
  require(tensor.dim() == 2 && tensor.scalar_type() == at::kInt, "{}: expected an int32 matrix",
          name);
}

// words i32 [R, C] -> the codes of each word along `dimension`, in the order of rising bits.
at::Tensor spread(const at::Tensor& words, int bits, std::int64_t dimension) {
  const at::Tensor wide = words.cpu().to(at::kLong).bitwise_and(0xFFFFFFFFLL);
  std::vector<at::Tensor> parts;
  for (int shift = 0; shift < 32; shift += bits) {
    parts.push_back(wide.bitwise_right_shift(shift).bitwise_and((1 << bits) - 1).to(at::kByte));
  }
  at::Tensor spread = at::stack(parts, dimension + 1);
  return dimension == 0 ? spread.reshape({-1, words.size(1)}) : spread.reshape({words.size(0), -1});
}

// 32, 64, 128 or -1 for that many groups.
std::int64_t group_size_of(std::int64_t rows, std::int64_t groups) {
  if (groups == 1) return -1;
  for (const std::int64_t size : {32, 64, 128}) {
    if ((rows + size - 1) / size == groups) return size;
  }
  throw InvalidArgument(fmt::format(
      "scales: {} groups of {} rows are no groups of 32, 64, 128 or all rows", groups, rows));
}

at::Tensor scales_in_type(const at::Tensor& scales) {
  require_dense(scales, "scales");
  require(scales.dim() == 2 && at::isFloatingType(scales.scalar_type()),
          "scales: expected a floating matrix [groups, N]");
  return scales.scalar_type() == at::kBFloat16 ? scales.cpu() : scales.cpu().to(at::kHalf);
}

// Zero points, or nothing where all are the middle.
std::optional<at::Tensor> zero_points_of(const at::Tensor& zeros, int bits) {
  if (zeros.numel() > 0 && zeros.eq(1 << (bits - 1)).all().item<bool>()) return std::nullopt;
  return zeros;
}

// The order that brings rows of one group together; empty where they are already. g_idx [K].
std::optional<at::Tensor> order_of_groups(const at::Tensor& g_idx, std::int64_t group_size) {
  const at::Tensor groups = g_idx.cpu().to(at::kLong);
  if (group_size == -1) return std::nullopt;
  const at::Tensor expected = at::arange(groups.size(0), at::kLong).floor_divide(group_size);
  if (groups.equal(expected)) return std::nullopt;
  const auto [sorted, order] = groups.sort(true, 0, false);
  require(sorted.equal(expected), "g_idx: expected {} rows in each group but the last", group_size);
  return order;
}

QuantizedWeights official(const at::Tensor& B, const at::Tensor& meta, const at::Tensor& s,
                          int bits) {
  require(bits == 4 || bits == 8, "bits: expected 4 or 8, got {}", bits);
  require_words(B, "B");
  QuantizedWeights w;
  if (meta.defined()) w.metadata = meta.contiguous();
  w.inputs = B.size(0) * tile_size * (w.is_sparse() ? 2 : 1);
  w.outputs = B.size(1) * 2 / bits;
  require(w.outputs % slab_columns == 0, "B: expected a multiple of {} words a row, got {}",
          slab_columns * bits / 2, B.size(1));
  w.bits = bits;
  require_dense(s, "s");
  require(s.dim() == 2, "s: expected a matrix [groups, N]");
  w.group_size = group_size_of(w.inputs, s.size(0));
  w.words = B.contiguous();
  w.scales = s.contiguous();
  check(w);
  return w;
}

}  // namespace

QuantizedWeights from_gptq(const at::Tensor& qweight, const at::Tensor& qzeros,
                           const at::Tensor& scales, const std::optional<at::Tensor>& g_idx,
                           int bits, int zero_offset) {
  require(bits == 4 || bits == 8, "bits: expected 4 or 8, got {}", bits);
  require(zero_offset == 0 || zero_offset == 1, "zero_offset: expected 0 or 1");
  require_words(qweight, "qweight");
  require_words(qzeros, "qzeros");
  at::Tensor codes = spread(qweight, bits, 0);
  const at::Tensor scale = scales_in_type(scales);
  require(scale.size(1) == codes.size(1), "scales: expected {} columns, got {}", codes.size(1),
          scale.size(1));
  at::Tensor zeros = spread(qzeros, bits, 1);
  require(zeros.size(0) == scale.size(0) && zeros.size(1) == scale.size(1),
          "qzeros: expected zero points for [{}]", fmt::join(scale.sizes(), ", "));
  // Stored zeros wrap: 15 means 0 in the format that subtracts one.
  if (zero_offset == 1) zeros = (zeros + 1).bitwise_and((1 << bits) - 1);
  const std::int64_t group_size = group_size_of(codes.size(0), scale.size(0));
  std::optional<at::Tensor> order;
  if (g_idx) {
    require_dense(*g_idx, "g_idx");
    require(g_idx->dim() == 1 && g_idx->size(0) == codes.size(0) &&
                at::isIntegralType(g_idx->scalar_type(), false),
            "g_idx: expected {} integers", codes.size(0));
    order = order_of_groups(*g_idx, group_size);
    if (order) codes = codes.index_select(0, *order);
  }
  return from_codes(codes, scale, bits, group_size, zero_points_of(zeros, bits), order);
}

QuantizedWeights from_awq(const at::Tensor& qweight, const at::Tensor& qzeros,
                          const at::Tensor& scales) {
  require_words(qweight, "qweight");
  require_words(qzeros, "qzeros");
  // Nibble i of a word is column order[i]: column j is nibble place[j].
  const at::Tensor place = at::tensor(at::ArrayRef<std::int64_t>({0, 4, 1, 5, 2, 6, 3, 7}));
  const auto columns = [&](const at::Tensor& words) {
    const at::Tensor nibbles = spread(words, 4, 1);
    return nibbles.reshape({words.size(0), -1, 8}).index_select(2, place).reshape_as(nibbles);
  };
  const at::Tensor codes = columns(qweight);
  const at::Tensor zeros = columns(qzeros);
  const at::Tensor scale = scales_in_type(scales);
  require(zeros.sizes() == scale.sizes(), "qzeros: expected zero points for [{}]",
          fmt::join(scale.sizes(), ", "));
  return from_codes(codes, scale, 4, group_size_of(codes.size(0), scale.size(0)),
                    zero_points_of(zeros, 4));
}

QuantizedWeights from_official(const at::Tensor& B, const at::Tensor& s, int bits) {
  return official(B, {}, s, bits);
}

QuantizedWeights from_official_2_4(const at::Tensor& B, const at::Tensor& meta, const at::Tensor& s,
                                   int bits) {
  require_dense(meta, "meta");
  return official(B, meta, s, bits);
}

}  // namespace einkorn::marlin
