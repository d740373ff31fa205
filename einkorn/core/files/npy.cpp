#include "einkorn/core/files/npy.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include "einkorn/core/error.h"
#include "einkorn/core/files/bytes_internal.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/npy_internal.h"
#include "einkorn/core/files/text_internal.h"

namespace einkorn {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr bool native_is_little = std::endian::native == std::endian::little;

// What the header says, and where the elements begin.
struct Header {
  NpyArray array;
  bool swapped = false;
  std::size_t end = 0;
};

// Parses the Python dictionary that is the header: {'descr': '<f8', 'fortran_order': False, ...}.
class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> content, const std::string& path,
               const std::string& prefix)
      : content_(content), path_(path), prefix_(prefix) {}

  Header read();

 private:
  void find_text();
  void read_dictionary();
  void read_type();
  void read_order();
  void read_shape();
  std::int64_t read_dimension();
  std::string_view read_string();
  bool take(char c);
  void expect(char c);
  void skip_blanks();
  [[noreturn]] void fail(std::size_t position, const std::string& problem) const;

  std::span<const std::byte> content_;
  const std::string& path_;
  const std::string& prefix_;
  std::string_view text_;  // the content up to the header's end, so that positions are file offsets
  std::size_t position_ = 0;
  Header header_;
};

NpyArray parse(std::span<const std::byte> content, const std::string& path,
               const std::string& prefix);
std::size_t component_size(const NpyArray& array);
bool is_known_type(char kind, std::size_t item_size);
void check(const NpyArray& array);
void swap_bytes(std::span<std::byte> bytes, std::size_t component);
double half_to_double(std::uint16_t half);
double element(const NpyArray& array, std::size_t index);

}  // namespace

std::int64_t NpyArray::size() const {
  const auto count = array_bytes(shape, 1);
  require(count.has_value(), "the shape ({}) has no size", fmt::join(shape, ", "));
  return static_cast<std::int64_t>(*count);
}

std::vector<double> NpyArray::to_doubles() const {
  check(*this);
  require(kind != 'c', "a complex array has no values as doubles");
  const auto count = static_cast<std::size_t>(size());
  std::vector<double> values(count);
  if (!fortran_order || shape.size() < 2) {
    for (std::size_t i = 0; i < count; ++i) values[i] = element(*this, i);
    return values;
  }
  // Counts through the array in row-major order and keeps the column-major position in step.
  std::vector<std::size_t> strides(shape.size(), 1);
  for (std::size_t axis = 1; axis < shape.size(); ++axis) {
    strides[axis] = strides[axis - 1] * static_cast<std::size_t>(shape[axis - 1]);
  }
  std::vector<std::int64_t> index(shape.size(), 0);
  std::size_t position = 0;
  for (double& value : values) {
    value = element(*this, position);
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      position += strides[axis];
      if (++index[axis] < shape[axis]) break;
      position -= strides[axis] * static_cast<std::size_t>(shape[axis]);
      index[axis] = 0;
    }
  }
  return values;
}

NpyArray parse_npy(std::span<const std::byte> content, const std::string& path) {
  return parse(content, path, "");
}

NpyArray parse_npy_member(std::span<const std::byte> content, const std::string& path,
                          const std::string& member) {
  return parse(content, path, fmt::format("entry '{}', ", excerpt(member)));
}

NpyArray read_npy(const std::filesystem::path& path) {
  return parse_npy(read_content(path), path.string());
}

NpyArray npy_from_doubles(std::span<const double> values, std::vector<std::int64_t> shape) {
  NpyArray array;
  array.shape = std::move(shape);
  const auto bytes = std::as_bytes(values);
  array.bytes.assign(bytes.begin(), bytes.end());
  check(array);
  return array;
}

std::vector<std::byte> format_npy(const NpyArray& array) {
  check(array);
  const char order = component_size(array) == 1 ? '|' : native_is_little ? '<' : '>';
  std::string dimensions;
  for (const std::int64_t dimension : array.shape) dimensions += fmt::format("{}, ", dimension);
  // A tuple of one keeps its comma, longer ones lose it.
  if (!dimensions.empty()) dimensions.resize(dimensions.size() - (array.shape.size() > 1 ? 2 : 1));
  std::string header =
      fmt::format("{{'descr': '{}{}{}', 'fortran_order': {}, 'shape': ({}), }}", order, array.kind,
                  array.item_size, array.fortran_order ? "True" : "False", dimensions);
  // NumPy aligns the elements to 64 bytes, so that files can be mapped into memory.
  constexpr std::size_t alignment = 64;
  const std::size_t before_header = magic.size() + 4;
  const std::size_t unpadded = before_header + header.size() + 1;
  header.append((alignment - unpadded % alignment) % alignment, ' ');
  header += '\n';

  std::string start(magic);
  start += {'\x01', '\x00', static_cast<char>(header.size() & 0xff),
            static_cast<char>(header.size() >> 8)};
  start += header;
  std::vector<std::byte> content(start.size() + array.bytes.size());
  std::memcpy(content.data(), start.data(), start.size());
  std::copy(array.bytes.begin(), array.bytes.end(), content.begin() + std::ssize(start));
  return content;
}

void write_npy(const OutputPath& path, const NpyArray& array) {
  write_content(path, format_npy(array));
}

namespace {

NpyArray parse(std::span<const std::byte> content, const std::string& path,
               const std::string& prefix) {
  Header header = HeaderReader(content, path, prefix).read();
  NpyArray& array = header.array;
  const auto bytes = array_bytes(array.shape, array.item_size);
  const auto fail = [&](std::size_t position, const std::string& problem) {
    throw BadFile(path, fmt::format("{}byte {}", prefix, position), problem);
  };
  if (!bytes)
    fail(header.end,
         fmt::format("the shape ({}) is too large to be true", fmt::join(array.shape, ", ")));
  const std::size_t present = content.size() - header.end;
  if (present < *bytes) {
    fail(content.size(),
         fmt::format("the data end too early: expected {} bytes, got {}", *bytes, present));
  }
  if (present > *bytes) {
    fail(header.end + *bytes,
         fmt::format("{} bytes behind the end of the array, expected none", present - *bytes));
  }
  const auto data = content.subspan(header.end);
  array.bytes.assign(data.begin(), data.end());
  if (header.swapped) swap_bytes(array.bytes, component_size(array));
  if (array.kind == 'b') {
    for (std::byte& value : array.bytes) value = value == std::byte{0} ? value : std::byte{1};
  }
  return std::move(array);
}

Header HeaderReader::read() {
  find_text();
  read_dictionary();
  skip_blanks();
  if (position_ != text_.size()) fail(position_, "expected the end of the header");
  header_.end = text_.size();
  return std::move(header_);
}

void HeaderReader::find_text() {
  // Long headers describe structured types, which are refused anyway.
  constexpr std::size_t longest_header = 1 << 16;
  const std::string_view all(reinterpret_cast<const char*>(content_.data()), content_.size());
  if (all.substr(0, magic.size()) != magic) {
    fail(0, "not a NumPy file, expected it to begin with \\x93NUMPY");
  }
  if (all.size() < magic.size() + 2) fail(all.size(), "the header ends too early");
  const int version = static_cast<unsigned char>(all[6]);
  if (version < 1 || version > 3 || all[7] != 0) {
    fail(6, fmt::format("format version {}.{}, expected 1.0, 2.0 or 3.0", version,
                        static_cast<unsigned char>(all[7])));
  }
  const std::size_t width = version == 1 ? 2 : 4;
  position_ = 8 + width;
  if (all.size() < position_) fail(all.size(), "the header ends too early");
  const std::uint64_t length = little_endian(content_.subspan(8), width);
  if (length > longest_header) {
    fail(8, fmt::format("a header of {} bytes, expected at most {}", length, longest_header));
  }
  if (length > all.size() - position_) {
    fail(all.size(), fmt::format("the header ends too early: expected {} bytes", length));
  }
  text_ = all.substr(0, position_ + length);
}

void HeaderReader::read_dictionary() {
  bool has_type = false, has_order = false, has_shape = false;
  const auto once = [&](bool& seen, std::size_t position) {
    if (seen) fail(position, "a key that occurs twice");
    seen = true;
  };
  expect('{');
  while (!take('}')) {
    skip_blanks();
    const std::size_t position = position_;
    const std::string_view key = read_string();
    expect(':');
    if (key == "descr") {
      once(has_type, position);
      read_type();
    } else if (key == "fortran_order") {
      once(has_order, position);
      read_order();
    } else if (key == "shape") {
      once(has_shape, position);
      read_shape();
    } else {
      fail(position,
           fmt::format("expected the key descr, fortran_order or shape, got '{}'", excerpt(key)));
    }
    if (!take(',')) {
      expect('}');
      break;
    }
  }
  if (!has_type || !has_order || !has_shape) {
    fail(position_, "expected the keys descr, fortran_order and shape, at least one is missing");
  }
}

void HeaderReader::read_type() {
  skip_blanks();
  const std::size_t position = position_;
  if (take('['))
    fail(position, "structured dtypes are not supported, expected a plain number type");
  const std::string_view name = read_string();
  std::string_view rest = name;
  char order = '=';
  if (!rest.empty() && std::string_view("<>|=").find(rest[0]) != std::string_view::npos) {
    order = rest[0];
    rest.remove_prefix(1);
  }
  const char kind = rest.empty() ? '\0' : rest[0];
  if (kind == 'O') {
    fail(position, "object dtypes hold Python pickles and are not supported, expected numbers");
  }
  std::size_t size = 0;
  if (!rest.empty()) {
    const char* end = rest.data() + rest.size();
    const auto [stop, code] = std::from_chars(rest.data() + 1, end, size);
    if (code != std::errc() || stop != end) size = 0;
  }
  if (!is_known_type(kind, size)) {
    fail(position, fmt::format("the dtype '{}' is not supported, expected b1, i1 to i8, u1 to u8, "
                               "f2, f4, f8, c8 or c16",
                               excerpt(name)));
  }
  header_.array.kind = kind;
  header_.array.item_size = size;
  header_.swapped = (order == '>' && native_is_little) || (order == '<' && !native_is_little);
}

void HeaderReader::read_order() {
  skip_blanks();
  for (const bool value : {false, true}) {
    const std::string_view word = value ? "True" : "False";
    if (text_.substr(position_).starts_with(word)) {
      position_ += word.size();
      header_.array.fortran_order = value;
      return;
    }
  }
  fail(position_, "expected True or False");
}

void HeaderReader::read_shape() {
  constexpr std::size_t most_dimensions = 64;  // as NumPy has it
  expect('(');
  bool comma = true;
  while (!take(')')) {
    if (!comma) fail(position_, "expected ',' or ')'");
    header_.array.shape.push_back(read_dimension());
    if (header_.array.shape.size() > most_dimensions) {
      fail(position_, fmt::format("more than {} dimensions", most_dimensions));
    }
    comma = take(',');
  }
  if (header_.array.shape.size() == 1 && !comma) {
    fail(position_, "a number in parentheses, expected a tuple");
  }
}

std::int64_t HeaderReader::read_dimension() {
  skip_blanks();
  std::int64_t value = 0;
  const char* begin = text_.data() + position_;
  const auto [stop, code] = std::from_chars(begin, text_.data() + text_.size(), value);
  if (code == std::errc::result_out_of_range) fail(position_, "a dimension too large to be true");
  if (code != std::errc() || value < 0)
    fail(position_, "expected a dimension, a whole number >= 0");
  position_ += static_cast<std::size_t>(stop - begin);
  // Python 2 wrote long integers with an L.
  if (position_ < text_.size() && text_[position_] == 'L') ++position_;
  return value;
}

std::string_view HeaderReader::read_string() {
  skip_blanks();
  const char quote = position_ < text_.size() ? text_[position_] : '\0';
  if (quote != '\'' && quote != '"') fail(position_, "expected a quoted string");
  const std::size_t begin = position_ + 1;
  const std::size_t end = text_.find(quote, begin);
  if (end == std::string_view::npos) fail(position_, "a string that is never closed");
  position_ = end + 1;
  return text_.substr(begin, end - begin);
}

bool HeaderReader::take(char c) {
  skip_blanks();
  if (position_ == text_.size() || text_[position_] != c) return false;
  ++position_;
  return true;
}

void HeaderReader::expect(char c) {
  if (!take(c)) fail(position_, fmt::format("expected '{}' in the header", c));
}

void HeaderReader::skip_blanks() {
  position_ = std::min(text_.find_first_not_of(" \t\r\n", position_), text_.size());
}

void HeaderReader::fail(std::size_t position, const std::string& problem) const {
  throw BadFile(path_, fmt::format("{}byte {}", prefix_, position), problem);
}

// The unit that byte order applies to: half of a complex number.
std::size_t component_size(const NpyArray& array) {
  return array.kind == 'c' ? array.item_size / 2 : array.item_size;
}

bool is_known_type(char kind, std::size_t item_size) {
  switch (kind) {
    case 'b':
      return item_size == 1;
    case 'i':
    case 'u':
      return item_size == 1 || item_size == 2 || item_size == 4 || item_size == 8;
    case 'f':
      return item_size == 2 || item_size == 4 || item_size == 8;
    case 'c':
      return item_size == 8 || item_size == 16;
    default:
      return false;
  }
}

void check(const NpyArray& array) {
  require(is_known_type(array.kind, array.item_size), "{}{} is no type of an npy array", array.kind,
          array.item_size);
  const auto bytes = array_bytes(array.shape, array.item_size);
  require(bytes == array.bytes.size(), "the shape ({}) of {}{} does not fit {} bytes",
          fmt::join(array.shape, ", "), array.kind, array.item_size, array.bytes.size());
}

void swap_bytes(std::span<std::byte> bytes, std::size_t component) {
  for (std::size_t i = 0; i + component <= bytes.size(); i += component) {
    std::reverse(bytes.begin() + static_cast<std::ptrdiff_t>(i),
                 bytes.begin() + static_cast<std::ptrdiff_t>(i + component));
  }
}

double half_to_double(std::uint16_t half) {
  const std::uint64_t sign = half >> 15;
  const std::uint64_t exponent = half >> 10 & 0x1F;
  const std::uint64_t fraction = half & 0x3FF;
  if (exponent == 0) {
    const double size = static_cast<double>(fraction) * 0x1p-24;
    return sign ? -size : size;
  }
  const std::uint64_t wide_exponent = exponent == 0x1F ? 0x7FF : exponent - 15 + 1023;
  return std::bit_cast<double>(sign << 63 | wide_exponent << 52 | fraction << 42);
}

template <typename T>
T load(const NpyArray& array, std::size_t index) {
  T value;
  std::memcpy(&value, array.bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T8, typename T16, typename T32, typename T64>
double load_integer(const NpyArray& array, std::size_t index) {
  switch (array.item_size) {
    case 1:
      return load<T8>(array, index);
    case 2:
      return load<T16>(array, index);
    case 4:
      return load<T32>(array, index);
    default:
      return static_cast<double>(load<T64>(array, index));
  }
}

double element(const NpyArray& array, std::size_t index) {
  switch (array.kind) {
    case 'i':
      return load_integer<std::int8_t, std::int16_t, std::int32_t, std::int64_t>(array, index);
    case 'f':
      if (array.item_size == 2) return half_to_double(load<std::uint16_t>(array, index));
      if (array.item_size == 4) return load<float>(array, index);
      return load<double>(array, index);
    default:
      return load_integer<std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t>(array, index);
  }
}

}  // namespace
}  // namespace einkorn
