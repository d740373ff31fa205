#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "einkorn/core/files/file_test_internal.h"
#include "einkorn/core/files/graph_file.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

GraphFile parse(const std::string& content) {
  return parse_edge_list(content, "g.txt");
}

TEST(EdgeList, ReadsNodesInTheOrderOfTheirAppearance) {
  const GraphFile graph = parse(
      "# a comment\n"
      "b a\n"
      "\n"
      "  a\tc\t0.5  \r\n"
      "% another\n"
      "c,b,-2 # behind\n");
  EXPECT_FALSE(graph.directed);
  EXPECT_THAT(graph.nodes, ElementsAre("b", "a", "c"));
  EXPECT_THAT(graph.edges, ElementsAre(Edge{0, 1, 1}, Edge{1, 2, 0.5}, Edge{2, 0, -2}));
  EXPECT_TRUE(graph.attributes.empty());
}

TEST(EdgeList, KeepsLoopsAndDuplicates) {
  const GraphFile graph = parse("1 1\n1 2\n2 1\n1 2\n");
  EXPECT_EQ(graph.nodes.size(), 2u);
  EXPECT_EQ(graph.edges.size(), 4u);
}

TEST(EdgeList, TakesNamesWithACommentSignInside) {
  EXPECT_THAT(parse("C# F#\n").nodes, ElementsAre("C#", "F#"));
}

TEST(EdgeList, MayBeEmpty) {
  EXPECT_TRUE(parse("").nodes.empty());
}

class BadEdgeList : public testing::TestWithParam<BadCase> {};

TEST_P(BadEdgeList, IsRefused) {
  EXPECT_THAT(message_of([] { parse(GetParam().content); }), HasSubstr(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    EdgeList, BadEdgeList,
    testing::Values(BadCase{"OneNode", "1 2\n3\n",
                            "g.txt: line 2: expected two nodes and perhaps a weight"},
                    BadCase{"CommentForANode", "1 # 2\n", "line 1: expected two nodes"},
                    BadCase{"FourFields", "1 2 3 4\n", "then got '4'"},
                    BadCase{"Word", "source,target,weight\n",
                            "line 1: expected a finite number as weight, got 'weight'"},
                    BadCase{"NotANumber", "1 2 nan\n", "line 1: expected a finite number"},
                    BadCase{"Infinite", "1 2 1e999\n", "line 1: expected a finite number"},
                    BadCase{"CarriageReturn", "1 2\r2 3\r", "line 1: a carriage return"},
                    BadCase{"Nul", std::string("1 2\n\0 3\n", 8), "line 2: a NUL byte"},
                    BadCase{"Latin1", "\xFC v\n", "line 1: not UTF-8"}),
    name_of);

TEST(EdgeList, ShowsNoControlCharactersInMessages) {
  EXPECT_THAT(message_of([] { parse("\x1B[31m\n"); }), HasSubstr("'?[31m'"));
  EXPECT_THAT(message_of([] { parse(std::string(100, 'x') + "\n"); }),
              HasSubstr("'" + std::string(40, 'x') + "...'"));
}

TEST(EdgeList, SurvivesDamage) {
  expect_robust("# c\na b 1.5\r\n\xC3\xA4,a,2e3\n\nb\tb\n",
                [](const std::string& content) { parse(content); });
}

TEST(FormatEdgeList, WritesWeightsWhereThereAreAny) {
  EXPECT_EQ(format_edge_list({false, {"a", "b"}, {{0, 1, 1}}, {}}), "# source target\na b\n");
  EXPECT_EQ(format_edge_list({false, {"a", "b"}, {{0, 1, 1}, {1, 1, 0.1}}, {}}),
            "# source target weight\na b 1\nb b 0.1\n");
}

TEST(FormatEdgeList, RefusesWhatAnEdgeListCannotTell) {
  const auto message = [](const GraphFile& graph) {
    return message_of<InvalidArgument>([&] { format_edge_list(graph); });
  };
  EXPECT_THAT(message({false, {"a", "b"}, {{0, 0, 1}}, {}}), HasSubstr("node 'b' has no edge"));
  EXPECT_THAT(message({false, {"a b"}, {{0, 0, 1}}, {}}), HasSubstr("cannot stand"));
  EXPECT_THAT(message({false, {"#a"}, {{0, 0, 1}}, {}}), HasSubstr("cannot stand"));
  EXPECT_THAT(message({false, {"a"}, {{0, 1, 1}}, {}}), HasSubstr("from 0 to 1 in a graph of 1"));
  EXPECT_THAT(message({false, {"a"}, {{0, 0, INFINITY}}, {}}), HasSubstr("finite"));
}

RC_GTEST_PROP(FormatEdgeList, ReadsBackTheSame, ()) {
  using Ends = std::tuple<std::uint8_t, std::uint8_t, double>;
  std::string content;
  for (const auto& [source, target, weight] : *rc::gen::arbitrary<std::vector<Ends>>()) {
    content += fmt::format("{} {} {}\n", source % 16, target % 16, weight);
  }
  const GraphFile graph = parse(content);
  const GraphFile again = parse(format_edge_list(graph));
  RC_ASSERT(again.nodes == graph.nodes);
  RC_ASSERT(again.edges == graph.edges);
}

}  // namespace
}  // namespace einkorn
