// quantizer.h on the device: eight numbers a thread, a group to 4, 8 or 16 neighbours.
#include "einkorn/compute/kivi/device_numbers.cuh"
#include "einkorn/compute/kivi/kivi_cuda.h"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::kivi {
namespace {

constexpr int threads = 256;

// Eight codes are `bits` bytes, wherever the row is.
__device__ void store_codes(std::uint8_t* to, std::uint64_t word, int bits) {
  switch (bits) {
    case 1:
      *to = static_cast<std::uint8_t>(word);
      return;
    case 2:
      *reinterpret_cast<std::uint16_t*>(to) = static_cast<std::uint16_t>(word);
      return;
    case 4:
      *reinterpret_cast<std::uint32_t*>(to) = static_cast<std::uint32_t>(word);
      return;
    case 8:
      *reinterpret_cast<std::uint64_t*>(to) = word;
      return;
    default:
      for (int i = 0; i < bits; ++i) to[i] = static_cast<std::uint8_t>(word >> (8 * i));
  }
}

template <typename T>
__global__ void __launch_bounds__(threads)
    quantize_kernel(std::int64_t eights, int bits, int group, const T* x, std::uint8_t* codes,
                    T* scale, T* minimum) {
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  // A warp is whole or ends on a group: neighbours of one group are all here or none is.
  const unsigned active = __ballot_sync(~0U, index < eights);
  if (index >= eights) return;
  float numbers[8];
  load_numbers(x + 8 * index, numbers);
  DeviceRange range;
#pragma unroll
  for (int e = 0; e < 8; ++e) range.add(numbers[e]);
  for (int step = 1; step < group / 8; step *= 2) {
    range.least = fminf(range.least, __shfl_xor_sync(active, range.least, step));
    range.most = fmaxf(range.most, __shfl_xor_sync(active, range.most, step));
    range.finite = __shfl_xor_sync(active, static_cast<int>(range.finite), step) && range.finite;
  }
  const DeviceScale found = device_group_scale<T>(range.least, range.most, range.finite, bits);
  const DeviceCoder code(found, bits);
  std::uint64_t word = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) word |= std::uint64_t{code(numbers[e])} << (e * bits);
  store_codes(codes + index * bits, word, bits);
  if (8 * index % group != 0) return;
  from_float(found.scale, scale + 8 * index / group);
  from_float(found.minimum, minimum + 8 * index / group);
}

template <typename T>
__global__ void __launch_bounds__(threads)
    dequantize_kernel(std::int64_t eights, int bits, int group, const std::uint8_t* codes,
                      const T* scale, const T* minimum, T* out) {
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= eights) return;
  std::uint64_t word = 0;
  for (int i = 0; i < bits; ++i) {
    word |= std::uint64_t{codes[index * bits + i]} << (8 * i);
  }
  const double step = to_float(scale[8 * index / group]);
  const double least = to_float(minimum[8 * index / group]);
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const auto code = static_cast<double>(word >> (e * bits) & ((1U << bits) - 1));
    // In double, where the product is exact.
    from_float(static_cast<float>(code * step + least), out + 8 * index + e);
  }
}

template <typename Launch>
void with_element(Element element, const Launch& launch) {
  switch (element) {
    case Element::f16:
      return launch(__half());
    case Element::bf16:
      return launch(__nv_bfloat16());
    case Element::f32:
      return launch(float());
  }
}

unsigned blocks_for(std::int64_t eights) {
  return static_cast<unsigned>((eights + threads - 1) / threads);
}

}  // namespace

void launch_quantize_pack(Element element, std::int64_t rows, std::int64_t size, int bits,
                          int group, const void* x, std::uint32_t* codes, void* scale,
                          void* minimum, void* stream) {
  const std::int64_t eights = rows * size / 8;
  with_element(element, [&](auto number) {
    using T = decltype(number);
    quantize_kernel<T><<<blocks_for(eights), threads, 0, static_cast<cudaStream_t>(stream)>>>(
        eights, bits, group, static_cast<const T*>(x), reinterpret_cast<std::uint8_t*>(codes),
        static_cast<T*>(scale), static_cast<T*>(minimum));
    check_launch("kivi quantize_pack");
  });
}

void launch_unpack_dequantize(Element element, std::int64_t rows, std::int64_t size, int bits,
                              int group, const std::uint32_t* codes, const void* scale,
                              const void* minimum, void* out, void* stream) {
  const std::int64_t eights = rows * size / 8;
  with_element(element, [&](auto number) {
    using T = decltype(number);
    dequantize_kernel<T><<<blocks_for(eights), threads, 0, static_cast<cudaStream_t>(stream)>>>(
        eights, bits, group, reinterpret_cast<const std::uint8_t*>(codes),
        static_cast<const T*>(scale), static_cast<const T*>(minimum), static_cast<T*>(out));
    check_launch("kivi unpack_dequantize");
  });
}

}  // namespace einkorn::kivi
