#include "einkorn/compute/log_bessel/log_bessel_cuda.h"

#include "einkorn/compute/log_bessel/log_bessel_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::log_bessel {
namespace {

using tables::DoubleDouble;

constexpr int threads_per_block = 256;
constexpr int points_per_thread = 4;
constexpr int points_per_block = threads_per_block * points_per_thread;

using Function = CudaFunction;

constexpr bool is_log(Function function) {
  return function <= Function::log_ke;
}
constexpr bool is_i(Function function) {
  return function != Function::log_k && function != Function::log_ke &&
         function != Function::ratio_k && function != Function::slope_ke;
}
constexpr bool is_scaled(Function function) {
  return function == Function::log_ie || function == Function::log_ke;
}

// How a point is computed. The first four are the uniform expansion with terms_of<branch> terms.
enum Branch : int {
  fallback = 4,     // power series for I, trapezoid rule for K
  temme = 5,        // K with x <= 1
  hankel = 6,       // the expansion in 1/x; the paper's tables only
  exceptional = 7,  // NaN, infinities, zeros, and magnitudes that overflow or underflow on the way
  branch_count = 8
};

constexpr int paper_terms[4] = {4, 6, 9, 13};

template <typename T, bool kPaper, int kBranch>
constexpr int terms_of = kPaper ? paper_terms[kBranch] : device::Precision<T>::steps[kBranch].terms;

// The row of the paper's table; the first that matches. log v of 0 is -1000 as in the paper's code.
__device__ inline int hankel_terms(CudaTable table, double order, double argument) {
  const double log_order = order > 0 ? log(order) : -1000.0;
  const double log_argument = log(argument);
  if (table == CudaTable::paper && ((argument > 1400 && order < 3.05) ||
                                    (0.6229 * log_argument - 3.2318 > log_order && order > 3.1))) {
    return 3;
  }
  if ((argument > 30 && order < 15.3919) ||
      (0.5113 * log_argument + 0.7939 > log_order && argument > 59.6925)) {
    return 20;
  }
  return 0;
}

__device__ inline int paper_branch(CudaTable table, double order, double argument) {
  if (hankel_terms(table, order, argument) > 0) return hankel;
  if (table == CudaTable::paper) {
    if ((argument > 274.2377 && order > 0.3) || order > 163.6993) return 0;
    if ((argument > 84.4153 && order > 0.46) || order > 56.9971) return 1;
    if ((argument > 35.9074 && order > 0.6) || order > 20.1534) return 2;
  }
  if ((argument > 19.6931 && order > 0.7) || order > 12.6964) return 3;
  return fallback;
}

template <Function kFunction, typename T, int kBranch>
constexpr device::ExpansionStep step_of =
    is_log(kFunction) ? device::Precision<T>::steps[kBranch]
                      : device::Precision<T>::ratio_steps[kBranch];

template <Function kFunction, typename T>
__device__ inline int uniform_branch(double order, double argument) {
  constexpr device::ExpansionStep steps[4] = {step_of<kFunction, T, 0>, step_of<kFunction, T, 1>,
                                              step_of<kFunction, T, 2>, step_of<kFunction, T, 3>};
  const float v = static_cast<float>(order);
  const float x = static_cast<float>(argument);
  const float h2 = fmaf(v, v, x * x);
#pragma unroll
  for (int branch = 0; branch < 4; ++branch) {
    if (h2 >= steps[branch].bound * steps[branch].bound) return branch;
  }
  return fallback;
}

// Order as the formulas want it: log K is even in v, and I_{-n} = I_n for whole n.
template <Function kFunction>
__device__ inline double canonical_order(double order) {
  if (__double2hiint(order) >= 0) return order;
  const bool even = is_log(kFunction) && (!is_i(kFunction) || order == rint(order));
  return even || order == 0 ? fabs(order) : order;
}

template <Function kFunction, typename T, bool kPaper>
__device__ inline int branch_of(CudaTable table, double order, double argument) {
  // The sign bit makes the high word of a negative number large as an unsigned one.
  const unsigned order_word = static_cast<unsigned>(__double2hiint(order));
  const unsigned argument_word = static_cast<unsigned>(__double2hiint(argument));
  constexpr unsigned too_large = (1023u + 500u) << 20;
  constexpr unsigned too_small = (1023u - 960u) << 20;
  const int branch =
      kPaper ? paper_branch(table, order, argument) : uniform_branch<kFunction, T>(order, argument);
  if (order_word >= too_large || argument_word >= too_large || argument == 0) return exceptional;
  if (!is_i(kFunction) && branch == fallback && argument <= 1) return temme;
  if (argument_word < too_small) return exceptional;
  return branch;
}

template <typename T, bool kPaper>
__device__ inline double series_of(int branch, double w, double t2) {
  switch (branch) {
    case 0:
      return device::debye_series<terms_of<T, kPaper, 0>, 0>(device::debye.value, w, t2);
    case 1:
      return device::debye_series<terms_of<T, kPaper, 1>, 0>(device::debye.value, w, t2);
    case 2:
      return device::debye_series<terms_of<T, kPaper, 2>, 0>(device::debye.value, w, t2);
    default:
      return device::debye_series<terms_of<T, kPaper, 3>, 0>(device::debye.value, w, t2);
  }
}

template <typename T, int kBranch>
constexpr int ratio_terms_of = device::Precision<T>::ratio_steps[kBranch].terms;

// The series of a derivative in x: kExtra is 0 for `debye.argument` and 1 for `debye.second`.
template <typename T, int kExtra, int kRows, int kColumns>
__device__ __forceinline__ double derivative_series_of(const double (&table)[kRows][kColumns],
                                                       int branch, double w, double t2) {
  switch (branch) {
    case 0:
      return device::debye_series<ratio_terms_of<T, 0>, kExtra>(table, w, t2);
    case 1:
      return device::debye_series<ratio_terms_of<T, 1>, kExtra>(table, w, t2);
    case 2:
      return device::debye_series<ratio_terms_of<T, 2>, kExtra>(table, w, t2);
    default:
      return device::debye_series<ratio_terms_of<T, 3>, kExtra>(table, w, t2);
  }
}

// (a + b) - c, with the rounding error of each step kept.
__device__ inline double sum_of_three(DoubleDouble a, DoubleDouble b, double c) {
  const DoubleDouble first = tables::two_sum(a.high, b.high);
  const DoubleDouble second = tables::two_sum(first.high, -c);
  return second.high + (second.low + (first.low + (a.low + b.low)));
}

// log I by the power series; x as a separate product so that q = x^2/4 may underflow to 0.
template <typename T>
__device__ inline double log_i_by_series(double order, double argument, double subtracted) {
  const device::Fraction sum = device::power_series(order, argument);
  const int steps = static_cast<int>(rint(order));
  double gamma_factors = 1;
  for (int j = 0; j < steps; ++j) gamma_factors *= order - j;
  const double reciprocal_gamma = device::reciprocal_gamma(order - steps).plus;
  const DoubleDouble logarithm = device::log_quotient<T>(sum.numerator * reciprocal_gamma,
                                                         sum.numerator_low * reciprocal_gamma,
                                                         sum.denominator * gamma_factors);
  const DoubleDouble log_half = device::log_quotient<T>(argument, 0.0, 2.0);
  const double power = order * log_half.high;
  const double power_low = fma(order, log_half.low, fma(order, log_half.high, -power));
  return sum_of_three({power, power_low}, logarithm, subtracted);
}

template <typename T>
__device__ inline double log_k_by_temme(double order, double argument, double subtracted) {
  const device::ScaledK k = device::temme_k<T>(order, argument);
  const DoubleDouble logarithm = device::log_quotient<T>(k.value, 0.0, 1.0);
  const double power = order * k.log_two_over_x.high;
  const double power_low =
      fma(order, k.log_two_over_x.low, fma(order, k.log_two_over_x.high, -power));
  return sum_of_three({power, power_low}, logarithm, subtracted);
}

// log I or log K, whose logarithm beside E is one of a quotient: (1 + series)^2 / (2 pi h) for I,
// its reciprocal factor pi / (2 h) for K, or the integral of K.
template <Function kFunction, typename T, bool kPaper>
__device__ inline double log_of(int branch, CudaTable table, double order, double argument) {
  constexpr double sign = is_i(kFunction) ? 1.0 : -1.0;
  constexpr bool scaled = is_scaled(kFunction);
  const double subtracted = scaled ? sign * argument : 0.0;
  if (branch == fallback && is_i(kFunction)) {
    return log_i_by_series<T>(order, argument, subtracted);
  }
  if (branch == temme) return log_k_by_temme<T>(order, argument, subtracted);
  double numerator;
  double denominator;
  double exponent;
  double exponent_low = 0;
  if (kPaper && branch == hankel) {
    const double sum =
        device::hankel_sum(hankel_terms(table, order, argument), -sign, order, argument);
    numerator = sum * sum;
    denominator = argument;
    exponent = scaled ? 0.0 : sign * argument;
  } else {
    const device::Debye at = device::debye_variables<T>(order, argument);
    const DoubleDouble e = device::debye_exponent<T, scaled>(at, order, argument);
    exponent = sign * e.high;
    exponent_low = sign * e.low;
    if (branch == fallback) {
      const device::IntegralSums sums = device::integrate_k<T>(order, at.h);
      const double half_integral = 0.5 * sums.value * sums.spacing;
      return sum_of_three({exponent, exponent_low},
                          device::log_quotient<T>(half_integral, 0.0, 1.0), 0.0);
    }
    const double w = sign * at.inverse_h;
    const double sum = fma(w, series_of<T, kPaper>(branch, w, at.t2), 1.0);
    numerator = sum * sum;
    denominator = at.h;
  }
  constexpr double factor = is_i(kFunction) ? 2 * device::pi : 2 / device::pi;
  const DoubleDouble logarithm = device::log_quotient<T>(numerator, 0.0, factor * denominator);
  return sum_of_three({exponent, exponent_low}, {0.5 * logarithm.high, 0.5 * logarithm.low}, 0.0);
}

// Where the uniform expansion does not reach.
template <Function kFunction, typename T>
__device__ inline double ratio_near_origin(int branch, double order, double argument) {
  if constexpr (kFunction == Function::ratio_i) {
    return device::ratio_i_by_recurrence(order, argument);
  } else if constexpr (kFunction == Function::ratio_i_complement) {
    return device::ratio_i_complement_by_recurrence(order, argument);
  } else if constexpr (kFunction == Function::ratio_i_slope) {
    return device::ratio_i_slope_by_recurrence(order, argument);
  } else if (branch == temme) {
    const device::ScaledK k = device::temme_k<T>(order, argument);
    if (kFunction == Function::ratio_k) return 2 * (k.next / k.value) / argument;
    return 1 + 2 * fma(0.5 * order, k.value, -k.next) / (k.value * argument);
  } else {
    const double h = device::debye_variables<T>(order, argument).h;
    const device::IntegralSums sums = device::integrate_next_k<T>(order, h);
    const double added = sums.added / sums.value;
    if (kFunction == Function::ratio_k) return (order + h) / argument * (1 + added);
    return -(order * order / (h + argument) + (order + h) * added) / argument;
  }
}

// By the derivatives of the uniform expansion of the logarithms in x, with a = 1/h, p = (v/h)^2 and
// c = x a^2 (1/2 + sum (+-a)^k Q_k(p)), + for I and - for K:
//   I_{v+1}/I_v = x/(v + h) - c,  its slope = v/(h (v + h)) + a^2 (1/2 - p - sum a^k R_k(p)),
//   K_{v+1}/K_v = (v + h)/x + c,  slope of log e^x K_v = (x - h)/x - c,
// with the terms arranged so that nothing cancels: h - x is v^2/(h + x).
template <Function kFunction, typename T>
__device__ inline double ratio_of(int branch, double order, double argument) {
  if (branch >= fallback) return ratio_near_origin<kFunction, T>(branch, order, argument);
  const device::Debye at = device::debye_variables<T>(order, argument);
  const double a = at.inverse_h;
  const double sum = order + at.h;
  if constexpr (kFunction == Function::ratio_i_slope) {
    const double terms =
        fma(-a, derivative_series_of<T, 1>(device::debye.second, branch, a, at.t2), 0.5 - at.t2);
    return a * fma(order, device::reciprocal(sum), a * terms);
  } else {
    const double w = is_i(kFunction) ? a : -a;
    const double correction =
        argument * (a * a) *
        fma(w, derivative_series_of<T, 0>(device::debye.argument, branch, w, at.t2), 0.5);
    if constexpr (kFunction == Function::ratio_k) return sum / argument + correction;
    const double h_minus_x = order * order * device::reciprocal(at.h + argument);
    if constexpr (kFunction == Function::slope_ke) return -(h_minus_x / argument + correction);
    const double inverse_sum = device::reciprocal(sum);
    if constexpr (kFunction == Function::ratio_i) return fma(argument, inverse_sum, -correction);
    return fma(order + h_minus_x, inverse_sum, correction);
  }
}

template <Function kFunction, typename T, bool kPaper>
__device__ inline double value_of(int branch, CudaTable table, double order, double argument) {
  if constexpr (is_log(kFunction)) {
    return log_of<kFunction, T, kPaper>(branch, table, order, argument);
  } else {
    return ratio_of<kFunction, T>(branch, order, argument);
  }
}

// Orders or arguments of 2^500 and more, where squares overflow: E is homogeneous of degree one.
template <Function kFunction>
__device__ double value_at_huge(double order, double argument) {
  constexpr double scale = 0x1p-600;
  constexpr double log_scale = 600 * 0.69314718055994530942;
  const double small_order = order * scale;
  const double small_argument = argument * scale;
  const double h = sqrt(fma(small_order, small_order, small_argument * small_argument));
  const double correction = 0.5 * scale * (small_argument / h) / h;
  const double h_minus_x = small_order * (small_order / (h + small_argument));
  if constexpr (kFunction == Function::ratio_i) return small_argument / (small_order + h);
  if constexpr (kFunction == Function::ratio_i_complement) {
    return (small_order + h_minus_x) / (small_order + h) + correction;
  }
  if constexpr (kFunction == Function::ratio_i_slope) {
    const double t = small_order / h;
    return scale * (t / (small_order + h) + scale * (0.5 - t * t) / h / h);
  }
  if constexpr (kFunction == Function::ratio_k) return (small_order + h) / small_argument;
  if constexpr (kFunction == Function::slope_ke) {
    return -(h_minus_x / small_argument + correction);
  }
  const double ratio = order / argument;
  const double logarithm = isinf(ratio) ? log(2.0) + log(order) - log(argument) : asinh(ratio);
  const double start = is_scaled(kFunction) ? h_minus_x : h;
  const double exponent = (start - small_order * logarithm) / scale;
  const double half_log_h = 0.5 * (log(h) + log_scale);
  if (is_i(kFunction)) return exponent - half_log_h - 0.5 * log(2 * device::pi);
  return -exponent - half_log_h + 0.5 * log(0.5 * device::pi);
}

// The limit where the argument is zero or the order infinite (at_zero), or the argument infinite.
template <Function kFunction>
__device__ double limit_of(double order, bool at_zero) {
  const double infinity = __longlong_as_double(0x7ff0000000000000ll);
  switch (kFunction) {
    case Function::log_i:
      return !at_zero ? infinity : order == 0 ? 0.0 : -infinity;
    case Function::log_ie:
      return at_zero && order == 0 ? 0.0 : -infinity;
    case Function::log_k:
    case Function::log_ke:
      return at_zero ? infinity : -infinity;
    case Function::ratio_i:
      return at_zero ? 0.0 : 1.0;
    case Function::ratio_i_complement:
      return at_zero ? 1.0 : 0.0;
    case Function::ratio_i_slope:
      return at_zero ? 0.5 / (order + 1) : 0.0;
    case Function::ratio_k:
      return at_zero ? infinity : 1.0;
    case Function::slope_ke:
      return at_zero ? -infinity : 0.0;
  }
  return infinity;
}

template <Function kFunction, typename T, bool kPaper>
__device__ __noinline__ double exceptional_value(CudaTable table, double order, double argument) {
  const double nan = __longlong_as_double(0x7ff8000000000000ll);
  if (!(order >= 0) || !(argument >= 0) || (isinf(order) && isinf(argument))) return nan;
  const bool at_zero = argument == 0 || isinf(order);
  if (at_zero || isinf(argument)) return limit_of<kFunction>(order, at_zero);
  if (order >= 0x1p500 || argument >= 0x1p500) return value_at_huge<kFunction>(order, argument);
  // Tiny arguments: only the first power of x counts.
  if constexpr (kFunction == Function::ratio_i) return 0.5 * argument / (order + 1);
  if constexpr (kFunction == Function::ratio_i_complement) return 1.0;
  if constexpr (kFunction == Function::ratio_i_slope) return 0.5 / (order + 1);
  if constexpr (kFunction == Function::ratio_k) return 2 * order / argument;
  if constexpr (kFunction == Function::slope_ke) return -order / argument;
  const double larger = argument * 0x1p128;  // then at least 2^-946
  const int branch = branch_of<kFunction, T, kPaper>(table, order, larger);
  const double log_factor = order * (128 * 0.69314718055994530942);
  const double value = value_of<kFunction, T, kPaper>(branch, table, order, larger);
  return is_i(kFunction) ? value - log_factor : value + log_factor;
}

// The points of a block, sorted by branch so that warps rarely diverge.
template <typename T>
struct Tile {
  T order[points_per_block];
  T argument[points_per_block];  // then the results
  unsigned short sorted[points_per_block];
  int count[branch_count];
  int first[branch_count];  // place in `sorted`
};

// Where each of the thread's points goes in the tile's order of branches. Points of one branch take
// places in no particular order: their results do not depend on it.
template <typename T>
__device__ inline void sort_by_branch(Tile<T>& tile, const int (&branches)[points_per_thread],
                                      int count) {
  int rank[points_per_thread];
#pragma unroll
  for (int i = 0; i < points_per_thread; ++i) {
    const unsigned same = __match_any_sync(0xffffffffu, branches[i]);
    const int lane = threadIdx.x % 32;
    const int leader = __ffs(same) - 1;
    int base = 0;
    if (lane == leader && branches[i] < branch_count) {
      base = atomicAdd(&tile.count[branches[i]], __popc(same));
    }
    rank[i] = __shfl_sync(0xffffffffu, base, leader) + __popc(same & ((1u << lane) - 1));
  }
  __syncthreads();
  // The dearest branches come first, so that no block ends with them.
  if (threadIdx.x < branch_count) {
    int first = 0;
    for (int branch = branch_count - 1; branch > static_cast<int>(threadIdx.x); --branch) {
      first += tile.count[branch];
    }
    tile.first[threadIdx.x] = first;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < points_per_thread; ++i) {
    const int point = i * threads_per_block + static_cast<int>(threadIdx.x);
    if (point >= count) continue;
    const int place = tile.first[branches[i]] + rank[i];
    tile.sorted[place] = static_cast<unsigned short>(branches[i] * points_per_block + point);
  }
}

template <Function kFunction, typename T, bool kPaper>
__global__ void __launch_bounds__(threads_per_block)
    log_bessel_kernel(CudaTable table, std::int64_t total, const T* order,
                      std::int64_t order_stride, const T* argument, std::int64_t argument_stride,
                      T* out) {
  __shared__ Tile<T> tile;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * points_per_block;
  const int count =
      static_cast<int>(min(static_cast<std::int64_t>(points_per_block), total - first));
  if (threadIdx.x < branch_count) tile.count[threadIdx.x] = 0;
  double orders[points_per_thread];
  double arguments[points_per_thread];
  int branches[points_per_thread];
  bool large = true;
#pragma unroll
  for (int i = 0; i < points_per_thread; ++i) {
    const int point = i * threads_per_block + static_cast<int>(threadIdx.x);
    orders[i] = arguments[i] = 1;
    branches[i] = branch_count;
    if (point >= count) continue;
    orders[i] = canonical_order<kFunction>(order[(first + point) * order_stride]);
    arguments[i] = argument[(first + point) * argument_stride];
    branches[i] = branch_of<kFunction, T, kPaper>(table, orders[i], arguments[i]);
    large = large && branches[i] == 0;
  }
  if (__syncthreads_and(large)) {
    // The commonest case by far: large orders or arguments throughout.
#pragma unroll
    for (int i = 0; i < points_per_thread; ++i) {
      const int point = i * threads_per_block + static_cast<int>(threadIdx.x);
      const double value = value_of<kFunction, T, kPaper>(0, table, orders[i], arguments[i]);
      if (point < count) out[first + point] = static_cast<T>(value);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < points_per_thread; ++i) {
    const int point = i * threads_per_block + static_cast<int>(threadIdx.x);
    tile.order[point] = static_cast<T>(orders[i]);
    tile.argument[point] = static_cast<T>(arguments[i]);
  }
  sort_by_branch(tile, branches, count);
  __syncthreads();
#pragma unroll 1
  for (int place = threadIdx.x; place < count; place += threads_per_block) {
    const int branch = tile.sorted[place] / points_per_block;
    const int point = tile.sorted[place] % points_per_block;
    const double v = tile.order[point];
    const double x = tile.argument[point];
    const double value = branch == exceptional
                             ? exceptional_value<kFunction, T, kPaper>(table, v, x)
                             : value_of<kFunction, T, kPaper>(branch, table, v, x);
    tile.argument[point] = static_cast<T>(value);
  }
  __syncthreads();
  for (int point = threadIdx.x; point < count; point += threads_per_block) {
    out[first + point] = tile.argument[point];
  }
}

template <Function kFunction, typename T, bool kPaper>
void launch(CudaTable table, std::int64_t count, const T* order, std::int64_t order_stride,
            const T* argument, std::int64_t argument_stride, T* out, void* stream) {
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>((count + points_per_block - 1) / points_per_block);
  log_bessel_kernel<kFunction, T, kPaper>
      <<<blocks, threads_per_block, 0, static_cast<cudaStream_t>(stream)>>>(
          table, count, order, order_stride, argument, argument_stride, out);
  check_launch("log_bessel");
}

template <typename T>
void dispatch(Function function, CudaTable table, std::int64_t count, const T* order,
              std::int64_t order_stride, const T* argument, std::int64_t argument_stride, T* out,
              void* stream) {
  const auto run = [&](auto launcher) {
    launcher(table, count, order, order_stride, argument, argument_stride, out, stream);
  };
  const auto run_log = [&](auto uniform, auto paper) {
    if (table == CudaTable::uniform) {
      run(uniform);
    } else {
      run(paper);
    }
  };
  switch (function) {
    case Function::log_i:
      return run_log(launch<Function::log_i, T, false>, launch<Function::log_i, T, true>);
    case Function::log_k:
      return run_log(launch<Function::log_k, T, false>, launch<Function::log_k, T, true>);
    case Function::log_ie:
      return run_log(launch<Function::log_ie, T, false>, launch<Function::log_ie, T, true>);
    case Function::log_ke:
      return run_log(launch<Function::log_ke, T, false>, launch<Function::log_ke, T, true>);
    case Function::ratio_i:
      return run(launch<Function::ratio_i, T, false>);
    case Function::ratio_i_complement:
      return run(launch<Function::ratio_i_complement, T, false>);
    case Function::ratio_i_slope:
      return run(launch<Function::ratio_i_slope, T, false>);
    case Function::ratio_k:
      return run(launch<Function::ratio_k, T, false>);
    case Function::slope_ke:
      return run(launch<Function::slope_ke, T, false>);
  }
}

}  // namespace

void launch_log_bessel(CudaFunction function, CudaTable table, std::int64_t count,
                       const double* order, std::int64_t order_stride, const double* argument,
                       std::int64_t argument_stride, double* out, void* stream) {
  dispatch(function, table, count, order, order_stride, argument, argument_stride, out, stream);
}

void launch_log_bessel(CudaFunction function, CudaTable table, std::int64_t count,
                       const float* order, std::int64_t order_stride, const float* argument,
                       std::int64_t argument_stride, float* out, void* stream) {
  dispatch(function, table, count, order, order_stride, argument, argument_stride, out, stream);
}

}  // namespace einkorn::log_bessel
