#include "einkorn/core/system.h"

#include <cmath>

#include "einkorn/compute/log_bessel/log_bessel.h"
#include "einkorn/compute/log_bessel/log_bessel_experiments.h"
#include "einkorn/compute/log_bessel/log_bessel_kernels.h"
#include "einkorn/compute/log_bessel/von_mises_fisher.h"
#include "einkorn/core/error.h"
#include "einkorn/core/python_peer.h"
#include "einkorn/core/random.h"
#include "einkorn/core/tensor.h"

namespace einkorn::log_bessel {
namespace {

// ---- eval ----

struct NamedQuantity {
  const char* name;
  Quantity quantity;
};

constexpr NamedQuantity named_quantities[] = {
    {"i", Quantity::log_i},         {"k", Quantity::log_k},
    {"ie", Quantity::log_i_scaled}, {"ke", Quantity::log_k_scaled},
    {"ratio", Quantity::ratio_i},   {"ratio-complement", Quantity::ratio_i_complement},
    {"k-ratio", Quantity::ratio_k},
};

std::vector<std::string> quantity_names() {
  std::vector<std::string> names;
  for (const NamedQuantity& one : named_quantities) names.push_back(one.name);
  return names;
}

Quantity quantity_named(const std::string& name) {
  for (const NamedQuantity& one : named_quantities) {
    if (name == one.name) return one.quantity;
  }
  throw InvalidArgument(fmt::format("kind: unknown '{}'", name));
}

// A value or an array: exactly one of --NAME and --NAME-file.
at::Tensor operand(const Options& options, const std::string& name, at::Device device) {
  const bool has_value = options.has(name);
  const bool has_file = options.has(name + "-file");
  require(has_value != has_file, "--{} or --{}-file: expected exactly one of them", name, name);
  if (has_value) return at::scalar_tensor(options.real(name), at::kDouble).to(device);
  return read_tensor(options.input(name + "-file")).to(device);
}

Report run_eval(const Options& options, const Progress&) {
  const Quantity quantity = quantity_named(options.text("kind"));
  const SwitchingTable table = parse_switching_table(options.text("table"));
  const at::Device device = to_torch(options.device());
  const at::Tensor v = operand(options, "order", device);
  const at::Tensor x = operand(options, "x", device);
  const bool is_f32 = v.scalar_type() == at::kFloat || x.scalar_type() == at::kFloat;
  const bool has_file = options.has("order-file") || options.has("x-file");
  require(has_file == options.has("out"), "--out: {}",
          has_file ? "needed where --order-file or --x-file is given" : "only for arrays");
  const auto dtype =
      is_f32 && has_file && at::result_type(v, x) == at::kFloat ? at::kFloat : at::kDouble;
  at::Tensor out = at::empty(at::infer_size(v.sizes(), x.sizes()),
                             at::TensorOptions().dtype(dtype).device(device));
  evaluate_out(out, quantity, v.to(dtype), x.to(dtype), table);
  Report report;
  if (!has_file) return report.set("value", out.item<double>());
  write_tensor(options.output("out"), out);
  report.set("count", out.numel());
  report.set("shape", out.sizes().vec());
  report.set("not_finite", out.isfinite().logical_not().sum().item<std::int64_t>());
  return report;
}

Job eval_job() {
  return {"eval",
          "log I, log K, their scaled forms, or a ratio, at one point or for arrays",
          {choice("kind", quantity_names())
               .otherwise("i")
               .help("i: log I; k: log K; ie, ke: of e^-x I and e^x K; ratio: I_{v+1}/I_v; "
                     "ratio-complement: 1 - ratio; k-ratio: K_{v+1}/K_v"),
           real("order").help("the order v"), real("x").help("the argument"),
           input_file("order-file")
               .help("orders as .npy, any shape that broadcasts with the arguments"),
           input_file("x-file").help("arguments as .npy"),
           output_file("out").help("write the results of arrays to this .npy"),
           choice("table", {"default", "paper", "gpu3"})
               .otherwise("default")
               .help("which expansions serve a point: ours, the published table, its GPU form"),
           device_option()},
          run_eval,
          {"log-bessel eval --kind i --order 1023 --x 2500",
           "log-bessel eval --kind k --order 2.5 --x-file x.npy --out log_k.npy"}};
}

// ---- von Mises-Fisher ----

std::vector<double> to_vector(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.to(at::kCPU, at::kDouble).contiguous();
  const double* data = dense.const_data_ptr<double>();
  return {data, data + dense.numel()};
}

at::Tensor read_points(const Options& options) {
  at::Tensor points = read_tensor(options.input("file"));
  require(
      at::isFloatingType(points.scalar_type()) || at::isIntegralType(points.scalar_type(), false),
      "{}: expected real numbers", options.input("file").string());
  if (points.scalar_type() != at::kFloat) points = points.to(at::kDouble);
  return points.to(to_torch(options.device()));
}

Option points_option() {
  return input_file("file").positional().required().help(
      "unit vectors as rows: .npy of shape [n, p], or an .npz with one array");
}

Option normalize_option() {
  return flag("normalize")
      .help("scale rows to unit length (else rows of another length are refused)");
}

Report run_fit(const Options& options, const Progress&) {
  const at::Tensor points = read_points(options);
  const VonMisesFisherFit found =
      fit(points, parse_fit_method(options.text("method")), options.flag("normalize"));
  Report report;
  report.set("kappa", found.concentration);
  report.set("log_likelihood", found.log_likelihood, "nats");
  report.set("mean_log_likelihood", found.mean_log_likelihood, "nats");
  report.set("resultant_length", found.resultant_length);
  report.set("entropy", entropy(points.size(1), found.concentration), "nats");
  report.set("rows", points.size(0));
  report.set("dimension", points.size(1));
  report.set("mean_direction", to_vector(found.mean_direction));
  if (options.has("out")) write_tensor(options.output("out"), found.mean_direction);
  return report;
}

Job fit_job() {
  return {"vmf-fit",
          "the von Mises-Fisher distribution that fits unit vectors best",
          {points_option(),
           choice("method", fit_method_names())
               .otherwise("mle")
               .help("mle: Newton's method within its bracket; newton: without; sra: two steps; "
                     "tanabe: interpolation; banerjee: closed form"),
           normalize_option(), output_file("out").help("write the mean direction to this .npy"),
           device_option()},
          run_fit,
          {"log-bessel vmf-fit features.npy", "log-bessel vmf-fit features.npy --normalize"}};
}

Report run_sample(const Options& options, const Progress&) {
  require(options.has("mean") != options.has("dimension"),
          "--mean or --dimension: expected exactly one of them");
  at::Tensor mean;
  if (options.has("mean")) {
    mean = read_tensor(options.input("mean")).to(at::kDouble);
  } else {
    mean = at::zeros({options.integer("dimension")}, at::kDouble);
    mean[0] = 1;
  }
  const double kappa = options.real("kappa");
  const at::Tensor points = sample(mean, kappa, options.integer("count"), options.seed());
  write_tensor(options.output("out"), options.flag("f32") ? points.to(at::kFloat) : points);
  Report report;
  report.set("rows", points.size(0));
  report.set("dimension", points.size(1));
  report.set("mean_cosine", points.size(0) > 0 ? points.mv(mean).mean().item<double>() : NAN);
  report.set("expected_cosine", mean_resultant_length(points.size(1), kappa));
  return report;
}

Job sample_job() {
  return {"vmf-sample",
          "draws unit vectors from a von Mises-Fisher distribution",
          {integer("dimension").at_least(2).help("p; the mean direction is the first axis"),
           input_file("mean").help("mean direction as .npy of shape [p]"),
           real("kappa").required().at_least(0).help("concentration"),
           integer("count").at_least(0).otherwise(1000).help("number of vectors"),
           output_file("out").required().help("write the vectors to this .npy, shape [count, p]"),
           flag("f32").help("write 32-bit numbers"), seed_option()},
          run_sample,
          {"log-bessel vmf-sample --dimension 512 --kappa 900 --count 10000 --out points.npy"}};
}

Report run_mixture(const Options& options, const Progress& progress) {
  MixtureOptions how;
  how.components = options.integer("components");
  how.hard = options.flag("hard");
  how.restarts = options.integer("restarts");
  how.iterations = options.integer("iterations");
  how.tolerance = options.real("tolerance");
  if (options.has("max-kappa")) how.max_concentration = options.real("max-kappa");
  how.normalize = options.flag("normalize");
  how.seed = options.seed();
  const Mixture found = fit_mixture(read_points(options), how, progress);
  Report report;
  report.set("mean_log_likelihood", found.mean_log_likelihood, "nats");
  report.set("weights", to_vector(found.weights));
  report.set("kappas", to_vector(found.concentrations));
  report.set("iterations", found.iterations);
  report.set("converged", found.converged);
  Table table{"Components", {"component", "weight", "kappa", "rows"}, {}};
  for (std::int64_t k = 0; k < how.components; ++k) {
    table.rows.push_back({k, found.weights[k].item<double>(),
                          found.concentrations[k].item<double>(),
                          found.assignments.eq(k).sum().item<std::int64_t>()});
  }
  report.tables.push_back(std::move(table));
  if (options.has("out-directions")) {
    write_tensor(options.output("out-directions"), found.mean_directions);
  }
  if (options.has("out-assignments")) {
    write_tensor(options.output("out-assignments"), found.assignments);
  }
  if (!found.converged) report.notes.push_back("stopped at the limit of iterations");
  return report;
}

Job mixture_job() {
  return {
      "vmf-mixture",
      "clusters unit vectors by a mixture of von Mises-Fisher distributions",
      {points_option(), integer("components").required().at_least(1).help("number of components"),
       flag("hard").help("each row belongs to its likeliest component alone"),
       integer("restarts").at_least(1).otherwise(5).help("runs from different starts"),
       integer("iterations").at_least(1).otherwise(200).help("most iterations of a run"),
       real("tolerance")
           .at_least(0)
           .otherwise(1e-8)
           .unit("nats")
           .help("stop when the mean log-likelihood gains less"),
       real("max-kappa").above(0).help("upper bound of the concentrations"), normalize_option(),
       output_file("out-directions").help("write the mean directions to this .npy"),
       output_file("out-assignments").help("write each row's component to this .npy"),
       seed_option(), device_option()},
      run_mixture,
      {"log-bessel vmf-mixture embeddings.npy --components 10 --normalize"}};
}

// ---- benchmarks ----

// Orders and arguments uniform between two bounds.
struct Square {
  const char* name;
  double low;
  double high;
};

constexpr Square small_square = {"[0, 150]^2", 0, 150};
constexpr Square large_square = {"[150, 1e4]^2", 150, 1e4};

const char* name_of(Quantity quantity) {
  return quantity == Quantity::log_i ? "log I" : "log K";
}

at::Tensor benchmark_values(std::int64_t size, const Square& square, std::uint64_t seed,
                            at::ScalarType type) {
  Random random(seed);
  std::vector<double> values(static_cast<std::size_t>(size));
  for (double& value : values) value = random.uniform(square.low, square.high);
  return at::tensor(values, at::kDouble).to(type);
}

// A value takes about 200 FLOPs: the expansion with 9 terms, a root, a quotient and two logarithms.
Work work_of(std::int64_t size, at::ScalarType type) {
  const auto values = static_cast<double>(size);
  return {200 * values, 3 * static_cast<double>(c10::elementSize(type)) * values};
}

TimedCall timed_evaluation(Quantity quantity, const at::Tensor& v, const at::Tensor& x,
                           Device device) {
  const auto out = std::make_shared<at::Tensor>(at::empty_like(v));
  return timed([=] { evaluate_out(*out, quantity, v, x); }, device);
}

Benchmark against_scipy(Quantity quantity, const Square& square, at::ScalarType type) {
  const bool is_i = quantity == Quantity::log_i;
  const int bits = type == at::kDouble ? 64 : 32;
  return {fmt::format("{}, 1e6 pairs in {}, f{}", name_of(quantity), square.name, bits),
          is_i ? "scipy.special.ive + log" : "scipy.special.kve + log",
          {Device::cpu},
          [=](Device device) {
            constexpr std::int64_t size = 1000000;
            const at::Tensor v = benchmark_values(size, square, 1, type);
            const at::Tensor x = benchmark_values(size, square, 2, type);
            Contest contest;
            contest.ours = timed_evaluation(quantity, v, x, device);
            contest.work = work_of(size, type);
            // f32 is computed in f64.
            contest.arithmetic = Arithmetic::f64;
            set_python_peer(contest,
                            fmt::format("import numpy as np\n"
                                        "from scipy.special import ive, kve\n"
                                        "np.seterr(divide='ignore')\n"
                                        "rng = np.random.default_rng(0)\n"
                                        "v = rng.uniform({2}, {3}, {0}).astype(np.float{1})\n"
                                        "x = rng.uniform({2}, {3}, {0}).astype(np.float{1})\n",
                                        size, bits, square.low, square.high),
                            is_i ? "np.log(ive(v, x)) + x" : "np.log(kve(v, x)) - x");
            return contest;
          }};
}

Benchmark against_cpu(Quantity quantity, const Square& square) {
  return {fmt::format("{}, 1e7 pairs in {}, f64", name_of(quantity), square.name),
          "our CPU kernels",
          {Device::cuda},
          [=](Device device) {
            constexpr std::int64_t size = 10000000;
            const at::Tensor v = benchmark_values(size, square, 1, at::kDouble);
            const at::Tensor x = benchmark_values(size, square, 2, at::kDouble);
            Contest contest;
            contest.ours =
                timed_evaluation(quantity, v.to(to_torch(device)), x.to(to_torch(device)), device);
            contest.peer = timed_evaluation(quantity, v, x, Device::cpu);
            contest.work = work_of(size, at::kDouble);
            contest.arithmetic = Arithmetic::f64;
            return contest;
          }};
}

std::vector<KernelChoice> kernels() {
  const auto choice_of = [](const char* name, Isa level) {
    const bool is_best = level == Isa::avx512;
    return KernelChoice{name, to_string(level), is_best ? "" : why_not(Isa::avx512)};
  };
  return {choice_of("log_bessel f64", kernels_f64.level()),
          choice_of("log_bessel f32", kernels_f32.level())};
}

}  // namespace

System system() {
  System system;
  system.name = "log-bessel";
  system.wing = Wing::compute;
  system.paper = {"Accurate Computation of the Logarithm of Modified Bessel Functions on GPUs",
                  "Plesner, Sorensen, Hauberg", 2024, "2409.08729"};
  system.summary = "logarithms of modified Bessel functions; von Mises-Fisher distributions";
  system.devices = {Device::cpu, Device::cuda};
  system.jobs = {eval_job(), fit_job(), sample_job(), mixture_job()};
  system.reproduction = {
      "log I and log K to machine precision for every order and argument, where std and SciPy "
      "overflow, at more than 15 times the speed of std",
      "50 reference values in 60 digits, random pairs, 1000 samples on a sphere in 2048 dimensions",
      reproduce};
  for (const Quantity quantity : {Quantity::log_i, Quantity::log_k}) {
    for (const Square& square : {small_square, large_square}) {
      system.benchmarks.push_back(against_scipy(quantity, square, at::kDouble));
      system.benchmarks.push_back(against_cpu(quantity, square));
    }
    system.benchmarks.push_back(against_scipy(quantity, small_square, at::kFloat));
  }
  system.kernels = kernels;
  return system;
}

}  // namespace einkorn::log_bessel
