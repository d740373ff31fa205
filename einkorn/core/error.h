// The two errors that a user can cause. Everything else that escapes the library is a bug.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace einkorn {

// A bad argument: a value outside its range, a shape or dtype that does not fit.
// The message says what was wrong, where, and what would have been right. ValueError in Python.
class InvalidArgument : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// A file that cannot be read or written, or whose content breaks its format. OSError in Python.
class BadFile : public std::runtime_error {
 public:
  // place: "line 3", "byte 128", "tensor 'weight'", or empty where the file as a whole is meant.
  BadFile(const std::string& path, const std::string& place, const std::string& problem);

  const std::string& path() const { return path_; }
  const std::string& place() const { return place_; }

 private:
  std::string path_;
  std::string place_;
};

// Long work was asked to stop (Ctrl-C). Nothing half-written is left behind.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted") {}
};

// Throws InvalidArgument with the formatted message unless the condition holds.
template <typename... Args>
void require(bool condition, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) throw InvalidArgument(fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace einkorn
