// Whole passes on the CPU: packing, threads, steps.
#pragma once

#include "einkorn/compute/flashrnn/recurrence_kernels.h"

namespace einkorn::flashrnn {

// Runs all steps with the vector kernels, or (double only) with the reference where `kernels` is
// null. pass.recurrent is R as it lies, [G_r, N, D, D]; scratch is made here.
template <typename T>
void run_forward(ForwardPass<T> pass, const RecurrenceKernels<T>* kernels);
template <typename T>
void run_backward(BackwardPass<T> pass, const RecurrenceKernels<T>* kernels);

}  // namespace einkorn::flashrnn
