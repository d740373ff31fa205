#include <zlib.h>

#include <algorithm>
#include <string_view>
#include <unordered_set>

#include "einkorn/core/error.h"
#include "einkorn/core/files/bytes_internal.h"
#include "einkorn/core/files/inflate_internal.h"
#include "einkorn/core/files/text_internal.h"
#include "einkorn/core/files/zip_internal.h"

namespace einkorn {
namespace {

constexpr std::uint64_t local_signature = 0x04034b50;
constexpr std::uint64_t central_signature = 0x02014b50;
constexpr std::uint64_t end_signature = 0x06054b50;
constexpr std::uint64_t wide_end_signature = 0x06064b50;
constexpr std::uint64_t wide_locator_signature = 0x07064b50;
constexpr std::size_t local_size = 30;
constexpr std::size_t central_size = 46;
constexpr std::size_t end_size = 22;
constexpr std::size_t wide_end_size = 56;
constexpr std::size_t wide_locator_size = 20;
constexpr std::uint64_t saturated = 0xFFFFFFFF;  // "see the 64-bit field"
constexpr std::uint64_t saturated_count = 0xFFFF;
constexpr std::uint64_t wide_extra = 1;
constexpr std::uint64_t encrypted_flag = 1;
constexpr std::uint64_t utf8_flag = 1 << 11;
constexpr std::uint64_t method_stored = 0;
constexpr std::uint64_t method_deflated = 8;
constexpr std::uint64_t version_plain = 20;
constexpr std::uint64_t version_wide = 45;
constexpr std::uint64_t first_day = 0x21;  // 1980-01-01: equal arrays make equal files

// Reads fields one after the other; whoever makes one has checked that they are there.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::uint64_t take(std::size_t width) {
    const std::uint64_t value = little_endian(bytes_, width);
    bytes_ = bytes_.subspan(width);
    return value;
  }
  void skip(std::size_t width) { bytes_ = bytes_.subspan(width); }
  std::span<const std::byte> take_bytes(std::size_t count) {
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  std::size_t left() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
};

// Where the central directory lies.
struct Directory {
  std::uint64_t entries = 0;
  std::uint64_t size = 0;
  std::uint64_t offset = 0;
};

// A member as the central directory tells it.
struct Record {
  ZipEntry entry;
  std::uint64_t method = 0;
  std::uint64_t size = 0;
  std::uint64_t packed_size = 0;
  std::uint64_t offset = 0;  // of the local header
  std::uint64_t end = 0;     // of the packed bytes
};

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> archive, const std::string& path)
      : archive_(archive), path_(path) {}

  std::vector<ZipEntry> list() const;

 private:
  bool has_signature(std::uint64_t position, std::size_t size, std::uint64_t signature) const;
  std::size_t find_end() const;
  Directory find_directory() const;
  Record take_record(Fields& directory, std::size_t position) const;
  void widen(Record& record, Fields extra, std::size_t position) const;
  void locate(Record& record, std::size_t limit) const;
  void check_sizes(const std::vector<Record>& records) const;
  void check_names(const std::vector<Record>& records) const;
  void check_disjoint(std::vector<Record> records) const;
  [[noreturn]] void fail(std::uint64_t position, const std::string& problem) const;
  [[noreturn]] void fail(const ZipEntry& entry, const std::string& problem) const;

  std::span<const std::byte> archive_;
  const std::string& path_;
};

class ZipWriter {
 public:
  explicit ZipWriter(std::uint64_t wide_from) : wide_from_(wide_from) {}

  void add(const ZipMember& member);
  std::vector<std::byte> finish();

 private:
  struct Added {
    const ZipMember* member;
    std::uint64_t offset;
    std::uint64_t checksum;
  };

  void put(std::uint64_t value, std::size_t width) { append_little_endian(archive_, value, width); }
  void put(std::span<const std::byte> bytes) {
    archive_.insert(archive_.end(), bytes.begin(), bytes.end());
  }
  // What local header and directory have in common: from the version to the length of the name.
  void put_common(const Added& added, bool wide);
  void put_record(const Added& added);
  bool is_wide(std::uint64_t value) const { return value >= wide_from_; }
  std::uint64_t narrow(std::uint64_t value) const { return is_wide(value) ? saturated : value; }

  std::uint64_t wide_from_;
  std::vector<std::byte> archive_;
  std::vector<Added> added_;
};

std::uint32_t checksum(std::span<const std::byte> bytes) {
  return static_cast<std::uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

std::string entry_place(const ZipEntry& entry) {
  return fmt::format("entry '{}'", excerpt(entry.name));
}

}  // namespace

std::vector<ZipEntry> list_zip(std::span<const std::byte> archive, const std::string& path) {
  return ZipReader(archive, path).list();
}

std::span<const std::byte> unpack(const ZipEntry& entry, const std::string& path,
                                  std::vector<std::byte>& storage) {
  const auto fail = [&](const std::string& problem) {
    throw BadFile(path, entry_place(entry), problem);
  };
  std::span<const std::byte> bytes = entry.packed;
  if (entry.deflated) {
    storage.clear();
    const InflateResult result = inflate_stream(entry.packed, Wrapping::none, entry.size, storage);
    if (result.status == InflateStatus::truncated) fail("the deflated data end too early");
    if (result.status == InflateStatus::corrupt) fail("the deflated data are corrupt");
    if (result.status == InflateStatus::too_large || storage.size() != entry.size) {
      fail(fmt::format("does not unpack to the {} bytes that the directory states", entry.size));
    }
    if (result.consumed != entry.packed.size()) fail("bytes behind the end of the deflated data");
    bytes = storage;
  }
  if (checksum(bytes) != entry.checksum) fail("the checksum (CRC-32) does not match: damaged data");
  return bytes;
}

std::vector<std::byte> format_zip(std::span<const ZipMember> members, std::uint64_t wide_from) {
  ZipWriter writer(wide_from);
  for (const ZipMember& member : members) writer.add(member);
  return writer.finish();
}

namespace {

std::vector<ZipEntry> ZipReader::list() const {
  const Directory directory = find_directory();
  Fields rest(archive_.subspan(directory.offset, directory.size));
  std::vector<Record> records;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    records.push_back(take_record(rest, directory.offset + directory.size - rest.left()));
    locate(records.back(), directory.offset);
  }
  if (rest.left() > 0) {
    fail(directory.offset + directory.size - rest.left(),
         fmt::format("the directory goes on after its {} entries", directory.entries));
  }
  check_sizes(records);
  check_names(records);
  check_disjoint(records);
  std::vector<ZipEntry> entries;
  for (Record& record : records) entries.push_back(std::move(record.entry));
  return entries;
}

bool ZipReader::has_signature(std::uint64_t position, std::size_t size,
                              std::uint64_t signature) const {
  return position <= archive_.size() && size <= archive_.size() - position &&
         little_endian(archive_.subspan(position), 4) == signature;
}

std::size_t ZipReader::find_end() const {
  // The record ends with a comment of up to 65535 bytes, which must reach the end of the file.
  constexpr std::size_t farthest = end_size + 0xFFFF;
  const std::size_t size = archive_.size();
  for (std::size_t back = end_size; back <= std::min(size, farthest); ++back) {
    if (!has_signature(size - back, end_size, end_signature)) continue;
    if (little_endian(archive_.subspan(size - back + 20), 2) == back - end_size) return size - back;
  }
  fail(size, "not a zip file or cut short, expected the end of a central directory");
}

Directory ZipReader::find_directory() const {
  const std::size_t end = find_end();
  Directory directory;
  Fields fields(archive_.subspan(end));
  fields.skip(4);
  const std::uint64_t disk = fields.take(2);
  fields.skip(4);
  directory.entries = fields.take(2);
  directory.size = fields.take(4);
  directory.offset = fields.take(4);
  std::size_t limit = end;

  if (end >= wide_locator_size &&
      has_signature(end - wide_locator_size, wide_locator_size, wide_locator_signature)) {
    const std::size_t locator = end - wide_locator_size;
    const std::uint64_t wide_end = little_endian(archive_.subspan(locator + 8), 8);
    if (wide_end > locator || locator - wide_end < wide_end_size ||
        !has_signature(wide_end, wide_end_size, wide_end_signature)) {
      fail(locator, "points to no zip64 end of a central directory");
    }
    Fields wide(archive_.subspan(wide_end));
    wide.skip(32);
    directory.entries = wide.take(8);
    directory.size = wide.take(8);
    directory.offset = wide.take(8);
    limit = wide_end;
  } else if (disk != 0) {
    fail(end, "one of several disks, expected a whole archive");
  }
  if (directory.offset > limit || directory.size > limit - directory.offset) {
    fail(end, fmt::format("a directory of {} bytes at {} is not within the file", directory.size,
                          directory.offset));
  }
  if (directory.entries > directory.size / central_size) {
    fail(end, fmt::format("{} entries do not fit a directory of {} bytes", directory.entries,
                          directory.size));
  }
  return directory;
}

// position: where the record lies in the archive.
Record ZipReader::take_record(Fields& directory, std::size_t position) const {
  if (directory.left() < central_size || directory.take(4) != central_signature) {
    fail(position, "expected an entry of the central directory");
  }
  Record record;
  directory.skip(4);
  const std::uint64_t flags = directory.take(2);
  record.method = directory.take(2);
  directory.skip(4);
  record.entry.checksum = static_cast<std::uint32_t>(directory.take(4));
  record.packed_size = directory.take(4);
  record.size = directory.take(4);
  const std::size_t name_length = directory.take(2);
  const std::size_t extra_length = directory.take(2);
  const std::size_t comment_length = directory.take(2);
  directory.skip(8);
  record.offset = directory.take(4);
  if (name_length + extra_length + comment_length > directory.left()) {
    fail(position, "an entry runs past the end of the central directory");
  }
  const auto name = directory.take_bytes(name_length);
  record.entry.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
  widen(record, Fields(directory.take_bytes(extra_length)), position);
  directory.skip(comment_length);

  if (!is_utf8(record.entry.name) || record.entry.name.find('\0') != std::string::npos) {
    fail(position, "the name of an entry is not UTF-8 text");
  }
  if ((flags & encrypted_flag) != 0) fail(record.entry, "is encrypted");
  if (record.method != method_stored && record.method != method_deflated) {
    fail(record.entry,
         fmt::format("compression method {}, expected stored (0) or deflated (8)", record.method));
  }
  record.entry.deflated = record.method == method_deflated;
  return record;
}

// Replaces saturated fields by those of the zip64 extra field, which holds only these, in this
// order.
void ZipReader::widen(Record& record, Fields extra, std::size_t position) const {
  std::vector<std::uint64_t*> missing;
  for (std::uint64_t* field : {&record.size, &record.packed_size, &record.offset}) {
    if (*field == saturated) missing.push_back(field);
  }
  while (!missing.empty() && extra.left() >= 4) {
    const std::uint64_t kind = extra.take(2);
    const std::size_t length = extra.take(2);
    if (length > extra.left()) break;
    Fields field(extra.take_bytes(length));
    if (kind != wide_extra) continue;
    if (field.left() < 8 * missing.size()) break;
    for (std::uint64_t* value : missing) *value = field.take(8);
    return;
  }
  if (!missing.empty()) fail(position, "an entry lacks its zip64 sizes");
}

// Finds the packed bytes behind the local header, all of them before the directory at limit.
void ZipReader::locate(Record& record, std::size_t limit) const {
  ZipEntry& entry = record.entry;
  if (record.offset > limit || limit - record.offset < local_size ||
      !has_signature(record.offset, local_size, local_signature)) {
    fail(entry, fmt::format("no local header at byte {}", record.offset));
  }
  Fields local(archive_.subspan(record.offset, limit - record.offset));
  local.skip(8);
  const std::uint64_t method = local.take(2);
  local.skip(16);
  const std::size_t name_length = local.take(2);
  const std::size_t extra_length = local.take(2);
  if (name_length + extra_length > local.left()) fail(entry, "runs past the central directory");
  const auto name = local.take_bytes(name_length);
  local.skip(extra_length);
  if (method != record.method ||
      !std::ranges::equal(name, std::as_bytes(std::span<const char>(entry.name)))) {
    fail(entry, "its local header tells another name or method than the directory");
  }
  if (record.packed_size > local.left()) fail(entry, "runs past the central directory");
  if (!entry.deflated && record.packed_size != record.size) {
    fail(entry, fmt::format("{} bytes stored as {}", record.size, record.packed_size));
  }
  record.end = limit - local.left() + record.packed_size;
  entry.packed = local.take_bytes(record.packed_size);
  entry.size = record.size;
}

void ZipReader::check_sizes(const std::vector<Record>& records) const {
  const std::uint64_t most =
      expansion_limit(archive_.size(), std::numeric_limits<std::size_t>::max());
  std::uint64_t total = 0;
  for (const Record& record : records) {
    if (record.size > most - total) {
      fail(record.entry, fmt::format("the archive of {} bytes unpacks to more than {} bytes, the "
                                     "most that is read",
                                     archive_.size(), most));
    }
    total += record.size;
  }
}

void ZipReader::check_names(const std::vector<Record>& records) const {
  std::unordered_set<std::string_view> names;
  for (const Record& record : records) {
    if (!names.insert(record.entry.name).second) fail(record.entry, "a second entry of this name");
  }
}

// Members that share bytes are how a small archive unpacks to a huge one.
void ZipReader::check_disjoint(std::vector<Record> records) const {
  std::ranges::sort(records, {}, &Record::offset);
  for (std::size_t i = 1; i < records.size(); ++i) {
    if (records[i].offset < records[i - 1].end) {
      fail(records[i].entry, fmt::format("overlaps {}", entry_place(records[i - 1].entry)));
    }
  }
}

void ZipReader::fail(std::uint64_t position, const std::string& problem) const {
  throw BadFile(path_, fmt::format("byte {}", position), problem);
}

void ZipReader::fail(const ZipEntry& entry, const std::string& problem) const {
  throw BadFile(path_, entry_place(entry), problem);
}

void ZipWriter::add(const ZipMember& member) {
  require(member.name.size() <= 0xFFFF && is_utf8(member.name) &&
              member.name.find('\0') == std::string::npos,
          "'{}' cannot name a member of a zip file", excerpt(member.name));
  const std::uint64_t size = member.bytes.size();
  const bool wide = is_wide(size);
  added_.push_back({&member, archive_.size(), checksum(member.bytes)});
  put(local_signature, 4);
  put_common(added_.back(), wide);
  put(wide ? 20 : 0, 2);
  put(std::as_bytes(std::span<const char>(member.name)));
  if (wide) {
    put(wide_extra, 2);
    put(16, 2);
    put(size, 8);
    put(size, 8);
  }
  put(member.bytes);
}

std::vector<std::byte> ZipWriter::finish() {
  const std::uint64_t begin = archive_.size();
  for (const Added& added : added_) put_record(added);
  const std::uint64_t end = archive_.size();
  const std::uint64_t count = added_.size();
  const bool wide_count = is_wide(count) || count >= saturated_count;
  if (wide_count || is_wide(end - begin) || is_wide(begin)) {
    put(wide_end_signature, 4);
    put(wide_end_size - 12, 8);
    put(version_wide, 2);
    put(version_wide, 2);
    put(0, 8);  // this disk, and the disk of the directory
    put(count, 8);
    put(count, 8);
    put(end - begin, 8);
    put(begin, 8);
    put(wide_locator_signature, 4);
    put(0, 4);
    put(end, 8);
    put(1, 4);
  }
  put(end_signature, 4);
  put(0, 4);
  put(wide_count ? saturated_count : count, 2);
  put(wide_count ? saturated_count : count, 2);
  put(narrow(end - begin), 4);
  put(narrow(begin), 4);
  put(0, 2);
  return std::move(archive_);
}

void ZipWriter::put_common(const Added& added, bool wide) {
  const std::uint64_t size = added.member->bytes.size();
  const std::string& name = added.member->name;
  const bool ascii = std::ranges::all_of(name, [](char c) { return (c & 0x80) == 0; });
  put(wide ? version_wide : version_plain, 2);
  put(ascii ? 0 : utf8_flag, 2);
  put(method_stored, 2);
  put(0, 2);
  put(first_day, 2);
  put(added.checksum, 4);
  put(narrow(size), 4);
  put(narrow(size), 4);
  put(name.size(), 2);
}

void ZipWriter::put_record(const Added& added) {
  const std::uint64_t size = added.member->bytes.size();
  const std::size_t wide_fields = (is_wide(size) ? 2 : 0) + (is_wide(added.offset) ? 1 : 0);
  put(central_signature, 4);
  put(version_wide, 2);
  put_common(added, wide_fields > 0);
  put(wide_fields > 0 ? 4 + 8 * wide_fields : 0, 2);
  put(0, 2);  // comment
  put(0, 2);  // disk
  put(0, 6);  // attributes
  put(narrow(added.offset), 4);
  put(std::as_bytes(std::span<const char>(added.member->name)));
  if (wide_fields > 0) {
    put(wide_extra, 2);
    put(8 * wide_fields, 2);
    if (is_wide(size)) {
      put(size, 8);
      put(size, 8);
    }
    if (is_wide(added.offset)) put(added.offset, 8);
  }
}

}  // namespace
}  // namespace einkorn
