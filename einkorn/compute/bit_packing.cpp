#include "einkorn/compute/bit_packing.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "einkorn/compute/bit_packing_kernels.h"
#include "einkorn/core/error.h"

namespace einkorn::compute {
namespace {

at::Tensor byte_rows(const at::Tensor& tensor, const char* name, int bits) {
  require_dense(tensor, name);
  require(bits >= 1 && bits <= 8, "bits: expected 1 to 8, got {}", bits);
  require(tensor.is_cpu(), "{}: expected a tensor on cpu, got {}", name, tensor.device().str());
  require(tensor.scalar_type() == at::kByte, "{}: expected dtype uint8, got {}", name,
          c10::toString(tensor.scalar_type()));
  require(tensor.dim() >= 1, "{}: expected at least one dimension", name);
  return tensor.contiguous();
}

at::Tensor with_row_size(const at::Tensor& tensor, std::int64_t size) {
  std::vector<std::int64_t> shape = tensor.sizes().vec();
  shape.back() = size;
  return at::empty(shape, tensor.options());
}

// Rows in parallel, and long rows in pieces of 8 k codes, which end on byte boundaries.
constexpr std::int64_t codes_per_piece = std::int64_t{1} << 16;

void for_each_piece(int bits, std::int64_t rows, std::int64_t count, PackKernel* kernel,
                    const std::uint8_t* from, std::int64_t from_row, std::uint8_t* to,
                    std::int64_t to_row, bool packing) {
  const std::int64_t pieces = (count + codes_per_piece - 1) / codes_per_piece;
  const std::int64_t grain = std::max<std::int64_t>(1, codes_per_piece / std::max(count, pieces));
  at::parallel_for(0, rows * pieces, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t row = item / pieces;
      const std::int64_t first = item % pieces * codes_per_piece;
      const std::int64_t byte = first / 8 * bits;
      kernel(bits, std::min(codes_per_piece, count - first),
             from + row * from_row + (packing ? first : byte),
             to + row * to_row + (packing ? byte : first));
    }
  });
}

}  // namespace

void pack_bits(int bits, std::int64_t count, const std::uint8_t* codes, std::uint8_t* packed) {
  pack_kernels.pick()(bits, count, codes, packed);
}

void unpack_bits(int bits, std::int64_t count, const std::uint8_t* packed, std::uint8_t* codes) {
  unpack_kernels.pick()(bits, count, packed, codes);
}

at::Tensor pack_bits(const at::Tensor& codes, int bits) {
  const at::Tensor rows = byte_rows(codes, "codes", bits);
  const std::int64_t count = rows.size(-1);
  at::Tensor packed = with_row_size(rows, packed_bytes(count, bits));
  if (packed.numel() == 0) return packed;
  for_each_piece(bits, rows.numel() / count, count, pack_kernels.pick(),
                 rows.const_data_ptr<std::uint8_t>(), count,
                 packed.mutable_data_ptr<std::uint8_t>(), packed.size(-1), true);
  return packed;
}

at::Tensor unpack_bits(const at::Tensor& packed, int bits, std::int64_t count) {
  const at::Tensor rows = byte_rows(packed, "packed", bits);
  require(count >= 0 && rows.size(-1) == packed_bytes(count, bits),
          "packed: expected rows of {} bytes for {} codes of {} bits, got {}",
          packed_bytes(std::max<std::int64_t>(count, 0), bits), count, bits, rows.size(-1));
  at::Tensor codes = with_row_size(rows, count);
  if (codes.numel() == 0) return codes;
  for_each_piece(bits, codes.numel() / count, count, unpack_kernels.pick(),
                 rows.const_data_ptr<std::uint8_t>(), rows.size(-1),
                 codes.mutable_data_ptr<std::uint8_t>(), count, false);
  return codes;
}

}  // namespace einkorn::compute
