#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cmath>

#include "einkorn/compute/kivi/kivi.h"
#include "einkorn/compute/kivi/kivi_experiments.h"
#include "einkorn/compute/kivi/kivi_jobs_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"
#include "einkorn/nn/weights.h"

namespace einkorn::kivi {
namespace {

constexpr const char* dtype_words[] = {"float16", "bfloat16", "float32"};

at::ScalarType dtype_named(const std::string& word) {
  if (word == "float16") return at::kHalf;
  return word == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

std::vector<Option> format_options() {
  return {integer("bits").otherwise(2).between(1, 8).help("1, 2, 3, 4 or 8, of keys and values"),
          integer("key-bits").between(1, 8).help("of keys, if they differ"),
          integer("value-bits").between(1, 8).help("of values, if they differ"),
          integer("group").otherwise(32).help("numbers that share a scale: 32, 64 or 128"),
          integer("residual")
              .otherwise(128)
              .at_least(32)
              .unit("tokens")
              .help("newest tokens that stay as they are; a multiple of the group"),
          choice("dtype", {std::begin(dtype_words), std::end(dtype_words)})
              .otherwise("float16")
              .help("of what is not quantised, and of scales")};
}

void read_format(const Options& options, CacheOptions& to) {
  const auto bits = [&](const char* name) {
    return static_cast<int>(options.integer(options.has(name) ? name : "bits"));
  };
  to.key_bits = bits("key-bits");
  to.value_bits = bits("value-bits");
  require(options.integer("group") <= 128, "--group: expected 32, 64 or 128, got {}",
          options.integer("group"));
  to.group = static_cast<int>(options.integer("group"));
  to.residual = options.integer("residual");
  to.type = dtype_named(options.text("dtype"));
}

std::vector<Option> join(std::vector<Option> first, std::vector<Option> second) {
  first.insert(first.end(), std::make_move_iterator(second.begin()),
               std::make_move_iterator(second.end()));
  return first;
}

// ---- users' tensors ----

// All arrays of a file: safetensors, npz, or one npy under the name "".
nn::NamedTensors read_file(const std::filesystem::path& path) {
  if (path.extension() == ".safetensors") return nn::read_tensors(path);
  nn::NamedTensors tensors;
  if (path.extension() == ".npz") {
    for (const auto& [name, array] : read_npz(path)) {
      tensors.emplace(name, to_tensor(array, path.string()));
    }
  } else {
    tensors.emplace("", read_tensor(path));
  }
  return tensors;
}

// "keys": its own file, or an entry "keys", "key" or "k" (any case) of the common one.
at::Tensor operand(const Options& options, const nn::NamedTensors& common, const std::string& name,
                   bool is_needed = true) {
  if (options.has(name)) {
    const std::filesystem::path path = options.input(name);
    nn::NamedTensors own = read_file(path);
    if (own.size() != 1) {
      throw BadFile(path.string(), "", fmt::format("{} arrays, expected one", own.size()));
    }
    return own.begin()->second;
  }
  const std::string singular = name == "queries" ? "query" : name.substr(0, name.size() - 1);
  for (const std::string& wanted : {name, singular, name.substr(0, 1)}) {
    for (const auto& [found, tensor] : common) {
      if (lower_ascii(found) == wanted) return tensor;
    }
  }
  require(!is_needed, "--{}: no such file is given, and FILE has no array '{}', '{}' or '{}'", name,
          name, singular, name.substr(0, 1));
  return {};
}

// [T, D] and [heads, T, D] are one sequence.
at::Tensor with_four_dimensions(const at::Tensor& tensor, const std::string& name) {
  require(at::isFloatingType(tensor.scalar_type()), "{}: expected real numbers, got {}", name,
          c10::toString(tensor.scalar_type()));
  require(tensor.dim() >= 2 && tensor.dim() <= 4,
          "{}: expected [batch, heads, tokens, D] or the last two or three of these, got [{}]",
          name, fmt::join(tensor.sizes(), ", "));
  at::Tensor result = tensor;
  while (result.dim() < 4) result = result.unsqueeze(0);
  return result;
}

std::vector<Option> operand_options(bool with_queries) {
  std::vector<Option> all = {
      input_file("file").positional().help(
          "safetensors or npz with arrays keys, values and queries (or k, v, q): [batch, heads, "
          "tokens, D], or without batch and heads"),
      input_file("keys").help("the keys alone, npy or a file with one array"),
      input_file("values").help("the values alone")};
  if (with_queries) all.push_back(input_file("queries").help("the queries alone"));
  return all;
}

nn::NamedTensors common_file(const Options& options) {
  return options.has("file") ? read_file(options.input("file")) : nn::NamedTensors{};
}

// ---- attend ----

// softmax(scale q k^T) v in double, the last query token at the last key.
at::Tensor exact_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           double scale, bool causal) {
  const std::int64_t share = q.size(1) / k.size(1);
  const at::Tensor keys = k.to(at::kDouble).repeat_interleave(share, 1);
  const at::Tensor values = v.to(at::kDouble).repeat_interleave(share, 1);
  at::Tensor scores = at::matmul(q.to(at::kDouble), keys.transpose(2, 3)) * scale;
  if (causal) {
    const at::Tensor last = k.size(2) - q.size(2) + at::arange(q.size(2)).unsqueeze(1);
    scores.masked_fill_(at::arange(k.size(2)) > last, -INFINITY);
  }
  return at::matmul(at::softmax(scores, -1), values);
}

Report run_attend(const Options& options, const Progress&) {
  const nn::NamedTensors common = common_file(options);
  const at::Tensor keys = with_four_dimensions(operand(options, common, "keys"), "keys");
  const at::Tensor values = with_four_dimensions(operand(options, common, "values"), "values");
  const at::Tensor queries = with_four_dimensions(operand(options, common, "queries"), "queries");
  require(keys.sizes() == values.sizes(), "values: expected the shape [{}] of the keys, got [{}]",
          fmt::join(keys.sizes(), ", "), fmt::join(values.sizes(), ", "));
  CacheOptions format;
  read_format(options, format);
  format.batch = keys.size(0);
  format.kv_heads = keys.size(1);
  format.head_dim = keys.size(3);
  format.device = to_torch(options.device());
  require(queries.size(0) == keys.size(0) && queries.size(3) == keys.size(3) &&
              queries.size(1) % std::max<std::int64_t>(keys.size(1), 1) == 0,
          "queries: [{}] does not fit keys [{}]", fmt::join(queries.sizes(), ", "),
          fmt::join(keys.sizes(), ", "));
  const bool causal = !options.flag("not-causal");
  require(!causal || queries.size(2) <= keys.size(2),
          "queries: {} tokens, but there are {} keys (--not-causal lets all see all)",
          queries.size(2), keys.size(2));
  KiviCache cache(format);
  // As a decode step does: the prompt settled, the queries' own tokens appended.
  const auto part = [&](const at::Tensor& x, std::int64_t first, std::int64_t count) {
    return x.narrow(2, first, count).to(format.device, format.type);
  };
  const std::int64_t tokens = keys.size(2);
  const std::int64_t newest = std::min(queries.size(2), tokens);
  cache.prefill(0, part(keys, 0, tokens - newest), part(values, 0, tokens - newest));
  cache.append(0, part(keys, tokens - newest, newest), part(values, tokens - newest, newest));
  AttendOptions how;
  how.causal = causal;
  const double scale =
      options.has("scale") ? options.real("scale") : 1 / std::sqrt(keys.size(3) * 1.0);
  how.scale = scale;
  const at::Tensor out = cache.attend(0, queries.to(format.device, at::kFloat), how).cpu();
  const at::Tensor exact = exact_attention(queries, keys, values, scale, causal);
  const at::Tensor difference = out.to(at::kDouble) - exact;

  Report report;
  report.set("relative_error", (difference.norm() / exact.norm()).item<double>());
  report.set("greatest_error", difference.numel() > 0 ? difference.abs().max().item<double>() : 0);
  const CacheMemory memory = cache.memory();
  report.set("bytes", memory.bytes(), "bytes");
  report.set("fp16_bytes", 2 * 2 * keys.numel(), "bytes");
  report.set("ratio", 4.0 * static_cast<double>(keys.numel()) /
                          static_cast<double>(std::max<std::int64_t>(memory.bytes(), 1)));
  report.set("shape", out.sizes().vec());
  if (options.has("out")) write_tensor(options.output("out"), out.view(queries.sizes()));
  if (options.has("out-cache")) cache.save(options.output("out-cache"));
  return report;
}

// ---- memory ----

Report run_memory(const Options& options, const Progress&) {
  CacheOptions format;
  read_format(options, format);
  format.layers = options.integer("layers");
  format.batch = options.integer("batch");
  format.kv_heads = options.integer(options.has("kv-heads") ? "kv-heads" : "heads");
  format.head_dim = options.integer("head-dim");
  require(options.integer("heads") % format.kv_heads == 0,
          "--heads: expected a multiple of {} kv heads, got {}", format.kv_heads,
          options.integer("heads"));
  const std::int64_t tokens = options.integer("tokens");
  const CacheMemory memory = memory_of(format, tokens);
  const double numbers = 2.0 * static_cast<double>(format.layers * format.batch * format.kv_heads) *
                         static_cast<double>(tokens * format.head_dim);
  const auto bytes = static_cast<double>(memory.bytes());
  Report report;
  report.set("bytes", memory.bytes(), "bytes");
  report.set("fp16_bytes", static_cast<std::int64_t>(2 * numbers), "bytes");
  report.set("ratio", bytes > 0 ? 2 * numbers / bytes : 1.0);
  report.set("bits_per_number", numbers > 0 ? 8 * bytes / numbers : 0.0);
  report.set("quantized_bytes", memory.quantized, "bytes");
  report.set("residual_bytes", memory.residual, "bytes");
  report.set("reserved_bytes", memory.reserved, "bytes");
  Table table{"The same cache at other widths", {"bits", "bytes", "ratio to fp16"}, {}};
  for (const int bits : {1, 2, 3, 4, 8}) {
    CacheOptions other = format;
    other.key_bits = other.value_bits = bits;
    const std::int64_t its_bytes = memory_of(other, tokens).bytes();
    table.rows.push_back({std::int64_t{bits}, its_bytes,
                          its_bytes > 0 ? 2 * numbers / static_cast<double>(its_bytes) : 1.0});
  }
  report.tables.push_back(std::move(table));
  report.notes.emplace_back(
      "after a prompt of that many tokens; reserved: whole pages of 128 tokens and the full "
      "residual");
  return report;
}

// ---- axis ----

AxisData axis_input(const Options& options) {
  const nn::NamedTensors common = common_file(options);
  if (common.empty() && !options.has("keys")) {
    return axis_data(options.seed(), options.integer("tokens"), options.integer("head-dim"), 64);
  }
  const std::int64_t head = options.integer("head");
  const at::Tensor queries = with_four_dimensions(operand(options, common, "queries"), "queries");
  require(queries.size(0) >= 1 && head < queries.size(1), "--head: expected 0 to {}, got {}",
          queries.size(1) - 1, head);
  const auto its_own = [&](const char* name) {
    const at::Tensor all = with_four_dimensions(operand(options, common, name), name);
    require(all.size(0) >= 1 && all.size(1) >= 1 && queries.size(1) % all.size(1) == 0,
            "{}: expected a number of heads that divides the queries' {}, got {}", name,
            queries.size(1), all.size(1));
    return all[0][head * all.size(1) / queries.size(1)].to(at::kDouble);
  };
  return {its_own("keys"), its_own("values"), queries[0][head].to(at::kDouble)};
}

Report run_axis(const Options& options, const Progress&) {
  const auto bits = static_cast<int>(options.integer("bits"));
  const auto group = static_cast<int>(options.integer("group"));
  const AxisData data = axis_input(options);
  require(data.keys.sizes() == data.values.sizes() && data.keys.size(1) == data.queries.size(1),
          "keys, values, queries: [{}], [{}] and [{}] do not fit",
          fmt::join(data.keys.sizes(), ", "), fmt::join(data.values.sizes(), ", "),
          fmt::join(data.queries.sizes(), ", "));
  require(data.keys.size(0) % group == 0 && data.keys.size(1) % group == 0,
          "--group: {} must divide the {} tokens and the {} channels", group, data.keys.size(0),
          data.keys.size(1));
  Report report;
  Table table{"Relative errors", {"groups", "keys", "weights", "output", "values", "output"}, {}};
  for (const auto& [axis, name] :
       {std::pair(GroupAxis::channel, "per_channel"), {GroupAxis::token, "per_token"}}) {
    const AxisErrors keys = key_errors(data, axis, bits, group);
    const AxisErrors values = value_errors(data, axis, bits, group);
    const auto set = [&](const char* what, double value) {
      report.set(fmt::format("{}_{}", what, name), value);
    };
    set("key_error", keys.content);
    set("attention_error", keys.weights);
    set("key_output_error", keys.output);
    set("value_error", values.content);
    set("value_output_error", values.output);
    table.rows.push_back(
        {name, keys.content, keys.weights, keys.output, values.content, values.output});
  }
  report.set("output_error_kivi",
             output_error(data, GroupAxis::channel, GroupAxis::token, bits, group));
  report.tables.push_back(std::move(table));
  report.notes.emplace_back(
      "columns: keys quantised (their error, that of attention weights, of outputs), then values");
  return report;
}

}  // namespace

Job attend_job() {
  return {"attend",
          "attention over a quantised cache made of your keys and values, and its error",
          join(join(operand_options(true), format_options()),
               {real("scale").help("of q . k; by default 1 / sqrt(D)"),
                flag("not-causal").help("every query sees every key"),
                output_file("out").help("write the outputs to this .npy"),
                output_file("out-cache").help("write the quantised cache to this safetensors file"),
                device_option()}),
          run_attend,
          {"kivi attend kv.safetensors --bits 2 --out out.npy",
           "kivi attend --keys k.npy --values v.npy --queries q.npy --bits 4 --group 64"}};
}

Job memory_job() {
  return {"memory",
          "the bytes of a cache, beside those of a plain one in fp16",
          join(format_options(),
               {integer("tokens").required().at_least(0).help("of each sequence"),
                integer("heads").otherwise(32).at_least(1).help("query heads"),
                integer("kv-heads").at_least(1).help("by default as many as heads"),
                integer("head-dim").otherwise(128).at_least(1).help("channels of a head"),
                integer("layers").otherwise(32).at_least(1).help("of the model"),
                integer("batch").otherwise(1).at_least(1).help("sequences")}),
          run_memory,
          {"kivi memory --bits 2 --group 32 --residual 128 --tokens 4096 --heads 32 --kv-heads 8 "
           "--head-dim 128 --layers 32 --batch 1"}};
}

Job axis_job() {
  return {"axis",
          "errors of keys and values quantised per channel and per token",
          join(operand_options(true),
               {integer("bits").otherwise(2).between(1, 8).help("of keys and values"),
                integer("group").otherwise(32).at_least(1).help("numbers that share a scale"),
                integer("head").otherwise(0).at_least(0).help("which query head of a file"),
                integer("tokens").otherwise(1024).at_least(1).help("without a file: tokens"),
                integer("head-dim").otherwise(128).at_least(1).help("without a file: channels"),
                seed_option().otherwise(7)}),
          run_axis,
          {"kivi axis", "kivi axis kv.safetensors --bits 4"}};
}

}  // namespace einkorn::kivi
