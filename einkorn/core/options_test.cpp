#include "einkorn/core/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "einkorn/core/error.h"

namespace einkorn {
namespace {

using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

std::vector<Option> declared() {
  return {real("bandwidth").above(0).otherwise(0.3).help("width"),
          integer("count").between(1, 10).required().help("how many"),
          choice("kind", {"gauss", "laplace"}).otherwise("gauss"), reals("weights").at_least(0),
          flag("fast")};
}

TEST(Options, FillsInDefaultsOfEachType) {
  const Options options(declared(), {{"count", std::int64_t{3}}});
  EXPECT_EQ(options.real("bandwidth"), 0.3);
  EXPECT_EQ(options.integer("count"), 3);
  EXPECT_EQ(options.text("kind"), "gauss");
  EXPECT_FALSE(options.flag("fast"));
  EXPECT_FALSE(options.has("weights"));
  EXPECT_TRUE(options.given("count"));
  EXPECT_FALSE(options.given("bandwidth")) << "a default is not given";
}

TEST(Options, ParsesWhatPeopleType) {
  EXPECT_EQ(std::get<std::int64_t>(integer("n").parse("1e9")), 1'000'000'000);
  EXPECT_EQ(std::get<double>(real("x").parse("-2.5e-3")), -2.5e-3);
  EXPECT_EQ(std::get<std::vector<double>>(reals("x").parse("1, 2.5,3")),
            (std::vector<double>{1, 2.5, 3}));
  EXPECT_EQ(std::get<std::vector<std::int64_t>>(integers("x").parse("4")),
            (std::vector<std::int64_t>{4}));
}

TEST(Options, RefusesValuesOutsideTheirRangeAndNamesIt) {
  const Option width = real("bandwidth").above(0);
  EXPECT_THAT(message_of([&] { width.parse("0"); }),
              HasSubstr("--bandwidth: expected a number > 0"));
  EXPECT_THAT(message_of([&] { width.parse("nan"); }), HasSubstr("expected a number > 0"));
  EXPECT_THAT(message_of([&] { width.parse("inf"); }), HasSubstr("expected a number > 0"));
  EXPECT_THAT(message_of([&] { width.parse("3x"); }), HasSubstr("got '3x'"));
  EXPECT_THAT(message_of([&] { width.parse(""); }), HasSubstr("got ''"));
  EXPECT_THAT(message_of([] { integer("n").between(1, 3).parse("4"); }),
              HasSubstr("a whole number in [1, 3]"));
  EXPECT_THAT(message_of([] { integer("n").parse("1.5"); }), HasSubstr("a whole number"));
  EXPECT_THAT(message_of([] { reals("w").at_least(0).parse("1,-1"); }), HasSubstr(">= 0"));
}

TEST(Options, SuggestsTheNearestName) {
  const std::map<std::string, OptionValue> mistyped = {{"count", std::int64_t{1}},
                                                       {"bandwith", 1.0}};
  EXPECT_THAT(message_of([&] { Options(declared(), mistyped); }),
              HasSubstr("unknown option --bandwith; did you mean 'bandwidth'?"));
  EXPECT_THAT(message_of([] { choice("kind", {"gauss", "laplace"}).parse("gaus"); }),
              HasSubstr("did you mean 'gauss'?"));
}

TEST(Options, NamesWhatIsMissing) {
  EXPECT_THAT(message_of([] { Options(declared(), {}); }), HasSubstr("--count is missing"));
}

TEST(Options, RefusesWrongTypes) {
  EXPECT_THROW(Options(declared(), {{"count", std::string("three")}}), InvalidArgument);
  EXPECT_THROW(Options(declared(), {{"count", 3.0}}), InvalidArgument);
  const Options options(declared(), {{"count", std::int64_t{3}}, {"bandwidth", std::int64_t{2}}});
  EXPECT_EQ(options.real("bandwidth"), 2.0) << "whole numbers serve where numbers are wanted";
}

class OptionsFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("einkorn-options-" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder_);
    std::ofstream(folder_ / "there.txt") << "x";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const char* name) const { return (folder_ / name).string(); }
  std::filesystem::path folder_;
};

TEST_F(OptionsFiles, ChecksInputsBeforeAnyWork) {
  const std::vector<Option> file = {input_file("in").required()};
  EXPECT_THAT(message_of([&] { Options(file, {{"in", path("gone.txt")}}); }),
              HasSubstr("no such file (--in)"));
  EXPECT_THAT(message_of([&] { Options(file, {{"in", folder_.string()}}); }),
              HasSubstr("is a folder"));
  EXPECT_EQ(Options(file, {{"in", path("there.txt")}}).input("in"), folder_ / "there.txt");
}

TEST_F(OptionsFiles, KeepsExistingOutputsUnlessForced) {
  const std::vector<Option> file = {output_file("out")};
  EXPECT_THAT(message_of([&] { Options(file, {{"out", path("there.txt")}}); }),
              HasSubstr("exists; --force replaces it"));
  EXPECT_THAT(message_of([&] { Options(file, {{"out", path("no/such/x")}}); }),
              HasSubstr("its folder does not exist"));
  const Options forced(file, {{"out", path("there.txt")}}, /*force=*/true);
  EXPECT_TRUE(forced.output("out").force);
}

}  // namespace
}  // namespace einkorn
