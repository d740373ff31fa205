#include "einkorn/compute/log_bessel/log_bessel_experiments.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "einkorn/compute/log_bessel/log_bessel.h"
#include "einkorn/compute/log_bessel/reference_values_internal.h"
#include "einkorn/compute/log_bessel/von_mises_fisher.h"
#include "einkorn/core/random.h"
#include "einkorn/core/tensor.h"

namespace einkorn::log_bessel {
namespace {

constexpr double epsilon = std::numeric_limits<double>::epsilon();

at::Tensor to_tensor(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble);
}

// Uniform or log-uniform orders and arguments.
struct Pairs {
  at::Tensor v;
  at::Tensor x;
};

Pairs uniform_pairs(std::int64_t size, double low, double high, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> v(static_cast<std::size_t>(size));
  std::vector<double> x(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) {
    v[i] = random.uniform(low, high);
    x[i] = random.uniform(low, high);
  }
  return {to_tensor(v), to_tensor(x)};
}

Pairs log_uniform_pairs(std::int64_t size, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> v(static_cast<std::size_t>(size));
  std::vector<double> x(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) {
    v[i] = std::pow(10, random.uniform(-3, 6));
    x[i] = std::pow(10, random.uniform(-6, 8));
  }
  return {to_tensor(v), to_tensor(x)};
}

double seconds_of(Device device, const std::function<void()>& call) {
  return timed(call, device)();
}

// The best of a few calls; the first one warms up.
double best_seconds(Device device, const std::function<void()>& call) {
  call();
  double best = INFINITY;
  for (int i = 0; i < 5; ++i) best = std::min(best, seconds_of(device, call));
  return best;
}

// ---- accuracy ----

// The error in units of 2^-52 max(1, |reference|).
double scaled_error(double value, long double reference) {
  const long double error = static_cast<long double>(value) - reference;
  const long double scale = std::max(1.0L, std::abs(reference)) * epsilon;
  return static_cast<double>(std::abs(error) / scale);
}

void check_references(at::Device device, Evidence& evidence) {
  std::vector<double> v;
  std::vector<double> x;
  for (const BesselReference& one : bessel_references) {
    v.push_back(one.v);
    x.push_back(one.x);
  }
  const at::Tensor orders = to_tensor(v).to(device);
  const at::Tensor arguments = to_tensor(x).to(device);
  const at::Tensor log_i = log_iv(orders, arguments).cpu();
  const at::Tensor log_k = log_kv(orders, arguments).cpu();
  const at::Tensor ratio = iv_ratio(orders, arguments).cpu();
  double worst_i = 0;
  double worst_k = 0;
  double worst_ratio = 0;
  Table table{
      "Errors at the reference values, in units of 2^-52 of max(1, |log|) (ratio: relative)",
      {"v", "x", "log I", "error", "log K", "error", "ratio error"},
      {}};
  for (std::size_t i = 0; i < v.size(); ++i) {
    const BesselReference& one = bessel_references[i];
    const auto at = static_cast<std::int64_t>(i);
    const double i_value = log_i[at].item<double>();
    const double k_value = log_k[at].item<double>();
    const double i_error = scaled_error(i_value, one.log_i);
    const double k_error = scaled_error(k_value, one.log_k);
    const double ratio_error = static_cast<double>(
        std::abs(static_cast<long double>(ratio[at].item<double>()) / one.ratio - 1));
    table.rows.push_back({one.v, one.x, i_value, i_error, k_value, k_error, ratio_error});
    worst_i = std::max(worst_i, i_error);
    worst_k = std::max(worst_k, k_error);
    worst_ratio = std::max(worst_ratio, ratio_error);
  }
  const char* unit = "ulp of max(1, |log|)";
  evidence.checks.push_back({fmt::format("worst error of log I at {} reference values", v.size()),
                             worst_i, Relation::at_most, 4, 0, unit});
  evidence.checks.push_back({fmt::format("worst error of log K at {} reference values", v.size()),
                             worst_k, Relation::at_most, 4, 0, unit});
  evidence.checks.push_back(
      {"worst relative error of I_{v+1}/I_v there", worst_ratio, Relation::at_most, 1.6e-15});
  evidence.tables.push_back(std::move(table));
}

// |x (I_v K_{v+1} + I_{v+1} K_v) - 1| over the largest of 1 and the magnitudes of its four
// logarithms, each of which carries a rounding error of its own size.
void check_wronskian(at::Device device, Evidence& evidence) {
  const Pairs pairs = log_uniform_pairs(20000, 1);
  const at::Tensor v = pairs.v.to(device);
  const at::Tensor x = pairs.x.to(device);
  const at::Tensor i = log_iv(v, x);
  const at::Tensor k = log_kv(v, x);
  const at::Tensor next_i = log_iv(v + 1, x);
  const at::Tensor next_k = log_kv(v + 1, x);
  const at::Tensor first = (i + next_k + x.log()).exp();
  const at::Tensor second = (next_i + k + x.log()).exp();
  const at::Tensor scale = at::stack({i, k, next_i, next_k}).abs().amax(0).clamp_min(1);
  const at::Tensor scaled = ((first + second - 1).abs() / scale).cpu();
  evidence.checks.push_back({"worst Wronskian residual of 20000 pairs, v to 1e6, x to 1e8",
                             scaled.max().item<double>(), Relation::at_most, 1e-15, 0,
                             "of the largest |log|"});
  evidence.tables.push_back(
      {"Wronskian residuals over max(1, |log|) of the four functions",
       {"median", "99.9 %", "worst"},
       {{scaled.median().item<double>(), at::quantile(scaled, 0.999).item<double>(),
         scaled.max().item<double>()}}});
}

// How far the published table is from the default method, for one plot.
void plot_published_table(Evidence& evidence) {
  const Pairs small = uniform_pairs(1500, 0, 40, 2);
  Plot plot{"The published method in plain double against ours",
            "order v",
            "difference / max(1, |log|)",
            {},
            false,
            true};
  const auto add = [&](const char* name, const at::Tensor& ours, const at::Tensor& published) {
    const at::Tensor difference =
        ((published - ours).abs() / ours.abs().clamp_min(1)).clamp_min(1e-17);
    Series series{name, {}, {}, Mark::points};
    for (std::int64_t i = 0; i < difference.numel(); ++i) {
      series.x.push_back(small.v[i].item<double>());
      series.y.push_back(difference[i].item<double>());
    }
    plot.series.push_back(std::move(series));
  };
  add("log I", log_iv(small.v, small.x), log_iv(small.v, small.x, SwitchingTable::paper));
  add("log K", log_kv(small.v, small.x), log_kv(small.v, small.x, SwitchingTable::paper));
  evidence.plots.push_back(std::move(plot));
}

// ---- failures of the standard library ----

using StandardFunction = double (*)(double, double);

double log_of_standard(StandardFunction function, double v, double x) {
  try {
    return std::log(function(v, x));
  } catch (const std::exception&) {  // libstdc++ throws where its iteration does not converge
    return NAN;
  }
}

double standard_i(double v, double x) {
  return std::cyl_bessel_i(v, x);
}
double standard_k(double v, double x) {
  return std::cyl_bessel_k(v, x);
}

void count_failures(Evidence& evidence) {
  std::int64_t points = 0;
  std::int64_t ours = 0;
  std::int64_t standard_of_i = 0;
  std::int64_t standard_of_k = 0;
  for (double v = 150; v <= 10000; v += 985) {
    for (double x = 150; x <= 10000; x += 985) {
      points += 1;
      ours += !std::isfinite(log_iv(v, x)) + !std::isfinite(log_kv(v, x));
      standard_of_i += !std::isfinite(log_of_standard(standard_i, v, x));
      standard_of_k += !std::isfinite(log_of_standard(standard_k, v, x));
    }
  }
  evidence.checks.push_back({"failures of ours on the grid v, x = 150..10000, log I and log K",
                             static_cast<double>(ours), Relation::equal, 0});
  evidence.checks.push_back({"failures of std::cyl_bessel_i and _k + log there",
                             static_cast<double>(standard_of_i + standard_of_k), Relation::greater,
                             0});
  evidence.tables.push_back({"Results that are not finite, of the points of that grid",
                             {"function", "points", "failures"},
                             {{"ours, log I and log K", 2 * points, ours},
                              {"std::cyl_bessel_i + log", points, standard_of_i},
                              {"std::cyl_bessel_k + log", points, standard_of_k}}});
}

// ---- throughput ----

struct Range {
  const char* name;
  double low, high;
  double least_cpu;   // values/s a core, log I in f64
  double least_cuda;  // values/s; 0: no claim
};

constexpr Range ranges[] = {{"[0, 150]^2", 0, 150, 8e6, 0}, {"[150, 1e4]^2", 150, 1e4, 30e6, 2e10}};

void measure_throughput(bool full, Evidence& evidence) {
  const std::int64_t size = full ? 1000000 : 200000;
  Table table{"Throughput on all threads",
              {"range", "function", "dtype", "million values/s", "ns a value"},
              {}};
  double seconds_small = 0;
  for (const Range& range : ranges) {
    const Pairs pairs = uniform_pairs(size, range.low, range.high, 3);
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const at::Tensor v = pairs.v.to(dtype);
      const at::Tensor x = pairs.x.to(dtype);
      at::Tensor out = at::empty_like(v);
      for (const Quantity quantity : {Quantity::log_i, Quantity::log_k}) {
        const double seconds = best_seconds(
            Device::cpu, [&] { evaluate_out(out, quantity, v, x, SwitchingTable::standard); });
        const double each = seconds / static_cast<double>(size);
        table.rows.push_back({range.name, quantity == Quantity::log_i ? "log I" : "log K",
                              dtype == at::kDouble ? "f64" : "f32", 1e-6 / each, 1e9 * each});
        if (quantity == Quantity::log_k || dtype == at::kFloat) continue;
        if (range.low == 0) seconds_small = each;
        evidence.checks.push_back({fmt::format("log I in f64 a core on {}", range.name),
                                   1 / each / at::get_num_threads(), Relation::at_least,
                                   range.least_cpu, 0, "values/s"});
      }
    }
  }
  // The standard library where it has an answer.
  const Pairs pairs = uniform_pairs(2000, 0, 150, 4);
  double sum = 0;
  const double seconds_standard =
      seconds_of(Device::cpu,
                 [&] {
                   for (std::int64_t i = 0; i < pairs.v.numel(); ++i) {
                     sum += log_of_standard(standard_i, pairs.v[i].item<double>(),
                                            pairs.x[i].item<double>());
                   }
                 }) /
      static_cast<double>(pairs.v.numel());
  table.rows.push_back({"[0, 150]^2", "log(std::cyl_bessel_i), 1 thread", "f64",
                        1e-6 / seconds_standard, 1e9 * seconds_standard});
  evidence.checks.push_back({"speed-up over std::cyl_bessel_i + log on [0, 150]^2",
                             seconds_standard / seconds_small, Relation::at_least, 15, 0, "x"});
  evidence.tables.push_back(std::move(table));
}

// ---- von Mises-Fisher ----

void check_fits(Evidence& evidence) {
  double worst_kappa = 0;
  double worst_likelihood = 0;
  Table table{"Concentrations from mean resultant lengths",
              {"p", "R", "Banerjee", "Sra", "Tanabe", "MLE", "log C_p", "mean log-likelihood"},
              {}};
  for (const FitReference& one : fit_references) {
    const double kappa = fit_concentration(one.p, one.resultant_length);
    const double log_c = log_normalizer(one.p, kappa);
    const double likelihood = log_c + kappa * one.resultant_length;
    worst_kappa = std::max(worst_kappa, std::abs(kappa / one.mle - 1));
    worst_likelihood = std::max({worst_likelihood, std::abs(log_c / one.log_normalizer - 1),
                                 std::abs(likelihood / one.log_likelihood - 1)});
    const auto by = [&](FitMethod method) {
      return fit_concentration(one.p, one.resultant_length, method);
    };
    table.rows.push_back({static_cast<std::int64_t>(one.p), one.resultant_length,
                          by(FitMethod::banerjee), by(FitMethod::sra), by(FitMethod::tanabe), kappa,
                          log_c, likelihood});
  }
  evidence.checks.push_back({"worst relative error of the fitted kappa, p = 3 to 32768",
                             worst_kappa, Relation::at_most, 1e-14});
  evidence.checks.push_back({"worst relative error of log C_p and the log-likelihood",
                             worst_likelihood, Relation::at_most, 1e-14});
  evidence.tables.push_back(std::move(table));
}

void check_sampled_fit(at::Device device, Evidence& evidence) {
  constexpr std::int64_t p = 2048;
  constexpr double kappa = 4549;
  at::Tensor direction = at::zeros({p}, at::kDouble);
  direction[7] = 1;
  const at::Tensor points = sample(direction, kappa, 1000, 5).to(device);
  const VonMisesFisherFit found = fit(points);
  const double seconds_kappa =
      seconds_of(Device::cpu, [&] { fit_concentration(p, found.resultant_length); });
  const double cosine = found.mean_direction.dot(direction).item<double>();
  evidence.checks.push_back({"error of kappa from 1000 samples, p = 2048, kappa = 4549",
                             std::abs(found.concentration / kappa - 1), Relation::less, 0.01});
  evidence.checks.push_back(
      {"time to kappa from the mean", 1e3 * seconds_kappa, Relation::less, 5, 0, "ms"});
  evidence.tables.push_back(
      {"Fit to 1000 samples of our sampler",
       {"p", "kappa", "fitted", "cosine of the directions", "log-likelihood", "kappa from R (ms)"},
       {{p, kappa, found.concentration, cosine, found.log_likelihood, 1e3 * seconds_kappa}}});
}

// ---- GPU ----

void check_cuda(bool full, Evidence& evidence) {
  const std::int64_t size = full ? 100000000 : 20000000;
  const auto options = at::TensorOptions().dtype(at::kDouble).device(at::kCUDA);
  Table table{"One call on the GPU, f64", {"range", "function", "values", "billion values/s"}, {}};
  std::int64_t not_a_number = 0;
  double differing = 0;
  double worst = 0;
  double compared = 0;
  double far = 0;
  for (const Range& range : ranges) {
    const double width = range.high - range.low;
    const at::Tensor v = at::rand({size}, options) * width + range.low;
    const at::Tensor x = at::rand({size}, options) * width + range.low;
    for (const Quantity quantity : {Quantity::log_i, Quantity::log_k}) {
      at::Tensor out = at::empty_like(v);
      const double seconds = best_seconds(
          Device::cuda, [&] { evaluate_out(out, quantity, v, x, SwitchingTable::standard); });
      const char* name = quantity == Quantity::log_i ? "log I" : "log K";
      table.rows.push_back({range.name, name, size, 1e-9 * static_cast<double>(size) / seconds});
      if (range.least_cuda > 0) {
        evidence.checks.push_back({fmt::format("{} on the GPU on {}", name, range.name),
                                   static_cast<double>(size) / seconds, Relation::at_least,
                                   range.least_cuda, 0, "values/s"});
      }
      at::Tensor again = at::empty_like(v);
      evaluate_out(again, quantity, v, x, SwitchingTable::standard);
      differing += out.view(at::kLong).ne(again.view(at::kLong)).sum().item<double>();
      not_a_number += out.isnan().sum().item<std::int64_t>();
      constexpr std::int64_t some = 1000000;
      at::Tensor on_cpu = at::empty({some}, at::kDouble);
      evaluate_out(on_cpu, quantity, v.slice(0, 0, some).cpu(), x.slice(0, 0, some).cpu(),
                   SwitchingTable::standard);
      const at::Tensor error =
          (out.slice(0, 0, some).cpu() - on_cpu).abs() / on_cpu.abs().clamp_min(1) / epsilon;
      worst = std::max(worst, error.max().item<double>());
      far += error.gt(4).sum().item<double>();
      compared += static_cast<double>(some);
    }
  }
  evidence.checks.push_back(
      {"NaN among the GPU's results", static_cast<double>(not_a_number), Relation::equal, 0});
  evidence.checks.push_back(
      {"results that differ between two runs on the GPU", differing, Relation::equal, 0});
  // Each side may be 4 ulp off for one point in a thousand, and 1e-13 at worst.
  evidence.checks.push_back({"share of 4e6 values where GPU and CPU differ by more than 4 ulp",
                             far / compared, Relation::at_most, 1e-3});
  evidence.checks.push_back({"worst difference of GPU and CPU", worst * epsilon, Relation::at_most,
                             1e-13, 0, "of max(1, |log|)"});
  evidence.tables.push_back(std::move(table));
}

}  // namespace

Evidence reproduce(const ReproductionRun& run) {
  Evidence evidence;
  const at::Device device = to_torch(run.device);
  run.progress("accuracy", 1, 5);
  check_references(device, evidence);
  check_wronskian(device, evidence);
  plot_published_table(evidence);
  run.progress("failures", 2, 5);
  count_failures(evidence);
  run.progress("von Mises-Fisher", 3, 5);
  check_fits(evidence);
  check_sampled_fit(device, evidence);
  run.progress("throughput", 4, 5);
  measure_throughput(run.full, evidence);
  if (run.device == Device::cuda) {
    run.progress("GPU", 5, 5);
    check_cuda(run.full, evidence);
  }
  return evidence;
}

}  // namespace einkorn::log_bessel
