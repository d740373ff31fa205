#include "einkorn/core/system.h"

#include <ATen/ATen.h>

#include <chrono>

#include "einkorn/compute/flashrnn/constraints.h"
#include "einkorn/compute/flashrnn/flashrnn.h"
#include "einkorn/compute/flashrnn/flashrnn_experiments.h"
#include "einkorn/compute/flashrnn/kernel_problem.h"
#include "einkorn/compute/flashrnn/parity.h"
#include "einkorn/compute/flashrnn/recurrence_kernels.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/tensor.h"

namespace einkorn::flashrnn {
namespace {

Option cell_option() {
  return choice("cell", cell_names()).otherwise("lstm").help("which recurrent network");
}

Option backend_option() {
  return choice("backend", backend_names())
      .otherwise("auto")
      .help("auto: the fastest that can run the shape; reference: plain loops in double");
}

// ---- run ----

at::Tensor read_floats(const Options& options, const char* name, at::ScalarType type) {
  return read_tensor(options.input(name)).to(to_torch(options.device()), type);
}

at::ScalarType parse_type(const std::string& name) {
  if (name == "f64") return at::kDouble;
  if (name == "bf16") return at::kBFloat16;
  return name == "f16" ? at::kHalf : at::kFloat;
}

Report run_recurrence(const Options& options, const Progress&) {
  const Cell cell = parse_cell(options.text("cell"));
  const at::ScalarType type = parse_type(options.text("dtype"));
  const at::Tensor input = read_floats(options, "input", type);
  const at::Tensor recurrent = read_floats(options, "recurrent", type);
  require(recurrent.dim() == 4, "recurrent: expected [gates, heads, dim, dim], got {} dimensions",
          recurrent.dim());
  const at::Tensor bias =
      options.has("bias") ? read_floats(options, "bias", type)
                          : at::zeros({shape_of(cell).biases, recurrent.size(1), recurrent.size(2)},
                                      recurrent.options());
  const at::Tensor initial =
      options.has("initial") ? read_floats(options, "initial", type) : at::Tensor();
  const at::Tensor lengths =
      options.has("lengths") ? read_tensor(options.input("lengths")) : at::Tensor();
  RnnOptions how;
  how.backend = parse_backend(options.text("backend"));
  how.reverse = options.flag("reverse");
  if (options.has("forward-clip")) how.forward_clip = options.real("forward-clip");
  const auto begin = std::chrono::steady_clock::now();
  const RnnResult found = rnn(cell, input, recurrent, bias, initial, lengths, how);
  synchronize(options.device());
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  Report report;
  const at::Tensor h = found.states.select(0, 0).to(at::kDouble);
  report.set("shape", found.states.sizes().vec());
  report.set("mean_abs_h", h.numel() > 0 ? h.abs().mean().item<double>() : 0.0);
  report.set("not_finite", found.states.isfinite().logical_not().sum().item<std::int64_t>());
  report.set("recurrence_seconds", seconds, "s");
  if (options.has("out")) write_tensor(options.output("out"), found.states);
  if (options.has("out-last")) write_tensor(options.output("out-last"), found.last);
  return report;
}

Job run_job() {
  return {
      "run",
      "runs a recurrent network over sequences in files",
      {input_file("input").required().help(
           "gates from the input, W x: .npy of shape [batch, time, gates, heads, dim]"),
       input_file("recurrent").required().help("R: .npy of shape [gates, heads, dim_out, dim_in]"),
       input_file("bias").help(".npy of shape [gates, heads, dim] (default: zeros)"),
       input_file("initial").help(
           "start states: .npy of shape [states, batch, heads, dim] (default: zeros)"),
       input_file("lengths").help("steps of each sequence: .npy of shape [batch]"), cell_option(),
       flag("reverse").help("from each sequence's last step to its first"),
       real("forward-clip").above(0).help("bounds |h| after every step"),
       choice("dtype", {"f32", "f64", "bf16", "f16"})
           .otherwise("f32")
           .help("what the files' numbers are turned into"),
       backend_option(),
       output_file("out").help("write all states to this .npy: [states, batch, time, heads, "
                               "dim]; h comes first"),
       output_file("out-last").help("write the states after each sequence to this .npy"),
       device_option()},
      run_recurrence,
      {"flashrnn run --input wx.npy --recurrent r.npy --cell gru --out states.npy"}};
}

// ---- train ----

Report run_train(const Options& options, const Progress& progress) {
  ParityOptions how;
  how.cell = parse_cell(options.text("cell"));
  how.heads = options.integer("heads");
  how.dim = options.integer("dim");
  how.batch = options.integer("batch");
  how.time = options.integer("length");
  how.steps = options.integer("steps");
  how.learning_rate = options.real("learning-rate");
  how.test_time = options.integer("test-length");
  how.seed = options.seed();
  how.device = options.device();
  how.backend = parse_backend(options.text("backend"));
  const ParityResult found = train_parity(how, progress);
  Report report;
  report.set("accuracy", found.accuracy);
  report.set("train_accuracy", found.train_accuracy);
  report.set("loss", found.loss, "nats");
  report.set("test_length", how.test_time, "steps");
  Series series{to_string(how.cell), {}, found.losses};
  for (std::size_t i = 0; i < found.losses.size(); ++i) {
    series.x.push_back(static_cast<double>(i + 1));
  }
  report.plots.push_back({"Training loss", "step", "nats", {std::move(series)}, false, true});
  return report;
}

Job train_job() {
  return {
      "train",
      "trains a small network on a task that needs a state, and tests it on longer sequences",
      {choice("task", {"parity"}).otherwise("parity").help("parity: running sum modulo 2"),
       cell_option(), integer("heads").at_least(1).otherwise(2).help("heads"),
       integer("dim").at_least(1).otherwise(8).help("units of a head"),
       integer("batch").at_least(1).otherwise(64).unit("sequences").help("of one step"),
       integer("length").at_least(1).otherwise(16).unit("bits").help("of a training sequence"),
       integer("test-length").at_least(1).otherwise(256).unit("bits").help("of a test sequence"),
       integer("steps").at_least(1).otherwise(800).help("steps of Adam"),
       real("learning-rate").above(0).otherwise(1e-2).help("of Adam"), seed_option(),
       backend_option(), device_option()},
      run_train,
      {"flashrnn train --task parity --cell lstm", "flashrnn train --cell slstm --seed 1"}};
}

// ---- solve ----

std::string domain_text(const IntegerDomain& domain) {
  constexpr std::size_t most_shown = 24;
  if (domain.empty()) return "none";
  if (!domain.values()) {
    return domain.factor() == 1 ? fmt::format("{} .. {}", domain.lowest(), domain.highest())
                                : fmt::format("{} .. {} in steps of {}", domain.lowest(),
                                              domain.highest(), domain.factor());
  }
  std::string text;
  const auto& values = *domain.values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i == most_shown) return text + fmt::format(", ... {}", values.back());
    text += fmt::format("{}{}", i == 0 ? "" : ", ", values[i]);
  }
  return text;
}

Table solutions_table(const std::vector<std::string>& names, const SolveResult& found) {
  Table table{"Solutions", names, {}};
  for (const Assignment& solution : found.solutions) {
    std::vector<einkorn::Cell> row;
    for (const std::string& name : names) row.emplace_back(solution.at(name));
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string solution_text(const std::vector<std::string>& names, const Assignment& solution) {
  std::string text;
  for (const std::string& name : names) {
    text += fmt::format("{}{}={}", text.empty() ? "" : ", ", name, solution.at(name));
  }
  return text;
}

Report run_solve(const Options& options, const Progress& progress) {
  const std::filesystem::path path = options.input("file");
  const ConstraintProblem problem =
      ConstraintProblem::parse(read_text(path, std::size_t{1} << 20), path.string());
  SolveOptions how;
  how.order = parse_order(options.text("order"));
  how.count = options.integer("n");
  const SolveResult found = problem.solve(how, progress);
  const std::vector<std::string>& names = problem.variables();
  Report report;
  std::vector<std::string> solutions;
  for (const Assignment& solution : found.solutions) {
    solutions.push_back(solution_text(names, solution));
  }
  report.set("solutions", solutions);
  report.set("count", static_cast<std::int64_t>(found.solutions.size()));
  report.set("exhausted", found.exhausted);
  report.set("values_tried", found.nodes);
  if (!names.empty()) {
    report.tables.push_back(solutions_table(names, found));
    Table domains{"What propagation alone leaves", {"variable", "values"}, {}};
    const std::vector<IntegerDomain> left = problem.propagate();
    for (std::size_t i = 0; i < names.size(); ++i) {
      domains.rows.push_back({names[i], domain_text(left[i])});
    }
    report.tables.push_back(std::move(domains));
  }
  if (found.solutions.empty()) report.notes.emplace_back("the constraints have no solution");
  return report;
}

Job solve_job() {
  return {
      "solve",
      "solves constraints on positive integers: products, powers, divisibility",
      {input_file("file").positional().required().help(
           "constraints, one after the other with ';' between them: a == b, a <= b, a % b == 0, "
           "| for or, [1,2,4] for any of these, # comments"),
       text("order").otherwise("").help(
           "variables in the order of choice, each with the end to begin at: a:max,b:min "
           "(default: all as they appear, smallest first)"),
       integer("n").at_least(1).otherwise(1).help("most solutions wanted")},
      run_solve,
      {"flashrnn solve tiles.csp --order a:max,b:min -n 5"}};
}

// ---- tune ----

void report_direction(Report& report, KernelDirection direction, const KernelShape& shape,
                      const Hardware& hardware, std::int64_t count) {
  const bool is_forward = direction == KernelDirection::forward;
  const std::string word = is_forward ? "forward" : "backward";
  const auto begin = std::chrono::steady_clock::now();
  const SolveResult found = solve_kernel(direction, shape, hardware, count);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::vector<std::string> names;
  for (const auto& [name, end] : kernel_order(direction)) names.push_back(name);
  for (const char* name : {"NUMW", "NBLK", "SMR", "SMS", "REGR"}) names.emplace_back(name);
  std::vector<std::string> solutions;
  for (const Assignment& solution : found.solutions) {
    solutions.push_back(solution_text(names, solution));
  }
  report.set(word, solutions);
  report.set(word + "_seconds", seconds, "s");
  if (found.solutions.empty()) {
    report.notes.push_back(word + ": no tile sizes fit, the alternating kernels serve this shape");
    return;
  }
  Table table = solutions_table(names, found);
  table.title = "Tile sizes, " + word;
  report.tables.push_back(std::move(table));
}

Report run_tune(const Options& options, const Progress&) {
  const Cell cell = parse_cell(options.text("cell"));
  KernelShape shape;
  shape.dim = options.integer("dim");
  shape.heads = options.integer("heads");
  shape.batch = options.integer("batch");
  shape.gates = shape_of(cell).recurrent_gates;
  shape.element_bytes = options.text("dtype") == "f32" ? 4 : 2;
  Hardware hardware;
  hardware.threads_per_block = options.integer("threads-per-block");
  hardware.registers_per_multiprocessor = options.integer("registers");
  hardware.multiprocessors = options.integer("multiprocessors");
  hardware.shared_memory = options.integer("shared-memory");
  Report report;
  const std::int64_t count = options.integer("n");
  report_direction(report, KernelDirection::forward, shape, hardware, count);
  report_direction(report, KernelDirection::backward, shape, hardware, count);
  if (options.has("out-forward")) {
    write_text(options.output("out-forward"),
               kernel_constraints(KernelDirection::forward, shape, hardware));
  }
  if (options.has("out-backward")) {
    write_text(options.output("out-backward"),
               kernel_constraints(KernelDirection::backward, shape, hardware));
  }
  return report;
}

Job tune_job() {
  return {"tune",
          "finds the published fused kernel's tile sizes for a shape and a chip",
          {cell_option(), integer("dim").at_least(1).otherwise(768).help("units of a head"),
           integer("heads").at_least(1).otherwise(1).help("heads"),
           integer("batch").at_least(1).otherwise(16).help("rows"),
           choice("dtype", {"bf16", "f16", "f32"}).otherwise("bf16").help("of R and h"),
           integer("threads-per-block").at_least(4).otherwise(1024).help("the chip's limit"),
           integer("registers")
               .at_least(1)
               .otherwise(65536)
               .help("32-bit registers of a multiprocessor"),
           integer("multiprocessors").at_least(1).otherwise(132).help("of the chip"),
           integer("shared-memory")
               .at_least(1025)
               .otherwise(232448)
               .unit("bytes")
               .help("that a block can have"),
           integer("n").at_least(1).otherwise(1).help("most solutions of each direction"),
           output_file("out-forward").help("write the forward constraints to this file"),
           output_file("out-backward").help("write the backward constraints to this file")},
          run_tune,
          {"flashrnn tune --dim 768", "flashrnn tune --dim 64 --heads 12 --out-forward tiles.csp"}};
}

std::vector<KernelChoice> kernels() {
  const Isa level = recurrence_level();
  const std::string reason = level == Isa::avx512 ? "" : why_not(Isa::avx512);
  return {{"flashrnn recurrence, f32 and f64",
           level == Isa::scalar ? "reference" : to_string(level), reason}};
}

}  // namespace

System system() {
  System system;
  system.name = "flashrnn";
  system.wing = Wing::compute;
  system.paper = {"FlashRNN: Optimizing Traditional RNNs on Modern Hardware",
                  "Poeppel, Beck, Hochreiter", 2024, "2412.07752"};
  system.summary =
      "LSTM, GRU, Elman and sLSTM in one kernel for all steps; tile sizes by constraints";
  system.devices = {Device::cpu, Device::cuda};
  system.jobs = {run_job(), train_job(), solve_job(), tune_job()};
  system.reproduction = {
      "recurrent networks with a state track parity at sixteen times the trained length, at least "
      "three times as fast as a loop of steps, and tile sizes come from constraints in 0.1 s",
      "generated bits, standard normal inputs, the published kernel problems", reproduce};
  system.benchmarks = benchmarks();
  system.kernels = kernels;
  return system;
}

}  // namespace einkorn::flashrnn
