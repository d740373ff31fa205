// torch.ops.einkorn.kivi_quantize_pack and its kin, for models that are traced or compiled.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "einkorn/compute/kivi/quantizer.h"

namespace einkorn::kivi {
namespace {

using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Three quantize_pack_op(const at::Tensor& x, std::int64_t axis, std::int64_t bits,
                       std::int64_t group) {
  PackedGroups packed = quantize_pack(x, axis, static_cast<int>(bits), static_cast<int>(group));
  return {packed.codes, packed.scale, packed.minimum};
}

at::Tensor unpack_dequantize_op(const at::Tensor& codes, const at::Tensor& scale,
                                const at::Tensor& minimum, std::int64_t axis, std::int64_t bits,
                                std::int64_t group) {
  return unpack_dequantize({codes, scale, minimum}, axis, static_cast<int>(bits),
                           static_cast<int>(group));
}

at::Tensor qgemv_outer_op(const at::Tensor& a, const at::Tensor& codes, const at::Tensor& scale,
                          const at::Tensor& minimum, std::int64_t bits, std::int64_t group) {
  return qgemv_outer(a, {codes, scale, minimum}, static_cast<int>(bits), static_cast<int>(group));
}

Three quantize_pack_meta(const at::Tensor& x, std::int64_t axis, std::int64_t bits,
                         std::int64_t group) {
  const at::Tensor rows = axis == -2 ? x.transpose(-1, -2) : x;
  std::vector<c10::SymInt> shape = rows.sym_sizes().vec();
  const c10::SymInt size = shape.back();
  shape.back() = size * bits / 32;
  const at::Tensor codes = at::empty_symint(shape, x.options().dtype(at::kInt));
  shape.back() = size / group;
  return {codes, at::empty_symint(shape, x.options()), at::empty_symint(shape, x.options())};
}

at::Tensor unpack_dequantize_meta(const at::Tensor& codes, const at::Tensor& scale,
                                  const at::Tensor& /*minimum*/, std::int64_t axis,
                                  std::int64_t bits, std::int64_t /*group*/) {
  std::vector<c10::SymInt> shape = codes.sym_sizes().vec();
  shape.back() = shape.back() * 32 / bits;
  const at::Tensor out = at::empty_symint(shape, scale.options());
  return axis == -2 ? out.transpose(-1, -2) : out;
}

at::Tensor qgemv_outer_meta(const at::Tensor& a, const at::Tensor& codes,
                            const at::Tensor& /*scale*/, const at::Tensor& /*minimum*/,
                            std::int64_t bits, std::int64_t /*group*/) {
  std::vector<c10::SymInt> shape = a.sym_sizes().vec();
  shape.back() = codes.sym_size(-1) * 32 / bits;
  return at::empty_symint(shape, a.options());
}

void implement(torch::Library& m) {
  m.impl("kivi_quantize_pack", &quantize_pack_op);
  m.impl("kivi_unpack_dequantize", &unpack_dequantize_op);
  m.impl("kivi_qgemv_outer", &qgemv_outer_op);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(einkorn, m) {
  m.def("kivi_quantize_pack(Tensor x, int axis, int bits, int group) -> (Tensor, Tensor, Tensor)");
  m.def(
      "kivi_unpack_dequantize(Tensor codes, Tensor scale, Tensor minimum, int axis, int bits, "
      "int group) -> Tensor");
  m.def(
      "kivi_qgemv_outer(Tensor a, Tensor codes, Tensor scale, Tensor minimum, int bits, "
      "int group) -> Tensor");
}

TORCH_LIBRARY_IMPL(einkorn, CPU, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(einkorn, CUDA, m) {
  implement(m);
}

TORCH_LIBRARY_IMPL(einkorn, Meta, m) {
  m.impl("kivi_quantize_pack", &quantize_pack_meta);
  m.impl("kivi_unpack_dequantize", &unpack_dequantize_meta);
  m.impl("kivi_qgemv_outer", &qgemv_outer_meta);
}

// Rounding has no derivative: backward through these says so.
TORCH_LIBRARY_IMPL(einkorn, Autograd, m) {
  for (const char* name : {"kivi_quantize_pack", "kivi_unpack_dequantize", "kivi_qgemv_outer"}) {
    m.impl(name, torch::autograd::autogradNotImplementedFallback());
  }
}

}  // namespace einkorn::kivi
