#include "einkorn/core/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "einkorn/core/error.h"

namespace einkorn {
namespace {

constexpr int none_forced = -1;
std::atomic<int> forced{none_forced};

std::vector<Isa> detect() {
  std::vector<Isa> levels = {Isa::scalar};
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
  if (avx2) levels.push_back(Isa::avx2);
  if (avx512) levels.push_back(Isa::avx512);
#endif
  return levels;
}

bool is_supported(Isa isa) {
  const auto& levels = supported_isas();
  return std::find(levels.begin(), levels.end(), isa) != levels.end();
}

// Read once: changing the environment of a running process changes nothing.
Isa isa_from_environment() {
  const char* wanted = std::getenv("EINKORN_ISA");
  if (wanted == nullptr || *wanted == '\0') return supported_isas().back();
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (to_string(isa) != wanted) continue;
    require(is_supported(isa), "EINKORN_ISA={}: not on this processor", wanted);
    return isa;
  }
  throw InvalidArgument(
      fmt::format("EINKORN_ISA={}: expected one of scalar, avx2, avx512", wanted));
}

}  // namespace

std::string to_string(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::scalar:
      break;
  }
  return "scalar";
}

const std::vector<Isa>& supported_isas() {
  static const std::vector<Isa> levels = detect();
  return levels;
}

Isa active_isa() {
  const int level = forced.load(std::memory_order_relaxed);
  if (level != none_forced) return static_cast<Isa>(level);
  static const Isa from_environment = isa_from_environment();
  return from_environment;
}

ScopedIsa::ScopedIsa(Isa isa) : previous_(forced.load()) {
  require(is_supported(isa), "instruction set {}: not on this processor", to_string(isa));
  forced.store(static_cast<int>(isa));
}

ScopedIsa::~ScopedIsa() {
  forced.store(previous_);
}

std::string why_not(Isa isa) {
  if (isa <= active_isa()) return "";
  if (!is_supported(isa)) return to_string(isa) + " is not on this processor";
  return "held at " + to_string(active_isa()) + " by EINKORN_ISA";
}

}  // namespace einkorn
