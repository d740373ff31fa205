// Zip archives in memory, as far as .npz needs them: members stored or deflated, zip64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace einkorn {

struct ZipEntry {
  std::string name;
  bool deflated = false;
  std::uint32_t checksum = 0;
  std::span<const std::byte> packed;  // within the archive
  std::size_t size = 0;               // unpacked
};

// The members by the central directory, checked against the local headers. Throws BadFile: damaged
// or hostile offsets, members that share bytes, duplicate names, encryption, other methods.
std::vector<ZipEntry> list_zip(std::span<const std::byte> archive, const std::string& path);

// The bytes of a member: within the archive if it is stored, else unpacked into storage. Throws
// BadFile where they do not have the size or the checksum that the directory states.
std::span<const std::byte> unpack(const ZipEntry& entry, const std::string& path,
                                  std::vector<std::byte>& storage);

struct ZipMember {
  std::string name;
  std::vector<std::byte> bytes;
};

// An archive of stored members. Sizes, offsets and counts of wide_from and above are written in 64
// bits; tests lower it.
std::vector<std::byte> format_zip(
    std::span<const ZipMember> members,
    std::uint64_t wide_from = std::numeric_limits<std::uint32_t>::max());

}  // namespace einkorn
