// Gradients of the fused Inception mixer's taps and biases.
#include "einkorn/convolution/inceptionnext/inception_mixer_device.cuh"

namespace einkorn::convolution::mixer {
namespace {

// Channels of a thread: few registers, so that many loads are in flight.
constexpr int most_channels = 2;

template <typename T>
struct TapGradientArguments {
  Sides sides;
  View<const T> x;
  View<const T> dy;
  float* partial_sums;  // [parts, branches, most taps + 1, branch channels], the bias last
};

template <int kBand>
constexpr int most_taps = kBand > square_size* square_size ? kBand : square_size* square_size;

// Taps and bias of one pack of channels, summed over strips.
template <int kTaps, int kChannels>
struct TapSums {
  Floats<kChannels> taps[kTaps];
  Floats<kChannels> bias;

  template <int kStripTaps, typename T>
  __device__ void add(const Pack<T, kChannels> (&gradients)[strip], int first_tap,
                      const Pack<T, kChannels> (&inputs)[strip + kStripTaps - 1]) {
#pragma unroll
    for (int t = 0; t < kStripTaps; ++t) {
#pragma unroll
      for (int o = 0; o < strip; ++o) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          taps[first_tap + t].values[c] +=
              widen(gradients[o].values[c]) * widen(inputs[o + t].values[c]);
        }
      }
    }
  }
};

// blockIdx.y is the branch; a thread keeps one pack of channels and walks over strips.
template <typename T, int kBand, int kChannels>
__global__ void __launch_bounds__(threads_per_block)
    tap_gradient_kernel(const __grid_constant__ TapGradientArguments<T> arguments) {
  extern __shared__ float shared_sums[];  // [taps + 1][channel of the pack][thread]
  constexpr int taps = most_taps<kBand>;
  const Sides& sides = arguments.sides;
  const int g = sides.branch_channels;
  const int packs = g / kChannels;
  const int strips_at_once = threads_per_block / packs;
  const int pack = threadIdx.x % packs * kChannels;
  const int lane = threadIdx.x / packs;
  const int branch = blockIdx.y;
  const int channel = sides.identity_channels + branch * g + pack;

  const int strips_across = branch == tall ? sides.width : (sides.width + strip - 1) / strip;
  const int strips_down = branch == tall ? (sides.height + strip - 1) / strip : sides.height;
  const std::int64_t strips = sides.images * strips_across * strips_down;
  TapSums<taps, kChannels> sums;
  std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * strips_at_once + lane;
  if (lane >= strips_at_once) index = strips;
  for (; index < strips; index += static_cast<std::int64_t>(gridDim.x) * strips_at_once) {
    const int x = static_cast<int>(index % strips_across) * (branch == tall ? 1 : strip);
    const int y =
        static_cast<int>(index / strips_across % strips_down) * (branch == tall ? strip : 1);
    const std::int64_t image = index / strips_across / strips_down;
    const auto load_from = [&](const View<const T>& from, int row, int column) {
      const bool inside = row >= 0 && row < sides.height && column >= 0 && column < sides.width;
      return load<T, kChannels>(from.at(image, row, column) + channel, inside);
    };
    Pack<T, kChannels> gradients[strip];
#pragma unroll
    for (int o = 0; o < strip; ++o) {
      gradients[o] =
          branch == tall ? load_from(arguments.dy, y + o, x) : load_from(arguments.dy, y, x + o);
    }
    if (branch == square) {
      Pack<T, kChannels> inputs[square_size][strip + square_size - 1];
#pragma unroll
      for (int row = 0; row < square_size; ++row) {
#pragma unroll
        for (int i = 0; i < strip + square_size - 1; ++i) {
          inputs[row][i] =
              load_from(arguments.x, y + row - square_size / 2, x + i - square_size / 2);
        }
      }
#pragma unroll
      for (int row = 0; row < square_size; ++row) {
        sums.template add<square_size>(gradients, row * square_size, inputs[row]);
      }
    } else {
      Pack<T, kChannels> inputs[strip + kBand - 1];
#pragma unroll
      for (int i = 0; i < strip + kBand - 1; ++i) {
        inputs[i] = branch == tall ? load_from(arguments.x, y + i - kBand / 2, x)
                                   : load_from(arguments.x, y, x + i - kBand / 2);
      }
      sums.template add<kBand>(gradients, 0, inputs);
    }
#pragma unroll
    for (int o = 0; o < strip; ++o) {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) sums.bias.values[c] += widen(gradients[o].values[c]);
    }
  }
#pragma unroll
  for (int t = 0; t <= taps; ++t) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      shared_sums[(t * kChannels + c) * threads_per_block + threadIdx.x] =
          t < taps ? sums.taps[t < taps ? t : 0].values[c] : sums.bias.values[c];
    }
  }
  __syncthreads();
  float* out = arguments.partial_sums +
               (static_cast<std::int64_t>(blockIdx.x) * branches + branch) * (taps + 1) * g;
  for (int i = threadIdx.x; i < (taps + 1) * g; i += threads_per_block) {
    const int tap = i / g;
    const int c = i % g;
    const float* from =
        shared_sums + (tap * kChannels + c % kChannels) * threads_per_block + c / kChannels;
    float sum = 0;
    for (int l = 0; l < strips_at_once; ++l) sum += from[l * packs];
    out[i] = sum;
  }
}

struct TapGradientTargets {
  float* taps[branches];
  float* biases[branches];
};

constexpr int part_lanes = 8;

// Blocks of 32 elements x 8 lanes; a lane sums every eighth part.
__global__ void sum_tap_gradients(const float* partial_sums, int parts, int most, int band, int g,
                                  TapGradientTargets targets) {
  __shared__ float shared[part_lanes][32];
  const int elements = branches * (most + 1) * g;
  const int i = static_cast<int>(blockIdx.x * 32 + threadIdx.x);
  float sum = 0;
#pragma unroll 8
  for (int part = static_cast<int>(threadIdx.y); part < parts; part += part_lanes) {
    sum +=
        load_or_zero(partial_sums + static_cast<std::int64_t>(part) * elements + i, i < elements);
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || i >= elements) return;
  for (int lane = 1; lane < part_lanes; ++lane) sum += shared[lane][threadIdx.x];
  const int channel = i % g;
  const int tap = i / g % (most + 1);
  const int branch = i / g / (most + 1);
  const int taps = branch == square ? square_size * square_size : band;
  if (tap < taps) {
    targets.taps[branch][channel * taps + tap] = sum;
  } else if (tap == most && targets.biases[branch] != nullptr) {
    targets.biases[branch][channel] = sum;
  }
}

template <typename Run>
void with_pack(int count, Run run) {
  if (count >= most_channels) return run(std::integral_constant<int, most_channels>{});
  return run(std::integral_constant<int, 1>{});
}

// Blocks of the fused weight gradient for each branch.
std::int64_t fused_parts(const InceptionMixerProblem& problem) {
  const std::int64_t strips = problem.images * problem.height * divided_up(problem.width, strip) *
                              problem.branch_channels / most_channels;
  return std::clamp<std::int64_t>(divided_up(strips, 4 * threads_per_block), 1,
                                  multiprocessor_count());
}

std::int64_t fused_elements(const InceptionMixerProblem& problem) {
  const std::int64_t most = std::max<std::int64_t>(problem.band_size, square_size * square_size);
  return branches * (most + 1) * problem.branch_channels;
}

}  // namespace

std::size_t fused_scratch_bytes(const InceptionMixerProblem& problem) {
  if (is_empty(problem)) return 0;
  return static_cast<std::size_t>(fused_parts(problem) * fused_elements(problem)) * sizeof(float);
}

void launch_fused_weight_gradient(const InceptionMixerProblem& problem, const ConstImages& x,
                                  const ConstImages& dy, float* partial_sums,
                                  const InceptionMixerGradients& gradients, void* stream) {
  const std::int64_t identity = problem.identity_channels();
  const int parts = is_empty(problem) ? 0 : static_cast<int>(fused_parts(problem));
  const int count =
      std::min(channels_at_once(problem, problem.branch_channels, x.data, x.strides, identity),
               channels_at_once(problem, problem.branch_channels, dy.data, dy.strides, identity));
  if (parts > 0) {
    with_type_and_band(problem, [&](auto type, auto band) {
      using T = decltype(type);
      TapGradientArguments<T> arguments{sides_of(problem), view_of<T>(x), view_of<T>(dy),
                                        partial_sums};
      with_pack(count, [&](auto pack) {
        const std::size_t shared_bytes = static_cast<std::size_t>(most_taps<band.value> + 1) *
                                         pack.value * threads_per_block * sizeof(float);
        launch(&tap_gradient_kernel<T, band.value, pack.value>,
               dim3(static_cast<unsigned>(parts), branches), shared_bytes, arguments, stream,
               "inception mixer weight gradient");
      });
    });
  }
  const TapGradientTargets targets = {
      {static_cast<float*>(gradients.square), static_cast<float*>(gradients.wide),
       static_cast<float*>(gradients.tall)},
      {static_cast<float*>(gradients.square_bias), static_cast<float*>(gradients.wide_bias),
       static_cast<float*>(gradients.tall_bias)}};
  const std::int64_t elements = fused_elements(problem);
  const auto most = static_cast<int>(std::max<std::int64_t>(problem.band_size, 9));
  sum_tap_gradients<<<static_cast<unsigned>(divided_up(elements, 32)), dim3(32, part_lanes), 0,
                      static_cast<cudaStream_t>(stream)>>>(
      partial_sums, parts, most, static_cast<int>(problem.band_size),
      static_cast<int>(problem.branch_channels), targets);
  check_launch("inception mixer sum of weight gradients");
}

}  // namespace einkorn::convolution::mixer
