#include "einkorn/core/machine.h"

#include <gtest/gtest.h>

#include "einkorn/core/error.h"

namespace einkorn {
namespace {

TEST(Ceilings, AreMeasuredAndRemembered) {
  const Ceilings& first = ceilings(Device::cpu);
  EXPECT_GT(first.bandwidth, 0);
  EXPECT_GT(first.flops_f64, 0);
  EXPECT_GT(first.flops_f32, 0);
  EXPECT_FALSE(first.processor.empty());
  EXPECT_EQ(&first, &ceilings(Device::cpu));
}

TEST(Ceilings, TheLargerTermBoundsTheTime) {
  Ceilings machine;
  machine.bandwidth = 100;
  machine.flops_f32 = 1000;
  EXPECT_EQ(machine.bound({1000, 1000}, Arithmetic::f32), "memory");
  EXPECT_DOUBLE_EQ(machine.floor_seconds({1000, 1000}, Arithmetic::f32), 10);
  EXPECT_EQ(machine.bound({1e6, 1000}, Arithmetic::f32), "arithmetic");
  EXPECT_DOUBLE_EQ(machine.floor_seconds({1e6, 1000}, Arithmetic::f32), 1000);
}

TEST(Ceilings, ADeviceThatIsNotThereIsNamed) {
  if (is_available(Device::cuda)) GTEST_SKIP() << "this machine has a CUDA device";
  EXPECT_THROW(ceilings(Device::cuda), InvalidArgument);
}

}  // namespace
}  // namespace einkorn
