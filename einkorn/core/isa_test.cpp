#include "einkorn/core/isa.h"

#include <gtest/gtest.h>

#include "einkorn/core/error.h"

namespace einkorn {
namespace {

TEST(Isa, TheBestSupportedLevelIsActiveUnlessForced) {
  EXPECT_EQ(supported_isas().front(), Isa::scalar);
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    EXPECT_EQ(active_isa(), isa);
  }
}

TEST(Isa, TablesFallBackToTheNextLevelDown) {
  using Fn = int (*)();
  const KernelTable<Fn> plain_only = {[] { return 0; }};
  const KernelTable<Fn> with_avx2 = {[] { return 0; }, [] { return 2; }};
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    EXPECT_EQ(plain_only.pick()(), 0);
    EXPECT_EQ(with_avx2.pick()(), isa == Isa::scalar ? 0 : 2);
    EXPECT_EQ(with_avx2.level(), isa == Isa::scalar ? Isa::scalar : Isa::avx2);
  }
}

TEST(Isa, SaysWhyABetterLevelIsNotUsed) {
  const ScopedIsa forced(Isa::scalar);
  EXPECT_EQ(why_not(Isa::scalar), "");
  EXPECT_NE(why_not(Isa::avx512), "");
}

}  // namespace
}  // namespace einkorn
