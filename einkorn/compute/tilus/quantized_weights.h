// Weights of 1 to 8 bits with one scale (and, for unsigned types, one offset) a group.
#pragma once

#include <filesystem>

#include "einkorn/compute/tilus/number_type.h"
#include "einkorn/core/tensor.h"

namespace einkorn::tilus {

// The weights of y = x W with W [rows, columns] = [in features, out features]:
//   W[k, n] = scales[k / group, n] * number(k, n) + offsets[k / group, n]
struct QuantizedWeights {
  NumberType type;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t group = 128;
  at::Tensor packed;   // u8 [ceil(rows columns bits / 8)]: codes, row-major, bit-contiguous
  at::Tensor scales;   // f16, bf16 or f32 [rows / group, columns]
  at::Tensor offsets;  // as scales; undefined where the type is signed

  bool has_offsets() const { return offsets.defined(); }

  // Throws InvalidArgument unless shapes, dtypes and the number of bytes fit together, everything
  // is on the CPU, and no code stands for NaN or an infinity.
  void check() const;
};

struct QuantizeOptions {
  NumberType type;
  std::int64_t group = 128;  // consecutive inputs that share a scale; 0: all of them
  at::ScalarType scale_type = at::kHalf;
};

// Quantises a matrix [out features, in features] (f32, f64, f16 or bf16, CPU; as torch's Linear has
// it). Signed types: scale = max(max |w| / type.max_value(), 1e-6), rounded to scale_type, and each
// weight the nearest number. Unsigned types: offset = the least weight, scale = range / (2^N - 1);
// u1: offset = mean - d, scale = 2 d with d = mean |w - mean|. Throws InvalidArgument for weights
// that are not finite and for groups that do not divide the inputs.
QuantizedWeights quantize(const at::Tensor& weight, const QuantizeOptions& options);

// The weights as f32 [rows, columns].
at::Tensor dequantize(const QuantizedWeights& weights);

// |W - W'| / |W| (Frobenius) of the weights against the matrix [out features, in features].
double relative_error(const QuantizedWeights& weights, const at::Tensor& weight);

// A safetensors file with the tensors "packed", "scales" and perhaps "offsets", and the metadata
// format = "einkorn.tilus", type, rows, columns, group. read_weights throws BadFile for anything
// else.
void write_weights(const OutputPath& path, const QuantizedWeights& weights);
QuantizedWeights read_weights(const std::filesystem::path& path);

}  // namespace einkorn::tilus
