#include "einkorn/core/files/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "einkorn/core/error.h"
#include "einkorn/core/files/bytes_internal.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/text_internal.h"

namespace einkorn {
namespace {

constexpr std::size_t length_size = 8;
constexpr std::uint64_t longest_header = 100'000'000;  // as the format has it
constexpr std::string_view metadata_name = "__metadata__";

struct DtypeSize {
  std::string_view name;
  std::size_t bytes;
};

// Types below a byte (F4 and its like) are left out: their elements share bytes.
constexpr DtypeSize dtype_sizes[] = {
    {"BOOL", 1},        {"U8", 1},          {"I8", 1},      {"F8_E4M3", 1}, {"F8_E5M2", 1},
    {"F8_E4M3FNUZ", 1}, {"F8_E5M2FNUZ", 1}, {"F8_E8M0", 1}, {"U16", 2},     {"I16", 2},
    {"F16", 2},         {"BF16", 2},        {"U32", 4},     {"I32", 4},     {"F32", 4},
    {"U64", 8},         {"I64", 8},         {"F64", 8},     {"C64", 8},
};

// What the header says of one tensor.
struct Description {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<std::uint64_t>> shape;
  std::optional<std::vector<std::uint64_t>> offsets;
};

// Follows the header's JSON as it is parsed, so that nothing but what the format has is ever kept,
// and duplicate names are seen.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const std::string& path, std::map<std::string, std::string>& metadata)
      : path_(path), metadata_(metadata) {}

  std::vector<Description> take_descriptions() { return std::move(descriptions_); }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_unsigned(number_unsigned_t value) override;
  bool number_float(number_float_t, const string_t& text) override { return unexpected(text); }
  bool string(string_t& value) override;
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool start_object(std::size_t) override;
  bool key(string_t& name) override;
  bool end_object() override;
  bool start_array(std::size_t) override;
  bool end_array() override;
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& error) override;

 private:
  // Where in the header the parser stands.
  enum class Level { outside, header, metadata, tensor, numbers };

  bool unexpected(const std::string& what) const;
  [[noreturn]] void fail(const std::string& problem) const;

  const std::string& path_;
  std::map<std::string, std::string>& metadata_;
  std::vector<Description> descriptions_;
  std::unordered_set<std::string> names_;
  Level level_ = Level::outside;
  std::string key_;
  std::vector<std::uint64_t> numbers_;
};

std::string tensor_place(const std::string& name);
void check_buffer(std::vector<Description>& descriptions, std::size_t buffer_size,
                  const std::string& path);
SafetensorsEntry make_entry(Description& description, std::span<const std::byte> buffer,
                            const std::string& path);
void check(const SafetensorsFile& file);

}  // namespace

std::size_t safetensors_item_size(const std::string& dtype) {
  const auto* found = std::ranges::find(dtype_sizes, dtype, &DtypeSize::name);
  return found == std::end(dtype_sizes) ? 0 : found->bytes;
}

SafetensorsFile parse_safetensors(std::span<const std::byte> content, const std::string& path) {
  if (content.size() < length_size) {
    throw BadFile(path, fmt::format("byte {}", content.size()),
                  "the file ends too early, expected the length of the header in 8 bytes");
  }
  const std::uint64_t length = little_endian(content, length_size);
  const auto rest = content.subspan(length_size);
  if (length > longest_header) {
    throw BadFile(path, "byte 0",
                  fmt::format("a header of {} bytes, expected at most {}; is this safetensors?",
                              length, longest_header));
  }
  if (length > rest.size()) {
    throw BadFile(
        path, fmt::format("byte {}", content.size()),
        fmt::format("the header ends too early: expected {} bytes, got {}", length, rest.size()));
  }
  const std::string_view header(reinterpret_cast<const char*>(rest.data()), length);
  if (!header.starts_with('{')) {
    throw BadFile(path, "byte 8", "expected the header to begin with '{'");
  }
  SafetensorsFile file;
  HeaderHandler handler(path, file.metadata);
  nlohmann::json::sax_parse(header.begin(), header.end(), &handler);
  std::vector<Description> descriptions = handler.take_descriptions();
  const auto buffer = rest.subspan(length);
  check_buffer(descriptions, buffer.size(), path);
  for (Description& description : descriptions) {
    file.tensors.emplace(description.name, make_entry(description, buffer, path));
  }
  return file;
}

SafetensorsFile read_safetensors(const std::filesystem::path& path) {
  return parse_safetensors(read_content(path), path.string());
}

std::vector<std::byte> format_safetensors(const SafetensorsFile& file) {
  check(file);
  // Larger elements first, as the format's own writer has it: then each tensor is aligned.
  std::vector<const std::pair<const std::string, SafetensorsEntry>*> order;
  for (const auto& named : file.tensors) order.push_back(&named);
  std::ranges::stable_sort(order, std::ranges::greater(), [](const auto* named) {
    return safetensors_item_size(named->second.dtype);
  });

  std::vector<std::string> members;
  if (!file.metadata.empty()) {
    members.push_back(
        fmt::format("\"{}\":{}", metadata_name, nlohmann::json(file.metadata).dump()));
  }
  std::size_t offset = 0;
  for (const auto* named : order) {
    const SafetensorsEntry& entry = named->second;
    const std::size_t end = offset + entry.bytes.size();
    members.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                                  nlohmann::json(named->first).dump(), entry.dtype,
                                  fmt::join(entry.shape, ","), offset, end));
    offset = end;
  }
  std::string text = fmt::format("{{{}}}", fmt::join(members, ","));
  text.append((length_size - text.size() % length_size) % length_size, ' ');
  require(text.size() <= longest_header, "a header of {} bytes, the format allows {}", text.size(),
          longest_header);

  std::vector<std::byte> content;
  content.reserve(length_size + text.size() + offset);
  append_little_endian(content, text.size(), length_size);
  const auto header_bytes = std::as_bytes(std::span<const char>(text));
  content.insert(content.end(), header_bytes.begin(), header_bytes.end());
  for (const auto* named : order) {
    content.insert(content.end(), named->second.bytes.begin(), named->second.bytes.end());
  }
  return content;
}

void write_safetensors(const OutputPath& path, const SafetensorsFile& file) {
  write_content(path, format_safetensors(file));
}

namespace {

bool HeaderHandler::number_unsigned(number_unsigned_t value) {
  if (level_ != Level::numbers) return unexpected("a number");
  numbers_.push_back(value);
  return true;
}

bool HeaderHandler::string(string_t& value) {
  if (level_ == Level::metadata) {
    if (!metadata_.try_emplace(key_, value).second) fail("a key that occurs twice");
  } else if (level_ == Level::tensor && key_ == "dtype") {
    if (descriptions_.back().dtype) fail("a key that occurs twice");
    descriptions_.back().dtype = value;
  } else {
    return unexpected("a string");
  }
  return true;
}

bool HeaderHandler::start_object(std::size_t) {
  switch (level_) {
    case Level::outside:
      level_ = Level::header;
      return true;
    case Level::header:
      level_ = key_ == metadata_name ? Level::metadata : Level::tensor;
      if (level_ == Level::tensor) descriptions_.push_back({key_, {}, {}, {}});
      return true;
    default:
      return unexpected("an object");
  }
}

bool HeaderHandler::key(string_t& name) {
  if (level_ == Level::tensor && name != "dtype" && name != "shape" && name != "data_offsets") {
    throw BadFile(
        path_, tensor_place(descriptions_.back().name),
        fmt::format("expected the keys dtype, shape and data_offsets, got '{}'", excerpt(name)));
  }
  key_ = name;
  if (level_ == Level::header && !names_.insert(name).second) fail("a name that occurs twice");
  return true;
}

bool HeaderHandler::end_object() {
  level_ = level_ == Level::header ? Level::outside : Level::header;
  return true;
}

bool HeaderHandler::start_array(std::size_t) {
  if (level_ != Level::tensor || key_ == "dtype") return unexpected("an array");
  level_ = Level::numbers;
  numbers_.clear();
  return true;
}

bool HeaderHandler::end_array() {
  level_ = Level::tensor;
  Description& description = descriptions_.back();
  auto& slot = key_ == "shape" ? description.shape : description.offsets;
  if (slot) fail("a key that occurs twice");
  slot = std::move(numbers_);
  return true;
}

bool HeaderHandler::parse_error(std::size_t position, const std::string&,
                                const nlohmann::json::exception&) {
  throw BadFile(path_, fmt::format("byte {}", length_size + position),
                "the header is not valid JSON here");
}

bool HeaderHandler::unexpected(const std::string& what) const {
  switch (level_) {
    case Level::metadata:
      fail(fmt::format("expected a string, got {}", excerpt(what)));
    case Level::numbers:
      fail(fmt::format("expected whole numbers >= 0, got {}", excerpt(what)));
    case Level::tensor:
      fail(fmt::format("expected {}, got {}", key_ == "dtype" ? "a string" : "an array",
                       excerpt(what)));
    default:
      fail(fmt::format("expected an object, got {}", excerpt(what)));
  }
}

void HeaderHandler::fail(const std::string& problem) const {
  const bool in_tensor = level_ == Level::tensor || level_ == Level::numbers;
  const std::string place =
      in_tensor ? fmt::format("{}, {}", tensor_place(descriptions_.back().name), key_)
                : fmt::format("header, '{}'", excerpt(key_));
  throw BadFile(path_, place, problem);
}

std::string tensor_place(const std::string& name) {
  return fmt::format("tensor '{}'", excerpt(name));
}

// The tensors, in the order of their offsets, must fill the buffer without holes or overlap.
void check_buffer(std::vector<Description>& descriptions, std::size_t buffer_size,
                  const std::string& path) {
  for (const Description& description : descriptions) {
    const auto fail = [&](const std::string& problem) {
      throw BadFile(path, tensor_place(description.name), problem);
    };
    if (!description.dtype || !description.shape || !description.offsets) {
      fail("expected the keys dtype, shape and data_offsets, at least one is missing");
    }
    if (description.offsets->size() != 2) {
      fail(fmt::format("expected two data_offsets, got {}", description.offsets->size()));
    }
    const auto [begin, end] = std::pair((*description.offsets)[0], (*description.offsets)[1]);
    if (begin > end || end > buffer_size) {
      fail(fmt::format("data_offsets [{}, {}] do not lie within the {} bytes behind the header",
                       begin, end, buffer_size));
    }
  }
  std::ranges::sort(descriptions, {},
                    [](const Description& description) { return *description.offsets; });
  std::uint64_t filled = 0;
  for (const Description& description : descriptions) {
    const std::uint64_t begin = (*description.offsets)[0];
    if (begin != filled) {
      throw BadFile(path, tensor_place(description.name),
                    fmt::format("begins at {} where {} bytes are taken: the data {}", begin, filled,
                                begin < filled ? "overlap" : "leave a hole"));
    }
    filled = (*description.offsets)[1];
  }
  if (filled != buffer_size) {
    throw BadFile(
        path, "",
        fmt::format("{} bytes behind the header, but its tensors take {}", buffer_size, filled));
  }
}

SafetensorsEntry make_entry(Description& description, std::span<const std::byte> buffer,
                            const std::string& path) {
  const auto fail = [&](const std::string& problem) {
    throw BadFile(path, tensor_place(description.name), problem);
  };
  SafetensorsEntry entry;
  entry.dtype = std::move(*description.dtype);
  const std::size_t item_size = safetensors_item_size(entry.dtype);
  if (item_size == 0) {
    std::vector<std::string_view> known;
    for (const DtypeSize& dtype : dtype_sizes) known.push_back(dtype.name);
    fail(fmt::format("the dtype '{}' is not known, expected one of {}", excerpt(entry.dtype),
                     fmt::join(known, ", ")));
  }
  for (const std::uint64_t dimension : *description.shape) {
    if (dimension > std::numeric_limits<std::int64_t>::max()) {
      fail(fmt::format("a dimension of {} is too large to be true", dimension));
    }
    entry.shape.push_back(static_cast<std::int64_t>(dimension));
  }
  const std::size_t begin = (*description.offsets)[0];
  const std::size_t size = (*description.offsets)[1] - begin;
  if (array_bytes(entry.shape, item_size) != size) {
    fail(fmt::format("the shape ({}) of {} does not fit {} bytes", fmt::join(entry.shape, ", "),
                     entry.dtype, size));
  }
  const auto bytes = buffer.subspan(begin, size);
  entry.bytes.assign(bytes.begin(), bytes.end());
  return entry;
}

void check(const SafetensorsFile& file) {
  for (const auto& [key, value] : file.metadata) {
    require(is_utf8(key) && is_utf8(value), "the metadata '{}' are not UTF-8", excerpt(key));
  }
  for (const auto& [name, entry] : file.tensors) {
    require(is_utf8(name) && name != metadata_name, "'{}' cannot name a tensor", excerpt(name));
    const std::size_t item_size = safetensors_item_size(entry.dtype);
    require(item_size > 0, "tensor '{}': the dtype '{}' is not known", excerpt(name), entry.dtype);
    require(array_bytes(entry.shape, item_size) == entry.bytes.size(),
            "tensor '{}': the shape ({}) of {} does not fit {} bytes", excerpt(name),
            fmt::join(entry.shape, ", "), entry.dtype, entry.bytes.size());
  }
}

}  // namespace
}  // namespace einkorn
