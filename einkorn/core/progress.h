// How long work says where it stands and learns that it should stop.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace einkorn {

// Called now and then by long work, from the thread that called the job. Throws Interrupted when
// the user asked to stop. An empty Progress is silent.
class Progress {
 public:
  using Sink = std::function<void(const std::string& stage, std::int64_t done, std::int64_t total)>;

  Progress() = default;
  explicit Progress(Sink sink) : sink_(std::move(sink)) {}

  // total = 0: unknown.
  void operator()(const std::string& stage, std::int64_t done, std::int64_t total) const;

 private:
  Sink sink_;
};

// Asks all work of this process to stop at its next report of progress. Async-signal-safe.
void request_interrupt() noexcept;
bool interrupt_requested() noexcept;

}  // namespace einkorn
