// Device kernels of log-bessel: raw pointers in, raw pointers out.
#pragma once

#include <cstdint>

namespace einkorn::log_bessel {

enum class CudaFunction {
  log_i,
  log_k,
  log_ie,
  log_ke,
  ratio_i,
  ratio_i_complement,  // 1 - ratio_i
  ratio_i_slope,       // d/dx ratio_i
  ratio_k,
  slope_ke  // d/dx log_ke
};

// Which expansion serves a point. `uniform`: the uniform expansion in 1/hypot(v, x) with as many
// terms as a double (or float) needs, and for small hypot(v, x) the power series for I, Temme's
// series (x <= 1) or the trapezoid rule for K. `paper`: the seven rows of the paper's table. `gpu`:
// its three rows for GPUs (20 terms in 1/x, 13 terms in 1/v, fallback). Ratios and slopes know only
// `uniform`.
enum class CudaTable { uniform, paper, gpu };

// out[i] = function(order[i * order_stride], argument[i * argument_stride]) for 0 <= i < count.
// Strides are in elements; 0 repeats one value. out may be order or argument where their stride
// is 1. The result for a point depends on that point alone, bit for bit. float is computed in
// double and rounded once.
//
// Domain: order >= 0 and argument >= 0, any magnitude. log K takes |order|, log I takes |order| for
// negative integers; other negative orders, negative arguments and NaN give NaN. Argument 0: log I
// is 0 (order 0) or -inf, log K is +inf. Throws std::runtime_error when the launch is refused.
void launch_log_bessel(CudaFunction function, CudaTable table, std::int64_t count,
                       const double* order, std::int64_t order_stride, const double* argument,
                       std::int64_t argument_stride, double* out, void* stream);
void launch_log_bessel(CudaFunction function, CudaTable table, std::int64_t count,
                       const float* order, std::int64_t order_stride, const float* argument,
                       std::int64_t argument_stride, float* out, void* stream);

}  // namespace einkorn::log_bessel
