// Generated kernels on torch tensors, and the auto-tuner.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "einkorn/compute/tilus/kernel_compiler.h"
#include "einkorn/compute/tilus/matmul_program.h"
#include "einkorn/compute/tilus/program.h"
#include "einkorn/compute/tilus/quantized_weights.h"
#include "einkorn/core/progress.h"
#include "einkorn/core/tensor.h"

namespace einkorn::tilus {

// What a program is called with: an i32, or a contiguous tensor of the pointer's type (u8, i32,
// f16, bf16, f32).
using TensorArgument = std::variant<std::int64_t, at::Tensor>;

// Runs the interpreter on tensors of the CPU.
struct InterpretOptions;
struct RunStatistics;
RunStatistics interpret(const CheckedProgram& checked, const std::vector<TensorArgument>& arguments,
                        const InterpretOptions& options);

// A program compiled for the current CUDA device. Throws InvalidArgument where this build has no
// CUDA or this machine no device.
class DeviceProgram {
 public:
  explicit DeviceProgram(const CheckedProgram& checked, const CompileOptions& options = {});

  // Queues the kernel on torch's current stream. Tensors are on the device.
  void launch(const std::vector<TensorArgument>& arguments) const;
  const CompiledKernel& compiled() const { return compiled_; }

 private:
  Program program_;
  CudaSource source_;
  CompiledKernel compiled_;
  std::shared_ptr<const LoadedKernel> kernel_;
};

// y = x W on a CUDA device by generated kernels, one for each class of row counts.
class DeviceLinear {
 public:
  // x will be f16 or bf16 as the scales are (f32 scales are rounded to f16).
  explicit DeviceLinear(const QuantizedWeights& weights);

  // x [..., rows] on the device: [..., columns] with x's dtype; sums in f32. Schedules come from
  // the tuner's file, else from a rule.
  at::Tensor forward(const at::Tensor& x) const;

  // One schedule for a launch with m rows, or what is recorded or a rule says.
  at::Tensor forward(const at::Tensor& x, const MatmulSchedule& schedule) const;
  MatmulSchedule schedule_for(std::int64_t m) const;
  std::vector<MatmulSchedule> schedules(std::int64_t m) const;
  const MatmulTypes& types() const { return types_; }
  std::int64_t rows() const { return weights_.rows; }
  std::int64_t columns() const { return weights_.columns; }

 private:
  const at::Tensor& tiles(const WeightTile& tile) const;

  QuantizedWeights weights_;
  MatmulTypes types_;
  at::Tensor scales_;
  at::Tensor offsets_;
  mutable std::map<std::int64_t, at::Tensor> tiles_;  // by tile_n
  mutable std::map<std::string, std::shared_ptr<const DeviceProgram>> programs_;
};

struct TunedSchedule {
  MatmulSchedule schedule;
  double seconds = 0;
  bool is_best = false;
};

// Times every schedule for m rows, records the fastest in the tuner's file, and returns all of
// them, fastest first.
std::vector<TunedSchedule> tune(const DeviceLinear& linear, std::int64_t m,
                                const Progress& progress = {});

// Row counts that share a schedule: up to 16, 32, 64, 128, and more.
std::int64_t row_class(std::int64_t m);

// The tuner's file: JSON, keyed by device, types, sizes and row class. tuned_schedules.json beside
// the compiled kernels.
std::optional<MatmulSchedule> recorded_schedule(const std::string& device, const MatmulTypes& types,
                                                std::int64_t row_class, std::int64_t columns,
                                                std::int64_t rows);
void record_schedule(const std::string& device, const MatmulTypes& types, std::int64_t row_class,
                     std::int64_t columns, std::int64_t rows, const MatmulSchedule& schedule);

// "w1x4_r1x8x2_s3_k1" and back. Throws InvalidArgument for anything else.
MatmulSchedule parse_schedule(const std::string& name);

}  // namespace einkorn::tilus
