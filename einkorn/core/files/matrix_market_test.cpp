#include "einkorn/core/data.h"
#include "einkorn/core/files/file_test_internal.h"
#include "einkorn/core/files/graph_file.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

GraphFile parse(const std::string& content) {
  return parse_matrix_market(content, "m.mtx");
}

TEST(MatrixMarket, ReadsGeneralMatricesAsDirectedGraphs) {
  const GraphFile graph = parse(
      "%%MatrixMarket matrix coordinate real general\n"
      "% a comment\n"
      "\n"
      "3 3 4\n"
      "1 2 0.5\n"
      "2 2 -1e-3\r\n"
      "% another\n"
      "3 1 0\n"
      "1 2 0.5\n");
  EXPECT_TRUE(graph.directed);
  EXPECT_THAT(graph.nodes, ElementsAre("1", "2", "3"));
  EXPECT_THAT(graph.edges,
              ElementsAre(Edge{0, 1, 0.5}, Edge{1, 1, -1e-3}, Edge{2, 0, 0}, Edge{0, 1, 0.5}));
}

TEST(MatrixMarket, ReadsSymmetricPatternsAsUndirectedGraphs) {
  const GraphFile graph =
      parse("%%matrixmarket MATRIX Coordinate Pattern Symmetric\n2 2 2\n2 1\n1 1");
  EXPECT_FALSE(graph.directed);
  EXPECT_THAT(graph.edges, ElementsAre(Edge{1, 0, 1}, Edge{0, 0, 1}));
}

TEST(MatrixMarket, ReadsArraysColumnByColumn) {
  EXPECT_THAT(parse("%%MatrixMarket matrix array integer general\n2 2\n0\n3\n4\n5\n").edges,
              ElementsAre(Edge{1, 0, 3}, Edge{0, 1, 4}, Edge{1, 1, 5}));
  const GraphFile symmetric = parse("%%MatrixMarket matrix array real symmetric\n2 2\n1\n2\n3\n");
  EXPECT_FALSE(symmetric.directed);
  EXPECT_THAT(symmetric.edges, ElementsAre(Edge{0, 0, 1}, Edge{1, 0, 2}, Edge{1, 1, 3}));
}

TEST(MatrixMarket, MayBeEmpty) {
  EXPECT_TRUE(parse("%%MatrixMarket matrix array real general\n0 0\n").nodes.empty());
  EXPECT_EQ(parse("%%MatrixMarket matrix coordinate real general\n5 5 0\n").nodes.size(), 5u);
}

class BadMatrix : public testing::TestWithParam<BadCase> {};

TEST_P(BadMatrix, IsRefused) {
  EXPECT_THAT(message_of([] { parse(GetParam().content); }), HasSubstr(GetParam().words));
}

const std::string general = "%%MatrixMarket matrix coordinate real general\n";
const std::string array = "%%MatrixMarket matrix array real general\n";

INSTANTIATE_TEST_SUITE_P(
    MatrixMarket, BadMatrix,
    testing::Values(
        BadCase{"Empty", "", "m.mtx: line 1: not a Matrix Market file"},
        BadCase{"OtherFile", "1 2\n", "expected it to begin with %%MatrixMarket"},
        BadCase{"Vector", "%%MatrixMarket vector array real general\n",
                "expected the object matrix, got 'vector'"},
        BadCase{"Format", "%%MatrixMarket matrix dense real general\n",
                "expected the format coordinate or array, got 'dense'"},
        BadCase{"Complex", "%%MatrixMarket matrix coordinate complex general\n",
                "complex values cannot be edge weights"},
        BadCase{"Field", "%%MatrixMarket matrix coordinate string general\n",
                "expected the field real, integer or pattern, got 'string'"},
        BadCase{"Skew", "%%MatrixMarket matrix coordinate real skew-symmetric\n",
                "a skew-symmetric matrix is no graph"},
        BadCase{"Hermitian", "%%MatrixMarket matrix coordinate real hermitian\n",
                "a hermitian matrix is no graph"},
        BadCase{"Symmetry", "%%MatrixMarket matrix coordinate real\n",
                "expected the symmetry general or symmetric, got ''"},
        BadCase{"PatternArray", "%%MatrixMarket matrix array pattern general\n",
                "it cannot be a pattern"},
        BadCase{"NoSize", general, "the file ends too early, expected a line with the size"},
        BadCase{"SizeIsNoNumber", general + "a b c\n", "line 2: expected the number of rows"},
        BadCase{"Negative", general + "-1 -1 0\n", "expected the number of rows, got '-1'"},
        BadCase{"NoEntries", general + "1 1\n", "expected the number of entries, got ''"},
        BadCase{"NotSquare", general + "2 3 0\n", "line 2: 2 rows and 3 columns"},
        BadCase{"HugeRows", general + "1000000000000 1000000000000 0\n",
                "1000000000000 rows are out of proportion"},
        BadCase{"HugeEntries", general + "1 1 1000000000000\n", "entries do not fit a file of"},
        BadCase{"HugeArray", array + "3000000000 3000000000\n", "rows do not fit a file of"},
        BadCase{"TooFew", general + "2 2 2\n1 1 1\n", "line 3: the file ends after 1 of 2 entries"},
        BadCase{"TooMany", general + "2 2 1\n1 1 1\n2 2 2\n",
                "line 4: more entries than announced: '2 2 2'"},
        BadCase{"Zero", general + "2 2 1\n0 1 1\n", "line 3: expected a row or column from 1 to 2"},
        BadCase{"Outside", general + "2 2 1\n1 3 1\n", "from 1 to 2, got '3'"},
        BadCase{"NoValue", general + "2 2 1\n1 1\n", "expected a finite number as weight, got ''"},
        BadCase{"Infinite", general + "2 2 1\n1 1 inf\n", "finite number as weight, got 'inf'"},
        BadCase{"Fraction", "%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 0.5\n",
                "line 3: expected a whole number, got '0.5'"},
        BadCase{"LongLine", general + "2 2 1\n1 1 1 1\n", "expected the end of the line, got '1'"},
        BadCase{"ShortArray", array + "2 2\n1\n2\n",
                "line 4: the file ends before the value of row 1, column 2"},
        BadCase{"LongArray", array + "1 1\n1\n2\n", "more entries than announced: '2'"}),
    name_of);

TEST(MatrixMarket, SurvivesDamage) {
  expect_robust(general + "% c\n3 3 2\n1 2 0.5\n3 3 -1e3\n",
                [](const std::string& content) { parse(content); });
  expect_robust(array + "2 2\n1\n2\n3\n4\n", [](const std::string& content) { parse(content); });
}

TEST(MatrixMarket, ReadsRealMatrices) {
  const auto path = test_data("sparse-mtx/7pt_10x10x10.mtx");
  if (!path) GTEST_SKIP() << "EINKORN_DATA does not name a folder with sparse-mtx";
  const GraphFile graph = read_graph(*path);
  EXPECT_EQ(graph.nodes.size(), 1000u);
  EXPECT_EQ(graph.edges.size(), 6400u);
  EXPECT_EQ(graph.edges.front().weight, 7);
  EXPECT_TRUE(graph.directed);
}

}  // namespace
}  // namespace einkorn
