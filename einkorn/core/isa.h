// Coarse CPU dispatch: one choice a call, best level first. EINKORN_ISA forces a level.
#pragma once

#include <string>
#include <vector>

namespace einkorn {

// Levels from plain to best. A kernel without a version at a level uses the next one down.
enum class Isa { scalar, avx2, avx512 };

std::string to_string(Isa isa);

// What this processor (and its operating system) can run, plain first.
const std::vector<Isa>& supported_isas();

// The level in force: EINKORN_ISA if set (InvalidArgument if unknown or unsupported), else the
// best.
Isa active_isa();

// Forces a level while it lives; for tests and benchmarks. Not for concurrent use.
class ScopedIsa {
 public:
  explicit ScopedIsa(Isa isa);
  ~ScopedIsa();
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  int previous_;
};

// Why a level above the active one is not used: "not on this processor", "EINKORN_ISA=avx2".
std::string why_not(Isa isa);

// One kernel in its versions; null where a level has none.
//   static const KernelTable<Fn*> table = {&log_iv_scalar, &N_AVX2::log_iv, &N_AVX3::log_iv};
//   table.pick()(...);
template <typename Function>
struct KernelTable {
  Function scalar;
  Function avx2 = nullptr;
  Function avx512 = nullptr;

  Isa level() const {
    const Isa active = active_isa();
    if (active == Isa::avx512 && avx512) return Isa::avx512;
    if (active >= Isa::avx2 && avx2) return Isa::avx2;
    return Isa::scalar;
  }
  Function pick() const {
    switch (level()) {
      case Isa::avx512:
        return avx512;
      case Isa::avx2:
        return avx2;
      case Isa::scalar:
        break;
    }
    return scalar;
  }
};

}  // namespace einkorn
