// A barrier that threads pass once a step. It spins for a few microseconds, which is what a step's
// threads differ by, and then sleeps: where there are more threads than cores it does not burn
// them.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace einkorn::flashrnn {

class StepBarrier {
 public:
  explicit StepBarrier(std::int64_t parties) : parties_(parties) {}

  // A thread that stands for several parties arrives with their number.
  void arrive_and_wait(std::int64_t weight) {
    if (weight == parties_) return;
    const std::uint32_t generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(weight, std::memory_order_acq_rel) + weight == parties_) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_acq_rel);
      generation_.notify_all();
      return;
    }
    for (int spin = 0; spin < spins; ++spin) {
      if (generation_.load(std::memory_order_acquire) != generation) return;
      pause();
    }
    while (generation_.load(std::memory_order_acquire) == generation) {
      generation_.wait(generation, std::memory_order_acquire);
    }
  }

 private:
  static constexpr int spins = 400;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  std::int64_t parties_;
  alignas(64) std::atomic<std::int64_t> arrived_ = 0;
  alignas(64) std::atomic<std::uint32_t> generation_ = 0;
};

}  // namespace einkorn::flashrnn
