#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include "app/command.h"
#include "app/json.h"
#include "app/terminal.h"
#include "app/verbs.h"
#include "einkorn/core/isa.h"
#include "einkorn/core/machine.h"

namespace einkorn::app {
namespace {

struct KernelRow {
  std::string system;
  KernelChoice choice;
};

std::vector<KernelRow> kernel_rows() {
  std::vector<KernelRow> rows;
  for (const System& system : systems()) {
    if (!system.kernels) continue;
    for (KernelChoice& choice : system.kernels()) rows.push_back({system.name, std::move(choice)});
  }
  return rows;
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Isa isa : supported_isas()) names.push_back(to_string(isa));
  return names;
}

std::string why_no_cuda() {
  try {
    require_available(Device::cuda);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

int print_info_json() {
  Json machine = {{"cpu", to_json(ceilings(Device::cpu))}};
  if (is_available(Device::cuda)) machine["cuda"] = to_json(ceilings(Device::cuda));
  Json kernels = Json::array();
  for (const KernelRow& row : kernel_rows()) {
    kernels.push_back({{"system", row.system},
                       {"kernel", row.choice.kernel},
                       {"implementation", row.choice.implementation},
                       {"reason", row.choice.reason}});
  }
  print_json({{"version", EINKORN_VERSION},
              {"torch", EINKORN_TORCH_VERSION},
              {"cuda_linked", EINKORN_WITH_CUDA != 0},
              {"threads", torch::get_num_threads()},
              {"isa", to_string(active_isa())},
              {"isas", isa_names()},
              {"machine", std::move(machine)},
              {"kernels", std::move(kernels)}});
  return done;
}

void print_ceilings(const std::string& device, const Ceilings& found) {
  fmt::print("{:7} {}\n        {:.1f} GB/s copy, {:.1f} GFLOP/s f64, {:.1f} GFLOP/s f32", device,
             found.processor, found.bandwidth * 1e-9, found.flops_f64 * 1e-9,
             found.flops_f32 * 1e-9);
  if (found.flops_bf16 > 0) fmt::print(", {:.1f} TFLOP/s bf16", found.flops_bf16 * 1e-12);
  fmt::print("\n");
}

}  // namespace

int show_info(bool json) {
  if (json) return print_info_json();
  fmt::print("einkorn {}, torch {}, {} threads\n", EINKORN_VERSION, EINKORN_TORCH_VERSION,
             torch::get_num_threads());
  fmt::print("instruction set {} (here: {}; EINKORN_ISA forces one)\n", to_string(active_isa()),
             fmt::join(isa_names(), ", "));
  print_ceilings("cpu", ceilings(Device::cpu));
  const std::string reason = why_no_cuda();
  if (reason.empty()) {
    print_ceilings("cuda", ceilings(Device::cuda));
  } else {
    fmt::print("cuda    {}\n", reason);
  }
  std::vector<std::vector<std::string>> rows;
  for (const KernelRow& row : kernel_rows()) {
    rows.push_back({row.system, row.choice.kernel, row.choice.implementation, row.choice.reason});
  }
  if (rows.empty()) return done;
  fmt::print("\n");
  print_table({"system", "kernel", "runs as", "why nothing better"}, rows);
  return done;
}

}  // namespace einkorn::app
