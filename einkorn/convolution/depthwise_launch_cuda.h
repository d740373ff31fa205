// What the files of the depthwise device kernels share: the two implementations and the sum of
// partial weight gradients.
#pragma once

#include <cstddef>

#include "einkorn/convolution/depthwise_kernels.h"

namespace einkorn::convolution {

enum class Direction { forward, input_gradient };

// In the input gradient taps are turned round and the padding changes sides; `problem` then already
// has the padding of that convolution. addend, if not null, is added to y and lies as y does.
namespace toeplitz {
bool accepts(const DepthwiseProblem& problem, const ConstImages& x, const ConstImages& y);
// Kernels of 3, 5 and 7, where there is a copy engine; false if not.
bool launch_blocks_convolution(const DepthwiseProblem& problem, Direction direction,
                               const void* weights, const void* biases, const ConstImages& x,
                               const void* addend, const Images& y, void* stream);
// Larger ones.
void launch_rows_convolution(const DepthwiseProblem& problem, Direction direction,
                             const void* weights, const void* biases, const ConstImages& x,
                             const void* addend, const Images& y, void* stream);
int weight_gradient_parts(const DepthwiseProblem& problem);
void launch_weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                            const ConstImages& dy, float* partial_sums, void* stream);
}  // namespace toeplitz

namespace direct {
void launch_convolution(const DepthwiseProblem& problem, Direction direction, const void* weights,
                        const void* biases, const ConstImages& x, const void* addend,
                        const Images& y, void* stream);
int weight_gradient_parts(const DepthwiseProblem& problem);
void launch_weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                            const ConstImages& dy, void* partial_sums, void* stream);
}  // namespace direct

}  // namespace einkorn::convolution
