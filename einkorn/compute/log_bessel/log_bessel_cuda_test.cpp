// The device kernels against the CPU's; skipped where there is no CUDA device.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "einkorn/compute/log_bessel/log_bessel.h"
#include "einkorn/compute/log_bessel/log_bessel_internal.h"
#include "einkorn/compute/log_bessel/log_bessel_kernels.h"
#include "einkorn/core/machine.h"
#include "einkorn/core/random.h"

namespace einkorn::log_bessel {
namespace {

constexpr double epsilon = std::numeric_limits<double>::epsilon();
constexpr double infinity = std::numeric_limits<double>::infinity();

constexpr Quantity all_quantities[] = {
    Quantity::log_i,         Quantity::log_k,   Quantity::log_i_scaled,
    Quantity::log_k_scaled,  Quantity::ratio_i, Quantity::ratio_i_complement,
    Quantity::ratio_i_slope, Quantity::ratio_k, Quantity::slope_k_scaled};

class OnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(Device::cuda)) GTEST_SKIP() << "this machine has no CUDA device";
  }
};

at::Tensor on_cuda(Quantity quantity, const at::Tensor& v, const at::Tensor& x) {
  return compute(quantity, v.to(at::kCUDA), x.to(at::kCUDA), SwitchingTable::standard).cpu();
}

// Orders and arguments whose logarithms are uniform: from series and integrals to long expansions.
std::pair<at::Tensor, at::Tensor> pairs(std::int64_t size, double lowest, double highest) {
  Random random(11);
  std::vector<double> v;
  std::vector<double> x;
  for (std::int64_t i = 0; i < size; ++i) {
    v.push_back(std::pow(10, random.uniform(lowest, highest)));
    x.push_back(std::pow(10, random.uniform(lowest, highest)));
  }
  return {at::tensor(v, at::kDouble), at::tensor(x, at::kDouble)};
}

TEST_F(OnCuda, AgreesWithTheReference) {
  for (const auto& [lowest, highest] : {std::pair(-2.0, 1.8), std::pair(-6.0, 7.0)}) {
    const auto [v, x] = pairs(4000, lowest, highest);
    for (const Quantity quantity : all_quantities) {
      SCOPED_TRACE(static_cast<int>(quantity));
      const at::Tensor found = on_cuda(quantity, v, x);
      const bool is_log = quantity <= Quantity::log_k_scaled;
      double worst = 0;
      std::int64_t worst_at = 0;
      for (std::int64_t i = 0; i < v.numel(); ++i) {
        const double expected = reference(quantity, v[i].item<double>(), x[i].item<double>());
        const double scale = is_log ? std::max(1.0, std::abs(expected)) : std::abs(expected);
        const double error = std::abs(found[i].item<double>() - expected) / (epsilon * scale);
        if (error > worst) {
          worst = error;
          worst_at = i;
        }
      }
      // Below x = 1 the slope of log e^x K is a difference of numbers up to twice its size.
      EXPECT_LE(worst, is_log                                 ? 4
                       : quantity == Quantity::slope_k_scaled ? 16
                                                              : 8)
          << "v = " << v[worst_at].item<double>() << ", x = " << x[worst_at].item<double>();
    }
  }
}

TEST_F(OnCuda, KeepsTheLimitsOfTheDomain) {
  const std::vector<double> special = {0,     5e-324, 1e-300, 1e-20,    0.5, 1,    3,  1e10,
                                       1e150, 1e200,  1e300,  infinity, -1,  -2.5, NAN};
  for (const Quantity quantity : all_quantities) {
    for (const double v : special) {
      for (const double x : special) {
        SCOPED_TRACE(testing::Message()
                     << "quantity " << static_cast<int>(quantity) << ", v " << v << ", x " << x);
        const double expected = reference(quantity, v, x);
        const double found =
            on_cuda(quantity, at::tensor({v}, at::kDouble), at::tensor({x}, at::kDouble))
                .item<double>();
        const double least = quantity <= Quantity::log_k_scaled ? 1 : 1e-300;
        if (std::isnan(expected)) {
          EXPECT_TRUE(std::isnan(found));
        } else if (std::isinf(expected)) {
          EXPECT_EQ(found, expected);
        } else {
          EXPECT_NEAR(found, expected, 1e-13 * std::max(std::abs(expected), least));
        }
      }
    }
  }
}

TEST_F(OnCuda, ComputesFloatsInDouble) {
  const auto [v, x] = pairs(2000, -2, 4);
  const at::Tensor single_v = v.to(at::kFloat);
  const at::Tensor single_x = x.to(at::kFloat);
  for (const Quantity quantity : all_quantities) {
    SCOPED_TRACE(static_cast<int>(quantity));
    const at::Tensor found = on_cuda(quantity, single_v, single_x);
    ASSERT_EQ(found.scalar_type(), at::kFloat);
    const at::Tensor exact = compute(quantity, single_v.to(at::kDouble), single_x.to(at::kDouble),
                                     SwitchingTable::standard);
    const bool is_log = quantity <= Quantity::log_k_scaled;
    const at::Tensor scale = is_log ? exact.abs().clamp_min(1) : exact.abs();
    const double worst = ((found.to(at::kDouble) - exact).abs() / scale).max().item<double>();
    EXPECT_LE(worst, 0.52 * std::numeric_limits<float>::epsilon());
  }
}

TEST_F(OnCuda, BroadcastsAndTakesStridedTensors) {
  const at::Tensor v = at::rand({5, 1, 7}, at::kDouble) * 40;
  const at::Tensor x = at::rand({7, 300}, at::kDouble).t() * 40;
  const at::Tensor found = on_cuda(Quantity::log_i, v, x);
  const at::Tensor expected = compute(Quantity::log_i, v, x, SwitchingTable::standard);
  EXPECT_EQ(found.sizes(), expected.sizes());
  EXPECT_LE((found - expected).abs().max().item<double>(), 1e-13);
  // A number on the CPU joins a tensor on the GPU.
  const at::Tensor mixed = compute(Quantity::log_k, at::scalar_tensor(2.5, at::kDouble),
                                   x.to(at::kCUDA), SwitchingTable::standard);
  EXPECT_TRUE(mixed.is_cuda());
  EXPECT_EQ(compute(Quantity::log_k, v.to(at::kCUDA).slice(0, 0, 0), x.to(at::kCUDA),
                    SwitchingTable::standard)
                .numel(),
            0);
}

TEST_F(OnCuda, HasThePublishedTables) {
  const auto [v, x] = pairs(2000, -1, 4);
  for (const SwitchingTable table : {SwitchingTable::paper, SwitchingTable::gpu3}) {
    for (const Quantity quantity : {Quantity::log_i, Quantity::log_k}) {
      const at::Tensor found = compute(quantity, v.to(at::kCUDA), x.to(at::kCUDA), table).cpu();
      const at::Tensor expected = compute(quantity, v, x, table);
      // The CPU forms s - v asinh(v/x) in plain double, as published.
      const at::Tensor terms = at::hypot(v, x) + v * at::asinh(v / x);
      const at::Tensor error = (found - expected).abs() / terms.clamp_min(1);
      // The CPU's fall-back for log K is the published Simpson rule, good to 5e-10.
      EXPECT_LE(error.max().item<double>(), quantity == Quantity::log_i ? 1e-13 : 1e-9);
    }
  }
}

TEST_F(OnCuda, GradientsFollowTheCpu) {
  const at::Tensor v = at::rand({50}, at::kDouble) * 30;
  const at::Tensor x = at::rand({50}, at::kDouble) * 30 + 0.1;
  const auto gradient = [&](at::Device device) {
    const at::Tensor leaf_v = v.to(device).detach().requires_grad_();
    const at::Tensor leaf_x = x.to(device).detach().requires_grad_();
    (log_iv(leaf_v, leaf_x) + log_kve(leaf_v, leaf_x) + iv_ratio(leaf_v, leaf_x)).sum().backward();
    return at::cat({leaf_v.grad().cpu(), leaf_x.grad().cpu()});
  };
  EXPECT_TRUE(at::allclose(gradient(at::kCUDA), gradient(at::kCPU), 1e-11, 1e-13));
}

}  // namespace
}  // namespace einkorn::log_bessel
