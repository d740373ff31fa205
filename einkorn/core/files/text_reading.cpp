#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>

#include "einkorn/core/error.h"
#include "einkorn/core/files/text_internal.h"

namespace einkorn {
namespace {

bool is_scalar_value(char32_t character) {
  return character <= 0x10FFFF && !(character >= 0xD800 && character <= 0xDFFF);
}

// How many bytes at the front are plain ASCII without NUL, counted in steps of eight.
std::size_t plain_prefix(std::string_view text) {
  constexpr std::uint64_t ones = 0x0101010101010101;
  constexpr std::uint64_t highs = 0x8080808080808080;
  std::size_t plain = 0;
  for (; plain + 8 <= text.size(); plain += 8) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + plain, 8);
    if (((word | (word - ones)) & highs) != 0) break;
  }
  return plain;
}

}  // namespace

std::string_view require_text(std::string_view content, const std::string& path) {
  constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
  if (content.starts_with(byte_order_mark)) content.remove_prefix(byte_order_mark.size());
  std::string_view rest = content;
  while (!rest.empty()) {
    rest.remove_prefix(plain_prefix(rest));
    if (rest.empty()) break;
    const std::size_t position = content.size() - rest.size();
    const auto character = take_character(rest);
    if (!character || *character == 0) {
      throw BadFile(path, line_place(line_at(content, position)),
                    character ? "a NUL byte, expected text" : "not UTF-8, expected text in UTF-8");
    }
  }
  return content;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    if (!take_character(text)) return false;
  }
  return true;
}

std::optional<char32_t> take_character(std::string_view& text) {
  if (text.empty()) return std::nullopt;
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) {
    text.remove_prefix(1);
    return first;
  }
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 0;
  if (length == 0 || first >= 0xF8 || text.size() < length) return std::nullopt;
  char32_t character = first & (0x7F >> length);
  for (std::size_t i = 1; i < length; ++i) {
    const auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xC0) != 0x80) return std::nullopt;
    character = character << 6 | (next & 0x3F);
  }
  // A character has one encoding only, its shortest.
  constexpr char32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (character < smallest[length] || !is_scalar_value(character)) return std::nullopt;
  text.remove_prefix(length);
  return character;
}

void append_character(std::string& text, char32_t character) {
  const auto append = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (character < 0x80) {
    append(character);
    return;
  }
  if (character < 0x800) {
    append(0xC0 | character >> 6);
  } else {
    if (character < 0x10000) {
      append(0xE0 | character >> 12);
    } else {
      append(0xF0 | character >> 18);
      append(0x80 | (character >> 12 & 0x3F));
    }
    append(0x80 | (character >> 6 & 0x3F));
  }
  append(0x80 | (character & 0x3F));
}

std::optional<std::string> resolve_reference(std::string_view reference) {
  if (reference == "amp") return "&";
  if (reference == "lt") return "<";
  if (reference == "gt") return ">";
  if (reference == "quot") return "\"";
  if (reference == "apos") return "'";
  if (!reference.starts_with('#')) return std::nullopt;
  reference.remove_prefix(1);
  const bool hexadecimal = reference.starts_with('x') || reference.starts_with('X');
  if (hexadecimal) reference.remove_prefix(1);
  std::uint32_t number = 0;
  const char* end = reference.data() + reference.size();
  const auto [stop, code] = std::from_chars(reference.data(), end, number, hexadecimal ? 16 : 10);
  if (code != std::errc() || stop != end || number == 0 || !is_scalar_value(number)) {
    return std::nullopt;
  }
  std::string text;
  append_character(text, number);
  return text;
}

std::string excerpt(std::string_view text) {
  constexpr std::size_t longest = 40;
  std::string shown;
  while (!text.empty()) {
    if (shown.size() >= longest) return shown + "...";
    const std::string_view before = text;
    const auto character = take_character(text);
    if (!character) text.remove_prefix(1);
    const bool control =
        character && (*character < 0x20 || (*character >= 0x7F && *character < 0xA0));
    if (!character || control) {
      shown += '?';
    } else {
      shown += before.substr(0, before.size() - text.size());
    }
  }
  return shown;
}

std::string line_place(std::size_t line) {
  return fmt::format("line {}", line);
}

std::size_t line_at(std::string_view content, std::size_t position) {
  const auto begin = content.begin();
  const auto end = begin + static_cast<std::ptrdiff_t>(std::min(position, content.size()));
  return 1 + static_cast<std::size_t>(std::count(begin, end, '\n'));
}

bool Lines::next() {
  if (rest_.empty()) return false;
  const std::size_t end = rest_.find('\n');
  text_ = rest_.substr(0, end);
  rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
  if (text_.ends_with('\r')) text_.remove_suffix(1);
  ++number_;
  return true;
}

std::string_view take_token(std::string_view& text, std::string_view separators) {
  const std::size_t begin = text.find_first_not_of(separators);
  if (begin == std::string_view::npos) {
    text = {};
    return {};
  }
  const std::size_t end = text.find_first_of(separators, begin);
  const std::string_view token = text.substr(begin, end - begin);
  text = end == std::string_view::npos ? std::string_view() : text.substr(end);
  return token;
}

}  // namespace einkorn
