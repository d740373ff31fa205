// ConstrINT: the paper's examples, random problems against enumeration, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <functional>

#include "einkorn/compute/flashrnn/constraints.h"
#include "einkorn/compute/flashrnn/flashrnn_experiments.h"
#include "einkorn/compute/flashrnn/kernel_problem.h"
#include "einkorn/core/error.h"

namespace einkorn::flashrnn {
namespace {

using testing::HasSubstr;
using Values = std::vector<std::int64_t>;

Values values_left(const std::string& text, const std::string& name) {
  const ConstraintProblem problem = ConstraintProblem::parse(text, "test");
  const auto& names = problem.variables();
  const auto at = std::find(names.begin(), names.end(), name) - names.begin();
  const IntegerDomain domain = problem.propagate()[static_cast<std::size_t>(at)];
  return domain.values().value_or(Values{-1});
}

SolveResult solved(const std::string& text, const std::string& order, std::int64_t count) {
  SolveOptions options;
  options.order = parse_order(order);
  options.count = count;
  return ConstraintProblem::parse(text, "test").solve(options);
}

TEST(Propagation, LeavesWhatThePaperLeaves) {
  EXPECT_EQ(values_left("x*y == 24; x <= 6; x % 2 == 0", "x"), (Values{2, 4, 6}));
  EXPECT_EQ(values_left("x*y == 24; x <= 6; x % 2 == 0", "y"), (Values{4, 6, 12}));
  EXPECT_EQ(values_left("a % 6 == 0; a <= 40; 10 <= a", "a"), (Values{12, 18, 24, 30, 36}));
  EXPECT_EQ(values_left("n ^ 2 <= 200; n % 3 == 0", "n"), (Values{3, 6, 9, 12}));
  EXPECT_EQ(values_left("a + b == 17; a % 3 == 0; b % 4 == 0", "a"), (Values{9}));
  EXPECT_EQ(values_left("a + b == 17; a % 3 == 0; b % 4 == 0", "b"), (Values{8}));
  EXPECT_EQ(values_left("p*q == 210; p <= 20; 6 <= p; q % 5 == 0", "p"), (Values{6, 7, 14}));
  EXPECT_EQ(values_left("p*q == 210; p <= 20; 6 <= p; q % 5 == 0", "q"), (Values{15, 30, 35}));
  EXPECT_EQ(values_left("a == 3 | a == 5; b == 2*a; b % 10 == 0", "a"), (Values{5}));
  EXPECT_EQ(values_left("a == 3 | a == 5; b == 2*a; b % 10 == 0", "b"), (Values{10}));
  EXPECT_EQ(values_left("z ^ 3 == [27,64,100]", "z"), (Values{3, 4}));
}

TEST(Search, ReturnsDistinctSolutions) {
  const SolveResult found = solved("x*y==24; x<=6; x%2==0", "x:max", 10);
  ASSERT_EQ(found.solutions.size(), 3u);
  EXPECT_TRUE(found.exhausted);
  EXPECT_EQ(found.solutions[0], (Assignment{{"x", 6}, {"y", 4}}));
  EXPECT_EQ(found.solutions[1], (Assignment{{"x", 4}, {"y", 6}}));
  EXPECT_EQ(found.solutions[2], (Assignment{{"x", 2}, {"y", 12}}));
}

TEST(Search, FollowsTheOrder) {
  const SolveResult found =
      solved("768 % a == 0; 768 % b == 0; a*b <= 132; a <= 64; 4 <= b", "a:max,b:max", 5);
  const std::vector<Assignment> expected = {{{"a", 32}, {"b", 4}},
                                            {{"a", 24}, {"b", 4}},
                                            {{"a", 16}, {"b", 8}},
                                            {{"a", 16}, {"b", 6}},
                                            {{"a", 16}, {"b", 4}}};
  EXPECT_EQ(found.solutions, expected);
  EXPECT_FALSE(found.exhausted);
}

TEST(Search, SkipsWhatIsExcluded) {
  SolveOptions options;
  options.count = 5;
  options.exclude = {{{"x", 4}}, {{"x", 2}, {"y", 12}}};
  const SolveResult found = ConstraintProblem::parse("x*y==24; x<=6; x%2==0", "t").solve(options);
  ASSERT_EQ(found.solutions.size(), 1u);
  EXPECT_EQ(found.solutions[0].at("x"), 6);
}

TEST(Search, CompletesVariablesOutsideTheOrder) {
  const SolveResult found = solved("a <= 3; b == a + c; c == [5, 9]", "a:max", 9);
  ASSERT_EQ(found.solutions.size(), 3u);
  EXPECT_EQ(found.solutions[0], (Assignment{{"a", 3}, {"b", 8}, {"c", 5}}));
}

TEST(Search, SaysThatThereIsNone) {
  EXPECT_TRUE(solved("a * a == 7", "", 3).solutions.empty());
  EXPECT_TRUE(solved("a + 2 <= 2", "", 3).solutions.empty());
  const SolveResult nothing = solved("  # nothing\n", "", 3);
  ASSERT_EQ(nothing.solutions.size(), 1u);
  EXPECT_TRUE(nothing.solutions[0].empty());
}

TEST(Search, TellsNumbersBeyond64BitsApart) {
  // 2^30 cubed is 2^90: no wrap-around may make it equal to anything smaller.
  EXPECT_TRUE(solved("x == 1073741824; y == x; x*y*x == 4096", "", 1).solutions.empty());
  EXPECT_EQ(solved("x == 1073741824; y == x; x*y*x % y*x*y == 0", "", 1).solutions.size(), 1u);
}

TEST(Search, GivesUpWithAWord) {
  SolveOptions options;
  options.most_nodes = 1000;
  const ConstraintProblem problem = ConstraintProblem::parse("a + 1 <= b; b + 1 <= a", "test");
  try {
    problem.solve(options);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr("gave up after 1000 values"));
  }
}

// All assignments of up to three variables in [1, 12], by trying.
std::vector<Assignment> enumerated(const ConstraintProblem& problem) {
  const auto& names = problem.variables();
  std::vector<Assignment> found;
  Assignment values;
  const std::function<void(std::size_t)> visit = [&](std::size_t at) {
    if (at == names.size()) {
      if (problem.holds(values)) found.push_back(values);
      return;
    }
    for (std::int64_t value = 1; value <= 12; ++value) {
      values[names[at]] = value;
      visit(at + 1);
    }
  };
  visit(0);
  return found;
}

std::string random_term() {
  const auto atom = [] {
    return *rc::gen::element<std::string>("a", "b", "c", "2", "3", "5", "[2,3,8]", "a^2", "b^3");
  };
  std::string text = atom();
  const int more = *rc::gen::inRange(0, 3);
  for (int i = 0; i < more; ++i) {
    text += *rc::gen::element<std::string>(" + ", "*", " * ") + atom();
  }
  return text;
}

std::string random_relation() {
  const std::string left = random_term(), right = random_term();
  switch (*rc::gen::inRange(0, 3)) {
    case 0:
      return left + " == " + right;
    case 1:
      return left + " <= " + right;
    default:
      return left + " % " + right + " == 0";
  }
}

TEST(Search, FindsAllThatTryingFinds) {
  EXPECT_TRUE(rc::check("solutions of random problems", [] {
    std::string text = "a <= 12; b <= 12; c <= 12;";
    const int count = *rc::gen::inRange(1, 4);
    for (int i = 0; i < count; ++i) {
      text += random_relation();
      if (*rc::gen::inRange(0, 4) == 0) text += " | " + random_relation();
      text += ";";
    }
    RC_LOG() << text;
    const ConstraintProblem problem = ConstraintProblem::parse(text, "test");
    const std::vector<Assignment> expected = enumerated(problem);
    SolveOptions options;
    options.count = 2000;
    const SolveResult found = problem.solve(options);
    RC_ASSERT(found.exhausted);
    RC_ASSERT(found.solutions == expected);
    // Propagation never loses one.
    const std::vector<IntegerDomain> left = problem.propagate();
    for (const Assignment& solution : expected) {
      for (std::size_t i = 0; i < left.size(); ++i) {
        RC_ASSERT(left[i].contains(solution.at(problem.variables()[i])));
      }
    }
  }));
}

std::string refused(const std::string& text) {
  try {
    ConstraintProblem::parse(text, "tiles.csp");
  } catch (const BadFile& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Parser, RefusesWithOneClearLine) {
  EXPECT_THAT(refused("a >= 3"), HasSubstr("write 'b <= a'"));
  EXPECT_THAT(refused("a < 3"), HasSubstr("write 'a + 1 <= b'"));
  EXPECT_THAT(refused("a == (b + c)*2"), HasSubstr("brackets that regroup"));
  EXPECT_THAT(refused("a == (b * c)^2"), HasSubstr("brackets that regroup"));
  EXPECT_THAT(refused("(a == 1; b == 2) | c == 3"), HasSubstr("regrouped"));
  EXPECT_THAT(refused("a = 2"), HasSubstr("expected '=='"));
  EXPECT_THAT(refused("a == b^c"), HasSubstr("integer after '^'"));
  EXPECT_THAT(refused("a == b^2^3"), HasSubstr("one '^' only"));
  EXPECT_THAT(refused("a == 0"), HasSubstr("positive"));
  EXPECT_THAT(refused("a == [1,2"), HasSubstr("expected ']'"));
  EXPECT_THAT(refused("a % 3 == 1"), HasSubstr("expected 0"));
  EXPECT_THAT(refused("a == 3\n b == 4"), HasSubstr("line 2, column 2"));
  EXPECT_THAT(refused("a - b == 3"), HasSubstr("no '-'"));
  EXPECT_THAT(refused("a == 99999999999999999999"), HasSubstr("up to 2^62"));
  EXPECT_THAT(refused("a"), HasSubstr("after a term"));
  EXPECT_THAT(refused(std::string("a == \xff")), HasSubstr("byte 0xff"));
  EXPECT_THAT(refused(std::string(5000, '(') + "a"), HasSubstr("nested too deeply"));
  EXPECT_EQ(refused("((a)) + (b*c) == (3); (a == 1) | (b == 2); ;"), "accepted");
}

TEST(Parser, ReadsAnythingWithoutHarm) {
  const std::string alphabet = "ab12 +*^%()[],;|=<#\n\xc3";
  EXPECT_TRUE(rc::check("random text is parsed or refused", [&] {
    std::string text;
    const int size = *rc::gen::inRange(0, 60);
    for (int i = 0; i < size; ++i) {
      text += alphabet[static_cast<std::size_t>(
          *rc::gen::inRange<int>(0, static_cast<int>(alphabet.size())))];
    }
    try {
      const ConstraintProblem problem = ConstraintProblem::parse(text, "random");
      problem.propagate();
    } catch (const BadFile&) {
    }
  }));
}

TEST(Order, IsParsed) {
  const auto order = parse_order("a:max, b:min,c");
  ASSERT_EQ(order.size(), 3u);
  EXPECT_EQ(order[0].second, ValueOrder::largest_first);
  EXPECT_EQ(order[2].first, "c");
  EXPECT_THROW(parse_order("a:most"), InvalidArgument);
  EXPECT_THROW(parse_order("a,,b"), InvalidArgument);
  EXPECT_THROW(solved("a <= 3", "b:max", 1), InvalidArgument);
  EXPECT_THROW(solved("a <= 3", "a,a", 1), InvalidArgument);
  EXPECT_THROW(solved("a <= 3", "a", 0), InvalidArgument);
}

TEST(KernelProblem, HasThePublishedSolutions) {
  for (const KnownKernel& known : published_kernels()) {
    SCOPED_TRACE(testing::Message() << known.shape.dim);
    const SolveResult found = solve_kernel(known.direction, known.shape, {}, 4);
    ASSERT_FALSE(found.solutions.empty());
    for (const auto& [name, value] : known.expected) {
      EXPECT_EQ(found.solutions[0].at(name), value) << name;
    }
    const ConstraintProblem problem =
        ConstraintProblem::parse(kernel_constraints(known.direction, known.shape), "kernel");
    for (const Assignment& solution : found.solutions) EXPECT_TRUE(problem.holds(solution));
    for (std::size_t i = 0; i < found.solutions.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) EXPECT_NE(found.solutions[i], found.solutions[j]);
    }
  }
}

TEST(KernelProblem, HasNoSolutionWhereNothingFits) {
  EXPECT_TRUE(solve_kernel(KernelDirection::forward, {8192, 1, 16}).solutions.empty());
  EXPECT_THROW(solve_kernel(KernelDirection::forward, {0, 1, 16}), InvalidArgument);
  EXPECT_THROW(kernel_constraints(KernelDirection::forward, {64, 1, 16, 4, 3}), InvalidArgument);
}

}  // namespace
}  // namespace einkorn::flashrnn
