// The CPU kernel of the operator tilus_linear.
#pragma once

#include "einkorn/compute/tilus/quantized_linear.h"

namespace einkorn::tilus {

at::Tensor linear_on_cpu(const at::Tensor& x, const PreparedWeights& weights);

}  // namespace einkorn::tilus
