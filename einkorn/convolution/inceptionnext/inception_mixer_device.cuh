// What the device kernels of the Inception mixer share: packs of channels, views of images, and
// which problems the fused kernels serve.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "einkorn/convolution/inceptionnext/inception_mixer_cuda.h"
#include "einkorn/convolution/predicated_load_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::convolution::mixer {

inline constexpr int threads_per_block = 256;
inline constexpr int strip = 8;        // outputs of a thread along a row, or down a column
inline constexpr int square_size = 3;  // of the fused kernels
inline constexpr int branches = 3;

enum Branch { square = 0, wide = 1, tall = 2 };

template <typename T, int kChannels>
struct alignas(sizeof(T) * kChannels) Pack {
  T values[kChannels];
};

template <int kChannels>
struct Floats {
  float values[kChannels] = {};
};

template <typename T>
__device__ inline float widen(T value) {
  return static_cast<float>(value);
}

template <typename T, int kChannels>
__device__ inline Pack<T, kChannels> load(const T* from, bool valid = true) {
  return load_or_zero(reinterpret_cast<const Pack<T, kChannels>*>(from), valid);
}

template <typename T, int kChannels>
__device__ inline void store(T* to, const Floats<kChannels>& floats) {
  Pack<T, kChannels> pack;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) pack.values[i] = static_cast<T>(floats.values[i]);
  *reinterpret_cast<Pack<T, kChannels>*>(to) = pack;
}

template <typename T>
struct View {
  T* data;
  std::int64_t image;
  std::int64_t row;
  std::int64_t column;

  __device__ T* at(std::int64_t n, int y, int x) const {
    return data + n * image + y * row + x * column;
  }
};

template <typename T>
View<const T> view_of(const ConstImages& images) {
  return {static_cast<const T*>(images.data), images.strides.image, images.strides.row,
          images.strides.column};
}

template <typename T>
View<T> view_of(const Images& images) {
  return {static_cast<T*>(images.data), images.strides.image, images.strides.row,
          images.strides.column};
}

struct Sides {
  std::int64_t images;
  int height;
  int width;
  int branch_channels;
  int identity_channels;
};

inline std::int64_t divided_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

inline Sides sides_of(const InceptionMixerProblem& problem) {
  return {problem.images, static_cast<int>(problem.height), static_cast<int>(problem.width),
          static_cast<int>(problem.branch_channels), static_cast<int>(problem.identity_channels())};
}

inline bool is_empty(const InceptionMixerProblem& problem) {
  return problem.images == 0 || problem.height == 0 || problem.width == 0;
}

inline std::int64_t element_bytes(Element element) {
  return element == Element::f64 ? 8 : element == Element::f32 ? 4 : 2;
}

// The widest pack of channels (8, 4, 2 or 1, at most 16 bytes) that divides their number, the first
// channel, strides and addresses.
inline int channels_at_once(const InceptionMixerProblem& problem, std::int64_t channels,
                            const void* data, const ImageStrides& strides,
                            std::int64_t first_channel) {
  for (const int count : {8, 4, 2}) {
    const std::int64_t bytes = count * element_bytes(problem.element);
    const bool fits =
        bytes <= 16 && channels % count == 0 && first_channel % count == 0 &&
        strides.image % count == 0 && strides.row % count == 0 && strides.column % count == 0 &&
        reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) == 0;
    if (fits) return count;
  }
  return 1;
}

inline bool can_fuse(const InceptionMixerProblem& problem) {
  const std::int64_t band = problem.band_size;
  return problem.layout == ImageLayout::channels_last && problem.element != Element::f64 &&
         problem.square_size == square_size && (band == 7 || band == 9 || band == 11) &&
         problem.branch_channels <= threads_per_block;
}

template <typename Run>
void with_type_and_band(const InceptionMixerProblem& problem, Run run) {
  const auto with_band = [&](auto type) {
    if (problem.band_size == 7) return run(type, std::integral_constant<int, 7>{});
    if (problem.band_size == 9) return run(type, std::integral_constant<int, 9>{});
    return run(type, std::integral_constant<int, 11>{});
  };
  if (problem.element == Element::f32) return with_band(float{});
  if (problem.element == Element::f16) return with_band(__half{});
  return with_band(__nv_bfloat16{});
}

template <typename Kernel, typename Arguments>
void launch(Kernel kernel, dim3 blocks, std::size_t shared_bytes, const Arguments& arguments,
            void* stream, const char* name) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes)),
             name);
  kernel<<<blocks, threads_per_block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments);
  check_launch(name);
}

// One application of the mixer or of its transpose.
struct Application {
  IdentityChannels identity;
  bool turned;
  ConstImages x;
  ConstImages addend;
  Images y;
};

// The fused kernels. Weight gradients: partial sums of fused_scratch_bytes(problem).
void launch_fused(const InceptionMixerProblem& problem, const InceptionMixerWeights& weights,
                  const Application& call, void* stream);
std::size_t fused_scratch_bytes(const InceptionMixerProblem& problem);
void launch_fused_weight_gradient(const InceptionMixerProblem& problem, const ConstImages& x,
                                  const ConstImages& dy, float* partial_sums,
                                  const InceptionMixerGradients& gradients, void* stream);

}  // namespace einkorn::convolution::mixer
