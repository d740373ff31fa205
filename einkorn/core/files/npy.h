// NumPy's .npy (format versions 1 to 3) and .npz (zip, stored or deflated) files.
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

// An array as it lies in the file. Bytes are in native order, whatever the file had.
struct NpyArray {
  char kind = 'f';            // 'b' bool, 'i' signed, 'u' unsigned, 'f' floating, 'c' complex
  std::size_t item_size = 8;  // bytes
  std::vector<std::int64_t> shape;
  bool fortran_order = false;
  std::vector<std::byte> bytes;

  std::int64_t size() const;  // number of elements

  // The elements in row-major order as doubles. Throws InvalidArgument for complex arrays.
  std::vector<double> to_doubles() const;
};

// Parsers of a whole file in memory; path is only for messages. All throw BadFile. Bytes of a bool
// other than 0 and 1 become 1, as C++ knows no others.
NpyArray parse_npy(std::span<const std::byte> content, const std::string& path);
std::map<std::string, NpyArray> parse_npz(std::span<const std::byte> content,
                                          const std::string& path);

NpyArray read_npy(const std::filesystem::path& path);
std::map<std::string, NpyArray> read_npz(const std::filesystem::path& path);

// Row-major f64.
NpyArray npy_from_doubles(std::span<const double> values, std::vector<std::int64_t> shape);

// The content of a file, npz with stored members as numpy.savez has them. Throws InvalidArgument
// for arrays whose type NumPy has no name for or whose bytes do not fit their shape.
std::vector<std::byte> format_npy(const NpyArray& array);
std::vector<std::byte> format_npz(const std::map<std::string, NpyArray>& arrays);

// Files appear under their name only when complete.
void write_npy(const OutputPath& path, const NpyArray& array);
void write_npz(const OutputPath& path, const std::map<std::string, NpyArray>& arrays);

}  // namespace einkorn
