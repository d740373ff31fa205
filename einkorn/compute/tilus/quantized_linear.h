// y = x W for quantised weights, without ever writing them out in full.
#pragma once

#include "einkorn/compute/tilus/quantized_weights.h"
#include "einkorn/core/tensor.h"

namespace einkorn::tilus {

// Weights in the order in which the CPU kernels read them (matmul_kernels.h).
struct PreparedWeights {
  NumberType type;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t group = 128;
  at::Tensor words;    // i32 [slabs, groups, blocks, bits, 16]
  at::Tensor scales;   // f32 [slabs, groups, 16]
  at::Tensor offsets;  // as scales, or undefined

  // Bytes that one product reads.
  std::int64_t bytes() const;
};

PreparedWeights prepare(const QuantizedWeights& weights);

// The weights as f32 [rows, columns] again.
at::Tensor dequantize(const PreparedWeights& weights);

// x [..., rows] (f32, f16 or bf16, CPU) times the weights: [..., columns] with x's dtype. Sums in
// f32; differentiable in x. The result does not depend on the number of threads. Throws
// InvalidArgument for other dtypes, devices and shapes. NaN and infinities in x go where they go in
// a dense product.
at::Tensor linear(const at::Tensor& x, const PreparedWeights& weights);

// A layer: weights are prepared once.
class QuantizedLinear {
 public:
  explicit QuantizedLinear(const QuantizedWeights& weights) : prepared_(prepare(weights)) {}

  // Quantises a matrix [out features, in features], as torch's Linear has it.
  static QuantizedLinear from_weight(const at::Tensor& weight, const QuantizeOptions& options);

  std::int64_t in_features() const { return prepared_.rows; }
  std::int64_t out_features() const { return prepared_.columns; }
  const PreparedWeights& weights() const { return prepared_; }

  at::Tensor forward(const at::Tensor& x) const { return linear(x, prepared_); }

 private:
  PreparedWeights prepared_;
};

}  // namespace einkorn::tilus
