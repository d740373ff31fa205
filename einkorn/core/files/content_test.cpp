#include "einkorn/core/files/content.h"

#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <limits>

#include "einkorn/core/files/file_test_internal.h"
#include "einkorn/core/files/inflate_internal.h"

namespace einkorn {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

const std::vector<std::byte> first_member =
    bytes_of_hex("1f8b08000000000002034b5448e24a5248e60200325835be08000000");  // "a b\nb c\n"
const std::vector<std::byte> second_member =
    bytes_of_hex("1f8b08000000000002034b5648e10200ac86ded104000000");  // "c d\n"

std::vector<std::byte> joined(std::vector<std::byte> a, const std::vector<std::byte>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::string expanded(const std::vector<std::byte>& content, std::size_t limit = 1000) {
  return text_of(expand_gzip(content, "x.gz", limit));
}

TEST(ReadContent, ReturnsWhatWasWritten) {
  const TemporaryFolder folder;
  for (const std::size_t size : {0, 1, 3, 65535, 65536, 65537, 1000000}) {
    std::string text(size, 'x');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7);
    write_text({folder / "file", true}, text);
    EXPECT_EQ(read_text(folder / "file"), text);
  }
}

TEST(ReadContent, SaysWhyAFileCannotBeRead) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of([&] { read_content(folder / "missing"); }),
              HasSubstr("missing: cannot be read: No such file"));
  EXPECT_THAT(message_of([&] { read_content(folder / ""); }), HasSubstr("is a folder"));
}

TEST(ReadContent, ReadsFilesWithoutASize) {
  EXPECT_FALSE(read_text("/proc/self/status").empty());
}

TEST(ReadContent, KeepsToItsLimit) {
  const TemporaryFolder folder;
  write_text({folder / "file"}, "12345");
  EXPECT_EQ(read_text(folder / "file", 5), "12345");
  EXPECT_THAT(message_of([&] { read_text(folder / "file", 4); }), HasSubstr("larger than 4 bytes"));
  write_content({folder / "file.gz"}, first_member);
  EXPECT_EQ(read_text(folder / "file.gz", 100), "a b\nb c\n");
  EXPECT_THAT(message_of([&] { read_text(folder / "file.gz", 27); }), HasSubstr("larger than 27"));
}

TEST(ExpandGzip, ReadsOneOrMoreMembers) {
  EXPECT_EQ(expanded(first_member), "a b\nb c\n");
  EXPECT_EQ(expanded(joined(first_member, second_member)), "a b\nb c\nc d\n");
  EXPECT_EQ(expanded(joined(first_member, std::vector<std::byte>(512))), "a b\nb c\n");
}

TEST(ExpandGzip, KeepsToItsLimit) {
  EXPECT_EQ(expanded(first_member, 8), "a b\nb c\n");
  EXPECT_THAT(message_of([&] { expanded(first_member, 7); }),
              HasSubstr("28 bytes of gzip data expand to more than 7 bytes"));
  const auto both = joined(first_member, second_member);
  EXPECT_EQ(expanded(both, 12), "a b\nb c\nc d\n");
  EXPECT_THAT(message_of([&] { expanded(both, 11); }), HasSubstr("more than 11 bytes"));
}

TEST(ExpandGzip, SaysWhereTheDataAreBad) {
  EXPECT_THAT(message_of([] { expanded(joined(first_member, bytes_of("tail"))); }),
              HasSubstr("x.gz: byte 28: expected another gzip member"));
  auto damaged = first_member;
  damaged[12] ^= std::byte{0x55};
  EXPECT_THAT(message_of([&] { expanded(damaged); }), HasSubstr("corrupt"));
  auto wrong_sum = first_member;
  wrong_sum[20] ^= std::byte{1};
  EXPECT_THAT(message_of([&] { expanded(wrong_sum); }), HasSubstr("corrupt"));
  for (std::size_t size = 3; size < first_member.size(); ++size) {
    const std::vector<std::byte> start(first_member.begin(),
                                       first_member.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THAT(message_of([&] { expanded(start); }), HasSubstr("end too early")) << size;
  }
}

TEST(ExpandGzip, SurvivesDamage) {
  expect_robust(text_of(joined(first_member, second_member)),
                [](const std::string& content) { expanded(bytes_of(content)); });
}

TEST(ExpansionLimit, RefusesBombsOnly) {
  constexpr std::size_t all = std::numeric_limits<std::size_t>::max();
  constexpr std::size_t gibibyte = std::size_t{1} << 30;
  EXPECT_EQ(expansion_limit(100, all), gibibyte);
  EXPECT_EQ(expansion_limit(gibibyte, all), 256 * gibibyte);
  EXPECT_EQ(expansion_limit(gibibyte, 5), 5u);
  EXPECT_EQ(expansion_limit(all, all), all);
}

TEST(IsGzip, KnowsASafetensorsFileFromAGzipFile) {
  EXPECT_TRUE(is_gzip(first_member));
  EXPECT_FALSE(is_gzip(bytes_of("text")));
  EXPECT_FALSE(is_gzip({}));
  auto lookalike = bytes_of_hex("1f8b080000000000");
  lookalike.push_back(std::byte{'{'});
  EXPECT_FALSE(is_gzip(lookalike));
}

TEST(WriteContent, ReplacesOnlyWhenForced) {
  const TemporaryFolder folder;
  const fs::path path = folder / "file";
  write_text({path}, "old");
  EXPECT_THAT(message_of([&] { write_text({path}, "new"); }),
              HasSubstr("file: exists; --force replaces it"));
  EXPECT_EQ(read_text(path), "old");
  write_text({path, true}, "new");
  EXPECT_EQ(read_text(path), "new");
  EXPECT_EQ(folder.count(), 1u);
}

TEST(WriteContent, HandsOnThePermissions) {
  const TemporaryFolder folder;
  const fs::path path = folder / "file";
  write_text({path}, "old");
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_write);
  const fs::perms before = fs::status(path).permissions();
  write_text({path, true}, "new");
  EXPECT_EQ(fs::status(path).permissions(), before);
}

TEST(WriteContent, FollowsLinks) {
  const TemporaryFolder folder;
  write_text({folder / "file"}, "old");
  fs::create_symlink(folder / "file", folder / "link");
  write_text({folder / "link", true}, "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_text(folder / "file"), "new");
}

TEST(WriteContent, SaysWhyItCannotWrite) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of([&] { write_text({folder / "no/file"}, "x"); }),
              HasSubstr("no/file: cannot be written: No such file"));
  EXPECT_THAT(message_of([&] { write_text({folder / ".", true}, "x"); }), HasSubstr("is a folder"));
  EXPECT_THAT(message_of([&] { write_text({"/dev/null", true}, "x"); }),
              HasSubstr("not a regular file"));
  EXPECT_EQ(folder.count(), 0u);
}

TEST(WriteContent, LeavesNothingBehindWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  const fs::path path = folder / "file";
  write_text({path}, "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message =
      message_of([&] { write_text({path, true}, std::string(100000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr("file: cannot be written: File too large"));
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(folder.count(), 1u);
}

}  // namespace
}  // namespace einkorn
