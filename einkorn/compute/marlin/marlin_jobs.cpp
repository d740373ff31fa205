// einkorn marlin quantize, matmul, convert, inspect.
#include <ATen/ATen.h>

#include "einkorn/compute/marlin/marlin.h"
#include "einkorn/compute/marlin/marlin_jobs_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/tensor.h"
#include "einkorn/core/text.h"
#include "einkorn/nn/weights.h"

namespace einkorn::marlin {
namespace {

bool is_safetensors(const std::filesystem::path& path) {
  return path.extension() == ".safetensors";
}

// The matrix of an .npy, or of a .safetensors with one tensor (else the named one).
at::Tensor read_matrix(const std::filesystem::path& path, const std::string& name) {
  at::Tensor matrix;
  if (!is_safetensors(path)) {
    matrix = read_tensor(path, name);
  } else {
    const nn::NamedTensors tensors = nn::read_tensors(path);
    if (name.empty() && tensors.size() == 1) {
      matrix = tensors.begin()->second;
    } else {
      const auto found = tensors.find(name);
      if (found == tensors.end()) {
        std::vector<std::string> names;
        for (const auto& [key, value] : tensors) names.push_back(key);
        throw BadFile(path.string(), "",
                      name.empty()
                          ? fmt::format("holds {} tensors; choose one with --tensor", names.size())
                          : fmt::format("has no tensor '{}'{}", name, hint(name, names)));
      }
      matrix = found->second;
    }
  }
  if (matrix.dim() != 2 || !at::isFloatingType(matrix.scalar_type())) {
    throw BadFile(path.string(), "", "expected a floating matrix");
  }
  return matrix;
}

// The matrix [K, N] that a file of either layout means.
at::Tensor read_weights(const Options& options, const std::string& option) {
  const at::Tensor matrix =
      read_matrix(options.input(option), options.has("tensor") ? options.text("tensor") : "");
  return options.text("layout") == "nk" ? matrix.t() : matrix;
}

Option layout_option() {
  return choice("layout", {"kn", "nk"})
      .otherwise("kn")
      .help("kn: W [inputs, outputs]; nk: [outputs, inputs], as linear layers keep it");
}

Option tensor_option() {
  return text("tensor").help("which tensor, where the file has several");
}

void describe(Report& report, const QuantizedWeights& w) {
  const double count = static_cast<double>(w.inputs) * static_cast<double>(w.outputs);
  report.set("inputs", w.inputs);
  report.set("outputs", w.outputs);
  report.set("bits", std::int64_t{w.bits});
  report.set("group_size", w.group_size);
  report.set("groups", w.groups());
  report.set("sparse_2_4", w.is_sparse());
  report.set("zero_points", w.zero_points.defined());
  report.set("act_order", w.order.defined());
  report.set("bias", w.bias.defined());
  report.set("scale_dtype", std::string(c10::toString(w.scales.scalar_type())));
  report.set("bytes", w.bytes(), "B");
  report.set("bits_per_weight", count == 0 ? 0 : 8 * static_cast<double>(w.bytes()) / count);
}

// ---- quantize ----

QuantizeOptions quantize_options(const Options& options) {
  QuantizeOptions how;
  how.bits = static_cast<int>(options.integer("bits"));
  how.group_size = options.integer("group");
  how.symmetric = !options.flag("zero-points");
  how.sparse_2_4 = options.text("sparse") == "2:4";
  how.clip_search = options.text("clip") == "on" ||
                    (options.text("clip") == "auto" && options.text("method") == "gptq");
  how.scale_dtype = options.text("scale-dtype") == "f16" ? at::kHalf : at::kBFloat16;
  how.damping = options.real("damping");
  how.act_order = options.flag("act-order");
  return how;
}

Report run_quantize(const Options& options, const Progress& progress) {
  const bool is_gptq = options.text("method") == "gptq";
  require(options.has("calibration") == is_gptq, "--calibration: {}",
          is_gptq ? "needed by --method gptq" : "only for --method gptq");
  require(is_gptq || !options.flag("act-order"), "--act-order: only for --method gptq");
  const at::Tensor weights = read_weights(options, "in");
  const QuantizeOptions how = quantize_options(options);
  Report report;
  QuantizedWeights quantized;
  if (is_gptq) {
    const at::Tensor inputs = read_matrix(options.input("calibration"), "");
    const GptqResult found = gptq_quantize(weights, inputs, how, progress);
    quantized = found.weights;
    report.set("loss", found.loss);
    const at::Tensor x = inputs.to(at::kDouble);
    const at::Tensor exact = x.matmul(weights.to(at::kDouble));
    const double norm = exact.norm().item<double>();
    const double error =
        (x.matmul(dequantize(quantized, at::kDouble)) - exact).norm().item<double>();
    report.set("relative_output_error", norm == 0 ? 0 : error / norm);
    if (!found.factored) {
      report.notes.push_back("the Hessian is not positive definite: rounded to nearest");
    }
  } else {
    quantized = quantize_rtn(weights, how);
  }
  save(options.output("out"), quantized);
  report.set("relative_error", relative_error(weights, quantized));
  describe(report, quantized);
  return report;
}

Job quantize_job() {
  return {"quantize",
          "weights as 4- or 8-bit codes with scales, in the MARLIN format",
          {input_file("in").required().help("weights as .npy or .safetensors"),
           output_file("out").required().help("quantised weights as .safetensors"), layout_option(),
           tensor_option(), integer("bits").otherwise(4).between(4, 8).help("4 or 8"),
           integer("group").otherwise(128).at_least(-1).help(
               "rows that share a scale: 32, 64, 128, or -1 for all"),
           choice("method", {"rtn", "gptq"})
               .otherwise("rtn")
               .help("rtn: round to nearest; gptq: spread each error over the rows to come"),
           input_file("calibration").help("inputs [n, K] as .npy, for gptq"),
           choice("sparse", {"none", "2:4"})
               .otherwise("none")
               .help("2:4: keep the two largest of four successive rows"),
           flag("zero-points").help("a zero point for each scale instead of symmetric codes"),
           choice("clip", {"auto", "on", "off"})
               .otherwise("auto")
               .help("search the range of least error; auto: with gptq"),
           flag("act-order").help("gptq takes rows by falling size of their inputs"),
           real("damping").above(0).otherwise(0.1).help(
               "added to the Hessian's diagonal, as a share of its mean"),
           choice("scale-dtype", {"f16", "bf16"}).otherwise("f16").help("type of the scales")},
          run_quantize,
          {"marlin quantize --in W.npy --out Q.safetensors --group 128",
           "marlin quantize --in W.npy --out Q.safetensors --method gptq --calibration X.npy"}};
}

// ---- matmul ----

Report run_matmul(const Options& options, const Progress&) {
  const at::Device device = to_torch(options.device());
  const PreparedWeights weights = prepare(load(options.input("weights")), device);
  at::Tensor a = read_tensor(options.input("in"));
  require(a.dim() >= 1 && at::isFloatingType(a.scalar_type()),
          "{}: expected a floating array [.., K]", options.input("in").string());
  const std::string& dtype = options.text("dtype");
  const at::ScalarType own = a.scalar_type();
  if (dtype == "f16") a = a.to(at::kHalf);
  if (dtype == "bf16") a = a.to(at::kBFloat16);
  if (dtype == "f32") a = a.to(at::kFloat);
  const Activations how =
      options.text("activations") == "int8" ? Activations::int8 : Activations::floating;
  at::Tensor c = matmul(a.to(device), weights, how).cpu();
  if (dtype != "input") c = c.to(own);
  write_tensor(options.output("out"), c);
  Report report;
  report.set("shape", c.sizes().vec());
  report.set("not_finite", c.isfinite().logical_not().sum().item<std::int64_t>());
  report.set("norm", c.to(at::kDouble).norm().item<double>());
  return report;
}

Job matmul_job() {
  return {"matmul",
          "activations times quantised weights",
          {input_file("weights").required().help("from `einkorn marlin quantize`"),
           input_file("in").required().help("activations [.., K] as .npy"),
           output_file("out").required().help("results [.., N] as .npy, in the type of the input"),
           choice("dtype", {"input", "f16", "bf16", "f32"})
               .otherwise("input")
               .help("type in which activations enter and results leave the product"),
           choice("activations", {"floating", "int8"})
               .otherwise("floating")
               .help("int8: rounded to 8 bits for each row and group (cpu)"),
           device_option()},
          run_matmul,
          {"marlin matmul --weights Q.safetensors --in A.npy --out C.npy"}};
}

// ---- convert ----

at::Tensor required_tensor(const nn::NamedTensors& tensors, const std::string& path,
                           const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw BadFile(path, fmt::format("tensor '{}'", name), "is missing");
  return found->second;
}

QuantizedWeights read_foreign(const Options& options) {
  const std::string path = options.input("in").string();
  const nn::NamedTensors tensors = nn::read_tensors(path);
  const std::string prefix = options.has("prefix") ? options.text("prefix") : "";
  const std::string& format = options.text("from");
  const auto tensor = [&](const char* name) {
    return required_tensor(tensors, path, prefix + name);
  };
  const int bits = static_cast<int>(options.integer("bits"));
  QuantizedWeights weights;
  if (format == "gptq" || format == "gptq-v2") {
    std::optional<at::Tensor> g_idx;
    if (tensors.contains(prefix + "g_idx")) g_idx = tensor("g_idx");
    weights = from_gptq(tensor("qweight"), tensor("qzeros"), tensor("scales"), g_idx, bits,
                        format == "gptq" ? 1 : 0);
  } else if (format == "awq") {
    weights = from_awq(tensor("qweight"), tensor("qzeros"), tensor("scales"));
  } else if (tensors.contains(prefix + "meta")) {
    weights = from_official_2_4(tensor("B"), tensor("meta"), tensor("s"), bits);
  } else {
    weights = from_official(tensor("B"), tensor("s"), bits);
  }
  if (tensors.contains(prefix + "bias")) {
    weights.bias = tensor("bias").to(at::kFloat).contiguous();
    check(weights);
  }
  return weights;
}

Report run_convert(const Options& options, const Progress&) {
  const QuantizedWeights weights =
      options.text("from") == "einkorn" ? load(options.input("in")) : read_foreign(options);
  const OutputPath out = options.output("out");
  if (options.text("to") == "einkorn") {
    save(out, weights);
  } else {
    at::Tensor dense = dequantize(weights, at::kFloat);
    if (options.text("layout") == "nk") dense = dense.t().contiguous();
    if (is_safetensors(out.path)) {
      nn::write_tensors(out, {{"weight", dense}});
    } else {
      write_tensor(out, dense);
    }
  }
  Report report;
  describe(report, weights);
  return report;
}

Job convert_job() {
  return {
      "convert",
      "GPTQ, AWQ and official tensors into our files, or quantised weights into dense ones",
      {input_file("in").required().help(".safetensors"),
       output_file("out").required().help(".safetensors; for --to dense also .npy"),
       choice("from", {"gptq", "gptq-v2", "awq", "official", "einkorn"})
           .required()
           .help("gptq: zeros stored minus one; official: tensors B, s and perhaps meta"),
       choice("to", {"einkorn", "dense"}).otherwise("einkorn").help("dense: W in f32"),
       text("prefix").help("what the tensors' names begin with, as model.layers.0.mlp.up_proj."),
       integer("bits").otherwise(4).between(4, 8).help("of gptq and official tensors: 4 or 8"),
       layout_option()},
      run_convert,
      {"marlin convert --in model.safetensors --out Q.safetensors --from gptq --prefix "
       "model.layers.0.mlp.up_proj."}};
}

// ---- inspect ----

Report run_inspect(const Options& options, const Progress&) {
  const QuantizedWeights weights = load(options.input("file"));
  Report report;
  describe(report, weights);
  if (options.has("against")) {
    report.set("relative_error", relative_error(read_weights(options, "against"), weights));
  }
  const at::Tensor scales = scales_of(weights).to(at::kDouble);
  if (scales.numel() > 0) {
    report.set("least_scale", scales.min().item<double>());
    report.set("largest_scale", scales.max().item<double>());
  }
  // How often each code occurs, and what the codes would take if packed without loss.
  const at::Tensor counts =
      at::bincount(codes_of(weights).reshape({-1}), {}, std::int64_t{1} << weights.bits)
          .to(at::kDouble);
  const at::Tensor shares = counts / at::clamp_min(counts.sum(), 1);
  report.set(
      "code_entropy",
      -(shares * at::where(shares > 0, shares, at::ones_like(shares)).log2()).sum().item<double>(),
      "bits");
  return report;
}

Job inspect_job() {
  return {"inspect",
          "what a file of quantised weights holds",
          {input_file("file").positional().required().help("from `einkorn marlin quantize`"),
           input_file("against").help("the original weights, for the error"), layout_option(),
           tensor_option()},
          run_inspect,
          {"marlin inspect Q.safetensors", "marlin inspect Q.safetensors --against W.npy"}};
}

}  // namespace

std::vector<Job> jobs() {
  return {quantize_job(), matmul_job(), convert_job(), inspect_job()};
}

}  // namespace einkorn::marlin
