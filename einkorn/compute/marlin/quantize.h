// Weights in the MARLIN format, how they are made from floating ones, and how they come and go as
// files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "einkorn/compute/marlin/format.h"
#include "einkorn/core/options.h"
#include "einkorn/core/progress.h"
#include "einkorn/core/tensor.h"

namespace einkorn::marlin {

// A quantised matrix W [K, N] = [inputs, outputs], as it is stored. All tensors are on one device.
struct QuantizedWeights {
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  int bits = 4;                   // 4 or 8
  std::int64_t group_size = 128;  // rows that share a scale: 32, 64, 128, or -1 for all

  at::Tensor words;        // i32, format.h: [ceil(K/16), 2 N] in 4 bits; sparse [ceil(K/32), 2 N]
  at::Tensor scales;       // f16 or bf16 [groups, N rounded up to 64], permuted as format.h says
  at::Tensor zero_points;  // u8 [groups, N], plain order; undefined: 2^(bits-1) everywhere
  at::Tensor metadata;     // i16, 2:4 sparse weights only
  at::Tensor order;        // i64 [K], act-order: row i of W multiplies input order[i]; undefined: i
  at::Tensor bias;         // f32 [N]; undefined: none

  bool is_sparse() const { return metadata.defined(); }
  std::int64_t groups() const;
  ScaleOrder scale_order() const;
  std::int64_t bytes() const;  // of all tensors
};

// Shapes, dtypes, devices and ranges; throws InvalidArgument that names the tensor.
void check(const QuantizedWeights& weights);

QuantizedWeights to_device(const QuantizedWeights& weights, at::Device device);

// Codes u8 [K, N] and scales [groups, N] in plain order.
at::Tensor codes_of(const QuantizedWeights& weights);
at::Tensor scales_of(const QuantizedWeights& weights);

// W [K, N] in the order of the inputs (act-order undone): (q - zero) * scale, rounded once to the
// dtype (f16, bf16, f32 or f64).
at::Tensor dequantize(const QuantizedWeights& weights, at::ScalarType dtype);

// From codes u8 [K, N] and scales f16 or bf16 [groups, N] in plain order; zero points u8
// [groups, N], order i64 [K]. Throws InvalidArgument.
QuantizedWeights from_codes(const at::Tensor& codes, const at::Tensor& scales, int bits,
                            std::int64_t group_size,
                            const std::optional<at::Tensor>& zero_points = std::nullopt,
                            const std::optional<at::Tensor>& order = std::nullopt,
                            const std::optional<at::Tensor>& keep_2_4 = std::nullopt);

// ---- quantisers ----

struct QuantizeOptions {
  int bits = 4;
  std::int64_t group_size = 128;  // 32, 64, 128, -1
  bool symmetric = true;          // else a zero point for each scale
  bool sparse_2_4 = false;        // prune to the two largest of four first; symmetric only
  bool clip_search = false;       // try ranges of 100, 99, ... 25 % and keep the one of least error
  at::ScalarType scale_dtype = at::kHalf;  // or kBFloat16
  // GPTQ only:
  double damping = 0.1;    // times the mean of the Hessian's diagonal, > 0
  bool act_order = false;  // rows by falling diagonal of the Hessian
};

// Each weight to its nearest code; scale 2 max|w| / (2^bits - 1) of its group, or with zero points
// (max - min) / (2^bits - 1) with 0 in the range. weights [K, N] floating. Groups of zeros get
// scale
// 1. Throws InvalidArgument for weights that are not finite, scales beyond the dtype, options
// outside their range.
QuantizedWeights quantize_rtn(const at::Tensor& weights, const QuantizeOptions& options = {});

// GPTQ: rows in turn, the error of each spread over the rows to come by the inverse Hessian H =
// (2/n) sum x x'. calibration: inputs [n, K], n >= 1. Clip search (on unless clip_search is false)
// weighs errors with the Hessian of the group. A Hessian that cannot be factored, after damping,
// leaves rounding to nearest, as in the official code.
struct GptqResult {
  QuantizedWeights weights;
  double loss = 0;       // sum (w - q)^2 / U_ii^2 / 2
  bool factored = true;  // false where the Hessian was not positive definite
};
GptqResult gptq_quantize(const at::Tensor& weights, const at::Tensor& calibration,
                         const QuantizeOptions& options = {}, const Progress& progress = {});
// The same from H [K, K], symmetric, f64 or f32.
GptqResult gptq_quantize_hessian(const at::Tensor& weights, const at::Tensor& hessian,
                                 const QuantizeOptions& options = {},
                                 const Progress& progress = {});

// ||W - dequantised|| / ||W||, Frobenius; 0 for W = 0.
double relative_error(const at::Tensor& weights, const QuantizedWeights& quantized);

// ---- other formats ----

// AutoGPTQ: qweight i32 [K*bits/32, N], rows of consecutive k; qzeros i32 [groups, N*bits/32], zero
// minus one (zero_offset 1; GPTQ v2: 0); scales [groups, N]; g_idx [K], the group of each row.
// All zeros at 2^(bits-1) become symmetric weights; a g_idx that is not k / group becomes `order`.
QuantizedWeights from_gptq(const at::Tensor& qweight, const at::Tensor& qzeros,
                           const at::Tensor& scales, const std::optional<at::Tensor>& g_idx,
                           int bits = 4, int zero_offset = 1);

// AutoAWQ: qweight i32 [K, N/8], nibbles in column order 0,2,4,6,1,3,5,7; qzeros i32 [groups, N/8];
// scales [groups, N]. 4 bits.
QuantizedWeights from_awq(const at::Tensor& qweight, const at::Tensor& qzeros,
                          const at::Tensor& scales);

// The official layer's tensors: B i32 [K/16, 2 N] and s f16 [groups, N] in permuted order (groups
// of K/groups rows, one group: per column). N must be a multiple of 64.
QuantizedWeights from_official(const at::Tensor& B, const at::Tensor& s, int bits = 4);
// The sparse layer's: B i32 [K/32, 2 N], meta i16 [N, K/16]; groups count rows of the pruned
// matrix.
QuantizedWeights from_official_2_4(const at::Tensor& B, const at::Tensor& meta, const at::Tensor& s,
                                   int bits = 4);

// ---- files ----

// Safetensors with tensors B, s and where there are any zero_points, meta, order, bias, under names
// that begin with `prefix`; the sizes stand in the metadata "einkorn.marlin". Throws BadFile (one
// line: file, tensor, what was expected).
void save(const OutputPath& path, const QuantizedWeights& weights, const std::string& prefix = "");
QuantizedWeights load(const std::filesystem::path& path, const std::string& prefix = "");

}  // namespace einkorn::marlin
