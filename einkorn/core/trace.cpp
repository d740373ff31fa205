#include "einkorn/core/trace.h"

#include <cstdio>
#include <cstdlib>

#include "einkorn/core/error.h"

namespace einkorn {

bool verbose() {
  static const bool wanted = [] {
    const char* value = std::getenv("EINKORN_VERBOSE");
    return value != nullptr && *value != '\0' && std::string(value) != "0";
  }();
  return wanted;
}

void Trace::start(std::string operation, std::string implementation, std::string shapes, Work work,
                  Device device) {
  active_ = true;
  operation_ = std::move(operation);
  implementation_ = std::move(implementation);
  shapes_ = std::move(shapes);
  work_ = work;
  device_ = device;
  synchronize(device_);
  begin_ = std::chrono::steady_clock::now();
}

Trace::~Trace() {
  if (!active_) return;
  try {
    synchronize(device_);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin_;
    fmt::print(stderr, "einkorn: {} {} {} {} {:.3f} ms {:.2f} GB/s {:.2f} GFLOP/s\n", operation_,
               to_string(device_), implementation_, shapes_, elapsed.count() * 1e3,
               work_.bytes / elapsed.count() * 1e-9, work_.flops / elapsed.count() * 1e-9);
  } catch (const std::exception&) {
    // A diagnostic line is not worth an error in a destructor; the call's own error is on its way.
  }
}

}  // namespace einkorn
