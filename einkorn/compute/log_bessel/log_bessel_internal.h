// What the operators, the scalar functions and the von Mises-Fisher distribution share.
#pragma once

#include <optional>

#include "einkorn/compute/log_bessel/log_bessel.h"

namespace einkorn::log_bessel {

// Without gradients. Broadcast, promoted and checked as log_bessel.h says.
at::Tensor compute(Quantity quantity, const at::Tensor& v, const at::Tensor& x,
                   SwitchingTable table);

// d/dv log I_v(x) and d/dv log K_v(x). On CUDA tensors by way of the CPU.
at::Tensor compute_order_derivative(bool of_k, const at::Tensor& v, const at::Tensor& x);

// The x with I_{v+1}(x)/I_v(x) = ratio. On CUDA tensors by way of the CPU.
at::Tensor compute_ratio_inverse(const at::Tensor& v, const at::Tensor& ratio);

// Operators with gradients that have no public name of their own.
at::Tensor order_derivative(bool of_k, const at::Tensor& v, const at::Tensor& x);
at::Tensor log_kve_slope(const at::Tensor& v, const at::Tensor& x);

}  // namespace einkorn::log_bessel
