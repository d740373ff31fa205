// Logarithms of the modified Bessel functions I_v(x) and K_v(x) of real order, where the functions
// themselves overflow or underflow, and the ratios and derivatives that statistics needs.
//
// Plesner, Sorensen, Hauberg, "Accurate Computation of the Logarithm of Modified Bessel Functions
// on GPUs", ICS 2024, arXiv 2409.08729. The default method differs from the published one: its
// uniform expansion is that of the logarithm, written in s = sqrt(v^2 + x^2), which needs no lower
// bound on v; and K near the origin is Temme's series or the trapezoid rule with forward
// recurrence.
//
// Domain: v in [0, 1e8], x in [0, 1e12] (arguments far beyond give correct limits). Error: below
// 1e-13 of max(1, |result|), and below 4 ulp of it for 99.9 % of points; ratios below 1.6e-15
// relative. Outside the domain the result is NaN, never an exception: NaN, x < 0, v < 0. But K_{-v}
// = K_v, and I_{-n} = I_n for integers. At x = 0: log I = 0 for v = 0, else -inf; log K = +inf.
#pragma once

#include <string>

#include "einkorn/compute/log_bessel/log_bessel_points.h"
#include "einkorn/core/tensor.h"

namespace einkorn::log_bessel {

// ---- one point ----

double log_iv(double v, double x);
double log_kv(double v, double x);
double log_ive(double v, double x);      // log(e^-x I_v(x))
double log_kve(double v, double x);      // log(e^x K_v(x))
double iv_ratio(double v, double x);     // I_{v+1}(x) / I_v(x), in [0, 1]
double iv_ratio_c(double v, double x);   // 1 - iv_ratio
double iv_ratio_dx(double v, double x);  // d/dx iv_ratio, in (0, 1/2]
double kv_ratio(double v, double x);     // K_{v+1}(x) / K_v(x), >= 1

// The x with I_{v+1}(x) / I_v(x) = ratio; v >= 0, ratio in [0, 1) (1 gives +inf, others NaN).
double iv_ratio_inv(double v, double ratio);

// Derivatives in x and in the order v.
double log_iv_dx(double v, double x);
double log_kv_dx(double v, double x);
double log_iv_dv(double v, double x);
double log_kv_dv(double v, double x);

// log |I_v(x)| and the sign of I_v(x) for any real v, x > 0: for negative v that are no integers
// I_v = I_{-v} - (2/pi) sin(pi v) K_{-v} (DLMF 10.27.2).
struct SignedLog {
  double log_abs = 0;
  int sign = 1;
};
SignedLog signed_log_iv(double v, double x);

// ---- many points ----

// Which expansion serves a point.
enum class SwitchingTable {
  standard,  // "default": the method described above
  paper,     // "paper": the published switching table, series and integral, in plain double
  gpu3,      // "gpu3": the three rows that the paper keeps on GPUs
};
std::string to_string(SwitchingTable table);
SwitchingTable parse_switching_table(const std::string& name);  // throws InvalidArgument

// On all of torch's threads. SwitchingTable other than standard: only for the four logarithms.
void evaluate(Quantity quantity, const Points<double>& points,
              SwitchingTable table = SwitchingTable::standard);
void evaluate(Quantity quantity, const Points<float>& points,
              SwitchingTable table = SwitchingTable::standard);

// Tensors of any shapes that broadcast, f64 or f32 (or integers, which become the default dtype),
// on one device; a 0-dimensional tensor may be on the CPU. The result has the promoted dtype; f32
// is computed in f64 throughout. Differentiable in x (twice) and in v. Throws InvalidArgument for
// other dtypes or devices, and shapes that do not broadcast.
at::Tensor log_iv(const at::Tensor& v, const at::Tensor& x,
                  SwitchingTable table = SwitchingTable::standard);
at::Tensor log_kv(const at::Tensor& v, const at::Tensor& x,
                  SwitchingTable table = SwitchingTable::standard);
at::Tensor log_ive(const at::Tensor& v, const at::Tensor& x,
                   SwitchingTable table = SwitchingTable::standard);
at::Tensor log_kve(const at::Tensor& v, const at::Tensor& x,
                   SwitchingTable table = SwitchingTable::standard);
at::Tensor iv_ratio(const at::Tensor& v, const at::Tensor& x);
at::Tensor iv_ratio_c(const at::Tensor& v, const at::Tensor& x);
at::Tensor iv_ratio_dx(const at::Tensor& v, const at::Tensor& x);
at::Tensor kv_ratio(const at::Tensor& v, const at::Tensor& x);
at::Tensor iv_ratio_inv(const at::Tensor& v, const at::Tensor& ratio);

// The same into a tensor of the right shape and dtype, without gradients.
at::Tensor& evaluate_out(at::Tensor& out, Quantity quantity, const at::Tensor& v,
                         const at::Tensor& x, SwitchingTable table = SwitchingTable::standard);

}  // namespace einkorn::log_bessel
