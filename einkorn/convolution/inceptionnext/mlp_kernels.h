// A folded block's two products on the CPU, in f32: x += gelu(rows W1' + b1) W2' + b2.
#pragma once

#include <cstdint>

#include "einkorn/convolution/inceptionnext/gemm_kernels.h"

namespace einkorn::inceptionnext {

// rows: a pixel's inputs; x: [pixels, fc2.outputs], read as residual and written; may be where rows
// points. Runs on all threads. Packed with gemm_kernels() of the same instruction set.
void run_folded_mlp(const RowSources& rows, std::int64_t pixels, const PackedWeights& fc1,
                    const PackedWeights& fc2, float* x);

}  // namespace einkorn::inceptionnext
