// What the tests of readers and writers share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "einkorn/core/error.h"
#include "einkorn/core/files/graph_file.h"
#include "einkorn/core/random.h"

namespace einkorn {

inline std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

inline std::vector<std::byte> bytes_of_hex(std::string_view digits) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes.push_back(std::byte(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

// The message of the Error that the action throws; a failure of the test if it throws none.
template <typename Error = BadFile, typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected an error";
  return "";
}

// Feeds the parser each beginning of a good file and files with random damage. It may throw BadFile
// and nothing else.
template <typename Parse>
void expect_robust(std::string_view good, Parse parse) {
  const auto try_parse = [&](const std::string& content) {
    try {
      parse(content);
    } catch (const BadFile&) {
    }
  };
  for (std::size_t size = 0; size <= good.size(); ++size) {
    try_parse(std::string(good.substr(0, size)));
  }
  Random random(7);
  const auto pick = [&](std::size_t bound) {
    return static_cast<std::size_t>(random.integer(static_cast<std::int64_t>(bound)));
  };
  for (int round = 0; round < 3000 && !good.empty(); ++round) {
    std::string content(good);
    for (std::size_t changes = 1 + pick(4); changes > 0 && !content.empty(); --changes) {
      const std::size_t position = pick(content.size());
      switch (pick(4)) {
        case 0:
          content[position] = static_cast<char>(pick(256));
          break;
        case 1:
          content.erase(position, 1 + pick(8));
          break;
        case 2:
          content.insert(position, 1, static_cast<char>(pick(256)));
          break;
        default:
          content.insert(position, good.substr(pick(good.size()), 1 + pick(16)));
          break;
      }
    }
    try_parse(content);
  }
}

// A folder of its own for a test, gone afterwards.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "einkorn-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  std::size_t count() const {
    std::size_t files = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path_)) ++files;
    return files;
  }

 private:
  std::filesystem::path path_;
};

inline bool operator==(const Edge& a, const Edge& b) {
  return a.source == b.source && a.target == b.target && a.weight == b.weight;
}

inline void expect_same(const GraphFile& a, const GraphFile& b) {
  EXPECT_EQ(a.directed, b.directed);
  EXPECT_EQ(a.nodes, b.nodes);
  EXPECT_TRUE(a.edges == b.edges);
  EXPECT_EQ(a.attributes, b.attributes);
}

// A file that must be refused, and words that the message must contain.
struct BadCase {
  const char* name;
  std::string content;
  std::string words;
};

inline std::string name_of(const testing::TestParamInfo<BadCase>& info) {
  return info.param.name;
}

}  // namespace einkorn
