// The public product: checks, the CPU's kernels over torch's threads.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <cmath>

#include "einkorn/compute/marlin/marlin.h"
#include "einkorn/compute/marlin/marlin_kernels.h"
#include "einkorn/compute/marlin/matmul_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"

namespace einkorn::marlin {
namespace {

constexpr std::int64_t octet = 8;

std::int64_t group_octets(const PreparedWeights& weights, std::int64_t octets) {
  if (weights.group_size == -1) return std::max<std::int64_t>(octets, 1);
  return weights.group_size / octet;
}

Work work_of(const PreparedWeights& w, std::int64_t rows, std::size_t element) {
  const auto m = static_cast<double>(rows);
  const auto k = static_cast<double>(w.inputs);
  const auto n = static_cast<double>(w.outputs);
  return {2 * m * n * k, static_cast<double>(w.words.nbytes() + w.scales.nbytes()) +
                             m * (k + n) * static_cast<double>(element)};
}

template <typename T>
SlabProblem<T> problem_for(const PreparedWeights& w, std::int64_t rows) {
  SlabProblem<T> problem;
  problem.words = reinterpret_cast<const std::uint32_t*>(w.words.const_data_ptr<std::int32_t>());
  problem.scales = static_cast<const std::uint16_t*>(w.scales.const_data_ptr());
  problem.scales_are_bf16 = w.scales.scalar_type() == at::kBFloat16;
  if (w.zero_points.defined()) problem.zeros = w.zero_points.const_data_ptr<std::uint8_t>();
  problem.bits = w.bits;
  problem.octets = w.words.size(1);
  problem.group_octets = group_octets(w, problem.octets);
  problem.groups = w.scales.size(1);
  problem.rows = rows;
  problem.outputs = w.outputs;
  return problem;
}

// Activations of [M, K], any strides, as T [M, 8 octets] in the order of the weights' rows, each
// multiplied by the factor of its place in the octet; and the sums of each group before that.
template <typename T>
struct Inputs {
  std::vector<T> values;
  std::vector<T> sums;
};

template <typename T>
Inputs<T> arrange(const at::Tensor& activations, const PreparedWeights& w,
                  const SlabProblem<T>& problem, const std::array<float, 8>& factors) {
  const std::int64_t width = problem.octets * octet;
  const std::int64_t rows = activations.size(0);
  const std::int64_t group_rows = problem.group_octets * octet;
  const std::int64_t* order = w.order.defined() ? w.order.const_data_ptr<std::int64_t>() : nullptr;
  Inputs<T> inputs;
  inputs.values.resize(static_cast<std::size_t>(rows * width));
  inputs.sums.resize(static_cast<std::size_t>(rows * problem.groups));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, activations.scalar_type(), "marlin_arrange", [&] {
        const scalar_t* data = activations.const_data_ptr<scalar_t>();
        const std::int64_t row_stride = activations.stride(0);
        const std::int64_t stride = activations.stride(1);
        at::parallel_for(0, rows, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row) {
            T* to = inputs.values.data() + row * width;
            T* sums = inputs.sums.data() + row * problem.groups;
            for (std::int64_t group = 0; group < problem.groups; ++group) {
              double sum = 0;
              const std::int64_t last = std::min((group + 1) * group_rows, w.inputs);
              for (std::int64_t k = group * group_rows; k < last; ++k) {
                const std::int64_t from = order == nullptr ? k : order[k];
                const auto value = static_cast<T>(data[row * row_stride + from * stride]);
                sum += value;
                to[k] = value * static_cast<T>(factors[static_cast<std::size_t>(k % octet)]);
              }
              sums[group] = static_cast<T>(sum);
            }
          }
        });
      });
  return inputs;
}

// A thread takes whole slabs; one of 4096 rows costs some microseconds.
template <typename Multiply>
void over_slabs(std::int64_t slabs, const Multiply& multiply) {
  at::parallel_for(0, slabs, 1, multiply);
}

at::Tensor multiply_floating(const at::Tensor& activations, const PreparedWeights& w) {
  const std::int64_t rows = activations.size(0);
  const SlabKernels& kernels = *slab_kernels.pick();
  SlabProblem<float> problem = problem_for<float>(w, rows);
  const Inputs<float> inputs = arrange(activations, w, problem, kernels.activation_scales(w.bits));
  at::Tensor out = at::empty({rows, w.outputs}, at::kFloat);
  problem.a = inputs.values.data();
  problem.sums = inputs.sums.data();
  problem.out = out.mutable_data_ptr<float>();
  over_slabs(w.words.size(0),
             [&](std::int64_t begin, std::int64_t end) { kernels.multiply(problem, begin, end); });
  return out;
}

at::Tensor multiply_double(const at::Tensor& activations, const PreparedWeights& w) {
  SlabProblem<double> problem = problem_for<double>(w, activations.size(0));
  const Inputs<double> inputs = arrange(activations, w, problem, {1, 1, 1, 1, 1, 1, 1, 1});
  at::Tensor out = at::empty({problem.rows, w.outputs}, at::kDouble);
  problem.a = inputs.values.data();
  problem.out = out.mutable_data_ptr<double>();
  over_slabs(w.words.size(0),
             [&](std::int64_t begin, std::int64_t end) { multiply_plainly(problem, begin, end); });
  return out;
}

// Activations of 8 bits, one scale a row and group, in the byte order of the kernels.
struct Int8Inputs {
  std::vector<std::int8_t> values;
  std::vector<float> scales;
  std::vector<std::int32_t> sums;
};

Int8Inputs round_to_int8(const Inputs<float>& inputs, const SlabProblem<float>& problem) {
  const std::int64_t width = problem.octets * octet;
  Int8Inputs rounded;
  rounded.values.resize(inputs.values.size());
  rounded.scales.resize(inputs.sums.size());
  rounded.sums.resize(inputs.sums.size());
  at::parallel_for(0, problem.rows * problem.groups, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t row = unit / problem.groups;
      const std::int64_t group = unit % problem.groups;
      const std::int64_t first = group * problem.group_octets * octet;
      const std::int64_t last = std::min(first + problem.group_octets * octet, width);
      const float* from = inputs.values.data() + row * width;
      float largest = 0;
      bool is_finite = true;
      for (std::int64_t k = first; k < last; ++k) {
        largest = std::max(largest, std::abs(from[k]));
        is_finite = is_finite && std::isfinite(from[k]);
      }
      // A scale that is not finite makes the row's results so.
      const float scale = is_finite ? largest / 127 : NAN;
      std::int32_t sum = 0;
      for (std::int64_t k = first; k < last; ++k) {
        const bool is_zero = !is_finite || scale == 0;
        const float level =
            is_zero ? 0 : std::nearbyint(std::clamp(from[k] / scale, -127.f, 127.f));
        const std::int64_t p = k % octet;
        const std::int64_t place = problem.bits == 4 ? p / 2 + p % 2 * 4 : p;
        const auto value = static_cast<std::int8_t>(level);
        rounded.values[static_cast<std::size_t>(row * width + k / octet * octet + place)] = value;
        sum += value;
      }
      rounded.scales[static_cast<std::size_t>(unit)] = scale;
      rounded.sums[static_cast<std::size_t>(unit)] = sum;
    }
  });
  return rounded;
}

at::Tensor multiply_int8(const at::Tensor& activations, const PreparedWeights& w) {
  Int8Problem problem;
  problem.weights = problem_for<float>(w, activations.size(0));
  const Int8Inputs inputs = round_to_int8(
      arrange(activations, w, problem.weights, {1, 1, 1, 1, 1, 1, 1, 1}), problem.weights);
  at::Tensor out = at::empty({problem.weights.rows, w.outputs}, at::kFloat);
  problem.a = inputs.values.data();
  problem.a_scales = inputs.scales.data();
  problem.a_sums = inputs.sums.data();
  problem.weights.out = out.mutable_data_ptr<float>();
  const Int8Choice kernel = int8_kernel(w.bits);
  over_slabs(w.words.size(0),
             [&](std::int64_t begin, std::int64_t end) { kernel.multiply(problem, begin, end); });
  return out;
}

std::string implementation(const at::Tensor& activations, const PreparedWeights& w,
                           Activations how) {
  if (how == Activations::int8) return int8_kernel(w.bits).name;
  if (activations.scalar_type() == at::kDouble) return "scalar";
  return to_string(slab_kernels.level());
}

}  // namespace

at::Tensor multiply_cpu(const at::Tensor& activations, const PreparedWeights& w, Activations how) {
  const std::string name = implementation(activations, w, how);
  const Trace trace(
      "marlin.matmul", name.c_str(),
      [&] {
        return fmt::format("M={} K={} N={} bits={} group={}", activations.size(0), w.inputs,
                           w.outputs, w.bits, w.group_size);
      },
      work_of(w, activations.size(0), activations.element_size()));
  at::Tensor out;
  if (how == Activations::int8) {
    out = multiply_int8(activations, w);
  } else if (activations.scalar_type() == at::kDouble) {
    out = multiply_double(activations, w);
  } else {
    out = multiply_floating(activations, w);
  }
  if (w.bias.defined()) out.add_(w.bias);
  return out.to(activations.scalar_type());
}

void check_prepared(const PreparedWeights& w) {
  require_dense(w.words, "words");
  require_dense(w.scales, "scales");
  const bool is_cpu = w.words.is_cpu();
  require(w.bits == 4 || w.bits == 8, "bits: expected 4 or 8, got {}", w.bits);
  require(w.group_size == -1 || w.group_size == 32 || w.group_size == 64 || w.group_size == 128,
          "group: expected 32, 64, 128 or -1 (all rows), got {}", w.group_size);
  require(w.inputs >= 0 && w.outputs >= 0, "inputs, outputs: expected sizes >= 0");
  const std::int64_t slabs = (w.outputs + slab_columns - 1) / slab_columns;
  const std::int64_t groups = w.group_size == -1 ? std::min<std::int64_t>(w.inputs, 1)
                                                 : (w.inputs + w.group_size - 1) / w.group_size;
  const std::vector<std::int64_t> words =
      is_cpu ? std::vector<std::int64_t>{slabs, (w.inputs + 7) / 8, w.bits / 4, slab_columns}
             : std::vector<std::int64_t>{(w.inputs + 15) / 16, slabs * slab_columns * w.bits / 2};
  const std::vector<std::int64_t> scales =
      is_cpu ? std::vector<std::int64_t>{slabs, groups, slab_columns}
             : std::vector<std::int64_t>{groups, slabs * slab_columns};
  require(w.words.scalar_type() == at::kInt && w.words.sizes() == at::IntArrayRef(words) &&
              w.words.is_contiguous(),
          "words: expected contiguous int32 [{}], as prepare() makes them", fmt::join(words, ", "));
  require((w.scales.scalar_type() == at::kHalf || w.scales.scalar_type() == at::kBFloat16) &&
              w.scales.sizes() == at::IntArrayRef(scales) && w.scales.is_contiguous() &&
              w.scales.device() == w.words.device(),
          "scales: expected contiguous float16 or bfloat16 [{}], as prepare() makes them",
          fmt::join(scales, ", "));
  require(!w.zero_points.defined() ||
              (w.zero_points.scalar_type() == (is_cpu ? at::kByte : w.scales.scalar_type()) &&
               w.zero_points.sizes() == w.scales.sizes() && w.zero_points.is_contiguous() &&
               w.zero_points.device() == w.words.device()),
          "zero_points: expected them as prepare() makes them");
  require(!w.order.defined() || (w.order.scalar_type() == at::kLong && w.order.dim() == 1 &&
                                 w.order.size(0) == w.inputs && w.order.is_contiguous() &&
                                 w.order.device() == w.words.device()),
          "order: expected {} contiguous int64", w.inputs);
  require(!w.bias.defined() || (w.bias.scalar_type() == at::kFloat && w.bias.dim() == 1 &&
                                w.bias.size(0) == w.outputs && w.bias.is_contiguous() &&
                                w.bias.device() == w.words.device()),
          "bias: expected {} contiguous float32", w.outputs);
}

void check_call(const at::Tensor& a, const PreparedWeights& w, Activations how) {
  require_dense(a, "activations");
  check_prepared(w);
  const at::ScalarType type = a.scalar_type();
  const bool is_half = type == at::kHalf || type == at::kBFloat16;
  require(is_half || (a.is_cpu() && (type == at::kFloat || type == at::kDouble)),
          "activations: expected {}, got {}",
          a.is_cpu() ? "float16, bfloat16, float32 or float64" : "float16 or bfloat16 on CUDA",
          c10::toString(type));
  require(a.dim() >= 1 && a.size(-1) == w.inputs,
          "activations: expected {} features in the last dimension, got [{}]", w.inputs,
          fmt::join(a.sizes(), ", "));
  require(a.device() == w.device(), "activations: expected them on {}, got {}", w.device().str(),
          a.device().str());
  require(how == Activations::floating || (a.is_cpu() && type != at::kDouble),
          "activations: 8-bit activations are for float16, bfloat16 and float32 on the cpu");
}

StripePlan plan_stripes(std::int64_t tile_rows, std::int64_t tile_columns, std::int64_t processors,
                        std::int64_t tiles_per_group) {
  require(tile_rows >= 1 && tile_columns >= 1 && processors >= 1 && tiles_per_group >= 1,
          "stripes: expected sizes of at least 1");
  const std::int64_t tiles = tile_rows * tile_columns;
  StripePlan plan;
  plan.iterations = (tiles + processors - 1) / processors;
  plan.iterations = (plan.iterations + tiles_per_group - 1) / tiles_per_group * tiles_per_group;
  std::vector<std::vector<std::pair<std::size_t, std::size_t>>> of_slice(
      static_cast<std::size_t>(tile_columns));
  for (std::int64_t begin = 0; begin < tiles; begin += plan.iterations) {
    const std::int64_t end = std::min(begin + plan.iterations, tiles);
    std::vector<Stripe>& block = plan.blocks.emplace_back();
    for (std::int64_t tile = begin; tile < end;) {
      Stripe stripe;
      stripe.slice = tile / tile_rows;
      stripe.row = tile % tile_rows;
      stripe.length = std::min(end - tile, tile_rows - stripe.row);
      tile += stripe.length;
      of_slice[static_cast<std::size_t>(stripe.slice)].emplace_back(plan.blocks.size() - 1,
                                                                    block.size());
      block.push_back(stripe);
    }
  }
  // The block with the lowest rows of weights comes first.
  for (const auto& members : of_slice) {
    for (std::size_t i = 0; i < members.size(); ++i) {
      Stripe& stripe = plan.blocks[members[i].first][members[i].second];
      stripe.count = static_cast<std::int64_t>(members.size());
      stripe.index = stripe.count - 1 - static_cast<std::int64_t>(i);
    }
  }
  return plan;
}

}  // namespace einkorn::marlin
