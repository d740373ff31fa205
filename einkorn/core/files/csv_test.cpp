#include "einkorn/core/files/csv.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>

#include "einkorn/core/data.h"
#include "einkorn/core/files/file_test_internal.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

CsvTable parse(const std::string& content) {
  return parse_csv(content, "t.csv");
}

TEST(Csv, ReadsPlainTables) {
  const CsvTable table = parse("a,b\n1,x\n2.5,\n");
  EXPECT_THAT(table.columns, ElementsAre("a", "b"));
  EXPECT_THAT(table.rows, ElementsAre(ElementsAre("1", "x"), ElementsAre("2.5", "")));
  EXPECT_THAT(table.lines, ElementsAre(2u, 3u));
  EXPECT_TRUE(table.has("a"));
  EXPECT_FALSE(table.has("c"));
  EXPECT_EQ(table.column("b"), 1u);
}

TEST(Csv, ReadsQuotesAndAllLineEnds) {
  const CsvTable table = parse(
      "name,text\r\n"
      "x,\"a \"\"b\"\", c\r\nd\"\r\n"
      "\r\n"
      "5\" pipe,\"\"");
  EXPECT_THAT(table.rows,
              ElementsAre(ElementsAre("x", "a \"b\", c\r\nd"), ElementsAre("5\" pipe", "")));
  EXPECT_THAT(table.lines, ElementsAre(2u, 5u));
}

TEST(Csv, SkipsTheByteOrderMark) {
  EXPECT_THAT(parse("\xEF\xBB\xBF"
                    "a\n1\n")
                  .columns,
              ElementsAre("a"));
}

TEST(Csv, TakesOtherSeparators) {
  const CsvTable table = parse_csv("a\tb\n1,5\t2\n", "t.tsv", '\t');
  EXPECT_THAT(table.rows, ElementsAre(ElementsAre("1,5", "2")));
  EXPECT_THROW(parse_csv("a", "t", '"'), InvalidArgument);
}

TEST(Csv, MayHaveNoRows) {
  EXPECT_TRUE(parse("a,b\n").rows.empty());
}

TEST(CsvNumbers, ConvertsAColumn) {
  const CsvTable table = parse("x,y\n 1 ,\n-2e3,nan\n1e-400,inf\n");
  EXPECT_THAT(table.numbers("x"), ElementsAre(1, -2000, 0));
  const std::vector<double> y = table.numbers("y", true);
  EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[1]) && std::isinf(y[2]));
}

TEST(CsvNumbers, SaysWhichCellIsNoNumber) {
  const CsvTable table = parse("x,y\n1,\n\none,2\n");
  EXPECT_EQ(message_of([&] { table.numbers("x"); }),
            "t.csv: line 4, column 'x': expected a number, got 'one'");
  EXPECT_EQ(message_of([&] { table.numbers("y"); }),
            "t.csv: line 2, column 'y': empty, expected a number");
  EXPECT_EQ(message_of([&] { table.numbers("los"); }),
            "t.csv: header: no column 'los'; there are x, y");
  EXPECT_THAT(message_of([] { parse("loss\n1\n").numbers("los"); }),
              HasSubstr("did you mean 'loss'?"));
}

class BadCsv : public testing::TestWithParam<BadCase> {};

TEST_P(BadCsv, IsRefused) {
  EXPECT_THAT(message_of([] { parse(GetParam().content); }), HasSubstr(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    Csv, BadCsv,
    testing::Values(
        BadCase{"Empty", "", "t.csv: line 1: no header"},
        BadCase{"Blank", "\n\n", "line 1: no header"},
        BadCase{"Long", "a,b\n1,2\n1,2,3\n", "line 3: 3 cells, expected 2 as in the header"},
        BadCase{"Short", "a,b\n1\n", "line 2: 1 cells, expected 2"},
        BadCase{"OpenQuote", "a\n\"1\n2\n", "line 2: a quote that is never closed"},
        BadCase{"TextBehindQuote", "a\n\"1\"2\n", "line 2: text behind a closing quote"},
        BadCase{"NoName", "a,,b\n", "header: column 2 has no name"},
        BadCase{"SameName", "a,b,a\n", "header: the column 'a' occurs twice"},
        BadCase{"Nul", std::string("a\n1\n\0\n", 6), "line 3: a NUL byte"},
        BadCase{"Latin1", "a\n\xE4\n", "line 2: not UTF-8"},
        BadCase{"CarriageReturn", "a\r1\r", "line 1: a carriage return without a line feed"}),
    name_of);

TEST(Csv, SurvivesDamage) {
  expect_robust("a,\"b \"\"\",\xC3\xA4\r\n1,\"x\ny\",3\r\n\r\n4,,\"\"\n",
                [](const std::string& content) { parse(content); });
}

TEST(FormatCsv, QuotesWhatNeedsIt) {
  const CsvTable table{"", {"a", "b\""}, {{"1,2", "x\ny"}, {"", "plain text"}}, {}};
  EXPECT_EQ(format_csv(table), "a,\"b\"\"\"\n\"1,2\",\"x\ny\"\n,plain text\n");
  EXPECT_EQ(format_csv({"", {"a"}, {{""}}, {}}), "a\n\"\"\n");
}

TEST(FormatCsv, RefusesWhatItCannotWrite) {
  EXPECT_THAT(message_of<InvalidArgument>([] { format_csv({"", {"a"}, {{"1", "2"}}, {}}); }),
              HasSubstr("2 cells, expected 1"));
  EXPECT_THROW(format_csv({"", {"a"}, {{"\xFF"}}, {}}), InvalidArgument);
}

RC_GTEST_PROP(FormatCsv, ReadsBackTheSame, ()) {
  const auto columns = *rc::gen::inRange<std::size_t>(1, 5);
  const auto cell =
      rc::gen::container<std::string>(rc::gen::element('a', '"', ',', '\n', '\r', ' '));
  CsvTable table;
  for (std::size_t i = 0; i < columns; ++i)
    table.columns.push_back(std::string("c") + char('0' + i));
  table.rows = *rc::gen::container<std::vector<std::vector<std::string>>>(
      rc::gen::container<std::vector<std::string>>(columns, cell));
  const CsvTable again = parse(format_csv(table));
  RC_ASSERT(again.columns == table.columns);
  RC_ASSERT(again.rows == table.rows);
}

TEST(WriteCsv, WritesAFile) {
  const TemporaryFolder folder;
  const CsvTable table{"", {"a", "b"}, {{"1", "x"}}, {}};
  write_csv({folder / "t.csv"}, table);
  EXPECT_EQ(read_csv(folder / "t.csv").rows, table.rows);
}

TEST(Csv, ReadsRealTables) {
  const auto path = test_data("scaling-steplaw/dense_lr_bs_loss.csv");
  if (!path) GTEST_SKIP() << "EINKORN_DATA does not name a folder with scaling-steplaw";
  const CsvTable table = read_csv(*path);
  EXPECT_EQ(table.rows.size(), 1911u);
  EXPECT_EQ(table.columns.size(), 13u);
  EXPECT_EQ(table.numbers("loss").front(), 2.413517);
  EXPECT_EQ(table.lines.back(), 1912u);
}

TEST(Csv, ReadsRealTablesOfOtherSources) {
  const auto chinchilla = test_data("scaling-chinchilla-small/df.csv");
  const auto porian = test_data("scaling-porian/isoflop_points.csv");
  if (!chinchilla || !porian) GTEST_SKIP() << "EINKORN_DATA does not name a folder with them";
  EXPECT_EQ(read_csv(*chinchilla).numbers("loss").size(), 234u);
  EXPECT_EQ(read_csv(*porian).numbers("tokens").size(), 1160u);
}

}  // namespace
}  // namespace einkorn
