#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <cmath>

#include "einkorn/compute/tilus/layout.h"
#include "einkorn/compute/tilus/machine_jobs.h"
#include "einkorn/compute/tilus/matmul_kernels.h"
#include "einkorn/compute/tilus/quantized_linear.h"
#include "einkorn/compute/tilus/quantized_weights.h"
#include "einkorn/compute/tilus/tilus_experiments.h"
#include "einkorn/core/error.h"
#include "einkorn/core/isa.h"
#include "einkorn/core/system.h"
#include "einkorn/core/tensor.h"

namespace einkorn::tilus {
namespace {

// ---- types ----

std::string kind_name(const NumberType& type) {
  switch (type.kind()) {
    case NumberKind::unsigned_integer:
      return "unsigned integer";
    case NumberKind::signed_integer:
      return "signed integer";
    case NumberKind::floating:
      break;
  }
  return "float";
}

std::string binary(std::uint32_t code, int bits) {
  return fmt::format("{:0{}b}", code, bits);
}

Report describe_type(const NumberType& type) {
  require(type.bits() <= 8, "--type: {} has too many numbers for a table", type.name());
  Report report;
  report.set("type", type.name());
  report.set("kind", kind_name(type));
  report.set("bits", std::int64_t{type.bits()});
  report.set("max", type.max_value());
  report.set("min", type.min_value());
  report.set("smallest_positive", type.smallest_positive());
  Table table{"Numbers of " + type.name(), {"code", "bits", "number"}, {}};
  std::vector<double> values;
  for (std::uint32_t code = 0; code < type.code_count(); ++code) {
    values.push_back(type.decode(code));
    table.rows.push_back({std::int64_t{code}, binary(code, type.bits()), values.back()});
  }
  report.set("values", values);
  report.tables.push_back(std::move(table));
  return report;
}

Report run_types(const Options& options, const Progress&) {
  if (options.has("type")) return describe_type(NumberType(options.text("type")));
  Report report;
  Table table{"Small number types",
              {"type", "kind", "bits", "exponent", "mantissa", "min", "max", "smallest > 0"},
              {}};
  for (const NumberType& type : small_types()) {
    table.rows.push_back({type.name(), kind_name(type), std::int64_t{type.bits()},
                          std::int64_t{type.exponent_bits()}, std::int64_t{type.mantissa_bits()},
                          type.min_value(), type.max_value(), type.smallest_positive()});
  }
  report.set("count", static_cast<std::int64_t>(table.rows.size()));
  report.tables.push_back(std::move(table));
  return report;
}

Job types_job() {
  return {"types",
          "the number types of 1 to 8 bits, or all numbers of one of them",
          {text("type").help("list every code of this type, e.g. u4, i7, f6e3m2")},
          run_types,
          {"tilus types", "tilus types --type f6e3m2"}};
}

// ---- layout ----

Table diagram_table(const Layout& layout) {
  constexpr std::int64_t most_cells = 4096;
  require(layout.rank() <= 2 && layout.size() <= most_cells,
          "--layout: a table shows at most 2 dimensions and {} elements", most_cells);
  const std::int64_t rows = layout.rank() == 2 ? layout.shape()[0] : 1;
  const std::int64_t columns = layout.rank() >= 1 ? layout.shape().back() : 1;
  Table table{"thread: local of each element", {""}, {}};
  for (std::int64_t column = 0; column < columns; ++column) {
    table.columns.push_back(std::to_string(column));
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    std::vector<Cell> cells{std::to_string(row)};
    for (std::int64_t column = 0; column < columns; ++column) {
      Index index;
      if (layout.rank() == 2) index.push_back(row);
      if (layout.rank() >= 1) index.push_back(column);
      cells.emplace_back(
          fmt::format("{}: {}", fmt::join(layout.threads_of(index), ","), layout.local_of(index)));
    }
    table.rows.push_back(std::move(cells));
  }
  return table;
}

Report run_layout(const Options& options, const Progress&) {
  Layout layout = Layout::parse(options.text("layout"));
  if (options.has("times")) layout = layout * Layout::parse(options.text("times"));
  if (options.has("over")) layout = layout / Layout::parse(options.text("over"));
  if (options.has("without")) layout = left_divide(layout, Layout::parse(options.text("without")));
  if (options.has("reduce")) layout = layout.reduce(options.integers("reduce"));
  if (options.has("reshape")) layout = layout.reshape(options.integers("reshape"));
  const Layout canonical = layout.canonical();
  Report report;
  report.set("layout", layout.to_string());
  report.set("shape", layout.shape());
  report.set("threads", layout.threads());
  report.set("local_size", layout.local_size());
  report.set("replication", layout.replication());
  report.set("mode_shape", canonical.mode_shape());
  report.set("spatial_modes", canonical.spatial_modes());
  report.set("local_modes", canonical.local_modes());
  report.tables.push_back(diagram_table(layout));
  return report;
}

Job layout_job() {
  return {
      "layout",
      "computes with register layouts and shows which thread holds which element",
      {text("layout").positional().required().help(
           "factors joined by dots: spatial(8,4).local(1,2), column_spatial(4,8), replicate(4)"),
       text("times").help("multiply by this layout on the right"),
       text("over").help("then divide by this one from the right"),
       text("without").help("then divide by this one from the left"),
       integers("reduce").help("then reduce over these dimensions"),
       integers("reshape").help("then take this shape")},
      run_layout,
      {"tilus layout 'local(2,1).column_spatial(4,8).local(2,1)'",
       "tilus layout 'spatial(2,12)' --over 'spatial(1,3)'"}};
}

// ---- quantize and matmul ----

at::Tensor read_matrix(const std::filesystem::path& path) {
  const at::Tensor matrix = read_tensor(path);
  require(at::isFloatingType(matrix.scalar_type()), "{}: expected floating-point numbers",
          path.string());
  return matrix;
}

at::ScalarType scale_type_named(const std::string& name) {
  return name == "f16" ? at::kHalf : name == "bf16" ? at::kBFloat16 : at::kFloat;
}

Report run_quantize(const Options& options, const Progress&) {
  const at::Tensor weight = read_matrix(options.input("in"));
  const QuantizedWeights weights =
      quantize(weight, {NumberType(options.text("type")), options.integer("group"),
                        scale_type_named(options.text("scale"))});
  write_weights(options.output("out"), weights);
  const auto bytes =
      static_cast<std::int64_t>(weights.packed.nbytes() + weights.scales.nbytes() +
                                (weights.has_offsets() ? weights.offsets.nbytes() : 0));
  Report report;
  report.set("relative_error", relative_error(weights, weight));
  report.set("type", weights.type.name());
  report.set("in_features", weights.rows);
  report.set("out_features", weights.columns);
  report.set("bytes", bytes, "bytes");
  report.set("bits_per_weight",
             8.0 * static_cast<double>(bytes) / static_cast<double>(weight.numel()), "bits");
  return report;
}

Job quantize_job() {
  return {
      "quantize",
      "weights in any type of 1 to 8 bits, with a scale for each group",
      {input_file("in").required().help(
           "matrix [out features, in features] as .npy, f32, f64 or f16"),
       text("type").required().help("u1..u8 (with offsets), i2..i8, f3..f8 such as f6e3m2"),
       integer("group").at_least(0).otherwise(128).help(
           "consecutive inputs that share a scale; 0: all"),
       choice("scale", {"f16", "bf16", "f32"}).otherwise("f16").help("type of the scales"),
       output_file("out").required().help("write packed, scales, offsets to this .safetensors")},
      run_quantize,
      {"tilus quantize --in W.npy --type f6e3m2 --group 128 --out Q.safetensors"}};
}

Report run_matmul(const Options& options, const Progress&) {
  const QuantizedWeights weights = read_weights(options.input("weights"));
  const at::Tensor given = read_matrix(options.input("x"));
  const at::Tensor x = given.scalar_type() == at::kDouble ? given.to(at::kFloat) : given;
  const at::Tensor out = QuantizedLinear(weights).forward(x);
  if (options.has("out")) write_tensor(options.output("out"), out);
  Report report;
  report.set("type", weights.type.name());
  report.set("shape", out.sizes().vec());
  report.set("norm", out.to(at::kDouble).norm().item<double>());
  if (options.has("against")) {
    const at::Tensor exact =
        at::matmul(x.to(at::kDouble), read_matrix(options.input("against")).to(at::kDouble).t());
    report.set("relative_error",
               ((out.to(at::kDouble) - exact).norm() / exact.norm()).item<double>());
  }
  return report;
}

Job matmul_job() {
  return {"matmul",
          "multiplies by quantised weights",
          {input_file("x").required().help("inputs as .npy, [..., in features]"),
           input_file("weights").required().help("weights that `quantize` wrote"),
           output_file("out").help("write the outputs to this .npy"),
           input_file("against").help(
               "the matrix before quantisation as .npy: report the error of the outputs")},
          run_matmul,
          {"tilus matmul --x X.npy --weights Q.safetensors --out Y.npy"}};
}

std::vector<KernelChoice> kernels() {
  const Isa level = slab_matmul_kernels.level();
  return {{"tilus.linear", to_string(level), level == Isa::avx512 ? "" : why_not(Isa::avx512)}};
}

}  // namespace

System system() {
  System system;
  system.name = "tilus";
  system.wing = Wing::compute;
  system.paper = {
      "Tilus: A Virtual Machine for Arbitrary Low-Precision GPGPU Computation in LLM Serving",
      "Ding, Hou, Zhang, Lin, Chen, Yu, Wang, Pekhimenko", 2025, "2504.12984"};
  system.summary =
      "weights of 1 to 8 bits: number types, register layouts, a tile machine, products";
  system.devices = {Device::cpu, Device::cuda};
  system.jobs = {types_job(), layout_job(), quantize_job(), matmul_job()};
  std::vector<Job> machine = machine_jobs();
  for (Job& job : machine) system.jobs.push_back(std::move(job));
  system.reproduction = {
      "every number type of 1 to 8 bits multiplies as exactly as its dequantised matrix, and odd "
      "widths cost no more than 1.35 times what their bytes say",
      "normal weights in groups of 128, all 21 types", reproduce};
  system.benchmarks = benchmarks();
  system.kernels = kernels;
  return system;
}

}  // namespace einkorn::tilus
