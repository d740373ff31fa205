// Depthwise convolution of f16 and bf16 images in channels_last on the matrix units, row by row.
//
// For one channel and one kernel row, eight neighbouring outputs of an image row are the product of
// a window of 8 + size - 1 inputs with a banded Toeplitz matrix of the taps. Sixteen such windows,
// one a unit, are the rows of one mma.m16n8k16: the matrix unit does size of them for 16 x 8
// outputs. A warp owns two channels, walks down the rows of all 16 units at once and keeps the
// outputs of `size` rows in registers, so that each input is read from shared memory once.
//
// A row in shared memory is overwritten with outputs once no unit needs it.
#include "einkorn/convolution/depthwise_toeplitz_planes_device.cuh"

namespace einkorn::convolution::toeplitz {
namespace {

struct ConvolutionArguments {
  Sides sides;
  Tiling tiling;
  PlaneLayout layout;
  Divider output_rows;  // of one image
  Grid grid;
  Source x;
  Target y;
  Parameters parameters;
  int pad_top;
  int pad_left;
  bool turned;  // taps in reverse order
};

// The taps of the block's channels, [channel][tap], zero for channels that do not exist.
template <typename T, int kSize, bool kNarrow>
__device__ inline void load_taps(const ConvolutionArguments& arguments, int first_channel,
                                 float* shared) {
  constexpr int taps = kSize * kSize;
  const std::int64_t first = static_cast<std::int64_t>(first_channel) * taps;
  const std::int64_t count = arguments.sides.channels * taps;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < channels_per_block * taps; i += planes * 32) {
    shared[i] = arguments.parameters.weight<T, kNarrow>(first + i, first + i < count);
  }
}

// One kernel row of a channel as a banded matrix: b of mma.m16n8k16 (two words), then of
// mma.m16n8k8 (one).
template <typename T, int kSize>
__device__ inline void make_band(const float* row, bool turned, std::uint32_t* band) {
  constexpr int words = kSize + block_columns - 1 > 16 ? 3 : 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int word = 0; word < words; ++word) {
    float pair[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int tap = lane % 4 * 2 + half + word * 8 - lane / 4;
      const bool inside = tap >= 0 && tap < kSize;
      const float value = row[inside ? (turned ? kSize - 1 - tap : tap) : 0];
      pair[half] = inside ? value : 0.0f;
    }
    band[word] = pack<T>(pair[0], pair[1]);
  }
}

// Windows of 16 (or 24) columns of all units in one row, for both channels of the pair.
template <int kWords>
__device__ inline void load_windows(const std::uint32_t* upper, const std::uint32_t* lower,
                                    std::uint32_t (&a)[2][2 * kWords]) {
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    const uint2 first = *reinterpret_cast<const uint2*>(upper + word * 8);
    const uint2 second = *reinterpret_cast<const uint2*>(lower + word * 8);
    a[0][2 * word] = low_halves(first.x, first.y);
    a[1][2 * word] = high_halves(first.x, first.y);
    a[0][2 * word + 1] = low_halves(second.x, second.y);
    a[1][2 * word + 1] = high_halves(second.x, second.y);
  }
}

// Rows above and below a strip meet sums that are never stored: adding to them costs less than
// asking.
template <typename T, int kSize>
__device__ inline void convolve_units(const ConvolutionArguments& arguments, std::uint32_t* plane,
                                      const std::uint32_t (&band)[kSize][2][3], float2 bias) {
  constexpr int words = kSize + block_columns - 1 > 16 ? 3 : 2;
  const Tiling& tiling = arguments.tiling;
  const int row_words = arguments.layout.row_words;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::uint32_t* upper = plane + unit_word(tiling, arguments.layout, lane / 4) + lane % 4 * 2;
  std::uint32_t* lower = plane + unit_word(tiling, arguments.layout, lane / 4 + 8) + lane % 4 * 2;
  const int steps = tiling.strip_rows + kSize - 1;
  float sums[kSize][2][4];
  for (int base = 0; base < steps; base += kSize) {
#pragma unroll
    for (int phase = 0; phase < kSize; ++phase) {
      const int step = base + phase;
      if (step >= steps) break;
      std::uint32_t a[2][2 * words];
      load_windows<words>(upper, lower, a);
#pragma unroll
      for (int channel = 0; channel < 2; ++channel) {
#pragma unroll
        for (int element = 0; element < 4; ++element) sums[phase][channel][element] = 0;
#pragma unroll
        for (int kernel_row = 0; kernel_row < kSize; ++kernel_row) {
          float(&sum)[4] = sums[(phase - kernel_row + kSize) % kSize][channel];
          multiply_16<T>(sum, a[channel], band[kernel_row][channel]);
          if constexpr (words == 3) {
            multiply_8<T>(sum, a[channel] + 4, band[kernel_row][channel] + 2);
          }
        }
      }
      if (step >= kSize - 1) {
        // Every lane has read this row by now, and no unit reads it again.
        const float(&done)[2][4] = sums[(phase + 1) % kSize];
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = pack<T>(done[0][i] + bias.x, done[1][i] + bias.y);
        __syncwarp();
        *reinterpret_cast<uint2*>(upper) = make_uint2(pairs[0], pairs[1]);
        *reinterpret_cast<uint2*>(lower) = make_uint2(pairs[2], pairs[3]);
      }
      upper += row_words;
      lower += row_words;
    }
  }
}

// Outputs of the tile from the planes, where output row r lies in row r + size - 1.
template <typename T>
__device__ inline void store_tile(const ConvolutionArguments& arguments,
                                  const std::uint32_t* shared, const Tile& tile, int first_channel,
                                  int halo_rows) {
  constexpr int columns_at_once = 16;
  const Tiling& tiling = arguments.tiling;
  const PlaneLayout& layout = arguments.layout;
  const Sides& sides = arguments.sides;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int rows = tiling.images * arguments.output_rows.divisor;
  const int columns = min(tiling.columns(), sides.width - tile.column);
  const int channel = first_channel + lane % 2 * chunk_channels;
  if (channel >= sides.channels) return;
  const std::uint32_t* planes_of_chunk = shared + lane % 2 * 4 * layout.plane_words;
  const std::int64_t first = tile.image * arguments.y.image_bytes + channel * 2 +
                             (tile.column + lane / 2) * arguments.y.column_bytes;
  for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += planes) {
    const int image = arguments.output_rows.quotient(row);
    const int image_row = row - image * arguments.output_rows.divisor;
    const int y = tile.row + image_row;
    if (y >= sides.height || tile.image + image >= sides.images) continue;
    std::int64_t offset = first + image * arguments.y.image_bytes + y * arguments.y.row_bytes;
    const std::uint32_t* at = planes_of_chunk + image * layout.image_words +
                              (image_row + halo_rows) * layout.row_words + lane / 2;
#pragma unroll 4
    for (int column = lane / 2; column < columns; column += columns_at_once) {
      uint4 values = make_uint4(at[0], at[layout.plane_words], at[2 * layout.plane_words],
                                at[3 * layout.plane_words]);
      if (arguments.y.addend != nullptr) {
        values =
            sum_of_chunks<T>(values, *reinterpret_cast<const uint4*>(arguments.y.addend + offset));
      }
      *reinterpret_cast<uint4*>(arguments.y.data + offset) = values;
      offset += columns_at_once * arguments.y.column_bytes;
      at += columns_at_once;
    }
  }
}

template <typename T, int kSize>
__global__ void __launch_bounds__(planes * 32, kSize <= 7 ? 2 : 1)
    convolution_kernel(const __grid_constant__ ConvolutionArguments arguments) {
  extern __shared__ uint4 memory[];
  const PlaneLayout& layout = arguments.layout;
  const Tiling& tiling = arguments.tiling;
  uint4* staging = memory;
  auto* shared = reinterpret_cast<std::uint32_t*>(memory + tiling.images * layout.rows.divisor *
                                                               layout.columns * 2);
  const int group = blockIdx.x % arguments.grid.channel_groups;
  const int first_channel = group * channels_per_block;
  const int warp = threadIdx.x / 32;
  const int channel = first_channel + 2 * warp;

  const auto stage = [&](int index) {
    for_each_chunk<1>(tiling, layout, arguments.sides, arguments.x,
                      tile_at(arguments.grid, tiling, index), arguments.pad_top, arguments.pad_left,
                      first_channel, [&](int place, int, const char* from, bool valid) {
                        copy_async(staging + place, from, valid);
                      });
  };
  int index = blockIdx.x / arguments.grid.channel_groups;
  const int stride = gridDim.x / arguments.grid.channel_groups;
  if (index < arguments.grid.tiles) stage(index);

  // The planes are not in use yet.
  auto* taps = reinterpret_cast<float*>(shared);
  if (arguments.parameters.narrow) {
    load_taps<T, kSize, true>(arguments, first_channel, taps);
  } else {
    load_taps<T, kSize, false>(arguments, first_channel, taps);
  }
  __syncthreads();
  std::uint32_t band[kSize][2][3];
#pragma unroll
  for (int kernel_row = 0; kernel_row < kSize; ++kernel_row) {
    const int row = arguments.turned ? kSize - 1 - kernel_row : kernel_row;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      make_band<T, kSize>(taps + ((2 * warp + side) * kSize + row) * kSize, arguments.turned,
                          band[kernel_row][side]);
    }
  }
  float2 bias = make_float2(0, 0);
  if (channel < arguments.sides.channels) {
    bias = make_float2(arguments.parameters.bias<T>(channel, true),
                       arguments.parameters.bias<T>(channel + 1, true));
  }

  for (; index < arguments.grid.tiles; index += stride) {
    const Tile tile = tile_at(arguments.grid, tiling, index);
    wait_for_copies();
    __syncthreads();
    for_each_chunk<1>(tiling, layout, arguments.sides, arguments.x, tile, arguments.pad_top,
                      arguments.pad_left, first_channel,
                      [&](int place, int word, const char*, bool) {
                        write_planes(shared, layout, word, staging[place]);
                      });
    __syncthreads();
    if (index + stride < arguments.grid.tiles) stage(index + stride);
    convolve_units<T, kSize>(arguments, shared + warp * layout.plane_words, band, bias);
    __syncthreads();
    store_tile<T>(arguments, shared, tile, first_channel, kSize - 1);
  }
}

}  // namespace

void launch_rows_convolution(const DepthwiseProblem& problem, Direction direction,
                             const void* weights, const void* biases, const ConstImages& x,
                             const void* addend, const Images& y, void* stream) {
  const Plan plan = make_plan(problem, false);
  ConvolutionArguments arguments{};
  arguments.sides = sides_of(problem);
  arguments.tiling = plan.tiling;
  arguments.layout = plan.x_layout;
  arguments.output_rows = divider(plan.tiling.rows());
  arguments.grid = plan.grid;
  arguments.x = source_of(x);
  arguments.y = target_of(y, addend);
  arguments.parameters = {weights, biases, problem.narrow_weights};
  arguments.pad_top = static_cast<int>(problem.pad_top);
  arguments.pad_left = static_cast<int>(problem.pad_left);
  arguments.turned = direction == Direction::input_gradient;
  with_type_and_size(problem, [&](auto type, auto size) {
    launch(&convolution_kernel<decltype(type), size.value>, plan.blocks, planes * 32,
           plan.shared_bytes, arguments, stream, "depthwise toeplitz convolution");
  });
}

}  // namespace einkorn::convolution::toeplitz
