#include "einkorn/core/system.h"

#include "einkorn/compute/marlin/marlin_jobs_internal.h"
#include "einkorn/compute/marlin/marlin_kernels.h"

namespace einkorn::marlin {
namespace {

std::vector<KernelChoice> kernels() {
  const Isa level = slab_kernels.level();
  const std::string reason = level == Isa::avx512 ? "" : why_not(Isa::avx512);
  std::vector<KernelChoice> choices = {{"marlin matmul", to_string(level), reason}};
  for (const int bits : {4, 8}) {
    const std::string name = int8_kernel(bits).name;
    choices.push_back({fmt::format("marlin matmul, 8-bit activations, {}-bit weights", bits), name,
                       name == "avx512-vnni" ? "" : "AVX-512 VNNI not in force or not there"});
  }
  return choices;
}

}  // namespace

System system() {
  System system;
  system.name = "marlin";
  system.wing = Wing::compute;
  system.paper = {
      "MARLIN: Mixed-Precision Auto-Regressive Parallel Inference on Large Language Models",
      "Frantar, Castro, Chen, Hoefler, Alistarh", 2024, "2408.11743"};
  system.summary = "few activations times 4- or 8-bit weights, as fast as the weights can be read";
  system.devices = {Device::cpu, Device::cuda};
  system.jobs = jobs();
  system.reproduction = {
      "products with 4-bit weights (groups of 128) take a third or less of the time of 16-bit ones "
      "for small batches, and agree with the dequantised product",
      "normal weights, normal and autoregressive inputs", reproduce};
  system.benchmarks = benchmarks();
  system.kernels = kernels;
  return system;
}

}  // namespace einkorn::marlin
