// The paper's claim as an experiment, and the contests with dense products.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "einkorn/compute/marlin/marlin.h"
#include "einkorn/compute/marlin/marlin_jobs_internal.h"
#include "einkorn/core/device.h"
#include "einkorn/core/random.h"

namespace einkorn::marlin {
namespace {

at::Tensor normal(at::IntArrayRef shape, std::uint64_t seed) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* data = tensor.mutable_data_ptr<float>();
  Random random(seed);
  for (std::int64_t i = 0; i < tensor.numel(); ++i) data[i] = static_cast<float>(random.normal());
  return tensor;
}

// ---- sides of a contest ----

// Calls the next of several sides each time, so that no cache holds what a call reads.
std::function<void()> in_turn(std::vector<std::function<void()>> calls) {
  const auto next = std::make_shared<std::size_t>(0);
  return [calls = std::move(calls), next] {
    calls[*next]();
    *next = (*next + 1) % calls.size();
  };
}

// Copies of that many bytes that together outgrow the caches.
int copies_beyond_cache(double bytes, Device device) {
  const double cache = device == Device::cuda ? 250e6 : 200e6;
  return std::max(2, static_cast<int>(cache / bytes) + 1);
}

PreparedWeights copy_of(const PreparedWeights& weights) {
  PreparedWeights copy = weights;
  copy.words = weights.words.clone();
  copy.scales = weights.scales.clone();
  return copy;
}

std::function<void()> quantised_product(const PreparedWeights& weights, const at::Tensor& a,
                                        Device device, Activations how = Activations::floating) {
  std::vector<std::function<void()>> calls;
  const int copies = copies_beyond_cache(static_cast<double>(weights.words.nbytes()), device);
  for (int i = 0; i < copies; ++i) {
    calls.push_back([copy = copy_of(weights), a, how] {
      const c10::NoGradGuard no_gradients;
      matmul(a, copy, how);
    });
  }
  return in_turn(std::move(calls));
}

// Weights [N, K], as linear layers keep them.
std::function<void()> dense_product(const at::Tensor& weights, const at::Tensor& a, Device device) {
  std::vector<std::function<void()>> calls;
  const int copies = copies_beyond_cache(static_cast<double>(weights.nbytes()), device);
  for (int i = 0; i < copies; ++i) {
    calls.push_back([copy = weights.clone(), a] {
      const c10::NoGradGuard no_gradients;
      at::linear(a, copy);
    });
  }
  return in_turn(std::move(calls));
}

double median_seconds(const std::function<void()>& call, int repeats, Device device) {
  const TimedCall one = timed(call, device);
  for (int i = 0; i < 3; ++i) one();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) seconds.push_back(one());
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[static_cast<std::size_t>(repeats / 2)];
}

struct Shape {
  std::int64_t inputs;
  std::int64_t outputs;
};

// What is timed: random codes, no quantiser needed.
PreparedWeights random_weights(const Shape& shape, at::ScalarType scale_type, at::Device device) {
  const at::Tensor codes = at::randint(16, {shape.inputs, shape.outputs}, at::kByte);
  const at::Tensor scales =
      at::full({(shape.inputs + 127) / 128, shape.outputs}, 0.01, at::kFloat).to(scale_type);
  return prepare(from_codes(codes, scales, 4, 128), device);
}

Work work_of(const Shape& shape, std::int64_t rows) {
  const auto m = static_cast<double>(rows);
  const auto k = static_cast<double>(shape.inputs);
  const auto n = static_cast<double>(shape.outputs);
  return {2 * m * k * n, k * n / 2 + 2 * k * n / 128 + 2 * m * (k + n)};
}

// ---- the claim ----

void check_accuracy(Evidence& evidence, bool full) {
  const std::int64_t size = full ? 2048 : 1024;
  const at::Tensor w = normal({size, size}, 1);
  const QuantizedWeights rtn = quantize_rtn(w);
  const double error = relative_error(w, rtn);
  evidence.checks.push_back(
      {"relative weight error, round to nearest", error, Relation::at_least, 0.10});
  evidence.checks.push_back(
      {"relative weight error, round to nearest (upper bound)", error, Relation::at_most, 0.115});
  const at::Tensor a = normal({16, size}, 2);
  const at::Tensor found = matmul(a.to(at::kHalf), prepare(rtn, at::kCPU)).to(at::kDouble);
  const at::Tensor expected = a.to(at::kHalf).to(at::kDouble).matmul(dequantize(rtn, at::kDouble));
  evidence.checks.push_back({"relative error of the product, f16",
                             ((found - expected).norm() / expected.norm()).item<double>(),
                             Relation::less, 1e-3});

  // Inputs with features correlated as rho^|i - j|.
  constexpr double rho = 0.9;
  at::Tensor x = normal({512, 256}, 3).to(at::kDouble);
  for (std::int64_t k = 1; k < x.size(1); ++k) {
    x.select(1, k).mul_(std::sqrt(1 - rho * rho)).add_(x.select(1, k - 1), rho);
  }
  const at::Tensor v = normal({256, 64}, 4);
  const auto output_error = [&](const QuantizedWeights& quantized) {
    return x.matmul(v.to(at::kDouble) - dequantize(quantized, at::kDouble)).norm().item<double>();
  };
  QuantizeOptions options;
  const double of_rtn = output_error(quantize_rtn(v, options));
  const double of_gptq = output_error(gptq_quantize(v, x, options).weights);
  options.clip_search = true;
  const double with_search = output_error(gptq_quantize(v, x, options).weights);
  evidence.checks.push_back(
      {"output error of GPTQ / round to nearest", of_gptq / of_rtn, Relation::at_most, 0.5});
  evidence.checks.push_back({"output error of GPTQ with clip search / round to nearest",
                             with_search / of_rtn, Relation::at_most, 0.5});
}

void add_row(Table& table, std::int64_t rows, double ours, double half, double single) {
  table.rows.push_back({rows, ours * 1e6, half * 1e6, half / ours, single * 1e6, single / ours});
}

void check_cpu_speed(Evidence& evidence, bool full) {
  const Shape shape = {4096, 12288};
  const PreparedWeights weights = random_weights(shape, at::kHalf, at::kCPU);
  const at::Tensor dense = normal({shape.outputs, shape.inputs}, 5);
  const std::vector<std::int64_t> batches =
      full ? std::vector<std::int64_t>{1, 2, 4, 8, 16} : std::vector<std::int64_t>{1};
  const int repeats = full ? 15 : 7;
  Table table{"4096 x 12288 on the CPU, 4 bits in groups of 128",
              {"rows", "ours, us", "16-bit weights, us", "ratio", "f32 weights, us", "ratio"},
              {}};
  for (const std::int64_t rows : batches) {
    const at::Tensor a = normal({rows, shape.inputs}, 6);
    const double ours =
        median_seconds(quantised_product(weights, a, Device::cpu), repeats, Device::cpu);
    const double single =
        median_seconds(dense_product(dense, a, Device::cpu), repeats, Device::cpu);
    // The better of the two 16-bit types.
    double half = single * 1e3;
    for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
      const auto call = dense_product(dense.to(type), a.to(type), Device::cpu);
      half = std::min(half, median_seconds(call, repeats, Device::cpu));
    }
    add_row(table, rows, ours, half, single);
    if (rows == 1) {
      evidence.checks.push_back(
          {"speed over 16-bit weights, one row", half / ours, Relation::at_least, 3, 0, "x"});
      evidence.checks.push_back(
          {"speed over f32 weights, one row", single / ours, Relation::at_least, 5, 0, "x"});
    }
  }
  evidence.tables.push_back(std::move(table));
}

void check_cuda_speed(Evidence& evidence, bool full) {
  const Shape shape = full ? Shape{16384, 33792} : Shape{8192, 28672};
  const at::Device device(at::kCUDA);
  const PreparedWeights weights = random_weights(shape, at::kHalf, device);
  const at::Tensor dense =
      at::randn({shape.outputs, shape.inputs}, at::device(device).dtype(at::kHalf));
  const std::vector<std::int64_t> batches =
      full ? std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}
           : std::vector<std::int64_t>{1, 16, 64};
  Table table{
      fmt::format("{} x {} on CUDA, 4 bits in groups of 128, f16", shape.inputs, shape.outputs),
      {"rows", "ours, us", "cuBLAS, us", "ratio"},
      {}};
  for (const std::int64_t rows : batches) {
    const at::Tensor a = at::randn({rows, shape.inputs}, dense.options());
    const double ours =
        median_seconds(quantised_product(weights, a, Device::cuda), 21, Device::cuda);
    const double half = median_seconds(dense_product(dense, a, Device::cuda), 21, Device::cuda);
    table.rows.push_back({rows, ours * 1e6, half * 1e6, half / ours});
    if (rows == 1 || rows == 16) {
      evidence.checks.push_back({fmt::format("speed over cuBLAS f16, {} rows", rows), half / ours,
                                 Relation::at_least, 3.4, 0, "x"});
    }
    if (rows == 32) {
      evidence.checks.push_back(
          {"speed over cuBLAS f16, 32 rows", half / ours, Relation::at_least, 3.0, 0, "x"});
    }
    if (rows > 32) {
      evidence.checks.push_back({fmt::format("speed over cuBLAS f16, {} rows", rows), half / ours,
                                 Relation::at_least, 0.9, 0, "x"});
    }
  }
  evidence.tables.push_back(std::move(table));
}

// ---- benchmarks ----

Benchmark against_dense(const Shape& shape, std::int64_t rows, at::ScalarType peer_type,
                        Device where) {
  const char* peer = where == Device::cuda        ? "cuBLAS f16"
                     : peer_type == at::kFloat    ? "torch, f32 weights"
                     : peer_type == at::kBFloat16 ? "torch, bf16 weights"
                                                  : "torch, f16 weights";
  return {fmt::format("W4 {} x {}, M={}", shape.inputs, shape.outputs, rows),
          peer,
          {where},
          [=](Device device) {
            const bool is_cuda = device == Device::cuda;
            const at::Device on = to_torch(device);
            const at::ScalarType type = is_cuda ? at::kHalf : at::kFloat;
            const at::Tensor a = normal({rows, shape.inputs}, 1).to(on).to(type);
            const at::Tensor dense =
                normal({shape.outputs, shape.inputs}, 2).to(on).to(is_cuda ? at::kHalf : peer_type);
            Contest contest;
            contest.ours =
                timed(quantised_product(random_weights(shape, at::kHalf, on), a, device), device);
            contest.peer = timed(dense_product(dense, a.to(dense.scalar_type()), device), device);
            contest.work = work_of(shape, rows);
            contest.arithmetic = is_cuda ? Arithmetic::bf16 : Arithmetic::f32;
            return contest;
          }};
}

Benchmark with_int8_activations(const Shape& shape, std::int64_t rows) {
  return {fmt::format("W4 {} x {}, M={}, 8-bit activations", shape.inputs, shape.outputs, rows),
          "ours, floating activations",
          {Device::cpu},
          [=](Device device) {
            const at::Tensor a = normal({rows, shape.inputs}, 1);
            const PreparedWeights weights = random_weights(shape, at::kHalf, at::kCPU);
            Contest contest;
            contest.ours = timed(quantised_product(weights, a, device, Activations::int8));
            contest.peer = timed(quantised_product(weights, a, device));
            contest.work = work_of(shape, rows);
            return contest;
          }};
}

}  // namespace

Evidence reproduce(const ReproductionRun& run) {
  Evidence evidence;
  check_accuracy(evidence, run.full);
  if (run.device == Device::cuda) {
    check_cuda_speed(evidence, run.full);
  } else {
    check_cpu_speed(evidence, run.full);
  }
  return evidence;
}

std::vector<Benchmark> benchmarks() {
  const Shape llama_7b = {4096, 12288};
  std::vector<Benchmark> all;
  for (const std::int64_t rows : {1, 16}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      all.push_back(against_dense(llama_7b, rows, type, Device::cpu));
    }
    all.push_back(with_int8_activations(llama_7b, rows));
  }
  for (const Shape& shape : {Shape{8192, 28672}, Shape{8192, 8192}, llama_7b}) {
    for (const std::int64_t rows : {1, 16, 64, 256, 2048}) {
      all.push_back(against_dense(shape, rows, at::kHalf, Device::cuda));
    }
  }
  return all;
}

}  // namespace einkorn::marlin
