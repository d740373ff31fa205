#include "einkorn/compute/tilus/quantized_weights.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <array>
#include <cmath>
#include <cstring>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/tilus/quantized_weights_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/safetensors.h"
#include "einkorn/core/text.h"
#include "einkorn/core/trace.h"

namespace einkorn::tilus {
namespace {

constexpr double smallest_scale = 1e-6;
constexpr const char* format_name = "einkorn.tilus";

struct ScaleName {
  at::ScalarType type;
  const char* name;
};

constexpr ScaleName scale_names[] = {
    {at::kHalf, "F16"}, {at::kBFloat16, "BF16"}, {at::kFloat, "F32"}};

bool is_scale_type(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 || type == at::kFloat;
}

// What the dtype keeps of a value.
double rounded(double value, at::ScalarType type) {
  if (type == at::kHalf) return static_cast<float>(c10::Half(static_cast<float>(value)));
  if (type == at::kBFloat16) return static_cast<float>(c10::BFloat16(static_cast<float>(value)));
  return static_cast<float>(value);
}

struct ScaleAndOffset {
  double scale;
  double offset;
};

ScaleAndOffset fit_group(const float* values, std::int64_t size, const NumberType& type,
                         at::ScalarType scale_type) {
  double least = values[0];
  double most = values[0];
  double sum = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    least = std::min<double>(least, values[i]);
    most = std::max<double>(most, values[i]);
    sum += values[i];
  }
  if (type.kind() != NumberKind::unsigned_integer) {
    const double magnitude = std::max(std::abs(least), std::abs(most));
    return {rounded(std::max(magnitude / type.max_value(), smallest_scale), scale_type), 0};
  }
  double offset = least;
  double scale = (most - least) / type.max_value();
  if (type.bits() == 1) {
    const double mean = sum / static_cast<double>(size);
    double deviation = 0;
    for (std::int64_t i = 0; i < size; ++i) deviation += std::abs(values[i] - mean);
    deviation /= static_cast<double>(size);
    offset = mean - deviation;
    scale = 2 * deviation;
  }
  return {rounded(std::max(scale, smallest_scale), scale_type), rounded(offset, scale_type)};
}

void require_weight(const at::Tensor& weight) {
  require_dense(weight, "weight");
  require(weight.is_cpu(), "weight: expected a tensor on the CPU");
  require(weight.dim() == 2 && at::isFloatingType(weight.scalar_type()),
          "weight: expected a floating-point matrix [out features, in features]");
}

}  // namespace

std::array<float, 256> decode_table(const NumberType& type) {
  std::array<float, 256> table{};
  for (std::uint32_t code = 0; code < 256; ++code) {
    table[code] = static_cast<float>(type.decode(code));
  }
  return table;
}

void QuantizedWeights::check() const {
  require(type.is_small(), "weights: {} has more than 8 bits", type.name());
  require(rows >= 0 && columns >= 0 && group >= 1 && rows % group == 0,
          "weights: [{}, {}] in groups of {}: expected groups that divide the rows", rows, columns,
          group);
  require(
      packed.defined() && packed.is_cpu() && packed.scalar_type() == at::kByte &&
          packed.dim() == 1 && packed.numel() == compute::packed_bytes(rows * columns, type.bits()),
      "packed: expected u8 [{}] on the CPU", compute::packed_bytes(rows * columns, type.bits()));
  const auto is_per_group = [&](const at::Tensor& tensor) {
    return tensor.defined() && tensor.is_cpu() && is_scale_type(tensor.scalar_type()) &&
           tensor.dim() == 2 && tensor.size(0) == rows / group && tensor.size(1) == columns;
  };
  require(is_per_group(scales), "scales: expected f16, bf16 or f32 [{}, {}] on the CPU",
          rows / group, columns);
  require(!has_offsets() || is_per_group(offsets), "offsets: expected what scales are");
  const std::array<float, 256> table = decode_table(type);
  bool all_finite = true;
  for (const float value : table) all_finite = all_finite && std::isfinite(value);
  if (all_finite) return;
  // Only types of 8 bits have such codes.
  const at::Tensor dense = packed.contiguous();
  const auto* codes = dense.const_data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < dense.numel(); ++i) {
    require(std::isfinite(table[codes[i]]), "packed: code {:#04x} at {} is not a finite {}",
            codes[i], i, type.name());
  }
}

QuantizedWeights quantize(const at::Tensor& weight, const QuantizeOptions& options) {
  require_weight(weight);
  require(options.type.is_small(), "type: {} has more than 8 bits", options.type.name());
  require(is_scale_type(options.scale_type), "scale_type: expected f16, bf16 or f32");
  QuantizedWeights result;
  result.type = options.type;
  result.rows = weight.size(1);
  result.columns = weight.size(0);
  require(options.group >= 0, "group: expected at least 0, got {}", options.group);
  result.group = options.group == 0 ? std::max<std::int64_t>(result.rows, 1) : options.group;
  require(result.rows % result.group == 0,
          "group: {} does not divide the {} inputs; take a divisor, or 0 for one group",
          result.group, result.rows);
  const Trace trace(
      "tilus.quantize", "scalar",
      [&] { return fmt::format("{} [{}, {}]", options.type.name(), result.columns, result.rows); },
      Work{0, static_cast<double>(weight.nbytes())});

  const at::Tensor dense = weight.to(at::kFloat).contiguous();
  require(dense.isfinite().all().item<bool>(), "weight: expected finite numbers");
  const std::int64_t groups = result.rows / result.group;
  const bool is_unsigned = options.type.kind() == NumberKind::unsigned_integer;
  at::Tensor scales = at::empty({groups, result.columns}, at::kFloat);
  at::Tensor offsets = at::zeros({groups, result.columns}, at::kFloat);
  at::Tensor codes = at::empty({result.rows, result.columns}, at::kByte);
  const float* const values = dense.const_data_ptr<float>();
  at::parallel_for(0, result.columns, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t column = begin; column < end; ++column) {
      for (std::int64_t g = 0; g < groups; ++g) {
        const float* const group_values = values + column * result.rows + g * result.group;
        const ScaleAndOffset fit =
            fit_group(group_values, result.group, options.type, options.scale_type);
        scales.data_ptr<float>()[g * result.columns + column] = static_cast<float>(fit.scale);
        offsets.data_ptr<float>()[g * result.columns + column] = static_cast<float>(fit.offset);
        std::uint8_t* const target =
            codes.data_ptr<std::uint8_t>() + g * result.group * result.columns + column;
        for (std::int64_t i = 0; i < result.group; ++i) {
          const double scaled = (group_values[i] - fit.offset) / fit.scale;
          target[i * result.columns] = static_cast<std::uint8_t>(options.type.encode(scaled));
        }
      }
    }
  });
  result.packed = compute::pack_bits(codes.reshape({-1}), options.type.bits());
  result.scales = scales.to(options.scale_type);
  if (is_unsigned) result.offsets = offsets.to(options.scale_type);
  return result;
}

at::Tensor dequantize(const QuantizedWeights& weights) {
  weights.check();
  const at::Tensor codes =
      compute::unpack_bits(weights.packed, weights.type.bits(), weights.rows * weights.columns);
  const std::array<float, 256> table = decode_table(weights.type);
  const at::Tensor scales = weights.scales.to(at::kFloat).contiguous();
  const at::Tensor offsets =
      weights.has_offsets() ? weights.offsets.to(at::kFloat).contiguous() : at::zeros_like(scales);
  at::Tensor result = at::empty({weights.rows, weights.columns}, at::kFloat);
  const auto* const from = codes.const_data_ptr<std::uint8_t>();
  const float* const scale = scales.const_data_ptr<float>();
  const float* const offset = offsets.const_data_ptr<float>();
  float* const to = result.data_ptr<float>();
  at::parallel_for(0, weights.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t in_group = k / weights.group * weights.columns;
      for (std::int64_t n = 0; n < weights.columns; ++n) {
        to[k * weights.columns + n] =
            table[from[k * weights.columns + n]] * scale[in_group + n] + offset[in_group + n];
      }
    }
  });
  return result;
}

double relative_error(const QuantizedWeights& weights, const at::Tensor& weight) {
  require_weight(weight);
  require(weight.size(1) == weights.rows && weight.size(0) == weights.columns,
          "weight: expected [{}, {}], got [{}, {}]", weights.columns, weights.rows, weight.size(0),
          weight.size(1));
  const at::Tensor exact = weight.to(at::kDouble).t();
  const double norm = exact.norm().item<double>();
  const double error = (dequantize(weights).to(at::kDouble) - exact).norm().item<double>();
  return error == 0 ? 0 : error / norm;
}

namespace {

SafetensorsEntry entry_of(const at::Tensor& tensor, const char* dtype) {
  const at::Tensor dense = tensor.contiguous();
  const auto* bytes = static_cast<const std::byte*>(dense.const_data_ptr());
  return {dtype, dense.sizes().vec(), {bytes, bytes + dense.nbytes()}};
}

const char* scale_name(at::ScalarType type) {
  for (const ScaleName& one : scale_names) {
    if (one.type == type) return one.name;
  }
  throw InvalidArgument("scales: expected f16, bf16 or f32");
}

at::Tensor tensor_of(const SafetensorsFile& file, const std::string& name,
                     const std::string& path) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end()) throw BadFile(path, "", "has no tensor '" + name + "'");
  const SafetensorsEntry& entry = found->second;
  at::ScalarType type = at::kByte;
  bool is_known = entry.dtype == "U8";
  for (const ScaleName& one : scale_names) {
    if (entry.dtype != one.name) continue;
    type = one.type;
    is_known = true;
  }
  if (!is_known) {
    throw BadFile(path, "tensor '" + name + "'", "dtype " + entry.dtype + " is not expected here");
  }
  at::Tensor tensor = at::empty(entry.shape, type);
  if (!entry.bytes.empty()) std::memcpy(tensor.data_ptr(), entry.bytes.data(), entry.bytes.size());
  return tensor;
}

}  // namespace

void write_weights(const OutputPath& path, const QuantizedWeights& weights) {
  weights.check();
  SafetensorsFile file;
  file.metadata = {{"format", format_name},
                   {"type", weights.type.name()},
                   {"rows", std::to_string(weights.rows)},
                   {"columns", std::to_string(weights.columns)},
                   {"group", std::to_string(weights.group)}};
  file.tensors["packed"] = entry_of(weights.packed, "U8");
  file.tensors["scales"] = entry_of(weights.scales, scale_name(weights.scales.scalar_type()));
  if (weights.has_offsets()) {
    file.tensors["offsets"] = entry_of(weights.offsets, scale_name(weights.offsets.scalar_type()));
  }
  write_safetensors(path, file);
}

QuantizedWeights read_weights(const std::filesystem::path& path) {
  const SafetensorsFile file = read_safetensors(path);
  const std::string name = path.string();
  const auto metadata = [&](const std::string& key) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) throw BadFile(name, "", "has no metadata '" + key + "'");
    return found->second;
  };
  const auto number = [&](const std::string& key) {
    const std::optional<std::int64_t> value = to_integer(metadata(key));
    // Products of two such numbers and 8 bits fit.
    if (!value || *value < 0 || *value > (std::int64_t{1} << 29)) {
      throw BadFile(name, "metadata '" + key + "'", "expected a number from 0 to 2^29");
    }
    return *value;
  };
  if (metadata("format") != format_name) {
    throw BadFile(name, "", std::string("expected the format ") + format_name);
  }
  QuantizedWeights weights;
  try {
    weights.type = NumberType(metadata("type"));
    weights.rows = number("rows");
    weights.columns = number("columns");
    weights.group = number("group");
    weights.packed = tensor_of(file, "packed", name);
    weights.scales = tensor_of(file, "scales", name);
    if (file.tensors.contains("offsets")) weights.offsets = tensor_of(file, "offsets", name);
    weights.check();
  } catch (const InvalidArgument& error) {
    throw BadFile(name, "", error.what());
  }
  return weights;
}

}  // namespace einkorn::tilus
