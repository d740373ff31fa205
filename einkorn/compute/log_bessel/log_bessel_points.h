// What can be computed and the points to compute it at, without tensors.
#pragma once

#include <cstdint>

namespace einkorn::log_bessel {

// A function of the order v and the argument x.
enum class Quantity {
  log_i,               // log I_v(x)
  log_k,               // log K_v(x)
  log_i_scaled,        // log(e^-x I_v(x)), without forming log I
  log_k_scaled,        // log(e^x K_v(x))
  ratio_i,             // I_{v+1}(x) / I_v(x)
  ratio_i_complement,  // 1 - ratio_i, to full relative precision
  ratio_i_slope,       // d/dx ratio_i
  ratio_k,             // K_{v+1}(x) / K_v(x)
  slope_k_scaled,      // d/dx log(e^x K_v(x)) = 1 + v/x - ratio_k
};

// One-dimensional views of T = double or float; strides in elements, 0 repeats the first element.
// out may be v or x.
template <typename T>
struct Points {
  std::int64_t size = 0;
  const T* v = nullptr;
  std::int64_t v_stride = 1;
  const T* x = nullptr;
  std::int64_t x_stride = 1;
  T* out = nullptr;
  std::int64_t out_stride = 1;
};

}  // namespace einkorn::log_bessel
