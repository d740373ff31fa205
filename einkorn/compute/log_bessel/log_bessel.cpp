#include "einkorn/compute/log_bessel/log_bessel.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <fmt/ranges.h>

#include <array>

#include "einkorn/compute/log_bessel/log_bessel_internal.h"
#include "einkorn/compute/log_bessel/log_bessel_kernels.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"
#include "einkorn/core/trace.h"

#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einkorn/compute/log_bessel/log_bessel_cuda.h"
#endif

namespace einkorn::log_bessel {
namespace {

constexpr std::int64_t grain = 8192;  // points a thread takes at once; a quarter of a millisecond

bool is_log(Quantity quantity) {
  return quantity <= Quantity::log_k_scaled;
}

const char* name_of(Quantity quantity) {
  switch (quantity) {
    case Quantity::log_i:
      return "log_bessel.log_iv";
    case Quantity::log_k:
      return "log_bessel.log_kv";
    case Quantity::log_i_scaled:
      return "log_bessel.log_ive";
    case Quantity::log_k_scaled:
      return "log_bessel.log_kve";
    case Quantity::ratio_i:
      return "log_bessel.iv_ratio";
    case Quantity::ratio_i_complement:
      return "log_bessel.iv_ratio_c";
    case Quantity::ratio_i_slope:
      return "log_bessel.iv_ratio_dx";
    case Quantity::ratio_k:
      return "log_bessel.kv_ratio";
    case Quantity::slope_k_scaled:
      return "log_bessel.log_kve_slope";
  }
  return "";
}

// Enough for the longest of the usual expansions (9 terms); the traffic is two reads and a write.
template <typename T>
Work work_of(std::int64_t size) {
  return {200.0 * static_cast<double>(size), 3.0 * sizeof(T) * static_cast<double>(size)};
}

PaperTable paper_table(SwitchingTable table) {
  return table == SwitchingTable::paper ? PaperTable::full : PaperTable::three;
}

// A range of points on this thread.
template <typename T>
void run_range(Quantity quantity, const Points<T>& points, SwitchingTable table) {
  if (table == SwitchingTable::standard) {
    if constexpr (std::is_same_v<T, double>) return kernels_f64.pick()(quantity, points);
    if constexpr (std::is_same_v<T, float>) return kernels_f32.pick()(quantity, points);
  }
  for (std::int64_t i = 0; i < points.size; ++i) {
    points.out[i * points.out_stride] = static_cast<T>(
        paper(paper_table(table), quantity, static_cast<double>(points.v[i * points.v_stride]),
              static_cast<double>(points.x[i * points.x_stride])));
  }
}

const char* implementation(SwitchingTable table) {
  static const std::array<std::string, 3> names = {"scalar", "avx2", "avx512"};
  if (table != SwitchingTable::standard) return "scalar";
  return names[static_cast<std::size_t>(kernels_f64.level())].c_str();
}

template <typename T>
void run_points(Quantity quantity, const Points<T>& points, SwitchingTable table) {
  require(points.size >= 0, "points: a negative size");
  const Trace trace(
      name_of(quantity), implementation(table),
      [&] { return fmt::format("n={} {}", points.size, sizeof(T) == 8 ? "f64" : "f32"); },
      work_of<T>(points.size));
  at::parallel_for(0, points.size, grain, [&](std::int64_t begin, std::int64_t end) {
    Points<T> range = points;
    range.size = end - begin;
    range.v += begin * points.v_stride;
    range.x += begin * points.x_stride;
    range.out += begin * points.out_stride;
    run_range(quantity, range, table);
  });
}

void check_inputs(const at::Tensor& first, const at::Tensor& second, const char* second_name) {
  require_dense(first, "v");
  require_dense(second, second_name);
  for (const auto& [tensor, name] : {std::pair(&first, "v"), std::pair(&second, second_name)}) {
    const at::ScalarType type = tensor->scalar_type();
    require(type == at::kDouble || type == at::kFloat || at::isIntegralType(type, true),
            "{}: expected dtype float64 or float32, got {}", name, c10::toString(type));
  }
  const bool same = first.device() == second.device();
  require(same || (first.dim() == 0 && first.is_cpu()) || (second.dim() == 0 && second.is_cpu()),
          "v and {}: expected one device, got {} and {}", second_name, first.device().str(),
          second.device().str());
  const auto a = first.sizes();
  const auto b = second.sizes();
  for (std::size_t i = 1; i <= std::min(a.size(), b.size()); ++i) {
    const auto m = a[a.size() - i];
    const auto n = b[b.size() - i];
    require(m == n || m == 1 || n == 1, "v and {}: shapes {} and {} do not broadcast", second_name,
            fmt::format("[{}]", fmt::join(a, ", ")), fmt::format("[{}]", fmt::join(b, ", ")));
  }
}

// The dtype of the result: promoted, with integers as torch's default dtype.
at::ScalarType common_type(const at::Tensor& v, const at::Tensor& x) {
  const auto type = at::result_type(v, x);
  return at::isIntegralType(type, true) ? at::typeMetaToScalarType(at::get_default_dtype()) : type;
}

// Calls run(points) for the parts of a plan of torch's for a binary function, on all threads.
template <typename T, typename RunRange>
void for_each_part(at::TensorIterator& plan, const RunRange& run) {
  constexpr int operands = 3;
  plan.for_each(
      [&](char** data, const std::int64_t* strides, std::int64_t size, std::int64_t rows) {
        const auto stride = [&](int operand) {
          return strides[operand] / static_cast<std::int64_t>(sizeof(T));
        };
        for (std::int64_t row = 0; row < rows; ++row) {
          const auto start = [&](int operand) {
            return reinterpret_cast<T*>(data[operand] + row * strides[operands + operand]);
          };
          run(Points<T>{size, start(1), stride(1), start(2), stride(2), start(0), stride(0)});
        }
      },
      grain);
}

// v, x and out have one dtype, T.
template <typename T>
void run_on_cpu(Quantity quantity, const at::Tensor& v, const at::Tensor& x, at::Tensor& out,
                SwitchingTable table) {
  auto plan = at::TensorIterator::binary_float_op(out, v, x);
  const bool has_short_rows = plan.ndim() > 1 && plan.shape()[0] < 256;
  if (has_short_rows) {  // too short for the blocks of the kernels: one long row instead
    const at::Tensor dense = at::empty(out.sizes(), out.options());
    const at::Tensor all_v = v.expand(out.sizes()).contiguous();
    const at::Tensor all_x = x.expand(out.sizes()).contiguous();
    run_points<T>(quantity,
                  {out.numel(), all_v.const_data_ptr<T>(), 1, all_x.const_data_ptr<T>(), 1,
                   dense.mutable_data_ptr<T>(), 1},
                  table);
    out.copy_(dense);
    return;
  }
  const Trace trace(
      name_of(quantity), implementation(table),
      [&] { return fmt::format("n={} {}", out.numel(), c10::toString(out.scalar_type())); },
      work_of<T>(out.numel()));
  for_each_part<T>(plan, [&](const Points<T>& part) { run_range(quantity, part, table); });
}

#if EINKORN_WITH_CUDA
CudaFunction cuda_function(Quantity quantity) {
  switch (quantity) {
    case Quantity::log_i:
      return CudaFunction::log_i;
    case Quantity::log_k:
      return CudaFunction::log_k;
    case Quantity::log_i_scaled:
      return CudaFunction::log_ie;
    case Quantity::log_k_scaled:
      return CudaFunction::log_ke;
    case Quantity::ratio_i:
      return CudaFunction::ratio_i;
    case Quantity::ratio_i_complement:
      return CudaFunction::ratio_i_complement;
    case Quantity::ratio_i_slope:
      return CudaFunction::ratio_i_slope;
    case Quantity::ratio_k:
      return CudaFunction::ratio_k;
    case Quantity::slope_k_scaled:
      return CudaFunction::slope_ke;
  }
  return CudaFunction::log_i;
}

CudaTable cuda_table(SwitchingTable table) {
  if (table == SwitchingTable::paper) return CudaTable::paper;
  return table == SwitchingTable::gpu3 ? CudaTable::gpu : CudaTable::uniform;
}

// One value, or the whole broadcast shape in row-major order.
template <typename T>
std::pair<const T*, std::int64_t> flat(at::Tensor& tensor, const at::Tensor& like) {
  tensor = tensor.to(like.device(), like.scalar_type());
  if (tensor.numel() == 1) return {tensor.const_data_ptr<T>(), 0};
  tensor = tensor.expand(like.sizes()).contiguous();
  return {tensor.const_data_ptr<T>(), 1};
}

template <typename T>
void run_on_cuda(Quantity quantity, at::Tensor v, at::Tensor x, const at::Tensor& out,
                 SwitchingTable table) {
  const c10::cuda::CUDAGuard guard(out.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Trace trace(
      name_of(quantity), "cuda", [&] { return fmt::format("n={}", out.numel()); },
      work_of<T>(out.numel()), Device::cuda);
  const at::Tensor dense = out.is_contiguous() ? out : at::empty_like(out).contiguous();
  const auto [v_data, v_stride] = flat<T>(v, dense);
  const auto [x_data, x_stride] = flat<T>(x, dense);
  launch_log_bessel(cuda_function(quantity), cuda_table(table), dense.numel(), v_data, v_stride,
                    x_data, x_stride, dense.mutable_data_ptr<T>(), stream.stream());
  if (!dense.is_same(out)) out.copy_(dense);
}
#endif

// Runs a function of (v, x) that has only CPU code on tensors of any device.
template <typename Compute>
at::Tensor by_way_of_cpu(const at::Tensor& v, const at::Tensor& x, const Compute& compute_on_cpu) {
  const at::Device device = v.is_cpu() ? x.device() : v.device();
  return compute_on_cpu(v.cpu(), x.cpu()).to(device);
}

void run(Quantity quantity, const at::Tensor& v, const at::Tensor& x, at::Tensor& out,
         SwitchingTable table) {
#if EINKORN_WITH_CUDA
  if (out.is_cuda()) {
    if (out.scalar_type() == at::kDouble) {
      run_on_cuda<double>(quantity, v, x, out, table);
    } else {
      run_on_cuda<float>(quantity, v, x, out, table);
    }
    return;
  }
#endif
  out.scalar_type() == at::kDouble ? run_on_cpu<double>(quantity, v, x, out, table)
                                   : run_on_cpu<float>(quantity, v, x, out, table);
}

// A function of one point on tensors of any device; those on CUDA go by way of the CPU.
template <typename Function>
at::Tensor map(const at::Tensor& v, const at::Tensor& x, const Function& function) {
  if (v.is_cuda() || x.is_cuda()) {
    return by_way_of_cpu(
        v, x, [&](const at::Tensor& a, const at::Tensor& b) { return map(a, b, function); });
  }
  const auto type = common_type(v, x);
  at::Tensor out;
  auto plan = at::TensorIterator::binary_float_op(out, v.detach().to(type), x.detach().to(type));
  const auto run_part = [&]<typename T>(const Points<T>& part) {
    for (std::int64_t i = 0; i < part.size; ++i) {
      part.out[i * part.out_stride] =
          static_cast<T>(function(static_cast<double>(part.v[i * part.v_stride]),
                                  static_cast<double>(part.x[i * part.x_stride])));
    }
  };
  type == at::kDouble ? for_each_part<double>(plan, run_part)
                      : for_each_part<float>(plan, run_part);
  return plan.output();
}

// Brackets of the inverse ratio, 2v r/(1-r^2) <= x <= (2v+2) r/(1-r^2), and Newton's method within.
double solve_ratio(double v, double ratio) {
  if (!(v >= 0) || !(ratio >= 0) || ratio > 1) return std::numeric_limits<double>::quiet_NaN();
  if (ratio == 0) return 0;
  if (ratio == 1) return std::numeric_limits<double>::infinity();
  const double complement = 1 - ratio;  // exact for ratio >= 1/2
  const double scale = ratio / (complement * (1 + ratio));
  double low = 2 * v * scale;
  double high = (2 * v + 2) * scale;
  // Banerjee's approximation lies between them.
  double x = scale * (2 * v + 2 - ratio * ratio);
  for (int i = 0; i < 100; ++i) {
    // The residual of the smaller of the two keeps its relative precision.
    const double residual = ratio < 0.5 ? iv_ratio(v, x) - ratio : complement - iv_ratio_c(v, x);
    (residual > 0 ? high : low) = x;
    double next = x - residual / iv_ratio_dx(v, x);
    if (!(next > low && next < high)) next = low + (high - low) / 2;
    const bool done = std::abs(next - x) <= 4e-16 * x;
    x = next;
    if (done) break;
  }
  return x;
}

}  // namespace

std::string to_string(SwitchingTable table) {
  return table == SwitchingTable::standard ? "default"
         : table == SwitchingTable::paper  ? "paper"
                                           : "gpu3";
}

SwitchingTable parse_switching_table(const std::string& name) {
  for (const SwitchingTable table :
       {SwitchingTable::standard, SwitchingTable::paper, SwitchingTable::gpu3}) {
    if (to_string(table) == name) return table;
  }
  throw InvalidArgument(fmt::format("table '{}': expected default, paper or gpu3{}", name,
                                    hint(name, {"default", "paper", "gpu3"})));
}

void evaluate(Quantity quantity, const Points<double>& points, SwitchingTable table) {
  require(table == SwitchingTable::standard || is_log(quantity),
          "table: ratios have only the default");
  run_points(quantity, points, table);
}

void evaluate(Quantity quantity, const Points<float>& points, SwitchingTable table) {
  require(table == SwitchingTable::standard || is_log(quantity),
          "table: ratios have only the default");
  run_points(quantity, points, table);
}

at::Tensor compute(Quantity quantity, const at::Tensor& v, const at::Tensor& x,
                   SwitchingTable table) {
  check_inputs(v, x, "x");
  const auto type = common_type(v, x);
  const at::Device device = v.is_cpu() ? x.device() : v.device();
  at::Tensor out = at::empty(at::infer_size(v.sizes(), x.sizes()),
                             at::TensorOptions().dtype(type).device(device));
  run(quantity, v.detach().to(type), x.detach().to(type), out, table);
  return out;
}

at::Tensor& evaluate_out(at::Tensor& out, Quantity quantity, const at::Tensor& v,
                         const at::Tensor& x, SwitchingTable table) {
  require(table == SwitchingTable::standard || is_log(quantity),
          "table: ratios have only the default");
  check_inputs(v, x, "x");
  require_dense(out, "out");
  const auto shape = at::infer_size(v.sizes(), x.sizes());
  require(out.sizes() == shape, "out: expected shape [{}], got [{}]", fmt::join(shape, ", "),
          fmt::join(out.sizes(), ", "));
  const auto type = common_type(v, x);
  require(out.scalar_type() == type, "out: expected dtype {}, got {}", c10::toString(type),
          c10::toString(out.scalar_type()));
  require(!out.requires_grad(), "out: must not require a gradient");
  run(quantity, v.detach().to(type), x.detach().to(type), out, table);
  return out;
}

at::Tensor compute_order_derivative(bool of_k, const at::Tensor& v, const at::Tensor& x) {
  check_inputs(v, x, "x");
  return of_k ? map(v, x, log_kv_dv) : map(v, x, log_iv_dv);
}

at::Tensor compute_ratio_inverse(const at::Tensor& v, const at::Tensor& ratio) {
  check_inputs(v, ratio, "ratio");
  return map(v, ratio, solve_ratio);
}

// ---- one point ----

namespace {

double at_point(Quantity quantity, double v, double x) {
  double out = 0;
  kernels_f64.pick()(quantity, {1, &v, 1, &x, 1, &out, 1});
  return out;
}

// v / x, and 0 at v = 0 even for x = 0.
double order_over_argument(double v, double x) {
  return v == 0 ? 0 : v / x;
}

}  // namespace

double log_iv(double v, double x) {
  return at_point(Quantity::log_i, v, x);
}
double log_kv(double v, double x) {
  return at_point(Quantity::log_k, v, x);
}
double log_ive(double v, double x) {
  return at_point(Quantity::log_i_scaled, v, x);
}
double log_kve(double v, double x) {
  return at_point(Quantity::log_k_scaled, v, x);
}
double iv_ratio(double v, double x) {
  return at_point(Quantity::ratio_i, v, x);
}
double iv_ratio_c(double v, double x) {
  return at_point(Quantity::ratio_i_complement, v, x);
}
double iv_ratio_dx(double v, double x) {
  return at_point(Quantity::ratio_i_slope, v, x);
}
double kv_ratio(double v, double x) {
  return at_point(Quantity::ratio_k, v, x);
}

double iv_ratio_inv(double v, double ratio) {
  return solve_ratio(v, ratio);
}

double log_iv_dx(double v, double x) {
  return order_over_argument(v, x) + iv_ratio(v, x);
}
double log_kv_dx(double v, double x) {
  return at_point(Quantity::slope_k_scaled, v, x) - 1;
}
double log_iv_dv(double v, double x) {
  return log_i_order_derivative(v, x);
}
double log_kv_dv(double v, double x) {
  return v < 0 ? -log_k_order_derivative(-v, x) : log_k_order_derivative(v, x);
}

SignedLog signed_log_iv(double v, double x) {
  if (v >= 0 || v == std::floor(v)) return {log_iv(v, x), 1};
  const double order = -v;
  const double sine = std::sin(std::numbers::pi * std::fmod(order, 2.0));
  const double log_i = log_iv(order, x);
  const double log_k = std::log(2 / std::numbers::pi * std::abs(sine)) + log_kv(order, x);
  const double larger = std::max(log_i, log_k);
  const double smaller = std::min(log_i, log_k);
  if (sine > 0) return {larger + std::log1p(std::exp(smaller - larger)), 1};
  return {larger + std::log(-std::expm1(smaller - larger)), log_i >= log_k ? 1 : -1};
}

}  // namespace einkorn::log_bessel
