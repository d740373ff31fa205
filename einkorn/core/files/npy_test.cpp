#include "einkorn/core/files/npy.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "einkorn/core/files/bytes_internal.h"
#include "einkorn/core/files/file_test_internal.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

NpyArray parse(const std::string& content) {
  return parse_npy(bytes_of(content), "a.npy");
}

// A file with that header text; version 1 unless said otherwise.
std::string file(const std::string& header, const std::string& data = "", int version = 1) {
  std::vector<std::byte> length;
  append_little_endian(length, header.size(), version == 1 ? 2 : 4);
  return "\x93NUMPY" + std::string(1, static_cast<char>(version)) + std::string(1, '\0') +
         text_of(length) + header + data;
}

std::string header(const std::string& type, const std::string& shape, const char* order = "False") {
  return fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}\n", type, order, shape);
}

template <typename T>
std::string raw(std::vector<T> values) {
  return text_of(std::as_bytes(std::span(values)));
}

template <typename T>
void expect_values(const char* type, char kind, std::vector<T> values) {
  const NpyArray array =
      parse(file(header(type, fmt::format("({},)", values.size())), raw(values)));
  EXPECT_EQ(array.kind, kind);
  EXPECT_EQ(array.item_size, sizeof(T));
  EXPECT_THAT(array.shape, ElementsAre(static_cast<std::int64_t>(values.size())));
  EXPECT_EQ(array.to_doubles(), std::vector<double>(values.begin(), values.end())) << type;
}

TEST(Npy, ReadsAllNumberTypes) {
  expect_values<std::int8_t>("|i1", 'i', {-128, 0, 127});
  expect_values<std::int16_t>("<i2", 'i', {-32768, 5});
  expect_values<std::int32_t>("<i4", 'i', {-2147483647, 5});
  expect_values<std::int64_t>("<i8", 'i', {-5, std::int64_t{1} << 60});
  expect_values<std::uint8_t>("|u1", 'u', {0, 255});
  expect_values<std::uint16_t>("<u2", 'u', {65535});
  expect_values<std::uint32_t>("<u4", 'u', {4294967295});
  expect_values<std::uint64_t>("<u8", 'u', {std::uint64_t{1} << 63});
  expect_values<float>("<f4", 'f', {0.5f, -INFINITY});
  expect_values<double>("<f8", 'f', {0.1, 1e300});
  expect_values<double>("=f8", 'f', {0.1});
  expect_values<double>("f8", 'f', {0.1});
}

TEST(Npy, ReadsHalves) {
  const NpyArray array =
      parse(file(header("<f2", "(7,)"),
                 raw<std::uint16_t>({0x3C00, 0xC000, 0x0001, 0x8000, 0x7BFF, 0x7C00, 0x7E00})));
  const std::vector<double> values = array.to_doubles();
  EXPECT_THAT(std::vector<double>(values.begin(), values.end() - 1),
              ElementsAre(1, -2, 0x1p-24, -0.0, 65504, INFINITY));
  EXPECT_TRUE(std::isnan(values.back()));
}

TEST(Npy, ReadsBoolsAsZeroAndOne) {
  const NpyArray array = parse(file(header("|b1", "(3,)"), std::string("\0\1\xFF", 3)));
  EXPECT_EQ(array.kind, 'b');
  EXPECT_THAT(array.bytes, ElementsAre(std::byte{0}, std::byte{1}, std::byte{1}));
  EXPECT_THAT(array.to_doubles(), ElementsAre(0, 1, 1));
}

TEST(Npy, TurnsBigEndianToNative) {
  EXPECT_THAT(
      parse(file(header(">i4", "(2,)"), std::string("\0\0\1\2\xFF\xFF\xFF\xFE", 8))).to_doubles(),
      ElementsAre(258, -2));
  // The two halves of a complex number keep their places.
  const NpyArray array = parse(file(header(">c8", "()"), std::string("\x3F\x80\0\0\x40\0\0\0", 8)));
  float parts[2];
  std::memcpy(parts, array.bytes.data(), sizeof parts);
  EXPECT_THAT(parts, ElementsAre(1.0f, 2.0f));
}

TEST(Npy, ReadsComplexArraysButNotAsDoubles) {
  const NpyArray array = parse(file(header("<c16", "(1,)"), raw<double>({1, 2})));
  EXPECT_EQ(array.size(), 1);
  EXPECT_THAT(message_of<InvalidArgument>([&] { array.to_doubles(); }), HasSubstr("complex"));
}

TEST(Npy, TurnsColumnMajorToRowMajor) {
  const NpyArray matrix =
      parse(file(header("<f8", "(2, 3)", "True"), raw<double>({0, 3, 1, 4, 2, 5})));
  EXPECT_TRUE(matrix.fortran_order);
  EXPECT_THAT(matrix.to_doubles(), ElementsAre(0, 1, 2, 3, 4, 5));
  const NpyArray cube =
      parse(file(header("<f8", "(2, 2, 2)", "True"), raw<double>({0, 4, 2, 6, 1, 5, 3, 7})));
  EXPECT_THAT(cube.to_doubles(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_TRUE(parse(file(header("<f8", "(0, 3)", "True"))).to_doubles().empty());
}

TEST(Npy, ReadsAllVersionsAndSpellings) {
  for (const int version : {1, 2, 3}) {
    EXPECT_THAT(parse(file(header("<f8", "(1,)"), raw<double>({1}), version)).to_doubles(),
                ElementsAre(1));
  }
  EXPECT_THAT(parse(file("{\"shape\":(1L,2L),\"fortran_order\":False,\"descr\":\"<f8\"}  \n",
                         raw<double>({1, 2})))
                  .shape,
              ElementsAre(1, 2));
  EXPECT_TRUE(parse(file(header("<f8", "()"), raw<double>({1}))).shape.empty());
  EXPECT_EQ(parse(file(header("<f8", "(0, 5)"))).size(), 0);
}

class BadNpy : public testing::TestWithParam<BadCase> {};

TEST_P(BadNpy, IsRefused) {
  EXPECT_THAT(message_of([] { parse(GetParam().content); }), HasSubstr(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    Npy, BadNpy,
    testing::Values(
        BadCase{"Empty", "", "a.npy: byte 0: not a NumPy file"},
        BadCase{"OtherFile", "PK\3\4....", "byte 0: not a NumPy file"},
        BadCase{"Version", file(header("<f8", "()"), "", 4), "byte 6: format version 4.0"},
        BadCase{"NoLength", std::string("\x93NUMPY\1\0", 8), "byte 8: the header ends too early"},
        BadCase{"ShortHeader", file(header("<f8", "()")).substr(0, 40),
                "byte 40: the header ends too early"},
        BadCase{"HugeHeader", std::string("\x93NUMPY\2\0\xFF\xFF\xFF\xFF", 12),
                "byte 8: a header of 4294967295 bytes, expected at most 65536"},
        BadCase{"NoDictionary", file("[]\n"), "byte 10: expected '{' in the header"},
        BadCase{"Object", file(header("|O", "()")), "byte 20: object dtypes hold Python pickles"},
        BadCase{"Structured", file("{'descr': [('a', '<f8')], 'fortran_order': False}"),
                "byte 20: structured dtypes are not supported"},
        BadCase{"Text", file(header("<U5", "()")), "the dtype '<U5' is not supported"},
        BadCase{"Time", file(header("<M8[ns]", "()")), "the dtype '<M8[ns]' is not supported"},
        BadCase{"LongDouble", file(header("<f16", "()")), "the dtype '<f16' is not supported"},
        BadCase{"OddSize", file(header("<i3", "()")), "the dtype '<i3' is not supported"},
        BadCase{"NoType", file(header("", "()")), "the dtype '' is not supported"},
        BadCase{"Order", file("{'fortran_order': 1}"), "expected True or False"},
        BadCase{"Missing", file("{'descr': '<f8'}"), "at least one is missing"},
        BadCase{"Twice", file("{'descr': '<f8', 'descr': '<f8'}"), "a key that occurs twice"},
        BadCase{"OtherKey", file("{'name': 1}"), "shape, got 'name'"},
        BadCase{"OpenString", file("{'descr"), "byte 11: a string that is never closed"},
        BadCase{"Behind", file("{'descr': '<f8', 'fortran_order': False, 'shape': ()} x"),
                "expected the end of the header"},
        BadCase{"NotATuple", file(header("<f8", "(1)")), "expected a tuple"},
        BadCase{"NegativeShape", file(header("<f8", "(-1,)")), "expected a dimension"},
        BadCase{"NamedShape", file(header("<f8", "(n,)")), "expected a dimension"},
        BadCase{"NoComma", file(header("<f8", "(1 2)")), "expected ',' or ')'"},
        BadCase{"HugeDimension", file(header("<f8", "(99999999999999999999,)")),
                "a dimension too large to be true"},
        BadCase{"HugeShape", file(header("<f8", "(4611686018427387904, 4)")),
                "the shape (4611686018427387904, 4) is too large to be true"},
        BadCase{"HugeEmptyShape",
                file(header("<f8", "(0, 4611686018427387904, 4611686018427387904)")),
                "is too large to be true"},
        BadCase{"LargeShape", file(header("<f8", "(1000000000000,)")),
                "the data end too early: expected 8000000000000 bytes, got 0"},
        BadCase{"TooShort", file(header("<f8", "(2,)"), std::string(15, 'x')),
                "expected 16 bytes, got 15"},
        BadCase{"TooLong", file(header("<f8", "(1,)"), std::string(9, 'x')),
                "1 bytes behind the end of the array"}),
    name_of);

TEST(Npy, LimitsTheDimensions) {
  std::string shape = "(";
  for (int i = 0; i < 65; ++i) shape += "1, ";
  EXPECT_THAT(message_of([&] { parse(file(header("<f8", shape + ")"), raw<double>({1}))); }),
              HasSubstr("more than 64 dimensions"));
}

TEST(Npy, SurvivesDamage) {
  expect_robust(file(header(">f8", "(2, 1)", "True"), raw<double>({1, 2})),
                [](const std::string& content) { parse(content); });
}

TEST(FormatNpy, WritesWhatNumpyWrites) {
  const std::vector<double> values = {0, 1};
  const std::string content = text_of(format_npy(npy_from_doubles(values, {2, 1})));
  std::string expected = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1), }";
  expected.resize(117, ' ');
  EXPECT_EQ(content, file(expected + "\n", raw(values)));
  EXPECT_EQ(content.size(), 128u + 16u);
}

TEST(FormatNpy, RefusesArraysThatDoNotFitTogether) {
  EXPECT_THAT(message_of<InvalidArgument>([] { npy_from_doubles(std::vector<double>{1}, {2}); }),
              HasSubstr("the shape (2) of f8 does not fit 8 bytes"));
  NpyArray array;
  array.kind = 'f';
  array.item_size = 3;
  EXPECT_THAT(message_of<InvalidArgument>([&] { format_npy(array); }), HasSubstr("f3 is no type"));
  array.shape = {-1};
  EXPECT_THROW(array.size(), InvalidArgument);
}

RC_GTEST_PROP(FormatNpy, ReadsBackTheSame, ()) {
  static const std::vector<std::pair<char, std::size_t>> types = {
      {'b', 1}, {'i', 1}, {'i', 8}, {'u', 2}, {'u', 4}, {'f', 2}, {'f', 4}, {'f', 8}, {'c', 16}};
  NpyArray array;
  std::tie(array.kind, array.item_size) = *rc::gen::elementOf(types);
  array.shape =
      *rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(0, 4));
  RC_PRE(array.shape.size() <= 6u);
  array.fortran_order = *rc::gen::arbitrary<bool>();
  const auto count = static_cast<std::size_t>(array.size()) * array.item_size;
  for (std::size_t i = 0; i < count; ++i) {
    array.bytes.push_back(std::byte(array.kind == 'b' ? i % 2 : i * 37 % 256));
  }
  const NpyArray again = parse_npy(format_npy(array), "a.npy");
  RC_ASSERT(again.kind == array.kind);
  RC_ASSERT(again.item_size == array.item_size);
  RC_ASSERT(again.shape == array.shape);
  RC_ASSERT(again.fortran_order == array.fortran_order);
  RC_ASSERT(again.bytes == array.bytes);
}

TEST(WriteNpy, WritesAFile) {
  const TemporaryFolder folder;
  const std::vector<double> values = {1, 2, 3};
  write_npy({folder / "a.npy"}, npy_from_doubles(values, {3}));
  EXPECT_EQ(read_npy(folder / "a.npy").to_doubles(), values);
}

}  // namespace
}  // namespace einkorn
