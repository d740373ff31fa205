// Raw kernels of the logarithms of modified Bessel functions.
#pragma once

#include "einkorn/compute/log_bessel/log_bessel_points.h"
#include "einkorn/core/isa.h"

namespace einkorn::log_bessel {

template <typename T>
using Kernel = void(Quantity, const Points<T>&);

// The default method on a range of points, on one thread.
extern const KernelTable<Kernel<double>*> kernels_f64;
extern const KernelTable<Kernel<float>*> kernels_f32;

// One point by the plain reference: readable scalar code in double, of the same accuracy. Also
// serves the points outside the range of the vector kernels: NaN, negative, zero, infinite or
// beyond 2^400.
double reference(Quantity quantity, double v, double x);

// The published method: its switching table and its fall-backs, for the four logarithms alone.
enum class PaperTable {
  full,   // all seven rows
  three,  // the rows that the paper keeps on GPUs: mu_20, U_13, fall-back
};
double paper(PaperTable table, Quantity quantity, double v, double x);

// d/dv log I_v(x) and d/dv log K_v(x), v >= 0, in plain double.
double log_i_order_derivative(double v, double x);
double log_k_order_derivative(double v, double x);

}  // namespace einkorn::log_bessel
