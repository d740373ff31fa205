// Weights at rest: checks, dequantisation, files.
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "einkorn/compute/marlin/quantize.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"
#include "einkorn/nn/weights.h"

namespace einkorn::marlin {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void require_group(std::int64_t group_size) {
  require(group_size == -1 || group_size == 32 || group_size == 64 || group_size == 128,
          "group: expected 32, 64, 128 or -1 (all rows), got {}", group_size);
}

void require_shape(const at::Tensor& tensor, const char* name, at::IntArrayRef shape,
                   at::ScalarType dtype, at::Device device) {
  require_dense(tensor, name);
  require(tensor.scalar_type() == dtype && tensor.sizes() == shape && tensor.device() == device,
          "{}: expected {} [{}] on {}, got {} [{}] on {}", name, c10::toString(dtype),
          fmt::join(shape, ", "), device.str(), c10::toString(tensor.scalar_type()),
          fmt::join(tensor.sizes(), ", "), tensor.device().str());
}

void check_order(const at::Tensor& order, std::int64_t inputs) {
  const at::Tensor sorted = std::get<0>(order.sort());
  require(sorted.equal(at::arange(inputs, sorted.options())),
          "order: expected a permutation of 0 .. {}", inputs - 1);
}

// One value a row of W from one a group.
at::Tensor over_rows(const at::Tensor& per_group, std::int64_t rows, std::int64_t group_size) {
  if (group_size == -1) return per_group.expand({rows, per_group.size(1)});
  return per_group.repeat_interleave(group_size, 0).slice(0, 0, rows);
}

constexpr const char* metadata_key = "einkorn.marlin";

std::string describe(const QuantizedWeights& w) {
  return fmt::format("version=1 bits={} group_size={} inputs={} outputs={}", w.bits, w.group_size,
                     w.inputs, w.outputs);
}

std::int64_t field(const std::string& description, const std::string& name,
                   const std::string& path) {
  for (const std::string& word : split(description, ' ')) {
    if (!word.starts_with(name + "=")) continue;
    const auto value = to_integer(word.substr(name.size() + 1));
    if (value) return *value;
  }
  throw BadFile(path, fmt::format("metadata '{}'", metadata_key),
                fmt::format("has no field {}, expected '{}'", name, describe({})));
}

}  // namespace

std::int64_t QuantizedWeights::groups() const {
  if (group_size == -1) return inputs == 0 ? 0 : 1;
  return (inputs + group_size - 1) / group_size;
}

ScaleOrder QuantizedWeights::scale_order() const {
  if (is_sparse()) return group_size == -1 ? ScaleOrder::plain : ScaleOrder::sparse;
  return group_size == -1 ? ScaleOrder::column : ScaleOrder::grouped;
}

std::int64_t QuantizedWeights::bytes() const {
  std::int64_t total = 0;
  for (const at::Tensor& tensor : {words, scales, zero_points, metadata, order, bias}) {
    if (tensor.defined()) total += static_cast<std::int64_t>(tensor.nbytes());
  }
  return total;
}

void check(const QuantizedWeights& w) {
  require(w.bits == 4 || w.bits == 8, "bits: expected 4 or 8, got {}", w.bits);
  require_group(w.group_size);
  // Sizes come from files: products of them must not overflow.
  constexpr std::int64_t limit = std::int64_t{1} << 31;
  require(w.inputs >= 0 && w.inputs < limit && w.outputs >= 0 && w.outputs < limit,
          "inputs, outputs: expected sizes in [0, 2^31), got {} and {}", w.inputs, w.outputs);
  require_dense(w.words, "words");
  const at::Device device = w.words.device();
  const std::int64_t columns = round_up(w.outputs, slab_columns);
  const std::int64_t rows_of_tile = w.is_sparse() ? 2 * tile_size : tile_size;
  require_shape(w.words, "words",
                {(w.inputs + rows_of_tile - 1) / rows_of_tile, columns * w.bits / 2}, at::kInt,
                device);
  require_dense(w.scales, "scales");
  const at::ScalarType scale_type = w.scales.scalar_type();
  require(scale_type == at::kHalf || scale_type == at::kBFloat16,
          "scales: expected float16 or bfloat16, got {}", c10::toString(scale_type));
  require_shape(w.scales, "scales", {w.groups(), columns}, scale_type, device);
  if (w.zero_points.defined()) {
    require_shape(w.zero_points, "zero_points", {w.groups(), w.outputs}, at::kByte, device);
    require(!w.is_sparse(), "zero_points: not for 2:4 sparse weights, whose pruned weights are 0");
  }
  if (w.metadata.defined()) {
    require_shape(w.metadata, "metadata", {columns, round_up(w.inputs, 2 * tile_size) / tile_size},
                  at::kShort, device);
  }
  if (w.order.defined()) {
    require_shape(w.order, "order", {w.inputs}, at::kLong, device);
    check_order(w.order, w.inputs);
  }
  if (w.bias.defined()) require_shape(w.bias, "bias", {w.outputs}, at::kFloat, device);
}

QuantizedWeights to_device(const QuantizedWeights& weights, at::Device device) {
  QuantizedWeights moved = weights;
  for (at::Tensor* tensor : {&moved.words, &moved.scales, &moved.zero_points, &moved.metadata,
                             &moved.order, &moved.bias}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return moved;
}

at::Tensor codes_of(const QuantizedWeights& w) {
  const at::Tensor words = w.words.cpu();
  if (!w.is_sparse()) return unpack_codes(words, w.bits, w.inputs, w.outputs);
  return unpack_sparse_codes({words, w.metadata.cpu()}, w.bits, w.inputs, w.outputs,
                             static_cast<std::uint8_t>(1 << (w.bits - 1)));
}

at::Tensor scales_of(const QuantizedWeights& w) {
  return unpermute_scales(w.scales, w.scale_order(), w.outputs);
}

at::Tensor dequantize(const QuantizedWeights& w, at::ScalarType dtype) {
  // A code fits 8 bits and a scale 11: their product is exact in f32 (24 bits).
  const at::Device device = w.words.device();
  const at::Tensor codes = codes_of(w).to(device).to(at::kFloat);
  at::Tensor centred;
  if (w.zero_points.defined()) {
    centred = codes - over_rows(w.zero_points.to(at::kFloat), w.inputs, w.group_size);
  } else {
    centred = codes - static_cast<double>(1 << (w.bits - 1));
  }
  const at::Tensor scales = over_rows(scales_of(w).to(at::kFloat), w.inputs, w.group_size);
  const at::Tensor rows = (centred * scales).to(dtype);
  if (!w.order.defined()) return rows;
  at::Tensor result = at::empty_like(rows);
  result.index_copy_(0, w.order, rows);
  return result;
}

QuantizedWeights from_codes(const at::Tensor& codes, const at::Tensor& scales, int bits,
                            std::int64_t group_size, const std::optional<at::Tensor>& zero_points,
                            const std::optional<at::Tensor>& order,
                            const std::optional<at::Tensor>& keep_2_4) {
  require_dense(codes, "codes");
  require(codes.dim() == 2, "codes: expected a matrix [K, N]");
  require_group(group_size);
  QuantizedWeights w;
  w.inputs = codes.size(0);
  w.outputs = codes.size(1);
  w.bits = bits;
  w.group_size = group_size;
  const auto zero_code = static_cast<std::uint8_t>(1 << (bits - 1));
  if (keep_2_4) {
    SparseCodes sparse = pack_sparse_codes(codes.cpu(), keep_2_4->cpu(), bits, zero_code);
    w.words = std::move(sparse.words);
    w.metadata = std::move(sparse.metadata);
  } else {
    w.words = pack_codes(codes.cpu(), bits, zero_code);
  }
  require_dense(scales, "scales");
  require(scales.dim() == 2 && scales.size(0) == w.groups() && scales.size(1) == w.outputs,
          "scales: expected [{}, {}], got [{}]", w.groups(), w.outputs,
          fmt::join(scales.sizes(), ", "));
  w.scales = permute_scales(scales.cpu(), w.scale_order());
  if (zero_points) w.zero_points = zero_points->cpu().contiguous();
  if (order) w.order = order->cpu().to(at::kLong).contiguous();
  check(w);
  return w;
}

double relative_error(const at::Tensor& weights, const QuantizedWeights& quantized) {
  const at::Tensor exact = weights.to(at::kDouble);
  require(
      exact.dim() == 2 && exact.size(0) == quantized.inputs && exact.size(1) == quantized.outputs,
      "weights: expected [{}, {}]", quantized.inputs, quantized.outputs);
  const double norm = exact.norm().item<double>();
  if (norm == 0) return 0;
  return (exact - dequantize(quantized, at::kDouble).to(exact.device())).norm().item<double>() /
         norm;
}

void save(const OutputPath& path, const QuantizedWeights& weights, const std::string& prefix) {
  check(weights);
  nn::NamedTensors tensors = {{prefix + "B", weights.words}, {prefix + "s", weights.scales}};
  const auto add = [&](const char* name, const at::Tensor& tensor) {
    if (tensor.defined()) tensors.emplace(prefix + name, tensor);
  };
  add("zero_points", weights.zero_points);
  add("meta", weights.metadata);
  add("order", weights.order);
  add("bias", weights.bias);
  nn::write_tensors(path, tensors, {{metadata_key, describe(weights)}});
}

QuantizedWeights load(const std::filesystem::path& path, const std::string& prefix) {
  std::map<std::string, std::string> metadata;
  const nn::NamedTensors tensors = nn::read_tensors(path, &metadata);
  const std::string name = path.string();
  const auto description = metadata.find(metadata_key);
  if (description == metadata.end()) {
    throw BadFile(name, "metadata",
                  fmt::format("no entry '{}': not weights that `einkorn marlin quantize` wrote "
                              "(GPTQ, AWQ and official files go through `convert`)",
                              metadata_key));
  }
  const auto find = [&](const char* part, bool is_needed) -> at::Tensor {
    const auto found = tensors.find(prefix + part);
    if (found != tensors.end()) return found->second;
    if (is_needed) {
      throw BadFile(name, fmt::format("tensor '{}{}'", prefix, part), "is missing");
    }
    return {};
  };
  const auto number = [&](const char* key) { return field(description->second, key, name); };
  if (number("version") != 1) {
    throw BadFile(name, fmt::format("metadata '{}'", metadata_key), "expected version=1");
  }
  QuantizedWeights w;
  w.bits = static_cast<int>(number("bits"));
  w.group_size = number("group_size");
  w.inputs = number("inputs");
  w.outputs = number("outputs");
  w.words = find("B", true);
  w.scales = find("s", true);
  w.zero_points = find("zero_points", false);
  w.metadata = find("meta", false);
  w.order = find("order", false);
  w.bias = find("bias", false);
  try {
    check(w);
  } catch (const InvalidArgument& error) {
    throw BadFile(name, "", error.what());
  }
  return w;
}

}  // namespace einkorn::marlin
