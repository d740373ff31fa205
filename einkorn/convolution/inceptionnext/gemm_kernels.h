// Raw f32 matrix products of a folded block on the CPU: rows are pixels, weights are packed once. A
// row may come from two places, so that the mixer's unconvolved channels are read where they lie.
#pragma once

#include <cstddef>
#include <cstdint>

namespace einkorn::inceptionnext {

// Row i: first_count elements at first + i * first_stride, then second_count at second + ...
struct RowSources {
  const float* first = nullptr;
  std::ptrdiff_t first_stride = 0;
  std::int64_t first_count = 0;
  const float* second = nullptr;
  std::ptrdiff_t second_stride = 0;
  std::int64_t second_count = 0;
};

enum class Epilogue {
  gelu,      // c = gelu(a w' + bias), exact (erf) GELU to 1e-6 of max(1, |c|)
  residual,  // c = residual + a w' + bias; residual has c's stride and may be c itself
};

struct PackedWeights {
  const float* packed = nullptr;
  const float* bias = nullptr;
  std::int64_t outputs = 0;
};

struct RowTargets {
  float* data = nullptr;
  std::ptrdiff_t stride = 0;
  const float* residual = nullptr;
};

// One instruction set's version. Outputs are cut in panels of `panel_width`.
struct GemmKernels {
  std::int64_t panel_width;

  // weight [outputs, inputs] -> panels; `packed` has round_up(outputs, panel_width) * inputs.
  void (*pack)(const float* weight, std::int64_t outputs, std::int64_t inputs, float* packed);

  // Rows [0, rows), panels [panel_begin, panel_end).
  void (*multiply)(const RowSources& a, std::int64_t rows, const PackedWeights& weights,
                   std::int64_t panel_begin, std::int64_t panel_end, Epilogue epilogue,
                   const RowTargets& c);
};

const GemmKernels& gemm_kernels();

}  // namespace einkorn::inceptionnext
