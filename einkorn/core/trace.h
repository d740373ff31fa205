// EINKORN_VERBOSE=1: one line on stderr for each public call that runs a kernel.
#pragma once

#include <chrono>
#include <string>

#include "einkorn/core/device.h"
#include "einkorn/core/system.h"

namespace einkorn {

bool verbose();

// Made at the start of a call; prints implementation, shapes, time and rate at its end.
// Costs one branch when EINKORN_VERBOSE is not set.
//   Trace trace("log_bessel.log_iv", to_string(level), [&] { return fmt::format("n={}", n); },
//   work);
class Trace {
 public:
  template <typename Shapes>
  Trace(const char* operation, const char* implementation, Shapes shapes, Work work,
        Device device = Device::cpu) {
    if (verbose()) start(operation, implementation, shapes(), work, device);
  }
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

 private:
  void start(std::string operation, std::string implementation, std::string shapes, Work work,
             Device device);

  bool active_ = false;
  std::string operation_;
  std::string implementation_;
  std::string shapes_;
  Work work_;
  Device device_ = Device::cpu;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace einkorn
