#include "einkorn/core/system.h"

#include "einkorn/compute/kivi/kivi_experiments.h"
#include "einkorn/compute/kivi/kivi_jobs_internal.h"
#include "einkorn/compute/kivi/kivi_kernels.h"

namespace einkorn::kivi {
namespace {

std::vector<KernelChoice> kernels() {
  const auto choice_of = [](const char* name, Isa level) {
    return KernelChoice{name, to_string(level), level == Isa::avx512 ? "" : why_not(Isa::avx512)};
  };
  return {choice_of("kivi attend", attend_kernels.level()),
          choice_of("kivi append", extend_kernels.level())};
}

}  // namespace

System system() {
  System system;
  system.name = "kivi";
  system.wing = Wing::compute;
  system.paper = {"KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache",
                  "Liu, Yuan, Jin, Zhong, Xu, Braverman, Chen, Hu", 2024, "2402.02750"};
  system.summary = "key-value cache at 1 to 8 bits, read by attention as it is stored";
  system.devices = {Device::cpu, Device::cuda};
  system.jobs = {attend_job(), memory_job(), axis_job()};
  system.reproduction = {
      "At 2 bits attention errs least with keys quantised per channel and values per token (0.68 "
      "of the output's norm; the other three ways 1.23 to 2.33)",
      "one head of 1024 tokens whose keys have five large channels; --full: 8 x 8 heads of 16384",
      reproduce};
  system.benchmarks = benchmarks();
  system.kernels = kernels;
  return system;
}

}  // namespace einkorn::kivi
