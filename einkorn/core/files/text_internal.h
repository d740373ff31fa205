// What the readers of text formats share: characters, lines, and words for error messages.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace einkorn {

// The content without its byte order mark. Throws BadFile with the line unless it is UTF-8 without
// NUL bytes: names go on into JSON, HTML and terminals, where nothing else is safe.
std::string_view require_text(std::string_view content, const std::string& path);

bool is_utf8(std::string_view text);

// Takes one character off the front; empty (and nothing taken) where the bytes are not UTF-8.
std::optional<char32_t> take_character(std::string_view& text);

// Appends in UTF-8; the character must be one that UTF-8 has.
void append_character(std::string& text, char32_t character);

// The text for what stands between '&' and ';' in GML and XML: amp, lt, gt, quot, apos, #233, #xE9.
std::optional<std::string> resolve_reference(std::string_view reference);

// What readers of lines say of lines that end in CR alone.
inline constexpr std::string_view bare_carriage_return =
    "a carriage return without a line feed, expected lines that end in LF or CRLF";

// A piece of a file as an error message can show it: short, and without control characters.
std::string excerpt(std::string_view text);

// "line 7" for the seventh.
std::string line_place(std::size_t line);

// The line that holds content[position], counted from 1.
std::size_t line_at(std::string_view content, std::size_t position);

// The lines of a text without their ends (LF or CRLF).
class Lines {
 public:
  explicit Lines(std::string_view content) : rest_(content) {}

  // Goes to the next line, the first at first; false behind the last.
  bool next();

  std::string_view text() const { return text_; }
  std::size_t number() const { return number_; }  // from 1

 private:
  std::string_view rest_;
  std::string_view text_;
  std::size_t number_ = 0;
};

// Takes the next token off the front, with the separators before it; empty where there is none.
std::string_view take_token(std::string_view& text, std::string_view separators = " \t");

}  // namespace einkorn
