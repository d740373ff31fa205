#include <fmt/format.h>

#include <cstring>

#include "einkorn/compute/tilus/interpreter_internal.h"
#include "einkorn/compute/tilus/program_internal.h"

namespace einkorn::tilus {
namespace {

constexpr std::int32_t asynchronous_copy = -2;
constexpr std::int32_t several_threads = -3;

std::string who(std::int32_t thread) {
  if (thread == asynchronous_copy) return "a copy";
  return thread == several_threads ? "several threads" : fmt::format("thread {}", thread);
}

}  // namespace

Index unravel(std::int64_t element, const Index& shape) {
  Index index(shape.size());
  for (std::size_t i = shape.size(); i-- > 0;) {
    index[i] = element % shape[i];
    element /= shape[i];
  }
  return index;
}

Index TensorTable::index(std::int64_t element) const {
  return unravel(element, shape);
}

MachineTables::MachineTables(const CheckedProgram& checked) : shared_bytes_(checked.shared_bytes) {
  for (const NamedTensor& one : checked.tensors) {
    infos_[one.name] = &one.info;
    if (one.info.space != Space::registers) continue;
    const Layout& layout = *one.info.layout;
    TensorTable table;
    table.shape = one.info.shape;
    table.local_size = layout.local_size();
    table.first_place.assign(static_cast<std::size_t>(layout.size()), SIZE_MAX);
    for (std::int64_t thread = 0; thread < layout.threads(); ++thread) {
      for (std::int64_t local = 0; local < table.local_size; ++local) {
        const Index index = layout.at(thread, local);
        std::int64_t element = 0;
        for (std::size_t i = 0; i < index.size(); ++i) {
          element = element * table.shape[i] + index[i];
        }
        std::size_t& first = table.first_place[static_cast<std::size_t>(element)];
        first = std::min(first, table.elements.size());
        table.elements.push_back(element);
      }
    }
    tables_[one.name] = std::move(table);
  }
}

std::uint32_t read_code(Buffer buffer, std::int64_t place, std::int64_t bytes) {
  std::uint32_t code = 0;
  std::memcpy(&code, buffer.data() + place * bytes, static_cast<std::size_t>(bytes));
  return code;
}

void write_code(Buffer buffer, std::int64_t place, std::int64_t bytes, std::uint32_t code) {
  std::memcpy(buffer.data() + place * bytes, &code, static_cast<std::size_t>(bytes));
}

BlockMemory::BlockMemory(const MachineTables& tables, bool check_races)
    : tables_(tables),
      check_races_(check_races),
      shared_(static_cast<std::size_t>(tables.shared_bytes())),
      bytes_(static_cast<std::size_t>(tables.shared_bytes())) {}

std::vector<std::uint32_t>& BlockMemory::codes(const std::string& name) {
  std::vector<std::uint32_t>& codes = codes_[name];
  if (codes.empty()) codes.resize(tables_.table(name).elements.size());
  return codes;
}

std::string BlockMemory::read_shared(std::int64_t at, std::int64_t bytes, std::int64_t thread,
                                     std::uint32_t& code) {
  const auto reader = static_cast<std::int32_t>(thread);
  for (std::int64_t i = at; i < at + bytes; ++i) {
    Byte& byte = bytes_[static_cast<std::size_t>(i)];
    if (byte.copies > 0)
      return fmt::format("shared byte {} is read before its copy is waited for", i);
    if (!byte.is_written) return fmt::format("shared byte {} is read, but was never written", i);
    if (!check_races_) continue;
    if (byte.write_phase == phase_ && byte.writer != reader) {
      return fmt::format(
          "race: shared byte {} is read by thread {} and was written by {} without a "
          "sync between",
          i, thread, who(byte.writer));
    }
    const bool read_by_others = byte.read_phase == phase_ && byte.reader != reader;
    byte.reader = read_by_others ? several_threads : reader;
    byte.read_phase = phase_;
  }
  code = 0;
  std::memcpy(&code, shared_.data() + at, static_cast<std::size_t>(bytes));
  return "";
}

// Whether the thread may write: nobody else has written or read the bytes since the last sync.
std::string BlockMemory::claim(std::int64_t at, std::int64_t bytes, std::int32_t thread) {
  for (std::int64_t i = at; i < at + bytes; ++i) {
    Byte& byte = bytes_[static_cast<std::size_t>(i)];
    if (byte.copies > 0) return fmt::format("shared byte {} is written while a copy to it runs", i);
    if (!check_races_) continue;
    const char* const words =
        "race: shared byte {} is written by {} and was {} by {} without a sync between";
    if (byte.read_phase == phase_ && byte.reader != thread) {
      return fmt::format(fmt::runtime(words), i, who(thread), "read", who(byte.reader));
    }
    if (byte.is_written && byte.write_phase == phase_ && byte.writer != thread) {
      return fmt::format(fmt::runtime(words), i, who(thread), "written", who(byte.writer));
    }
  }
  return "";
}

std::string BlockMemory::write_shared(std::int64_t at, std::int64_t bytes, std::int64_t thread,
                                      std::uint32_t code) {
  const auto writer = static_cast<std::int32_t>(thread);
  std::string problem = claim(at, bytes, writer);
  if (!problem.empty()) return problem;
  for (std::int64_t i = at; i < at + bytes; ++i) {
    Byte& byte = bytes_[static_cast<std::size_t>(i)];
    byte.writer = writer;
    byte.write_phase = phase_;
    byte.is_written = true;
  }
  std::memcpy(shared_.data() + at, &code, static_cast<std::size_t>(bytes));
  return "";
}

std::string BlockMemory::begin_copy(std::int64_t at, std::int64_t bytes, std::uint32_t code) {
  std::string problem = claim(at, bytes, asynchronous_copy);
  if (!problem.empty()) return problem;
  for (std::int64_t i = at; i < at + bytes; ++i) ++bytes_[static_cast<std::size_t>(i)].copies;
  open_.push_back({at, bytes, code});
  return "";
}

void BlockMemory::commit() {
  committed_.push_back(std::move(open_));
  open_.clear();
}

void BlockMemory::wait(std::size_t pending) {
  while (committed_.size() > pending) {
    for (const Copy& copy : committed_.front()) {
      for (std::int64_t i = copy.at; i < copy.at + copy.bytes; ++i) {
        Byte& byte = bytes_[static_cast<std::size_t>(i)];
        --byte.copies;
        byte.writer = asynchronous_copy;
        byte.write_phase = phase_;
        byte.is_written = true;
      }
      std::memcpy(shared_.data() + copy.at, &copy.code, static_cast<std::size_t>(copy.bytes));
    }
    committed_.pop_front();
  }
}

void BlockMemory::forget(const TensorInfo& shared) {
  const std::int64_t end = shared.shared_offset + shared_tensor_bytes(shared);
  for (std::int64_t i = shared.shared_offset; i < end; ++i) {
    bytes_[static_cast<std::size_t>(i)].is_written = false;
  }
}

}  // namespace einkorn::tilus
