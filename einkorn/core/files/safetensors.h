// Safetensors: a length, a JSON header, one gap-free buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "einkorn/core/options.h"

namespace einkorn {

struct SafetensorsEntry {
  std::string dtype;  // as in the format: "F32", "BF16", "I64", "U8", ...
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;  // row-major, little-endian
};

struct SafetensorsFile {
  std::map<std::string, std::string> metadata;
  std::map<std::string, SafetensorsEntry> tensors;
};

// Bytes of one element; 0 for a dtype that the format does not know.
std::size_t safetensors_item_size(const std::string& dtype);

// Throws BadFile: header too long (> 100 MB) or not JSON, duplicate names, unknown dtypes, offsets
// that overlap, leave holes, do not match the shape, or run past the end.
SafetensorsFile parse_safetensors(std::span<const std::byte> content, const std::string& path);
SafetensorsFile read_safetensors(const std::filesystem::path& path);

std::vector<std::byte> format_safetensors(const SafetensorsFile& file);
void write_safetensors(const OutputPath& path, const SafetensorsFile& file);

}  // namespace einkorn
