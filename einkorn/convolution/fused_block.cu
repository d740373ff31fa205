// Bias with GELU, and layer scale with the residual sum.
#include "einkorn/convolution/fused_block_cuda.h"
#include "einkorn/convolution/fused_rows_device.cuh"

namespace einkorn::convolution {
namespace {

struct Normal {
  float distribution;  // Phi(x)
  float density;       // phi(x)
};

__device__ inline float hardware_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float hardware_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Phi and phi from one exponential: erfc(z) = t (a1 + t (a2 + ...)) exp(-z^2), t = 1/(1 + p z),
// with |error| <= 1.5e-7 (Abramowitz and Stegun 7.1.26, the a halved here), for 16-bit results.
__device__ inline Normal short_normal(float x) {
  constexpr float half_log2_e = 0.72134752044448170368f;
  constexpr float inverse_root_two_pi = 0.39894228040143267794f;
  constexpr float inverse_root_two = 0.70710678118654752440f;
  const float gaussian = hardware_exp2(x * (x * -half_log2_e));  // exp(-x^2 / 2)
  const float t = hardware_reciprocal(fmaf(0.3275911f * inverse_root_two, fabsf(x), 1.0f));
  const float series = fmaf(
      t, fmaf(t, fmaf(t, fmaf(t, 0.5307027145f, -0.7265760135f), 0.7107068705f), -0.142248368f),
      0.127414796f);
  const float tail = t * gaussian * series;  // Phi(-|x|)
  return {x < 0 ? tail : 1.0f - tail, inverse_root_two_pi * gaussian};
}

template <typename T>
__device__ inline Normal normal(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return {normcdff(x), 0.39894228040143267794f * expf(-0.5f * x * x)};
  } else {
    return short_normal(x);
  }
}

template <int kPack>
__device__ inline Floats<kPack> parameters_of(const float* parameters, const RowPlace& place) {
  Floats<kPack> values;
  if (!place.active || parameters == nullptr) return values;
#pragma unroll
  for (int c = 0; c < kPack; ++c) values[c] = parameters[place.channel + c];
  return values;
}

template <typename T, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    bias_gelu_forward(RowGrid grid, const T* x, const float* bias, T* y) {
  const RowPlace place = row_place<kPack>(grid);
  const Floats<kPack> biases = parameters_of<kPack>(bias, place);
  for_each_row<kPack, 4>(grid, place, {x}, [&](std::int64_t row, const Floats<kPack>(&in)[1]) {
    Floats<kPack> out;
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      const float value = in[0][c] + biases[c];
      out[c] = value * normal<T>(value).distribution;
    }
    store_pack<kPack>(y + row * grid.channels + place.channel, out);
  });
}

template <typename T, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    bias_gelu_backward(RowGrid grid, const T* x, const float* bias, const T* dy, T* dx,
                       float* partial_sums) {
  const RowPlace place = row_place<kPack>(grid);
  const Floats<kPack> biases = parameters_of<kPack>(bias, place);
  Floats<kPack> sums[1];
  for_each_row<kPack, 4>(grid, place, {x, dy}, [&](std::int64_t row, const Floats<kPack>(&in)[2]) {
    Floats<kPack> out;
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      const float value = in[0][c] + biases[c];
      const Normal at = normal<T>(value);
      out[c] = in[1][c] * fmaf(value, at.density, at.distribution);
      sums[0][c] += out[c];
    }
    store_pack<kPack>(dx + row * grid.channels + place.channel, out);
  });
  store_column_sums(grid, place, sums, partial_sums);
}

__global__ void sum_columns(const float* partial_sums, int row_blocks, int channels, float* sums) {
  double totals[1];
  column_totals(partial_sums, row_blocks, channels, totals);
  const int channel = static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x);
  if (threadIdx.y == 0 && channel < channels) sums[channel] = static_cast<float>(totals[0]);
}

__device__ inline float image_scale_of(const ScaledResidual& parameters, std::int64_t row) {
  if (parameters.image_scale == nullptr) return 1.0f;
  return parameters
      .image_scale[static_cast<unsigned>(row) / static_cast<unsigned>(parameters.rows_per_image)];
}

template <typename T, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    scaled_residual_forward(RowGrid grid, ScaledResidual parameters, const T* x, const T* z, T* y) {
  const RowPlace place = row_place<kPack>(grid);
  const Floats<kPack> scales = parameters_of<kPack>(parameters.scale, place);
  const Floats<kPack> biases = parameters_of<kPack>(parameters.bias, place);
  for_each_row<kPack, 4>(grid, place, {x, z}, [&](std::int64_t row, const Floats<kPack>(&in)[2]) {
    const float image_scale = image_scale_of(parameters, row);
    Floats<kPack> out;
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      out[c] = fmaf(image_scale * scales[c], in[1][c] + biases[c], in[0][c]);
    }
    store_pack<kPack>(y + row * grid.channels + place.channel, out);
  });
}

template <typename T, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    scaled_residual_backward(RowGrid grid, ScaledResidual parameters, const T* dy, const T* z,
                             T* dz, float* partial_sums) {
  const RowPlace place = row_place<kPack>(grid);
  const Floats<kPack> scales = parameters_of<kPack>(parameters.scale, place);
  const Floats<kPack> biases = parameters_of<kPack>(parameters.bias, place);
  Floats<kPack> sums[2];  // of the scale and of the bias
  for_each_row<kPack, 4>(grid, place, {dy, z}, [&](std::int64_t row, const Floats<kPack>(&in)[2]) {
    const float image_scale = image_scale_of(parameters, row);
    Floats<kPack> out;
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      const float gradient = image_scale * in[0][c];
      out[c] = gradient * scales[c];
      sums[0][c] = fmaf(gradient, in[1][c] + biases[c], sums[0][c]);
      sums[1][c] += out[c];
    }
    store_pack<kPack>(dz + row * grid.channels + place.channel, out);
  });
  store_column_sums(grid, place, sums, partial_sums);
}

__global__ void sum_two_columns(const float* partial_sums, int row_blocks, int channels,
                                float* first, float* second) {
  double totals[2];
  column_totals(partial_sums, row_blocks, channels, totals);
  const int channel = static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x);
  if (threadIdx.y != 0 || channel >= channels) return;
  first[channel] = static_cast<float>(totals[0]);
  second[channel] = static_cast<float>(totals[1]);
}

}  // namespace

std::size_t row_scratch_bytes(const Rows& shape) {
  constexpr std::size_t most_sums = 2;
  const std::size_t blocks =
      static_cast<std::size_t>(multiprocessor_count()) * sum_blocks_per_multiprocessor;
  return blocks * most_sums * static_cast<std::size_t>(shape.channels) * sizeof(float);
}

void launch_bias_gelu_forward(const Rows& shape, const void* x, const float* bias, void* y,
                              void* stream) {
  if (shape.rows == 0) return;
  with_element_and_pack(shape, [&](auto type, auto pack) {
    using T = decltype(type);
    const RowGrid grid = row_grid(shape, pack.value, pass_blocks_per_multiprocessor);
    bias_gelu_forward<T, pack.value>
        <<<row_blocks(grid), threads_per_row_block, 0, static_cast<cudaStream_t>(stream)>>>(
            grid, static_cast<const T*>(x), bias, static_cast<T*>(y));
    check_launch("bias_gelu_forward");
  });
}

void launch_bias_gelu_backward(const Rows& shape, const void* x, const float* bias, const void* dy,
                               void* dx, float* bias_gradient, void* scratch, void* stream) {
  auto* partial_sums = static_cast<float*>(scratch);
  with_element_and_pack(shape, [&](auto type, auto pack) {
    using T = decltype(type);
    const RowGrid grid = row_grid(shape, pack.value, sum_blocks_per_multiprocessor);
    const auto queue = static_cast<cudaStream_t>(stream);
    bias_gelu_backward<T, pack.value><<<row_blocks(grid), threads_per_row_block, 0, queue>>>(
        grid, static_cast<const T*>(x), bias, static_cast<const T*>(dy), static_cast<T*>(dx),
        partial_sums);
    check_launch("bias_gelu_backward");
    sum_columns<<<column_total_blocks(grid), dim3(32, 32), 0, queue>>>(
        partial_sums, grid.row_blocks, grid.channels, bias_gradient);
    check_launch("bias_gelu_backward sums");
  });
}

void launch_scaled_residual_forward(const Rows& shape, const ScaledResidual& parameters,
                                    const void* x, const void* z, void* y, void* stream) {
  if (shape.rows == 0) return;
  with_element_and_pack(shape, [&](auto type, auto pack) {
    using T = decltype(type);
    const RowGrid grid = row_grid(shape, pack.value, pass_blocks_per_multiprocessor);
    scaled_residual_forward<T, pack.value>
        <<<row_blocks(grid), threads_per_row_block, 0, static_cast<cudaStream_t>(stream)>>>(
            grid, parameters, static_cast<const T*>(x), static_cast<const T*>(z),
            static_cast<T*>(y));
    check_launch("scaled_residual_forward");
  });
}

void launch_scaled_residual_backward(const Rows& shape, const ScaledResidual& parameters,
                                     const void* dy, const void* z, void* dz, float* scale_gradient,
                                     float* bias_gradient, void* scratch, void* stream) {
  auto* partial_sums = static_cast<float*>(scratch);
  with_element_and_pack(shape, [&](auto type, auto pack) {
    using T = decltype(type);
    const RowGrid grid = row_grid(shape, pack.value, sum_blocks_per_multiprocessor);
    const auto queue = static_cast<cudaStream_t>(stream);
    scaled_residual_backward<T, pack.value><<<row_blocks(grid), threads_per_row_block, 0, queue>>>(
        grid, parameters, static_cast<const T*>(dy), static_cast<const T*>(z), static_cast<T*>(dz),
        partial_sums);
    check_launch("scaled_residual_backward");
    sum_two_columns<<<column_total_blocks(grid), dim3(32, 32), 0, queue>>>(
        partial_sums, grid.row_blocks, grid.channels, scale_gradient, bias_gradient);
    check_launch("scaled_residual_backward sums");
  });
}

}  // namespace einkorn::convolution
