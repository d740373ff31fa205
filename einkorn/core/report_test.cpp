#include "einkorn/core/report.h"

#include <gtest/gtest.h>

#include <cmath>

namespace einkorn {
namespace {

TEST(Check, EachRelationAtItsEdge) {
  EXPECT_TRUE((Check{"", 1, Relation::at_most, 1}).pass());
  EXPECT_FALSE((Check{"", 1, Relation::less, 1}).pass());
  EXPECT_TRUE((Check{"", 1, Relation::at_least, 1}).pass());
  EXPECT_FALSE((Check{"", 1, Relation::greater, 1}).pass());
  EXPECT_TRUE((Check{"", 1.5, Relation::equal, 1, 0.5}).pass());
  EXPECT_FALSE((Check{"", 1.6, Relation::equal, 1, 0.5}).pass());
  EXPECT_TRUE((Check{"", 1.4, Relation::less, 1, 0.5}).pass()) << "a tolerance widens";
}

TEST(Check, WhatIsNotANumberNeverPasses) {
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    for (const Relation relation : {Relation::less, Relation::at_most, Relation::greater,
                                    Relation::at_least, Relation::equal}) {
      EXPECT_FALSE((Check{"", bad, relation, 0, 1e300}).pass());
    }
  }
}

TEST(Evidence, HoldsOnlyIfThereIsSomethingAndAllOfItHolds) {
  Evidence evidence;
  EXPECT_FALSE(evidence.pass()) << "no evidence is not evidence";
  evidence.checks.push_back({"", 1, Relation::equal, 1});
  EXPECT_TRUE(evidence.pass());
  evidence.checks.push_back({"", 2, Relation::equal, 1});
  EXPECT_FALSE(evidence.pass());
}

}  // namespace
}  // namespace einkorn
