// Tensors of the current device and stream for the device kernels.
#include <ATen/ATen.h>

#include "einkorn/compute/marlin/marlin.h"
#include "einkorn/compute/marlin/matmul_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"

#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <utility>

#include "einkorn/compute/marlin/marlin_cuda.h"
#endif

namespace einkorn::marlin {

#if EINKORN_WITH_CUDA
namespace {

// From this many rows on one expansion of the weights costs less than what the dense product of the
// vendor's library gains over ours (README.md).
constexpr std::int64_t dense_rows = 2048;

HalfType half_type(at::ScalarType type) {
  return type == at::kHalf ? HalfType::f16 : HalfType::bf16;
}

int processors_of(c10::DeviceIndex device) {
  int count = 0;
  const cudaError_t status = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  TORCH_CHECK(status == cudaSuccess, "cudaDeviceGetAttribute: ", cudaGetErrorString(status));
  return count;
}

// One scratch a stream, so that products on two streams do not meet; its counters stay zero between
// products. Kept for the life of the process.
at::Tensor workspace_for(const c10::cuda::CUDAStream& stream, int processors) {
  static std::mutex mutex;
  static auto* const workspaces =
      new std::map<std::pair<c10::DeviceIndex, c10::StreamId>, at::Tensor>();
  const std::lock_guard<std::mutex> lock(mutex);
  at::Tensor& workspace = (*workspaces)[{stream.device_index(), stream.id()}];
  if (!workspace.defined()) {
    workspace = at::zeros({static_cast<std::int64_t>(workspace_bytes(processors))},
                          at::device(stream.device()).dtype(at::kByte));
  }
  return workspace;
}

CudaMatrix matrix_of(const PreparedWeights& w) {
  CudaMatrix matrix;
  matrix.words = reinterpret_cast<const std::uint32_t*>(w.words.const_data_ptr<std::int32_t>());
  matrix.scales = w.scales.const_data_ptr();
  if (w.zero_points.defined()) matrix.zeros = w.zero_points.const_data_ptr();
  matrix.scale_type = half_type(w.scales.scalar_type());
  matrix.bits = w.bits;
  matrix.inputs = w.inputs;
  matrix.outputs = w.outputs;
  matrix.columns = w.scales.size(1);
  matrix.group_size = w.group_size == -1 ? 0 : w.group_size;
  return matrix;
}

// Rows as the kernels read them: in the order of the weights, 16-byte aligned, K a multiple of 8.
at::Tensor arranged_rows(const at::Tensor& activations, const PreparedWeights& w) {
  at::Tensor a = activations;
  if (w.order.defined()) a = a.index_select(1, w.order);
  const std::int64_t missing = (8 - w.inputs % 8) % 8;
  if (missing > 0) a = at::constant_pad_nd(a, {0, missing}, 0);
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(a.const_data_ptr()) % 16 == 0;
  if (a.stride(1) == 1 && a.stride(0) % 8 == 0 && a.stride(0) >= a.size(1) && is_aligned) return a;
  return a.clone(at::MemoryFormat::Contiguous);
}

at::Tensor multiply_dense(const at::Tensor& a, const PreparedWeights& w) {
  at::Tensor out = a.matmul(dequantize_cuda(w, a.scalar_type()));
  return w.bias.defined() ? out.add_(w.bias) : out;
}

const char* implementation(std::int64_t rows) {
  if (rows <= small_batch_rows) return "cuda mma.sync";
  return rows < dense_rows ? "cuda wgmma" : "cuda dense";
}

}  // namespace

at::Tensor multiply_cuda(const at::Tensor& activations, const PreparedWeights& w) {
  const c10::cuda::CUDAGuard guard(activations.device());
  const std::int64_t rows = activations.size(0);
  const Trace trace(
      "marlin.matmul", implementation(rows),
      [&] {
        return fmt::format("M={} K={} N={} bits={} group={}", rows, w.inputs, w.outputs, w.bits,
                           w.group_size);
      },
      {2.0 * static_cast<double>(rows) * static_cast<double>(w.inputs) *
           static_cast<double>(w.outputs),
       static_cast<double>(w.words.nbytes() + w.scales.nbytes())},
      Device::cuda);
  if (rows >= dense_rows) return multiply_dense(activations, w);
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const int processors = processors_of(activations.device().index());
  const at::Tensor a = arranged_rows(activations, w);
  const at::Tensor workspace = workspace_for(stream, processors);
  at::Tensor out = at::empty({rows, w.outputs}, activations.options());
  CudaProduct product;
  product.workspace = workspace.mutable_data_ptr();
  product.weights = matrix_of(w);
  product.type = half_type(activations.scalar_type());
  product.a = a.const_data_ptr();
  product.a_stride = a.stride(0);
  product.rows = rows;
  product.out = out.mutable_data_ptr();
  if (w.bias.defined()) product.bias = w.bias.const_data_ptr<float>();
  if (rows <= small_batch_rows) {
    launch_small_batch(product, processors, stream.stream());
  } else {
    const at::Tensor arranged =
        at::empty({static_cast<std::int64_t>(arranged_bytes(rows, w.inputs))},
                  activations.options().dtype(at::kByte));
    launch_large_batch(product, arranged.mutable_data_ptr(), processors, stream.stream());
  }
  return out;
}

at::Tensor dequantize_cuda(const PreparedWeights& w, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(w.device());
  const bool is_half = dtype == at::kHalf || dtype == at::kBFloat16;
  require(is_half, "dtype: expected float16 or bfloat16 on CUDA, got {}", c10::toString(dtype));
  at::Tensor rows = at::empty({w.inputs, w.outputs}, w.words.options().dtype(dtype));
  if (rows.numel() > 0) {
    launch_dequantize(matrix_of(w), half_type(dtype), rows.mutable_data_ptr(),
                      c10::cuda::getCurrentCUDAStream().stream());
  }
  if (!w.order.defined()) return rows;
  at::Tensor result = at::empty_like(rows);
  result.index_copy_(0, w.order, rows);
  return result;
}

#else

at::Tensor multiply_cuda(const at::Tensor&, const PreparedWeights&) {
  throw InvalidArgument("this build of einkorn has no CUDA kernels");
}

at::Tensor dequantize_cuda(const PreparedWeights&, at::ScalarType) {
  throw InvalidArgument("this build of einkorn has no CUDA kernels");
}

#endif

}  // namespace einkorn::marlin
