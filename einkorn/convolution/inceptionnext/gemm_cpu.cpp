// Register blocking: 14 rows x 2 vectors of outputs on AVX-512 (28 sums, 2 weights, an input of 32
// registers), 6 x 2 on AVX2 (12, 2, 1 of 16). Inputs are broadcast from their rows as they lie; for
// each of them two multiply-adds are done, so a core that loads as often as it multiplies is never
// short of loads.
#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/convolution/inceptionnext/gemm_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "einkorn/convolution/inceptionnext/gemm_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::inceptionnext {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

#if HWY_TARGET == HWY_AVX3
inline constexpr int row_block = 14;
#else
inline constexpr int row_block = 6;
#endif
inline constexpr auto lanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
inline constexpr std::int64_t panel = 2 * lanes;

// x Phi(x). Phi(x) - 1/2 = x P(x^2) / Q(x^2) on |x| < 5.6 to 7.3e-10: a weighted least-squares fit
// of degrees 6 and 5, its weights drawn towards the largest errors until they were level. Below
// -5.6 the value is less than a rounding error of the sum.
HWY_INLINE V gelu(V x) {
  const D d;
  const auto c = [d](double value) HWY_ATTR { return hn::Set(d, static_cast<float>(value)); };
  const V bound = c(5.6);
  const V z = hn::Max(hn::Min(x, bound), hn::Neg(bound));
  const V t = hn::Mul(z, z);
  V p = hn::MulAdd(c(-7.467951769e-11), t, c(5.250555375e-08));
  p = hn::MulAdd(p, t, c(8.433293108e-06));
  p = hn::MulAdd(p, t, c(1.695499767e-04));
  p = hn::MulAdd(p, t, c(4.800255080e-03));
  p = hn::MulAdd(p, t, c(3.265256592e-02));
  p = hn::MulAdd(p, t, c(3.989422855e-01));
  V q = hn::MulAdd(c(1.991965113e-06), t, c(8.172269046e-05));
  q = hn::MulAdd(q, t, c(1.930462442e-03));
  q = hn::MulAdd(q, t, c(2.845132127e-02));
  q = hn::MulAdd(q, t, c(2.485146137e-01));
  q = hn::MulAdd(q, t, c(1));
  const V probability = hn::MulAdd(z, hn::Div(p, q), c(0.5));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Neg(bound)), hn::Mul(x, probability));
}

// Adds `count` inputs of `rows` rows to the sums; moves the weights on.
template <int rows>
HWY_INLINE void add_inputs(const float* a, std::ptrdiff_t stride, std::int64_t count,
                           const float*& weights, V (&sums)[rows][2]) {
  const D d;
  for (std::int64_t k = 0; k < count; ++k, ++a, weights += panel) {
    const V low = hn::LoadU(d, weights);
    const V high = hn::LoadU(d, weights + lanes);
    HWY_UNROLL(row_block)
    for (int r = 0; r < rows; ++r) {
      const V input = hn::Set(d, a[r * stride]);
      sums[r][0] = hn::MulAdd(input, low, sums[r][0]);
      sums[r][1] = hn::MulAdd(input, high, sums[r][1]);
    }
  }
}

// Bias and epilogue of one row's panel of sums.
HWY_INLINE void finish_row(Epilogue epilogue, const float* sums, const float* bias,
                           const float* residual, float* c) {
  const D d;
  for (std::int64_t i = 0; i < panel; i += lanes) {
    const V sum = hn::Add(hn::Load(d, sums + i), hn::LoadU(d, bias + i));
    hn::StoreU(epilogue == Epilogue::gelu ? gelu(sum) : hn::Add(sum, hn::LoadU(d, residual + i)), d,
               c + i);
  }
}

// The same where only `width` outputs of the panel exist.
HWY_NOINLINE void finish_part_of_row(Epilogue epilogue, const float* sums, const float* bias,
                                     std::int64_t width, const float* residual, float* c) {
  HWY_ALIGN float biases[panel] = {};
  HWY_ALIGN float residuals[panel] = {};
  HWY_ALIGN float outputs[panel];
  std::copy_n(bias, width, biases);
  if (epilogue == Epilogue::residual) std::copy_n(residual, width, residuals);
  finish_row(epilogue, sums, biases, residuals, outputs);
  std::copy_n(outputs, width, c);
}

template <int rows>
HWY_NOINLINE void multiply_block(const RowSources& a, std::int64_t row, const float* weights,
                                 const float* bias, std::int64_t width, Epilogue epilogue,
                                 const float* residual, float* c, std::ptrdiff_t c_stride) {
  const D d;
  V sums[rows][2];
  HWY_UNROLL(row_block)
  for (int r = 0; r < rows; ++r) sums[r][0] = sums[r][1] = hn::Zero(d);
  add_inputs<rows>(a.first + row * a.first_stride, a.first_stride, a.first_count, weights, sums);
  if (a.second_count > 0) {
    add_inputs<rows>(a.second + row * a.second_stride, a.second_stride, a.second_count, weights,
                     sums);
  }
  // The epilogue needs registers of its own.
  HWY_ALIGN float stored[rows * panel];
  HWY_UNROLL(row_block)
  for (int r = 0; r < rows; ++r) {
    hn::Store(sums[r][0], d, stored + r * panel);
    hn::Store(sums[r][1], d, stored + r * panel + lanes);
  }
  for (int r = 0; r < rows; ++r) {
    const float* row_sums = stored + r * panel;
    if (width == panel) {
      finish_row(epilogue, row_sums, bias, residual + r * c_stride, c + r * c_stride);
    } else {
      finish_part_of_row(epilogue, row_sums, bias, width, residual + r * c_stride,
                         c + r * c_stride);
    }
  }
}

void multiply(const RowSources& a, std::int64_t rows, const PackedWeights& weights,
              std::int64_t panel_begin, std::int64_t panel_end, Epilogue epilogue,
              const RowTargets& c) {
  const std::int64_t inputs = a.first_count + a.second_count;
  for (std::int64_t p = panel_begin; p < panel_end; ++p) {
    const std::int64_t output = p * panel;
    const std::int64_t width = std::min(panel, weights.outputs - output);
    const float* panel_weights = weights.packed + output * inputs;
    const auto block = [&]<int count>(std::integral_constant<int, count>,
                                      std::int64_t row) HWY_ATTR {
      // Where there is no residual its pointer is never read; c stands in for it.
      float* target = c.data + row * c.stride + output;
      const float* residual = c.residual == nullptr ? target : c.residual + row * c.stride + output;
      multiply_block<count>(a, row, panel_weights, weights.bias + output, width, epilogue, residual,
                            target, c.stride);
    };
    std::int64_t row = 0;
    for (; row + row_block <= rows; row += row_block) {
      block(std::integral_constant<int, row_block>(), row);
    }
    for (; row + 4 <= rows; row += 4) block(std::integral_constant<int, 4>(), row);
    for (; row < rows; ++row) block(std::integral_constant<int, 1>(), row);
  }
}

void pack(const float* weight, std::int64_t outputs, std::int64_t inputs, float* packed) {
  for (std::int64_t output = 0; output < outputs; output += panel) {
    const std::int64_t width = std::min(panel, outputs - output);
    for (std::int64_t k = 0; k < inputs; ++k) {
      float* to = packed + output * inputs + k * panel;
      std::fill_n(to, panel, 0.0f);
      for (std::int64_t i = 0; i < width; ++i) to[i] = weight[(output + i) * inputs + k];
    }
  }
}

const GemmKernels kernels = {panel, &pack, &multiply};

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::inceptionnext
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn::inceptionnext {
namespace {

// The plain reference: one output a panel, summed in double.
void pack_plainly(const float* weight, std::int64_t outputs, std::int64_t inputs, float* packed) {
  std::copy_n(weight, outputs * inputs, packed);
}

double dot(const float* a, const float* weights, std::int64_t count) {
  double sum = 0;
  for (std::int64_t k = 0; k < count; ++k) sum += static_cast<double>(a[k]) * weights[k];
  return sum;
}

void multiply_plainly(const RowSources& a, std::int64_t rows, const PackedWeights& weights,
                      std::int64_t panel_begin, std::int64_t panel_end, Epilogue epilogue,
                      const RowTargets& c) {
  const std::int64_t inputs = a.first_count + a.second_count;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t output = panel_begin; output < panel_end; ++output) {
      const float* w = weights.packed + output * inputs;
      double sum = weights.bias[output];
      sum += dot(a.first + row * a.first_stride, w, a.first_count);
      if (a.second_count > 0) {
        sum += dot(a.second + row * a.second_stride, w + a.first_count, a.second_count);
      }
      float& target = c.data[row * c.stride + output];
      if (epilogue == Epilogue::gelu) {
        target = static_cast<float>(0.5 * sum * std::erfc(-sum * std::sqrt(0.5)));
      } else {
        target = static_cast<float>(c.residual[row * c.stride + output] + sum);
      }
    }
  }
}

const GemmKernels reference = {1, &pack_plainly, &multiply_plainly};
const KernelTable<const GemmKernels*> table = EINKORN_SIMD_VERSIONS(reference, kernels);

}  // namespace

const GemmKernels& gemm_kernels() {
  return *table.pick();
}

}  // namespace einkorn::inceptionnext
#endif  // HWY_ONCE
