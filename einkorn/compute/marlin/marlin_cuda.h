// Device kernels of quantised products: raw pointers in and out. Launches are queued on the stream,
// none waits or allocates; std::runtime_error when one is refused.
#pragma once

#include <cstddef>
#include <cstdint>

namespace einkorn::marlin {

enum class HalfType { f16, bf16 };

// Words in the order of the file format; scales [groups, columns] in grouped order (format.h).
struct CudaMatrix {
  const std::uint32_t* words = nullptr;
  const void* scales = nullptr;
  const void* zeros = nullptr;  // as scales, zero points as floating numbers; null: 2^(bits-1)
  HalfType scale_type = HalfType::f16;
  int bits = 4;
  std::int64_t inputs = 0;      // K
  std::int64_t outputs = 0;     // N
  std::int64_t columns = 0;     // N rounded up to 64
  std::int64_t group_size = 0;  // 32, 64, 128; 0: all rows
};

// out [rows, N] = a [rows, K] W + bias. a and its rows are aligned to 16 bytes, K is a multiple
// of 8.
struct CudaProduct {
  CudaMatrix weights;
  HalfType type = HalfType::f16;  // of a and out
  const void* a = nullptr;
  std::int64_t a_stride = 0;  // elements from row to row
  std::int64_t rows = 0;
  void* out = nullptr;  // rows of N elements, dense
  const float* bias = nullptr;
  // Scratch of workspace_bytes(), its first counter_bytes() zero; left so.
  void* workspace = nullptr;
};

constexpr std::size_t counter_bytes = std::size_t{1} << 18;

// For any product on the current device.
std::size_t workspace_bytes(int processors);

// Up to 32 rows: weights stream from memory through mma.sync, each as soon as it arrives.
constexpr std::int64_t small_batch_rows = 32;
void launch_small_batch(const CudaProduct& product, int processors, void* stream);

// More rows: weights become operands of wgmma in registers.
std::size_t arranged_bytes(std::int64_t rows, std::int64_t inputs);
void launch_large_batch(const CudaProduct& product, void* arranged, int processors, void* stream);

// W [K, N] of the type, (q - zero) * scale rounded once.
void launch_dequantize(const CudaMatrix& weights, HalfType type, void* out, void* stream);

}  // namespace einkorn::marlin
