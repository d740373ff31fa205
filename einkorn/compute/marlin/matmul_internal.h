// What the public functions, the operators and the glue of devices share.
#pragma once

#include "einkorn/compute/marlin/marlin.h"

namespace einkorn::marlin {

// Prepared CPU weights back in the format of files; what was sparse stays dense.
QuantizedWeights restore(const PreparedWeights& prepared);

// activations [M, K] checked, without gradient -> [M, N].
at::Tensor multiply_cpu(const at::Tensor& activations, const PreparedWeights& weights,
                        Activations how);
at::Tensor multiply_cuda(const at::Tensor& activations, const PreparedWeights& weights);
at::Tensor dequantize_cuda(const PreparedWeights& weights, at::ScalarType dtype);

// Shapes and dtypes of prepared weights and activations; throws InvalidArgument.
void check_prepared(const PreparedWeights& weights);
void check_call(const at::Tensor& activations, const PreparedWeights& weights, Activations how);

}  // namespace einkorn::marlin
