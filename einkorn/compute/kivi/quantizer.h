// The group quantiser of KIVI on whole tensors, in the published packing.
#pragma once

#include <cstdint>

#include "einkorn/core/tensor.h"

namespace einkorn::kivi {

// Codes of groups of numbers along one axis, with x ~ code * scale + minimum.
struct PackedGroups {
  at::Tensor codes;    // i32 [..., size * bits / 32]
  at::Tensor scale;    // dtype of x, [..., size / group]
  at::Tensor minimum;  // likewise
};

// Quantises each group of `group` consecutive numbers of x along `axis` to 2^bits levels between
// its minimum and maximum: scale = (max - min) / (2^bits - 1), rounded to x's dtype; code =
// round-half-even(clamp((x - min) / scale, 0, 2^bits - 1)), 0 where scale is 0 (section 3.1 of the
// paper; its code has no guard there).
//
// axis -1 groups the last axis (values: a token's channels); axis -2 the one before, which is moved
// to the end first (keys [b, h, T, D] -> codes [b, h, D, T * bits / 32]). Codes are packed without
// gaps in little-endian order, so for 1, 2, 4 and 8 bits code j of a word is bits [j bits,
// (j + 1) bits), as in the official repository; 3 bits straddle words.
//
// x: f16, bf16 or f32, any strides, CPU or CUDA. bits 1, 2, 3, 4, 8; group 32, 64 or 128, a divisor
// of the axis. A group with a NaN or an infinity has scale and minimum NaN and codes 0; a range
// wider than the dtype's greatest number times (2^bits - 1) saturates. Throws InvalidArgument.
PackedGroups quantize_pack(const at::Tensor& x, std::int64_t axis, int bits, int group);

// code * scale + minimum in the dtype of scale, computed in f32: [..., size]. With axis -2 the
// packed axis is moved back, so that the result has the shape of quantize_pack's x.
at::Tensor unpack_dequantize(const PackedGroups& packed, std::int64_t axis, int bits, int group);

// a [..., M, IC] times the dequantised matrix [..., IC, OC] that is packed along OC: scores of
// keys (IC = channels, OC = tokens) or outputs of values (IC = tokens, OC = channels), in the dtype
// of a, summed in f32; leading dimensions must be those of codes (official `qgemv`, any M).
at::Tensor qgemv_outer(const at::Tensor& a, const PackedGroups& packed, int bits, int group);

}  // namespace einkorn::kivi
