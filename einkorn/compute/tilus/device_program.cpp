#include "einkorn/compute/tilus/device_program.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "einkorn/compute/tilus/interpreter.h"
#include "einkorn/core/device.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/machine.h"
#include "einkorn/core/system.h"

#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace einkorn::tilus {
namespace {

at::ScalarType tensor_type(const NumberType& type) {
  if (type == NumberType("f32")) return at::kFloat;
  if (type == NumberType("f16")) return at::kHalf;
  if (type == NumberType("bf16")) return at::kBFloat16;
  if (type == NumberType("i32")) return at::kInt;
  if (type == NumberType("i16")) return at::kShort;
  if (type == NumberType("i8")) return at::kChar;
  require(type == NumberType("u8"), "pointers to {}: no tensor has this type", type.name());
  return at::kByte;
}

const at::Tensor& tensor_argument(const Parameter& parameter, const TensorArgument& argument,
                                  bool on_cuda) {
  const bool is_tensor = std::holds_alternative<at::Tensor>(argument);
  require(is_tensor, "argument {}: expected a tensor", parameter.name);
  const at::Tensor& tensor = std::get<at::Tensor>(argument);
  require(tensor.defined() && tensor.is_contiguous() && tensor.is_cuda() == on_cuda &&
              tensor.scalar_type() == tensor_type(parameter.type),
          "argument {}: expected a contiguous tensor of {} on {}", parameter.name,
          parameter.type.name(), on_cuda ? "the CUDA device" : "the CPU");
  return tensor;
}

void require_count(const Program& program, std::size_t count) {
  require(count == program.parameters.size(), "program {}: {} arguments for {} parameters",
          program.name, count, program.parameters.size());
}

// A scalar of the host: parameters only.
std::int64_t evaluate(const Expression& e, const std::map<std::string, std::int64_t>& names) {
  if (e.op() == Operator::constant) return e.value();
  if (e.op() == Operator::name) return names.at(e.name());
  const std::int64_t a = evaluate(e.left(), names);
  const std::int64_t b = evaluate(e.right(), names);
  switch (e.op()) {
    case Operator::add:
      return a + b;
    case Operator::subtract:
      return a - b;
    case Operator::multiply:
      return a * b;
    case Operator::divide:
    case Operator::remainder:
      require(b != 0, "the grid divides by zero");
      return e.op() == Operator::divide ? a / b : a % b;
    case Operator::minimum:
      return std::min(a, b);
    case Operator::maximum:
      return std::max(a, b);
    case Operator::less:
      return a < b;
    case Operator::less_equal:
      return a <= b;
    case Operator::equal:
      return a == b;
    case Operator::not_equal:
      return a != b;
    case Operator::logical_and:
      return a != 0 && b != 0;
    default:
      return a != 0 || b != 0;
  }
}

}  // namespace

RunStatistics interpret(const CheckedProgram& checked, const std::vector<TensorArgument>& arguments,
                        const InterpretOptions& options) {
  require_count(checked.program, arguments.size());
  std::vector<Argument> converted;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const Parameter& parameter = checked.program.parameters[i];
    if (!parameter.is_pointer) {
      require(std::holds_alternative<std::int64_t>(arguments[i]),
              "argument {}: expected an integer", parameter.name);
      converted.emplace_back(std::get<std::int64_t>(arguments[i]));
      continue;
    }
    const at::Tensor& tensor = tensor_argument(parameter, arguments[i], false);
    converted.emplace_back(Buffer(static_cast<std::byte*>(tensor.data_ptr()),
                                  static_cast<std::size_t>(tensor.nbytes())));
  }
  return interpret(checked, converted, options);
}

DeviceProgram::DeviceProgram(const CheckedProgram& checked, const CompileOptions& options)
    : program_(checked.program), source_(generate_cuda(checked)) {
  require_available(Device::cuda);
  at::empty({1}, at::TensorOptions().device(at::kCUDA));  // makes the context
  compiled_ = compile_cuda(source_, options);
  kernel_ = std::make_shared<const LoadedKernel>(compiled_, source_);
}

void DeviceProgram::launch(const std::vector<TensorArgument>& arguments) const {
  require_count(program_, arguments.size());
  std::map<std::string, std::int64_t> integers;
  std::vector<void*> pointers(arguments.size());
  std::vector<int> values(arguments.size());
  std::vector<void*> places;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const Parameter& parameter = program_.parameters[i];
    if (parameter.is_pointer) {
      pointers[i] = tensor_argument(parameter, arguments[i], true).data_ptr();
      require(reinterpret_cast<std::uintptr_t>(pointers[i]) % 16 == 0,
              "argument {}: expected memory aligned to 16 bytes", parameter.name);
      places.push_back(&pointers[i]);
      continue;
    }
    require(std::holds_alternative<std::int64_t>(arguments[i]), "argument {}: expected an integer",
            parameter.name);
    integers[parameter.name] = std::get<std::int64_t>(arguments[i]);
    values[i] = static_cast<int>(integers[parameter.name]);
    require(values[i] == integers[parameter.name], "argument {} is no i32", parameter.name);
    places.push_back(&values[i]);
  }
  for (const Statement& s : program_.body) {
    if (s.op != Opcode::assume_divisible) continue;
    require(integers.at(s.a) % s.count == 0, "argument {} = {}: expected a multiple of {}", s.a,
            integers.at(s.a), s.count);
  }
  std::array<unsigned, 3> grid{1, 1, 1};
  for (std::size_t i = 0; i < program_.grid.size(); ++i) {
    const std::int64_t count = evaluate(program_.grid[i], integers);
    require(count >= 0 && count <= (i == 0 ? 2147483647 : 65535), "a grid of {} blocks", count);
    grid[i] = static_cast<unsigned>(count);
  }
#if EINKORN_WITH_CUDA
  void* const stream = c10::cuda::getCurrentCUDAStream().stream();
#else
  void* const stream = nullptr;
#endif
  kernel_->launch(grid, places, stream);
}

// ---- the product ----

DeviceLinear::DeviceLinear(const QuantizedWeights& weights) : weights_(weights) {
  require_available(Device::cuda);
  weights_.check();
  const bool is_bf16 = weights.scales.scalar_type() == at::kBFloat16;
  types_ = {weights.type, NumberType(is_bf16 ? "bf16" : "f16"), weights.group,
            weights.has_offsets()};
  const auto type = is_bf16 ? at::kBFloat16 : at::kHalf;
  scales_ = weights.scales.to(type).contiguous().to(at::kCUDA);
  if (weights.has_offsets()) offsets_ = weights.offsets.to(type).contiguous().to(at::kCUDA);
}

const at::Tensor& DeviceLinear::tiles(const WeightTile& tile) const {
  at::Tensor& found = tiles_[tile.tile_n];
  if (!found.defined()) {
    found =
        change_layout(weights_.packed, weights_.type.bits(), weights_.rows, weights_.columns, tile)
            .to(at::kCUDA);
  }
  return found;
}

std::vector<MatmulSchedule> DeviceLinear::schedules(std::int64_t m) const {
  return matmul_schedules(types_, m, weights_.columns, weights_.rows);
}

MatmulSchedule DeviceLinear::schedule_for(std::int64_t m) const {
  const std::string& device = ceilings(Device::cuda).processor;
  if (const auto recorded =
          recorded_schedule(device, types_, row_class(m), weights_.columns, weights_.rows)) {
    return *recorded;
  }
  const std::vector<MatmulSchedule> all = schedules(m);
  require(!all.empty(), "no schedule fits [{}, {}] in groups of {}", weights_.rows,
          weights_.columns, weights_.group);
  // Six blocks a multiprocessor hide the latency of a step, with as little splitting as that takes.
  constexpr std::int64_t wanted_blocks = 792;
  const auto cost = [&](const MatmulSchedule& s) {
    const std::int64_t blocks =
        weights_.columns / s.block_n() * ((m + s.block_m() - 1) / s.block_m()) * s.split_k;
    const double lack =
        std::max(1.0, static_cast<double>(wanted_blocks) / static_cast<double>(blocks));
    return lack * (1 + 0.02 * s.split_k) *
           (1 + 16.0 / static_cast<double>(s.block_k() * s.repeat_n));
  };
  return *std::min_element(all.begin(), all.end(),
                           [&](const auto& a, const auto& b) { return cost(a) < cost(b); });
}

at::Tensor DeviceLinear::forward(const at::Tensor& x) const {
  require_dense(x, "x");
  require(x.dim() >= 1 && x.size(-1) == weights_.rows, "x: expected a last dimension of {}",
          weights_.rows);
  return forward(x, schedule_for(std::max<std::int64_t>(
                        1, x.numel() / std::max<std::int64_t>(1, weights_.rows))));
}

at::Tensor DeviceLinear::forward(const at::Tensor& x, const MatmulSchedule& schedule) const {
  require_dense(x, "x");
  const auto type = types_.activation == NumberType("f16") ? at::kHalf : at::kBFloat16;
  require(x.is_cuda() && x.scalar_type() == type, "x: expected {} on the CUDA device",
          types_.activation.name());
  require(x.dim() >= 1 && x.size(-1) == weights_.rows, "x: expected a last dimension of {}",
          weights_.rows);
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weights_.columns;
  if (x.numel() == 0 || weights_.columns == 0) return at::zeros(shape, x.options());
  const at::Tensor rows = x.reshape({-1, weights_.rows}).contiguous();
  std::shared_ptr<const DeviceProgram>& program = programs_[schedule.name()];
  if (!program) {
    program = std::make_shared<const DeviceProgram>(check(matmul_program(types_, schedule)));
  }
  const std::int64_t m = rows.size(0);
  at::Tensor out = at::empty({m, weights_.columns}, rows.options().dtype(at::kFloat));
  std::vector<TensorArgument> arguments = {rows, tiles(schedule.tile()), scales_};
  if (types_.has_offsets) arguments.emplace_back(offsets_);
  arguments.emplace_back(out);
  if (schedule.split_k > 1) {
    const std::int64_t flags =
        (m + schedule.block_m() - 1) / schedule.block_m() * (weights_.columns / schedule.block_n());
    arguments.emplace_back(at::zeros({flags}, rows.options().dtype(at::kInt)));
  }
  for (const std::int64_t size : {m, weights_.columns, weights_.rows}) arguments.emplace_back(size);
  program->launch(arguments);
  return out.reshape(shape).to(type);
}

// ---- tuning ----

std::int64_t row_class(std::int64_t m) {
  for (const std::int64_t most : {16, 32, 64, 128}) {
    if (m <= most) return most;
  }
  return 256;
}

std::vector<TunedSchedule> tune(const DeviceLinear& linear, std::int64_t m,
                                const Progress& progress) {
  const std::vector<MatmulSchedule> all = linear.schedules(m);
  require(!all.empty(), "no schedule fits these sizes");
  std::vector<TunedSchedule> found;
  for (const MatmulSchedule& schedule : all) {
    progress("schedules", static_cast<std::int64_t>(found.size()),
             static_cast<std::int64_t>(all.size()));
    const at::Tensor x =
        at::randn({m, linear.rows()},
                  at::TensorOptions().device(at::kCUDA).dtype(
                      linear.types().activation == NumberType("f16") ? at::kHalf : at::kBFloat16));
    const TimedCall call = timed(
        [&] {
          for (int i = 0; i < 10; ++i) linear.forward(x, schedule);
        },
        Device::cuda);
    call();
    double best = call();
    for (int i = 0; i < 4; ++i) best = std::min(best, call());
    found.push_back({schedule, best / 10, false});
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.seconds < b.seconds; });
  found[0].is_best = true;
  record_schedule(ceilings(Device::cuda).processor, linear.types(), row_class(m), linear.columns(),
                  linear.rows(), found[0].schedule);
  return found;
}

namespace {

std::string schedule_key(const std::string& device, const MatmulTypes& types,
                         std::int64_t rows_class, std::int64_t columns, std::int64_t rows) {
  return fmt::format("{} {} {} g{}{} m{} n{} k{}", device, types.weight.name(),
                     types.activation.name(), types.group, types.has_offsets ? " offsets" : "",
                     rows_class, columns, rows);
}

nlohmann::json read_schedules(const std::filesystem::path& path) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::is_regular_file(path, ignored)) {
    return nlohmann::json::object();
  }
  // A damaged file is as good as none: it is written anew.
  nlohmann::json found = nlohmann::json::parse(read_text(path), nullptr, false);
  return found.is_object() ? found : nlohmann::json::object();
}

}  // namespace

std::optional<MatmulSchedule> recorded_schedule(const std::string& device, const MatmulTypes& types,
                                                std::int64_t rows_class, std::int64_t columns,
                                                std::int64_t rows) {
  const nlohmann::json all = read_schedules(kernel_cache() / "tuned_schedules.json");
  const auto found = all.find(schedule_key(device, types, rows_class, columns, rows));
  if (found == all.end() || !found->is_string()) return std::nullopt;
  try {
    return parse_schedule(found->get<std::string>());
  } catch (const InvalidArgument&) {
    return std::nullopt;
  }
}

void record_schedule(const std::string& device, const MatmulTypes& types, std::int64_t rows_class,
                     std::int64_t columns, std::int64_t rows, const MatmulSchedule& schedule) {
  const std::filesystem::path folder = kernel_cache();
  if (folder.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  const std::filesystem::path path = folder / "tuned_schedules.json";
  nlohmann::json all = read_schedules(path);
  all[schedule_key(device, types, rows_class, columns, rows)] = schedule.name();
  write_text({path, true}, all.dump(2) + "\n");
}

MatmulSchedule parse_schedule(const std::string& name) {
  MatmulSchedule s;
  int end = 0;
  const int count =
      std::sscanf(name.c_str(), "w%4dx%4d_r%4dx%4dx%4d_s%4d_k%4d%n", &s.warps_m, &s.warps_n,
                  &s.repeat_m, &s.repeat_n, &s.repeat_k, &s.stages, &s.split_k, &end);
  require(count == 7 && name.size() == static_cast<std::size_t>(end) && s.name() == name,
          "schedule '{}': expected a name such as {}", name, MatmulSchedule{}.name());
  return s;
}

}  // namespace einkorn::tilus
