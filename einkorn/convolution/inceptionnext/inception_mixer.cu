#include "einkorn/convolution/inceptionnext/inception_mixer_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <type_traits>

#include "einkorn/convolution/depthwise_cuda.h"
#include "einkorn/convolution/predicated_load_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::convolution {
namespace {

constexpr int threads_per_block = 256;
constexpr int strip = 8;        // outputs of a thread along a row, or down a column
constexpr int square_size = 3;  // of the fused kernels
constexpr int branches = 3;
constexpr int most_conv_channels = 2;  // of a pack: few registers, so that many loads are in flight

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

template <typename T>
struct MixerArguments {
  Sides sides;
  const float* taps[branches];
  const float* biases[branches];
  View<const T> x;
  View<T> y;
  View<const T> addend;  // data null: none
  bool copy_identity;    // else y begins with the square branch
  bool turned;           // taps in reverse order
  int copied_at_once;    // identity channels: 8 (16-bit only), 4, 2 or 1
  int tile_columns;
};

// Adds to the outputs of a strip what its window gives: sums[o] += sum_t taps(t) inputs[o + t].
template <int kTaps, typename T, int kChannels, typename LoadTaps>
__device__ inline void convolve_strip(Floats<kChannels> (&sums)[strip],
                                      const Pack<T, kChannels> (&inputs)[strip + kTaps - 1],
                                      LoadTaps load_taps) {
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    const Floats<kChannels> tap = load_taps(t);
#pragma unroll
    for (int o = 0; o < strip; ++o) {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        sums[o].values[c] += tap.values[c] * widen(inputs[o + t].values[c]);
      }
    }
  }
}

// The eight rows of tile_columns pixels that a block computes.
struct MixerTile {
  std::int64_t image;
  int row;
  int column;
  int rows;
  int columns;
};

template <typename T>
__device__ inline MixerTile mixer_tile(const MixerArguments<T>& arguments) {
  const Sides& sides = arguments.sides;
  const int column_tiles = (sides.width + arguments.tile_columns - 1) / arguments.tile_columns;
  const int row_tiles = (sides.height + strip - 1) / strip;
  const auto block = static_cast<int>(blockIdx.x);
  const int column = block % column_tiles * arguments.tile_columns;
  const int row = block / column_tiles % row_tiles * strip;
  return {block / column_tiles / row_tiles, row, column, min(strip, sides.height - row),
          min(arguments.tile_columns, sides.width - column)};
}

template <typename T, int kChannels, bool kAdd>
__device__ inline void copy_identity(const MixerArguments<T>& arguments, const MixerTile& tile) {
  // 64 bytes of a thread in flight, within its registers.
  constexpr int at_once =
      std::min(8, static_cast<int>(64 / (sizeof(T) * kChannels * (kAdd ? 2 : 1))));
  const int packs = arguments.sides.identity_channels / kChannels;
  const int items = tile.rows * tile.columns * packs;
  for (int base = static_cast<int>(threadIdx.x); base < items;
       base += at_once * threads_per_block) {
    Pack<T, kChannels> values[at_once];
    Pack<T, kChannels> added[at_once];
    T* to[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int item = base + i * threads_per_block;
      const int place = item / packs;
      const int channel = (item - place * packs) * kChannels;
      const int y = tile.row + place / tile.columns;
      const int x = tile.column + place % tile.columns;
      values[i] = load<T, kChannels>(arguments.x.at(tile.image, y, x) + channel, item < items);
      if constexpr (kAdd) {
        added[i] =
            load<T, kChannels>(arguments.addend.at(tile.image, y, x) + channel, item < items);
      }
      to[i] = arguments.y.at(tile.image, y, x) + channel;
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (base + i * threads_per_block >= items) break;
      if constexpr (kAdd) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          values[i].values[c] =
              static_cast<T>(widen(values[i].values[c]) + widen(added[i].values[c]));
        }
      }
      *reinterpret_cast<Pack<T, kChannels>*>(to[i]) = values[i];
    }
  }
}

template <typename T, bool kAdd>
__device__ inline void copy_identity(const MixerArguments<T>& arguments, const MixerTile& tile) {
  switch (arguments.copied_at_once) {
    case 8:
      if constexpr (sizeof(T) == 2) return copy_identity<T, 8, kAdd>(arguments, tile);
      break;
    case 4:
      return copy_identity<T, 4, kAdd>(arguments, tile);
    case 2:
      return copy_identity<T, 2, kAdd>(arguments, tile);
    default:
      return copy_identity<T, 1, kAdd>(arguments, tile);
  }
}

template <typename T, int kBand, int kChannels, bool kAdd>
__global__ void __launch_bounds__(threads_per_block, 3)
    mixer_kernel(const __grid_constant__ MixerArguments<T> arguments) {
  extern __shared__ float shared_taps[];  // [square taps + 2 kBand taps][branch channels]
  constexpr int square_taps = square_size * square_size;
  using Input = Pack<T, kChannels>;
  const Sides& sides = arguments.sides;
  const int g = sides.branch_channels;
  for (int i = static_cast<int>(threadIdx.x); i < (square_taps + 2 * kBand) * g;
       i += threads_per_block) {
    const int row = i / g;
    const int channel = i % g;
    const int branch = row < square_taps ? square : row < square_taps + kBand ? wide : tall;
    const int count = branch == square ? square_taps : kBand;
    const int tap = row - (branch == square ? 0 : square_taps + (branch - 1) * kBand);
    shared_taps[i] =
        arguments.taps[branch][channel * count + (arguments.turned ? count - 1 - tap : tap)];
  }
  __syncthreads();

  const MixerTile tile = mixer_tile(arguments);
  const int packs = g / kChannels;
  const int row_strips = (tile.columns + strip - 1) / strip;
  const int shift = arguments.copy_identity ? 0 : sides.identity_channels;  // of y's channels
  // Strips along rows (wide, square), then strips down columns (tall).
  const int row_items = tile.rows * row_strips * packs;
  const int items = 2 * row_items + tile.columns * packs;
  for (int item = static_cast<int>(threadIdx.x); item < items; item += threads_per_block) {
    const int branch = item < row_items ? wide : item < 2 * row_items ? square : tall;
    const int index = item - (branch == wide ? 0 : branch == square ? row_items : 2 * row_items);
    const int pack = index % packs * kChannels;
    const int place = index / packs;
    const int channel = sides.identity_channels + branch * g + pack;
    const int y = tile.row + (branch == tall ? 0 : place / row_strips);
    const int x = tile.column + (branch == tall ? place : place % row_strips * strip);
    const auto input = [&](int row, int column) {
      const bool inside = row >= 0 && row < sides.height && column >= 0 && column < sides.width;
      return load<T, kChannels>(arguments.x.at(tile.image, row, column) + channel, inside);
    };
    const auto taps = [&](int row) {
      Floats<kChannels> values;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) values.values[c] = shared_taps[row * g + pack + c];
      return values;
    };
    // Output o of the strip: its row, its column, and whether it exists.
    const auto row_of = [&](int o) { return branch == tall ? y + o : y; };
    const auto column_of = [&](int o) { return branch == tall ? x : x + o; };
    const int length = branch == tall ? tile.rows : tile.column + tile.columns - x;

    Input added[strip];
    if constexpr (kAdd) {
#pragma unroll
      for (int o = 0; o < strip; ++o) {
        added[o] = load<T, kChannels>(
            arguments.addend.at(tile.image, row_of(o), column_of(o)) + channel, o < length);
      }
    }
    Floats<kChannels> sums[strip];
    if (arguments.biases[branch] != nullptr) {
#pragma unroll
      for (int o = 0; o < strip; ++o) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sums[o].values[c] = arguments.biases[branch][pack + c];
      }
    }
    if (branch == square) {
      Input inputs[square_size][strip + square_size - 1];
#pragma unroll
      for (int row = 0; row < square_size; ++row) {
#pragma unroll
        for (int i = 0; i < strip + square_size - 1; ++i) {
          inputs[row][i] = input(y + row - square_size / 2, x + i - square_size / 2);
        }
      }
#pragma unroll
      for (int row = 0; row < square_size; ++row) {
        convolve_strip<square_size>(sums, inputs[row],
                                    [&](int t) { return taps(row * square_size + t); });
      }
    } else {
      Input inputs[strip + kBand - 1];
#pragma unroll
      for (int i = 0; i < strip + kBand - 1; ++i) {
        inputs[i] = branch == tall ? input(y + i - kBand / 2, x) : input(y, x + i - kBand / 2);
      }
      const int first_tap = square_taps + (branch == tall ? kBand : 0);
      convolve_strip<kBand>(sums, inputs, [&](int t) { return taps(first_tap + t); });
    }
#pragma unroll
    for (int o = 0; o < strip; ++o) {
      if (o >= length) break;
      if constexpr (kAdd) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sums[o].values[c] += widen(added[o].values[c]);
      }
      store(arguments.y.at(tile.image, row_of(o), column_of(o)) + channel - shift, sums[o]);
    }
  }
  if (arguments.copy_identity) copy_identity<T, kAdd>(arguments, tile);
}

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

std::int64_t divided_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

Sides sides_of(const InceptionMixerProblem& problem) {
  return {problem.images, static_cast<int>(problem.height), static_cast<int>(problem.width),
          static_cast<int>(problem.branch_channels), static_cast<int>(problem.identity_channels())};
}

bool is_empty(const InceptionMixerProblem& problem) {
  return problem.images == 0 || problem.height == 0 || problem.width == 0;
}

std::int64_t element_bytes(Element element) {
  return element == Element::f64 ? 8 : element == Element::f32 ? 4 : 2;
}

// The widest pack of channels (8, 4, 2 or 1, at most 16 bytes) that divides their number, the first
// channel, strides and addresses.
int channels_at_once(const InceptionMixerProblem& problem, std::int64_t channels, const void* data,
                     const ImageStrides& strides, std::int64_t first_channel) {
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

bool can_fuse(const InceptionMixerProblem& problem) {
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

template <typename Run>
void with_pack(int count, Run run) {
  if (count >= most_conv_channels) return run(std::integral_constant<int, most_conv_channels>{});
  return run(std::integral_constant<int, 1>{});
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

struct Application {
  IdentityChannels identity;
  bool turned;
  ConstImages x;
  ConstImages addend;
  Images y;
};

void launch_fused(const InceptionMixerProblem& problem, const InceptionMixerWeights& weights,
                  const Application& call, void* stream) {
  const std::int64_t identity = problem.identity_channels();
  const std::int64_t g = problem.branch_channels;
  const bool copied = call.identity == IdentityChannels::copied;
  // A null addend fits every pack.
  const auto together = [&](std::int64_t channels, std::int64_t first, std::int64_t first_of_y) {
    return std::min(
        {channels_at_once(problem, channels, call.x.data, call.x.strides, first),
         channels_at_once(problem, channels, call.y.data, call.y.strides, first_of_y),
         channels_at_once(problem, channels, call.addend.data, call.addend.strides, first)});
  };
  const int count = together(g, identity, copied ? identity : 0);
  // Equal tiles of at most 56 columns, in whole strips.
  const std::int64_t tiles = divided_up(problem.width, 56);
  const std::int64_t tile_columns = divided_up(divided_up(problem.width, tiles), strip) * strip;
  with_type_and_band(problem, [&](auto type, auto band) {
    using T = decltype(type);
    MixerArguments<T> arguments{};
    arguments.sides = sides_of(problem);
    const void* taps[branches] = {weights.square, weights.wide, weights.tall};
    const void* biases[branches] = {weights.square_bias, weights.wide_bias, weights.tall_bias};
    for (int branch = 0; branch < branches; ++branch) {
      arguments.taps[branch] = static_cast<const float*>(taps[branch]);
      arguments.biases[branch] = static_cast<const float*>(biases[branch]);
    }
    arguments.x = view_of<T>(call.x);
    arguments.y = view_of<T>(call.y);
    arguments.addend = view_of<T>(call.addend);
    arguments.copy_identity = copied && identity > 0;
    arguments.copied_at_once = together(identity, 0, 0);
    arguments.turned = call.turned;
    arguments.tile_columns = static_cast<int>(tile_columns);
    const std::int64_t blocks = problem.images * divided_up(problem.height, strip) *
                                divided_up(problem.width, tile_columns);
    const std::size_t shared_bytes =
        static_cast<std::size_t>((square_size * square_size + 2 * band.value) *
                                 problem.branch_channels) *
        sizeof(float);
    with_pack(count, [&](auto pack) {
      const dim3 grid(static_cast<unsigned>(blocks));
      if (call.addend.data == nullptr) {
        launch(&mixer_kernel<T, band.value, pack.value, false>, grid, shared_bytes, arguments,
               stream, "inception mixer");
      } else {
        launch(&mixer_kernel<T, band.value, pack.value, true>, grid, shared_bytes, arguments,
               stream, "inception mixer");
      }
    });
  });
}

// Images of one group of channels.
template <typename I>
I from_channel(const InceptionMixerProblem& problem, I images, std::int64_t channel) {
  using Byte = std::conditional_t<std::is_same_v<I, Images>, char, const char>;
  if (images.data != nullptr) {
    images.data = static_cast<Byte*>(images.data) +
                  channel * images.strides.channel * element_bytes(problem.element);
  }
  return images;
}

DepthwiseProblem branch_problem(const InceptionMixerProblem& problem, int branch) {
  DepthwiseProblem part;
  part.images = problem.images;
  part.channels = problem.branch_channels;
  part.height = problem.height;
  part.width = problem.width;
  part.kernel_height = branch == square ? problem.square_size
                       : branch == tall ? problem.band_size
                                        : 1;
  part.kernel_width = branch == square ? problem.square_size
                      : branch == wide ? problem.band_size
                                       : 1;
  part.pad_top = part.kernel_height / 2;
  part.pad_left = part.kernel_width / 2;
  part.element = problem.element;
  part.layout = problem.layout;
  return part;
}

// y = x (+ addend), element by element, for strided images of few or many channels.
template <typename T>
struct CopyArguments {
  std::int64_t count;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  bool planar;
  const T* x;
  const T* addend;
  T* y;
  ImageStrides x_strides;
  ImageStrides y_strides;
};

template <typename T>
__global__ void copy_kernel(const __grid_constant__ CopyArguments<T> arguments) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= arguments.count) return;
  const std::int64_t pixels = arguments.height * arguments.width;
  const std::int64_t n = i / (arguments.channels * pixels);
  const std::int64_t rest = i % (arguments.channels * pixels);
  const std::int64_t c = arguments.planar ? rest / pixels : rest % arguments.channels;
  const std::int64_t pixel = arguments.planar ? rest % pixels : rest / arguments.channels;
  const auto offset = [&](const ImageStrides& strides) {
    return n * strides.image + c * strides.channel + pixel / arguments.width * strides.row +
           pixel % arguments.width * strides.column;
  };
  const std::int64_t to = offset(arguments.y_strides);
  T value = arguments.x[offset(arguments.x_strides)];
  if (arguments.addend != nullptr) value = static_cast<T>(value + arguments.addend[to]);
  arguments.y[to] = value;
}

template <typename T>
void launch_copy(const InceptionMixerProblem& problem, std::int64_t channels, const ConstImages& x,
                 const ConstImages& addend, const Images& y, void* stream) {
  CopyArguments<T> arguments{};
  arguments.count = problem.images * channels * problem.height * problem.width;
  if (arguments.count == 0) return;
  arguments.channels = channels;
  arguments.height = problem.height;
  arguments.width = problem.width;
  arguments.planar = problem.layout == ImageLayout::planar;
  arguments.x = static_cast<const T*>(x.data);
  arguments.addend = static_cast<const T*>(addend.data);
  arguments.y = static_cast<T*>(y.data);
  arguments.x_strides = x.strides;
  arguments.y_strides = y.strides;
  copy_kernel<T><<<static_cast<unsigned>(divided_up(arguments.count, threads_per_block)),
                   threads_per_block, 0, static_cast<cudaStream_t>(stream)>>>(arguments);
  check_launch("inception mixer identity");
}

void copy(const InceptionMixerProblem& problem, std::int64_t channels, const ConstImages& x,
          const ConstImages& addend, const Images& y, void* stream) {
  switch (problem.element) {
    case Element::f32:
      return launch_copy<float>(problem, channels, x, addend, y, stream);
    case Element::f64:
      return launch_copy<double>(problem, channels, x, addend, y, stream);
    case Element::f16:
      return launch_copy<__half>(problem, channels, x, addend, y, stream);
    case Element::bf16:
      return launch_copy<__nv_bfloat16>(problem, channels, x, addend, y, stream);
  }
}

// The convolved channels branch by branch, through the depthwise kernels.
void launch_branches(const InceptionMixerProblem& problem, const InceptionMixerWeights& weights,
                     const Application& call, void* stream) {
  const std::int64_t identity = problem.identity_channels();
  const std::int64_t shift = call.identity == IdentityChannels::copied ? 0 : identity;
  const void* taps[branches] = {weights.square, weights.wide, weights.tall};
  const void* biases[branches] = {weights.square_bias, weights.wide_bias, weights.tall_bias};
  for (int branch = 0; branch < branches; ++branch) {
    const std::int64_t channel = identity + branch * problem.branch_channels;
    const DepthwiseProblem part = branch_problem(problem, branch);
    const ConstImages x = from_channel(problem, call.x, channel);
    const Images y = from_channel(problem, call.y, channel - shift);
    if (call.turned) {
      launch_depthwise_input_gradient(part, taps[branch], x,
                                      from_channel(problem, call.addend, channel).data, y, stream);
    } else {
      launch_depthwise_forward(part, taps[branch], biases[branch], x, y, stream);
    }
  }
  if (call.identity == IdentityChannels::copied) {
    copy(problem, identity, call.x, call.addend, call.y, stream);
  }
}

void launch_mixer(const InceptionMixerProblem& problem, const InceptionMixerWeights& weights,
                  const Application& call, void* stream) {
  if (is_empty(problem)) return;
  if (can_fuse(problem)) {
    launch_fused(problem, weights, call, stream);
  } else {
    launch_branches(problem, weights, call, stream);
  }
}

// Blocks of the fused weight gradient for each branch.
std::int64_t fused_parts(const InceptionMixerProblem& problem) {
  const std::int64_t strips = problem.images * problem.height * divided_up(problem.width, strip) *
                              problem.branch_channels / most_conv_channels;
  return std::clamp<std::int64_t>(divided_up(strips, 4 * threads_per_block), 1,
                                  multiprocessor_count());
}

std::int64_t fused_elements(const InceptionMixerProblem& problem) {
  const std::int64_t most = std::max<std::int64_t>(problem.band_size, square_size * square_size);
  return branches * (most + 1) * problem.branch_channels;
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

}  // namespace

const char* inception_mixer_implementation(const InceptionMixerProblem& problem) {
  return can_fuse(problem) ? "fused" : "branches";
}

void launch_inception_mixer_forward(const InceptionMixerProblem& problem,
                                    const InceptionMixerWeights& weights, IdentityChannels identity,
                                    const ConstImages& x, const Images& y, void* stream) {
  launch_mixer(problem, weights, {identity, false, x, ConstImages{}, y}, stream);
}

void launch_inception_mixer_input_gradient(const InceptionMixerProblem& problem,
                                           const InceptionMixerWeights& weights,
                                           const ConstImages& dy, const void* addend,
                                           const Images& dx, void* stream) {
  InceptionMixerWeights taps = weights;
  taps.square_bias = taps.wide_bias = taps.tall_bias = nullptr;
  const ConstImages added = {addend, dx.strides};
  launch_mixer(problem, taps, {IdentityChannels::copied, true, dy, added, dx}, stream);
}

std::size_t inception_mixer_weight_gradient_scratch_bytes(const InceptionMixerProblem& problem) {
  if (can_fuse(problem)) {
    return is_empty(problem)
               ? 0
               : static_cast<std::size_t>(fused_parts(problem) * fused_elements(problem)) *
                     sizeof(float);
  }
  std::size_t most = 0;
  for (int branch = 0; branch < branches; ++branch) {
    most = std::max(most, depthwise_weight_gradient_scratch_bytes(branch_problem(problem, branch)));
  }
  return most;
}

void launch_inception_mixer_weight_gradient(const InceptionMixerProblem& problem,
                                            const ConstImages& x, const ConstImages& dy,
                                            void* scratch, const InceptionMixerGradients& gradients,
                                            void* stream) {
  if (can_fuse(problem)) {
    return launch_fused_weight_gradient(problem, x, dy, static_cast<float*>(scratch), gradients,
                                        stream);
  }
  void* taps[branches] = {gradients.square, gradients.wide, gradients.tall};
  void* biases[branches] = {gradients.square_bias, gradients.wide_bias, gradients.tall_bias};
  for (int branch = 0; branch < branches; ++branch) {
    const std::int64_t channel = problem.identity_channels() + branch * problem.branch_channels;
    launch_depthwise_weight_gradient(
        branch_problem(problem, branch), from_channel(problem, x, channel),
        from_channel(problem, dy, channel), scratch, taps[branch], biases[branch], stream);
  }
}

}  // namespace einkorn::convolution
