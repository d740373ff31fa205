// The cache on a device: addresses and counters go up without waiting, kernels are launched on the
// current stream.
#include <ATen/ATen.h>

#include "einkorn/compute/kivi/cache_state_internal.h"
#include "einkorn/core/error.h"
#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einkorn/compute/kivi/kivi_cuda.h"
#endif

namespace einkorn::kivi {

#if EINKORN_WITH_CUDA
namespace {

void* current_stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

bool is_capturing() {
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
}

// A copy from pinned memory, which the allocator keeps until the copy is done.
void upload(const at::Tensor& host, at::Tensor& device_copy, at::Device device) {
  if (!device_copy.defined() || device_copy.sizes() != host.sizes()) {
    device_copy = at::empty(host.sizes(), host.options().device(device));
  }
  device_copy.copy_(host.pin_memory(), true);
}

}  // namespace

void KiviCache::State::upload_table(Layer& of) {
  table_changed = false;
  if (options.device.is_cuda()) upload(of.table, of.device_table, device);
}

void KiviCache::State::upload_states(Layer& of) {
  if (!options.device.is_cuda()) return;
  const at::Tensor host = at::empty({static_cast<std::int64_t>(of.states.size()), 4}, at::kInt);
  std::memcpy(host.mutable_data_ptr(), of.states.data(), of.states.size() * sizeof(SequenceState));
  upload(host, of.device_states, device);
}

void KiviCache::State::extend_on_cuda(Layer& to, ExtendProblem& problem,
                                      const std::vector<std::int32_t>& counts, bool ragged,
                                      std::vector<SequenceState>& next) {
  const c10::cuda::CUDAGuard guard(device);
  at::Tensor device_counts;
  if (ragged) {
    upload(at::tensor(at::ArrayRef<std::int32_t>(counts), at::kInt), device_counts, device);
    problem.counts = device_counts.const_data_ptr<std::int32_t>();
  }
  launch_extend(problem, current_stream());
  // What a graph captures has not happened yet.
  if (!is_capturing()) to.states = std::move(next);
}

void KiviCache::State::attend_on_cuda(const AttendProblem& problem, std::int64_t longest) {
  require(has_attend_kernel(geometry),
          "head_dim: no kernel for {} on cuda; 32, 64, 96, 128, 192, 256", geometry.head_dim);
  const c10::cuda::CUDAGuard guard(device);
  const AttendPlan plan = plan_attend(problem, longest);
  const auto floats = at::dtype(at::kFloat).device(device);
  const at::Tensor partial = at::empty({plan.partial_floats}, floats);
  void* const stream = current_stream();
  at::Tensor& zeros = counters[stream];
  if (!zeros.defined() || zeros.numel() < plan.counters) {
    zeros = at::zeros({plan.counters}, floats.dtype(at::kInt));
  }
  launch_attend(problem, plan, partial.mutable_data_ptr<float>(),
                static_cast<std::uint32_t*>(zeros.mutable_data_ptr()), stream);
}

#else

// Caches on CUDA cannot be made in this build.
void KiviCache::State::upload_table(Layer& /*of*/) {
  table_changed = false;
}
void KiviCache::State::upload_states(Layer& /*of*/) {}
void KiviCache::State::extend_on_cuda(Layer& /*to*/, ExtendProblem& /*problem*/,
                                      const std::vector<std::int32_t>& /*counts*/, bool /*ragged*/,
                                      std::vector<SequenceState>& /*next*/) {
  require_available(Device::cuda);
}
void KiviCache::State::attend_on_cuda(const AttendProblem& /*problem*/, std::int64_t /*longest*/) {
  require_available(Device::cuda);
}

#endif

}  // namespace einkorn::kivi
