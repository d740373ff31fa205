#include "einkorn/core/device.h"

#include <torch/cuda.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <chrono>

#include "einkorn/core/error.h"
#include "einkorn/core/system.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

std::string why_unavailable(Device device) {
  if (device == Device::cpu) return "";
#if EINKORN_WITH_CUDA
  if (!torch::cuda::is_available()) return "no usable CUDA device on this machine";
  return "";
#else
  return "this build has no CUDA (it needs nvcc and a torch with CUDA)";
#endif
}

// A call that allocates its result anew would else be timed, or not, with the page faults of memory
// that the C library had given back to the system after the call before.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

}  // namespace

std::string to_string(Device device) {
  return device == Device::cpu ? "cpu" : "cuda";
}

Device parse_device(const std::string& name) {
  if (name == "cpu") return Device::cpu;
  if (name == "cuda") return Device::cuda;
  throw InvalidArgument(
      fmt::format("device: expected cpu or cuda, got '{}'{}", name, hint(name, {"cpu", "cuda"})));
}

void require_available(Device device) {
  const std::string reason = why_unavailable(device);
  require(reason.empty(), "device {}: {}", to_string(device), reason);
}

bool is_available(Device device) {
  return why_unavailable(device).empty();
}

void synchronize(Device device) {
  if (device == Device::cuda && is_available(device)) torch::cuda::synchronize();
}

TimedCall timed(std::function<void()> call, Device device) {
  keep_freed_memory();
  const auto seconds_of = [device](const std::function<void()>& run, int times) {
    synchronize(device);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) run();
    synchronize(device);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    return elapsed.count() / times;
  };
  if (device == Device::cpu) {
    return [call = std::move(call), seconds_of] { return seconds_of(call, 1); };
  }
  // Waiting for the device costs as much as a short kernel, so short calls are queued together.
  constexpr double batch_seconds = 5e-3;
  return [call = std::move(call), seconds_of, times = 0]() mutable {
    if (times == 0) {
      call();
      times = static_cast<int>(std::clamp(batch_seconds / seconds_of(call, 1), 1.0, 1000.0));
    }
    return seconds_of(call, times);
  };
}

}  // namespace einkorn
