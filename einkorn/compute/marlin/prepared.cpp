// Weights in the layouts of the kernels.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "einkorn/compute/marlin/marlin.h"
#include "einkorn/compute/marlin/matmul_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::marlin {
namespace {

std::int64_t octets_of(std::int64_t inputs) {
  return (inputs + 7) / 8;
}
std::int64_t slabs_of(std::int64_t outputs) {
  return (outputs + slab_columns - 1) / slab_columns;
}

// Where code (k, n) lies in a CPU layout: word and shift.
struct SlabPlace {
  std::int64_t word;
  int shift;
};
SlabPlace slab_place(std::int64_t k, std::int64_t n, int bits, std::int64_t octets) {
  const std::int64_t words_per_octet = bits / 4;
  const std::int64_t codes_per_word = 32 / bits;
  const std::int64_t p = k % 8;
  const std::int64_t row =
      (n / slab_columns * octets + k / 8) * words_per_octet + p / codes_per_word;
  return {row * slab_columns + n % slab_columns, static_cast<int>(p % codes_per_word) * bits};
}

at::Tensor slab_words(const at::Tensor& codes, int bits) {
  const std::int64_t inputs = codes.size(0);
  const std::int64_t outputs = codes.size(1);
  const std::int64_t octets = octets_of(inputs);
  at::Tensor words = at::zeros({slabs_of(outputs), octets, bits / 4, slab_columns}, at::kInt);
  auto* data = reinterpret_cast<std::uint32_t*>(words.mutable_data_ptr<std::int32_t>());
  const std::uint8_t* from = codes.const_data_ptr<std::uint8_t>();
  // Codes behind the last row or column meet activations of 0 or are not stored.
  at::parallel_for(0, octets, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin * 8; k < std::min(end * 8, inputs); ++k) {
      for (std::int64_t n = 0; n < outputs; ++n) {
        const SlabPlace place = slab_place(k, n, bits, octets);
        data[place.word] |= static_cast<std::uint32_t>(from[k * outputs + n]) << place.shift;
      }
    }
  });
  return words;
}

at::Tensor codes_from_slabs(const at::Tensor& words, int bits, std::int64_t inputs,
                            std::int64_t outputs) {
  at::Tensor codes = at::empty({inputs, outputs}, at::kByte);
  const auto* data = reinterpret_cast<const std::uint32_t*>(words.const_data_ptr<std::int32_t>());
  std::uint8_t* to = codes.mutable_data_ptr<std::uint8_t>();
  const std::uint32_t mask = (1U << bits) - 1;
  at::parallel_for(0, inputs, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      for (std::int64_t n = 0; n < outputs; ++n) {
        const SlabPlace place = slab_place(k, n, bits, octets_of(inputs));
        to[k * outputs + n] = static_cast<std::uint8_t>(data[place.word] >> place.shift & mask);
      }
    }
  });
  return codes;
}

// [groups, N] -> [slabs, groups, 64] and back.
at::Tensor by_slab(const at::Tensor& per_group) {
  const std::int64_t slabs = slabs_of(per_group.size(1));
  return at::constant_pad_nd(per_group, {0, slabs * slab_columns - per_group.size(1)}, 0)
      .reshape({per_group.size(0), slabs, slab_columns})
      .transpose(0, 1)
      .contiguous();
}
at::Tensor from_slabs(const at::Tensor& by_slab, std::int64_t outputs) {
  const std::int64_t groups = by_slab.size(1);
  return by_slab.transpose(0, 1).reshape({groups, -1}).slice(1, 0, outputs).contiguous();
}

}  // namespace

PreparedWeights prepare(const QuantizedWeights& weights, at::Device device) {
  check(weights);
  if (!device.is_cpu()) require_available(Device::cuda);
  PreparedWeights prepared;
  prepared.inputs = weights.inputs;
  prepared.outputs = weights.outputs;
  prepared.bits = weights.bits;
  prepared.group_size = weights.group_size;
  if (weights.order.defined()) prepared.order = weights.order.to(device);
  if (weights.bias.defined()) prepared.bias = weights.bias.to(device);
  const at::Tensor scales = scales_of(weights);
  if (device.is_cpu()) {
    prepared.words = slab_words(codes_of(weights), weights.bits);
    prepared.scales = by_slab(scales.cpu());
    if (weights.zero_points.defined()) prepared.zero_points = by_slab(weights.zero_points.cpu());
    return prepared;
  }
  if (weights.is_sparse()) {
    const auto middle = static_cast<std::uint8_t>(1 << (weights.bits - 1));
    prepared.words = pack_codes(codes_of(weights), weights.bits, middle).to(device);
  } else {
    prepared.words = weights.words.to(device).contiguous();
  }
  prepared.scales = permute_scales(scales.to(device), ScaleOrder::grouped);
  if (weights.zero_points.defined()) {
    prepared.zero_points = permute_scales(weights.zero_points.to(device).to(scales.scalar_type()),
                                          ScaleOrder::grouped);
  }
  return prepared;
}

QuantizedWeights restore(const PreparedWeights& prepared) {
  require(prepared.device().is_cpu(), "weights: expected them on the cpu");
  std::optional<at::Tensor> zero_points;
  if (prepared.zero_points.defined()) {
    zero_points = from_slabs(prepared.zero_points, prepared.outputs);
  }
  std::optional<at::Tensor> order;
  if (prepared.order.defined()) order = prepared.order;
  QuantizedWeights weights =
      from_codes(codes_from_slabs(prepared.words, prepared.bits, prepared.inputs, prepared.outputs),
                 from_slabs(prepared.scales, prepared.outputs), prepared.bits, prepared.group_size,
                 zero_points, order);
  weights.bias = prepared.bias;
  return weights;
}

}  // namespace einkorn::marlin
