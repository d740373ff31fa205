// Whole files in and out: read with a limit (gzip is recognised), written under a temporary name.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "einkorn/core/options.h"

namespace einkorn {

// The file's content; gzip-compressed files are expanded. Throws BadFile if it cannot be read, is a
// folder, or is (expanded) larger than limit bytes. A compressed file that expands to more than
// 1 GiB and more than 256 times its size is refused as well.
std::vector<std::byte> read_content(const std::filesystem::path& path,
                                    std::size_t limit = std::size_t{16} << 30);

// The same as text.
std::string read_text(const std::filesystem::path& path, std::size_t limit = std::size_t{1} << 30);

// Writes to a temporary file in the same folder, then renames. Throws BadFile if the path exists
// and may not be replaced, or on any write error; the temporary file is removed then. Links are
// followed, and a file that is replaced hands on its permissions.
void write_content(const OutputPath& path, std::span<const std::byte> content);
void write_text(const OutputPath& path, const std::string& text);

}  // namespace einkorn
