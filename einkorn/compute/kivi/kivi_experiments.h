// The experiment that shows why keys are quantised per channel and values per token.
#pragma once

#include <cstdint>

#include "einkorn/core/system.h"
#include "einkorn/core/tensor.h"

namespace einkorn::kivi {

// One head: keys and values [T, D], queries [M, D], f64.
struct AxisData {
  at::Tensor keys;
  at::Tensor values;
  at::Tensor queries;
};

// Normal numbers of SplitMix64 and Box-Muller; keys with five channels of constantly large
// magnitude, values whose tokens differ in magnitude.
AxisData axis_data(std::uint64_t seed, std::int64_t tokens, std::int64_t head_dim,
                   std::int64_t queries);

// Errors relative to the exact numbers: of keys (or values), of attention weights (mean over
// queries of the L1 distance), of attention outputs.
struct AxisErrors {
  double content = 0;
  double weights = 0;
  double output = 0;
};

// groups along tokens (per channel) or along channels (per token)
enum class GroupAxis { channel, token };

AxisErrors key_errors(const AxisData& data, GroupAxis axis, int bits, int group);
AxisErrors value_errors(const AxisData& data, GroupAxis axis, int bits, int group);
double output_error(const AxisData& data, GroupAxis key_axis, GroupAxis value_axis, int bits,
                    int group);

Evidence reproduce(const ReproductionRun& run);

}  // namespace einkorn::kivi
