#include "einkorn/core/files/file_test_internal.h"
#include "einkorn/core/files/graph_file.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

GraphFile parse(const std::string& content) {
  return parse_graphml(content, "g.graphml");
}

// A document with something before the graph and something in it.
std::string document(const std::string& keys, const std::string& graph) {
  return "<graphml>" + keys + "<graph edgedefault=\"undirected\">" + graph + "</graph></graphml>";
}

const std::string weight_key = "<key id='w' for='edge' attr.name='weight'/>";
const std::string nodes = "<node id='a'/><node id='b'/>";

TEST(Graphml, ReadsNodesEdgesAndAttributes) {
  const GraphFile graph = parse(R"(<?xml version="1.0" encoding="UTF-8"?>
<!-- <graph> in a comment -->
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
  <key id="d0" for="node" attr.name="gt" attr.type="string"><default>none</default></key>
  <key id="d1" for="edge" attr.name="weight" attr.type="double"/>
  <key id="d2" for="node"/>
  <desc>nothing <b>of</b> note</desc>
  <graph id="G" edgedefault="directed">
    <data key="d0">of the graph</data>
    <edge source="b" target="a"><data key="d1"> 0.5 </data></edge>
    <node id="a"><data key="d0">A &amp; <![CDATA[<A>]]></data><port name="p"/></node>
    <node id="b"><data key="d2">x<nested>not this</nested>y</data></node>
    <edge id="e" source="a" target="a" directed="true"/>
  </graph>
</graphml>
)");
  EXPECT_TRUE(graph.directed);
  EXPECT_THAT(graph.nodes, ElementsAre("a", "b"));
  EXPECT_THAT(graph.edges, ElementsAre(Edge{1, 0, 0.5}, Edge{0, 0, 1}));
  EXPECT_THAT(graph.attributes, ElementsAre(Pair("d2", ElementsAre("", "xy")),
                                            Pair("gt", ElementsAre("A & <A>", "none"))));
}

TEST(Graphml, ReadsPrefixesAndReferences) {
  const GraphFile graph = parse(
      "<g:graphml xmlns:g='x'><g:graph edgedefault='undirected'>"
      "<g:node id='&lt;&#228;&#x41;&quot;&apos;'/></g:graph></g:graphml>");
  EXPECT_FALSE(graph.directed);
  EXPECT_THAT(graph.nodes, ElementsAre("<\xC3\xA4"
                                       "A\"'"));
}

TEST(Graphml, TakesTheDefaultWeight) {
  const std::string key = "<key id='w' for='edge' attr.name='weight'><default>2</default></key>";
  const GraphFile graph =
      parse(document(key, nodes + "<edge source='a' target='b'/>"
                                  "<edge source='a' target='b'><data key='w'>3</data></edge>"));
  EXPECT_THAT(graph.edges, ElementsAre(Edge{0, 1, 2}, Edge{0, 1, 3}));
  EXPECT_TRUE(graph.attributes.empty());
}

class BadGraphml : public testing::TestWithParam<BadCase> {};

TEST_P(BadGraphml, IsRefused) {
  EXPECT_THAT(message_of([] { parse(GetParam().content); }), HasSubstr(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    Xml, BadGraphml,
    testing::Values(
        BadCase{"Empty", "", "g.graphml: line 1: no XML element"},
        BadCase{"Text", "hello", "line 1: expected an element, got 'hello'"},
        BadCase{"DocumentType", "<?xml version='1.0'?>\n<!DOCTYPE g [<!ENTITY a 'b'>]><graphml/>",
                "line 2: a document type declaration, which is not allowed"},
        BadCase{"UnknownEntity", "<graphml>\n&file;</graphml>",
                "line 2: expected a reference such as &amp; or &#233;, got '&file;"},
        BadCase{"BareAmpersand", "<graphml a='&'/>", "expected a reference"},
        BadCase{"NulReference", "<graphml>&#0;</graphml>", "expected a reference"},
        BadCase{"Surrogate", "<graphml>&#xD800;</graphml>", "expected a reference"},
        BadCase{"Unclosed", "<graphml>\n<graph edgedefault='directed'>\n",
                "line 3: the file ends within the element graph"},
        BadCase{"Crossed", "<graphml><a><b></a></b></graphml>", "expected </b>, got </a>"},
        BadCase{"ClosesNothing", "</graphml>", "</graphml> closes nothing"},
        BadCase{"SecondRoot", "<graphml><graph edgedefault='directed'/></graphml><a/>",
                "a second element behind the first"},
        BadCase{"TextBehind", "<graphml><graph edgedefault='directed'/></graphml>x",
                "expected an element, got 'x'"},
        BadCase{"AttributeTwice", "<graphml a='1' a='2'/>", "a second attribute a"},
        BadCase{"NoQuotes", "<graphml a=1/>", "expected a value in quotes"},
        BadCase{"NoValue", "<graphml a/>", "expected '=' behind the name of an attribute"},
        BadCase{"OpenQuote", "<graphml a='1/>", "a quote that is never closed"},
        BadCase{"TagInQuote", "<graphml a='<'/>", "a '<' within a value in quotes"},
        BadCase{"NoBlank", "<graphml a='1'b='2'/>", "expected a blank, '>' or '/>'"},
        BadCase{"NoName", "<graphml>< a/></graphml>", "expected a name, got ' a/>"},
        BadCase{"OpenComment", "<graphml>\n<!-->", "line 2: a comment that never ends"},
        BadCase{"OpenInstruction", "<?xml?", "a processing instruction that never ends"},
        BadCase{"OpenSection", "<graphml><![CDATA[]]", "a CDATA section that never ends"},
        BadCase{"Latin1", "<graphml>\xE4</graphml>", "line 1: not UTF-8"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Graphml, BadGraphml,
    testing::Values(
        BadCase{"OtherRoot", "<svg/>", "expected the element graphml, got 'svg'"},
        BadCase{"NoGraph", "<graphml/>", "no graph, expected an element graph"},
        BadCase{"TwoGraphs",
                "<graphml><graph edgedefault='directed'/><graph edgedefault='directed'/></graphml>",
                "a second graph"},
        BadCase{"LateKey", "<graphml><graph edgedefault='directed'/><key id='a'/></graphml>",
                "a key behind the graph"},
        BadCase{"NoDirection", "<graphml><graph/></graphml>",
                "the element graph lacks its attribute edgedefault"},
        BadCase{"BadDirection", "<graphml><graph edgedefault='up'/></graphml>",
                "expected edgedefault directed or undirected, got 'up'"},
        BadCase{"Mixed", document("", nodes + "<edge source='a' target='b' directed='true'/>"),
                "directed is 'true' in a graph of undirected edges"},
        BadCase{"NoId", document("", "<node/>"), "the element node lacks its attribute id"},
        BadCase{"SameId", document("", "<node id='a'/>\n<node id='a'/>"),
                "line 2: a second node with the id 'a'"},
        BadCase{"NoTarget", document("", "<edge source='a'/>"), "lacks its attribute target"},
        BadCase{"NoSuchNode", document("", "\n<edge source='a' target='b'/>"),
                "line 2: an edge ends at node 'a', which does not exist"},
        BadCase{"NoSuchKey", document("", "<node id='a'><data key='k'>1</data></node>"),
                "data of the key 'k', which is not declared before"},
        BadCase{"SameKey", document("<key id='a'/><key id='a'/>", ""), "a second key with the id"},
        BadCase{"DataTwice",
                document("<key id='k'/>",
                         "<node id='a'><data key='k'>1</data><data key='k'>2</data></node>"),
                "the attribute 'k' occurs twice in a node"},
        BadCase{"Weight",
                document(weight_key,
                         nodes + "<edge source='a' target='b'><data key='w'>x</data></edge>"),
                "expected a finite number as weight, got 'x'"},
        BadCase{
            "DefaultWeight",
            document("<key id='w' for='edge' attr.name='weight'><default>inf</default></key>", ""),
            "expected a finite number as weight, got 'inf'"},
        BadCase{"Hyperedge", document("", "<hyperedge/>"), "hyperedges are not supported"},
        BadCase{"Nested", document("", "<node id='a'><graph edgedefault='directed'/></node>"),
                "graphs within nodes are not supported"}),
    name_of);

TEST(Graphml, LimitsTheDepth) {
  std::string content = "<graphml>";
  for (int i = 0; i < 100000; ++i) content += "<a>";
  EXPECT_THAT(message_of([&] { parse(content); }), HasSubstr("nested more than 64 deep"));
}

TEST(Graphml, RefusesDefaultsOutOfProportionToTheFile) {
  std::string content;
  for (int i = 0; i < 3000; ++i) content += fmt::format("<node id='{}'/>", i);
  const std::string key =
      "<key id='k' for='node'><default>" + std::string(10000, 'x') + "</default></key>";
  EXPECT_THAT(message_of([&] { parse(document(key, content)); }), HasSubstr("too much memory"));
}

TEST(Graphml, SurvivesDamage) {
  expect_robust(
      "<?xml version=\"1.0\"?><graphml><!-- c --><key id='k'><default>d</default></key>\n"
      "<graph edgedefault=\"undirected\"><node id=\"a\"><data key='k'><![CDATA[x]]>&#228;</data>"
      "</node><edge source='a' target='a'/></graph></graphml>\n",
      [](const std::string& content) { parse(content); });
}

}  // namespace
}  // namespace einkorn
