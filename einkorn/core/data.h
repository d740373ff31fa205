// Where bundled data lie, in a source tree and in an installed prefix.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace einkorn {

// The path of a bundled data file ("zachary.csv", "exported/digits.npz"): $EINKORN_HOME/data, the
// source tree of this build, or share/einkorn/data beside the library. Throws BadFile, which says
// how to get the file, where it is in none of them.
std::filesystem::path bundled_data(const std::string& name);

// $EINKORN_DATA/name, if that variable is set and the path exists: files for tests and benchmarks.
std::optional<std::filesystem::path> test_data(const std::string& name);

}  // namespace einkorn
