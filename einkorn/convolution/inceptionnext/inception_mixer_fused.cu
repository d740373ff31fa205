// The fused Inception mixer, and its input gradient as the same operation with the taps turned
// round.
#include "einkorn/convolution/inceptionnext/inception_mixer_device.cuh"

namespace einkorn::convolution::mixer {
namespace {

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

// Blocks of a multiprocessor. Packs of four channels need more registers than three leave, and are
// faster by a third all the same; packs of eight are no faster than those of four.
template <int kChannels>
constexpr int blocks_at_once = kChannels <= 2 ? 3 : 2;

template <typename T, int kBand, int kChannels, bool kAdd>
__global__ void __launch_bounds__(threads_per_block, blocks_at_once<kChannels>)
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

template <typename Run>
void with_pack(int count, Run run) {
  if (count >= 4) return run(std::integral_constant<int, 4>{});
  if (count >= 2) return run(std::integral_constant<int, 2>{});
  return run(std::integral_constant<int, 1>{});
}

}  // namespace

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

}  // namespace einkorn::convolution::mixer
