#include "einkorn/compute/tilus/machine_jobs.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "einkorn/compute/tilus/cuda_source.h"
#include "einkorn/compute/tilus/device_program.h"
#include "einkorn/compute/tilus/interpreter.h"
#include "einkorn/compute/tilus/matmul_program.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/tensor.h"
#include "einkorn/core/text.h"

namespace einkorn::tilus {
namespace {

std::string shape_words(const TensorInfo& info) {
  std::vector<std::string> words;
  for (std::size_t i = 0; i < info.shape.size(); ++i) {
    words.push_back(info.shape[i] >= 0 ? std::to_string(info.shape[i]) : to_text(info.extents[i]));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

const char* space_name(Space space) {
  return space == Space::global ? "global" : space == Space::shared ? "shared" : "registers";
}

Table tensor_table(const CheckedProgram& checked) {
  Table table{"Tensors", {"name", "where", "type", "shape", "layout"}, {}};
  for (const NamedTensor& one : checked.tensors) {
    table.rows.push_back({one.name, std::string(space_name(one.info.space)), one.info.type.name(),
                          shape_words(one.info),
                          one.info.layout ? one.info.layout->to_string() : std::string()});
  }
  return table;
}

// ---- compile ----

Program chosen_program(const Options& options) {
  const bool has_file = options.has("program");
  require(has_file != options.has("matmul"), "a program or --matmul: expected exactly one of them");
  if (has_file) return read_program(options.input("program"));
  const NumberType type(options.text("matmul"));
  const MatmulTypes types{type, NumberType(options.text("activation")), options.integer("group"),
                          type.kind() == NumberKind::unsigned_integer};
  return matmul_program(types, parse_schedule(options.text("schedule")));
}

Report run_compile(const Options& options, const Progress&) {
  const Program program = chosen_program(options);
  const CheckedProgram checked = check(program);
  const CudaSource source = generate_cuda(checked);
  Report report;
  report.set("program", program.name);
  report.set("threads", program.threads());
  report.set("shared_bytes", source.shared_bytes, "bytes");
  report.set("tensors", static_cast<std::int64_t>(checked.tensors.size()));
  if (options.has("tile")) write_text(options.output("tile"), to_text(program));
  if (options.has("out")) write_text(options.output("out"), source.text);
  if (options.has("cubin")) {
    const CompiledKernel kernel = compile_cuda(source, {.architecture = options.text("arch")});
    write_content(options.output("cubin"), kernel.image);
    report.set("kernel", source.kernel);
    report.set("compiler", kernel.compiler);
    report.set("from_cache", kernel.from_cache);
    report.set("cubin_bytes", static_cast<std::int64_t>(kernel.image.size()), "bytes");
  }
  report.tables.push_back(tensor_table(checked));
  return report;
}

Job compile_job() {
  return {"compile",
          "checks a program, infers its layouts, and writes CUDA",
          {input_file("program").positional().help("a program as text (.tile)"),
           text("matmul").help("instead of a program: the product with weights of this type"),
           text("schedule")
               .otherwise(MatmulSchedule{}.name())
               .help("of that product: w WARPS m x n _r REPEATS m x n x k _s STAGES _k SPLIT"),
           choice("activation", {"f16", "bf16"}).otherwise("f16").help("of that product"),
           integer("group").at_least(1).otherwise(128).help("of that product"),
           output_file("tile").help("write the program's text"),
           output_file("out").help("write the CUDA source"),
           output_file("cubin").help("compile with NVRTC or nvcc and write the result"),
           text("arch").otherwise("sm_90a").help("what to compile for")},
          run_compile,
          {"tilus compile i6_matmul.tile --out i6_matmul.cu",
           "tilus compile --matmul f6e3m2 --tile matmul.tile"}};
}

// ---- run ----

struct NamedArgument {
  std::string name;
  std::string value;
};

std::vector<NamedArgument> split_arguments(const std::string& text) {
  std::vector<NamedArgument> found;
  for (const std::string& word : split(text, ' ')) {
    if (word.empty()) continue;
    const std::size_t equals = word.find('=');
    require(equals != std::string::npos && equals > 0, "--arguments: '{}' is not name=value", word);
    found.push_back({word.substr(0, equals), word.substr(equals + 1)});
  }
  return found;
}

at::ScalarType scalar_type(const NumberType& type) {
  if (type == NumberType("f16")) return at::kHalf;
  if (type == NumberType("bf16")) return at::kBFloat16;
  if (type == NumberType("f32")) return at::kFloat;
  return type == NumberType("i32") ? at::kInt : at::kByte;
}

// zeros[2,3] or a .npy file.
at::Tensor tensor_of(const Parameter& parameter, const std::string& value) {
  if (!value.starts_with("zeros[") || !value.ends_with("]")) {
    return read_tensor(value).to(scalar_type(parameter.type)).contiguous();
  }
  std::vector<std::int64_t> shape;
  for (const std::string& word : split(value.substr(6, value.size() - 7), ',')) {
    const std::optional<std::int64_t> extent = to_integer(trim(word));
    require(extent && *extent >= 0 && *extent <= (1 << 30), "--arguments: '{}' is no shape", value);
    shape.push_back(*extent);
  }
  return at::zeros(shape, scalar_type(parameter.type));
}

std::vector<TensorArgument> arguments_of(const Program& program, const std::string& text) {
  const std::vector<NamedArgument> given = split_arguments(text);
  std::vector<TensorArgument> arguments;
  for (const Parameter& parameter : program.parameters) {
    const auto found = std::find_if(given.begin(), given.end(), [&](const NamedArgument& one) {
      return one.name == parameter.name;
    });
    require(found != given.end(), "--arguments: {} is missing", parameter.name);
    if (parameter.is_pointer) {
      arguments.emplace_back(tensor_of(parameter, found->value));
      continue;
    }
    const std::optional<std::int64_t> value = to_integer(found->value);
    require(value.has_value(), "--arguments: {} = '{}' is no integer", parameter.name,
            found->value);
    arguments.emplace_back(*value);
  }
  require(given.size() == program.parameters.size(), "--arguments: {} for {} parameters",
          given.size(), program.parameters.size());
  return arguments;
}

void run_on_device(const CheckedProgram& checked, std::vector<TensorArgument>& arguments) {
  for (TensorArgument& argument : arguments) {
    if (auto* const tensor = std::get_if<at::Tensor>(&argument)) *tensor = tensor->to(at::kCUDA);
  }
  DeviceProgram(checked).launch(arguments);
  synchronize(Device::cuda);
}

Report run_program(const Options& options, const Progress&) {
  const Program program = read_program(options.input("program"));
  std::vector<TensorArgument> arguments = arguments_of(program, options.text("arguments"));
  const CheckedProgram checked = check(program);
  Report report;
  report.set("program", program.name);
  if (options.device() == Device::cuda) {
    run_on_device(checked, arguments);
  } else {
    const RunStatistics statistics = interpret(
        checked, arguments,
        {.check_races = true, .shuffle_blocks = options.flag("shuffle"), .seed = options.seed()});
    report.set("blocks", statistics.blocks);
    report.set("statements", statistics.steps);
    report.set("global_read", statistics.global_read, "bytes");
    report.set("global_written", statistics.global_written, "bytes");
    report.set("shared_read", statistics.shared_read, "bytes");
    report.set("shared_written", statistics.shared_written, "bytes");
    report.set("dot_flops", statistics.dot_flops, "FLOP");
    report.notes = statistics.printed;
  }
  require(options.has("save") == options.has("out"), "--save NAME and --out FILE go together");
  if (!options.has("save")) return report;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (program.parameters[i].name != options.text("save")) continue;
    require(program.parameters[i].is_pointer, "--save: {} is no pointer", options.text("save"));
    write_tensor(options.output("out"), std::get<at::Tensor>(arguments[i]).cpu());
    return report;
  }
  throw InvalidArgument(fmt::format("--save: no parameter '{}'", options.text("save")));
}

Job run_job() {
  return {
      "run",
      "runs a program: on the CPU statement by statement, with a check for races",
      {input_file("program").positional().required().help("a program as text (.tile)"),
       text("arguments")
           .otherwise("")
           .help("\"a=A.npy c=zeros[16,24] k=48\": files, zeros or integers, for each parameter"),
       text("save").help("the pointer whose memory is written afterwards"),
       output_file("out").help("where: .npy"),
       flag("shuffle").help("run the blocks in a random order"), seed_option(), device_option()},
      run_program,
      {"tilus run add_one.tile --arguments \"x=zeros[64] n=64\" --save x --out x.npy"}};
}

// ---- tune ----

Report run_tune(const Options& options, const Progress& progress) {
  const NumberType type(options.text("type"));
  const std::int64_t m = options.integer("m");
  const std::int64_t columns = options.integer("columns");
  const std::int64_t rows = options.integer("rows");
  const std::int64_t group = options.integer("group");
  require(rows % group == 0, "--group: {} does not divide {} rows", group, rows);
  const MatmulTypes types{type, NumberType("f16"), group,
                          type.kind() == NumberKind::unsigned_integer};
  Report report;
  Table table{"Schedules", {"schedule", "block", "shared bytes", "us", "GB/s of weights"}, {}};
  const auto row_of = [&](const MatmulSchedule& s, double seconds) {
    const CheckedProgram checked = check(matmul_program(types, s));
    const double bytes =
        static_cast<double>(rows) * static_cast<double>(columns) *
        (type.bits() / 8.0 + (types.has_offsets ? 4.0 : 2.0) / static_cast<double>(group));
    table.rows.push_back({s.name(),
                          fmt::format("{} x {} x {}", s.block_m(), s.block_n(), s.block_k()),
                          checked.shared_bytes, seconds * 1e6, bytes / seconds * 1e-9});
  };
  if (options.flag("list")) {
    for (const MatmulSchedule& s : matmul_schedules(types, m, columns, rows)) row_of(s, NAN);
  } else {
    require_available(Device::cuda);
    QuantizedWeights weights;
    weights.type = type;
    weights.rows = rows;
    weights.columns = columns;
    weights.group = group;
    // Any codes without NaN: the top bit of each byte is cleared where bytes are codes.
    weights.packed = at::randint(0, type.bits() == 8 ? 0x78 : 256,
                                 {(rows * columns * type.bits() + 7) / 8}, at::kByte);
    weights.scales = (at::rand({rows / group, columns}) / 64).to(at::kHalf);
    if (types.has_offsets) weights.offsets = at::zeros_like(weights.scales);
    for (const TunedSchedule& one : tune(DeviceLinear(weights), m, progress)) {
      if (one.is_best) {
        report.set("schedule", one.schedule.name());
        report.set("seconds", one.seconds, "s");
      }
      row_of(one.schedule, one.seconds);
    }
  }
  report.set("schedules", static_cast<std::int64_t>(table.rows.size()));
  report.tables.push_back(std::move(table));
  return report;
}

Job tune_job() {
  return {"tune",
          "times every schedule of the generated product on a GPU and records the fastest",
          {text("type").required().help("type of the weights"),
           integer("m").at_least(1).otherwise(1).help("rows of x"),
           integer("rows").at_least(1).otherwise(4096).help("in features"),
           integer("columns").at_least(1).otherwise(4096).help("out features"),
           integer("group").at_least(1).otherwise(128).help("inputs that share a scale"),
           flag("list").help("only list the schedules that fit; needs no GPU")},
          run_tune,
          {"tilus tune --type f6e3m2 --m 16 --rows 8192 --columns 57344",
           "tilus tune --type i4 --list"}};
}

}  // namespace

std::vector<Job> machine_jobs() {
  return {compile_job(), run_job(), tune_job()};
}

}  // namespace einkorn::tilus
