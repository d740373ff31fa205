#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "einkorn/core/data.h"
#include "einkorn/core/files/file_test_internal.h"
#include "einkorn/core/files/graph_file.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

GraphFile parse(const std::string& content) {
  return parse_gml(content, "g.gml");
}

TEST(Gml, ReadsNodesEdgesAndAttributes) {
  const GraphFile graph = parse(R"(Creator "somebody"
# a comment
graph
[
  directed 1
  comment "graph of [brackets]"
  edge [ source 7 target 3 weight 0.5 value 9 ]
  node [ id 3 label "three" gt "A" size 1.5 graphics [ x 1 [ y 2 ] ] ]
  node [ id 7 gt "B" ]
  edge [ source 3 target 3 value -2 ]
  edge [ source 3 target 7 ]
]
)");
  EXPECT_TRUE(graph.directed);
  EXPECT_THAT(graph.nodes, ElementsAre("three", "7"));
  EXPECT_THAT(graph.edges, ElementsAre(Edge{1, 0, 0.5}, Edge{0, 0, -2}, Edge{0, 1, 1}));
  EXPECT_THAT(graph.attributes,
              ElementsAre(Pair("gt", ElementsAre("A", "B")), Pair("size", ElementsAre("1.5", ""))));
}

TEST(Gml, ResolvesReferencesAndKeepsUnknownOnes) {
  const GraphFile graph = parse(
      "graph [ node [ id 0 label \"&#228;&#xE4; &quot;&amp;&lt;&gt; AT&T &nbsp; "
      "&#0; two\nlines\" ] ]");
  EXPECT_THAT(graph.nodes, ElementsAre("\xC3\xA4\xC3\xA4 \"&<> AT&T &nbsp; &#0; two\nlines"));
}

TEST(Gml, NeedsNoBlanksAroundBracketsAndQuotes) {
  EXPECT_THAT(parse("graph[node[id 0 label\"a\"]edge[source 0 target 0]]").nodes, ElementsAre("a"));
}

TEST(Gml, MayHaveNoNodes) {
  EXPECT_TRUE(parse("graph [ ]").nodes.empty());
}

class BadGml : public testing::TestWithParam<BadCase> {};

TEST_P(BadGml, IsRefused) {
  EXPECT_THAT(message_of([] { parse(GetParam().content); }), HasSubstr(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    Gml, BadGml,
    testing::Values(
        BadCase{"Empty", "", "g.gml: line 1: no graph, expected 'graph [ ... ]'"},
        BadCase{"TwoGraphs", "graph [ ]\ngraph [ ]", "line 2: a second graph"},
        BadCase{"NoBracket", "graph 1", "line 1: expected '[' behind graph"},
        BadCase{"NodeWithoutBracket", "graph [\nnode 1 ]", "line 2: expected '[' behind node"},
        BadCase{"NoId", "graph [\nnode [ label \"a\" ] ]", "line 2: a node without id"},
        BadCase{"IdIsNoNumber", "graph [ node [ id \"a\" ] ]", "expected a whole number as id"},
        BadCase{"SameId", "graph [ node [ id 1 ]\nnode [ id 1 ] ]",
                "line 2: a second node with the id 1"},
        BadCase{"IdTwice", "graph [ node [ id 1 id 2 ] ]", "the key id occurs twice"},
        BadCase{"AttributeTwice", "graph [ node [ id 1 a 1\na 2 ] ]",
                "line 2: the key a occurs twice in a node"},
        BadCase{"NoTarget", "graph [ node [ id 1 ] edge [ source 1 ] ]", "an edge without target"},
        BadCase{"NoSource", "graph [ node [ id 1 ] edge [ target 1 ] ]", "an edge without source"},
        BadCase{"NoSuchNode", "graph [\nedge [ source 1 target 1 ] ]",
                "line 2: an edge ends at node 1, which does not exist"},
        BadCase{"Weight", "graph [ node [ id 1 ] edge [ source 1 target 1 weight \"x\" ] ]",
                "expected a finite number as weight, got 'x'"},
        BadCase{"Infinite", "graph [ node [ id 1 ] edge [ source 1 target 1 value INF ] ]",
                "expected a finite number as weight, got 'INF'"},
        BadCase{"Directed", "graph [ directed 2 ]", "expected directed 0 or 1, got '2'"},
        BadCase{"OpenGraph", "graph [\n\n", "line 3: the file ends within a graph, expected ']'"},
        BadCase{"OpenNode", "graph [ node [ id 1", "the file ends within a node"},
        BadCase{"OpenString", "graph [ node [ id 1 label \"a ] ]",
                "line 1: a string that is never closed"},
        BadCase{"OpenList", "graph [\nlist [ a [ ]", "line 2: a list that is never closed"},
        BadCase{"BareWord", "graph [ node [ id 1 gt red ] ]",
                "expected a number, a string or a list, got 'red'"},
        BadCase{"KeyIsANumber", "graph [ 1 2 ]", "expected a key, got '1'"},
        BadCase{"TooManyBrackets", "graph [ ] ]", "expected a key, got ']'"},
        BadCase{"Nul", std::string("graph [\0]", 9), "line 1: a NUL byte"},
        BadCase{"Latin1", "graph [ node [ id 1 label \"\xE4\" ] ]", "line 1: not UTF-8"}),
    name_of);

TEST(Gml, RefusesAttributesOutOfProportionToTheFile) {
  std::string content = "graph [ ";
  for (int i = 0; i < 3000; ++i) content += fmt::format("node [ id {} a{} 1 ] ", i, i);
  EXPECT_THAT(message_of([&] { parse(content + "]"); }),
              HasSubstr("3000 attributes of 3000 nodes take too much memory"));
}

TEST(Gml, SurvivesDeepNesting) {
  std::string content = "graph [ ";
  for (int i = 0; i < 100000; ++i) content += "a [ ";
  EXPECT_THAT(message_of([&] { parse(content); }), HasSubstr("never closed"));
}

TEST(Gml, SurvivesDamage) {
  expect_robust(
      "Creator \"x\"\ngraph [ directed 1 node [ id 1 label \"a &#228;\" gt 2 g [ x 1 ] ]\n# c\n"
      "node [ id 2 ] edge [ source 1 target 2 weight 0.5 ] ]\n",
      [](const std::string& content) { parse(content); });
}

TEST(FormatGml, WritesWhatOtherReadersUnderstand) {
  const GraphFile graph{true,
                        {"a\"b", "\xC3\xA4 & c"},
                        {{0, 1, 1e20}, {1, 0, 0.5}},
                        {{"gt", {"1", "007"}}, {"x", {"", "0.5"}}}};
  EXPECT_EQ(format_gml(graph), R"(graph [
  directed 1
  node [
    id 0
    label "a&quot;b"
    gt 1
  ]
  node [
    id 1
    label "&#228; &amp; c"
    gt "007"
    x 0.5
  ]
  edge [
    source 0
    target 1
    weight 1.0e+20
  ]
  edge [
    source 1
    target 0
    weight 0.5
  ]
]
)");
  expect_same(parse(format_gml(graph)), graph);
}

TEST(FormatGml, RefusesWhatGmlCannotTell) {
  const auto message = [](const GraphFile& graph) {
    return message_of<InvalidArgument>([&] { format_gml(graph); });
  };
  EXPECT_THAT(message({false, {"a"}, {}, {{"class label", {"1"}}}}), HasSubstr("'class label'"));
  EXPECT_THAT(message({false, {"a"}, {}, {{"id", {"1"}}}}), HasSubstr("neither id nor label"));
  EXPECT_THAT(message({false, {"a"}, {}, {{"x", {}}}}), HasSubstr("0 values for 1 nodes"));
  EXPECT_THAT(message({false, {"\xFF"}, {}, {}}), HasSubstr("UTF-8"));
  EXPECT_THAT(message({false, {"a"}, {{0, -1, 1}}, {}}), HasSubstr("from 0 to -1"));
}

RC_GTEST_PROP(FormatGml, ReadsBackTheSame, ()) {
  const auto text = rc::gen::nonEmpty(
      rc::gen::container<std::string>(rc::gen::element('a', '1', '.', '"', '&', ';', '#', '\n')));
  GraphFile graph;
  graph.directed = *rc::gen::arbitrary<bool>();
  graph.nodes = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::string>>(text));
  graph.attributes["gt"] = *rc::gen::container<std::vector<std::string>>(graph.nodes.size(), text);
  const auto count = static_cast<std::int64_t>(graph.nodes.size());
  const auto node = rc::gen::inRange<std::int64_t>(0, count);
  const auto ends = *rc::gen::container<std::vector<std::pair<std::int64_t, std::int64_t>>>(
      rc::gen::pair(node, node));
  for (const auto& [source, target] : ends) {
    graph.edges.push_back({source, target, *rc::gen::arbitrary<double>()});
  }
  const GraphFile again = parse(format_gml(graph));
  RC_ASSERT(again.directed == graph.directed);
  RC_ASSERT(again.nodes == graph.nodes);
  RC_ASSERT(again.attributes == graph.attributes);
  RC_ASSERT(again.edges == graph.edges);
}

struct KnownGraph {
  const char* file;
  std::size_t nodes;
  std::size_t edges;
  std::size_t classes;
};

class RealGml : public testing::TestWithParam<KnownGraph> {};

TEST_P(RealGml, HasTheKnownSize) {
  const KnownGraph& known = GetParam();
  const auto path = test_data(std::string("graphs-communities/") + known.file);
  if (!path) GTEST_SKIP() << "EINKORN_DATA does not name a folder with graphs-communities";
  const GraphFile graph = read_graph(*path);
  EXPECT_EQ(graph.nodes.size(), known.nodes);
  EXPECT_EQ(graph.edges.size(), known.edges);
  const auto& classes = graph.attributes.at("gt");
  std::set<std::string> names(classes.begin(), classes.end());
  names.erase("");  // citeseer does not know the class of every paper
  EXPECT_EQ(names.size(), known.classes);
  expect_same(parse(format_gml(graph)), graph);
}

INSTANTIATE_TEST_SUITE_P(
    Gml, RealGml,
    testing::Values(
        KnownGraph{"karate.gml", 34, 78, 2}, KnownGraph{"dolphins.gml", 62, 159, 2},
        KnownGraph{"football.gml", 115, 613, 12}, KnownGraph{"polbooks.gml", 105, 441, 3},
        KnownGraph{"polblogs.gml.gz", 1222, 16717, 2},
        KnownGraph{"cora/cora.gml.gz", 2485, 5069, 7}, KnownGraph{"citeseer.gml.gz", 2120, 3731, 6},
        KnownGraph{"eu-core.gml.gz", 986, 16687, 42}, KnownGraph{"eurosis.gml.gz", 1272, 6454, 13},
        KnownGraph{"newsgroup/news_2cl1.gml.gz", 400, 33854, 2},
        KnownGraph{"sp_school/sp_school_day_1.gml.gz", 236, 5899, 11}));

}  // namespace
}  // namespace einkorn
