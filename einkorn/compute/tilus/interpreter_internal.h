// The state of a block in the interpreter, and what register instructions do to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "einkorn/compute/tilus/interpreter.h"
#include "einkorn/compute/tilus/program.h"

namespace einkorn::tilus {

// A register tensor's layout, written out.
struct TensorTable {
  Index shape;
  std::int64_t local_size = 1;
  std::vector<std::int64_t> elements;    // row-major element of each (thread, local)
  std::vector<std::size_t> first_place;  // of each element: the lowest thread * local_size + local

  std::int64_t size() const { return static_cast<std::int64_t>(first_place.size()); }
  std::int64_t thread_of(std::size_t place) const {
    return static_cast<std::int64_t>(place) / local_size;
  }
  Index index(std::int64_t element) const;
};

Index unravel(std::int64_t element, const Index& shape);

class MachineTables {
 public:
  explicit MachineTables(const CheckedProgram& checked);

  const TensorInfo& info(const std::string& name) const { return *infos_.at(name); }
  const TensorTable& table(const std::string& name) const { return tables_.at(name); }
  std::int64_t shared_bytes() const { return shared_bytes_; }

 private:
  std::map<std::string, const TensorInfo*> infos_;
  std::map<std::string, TensorTable> tables_;
  std::int64_t shared_bytes_;
};

struct GlobalView {
  Buffer buffer;
  Index extents;
};

// Elements of 1, 2 or 4 bytes, little-endian.
std::uint32_t read_code(Buffer buffer, std::int64_t place, std::int64_t bytes);
void write_code(Buffer buffer, std::int64_t place, std::int64_t bytes, std::uint32_t code);

// Registers and shared memory of one block. A phase is the time between two syncs; each shared byte
// knows who wrote it last and who has read it in this phase. Functions that return text return what
// is wrong, or nothing.
class BlockMemory {
 public:
  BlockMemory(const MachineTables& tables, bool check_races);

  std::vector<std::uint32_t>& codes(const std::string& name);  // of each (thread, local)
  std::map<std::string, GlobalView> global;

  std::string read_shared(std::int64_t at, std::int64_t bytes, std::int64_t thread,
                          std::uint32_t& code);
  std::string write_shared(std::int64_t at, std::int64_t bytes, std::int64_t thread,
                           std::uint32_t code);
  std::string begin_copy(std::int64_t at, std::int64_t bytes, std::uint32_t code);
  void commit();
  void wait(std::size_t pending);  // until at most so many committed groups are pending
  void sync() { ++phase_; }
  void forget(const TensorInfo& shared);  // its bytes are not written yet

 private:
  struct Byte {
    std::int32_t writer = -1;
    std::int32_t write_phase = -1;
    std::int32_t reader = -1;
    std::int32_t read_phase = -1;
    std::uint16_t copies = 0;  // that are on their way
    bool is_written = false;
  };
  struct Copy {
    std::int64_t at;
    std::int64_t bytes;
    std::uint32_t code;
  };

  std::string claim(std::int64_t at, std::int64_t bytes, std::int32_t thread);

  const MachineTables& tables_;
  bool check_races_;
  std::int32_t phase_ = 0;
  std::map<std::string, std::vector<std::uint32_t>> codes_;
  std::vector<std::byte> shared_;
  std::vector<Byte> bytes_;
  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> committed_;
};

// Carries out an instruction on registers. Returns what is wrong, or nothing.
std::string compute(const MachineTables& tables, BlockMemory& memory, const Statement& s);

}  // namespace einkorn::tilus
