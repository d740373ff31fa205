#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/npy_internal.h"
#include "einkorn/core/files/text_internal.h"
#include "einkorn/core/files/zip_internal.h"

namespace einkorn {

std::map<std::string, NpyArray> parse_npz(std::span<const std::byte> content,
                                          const std::string& path) {
  constexpr std::string_view ending = ".npy";
  std::map<std::string, NpyArray> arrays;
  std::vector<std::byte> storage;
  for (const ZipEntry& entry : list_zip(content, path)) {
    std::string name = entry.name;
    if (name.ends_with(ending)) name.resize(name.size() - ending.size());
    if (arrays.contains(name)) {
      throw BadFile(path, fmt::format("entry '{}'", excerpt(entry.name)),
                    fmt::format("a second array '{}'", excerpt(name)));
    }
    arrays.emplace(name, parse_npy_member(unpack(entry, path, storage), path, entry.name));
  }
  return arrays;
}

std::map<std::string, NpyArray> read_npz(const std::filesystem::path& path) {
  return parse_npz(read_content(path), path.string());
}

std::vector<std::byte> format_npz(const std::map<std::string, NpyArray>& arrays) {
  std::vector<ZipMember> members;
  for (const auto& [name, array] : arrays) members.push_back({name + ".npy", format_npy(array)});
  return format_zip(members);
}

void write_npz(const OutputPath& path, const std::map<std::string, NpyArray>& arrays) {
  write_content(path, format_npz(arrays));
}

}  // namespace einkorn
