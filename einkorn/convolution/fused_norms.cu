// Batch and layer normalisation in training, forward and backward.
#include "einkorn/convolution/fused_block_cuda.h"
#include "einkorn/convolution/fused_rows_device.cuh"

namespace einkorn::convolution {
namespace {

// Sums of x - shift and its square, where shift is the first row: no cancellation where a channel's
// mean is far from zero.
template <typename T, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    batch_norm_sums(RowGrid grid, const T* x, float* partial_sums) {
  const RowPlace place = row_place<kPack>(grid);
  Floats<kPack> shift;
  if (place.active) shift = load_pack<kPack>(x + place.channel);
  Floats<kPack> sums[2];
  for_each_row<kPack, 4>(grid, place, {x}, [&](std::int64_t, const Floats<kPack>(&in)[1]) {
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      const float difference = in[0][c] - shift[c];
      sums[0][c] += difference;
      sums[1][c] = fmaf(difference, difference, sums[1][c]);
    }
  });
  store_column_sums(grid, place, sums, partial_sums);
}

struct BatchStatistics {
  float epsilon;
  float momentum;
  float* mean;
  float* inverse_deviation;
  float* running_mean;
  float* running_variance;
};

template <typename T>
__global__ void batch_norm_statistics(RowGrid grid, const T* x, const float* partial_sums,
                                      BatchStatistics out) {
  double totals[2];
  column_totals(partial_sums, grid.row_blocks, grid.channels, totals);
  const int channel = static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x);
  if (threadIdx.y != 0 || channel >= grid.channels) return;
  const auto count = static_cast<double>(grid.rows);
  const double difference = totals[0] / count;
  const double mean = static_cast<double>(static_cast<float>(x[channel])) + difference;
  const double variance = fmax(totals[1] / count - difference * difference, 0.0);
  out.mean[channel] = static_cast<float>(mean);
  out.inverse_deviation[channel] = static_cast<float>(rsqrt(variance + out.epsilon));
  if (out.running_mean == nullptr) return;
  const double unbiased = variance * count / fmax(count - 1, 1.0);
  const auto move = [&](float& running, double value) {
    running = static_cast<float>((1 - out.momentum) * running + out.momentum * value);
  };
  move(out.running_mean[channel], mean);
  move(out.running_variance[channel], unbiased);
}

// y = slope * x + offset for each channel.
template <int kPack>
struct Affine {
  Floats<kPack> slope;
  Floats<kPack> offset;
};

template <typename T, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    batch_norm_apply(RowGrid grid, const T* x, const float* mean, const float* inverse_deviation,
                     const float* weight, const float* bias, T* y) {
  const RowPlace place = row_place<kPack>(grid);
  Affine<kPack> affine;
  if (place.active) {
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      const int channel = place.channel + c;
      affine.slope[c] = weight[channel] * inverse_deviation[channel];
      affine.offset[c] = fmaf(-mean[channel], affine.slope[c], bias[channel]);
    }
  }
  for_each_row<kPack, 4>(grid, place, {x}, [&](std::int64_t row, const Floats<kPack>(&in)[1]) {
    Floats<kPack> out;
#pragma unroll
    for (int c = 0; c < kPack; ++c) out[c] = fmaf(affine.slope[c], in[0][c], affine.offset[c]);
    store_pack<kPack>(y + row * grid.channels + place.channel, out);
  });
}

template <typename T, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    batch_norm_gradient_sums(RowGrid grid, const T* x, const T* dy, const float* mean,
                             const float* inverse_deviation, float* partial_sums) {
  const RowPlace place = row_place<kPack>(grid);
  Floats<kPack> means;
  Floats<kPack> inverses;
  if (place.active) {
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      means[c] = mean[place.channel + c];
      inverses[c] = inverse_deviation[place.channel + c];
    }
  }
  Floats<kPack> sums[2];
  for_each_row<kPack, 4>(grid, place, {x, dy}, [&](std::int64_t, const Floats<kPack>(&in)[2]) {
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      sums[0][c] = fmaf(in[1][c], (in[0][c] - means[c]) * inverses[c], sums[0][c]);
      sums[1][c] += in[1][c];
    }
  });
  store_column_sums(grid, place, sums, partial_sums);
}

__global__ void sum_gradients(const float* partial_sums, int row_blocks, int channels,
                              float* weight_gradient, float* bias_gradient) {
  double totals[2];
  column_totals(partial_sums, row_blocks, channels, totals);
  const int channel = static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x);
  if (threadIdx.y != 0 || channel >= channels) return;
  weight_gradient[channel] = static_cast<float>(totals[0]);
  bias_gradient[channel] = static_cast<float>(totals[1]);
}

struct BatchParameters {
  const float* mean;
  const float* inverse_deviation;
  const float* weight;
  const float* weight_gradient;
  const float* bias_gradient;
};

// dx = w/s (dy - mean(dy) - x_hat mean(dy x_hat)), an affine function of dy and x for each channel.
template <typename T, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    batch_norm_input_gradient(RowGrid grid, const T* x, const T* dy, BatchParameters parameters,
                              T* dx) {
  const RowPlace place = row_place<kPack>(grid);
  Floats<kPack> of_gradient;
  Floats<kPack> of_input;
  Floats<kPack> offset;
  if (place.active) {
    const float inverse_count = 1.0f / static_cast<float>(grid.rows);
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      const int channel = place.channel + c;
      const float inverse = parameters.inverse_deviation[channel];
      const float mean_product = parameters.weight_gradient[channel] * inverse_count;
      of_gradient[c] = parameters.weight[channel] * inverse;
      of_input[c] = -of_gradient[c] * inverse * mean_product;
      offset[c] = -of_gradient[c] * parameters.bias_gradient[channel] * inverse_count -
                  of_input[c] * parameters.mean[channel];
    }
  }
  for_each_row<kPack, 4>(grid, place, {x, dy}, [&](std::int64_t row, const Floats<kPack>(&in)[2]) {
    Floats<kPack> out;
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      out[c] = fmaf(of_gradient[c], in[1][c], fmaf(of_input[c], in[0][c], offset[c]));
    }
    store_pack<kPack>(dx + row * grid.channels + place.channel, out);
  });
}

// A row in the registers of kLanes lanes, kPacks packs each: pack i of a lane is pack
// i * kLanes + lane of the row.
template <int kLanes, int kPacks, int kPack>
struct RowOfLanes {
  int lane;
  int packs;

  __device__ bool has(int i) const { return i * kLanes + lane < packs; }
  __device__ int channel(int i) const { return (i * kLanes + lane) * kPack; }

  __device__ static float sum(float value) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
  }
};

template <typename T, int kLanes, int kPacks, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    layer_norm_forward(std::int64_t rows, int channels, const T* x, const float* weight,
                       const float* bias, float epsilon, T* y, float* mean,
                       float* inverse_deviation) {
  const RowOfLanes<kLanes, kPacks, kPack> place{static_cast<int>(threadIdx.x) % kLanes,
                                                channels / kPack};
  constexpr int rows_at_once = threads_per_row_block / kLanes;
  Floats<kPack> weights[kPacks];
  Floats<kPack> biases[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (!place.has(i)) continue;
    weights[i] = load_pack<kPack>(weight + place.channel(i));
    biases[i] = load_pack<kPack>(bias + place.channel(i));
  }
  // All lanes of a warp stay in the loop: they meet in the sums.
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * rows_at_once;
  for (std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * rows_at_once; base < rows;
       base += step) {
    const std::int64_t row = base + threadIdx.x / kLanes;
    const bool valid = row < rows;
    Floats<kPack> values[kPacks];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      values[i] = load_pack<kPack>(x + row * channels + place.channel(i), valid && place.has(i));
#pragma unroll
      for (int c = 0; c < kPack; ++c) sum += values[i][c];
    }
    const float average = place.sum(sum) / static_cast<float>(channels);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (!place.has(i)) continue;
#pragma unroll
      for (int c = 0; c < kPack; ++c) {
        values[i][c] -= average;
        squares = fmaf(values[i][c], values[i][c], squares);
      }
    }
    const float inverse = rsqrtf(place.sum(squares) / static_cast<float>(channels) + epsilon);
    if (!valid) continue;
    if (place.lane == 0) {
      mean[row] = average;
      inverse_deviation[row] = inverse;
    }
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (!place.has(i)) continue;
#pragma unroll
      for (int c = 0; c < kPack; ++c) {
        values[i][c] = fmaf(values[i][c] * inverse, weights[i][c], biases[i][c]);
      }
      store_pack<kPack>(y + row * channels + place.channel(i), values[i]);
    }
  }
}

struct LayerParameters {
  const float* mean;
  const float* inverse_deviation;
  const float* weight;
};

// Column sums of the block's row groups, by way of shared memory [2][row groups][channels].
template <int kLanes, int kPacks, int kPack>
__device__ inline void store_lane_sums(const RowOfLanes<kLanes, kPacks, kPack>& place, int channels,
                                       const Floats<kPack> (&first)[kPacks],
                                       const Floats<kPack> (&second)[kPacks], float* partial_sums) {
  extern __shared__ float shared[];
  constexpr int groups = threads_per_row_block / kLanes;
  float* group = shared + static_cast<int>(threadIdx.x) / kLanes * channels;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (!place.has(i)) continue;
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      group[place.channel(i) + c] = first[i][c];
      group[groups * channels + place.channel(i) + c] = second[i][c];
    }
  }
  __syncthreads();
  float* out = partial_sums + static_cast<std::int64_t>(blockIdx.x) * 2 * channels;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * channels; i += threads_per_row_block) {
    const float* column = shared + i / channels * groups * channels + i % channels;
    float total = 0;
#pragma unroll
    for (int g = 0; g < groups; ++g) total += column[g * channels];
    out[i] = total;
  }
}

template <typename T, int kLanes, int kPacks, int kPack>
__global__ void __launch_bounds__(threads_per_row_block)
    layer_norm_backward(std::int64_t rows, int channels, const T* x, const T* dy,
                        LayerParameters parameters, T* dx, float* partial_sums) {
  const RowOfLanes<kLanes, kPacks, kPack> place{static_cast<int>(threadIdx.x) % kLanes,
                                                channels / kPack};
  constexpr int rows_at_once = threads_per_row_block / kLanes;
  Floats<kPack> weights[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (place.has(i)) weights[i] = load_pack<kPack>(parameters.weight + place.channel(i));
  }
  Floats<kPack> weight_sums[kPacks];
  Floats<kPack> bias_sums[kPacks];
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * rows_at_once;
  for (std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * rows_at_once; base < rows;
       base += step) {
    const std::int64_t row = base + threadIdx.x / kLanes;
    const bool valid = row < rows;
    const float average = valid ? parameters.mean[row] : 0.0f;
    const float inverse = valid ? parameters.inverse_deviation[row] : 0.0f;
    Floats<kPack> normal[kPacks];
    Floats<kPack> gradients[kPacks];
    float sum = 0;
    float product_sum = 0;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const bool has = valid && place.has(i);
      normal[i] = load_pack<kPack>(x + row * channels + place.channel(i), has);
      gradients[i] = load_pack<kPack>(dy + row * channels + place.channel(i), has);
    }
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
#pragma unroll
      for (int c = 0; c < kPack; ++c) {
        normal[i][c] = (normal[i][c] - average) * inverse;
        weight_sums[i][c] = fmaf(gradients[i][c], normal[i][c], weight_sums[i][c]);
        bias_sums[i][c] += gradients[i][c];
        gradients[i][c] *= weights[i][c];
        sum += gradients[i][c];
        product_sum = fmaf(gradients[i][c], normal[i][c], product_sum);
      }
    }
    const float mean_gradient = place.sum(sum) / static_cast<float>(channels);
    const float mean_product = place.sum(product_sum) / static_cast<float>(channels);
    if (!valid) continue;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (!place.has(i)) continue;
      Floats<kPack> out;
#pragma unroll
      for (int c = 0; c < kPack; ++c) {
        out[c] = inverse * (gradients[i][c] - mean_gradient - normal[i][c] * mean_product);
      }
      store_pack<kPack>(dx + row * channels + place.channel(i), out);
    }
  }
  store_lane_sums(place, channels, weight_sums, bias_sums, partial_sums);
}

// Calls run(lanes, packs of a lane, channels of a pack) for rows that fit into registers.
template <typename Run>
void with_row_of_lanes(std::int64_t channels, Run run) {
  const std::integral_constant<int, wide_pack> wide;
  const std::integral_constant<int, 1> single;
  const std::integral_constant<int, 32> all;
  if (channels % wide_pack != 0) {
    if (channels <= 256) return run(all, std::integral_constant<int, 8>{}, single);
    if (channels <= 1024) return run(all, std::integral_constant<int, 32>{}, single);
    throw std::logic_error("layer norm of more than 1024 channels needs a multiple of 8");
  }
  const std::int64_t packs = channels / wide_pack;
  if (packs <= 8)
    return run(std::integral_constant<int, 8>{}, std::integral_constant<int, 1>{}, wide);
  if (packs <= 16) {
    return run(std::integral_constant<int, 16>{}, std::integral_constant<int, 1>{}, wide);
  }
  if (packs <= 32) return run(all, std::integral_constant<int, 1>{}, wide);
  if (packs <= 64) return run(all, std::integral_constant<int, 2>{}, wide);
  if (packs <= 96) return run(all, std::integral_constant<int, 3>{}, wide);
  if (packs <= 128) return run(all, std::integral_constant<int, 4>{}, wide);
  if (packs <= 256) return run(all, std::integral_constant<int, 8>{}, wide);
  throw std::logic_error("layer norm of more than 2048 channels is not implemented");
}

unsigned layer_norm_blocks(const Rows& shape, int lanes, int blocks_per_multiprocessor) {
  const std::int64_t rows_at_once = threads_per_row_block / lanes;
  const std::int64_t most =
      static_cast<std::int64_t>(multiprocessor_count()) * blocks_per_multiprocessor;
  return static_cast<unsigned>(
      std::clamp<std::int64_t>((shape.rows + rows_at_once - 1) / rows_at_once, 1, most));
}

template <typename Run>
void with_element(const Rows& shape, Run run) {
  switch (shape.element) {
    case Element::f32:
      return run(float{});
    case Element::f16:
      return run(__half{});
    case Element::bf16:
      return run(__nv_bfloat16{});
    case Element::f64:
      throw std::logic_error("fused block kernels have no f64 version");
  }
}

}  // namespace

void launch_batch_norm_statistics(const Rows& shape, const void* x, float epsilon, float momentum,
                                  float* mean, float* inverse_deviation, float* running_mean,
                                  float* running_variance, void* scratch, void* stream) {
  auto* partial_sums = static_cast<float*>(scratch);
  const BatchStatistics out = {epsilon,           momentum,     mean,
                               inverse_deviation, running_mean, running_variance};
  with_element_and_pack(shape, [&](auto type, auto pack) {
    using T = decltype(type);
    const RowGrid grid = row_grid(shape, pack.value, sum_blocks_per_multiprocessor);
    const auto queue = static_cast<cudaStream_t>(stream);
    batch_norm_sums<T, pack.value><<<row_blocks(grid), threads_per_row_block, 0, queue>>>(
        grid, static_cast<const T*>(x), partial_sums);
    check_launch("batch_norm_sums");
    batch_norm_statistics<T><<<column_total_blocks(grid), dim3(32, 32), 0, queue>>>(
        grid, static_cast<const T*>(x), partial_sums, out);
    check_launch("batch_norm_statistics");
  });
}

void launch_batch_norm_apply(const Rows& shape, const void* x, const float* mean,
                             const float* inverse_deviation, const float* weight, const float* bias,
                             void* y, void* stream) {
  with_element_and_pack(shape, [&](auto type, auto pack) {
    using T = decltype(type);
    const RowGrid grid = row_grid(shape, pack.value, pass_blocks_per_multiprocessor);
    batch_norm_apply<T, pack.value>
        <<<row_blocks(grid), threads_per_row_block, 0, static_cast<cudaStream_t>(stream)>>>(
            grid, static_cast<const T*>(x), mean, inverse_deviation, weight, bias,
            static_cast<T*>(y));
    check_launch("batch_norm_apply");
  });
}

void launch_batch_norm_parameter_gradient(const Rows& shape, const void* x, const void* dy,
                                          const float* mean, const float* inverse_deviation,
                                          float* weight_gradient, float* bias_gradient,
                                          void* scratch, void* stream) {
  auto* partial_sums = static_cast<float*>(scratch);
  with_element_and_pack(shape, [&](auto type, auto pack) {
    using T = decltype(type);
    const RowGrid grid = row_grid(shape, pack.value, sum_blocks_per_multiprocessor);
    const auto queue = static_cast<cudaStream_t>(stream);
    batch_norm_gradient_sums<T, pack.value><<<row_blocks(grid), threads_per_row_block, 0, queue>>>(
        grid, static_cast<const T*>(x), static_cast<const T*>(dy), mean, inverse_deviation,
        partial_sums);
    check_launch("batch_norm_gradient_sums");
    sum_gradients<<<column_total_blocks(grid), dim3(32, 32), 0, queue>>>(
        partial_sums, grid.row_blocks, grid.channels, weight_gradient, bias_gradient);
    check_launch("batch_norm sum_gradients");
  });
}

void launch_batch_norm_input_gradient(const Rows& shape, const void* x, const void* dy,
                                      const float* mean, const float* inverse_deviation,
                                      const float* weight, const float* weight_gradient,
                                      const float* bias_gradient, void* dx, void* stream) {
  const BatchParameters parameters = {mean, inverse_deviation, weight, weight_gradient,
                                      bias_gradient};
  with_element_and_pack(shape, [&](auto type, auto pack) {
    using T = decltype(type);
    const RowGrid grid = row_grid(shape, pack.value, pass_blocks_per_multiprocessor);
    batch_norm_input_gradient<T, pack.value>
        <<<row_blocks(grid), threads_per_row_block, 0, static_cast<cudaStream_t>(stream)>>>(
            grid, static_cast<const T*>(x), static_cast<const T*>(dy), parameters,
            static_cast<T*>(dx));
    check_launch("batch_norm_input_gradient");
  });
}

void launch_layer_norm_forward(const Rows& shape, const void* x, const float* weight,
                               const float* bias, float epsilon, void* y, float* mean,
                               float* inverse_deviation, void* stream) {
  if (shape.rows == 0) return;
  with_element(shape, [&](auto type) {
    using T = decltype(type);
    with_row_of_lanes(shape.channels, [&](auto lanes, auto packs, auto pack) {
      layer_norm_forward<T, lanes.value, packs.value, pack.value>
          <<<layer_norm_blocks(shape, lanes.value, pass_blocks_per_multiprocessor),
             threads_per_row_block, 0, static_cast<cudaStream_t>(stream)>>>(
              shape.rows, static_cast<int>(shape.channels), static_cast<const T*>(x), weight, bias,
              epsilon, static_cast<T*>(y), mean, inverse_deviation);
      check_launch("layer_norm_forward");
    });
  });
}

void launch_layer_norm_backward(const Rows& shape, const void* x, const void* dy, const float* mean,
                                const float* inverse_deviation, const float* weight, void* dx,
                                float* weight_gradient, float* bias_gradient, void* scratch,
                                void* stream) {
  const LayerParameters parameters = {mean, inverse_deviation, weight};
  const auto channels = static_cast<int>(shape.channels);
  auto* partial_sums = static_cast<float*>(scratch);
  with_element(shape, [&](auto type) {
    using T = decltype(type);
    with_row_of_lanes(shape.channels, [&](auto lanes, auto packs, auto pack) {
      const unsigned blocks = layer_norm_blocks(shape, lanes.value, sum_blocks_per_multiprocessor);
      const auto queue = static_cast<cudaStream_t>(stream);
      auto* kernel = &layer_norm_backward<T, lanes.value, packs.value, pack.value>;
      const std::size_t shared_bytes = 2 * sizeof(float) * threads_per_row_block / lanes.value *
                                       static_cast<std::size_t>(channels);
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(shared_bytes)),
                 "layer_norm_backward");
      kernel<<<blocks, threads_per_row_block, shared_bytes, queue>>>(
          shape.rows, channels, static_cast<const T*>(x), static_cast<const T*>(dy), parameters,
          static_cast<T*>(dx), partial_sums);
      check_launch("layer_norm_backward");
      sum_gradients<<<dim3(static_cast<unsigned>((channels + 31) / 32)), dim3(32, 32), 0, queue>>>(
          partial_sums, static_cast<int>(blocks), channels, weight_gradient, bias_gradient);
      check_launch("layer_norm sum_gradients");
    });
  });
}

}  // namespace einkorn::convolution
