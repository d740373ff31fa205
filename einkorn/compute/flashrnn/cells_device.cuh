// One unit's step on the device, forward and back, after the products with R; and the types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "einkorn/compute/flashrnn/recurrence_cuda.h"

namespace einkorn::flashrnn {

template <typename T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline float widened(float x) {
  return x;
}
__device__ inline double widened(double x) {
  return x;
}
__device__ inline float widened(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline float widened(__half x) {
  return __half2float(x);
}

template <typename T>
__device__ inline T narrowed(SumOf<T> x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return x;
  }
}

// e^x for x <= 0.
__device__ inline float exp_of_negative(float x) {
  return __expf(x);
}
__device__ inline double exp_of_negative(double x) {
  return exp(x);
}
__device__ inline float quotient(float a, float b) {
  return __fdividef(a, b);
}
__device__ inline double quotient(double a, double b) {
  return a / b;
}
__device__ inline float log_one_plus(float x) {
  return log1pf(x);
}
__device__ inline double log_one_plus(double x) {
  return log1p(x);
}

template <typename A>
__device__ inline A smaller(A a, A b) {
  return b < a ? b : a;
}  // a if either is NaN
template <typename A>
__device__ inline A larger(A a, A b) {
  return b > a ? b : a;
}

template <typename A>
__device__ inline A logistic(A x) {
  const A e = exp_of_negative(-(x < 0 ? -x : x));
  return quotient(x > 0 ? A(1) : e, 1 + e);
}
template <typename A>
__device__ inline A hyperbolic_tangent(A x) {
  const A e = exp_of_negative(-2 * (x < 0 ? -x : x));
  const A magnitude = quotient(1 - e, 1 + e);
  return x < 0 ? -magnitude : magnitude;
}
template <typename A>
__device__ inline A log_logistic(A x) {
  return smaller(x, A(0)) - log_one_plus(exp_of_negative(-(x < 0 ? -x : x)));
}
template <typename A>
__device__ inline A clipped(A x, A bound) {
  return x > bound ? bound : x < -bound ? -bound : x;
}
template <typename A>
__device__ inline A through_clip(A gradient, A h, A bound) {
  return h > bound || h < -bound ? A(0) : gradient;
}

template <Cell cell, typename A>
struct UnitStep;

template <typename A>
struct UnitStep<Cell::elman, A> {
  __device__ static void forward(const A* w, const A* y, const A* b, const A*, A* states,
                                 A* gates) {
    gates[0] = states[0] = hyperbolic_tangent(w[0] + y[0] + b[0]);
  }
  __device__ static void backward(const A* d, const A* gates, const A*, const A*, A bound, A* input,
                                  A*, A* carry) {
    const A h = gates[0];
    input[0] = through_clip(d[0], h, bound) * (1 - h * h);
    carry[0] = 0;
  }
};

template <typename A>
struct UnitStep<Cell::gru, A> {
  __device__ static void forward(const A* w, const A* y, const A* b, const A* previous, A* states,
                                 A* gates) {
    const A g = y[0] + b[0];
    const A r = logistic(w[0] + y[1] + b[1]);
    const A z = logistic(w[1] + y[2] + b[2]);
    const A n = hyperbolic_tangent(w[2] + b[3] + r * g);
    states[0] = z * previous[0] + (1 - z) * n;
    gates[0] = g;
    gates[1] = r;
    gates[2] = z;
    gates[3] = n;
  }
  __device__ static void backward(const A* d, const A* gates, const A*, const A* previous, A bound,
                                  A* input, A* recurrent, A* carry) {
    const A g = gates[0], r = gates[1], z = gates[2], n = gates[3];
    const A dh = through_clip(d[0], z * previous[0] + (1 - z) * n, bound);
    const A dn = dh * (1 - z) * (1 - n * n);
    const A dz = dh * (previous[0] - n) * z * (1 - z);
    const A dr = dn * g * r * (1 - r);
    input[0] = dr;
    input[1] = dz;
    input[2] = dn;
    recurrent[0] = dn * r;
    recurrent[1] = dr;
    recurrent[2] = dz;
    carry[0] = dh * z;
  }
};

template <typename A>
struct UnitStep<Cell::lstm, A> {
  __device__ static void forward(const A* w, const A* y, const A* b, const A* previous, A* states,
                                 A* gates) {
    const A i = logistic(w[0] + y[0] + b[0]);
    const A f = logistic(w[1] + y[1] + b[1]);
    const A z = hyperbolic_tangent(w[2] + y[2] + b[2]);
    const A o = logistic(w[3] + y[3] + b[3]);
    states[1] = f * previous[1] + i * z;
    states[0] = o * hyperbolic_tangent(states[1]);
    gates[0] = i;
    gates[1] = f;
    gates[2] = z;
    gates[3] = o;
  }
  __device__ static void backward(const A* d, const A* gates, const A* states, const A* previous,
                                  A bound, A* input, A*, A* carry) {
    const A i = gates[0], f = gates[1], z = gates[2], o = gates[3];
    const A tanh_c = hyperbolic_tangent(states[1]);
    const A dh = through_clip(d[0], o * tanh_c, bound);
    const A dc = d[1] + dh * o * (1 - tanh_c * tanh_c);
    input[0] = dc * z * i * (1 - i);
    input[1] = dc * previous[1] * f * (1 - f);
    input[2] = dc * i * (1 - z * z);
    input[3] = dh * tanh_c * o * (1 - o);
    carry[0] = 0;
    carry[1] = dc * f;
  }
};

template <typename A>
struct UnitStep<Cell::slstm, A> {
  __device__ static void forward(const A* w, const A* y, const A* b, const A* previous, A* states,
                                 A* gates) {
    const A raw_i = w[0] + y[0] + b[0];
    const A raw_f = w[1] + y[1] + b[1];
    const A from_memory = log_logistic(raw_f) + previous[3];
    const A m = previous[2] == 0 ? raw_i : larger(raw_i, from_memory);
    const A i = exp_of_negative(smaller(raw_i - m, A(0)));
    const A f = exp_of_negative(smaller(from_memory - m, A(0)));
    const A z = hyperbolic_tangent(w[2] + y[2] + b[2]);
    const A o = logistic(w[3] + y[3] + b[3]);
    states[1] = f * previous[1] + i * z;
    states[2] = larger(f * previous[2] + i, A(1));
    states[0] = o * states[1] / states[2];
    states[3] = m;
    gates[0] = i;
    gates[1] = f;
    gates[2] = z;
    gates[3] = o;
    gates[4] = logistic(-raw_f);
  }
  __device__ static void backward(const A* d, const A* gates, const A* states, const A* previous,
                                  A bound, A* input, A*, A* carry) {
    const A i = gates[0], f = gates[1], z = gates[2], o = gates[3];
    const A of_n = quotient(A(1), states[2]);
    const A h = o * states[1] * of_n;
    const A dh = through_clip(d[0], h, bound);
    const A dc = d[1] + dh * o * of_n;
    const A dn = d[2] - dh * h * of_n;
    input[0] = i * (z * dc + dn);
    input[1] = f * (dc * previous[1] + dn * previous[2]) * gates[4];
    input[2] = dc * i * (1 - z * z);
    input[3] = dh * h * (1 - o);
    carry[0] = 0;
    carry[1] = f * dc;
    carry[2] = f * dn;
    carry[3] = 0;
  }
};

// Where a row's step lies in time, and whether the row still runs.
struct RowClock {
  int length;
  bool reverse;

  __device__ RowClock(const DeviceSequence& q, int row)
      : length(q.lengths && row < q.batch ? static_cast<int>(q.lengths[row]) : q.time),
        reverse(q.reverse) {}
  __device__ bool runs(int step) const { return step < length; }
  __device__ int position(int step) const {
    return reverse && step < length ? length - 1 - step : step;
  }
};

// Element offsets in the dense tensors.
__device__ inline std::int64_t state_offset(const DeviceSequence& q, int s, int row, int time,
                                            int head, int unit) {
  return (((static_cast<std::int64_t>(s) * q.batch + row) * q.time + time) * q.heads + head) *
             q.dim +
         unit;
}
__device__ inline std::int64_t boundary_offset(const DeviceSequence& q, int s, int row, int head,
                                               int unit) {
  return ((static_cast<std::int64_t>(s) * q.batch + row) * q.heads + head) * q.dim + unit;
}
__device__ inline std::int64_t gate_offset(const DeviceSequence& q, int gates, int row, int time,
                                           int g, int head, int unit) {
  return (((static_cast<std::int64_t>(row) * q.time + time) * gates + g) * q.heads + head) * q.dim +
         unit;
}

// States are stored in T, or in the type of sums.
template <typename T>
__device__ inline SumOf<T> load_state(const void* states, bool wide, std::int64_t offset) {
  return wide ? static_cast<const SumOf<T>*>(states)[offset]
              : widened(static_cast<const T*>(states)[offset]);
}
template <typename T>
__device__ inline void store_state(void* states, bool wide, std::int64_t offset, SumOf<T> value) {
  if (wide) {
    static_cast<SumOf<T>*>(states)[offset] = value;
  } else {
    static_cast<T*>(states)[offset] = narrowed<T>(value);
  }
}

// Calls run<cell>() for the cell named at run time.
template <typename Run>
void with_cell(Cell cell, const Run& run) {
  switch (cell) {
    case Cell::lstm:
      return run(std::integral_constant<Cell, Cell::lstm>());
    case Cell::gru:
      return run(std::integral_constant<Cell, Cell::gru>());
    case Cell::elman:
      return run(std::integral_constant<Cell, Cell::elman>());
    case Cell::slstm:
      return run(std::integral_constant<Cell, Cell::slstm>());
  }
}

}  // namespace einkorn::flashrnn
