#include "einkorn/core/files/graph_file.h"

#include "einkorn/core/files/content.h"
#include "einkorn/core/files/file_test_internal.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ReadGraph, GoesByTheExtension) {
  const TemporaryFolder folder;
  const auto nodes_of = [&](const std::string& name, const std::string& content) {
    write_text({folder / name}, content);
    return read_graph(folder / name).nodes;
  };
  EXPECT_THAT(nodes_of("g.gml", "graph [ node [ id 5 ] ]"), ElementsAre("5"));
  EXPECT_THAT(nodes_of("g.GML", "graph [ node [ id 5 ] ]"), ElementsAre("5"));
  const std::string graphml =
      "<graphml><graph edgedefault='directed'><node id='n'/></graph></graphml>";
  EXPECT_THAT(nodes_of("g.graphml", graphml), ElementsAre("n"));
  EXPECT_THAT(nodes_of("g.xml", graphml), ElementsAre("n"));
  EXPECT_THAT(nodes_of("g.mtx", "%%MatrixMarket matrix array real general\n1 1\n1\n"),
              ElementsAre("1"));
  EXPECT_THAT(nodes_of("g.edges", "a b\n"), ElementsAre("a", "b"));
  EXPECT_THAT(nodes_of("g", "a b\n"), ElementsAre("a", "b"));
}

TEST(ReadGraph, ExpandsGzip) {
  const TemporaryFolder folder;
  const auto packed = bytes_of_hex("1f8b08000000000002034b5448e24a5248e60200325835be08000000");
  write_content({folder / "g.txt.gz"}, packed);
  EXPECT_THAT(read_graph(folder / "g.txt.gz").nodes, ElementsAre("a", "b", "c"));
  write_content({folder / "g.gml.gz"}, packed);
  EXPECT_THAT(message_of([&] { read_graph(folder / "g.gml.gz"); }),
              HasSubstr("g.gml.gz: line 1: expected a number, a string or a list, got 'b'"));
}

TEST(ReadGraph, NamesTheMissingFile) {
  EXPECT_THAT(message_of([] { read_graph("missing.gml"); }),
              HasSubstr("missing.gml: cannot be read: No such file"));
}

}  // namespace
}  // namespace einkorn
