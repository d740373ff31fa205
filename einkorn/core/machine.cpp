#include "einkorn/core/machine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>

#include "einkorn/core/isa.h"
#include "einkorn/core/peak_kernels.h"
#include "einkorn/core/tensor.h"
#if EINKORN_WITH_CUDA
#include <ATen/cuda/CUDAContext.h>

#include "einkorn/core/ceilings_cuda.h"
#endif

namespace einkorn {
namespace {

// The best of several runs: a ceiling is what the machine can do when nothing disturbs it.
double least_seconds(const TimedCall& call, int runs) {
  double least = call();
  for (int i = 1; i < runs; ++i) least = std::min(least, call());
  return least;
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const auto colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown processor";
}

double copy_bandwidth(Device device, std::int64_t bytes) {
  const auto options = at::dtype(at::kFloat).device(to_torch(device));
  const at::Tensor source = at::ones({bytes / 4}, options);
  at::Tensor target = at::zeros({bytes / 4}, options);
  const TimedCall copy = timed([&] { target.copy_(source); }, device);
  return 2.0 * static_cast<double>(bytes) / least_seconds(copy, 7);
}

// All threads of torch's pool run the loop at once; FLOPs of all over the time of the slowest.
double cpu_peak(double (*loop)(std::int64_t)) {
  constexpr std::int64_t iterations = 2'000'000;
  const int threads = at::get_num_threads();
  std::vector<double> flops(static_cast<std::size_t>(threads));
  const TimedCall run = timed([&] {
    at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        flops[static_cast<std::size_t>(i)] = loop(iterations);
      }
    });
  });
  const double seconds = least_seconds(run, 5);
  double total = 0;
  for (const double one : flops) total += one;
  return total / seconds;
}

Ceilings measure_cpu() {
  Ceilings found;
  found.processor = fmt::format("{}, {} threads", processor_name(), at::get_num_threads());
  found.bandwidth = copy_bandwidth(Device::cpu, std::int64_t{256} << 20);
  found.flops_f64 = cpu_peak(&run_fma_f64);
  found.flops_f32 = cpu_peak(&run_fma_f32);
  return found;
}

#if EINKORN_WITH_CUDA
double matrix_peak() {
  constexpr std::int64_t size = 8192;
  const auto options = at::dtype(at::kBFloat16).device(at::kCUDA);
  const at::Tensor a = at::randn({size, size}, options);
  const at::Tensor b = at::randn({size, size}, options);
  at::Tensor product = at::empty({size, size}, options);
  const TimedCall run = timed([&] { at::mm_out(product, a, b); }, Device::cuda);
  return 2.0 * size * size * size / least_seconds(run, 8);
}

double cuda_peak(double (*launch)(void* stream)) {
  void* stream = at::cuda::getCurrentCUDAStream().stream();
  double flops = 0;
  const TimedCall run = timed([&] { flops = launch(stream); }, Device::cuda);
  const double seconds = least_seconds(run, 6);
  return flops / seconds;
}

Ceilings measure_cuda() {
  Ceilings found;
  found.processor = at::cuda::getCurrentDeviceProperties()->name;
  found.bandwidth = copy_bandwidth(Device::cuda, std::int64_t{2} << 30);
  found.flops_f64 = cuda_peak(&launch_fma_f64);
  found.flops_f32 = cuda_peak(&launch_fma_f32);
  found.flops_bf16 = matrix_peak();
  return found;
}
#endif

}  // namespace

double Ceilings::peak(Arithmetic arithmetic) const {
  switch (arithmetic) {
    case Arithmetic::f64:
      return flops_f64;
    case Arithmetic::bf16:
      return flops_bf16 > 0 ? flops_bf16 : flops_f32;
    case Arithmetic::f32:
      break;
  }
  return flops_f32;
}

double Ceilings::floor_seconds(const Work& work, Arithmetic arithmetic) const {
  return std::max(work.bytes / bandwidth, work.flops / peak(arithmetic));
}

std::string Ceilings::bound(const Work& work, Arithmetic arithmetic) const {
  return work.bytes / bandwidth >= work.flops / peak(arithmetic) ? "memory" : "arithmetic";
}

const Ceilings& ceilings(Device device) {
  require_available(device);
  if (device == Device::cpu) {
    static const Ceilings cpu = measure_cpu();
    return cpu;
  }
#if EINKORN_WITH_CUDA
  static const Ceilings cuda = measure_cuda();
  return cuda;
#else
  throw std::logic_error("unreachable: require_available refuses cuda in this build");
#endif
}

}  // namespace einkorn
