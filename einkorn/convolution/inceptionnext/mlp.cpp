#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "einkorn/convolution/depthwise_internal.h"
#include "einkorn/convolution/inceptionnext/mlp_kernels.h"

namespace einkorn::inceptionnext {
namespace {

// Pixels whose hidden activations a thread keeps in L2 between the two products: a multiple of the
// rows of a register block.
constexpr std::int64_t tile_pixels = 56;

RowSources rows_from(const RowSources& rows, std::int64_t first) {
  RowSources some = rows;
  some.first += first * rows.first_stride;
  if (rows.second_count > 0) some.second += first * rows.second_stride;
  return some;
}

std::int64_t panels_of(const PackedWeights& weights, const GemmKernels& kernels) {
  return (weights.outputs + kernels.panel_width - 1) / kernels.panel_width;
}

// Pixels in tiles, both products of a tile by one thread.
void run_by_tiles(const GemmKernels& kernels, const RowSources& rows, std::int64_t pixels,
                  const PackedWeights& fc1, const PackedWeights& fc2, float* x) {
  const std::int64_t tiles = (pixels + tile_pixels - 1) / tile_pixels;
  at::parallel_for(0, tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto bytes = static_cast<std::size_t>(tile_pixels * fc1.outputs) * sizeof(float);
    auto* hidden = reinterpret_cast<float*>(convolution::thread_workspace(bytes));
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::int64_t first = tile * tile_pixels;
      const std::int64_t count = std::min(tile_pixels, pixels - first);
      float* output = x + first * fc2.outputs;
      kernels.multiply(rows_from(rows, first), count, fc1, 0, panels_of(fc1, kernels),
                       Epilogue::gelu, {hidden, fc1.outputs, nullptr});
      kernels.multiply({hidden, fc1.outputs, fc1.outputs}, count, fc2, 0, panels_of(fc2, kernels),
                       Epilogue::residual, {output, fc2.outputs, output});
    }
  });
}

// Too few tiles for all threads: one product after the other, threads take panels of outputs.
void run_by_panels(const GemmKernels& kernels, const RowSources& rows, std::int64_t pixels,
                   const PackedWeights& fc1, const PackedWeights& fc2, float* x) {
  std::vector<float> hidden(static_cast<std::size_t>(pixels * fc1.outputs));
  at::parallel_for(0, panels_of(fc1, kernels), 1, [&](std::int64_t begin, std::int64_t end) {
    kernels.multiply(rows, pixels, fc1, begin, end, Epilogue::gelu,
                     {hidden.data(), fc1.outputs, nullptr});
  });
  at::parallel_for(0, panels_of(fc2, kernels), 1, [&](std::int64_t begin, std::int64_t end) {
    kernels.multiply({hidden.data(), fc1.outputs, fc1.outputs}, pixels, fc2, begin, end,
                     Epilogue::residual, {x, fc2.outputs, x});
  });
}

}  // namespace

void run_folded_mlp(const RowSources& rows, std::int64_t pixels, const PackedWeights& fc1,
                    const PackedWeights& fc2, float* x) {
  const GemmKernels& kernels = gemm_kernels();
  const std::int64_t tiles = (pixels + tile_pixels - 1) / tile_pixels;
  if (tiles >= 4 * at::get_num_threads() || at::get_num_threads() == 1) {
    run_by_tiles(kernels, rows, pixels, fc1, fc2, x);
  } else {
    run_by_panels(kernels, rows, pixels, fc1, fc2, x);
  }
}

}  // namespace einkorn::inceptionnext
