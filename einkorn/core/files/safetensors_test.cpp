#include "einkorn/core/files/safetensors.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "einkorn/core/data.h"
#include "einkorn/core/files/bytes_internal.h"
#include "einkorn/core/files/file_test_internal.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

SafetensorsFile parse(const std::string& content) {
  return parse_safetensors(bytes_of(content), "m.safetensors");
}

std::string file(const std::string& header, const std::string& data = "") {
  std::vector<std::byte> length;
  append_little_endian(length, header.size(), 8);
  return text_of(length) + header + data;
}

std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"({{"dtype":"{}","shape":[{}],"data_offsets":[{}]}})", dtype, shape, offsets);
}

const std::string byte_tensor = tensor("U8", "1", "0,1");

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const SafetensorsFile parsed = parse(
      file(R"({"__metadata__":{"format":"pt"},"b":)" + tensor("U8", "2,1", "4,6") + R"(,"a":)" +
               tensor("F32", "", "0,4") + R"(,"empty":)" + tensor("BF16", "0,7", "4,4") + "}   ",
           std::string("\0\0\x80\x3F\1\2", 6)));
  EXPECT_THAT(parsed.metadata, ElementsAre(Pair("format", "pt")));
  ASSERT_EQ(parsed.tensors.size(), 3u);
  const SafetensorsEntry& a = parsed.tensors.at("a");
  EXPECT_EQ(a.dtype, "F32");
  EXPECT_TRUE(a.shape.empty());
  float one = 0;
  std::memcpy(&one, a.bytes.data(), sizeof one);
  EXPECT_EQ(one, 1);
  EXPECT_THAT(parsed.tensors.at("b").shape, ElementsAre(2, 1));
  EXPECT_THAT(parsed.tensors.at("b").bytes, ElementsAre(std::byte{1}, std::byte{2}));
  EXPECT_THAT(parsed.tensors.at("empty").shape, ElementsAre(0, 7));
}

TEST(Safetensors, KnowsTheSizesOfItsTypes) {
  EXPECT_EQ(safetensors_item_size("F64"), 8u);
  EXPECT_EQ(safetensors_item_size("BF16"), 2u);
  EXPECT_EQ(safetensors_item_size("F8_E4M3"), 1u);
  EXPECT_EQ(safetensors_item_size("C64"), 8u);
  EXPECT_EQ(safetensors_item_size("F4"), 0u);
  EXPECT_EQ(safetensors_item_size(""), 0u);
}

class BadSafetensors : public testing::TestWithParam<BadCase> {};

TEST_P(BadSafetensors, IsRefused) {
  EXPECT_THAT(message_of([] { parse(GetParam().content); }), HasSubstr(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    Safetensors, BadSafetensors,
    testing::Values(
        BadCase{"Empty", "", "m.safetensors: byte 0: the file ends too early"},
        BadCase{"HugeHeader", std::string(8, '\xFF') + "{}",
                "byte 0: a header of 18446744073709551615 bytes, expected at most 100000000"},
        BadCase{"ShortHeader", file("{}").substr(0, 9),
                "byte 9: the header ends too early: expected 2 bytes, got 1"},
        BadCase{"NoHeader", file(""), "byte 8: expected the header to begin with '{'"},
        BadCase{"Array", file("[]"), "byte 8: expected the header to begin with '{'"},
        BadCase{"NotJson", file("{a}"), "byte 10: the header is not valid JSON here"},
        BadCase{"Unclosed", file("{\"a\":"), "the header is not valid JSON here"},
        BadCase{"TextBehind", file("{} x"), "the header is not valid JSON here"},
        BadCase{"NotUtf8", file("{\"\xFF\":{}}"), "the header is not valid JSON here"},
        BadCase{"Duplicate", file("{\"a\":" + byte_tensor + ",\"a\":" + byte_tensor + "}", "x"),
                "header, 'a': a name that occurs twice"},
        BadCase{"DuplicateMetadata", file(R"({"__metadata__":{},"__metadata__":{}})"),
                "header, '__metadata__': a name that occurs twice"},
        BadCase{"DuplicateKey", file(R"({"__metadata__":{"a":"1","a":"2"}})"),
                "header, 'a': a key that occurs twice"},
        BadCase{"DuplicateType", file(R"({"a":{"dtype":"U8","dtype":"U8"}})"),
                "tensor 'a', dtype: a key that occurs twice"},
        BadCase{"DuplicateShape", file(R"({"a":{"shape":[],"shape":[]}})"),
                "tensor 'a', shape: a key that occurs twice"},
        BadCase{"MetadataIsNoText", file(R"({"__metadata__":{"a":1}})"),
                "header, 'a': expected a string, got a number"},
        BadCase{"TensorIsNoObject", file(R"({"a":"b"})"), "expected an object, got a string"},
        BadCase{"OtherKey", file(R"({"a":{"type":"U8"}})"),
                "tensor 'a': expected the keys dtype, shape and data_offsets, got 'type'"},
        BadCase{"MissingKey", file(R"({"a":{"dtype":"U8","shape":[]}})"),
                "at least one is missing"},
        BadCase{"NumberForType", file(R"({"a":{"dtype":8}})"), "expected a string, got a number"},
        BadCase{"ObjectForShape", file(R"({"a":{"shape":{}}})"),
                "expected an array, got an object"},
        BadCase{"NullForShape", file(R"({"a":{"shape":null}})"), "expected an array, got null"},
        BadCase{"NestedShape", file(R"({"a":{"shape":[[1]]}})"),
                "tensor 'a', shape: expected whole numbers >= 0, got an array"},
        BadCase{"NegativeShape", file(R"({"a":{"shape":[-1]}})"),
                "expected whole numbers >= 0, got a negative number"},
        BadCase{"FractionalShape", file(R"({"a":{"shape":[1.5]}})"),
                "expected whole numbers >= 0, got 1.5"},
        BadCase{"HugeDimension", file("{\"a\":" + tensor("U8", "9223372036854775808", "0,0") + "}"),
                "a dimension of 9223372036854775808 is too large to be true"},
        BadCase{"Overflow", file("{\"a\":" + tensor("U8", "4294967296,4294967296,0", "0,0") + "}"),
                "does not fit 0 bytes"},
        BadCase{"ThreeOffsets", file("{\"a\":" + tensor("U8", "1", "0,1,1") + "}", "x"),
                "expected two data_offsets, got 3"},
        BadCase{"BackwardOffsets", file("{\"a\":" + tensor("U8", "1", "1,0") + "}", "x"),
                "data_offsets [1, 0] do not lie within the 1 bytes"},
        BadCase{"OffsetsPastTheEnd", file("{\"a\":" + tensor("U8", "2", "0,2") + "}", "x"),
                "tensor 'a': data_offsets [0, 2] do not lie within the 1 bytes behind the header"},
        BadCase{"Overlap", file("{\"a\":" + byte_tensor + ",\"b\":" + byte_tensor + "}", "x"),
                "the data overlap"},
        BadCase{"Hole", file("{\"a\":" + tensor("U8", "1", "1,2") + "}", "xx"),
                "tensor 'a': begins at 1 where 0 bytes are taken: the data leave a hole"},
        BadCase{"BytesBehind", file("{\"a\":" + byte_tensor + "}", "xx"),
                "2 bytes behind the header, but its tensors take 1"},
        BadCase{"ShapeDoesNotFit", file("{\"a\":" + tensor("F32", "1", "0,1") + "}", "x"),
                "tensor 'a': the shape (1) of F32 does not fit 1 bytes"},
        BadCase{"UnknownType", file("{\"a\":" + tensor("F4", "1", "0,1") + "}", "x"),
                "tensor 'a': the dtype 'F4' is not known, expected one of BOOL, U8"}),
    name_of);

TEST(Safetensors, SurvivesDeepNesting) {
  EXPECT_THAT(message_of([] { parse(file("{\"a\":" + std::string(100000, '['))); }),
              HasSubstr("expected an object, got an array"));
}

TEST(Safetensors, SurvivesDamage) {
  expect_robust(file(R"({"__metadata__":{"a":"b"},"x":)" + tensor("U8", "2,1", "0,2") + R"(,"y":)" +
                         tensor("F16", "1", "2,4") + "} ",
                     "abcd"),
                [](const std::string& content) { parse(content); });
}

TEST(FormatSafetensors, AlignsEachTensor) {
  SafetensorsFile written;
  written.tensors["a"] = {"U8", {3}, bytes_of("abc")};
  written.tensors["b"] = {"F64", {1}, bytes_of("12345678")};
  const std::vector<std::byte> content = format_safetensors(written);
  const std::uint64_t length = little_endian(content, 8);
  EXPECT_EQ(length % 8, 0u);
  EXPECT_EQ(text_of(content).substr(8 + length), "12345678abc");
}

TEST(FormatSafetensors, RefusesWhatTheFormatCannotTell) {
  const auto message = [](const std::string& name, const SafetensorsEntry& entry) {
    SafetensorsFile written;
    written.tensors[name] = entry;
    return message_of<InvalidArgument>([&] { format_safetensors(written); });
  };
  EXPECT_THAT(message("a", {"F32", {1}, {}}), HasSubstr("does not fit 0 bytes"));
  EXPECT_THAT(message("a", {"F32", {-1}, {}}), HasSubstr("does not fit"));
  EXPECT_THAT(message("a", {"F5", {0}, {}}), HasSubstr("the dtype 'F5' is not known"));
  EXPECT_THAT(message("__metadata__", {"U8", {0}, {}}), HasSubstr("cannot name a tensor"));
  EXPECT_THAT(message("\xFF", {"U8", {0}, {}}), HasSubstr("cannot name a tensor"));
}

RC_GTEST_PROP(FormatSafetensors, ReadsBackTheSame, ()) {
  static const std::vector<std::string> dtypes = {"U8", "BF16", "F32", "I64", "C64"};
  const auto text =
      rc::gen::container<std::string>(rc::gen::element('a', '"', '\\', '\n', '{', '\0'));
  SafetensorsFile written;
  written.metadata = *rc::gen::container<std::map<std::string, std::string>>(text, text);
  for (const std::string& name : *rc::gen::container<std::vector<std::string>>(text)) {
    SafetensorsEntry& entry = written.tensors[name];
    entry.dtype = *rc::gen::elementOf(dtypes);
    const auto count = *rc::gen::inRange<std::int64_t>(0, 5);
    entry.shape = {count, 1};
    entry.bytes.resize(static_cast<std::size_t>(count) * safetensors_item_size(entry.dtype),
                       std::byte{42});
  }
  const SafetensorsFile again = parse_safetensors(format_safetensors(written), "m.safetensors");
  RC_ASSERT(again.metadata == written.metadata);
  RC_ASSERT(again.tensors.size() == written.tensors.size());
  for (const auto& [name, entry] : written.tensors) {
    RC_ASSERT(again.tensors.at(name).dtype == entry.dtype);
    RC_ASSERT(again.tensors.at(name).shape == entry.shape);
    RC_ASSERT(again.tensors.at(name).bytes == entry.bytes);
  }
}

TEST(Safetensors, ReadsARealNetworkAndWritesItAgain) {
  const auto path = test_data("weights-proxyless/proxyless-w0.25-r112_imagenet.safetensors");
  if (!path) GTEST_SKIP() << "EINKORN_DATA does not name a folder with weights-proxyless";
  const SafetensorsFile network = read_safetensors(*path);
  EXPECT_EQ(network.tensors.size(), 368u);
  EXPECT_THAT(network.tensors.at("state_dict.first_conv.conv.weight").shape,
              ElementsAre(8, 3, 3, 3));
  const TemporaryFolder folder;
  write_safetensors({folder / "again.safetensors"}, network);
  const SafetensorsFile again = read_safetensors(folder / "again.safetensors");
  EXPECT_EQ(again.metadata, network.metadata);
  for (const auto& [name, entry] : network.tensors) {
    EXPECT_EQ(again.tensors.at(name).bytes, entry.bytes) << name;
  }
}

}  // namespace
}  // namespace einkorn
