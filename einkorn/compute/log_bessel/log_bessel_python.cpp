#include <fmt/format.h>
#include <torch/extension.h>

#include "einkorn/compute/log_bessel/log_bessel.h"
#include "einkorn/compute/log_bessel/von_mises_fisher.h"

namespace einkorn::log_bessel {
namespace {

namespace py = pybind11;

py::tuple fit_for_python(const at::Tensor& points, const std::string& method, bool normalize) {
  const FitMethod how = parse_fit_method(method);
  const VonMisesFisherFit found = [&] {
    const py::gil_scoped_release release;
    return fit(points, how, normalize);
  }();
  return py::make_tuple(found.mean_direction, found.concentration, found.resultant_length,
                        found.log_likelihood, found.mean_log_likelihood);
}

Mixture fit_mixture_for_python(const at::Tensor& points, std::int64_t components, bool hard,
                               std::int64_t restarts, std::int64_t iterations, double tolerance,
                               double max_concentration, bool normalize, std::uint64_t seed) {
  MixtureOptions options;
  options.components = components;
  options.hard = hard;
  options.restarts = restarts;
  options.iterations = iterations;
  options.tolerance = tolerance;
  options.max_concentration = max_concentration;
  options.normalize = normalize;
  options.seed = seed;
  // Lets Ctrl-C in Python stop the iterations.
  const Progress progress([](const std::string&, std::int64_t, std::int64_t) {
    const py::gil_scoped_acquire hold;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  });
  const py::gil_scoped_release release;
  return fit_mixture(points, options, progress);
}

py::tuple responsibilities_for_python(const at::Tensor& points, const at::Tensor& weights,
                                      const at::Tensor& mean_directions,
                                      const at::Tensor& concentrations) {
  Mixture mixture;
  mixture.weights = weights.to(at::kDouble);
  mixture.mean_directions = mean_directions.to(at::kDouble);
  mixture.concentrations = concentrations.to(at::kDouble);
  const Responsibilities found = [&] {
    const py::gil_scoped_release release;
    return responsibilities(points, mixture);
  }();
  return py::make_tuple(found.log_responsibilities, found.log_densities);
}

}  // namespace

void bind(py::module_& module) {
  using Release = py::call_guard<py::gil_scoped_release>;
  const auto signed_log = [](double v, double x) {
    const SignedLog found = signed_log_iv(v, x);
    return py::make_tuple(found.log_abs, found.sign);
  };
  module.def("signed_log_iv", signed_log);
  module.def("log_normalizer", py::overload_cast<std::int64_t, const at::Tensor&>(&log_normalizer),
             Release());
  module.def("log_density", &log_density, Release());
  module.def("mean_resultant_length", &mean_resultant_length);
  module.def("entropy", &entropy);
  module.def("kl_divergence", &kl_divergence);
  module.def("fit_concentration",
             [](std::int64_t p, double resultant_length, const std::string& method) {
               return fit_concentration(p, resultant_length, parse_fit_method(method));
             });
  module.def("fit", &fit_for_python);
  module.def("sample", &sample, Release());
  module.def("fit_mixture", [](const at::Tensor& points, std::int64_t components, bool hard,
                               std::int64_t restarts, std::int64_t iterations, double tolerance,
                               double max_concentration, bool normalize, std::uint64_t seed) {
    const Mixture found = fit_mixture_for_python(points, components, hard, restarts, iterations,
                                                 tolerance, max_concentration, normalize, seed);
    return py::make_tuple(found.weights, found.mean_directions, found.concentrations,
                          found.assignments, found.mean_log_likelihood, found.iterations,
                          found.converged);
  });
  module.def("responsibilities", &responsibilities_for_python);
}

}  // namespace einkorn::log_bessel
