#include "einkorn/core/progress.h"

#include <atomic>

#include "einkorn/core/error.h"

namespace einkorn {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set from a signal handler");

}  // namespace

void Progress::operator()(const std::string& stage, std::int64_t done, std::int64_t total) const {
  if (interrupt_requested()) throw Interrupted();
  if (sink_) sink_(stage, done, total);
}

void request_interrupt() noexcept {
  interrupted.store(true);
}

bool interrupt_requested() noexcept {
  return interrupted.load();
}

}  // namespace einkorn
