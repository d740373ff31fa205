// Gradients of depthwise taps and biases on the matrix units, for f16 and bf16 images in
// channels_last: over all units and rows, the products of input columns with output-gradient
// columns, summed along diagonals in the end.
#include "einkorn/convolution/depthwise_toeplitz_planes_device.cuh"

namespace einkorn::convolution::toeplitz {
namespace {

struct WeightGradientArguments {
  Sides sides;
  Tiling tiling;
  PlaneLayout x_layout;
  PlaneLayout dy_layout;
  Grid grid;
  Source x;
  Source dy;
  float* partial_sums;  // [parts, channels, size * size + 1], the bias last
  int pad_top;
  int pad_left;
};

template <typename T>
constexpr std::uint32_t pair_of_ones = std::is_same_v<T, __half> ? 0x3c003c00u : 0x3f803f80u;

// Gradients of kRows kernel rows of two channels in the registers of a warp. For each kernel row,
// element [m][n] sums input column m times output-gradient column n over all units and rows; the
// gradient of tap k is the sum of the elements with m - n = k.
template <typename T, int kSize, int kRows>
struct TapSums {
  static constexpr int column_tiles = (kSize + block_columns - 1 + 15) / 16;
  float taps[kRows][2][column_tiles][4] = {};
  float bias[2][4] = {};

  // Units in the order of mma's inner index, so that the lanes of a load hit different banks.
  static __device__ int unit_of(int element) { return threadIdx.x % 4 + 4 * element; }

  __device__ void add_tile(const WeightGradientArguments& arguments, const std::uint32_t* x_plane,
                           const std::uint32_t* dy_plane, int first_kernel_row) {
    const Tiling& tiling = arguments.tiling;
    const int lane = threadIdx.x % 32;
    const std::uint32_t* x[4];
    const std::uint32_t* dy[4];
    std::uint32_t mask[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = x_plane + unit_word(tiling, arguments.x_layout, unit_of(i)) + lane / 4 +
             first_kernel_row * arguments.x_layout.row_words;
      dy[i] = dy_plane + unit_word(tiling, arguments.dy_layout, unit_of(i)) + lane / 4;
      mask[i] = unit_of(i) < tiling.used_units() ? 0xffffffffu : 0u;
    }
    // Rows of dy; zero above and below the strip, so that every product may be added.
    std::uint32_t recent[kRows][2][2] = {};
    // No further than the kernel's last row, where the planes end.
    const int steps = tiling.strip_rows + min(kRows, kSize - first_kernel_row) - 1;
    for (int base = 0; base < steps; base += kRows) {
#pragma unroll
      for (int phase = 0; phase < kRows; ++phase) {
        const int step = base + phase;
        if (step >= steps) break;
        load_gradients(dy, mask, step * arguments.dy_layout.row_words, step < tiling.strip_rows,
                       recent[phase]);
        if (first_kernel_row == 0) {
          const std::uint32_t ones[4] = {pair_of_ones<T>, pair_of_ones<T>, pair_of_ones<T>,
                                         pair_of_ones<T>};
          multiply_16<T>(bias[0], ones, recent[phase][0]);
          multiply_16<T>(bias[1], ones, recent[phase][1]);
        }
#pragma unroll
        for (int tile = 0; tile < column_tiles; ++tile) {
          std::uint32_t a[2][4];
          load_inputs(x, step * arguments.x_layout.row_words, tile, a);
#pragma unroll
          for (int row = 0; row < kRows; ++row) {
            const int slot = (phase - row + kRows) % kRows;
            multiply_16<T>(taps[row][0][tile], a[0], recent[slot][0]);
            multiply_16<T>(taps[row][1][tile], a[1], recent[slot][1]);
          }
        }
      }
    }
  }

  __device__ static void load_gradients(const std::uint32_t* const (&dy)[4],
                                        const std::uint32_t (&mask)[4], int offset, bool inside,
                                        std::uint32_t (&b)[2][2]) {
#pragma unroll
    for (int word = 0; word < 2; ++word) {
      const std::uint32_t first = inside ? dy[2 * word][offset] & mask[2 * word] : 0;
      const std::uint32_t second = inside ? dy[2 * word + 1][offset] & mask[2 * word + 1] : 0;
      b[0][word] = low_halves(first, second);
      b[1][word] = high_halves(first, second);
    }
  }

  __device__ static void load_inputs(const std::uint32_t* const (&x)[4], int offset, int tile,
                                     std::uint32_t (&a)[2][4]) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const int column = tile * 16 + word % 2 * 8;
      if (column >= kSize + block_columns - 1) {
        a[0][word] = a[1][word] = 0;
        continue;
      }
      const std::uint32_t first = x[word / 2 * 2][offset + column];
      const std::uint32_t second = x[word / 2 * 2 + 1][offset + column];
      a[0][word] = low_halves(first, second);
      a[1][word] = high_halves(first, second);
    }
  }

  // Sums along the diagonals by way of [columns][8] floats of shared memory.
  __device__ void store(const WeightGradientArguments& arguments, float* diagonal, int channel,
                        int first_kernel_row, std::int64_t part) const {
    const int lane = threadIdx.x % 32;
    for (int side = 0; side < 2; ++side) {
      if (channel + side >= arguments.sides.channels) return;
      float* out = arguments.partial_sums +
                   (part * arguments.sides.channels + channel + side) * (kSize * kSize + 1);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
#pragma unroll
        for (int tile = 0; tile < column_tiles; ++tile) {
#pragma unroll
          for (int element = 0; element < 4; ++element) {
            diagonal[(tile * 16 + lane / 4 + element / 2 * 8) * block_columns + lane % 4 * 2 +
                     element % 2] =
                side == 0 ? taps[row][0][tile][element] : taps[row][1][tile][element];
          }
        }
        __syncwarp();
        if (lane < kSize && first_kernel_row + row < kSize) {
          float sum = 0;
          for (int n = 0; n < block_columns; ++n) sum += diagonal[(n + lane) * block_columns + n];
          out[(first_kernel_row + row) * kSize + lane] = sum;
        }
        __syncwarp();
      }
      if (first_kernel_row == 0) {
        // All rows of the bias product are equal.
        float sum = side == 0 ? bias[0][0] + bias[0][1] : bias[1][0] + bias[1][1];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane == 0) out[kSize * kSize] = sum;
      }
    }
  }
};

template <typename T, int kSize>
__global__ void __launch_bounds__(planes * 32, kSize <= 7 ? 2 : 1)
    weight_gradient_kernel(const __grid_constant__ WeightGradientArguments arguments) {
  extern __shared__ uint4 memory[];
  constexpr int row_groups = kernel_row_groups(kSize);
  constexpr int kernel_rows = (kSize + row_groups - 1) / row_groups;
  auto* x_planes = reinterpret_cast<std::uint32_t*>(memory);
  std::uint32_t* dy_planes = x_planes + planes * arguments.x_layout.plane_words;
  const int first_channel = blockIdx.x % arguments.grid.channel_groups * channels_per_block;
  const int plane = threadIdx.x / 32;
  const int block = blockIdx.x / arguments.grid.channel_groups;
  const int first_kernel_row = block % row_groups * kernel_rows;
  const int part = block / row_groups;
  const int parts = gridDim.x / arguments.grid.channel_groups / row_groups;

  TapSums<T, kSize, kernel_rows> sums;
  for (int index = part; index < arguments.grid.tiles; index += parts) {
    const Tile tile = tile_at(arguments.grid, arguments.tiling, index);
    const auto load = [&](std::uint32_t* to, const PlaneLayout& layout, const Source& source,
                          int row_offset, int column_offset) {
      for_each_chunk<2>(arguments.tiling, layout, arguments.sides, source, tile, row_offset,
                        column_offset, first_channel,
                        [&](int, int word, const char* from, bool valid) {
                          write_planes(to, layout, word,
                                       load_or_zero(reinterpret_cast<const uint4*>(from), valid));
                        });
    };
    __syncthreads();
    load(x_planes, arguments.x_layout, arguments.x, arguments.pad_top, arguments.pad_left);
    load(dy_planes, arguments.dy_layout, arguments.dy, 0, 0);
    __syncthreads();
    sums.add_tile(arguments, x_planes + plane * arguments.x_layout.plane_words,
                  dy_planes + plane * arguments.dy_layout.plane_words, first_kernel_row);
  }
  __syncthreads();
  constexpr int diagonal_floats = TapSums<T, kSize, kernel_rows>::column_tiles * 16 * block_columns;
  sums.store(arguments, reinterpret_cast<float*>(memory) + plane * diagonal_floats,
             first_channel + 2 * plane, first_kernel_row, part);
}

}  // namespace

int weight_gradient_parts(const DepthwiseProblem& problem) {
  return make_plan(problem, true).parts;
}

void launch_weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                            const ConstImages& dy, float* partial_sums, void* stream) {
  const Plan plan = make_plan(problem, true);
  WeightGradientArguments arguments{};
  arguments.sides = sides_of(problem);
  arguments.tiling = plan.tiling;
  arguments.x_layout = plan.x_layout;
  arguments.dy_layout = plan.dy_layout;
  arguments.grid = plan.grid;
  arguments.x = source_of(x);
  arguments.dy = source_of(dy);
  arguments.partial_sums = partial_sums;
  arguments.pad_top = static_cast<int>(problem.pad_top);
  arguments.pad_left = static_cast<int>(problem.pad_left);
  with_type_and_size(problem, [&](auto type, auto size) {
    launch(&weight_gradient_kernel<decltype(type), size.value>, plan.blocks, planes * 32,
           plan.shared_bytes, arguments, stream, "depthwise toeplitz weight gradient");
  });
}

}  // namespace einkorn::convolution::toeplitz
