#include "einkorn/compute/kivi/quantizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <limits>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/kivi/cache_state_internal.h"
#include "einkorn/compute/kivi/group_quantizer_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"
#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einkorn/compute/kivi/kivi_cuda.h"
#endif

namespace einkorn::kivi {
namespace {

void check_format(int bits, int group) {
  require(bits == 1 || bits == 2 || bits == 3 || bits == 4 || bits == 8,
          "bits: expected 1, 2, 3, 4 or 8, got {}", bits);
  require(group == 32 || group == 64 || group == 128, "group: expected 32, 64 or 128, got {}",
          group);
}

void check_axis(std::int64_t axis, std::int64_t dimensions) {
  require(axis == -1 || axis == -2, "axis: expected -1 or -2, got {}", axis);
  require(dimensions >= -axis, "axis {}: expected at least {} dimensions, got {}", axis, -axis,
          dimensions);
}

bool is_floating(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 || type == at::kFloat;
}

std::vector<std::int64_t> with_last(at::IntArrayRef shape, std::int64_t size) {
  std::vector<std::int64_t> result = shape.vec();
  result.back() = size;
  return result;
}

// The size of the packed axis; throws unless the three tensors belong together.
std::int64_t packed_size(const PackedGroups& packed, int bits, int group) {
  check_format(bits, group);
  require_dense(packed.codes, "codes");
  require_dense(packed.scale, "scale");
  require_dense(packed.minimum, "minimum");
  require(packed.codes.scalar_type() == at::kInt, "codes: expected dtype int32, got {}",
          c10::toString(packed.codes.scalar_type()));
  require(packed.codes.dim() >= 1, "codes: expected at least one dimension");
  require(is_floating(packed.scale.scalar_type()) &&
              packed.minimum.scalar_type() == packed.scale.scalar_type(),
          "scale, minimum: expected the same floating dtype, got {} and {}",
          c10::toString(packed.scale.scalar_type()), c10::toString(packed.minimum.scalar_type()));
  require(packed.scale.device() == packed.codes.device() &&
              packed.minimum.device() == packed.codes.device(),
          "scale, minimum: expected them on {}", packed.codes.device().str());
  const std::int64_t words = packed.codes.size(-1);
  const std::int64_t size = words * 32 / bits;
  require(words * 32 % bits == 0 && size % group == 0,
          "codes: {} words of {} bits are no whole groups of {}", words, bits, group);
  const std::vector<std::int64_t> numbers = with_last(packed.codes.sizes(), size / group);
  require(packed.scale.sizes() == at::IntArrayRef(numbers) &&
              packed.minimum.sizes() == at::IntArrayRef(numbers),
          "scale, minimum: expected shape [{}], got [{}] and [{}]", fmt::join(numbers, ", "),
          fmt::join(packed.scale.sizes(), ", "), fmt::join(packed.minimum.sizes(), ", "));
  return size;
}

void quantize_on_cpu(const at::Tensor& x, int bits, int group, const PackedGroups& to) {
  const Element element = element_of(x.scalar_type());
  auto* bytes = static_cast<std::uint8_t*>(to.codes.mutable_data_ptr());
  const std::int64_t grain = 4096 / group;
  at::parallel_for(0, x.numel() / group, grain, [&](std::int64_t begin, std::int64_t end) {
    float numbers[128];
    std::uint8_t codes[128];
    for (std::int64_t index = begin; index < end; ++index) {
      float least = std::numeric_limits<float>::infinity();
      float most = -least;
      bool finite = true;
      for (int i = 0; i < group; ++i) {
        numbers[i] = load_number(element, x.const_data_ptr(), index * group + i);
        least = std::min(least, numbers[i]);
        most = std::max(most, numbers[i]);
        finite = finite && std::isfinite(numbers[i]);
      }
      const GroupScale found = group_scale(least, most, finite, bits, element);
      store_number(element, to.scale.mutable_data_ptr(), index, found.scale);
      store_number(element, to.minimum.mutable_data_ptr(), index, found.minimum);
      for (int i = 0; i < group; ++i) {
        codes[i] = static_cast<std::uint8_t>(group_code(numbers[i], found, bits));
      }
      compute::pack_bits(bits, group, codes, bytes + index * compute::packed_bytes(group, bits));
    }
  });
}

void dequantize_on_cpu(const PackedGroups& packed, int bits, int group, const at::Tensor& out) {
  const Element element = element_of(out.scalar_type());
  const auto* bytes = static_cast<const std::uint8_t*>(packed.codes.const_data_ptr());
  at::parallel_for(0, out.numel() / group, 4096 / group, [&](std::int64_t begin, std::int64_t end) {
    std::uint8_t codes[128];
    for (std::int64_t index = begin; index < end; ++index) {
      compute::unpack_bits(bits, group, bytes + index * compute::packed_bytes(group, bits), codes);
      const float scale = load_number(element, packed.scale.const_data_ptr(), index);
      const float minimum = load_number(element, packed.minimum.const_data_ptr(), index);
      // In double, where the product is exact: as the cache itself is read.
      for (int i = 0; i < group; ++i) {
        store_number(element, out.mutable_data_ptr(), index * group + i,
                     static_cast<float>(codes[i] * double{scale} + minimum));
      }
    }
  });
}

// Rows [a_rows][inner] times one packed matrix [inner][size]: columns of whole groups at a time, so
// that an output is summed by one thread, in order.
void multiply_on_cpu(const at::Tensor& a, const PackedGroups& packed, int bits, int group,
                     std::int64_t size, const at::Tensor& out) {
  const std::int64_t inner = a.size(-1);
  const std::int64_t rows = a.size(-2);
  const std::int64_t groups = size / group;
  const std::int64_t matrices = out.numel() / (rows * size);
  const auto* bytes = static_cast<const std::uint8_t*>(packed.codes.const_data_ptr());
  const at::Tensor scale = packed.scale.to(at::kFloat);
  const at::Tensor minimum = packed.minimum.to(at::kFloat);
  const float* scales = scale.const_data_ptr<float>();
  const float* minima = minimum.const_data_ptr<float>();
  const float* left = a.const_data_ptr<float>();
  auto* sums = out.mutable_data_ptr<float>();
  at::parallel_for(0, matrices * groups, 1, [&](std::int64_t begin, std::int64_t end) {
    std::uint8_t codes[128];
    float numbers[128];
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t matrix = item / groups;
      const std::int64_t column = item % groups;
      float* to = sums + matrix * rows * size + column * group;
      for (std::int64_t k = 0; k < inner; ++k) {
        const std::int64_t index = (matrix * inner + k) * groups + column;
        compute::unpack_bits(bits, group, bytes + index * compute::packed_bytes(group, bits),
                             codes);
        for (int i = 0; i < group; ++i) {
          numbers[i] = static_cast<float>(codes[i]) * scales[index] + minima[index];
        }
        for (std::int64_t row = 0; row < rows; ++row) {
          const float factor = left[(matrix * rows + row) * inner + k];
          for (int i = 0; i < group; ++i) to[row * size + i] += factor * numbers[i];
        }
      }
    }
  });
}

}  // namespace

PackedGroups quantize_pack(const at::Tensor& x, std::int64_t axis, int bits, int group) {
  check_format(bits, group);
  require_dense(x, "x");
  require(is_floating(x.scalar_type()), "x: expected float16, bfloat16 or float32, got {}",
          c10::toString(x.scalar_type()));
  check_axis(axis, x.dim());
  const at::Tensor rows = (axis == -2 ? x.transpose(-1, -2) : x).contiguous();
  const std::int64_t size = rows.size(-1);
  require(size % group == 0, "x: expected a multiple of group {} along axis {}, got {}", group,
          axis, size);
  PackedGroups to;
  to.codes = at::empty(with_last(rows.sizes(), size * bits / 32), rows.options().dtype(at::kInt));
  to.scale = at::empty(with_last(rows.sizes(), size / group), rows.options());
  to.minimum = at::empty_like(to.scale);
  if (rows.numel() == 0) return to;
  const auto numbers = static_cast<double>(rows.numel());
  const Trace trace(
      "kivi.quantize_pack", x.is_cuda() ? "cuda" : "plain",
      [&] { return fmt::format("[{}] {} bits", fmt::join(rows.sizes(), ", "), bits); },
      {6 * numbers, numbers * (static_cast<double>(x.element_size()) + bits / 8.0)},
      device_kind(x));
  if (x.is_cpu()) {
    quantize_on_cpu(rows, bits, group, to);
    return to;
  }
#if EINKORN_WITH_CUDA
  const c10::cuda::CUDAGuard guard(x.device());
  launch_quantize_pack(
      element_of(x.scalar_type()), rows.numel() / size, size, bits, group, rows.const_data_ptr(),
      static_cast<std::uint32_t*>(to.codes.mutable_data_ptr()), to.scale.mutable_data_ptr(),
      to.minimum.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream());
#endif
  return to;
}

at::Tensor unpack_dequantize(const PackedGroups& packed, std::int64_t axis, int bits, int group) {
  const std::int64_t size = packed_size(packed, bits, group);
  check_axis(axis, packed.codes.dim());
  const PackedGroups dense = {packed.codes.contiguous(), packed.scale.contiguous(),
                              packed.minimum.contiguous()};
  at::Tensor out = at::empty(with_last(dense.codes.sizes(), size), dense.scale.options());
  if (out.numel() > 0 && out.is_cpu()) dequantize_on_cpu(dense, bits, group, out);
#if EINKORN_WITH_CUDA
  if (out.numel() > 0 && out.is_cuda()) {
    const c10::cuda::CUDAGuard guard(out.device());
    launch_unpack_dequantize(element_of(out.scalar_type()), out.numel() / size, size, bits, group,
                             static_cast<const std::uint32_t*>(dense.codes.const_data_ptr()),
                             dense.scale.const_data_ptr(), dense.minimum.const_data_ptr(),
                             out.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream());
  }
#endif
  return axis == -2 ? out.transpose(-1, -2) : out;
}

at::Tensor qgemv_outer(const at::Tensor& a, const PackedGroups& packed, int bits, int group) {
  const std::int64_t size = packed_size(packed, bits, group);
  require_dense(a, "a");
  require(is_floating(a.scalar_type()), "a: expected float16, bfloat16 or float32, got {}",
          c10::toString(a.scalar_type()));
  require(a.device() == packed.codes.device(), "a: expected it on {}, got {}",
          packed.codes.device().str(), a.device().str());
  require(a.dim() >= 2 && a.dim() == packed.codes.dim() && a.size(-1) == packed.codes.size(-2) &&
              a.sizes().slice(0, static_cast<std::size_t>(a.dim() - 2)) ==
                  packed.codes.sizes().slice(0, static_cast<std::size_t>(a.dim() - 2)),
          "a: expected [..., M, {}] with the leading sizes of codes [{}], got [{}]",
          packed.codes.dim() >= 2 ? packed.codes.size(-2) : 0,
          fmt::join(packed.codes.sizes(), ", "), fmt::join(a.sizes(), ", "));
  if (a.is_cuda()) {
    // Dense matrix units make up for the unpacked copy unless M is small; attention over a cache
    // that is never unpacked is KiviCache::attend.
    const at::Tensor matrix = unpack_dequantize(packed, -1, bits, group);
    return at::matmul(a.to(at::kFloat), matrix.to(at::kFloat)).to(a.scalar_type());
  }
  const PackedGroups dense = {packed.codes.contiguous(), packed.scale.contiguous(),
                              packed.minimum.contiguous()};
  at::Tensor out = at::zeros(with_last(a.sizes(), size), a.options().dtype(at::kFloat));
  if (out.numel() > 0) {
    multiply_on_cpu(a.to(at::kFloat).contiguous(), dense, bits, group, size, out);
  }
  return out.to(a.scalar_type());
}

}  // namespace einkorn::kivi
