#include "einkorn/core/data.h"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

#include "einkorn/core/error.h"

namespace einkorn {
namespace {

// The folder that holds the library (or the program) with this code.
std::filesystem::path library_folder() {
  Dl_info info;
  static const char anchor = 0;
  if (dladdr(&anchor, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code ignored;
  return std::filesystem::canonical(info.dli_fname, ignored).parent_path();
}

std::vector<std::filesystem::path> data_folders() {
  std::vector<std::filesystem::path> folders;
  if (const char* home = std::getenv("EINKORN_HOME")) {
    folders.push_back(std::filesystem::path(home) / "data");
  }
#ifdef EINKORN_SOURCE_DATA
  folders.push_back(EINKORN_SOURCE_DATA);
#endif
  folders.push_back(library_folder() / "../share/einkorn/data");
  return folders;
}

}  // namespace

std::filesystem::path bundled_data(const std::string& name) {
  std::error_code ignored;
  for (const auto& folder : data_folders()) {
    if (std::filesystem::exists(folder / name, ignored)) return folder / name;
  }
  throw BadFile(name, "",
                "bundled data file not found; `make setup` exports the data, and EINKORN_HOME "
                "names a folder that holds data/");
}

std::optional<std::filesystem::path> test_data(const std::string& name) {
  const char* root = std::getenv("EINKORN_DATA");
  if (root == nullptr || *root == '\0') return std::nullopt;
  std::error_code ignored;
  const auto path = std::filesystem::path(root) / name;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return path;
}

}  // namespace einkorn
