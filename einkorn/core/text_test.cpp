#include "einkorn/core/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace einkorn {
namespace {

TEST(Nearest, FindsSlipsOfTheHand) {
  const std::vector<std::string> names = {"bandwidth", "seed", "device", "points"};
  EXPECT_EQ(nearest("bandwith", names), "bandwidth");    // left out
  EXPECT_EQ(nearest("bandwidhth", names), "bandwidth");  // put in
  EXPECT_EQ(nearest("sead", names), "seed");             // replaced
  EXPECT_EQ(nearest("deivce", names), "device");         // swapped
  EXPECT_EQ(nearest("POINTS", names), "points");
  EXPECT_EQ(nearest("seed", names), "seed");
}

TEST(Nearest, LeavesOtherWordsAlone) {
  const std::vector<std::string> names = {"bandwidth", "seed", "x"};
  EXPECT_EQ(nearest("banana", names), std::nullopt);
  EXPECT_EQ(nearest("sheep", names), std::nullopt);
  EXPECT_EQ(nearest("y", names), std::nullopt);
  EXPECT_EQ(nearest("", names), std::nullopt);
  EXPECT_EQ(nearest("seed", {}), std::nullopt);
}

TEST(Nearest, PrefersTheNearestThenTheFirst) {
  EXPECT_EQ(nearest("colour", {"colours!", "colours", "colourx"}), "colours");
}

TEST(Hint, IsEmptyWhereNothingIsNear) {
  EXPECT_EQ(hint("sede", {"seed"}), "; did you mean 'seed'?");
  EXPECT_EQ(hint("other", {"seed"}), "");
}

TEST(ToReal, TakesWholeNumbersAndFractions) {
  EXPECT_EQ(to_real("0.1"), 0.1);
  EXPECT_EQ(to_real("+1.5e3"), 1500);
  EXPECT_EQ(to_real("-.5"), -0.5);
  EXPECT_EQ(to_real("7"), 7);
  EXPECT_EQ(to_real("inf"), std::numeric_limits<double>::infinity());
  EXPECT_EQ(to_real("-INF"), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(to_real("nan").value()));
}

TEST(ToReal, RefusesWhatIsNotOneNumber) {
  for (const char* text : {"", " ", "1 ", " 1", "1,5", "1e", "0x10", "one", "1.2.3", "+", "+-1",
                           "--1", "1e400", "-1e400", "1e99999999999"}) {
    EXPECT_EQ(to_real(text), std::nullopt) << text;
  }
}

TEST(ToReal, RoundsToZeroBelowTheSmallestDouble) {
  EXPECT_EQ(to_real("1e-400"), 0.0);
  EXPECT_TRUE(std::signbit(to_real("-1e-400").value()));
  EXPECT_EQ(to_real("5e-324"), std::numeric_limits<double>::denorm_min());
}

TEST(ToInteger, TakesWholeNumbersInAnyNotation) {
  EXPECT_EQ(to_integer("42"), 42);
  EXPECT_EQ(to_integer("+42"), 42);
  EXPECT_EQ(to_integer("1e9"), 1000000000);
  EXPECT_EQ(to_integer("1.5e3"), 1500);
  EXPECT_EQ(to_integer("-9223372036854775808"), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(to_integer("9223372036854775807"), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(to_integer("9007199254740993.0"), 9007199254740993);
}

TEST(ToInteger, RefusesFractionsAndWhatDoesNotFit) {
  for (const char* text : {"", "1.5", "1e-1", "1e19", "9223372036854775808", "-9223372036854775809",
                           "inf", "nan", "1_000", "0x10", "+-1", "1 "}) {
    EXPECT_EQ(to_integer(text), std::nullopt) << text;
  }
}

TEST(Split, KeepsEmptyPieces) {
  EXPECT_EQ(split("a,b", ','), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(split(",a,", ','), (std::vector<std::string>{"", "a", ""}));
  EXPECT_EQ(split("", ','), (std::vector<std::string>{""}));
}

TEST(Trim, CutsWhiteSpaceAtBothEnds) {
  EXPECT_EQ(trim(" \t a b\r\n"), "a b");
  EXPECT_EQ(trim("a"), "a");
  EXPECT_EQ(trim(" \n"), "");
  EXPECT_EQ(trim(""), "");
}

TEST(LowerAscii, LeavesOtherCharactersAlone) {
  EXPECT_EQ(lower_ascii("AbZ-09 \xC3\x84"), "abz-09 \xC3\x84");
}

}  // namespace
}  // namespace einkorn
