#include <algorithm>

#include "einkorn/core/files/bytes_internal.h"
#include "einkorn/core/files/file_test_internal.h"
#include "einkorn/core/files/npy.h"
#include "einkorn/core/files/zip_internal.h"

namespace einkorn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// As zipfile and NumPy write them: eight deflated zeros; two int16 with a data descriptor behind
// them; the same with zip64 sizes in the local header.
const std::vector<std::byte> deflated_zeros = bytes_of_hex(
    "504b030414000000080000002100366e90884200000082000000090000007a65726f732e6e7079"
    "9bec17ea1b10c9c860c150ad9e925a9c5ca46ea5a06e9366a1aea3a09e965f54529498179f5f94"
    "920a12774bcc294e058a17672416a402f91a163a9ab55c0c140200504b01021403140000000800"
    "00002100366e908842000000820000000900000000000000000000008001000000007a65726f73"
    "2e6e7079504b0506000000000100010037000000690000000000");
const std::vector<std::byte> with_descriptor = bytes_of_hex(
    "504b03041400080000000000210000000000000000000000000005000000782e6e7079934e554d"
    "5059010038007b276465736372273a20273c6932272c2027666f727472616e5f6f72646572273a"
    "2046616c73652c20277368617065273a2028322c297d0a01000200504b0708f53d357d46000000"
    "46000000504b0102140314000800000000002100f53d357d460000004600000005000000000000"
    "0000000000800100000000782e6e7079504b050600000000010001003300000079000000000"
    "0");
const std::vector<std::byte> with_zip64 = bytes_of_hex(
    "504b03042d000000000000002100f53d357dffffffffffffffff05001400782e6e707901001000"
    "46000000000000004600000000000000934e554d5059010038007b276465736372273a20273c69"
    "32272c2027666f727472616e5f6f72646572273a2046616c73652c20277368617065273a202832"
    "2c297d0a01000200504b01022d032d000000000000002100f53d357d4600000046000000050000"
    "000000000000000000800100000000782e6e7079504b05060000000001000100330000007d0000"
    "000000");

std::vector<ZipMember> read_all(std::span<const std::byte> archive) {
  std::vector<ZipMember> members;
  std::vector<std::byte> storage;
  for (const ZipEntry& entry : list_zip(archive, "z.zip")) {
    const auto bytes = unpack(entry, "z.zip", storage);
    members.push_back({entry.name, {bytes.begin(), bytes.end()}});
  }
  return members;
}

const std::vector<ZipMember> two_members = {{"a", bytes_of("hello")}, {"b", bytes_of("world!")}};

// Changes a field of the archive, found by the signature of the record that holds it.
std::vector<std::byte> with_field(std::vector<std::byte> archive, std::string_view signature,
                                  std::size_t offset, std::uint64_t value, std::size_t width) {
  const std::size_t record = text_of(archive).find(signature);
  std::vector<std::byte> field;
  append_little_endian(field, value, width);
  std::ranges::copy(field, archive.begin() + static_cast<std::ptrdiff_t>(record + offset));
  return archive;
}

constexpr std::string_view local = "PK\3\4";
constexpr std::string_view central = "PK\1\2";
constexpr std::string_view end = "PK\5\6";

std::string message_of_zip(const std::vector<std::byte>& archive) {
  return message_of([&] { read_all(archive); });
}

TEST(Npz, ReadsWhatNumpyWrites) {
  EXPECT_EQ(parse_npz(deflated_zeros, "a.npz").at("zeros").to_doubles(), std::vector<double>(8));
  EXPECT_THAT(parse_npz(with_descriptor, "a.npz").at("x").to_doubles(), ElementsAre(1, 2));
  EXPECT_THAT(parse_npz(with_zip64, "a.npz").at("x").to_doubles(), ElementsAre(1, 2));
}

TEST(Npz, ReadsBackWhatItWrites) {
  const TemporaryFolder folder;
  const std::vector<double> values = {1, 2, 3, 4};
  std::map<std::string, NpyArray> arrays;
  arrays["x"] = npy_from_doubles(values, {4});
  arrays["\xC3\xA4 b"] = npy_from_doubles(values, {2, 2});
  arrays["y.npy"] = npy_from_doubles({}, {0});
  write_npz({folder / "a.npz"}, arrays);
  const auto again = read_npz(folder / "a.npz");
  ASSERT_EQ(again.size(), arrays.size());
  for (const auto& [name, array] : arrays) {
    EXPECT_EQ(again.at(name).shape, array.shape);
    EXPECT_EQ(again.at(name).bytes, array.bytes);
  }
}

TEST(Npz, MayBeEmpty) {
  EXPECT_TRUE(parse_npz(format_npz({}), "a.npz").empty());
}

TEST(Npz, NamesTheEntryOfABadArray) {
  const std::vector<ZipMember> members = {{"readme.txt", bytes_of("hello")}};
  EXPECT_THAT(message_of([&] { parse_npz(format_zip(members), "a.npz"); }),
              HasSubstr("a.npz: entry 'readme.txt', byte 0: not a NumPy file"));
  const std::vector<ZipMember> same = {{"x", format_npy(npy_from_doubles({}, {0}))},
                                       {"x.npy", format_npy(npy_from_doubles({}, {0}))}};
  EXPECT_THAT(message_of([&] { parse_npz(format_zip(same), "a.npz"); }),
              HasSubstr("entry 'x.npy': a second array 'x'"));
}

TEST(Zip, ReadsBothWidths) {
  for (const std::uint64_t wide_from :
       {std::uint64_t{0}, std::uint64_t{6}, std::uint64_t{50}, ~std::uint64_t{0}}) {
    const auto again = read_all(format_zip(two_members, wide_from));
    ASSERT_EQ(again.size(), 2u);
    EXPECT_EQ(again[0].name, "a");
    EXPECT_EQ(text_of(again[0].bytes), "hello");
    EXPECT_EQ(text_of(again[1].bytes), "world!");
  }
}

TEST(Zip, HoldsMoreMembersThanSixteenBitsCount) {
  std::vector<ZipMember> members(70000);
  for (std::size_t i = 0; i < members.size(); ++i) members[i].name = fmt::format("{}", i);
  EXPECT_EQ(list_zip(format_zip(members), "z.zip").size(), members.size());
}

TEST(Zip, FindsItsEndBehindAComment) {
  auto archive = format_zip(two_members);
  archive[archive.size() - 2] = std::byte{3};
  for (const char c : {'a', 'b', 'c'}) archive.push_back(std::byte(c));
  EXPECT_EQ(read_all(archive).size(), 2u);
}

TEST(Zip, RefusesNamesThatItCannotWrite) {
  EXPECT_THROW(format_zip(std::vector<ZipMember>{{"\xFF", {}}}), InvalidArgument);
  EXPECT_THROW(format_zip(std::vector<ZipMember>{{std::string(70000, 'x'), {}}}), InvalidArgument);
}

TEST(Zip, RefusesDamage) {
  const auto good = format_zip(two_members);
  EXPECT_THAT(message_of_zip({}), HasSubstr("z.zip: byte 0: not a zip file or cut short"));
  EXPECT_THAT(message_of_zip(with_field(good, end, 10, 7, 2)),
              HasSubstr("7 entries do not fit a directory of"));
  EXPECT_THAT(message_of_zip(with_field(good, end, 10, 1, 2)),
              HasSubstr("the directory goes on after its 1 entries"));
  EXPECT_THAT(message_of_zip(with_field(good, end, 16, 0xFFFFFF, 4)),
              HasSubstr("is not within the file"));
  EXPECT_THAT(message_of_zip(with_field(good, end, 12, 0xFFFFFF, 4)),
              HasSubstr("is not within the file"));
  EXPECT_THAT(message_of_zip(with_field(good, end, 4, 1, 2)), HasSubstr("one of several disks"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 0, 0, 4)),
              HasSubstr("expected an entry of the central directory"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 28, 0xFFFF, 2)),
              HasSubstr("runs past the end of the central directory"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 8, 1, 2)),
              HasSubstr("entry 'a': is encrypted"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 10, 12, 2)),
              HasSubstr("entry 'a': compression method 12, expected stored (0) or deflated (8)"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 16, 0, 4)),
              HasSubstr("entry 'a': the checksum (CRC-32) does not match"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 42, 1, 4)),
              HasSubstr("entry 'a': no local header at byte 1"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 42, 0xFFFFFFFE, 4)),
              HasSubstr("entry 'a': no local header"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 42, 0xFFFFFFFF, 4)),
              HasSubstr("an entry lacks its zip64 sizes"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 20, 0xFFFFFF, 4)),
              HasSubstr("entry 'a': runs past the central directory"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 24, 6, 4)),
              HasSubstr("entry 'a': 6 bytes stored as 5"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 46, 'x', 1)),
              HasSubstr("entry 'x': its local header tells another name"));
  EXPECT_THAT(message_of_zip(with_field(good, central, 46, 0xFF, 1)),
              HasSubstr("the name of an entry is not UTF-8 text"));
  EXPECT_THAT(message_of_zip(with_field(good, local, 28, 0xFFFF, 2)),
              HasSubstr("entry 'a': runs past the central directory"));
}

TEST(Zip, RefusesDamagedDeflatedData) {
  EXPECT_THAT(message_of_zip(with_field(deflated_zeros, central, 24, 0x81, 4)),
              HasSubstr("entry 'zeros.npy': does not unpack to the 129 bytes"));
  EXPECT_THAT(message_of_zip(with_field(deflated_zeros, central, 24, 0x83, 4)),
              HasSubstr("does not unpack to the 131 bytes"));
  EXPECT_THAT(message_of_zip(with_field(deflated_zeros, central, 20, 0x40, 4)),
              HasSubstr("entry 'zeros.npy': the deflated data end too early"));
  EXPECT_THAT(message_of_zip(with_field(deflated_zeros, local, 39, 0xFF, 1)),
              HasSubstr("entry 'zeros.npy': the deflated data are corrupt"));
}

TEST(Zip, RefusesBombs) {
  EXPECT_THAT(message_of_zip(with_field(deflated_zeros, central, 24, 0xFFFFFFF0, 4)),
              HasSubstr("entry 'zeros.npy': the archive of 182 bytes unpacks to more than"));
}

TEST(Zip, RefusesDuplicateNames) {
  EXPECT_THAT(message_of_zip(format_zip(std::vector<ZipMember>{{"a", {}}, {"a", {}}})),
              HasSubstr("entry 'a': a second entry of this name"));
}

TEST(Zip, RefusesMembersThatShareBytes) {
  // The first member's bytes are an archive with a member like the second, and the directory is
  // made to find the second there.
  const ZipMember inner = {"inner", bytes_of("x")};
  auto archive = format_zip(std::vector<ZipMember>{{"outer", format_zip({{inner}})}, inner});
  const std::size_t record = text_of(archive).rfind(central);
  const std::size_t header_and_name = 30 + 5;
  archive[record + 42] = std::byte{header_and_name};
  EXPECT_THAT(message_of_zip(archive), HasSubstr("entry 'inner': overlaps entry 'outer'"));
}

TEST(Zip, SurvivesDamage) {
  const auto read = [](const std::string& content) { read_all(bytes_of(content)); };
  expect_robust(text_of(format_zip(two_members)), read);
  expect_robust(text_of(format_zip(two_members, 0)), read);
  expect_robust(text_of(deflated_zeros), read);
  expect_robust(text_of(with_descriptor),
                [](const std::string& content) { parse_npz(bytes_of(content), "a.npz"); });
}

}  // namespace
}  // namespace einkorn
