#include <fmt/format.h>
#include <torch/extension.h>

#include "einkorn/core/error.h"
#include "einkorn/scaling/step_law/step_law.h"
#include "einkorn/scaling/step_law/step_law_fit.h"

namespace einkorn::step_law {
namespace {

namespace py = pybind11;

Constants constants_named(const std::string& name) {
  if (name == "released") return Constants::released;
  if (name == "paper") return Constants::paper;
  throw InvalidArgument(fmt::format("constants: expected one of released, paper, got '{}'", name));
}

py::object pair_or_none(const std::optional<Band>& band) {
  if (!band) return py::none();
  return py::make_tuple(band->low, band->high);
}

py::dict suggest_for_python(double params, double tokens, const std::string& law,
                            const std::string& constants, std::int64_t sequence_length,
                            std::int64_t round_sequences_to, std::optional<double> flops,
                            std::optional<double> loss) {
  const Suggestion found = suggest(params, tokens,
                                   {parse_law(law), constants_named(constants), sequence_length,
                                    round_sequences_to, flops, loss});
  py::dict result;
  result["learning_rate"] = found.learning_rate;
  result["batch_tokens"] = found.batch_tokens;
  result["batch_sequences"] = found.batch_sequences_rounded;
  result["learning_rate_band"] = pair_or_none(found.learning_rate_band);
  result["batch_tokens_band"] = pair_or_none(found.batch_tokens_band);
  result["extrapolated"] = found.extrapolated;
  return result;
}

std::vector<Run> runs_from(const at::Tensor& params, const at::Tensor& tokens,
                           const at::Tensor& learning_rate, const at::Tensor& batch_sequences,
                           const at::Tensor& loss) {
  const std::int64_t size = params.numel();
  std::vector<at::Tensor> columns;
  const char* names[] = {"params", "tokens", "learning_rate", "batch_sequences", "loss"};
  std::size_t at = 0;
  for (const at::Tensor& column : {params, tokens, learning_rate, batch_sequences, loss}) {
    const char* name = names[at++];
    require(column.dim() == 1 && column.size(0) == size, "{}: expected shape [{}], got {} values",
            name, size, column.numel());
    columns.push_back(column.to(at::kCPU, at::kDouble).contiguous());
    const at::Tensor good = columns.back().isfinite().logical_and(columns.back().gt(0));
    require(good.all().item<bool>(), "{}: expected finite numbers > 0", name);
  }
  std::vector<Run> runs;
  for (std::int64_t i = 0; i < size; ++i) {
    const auto value = [&](std::size_t c) { return columns[c].const_data_ptr<double>()[i]; };
    runs.push_back({value(0), value(1), value(2), value(3), value(4), value(0)});
  }
  return runs;
}

py::dict fit_for_python(const at::Tensor& params, const at::Tensor& tokens,
                        const at::Tensor& learning_rate, const at::Tensor& batch_sequences,
                        const at::Tensor& loss, double threshold, std::int64_t resamples,
                        std::uint64_t seed, std::int64_t sequence_length, bool batch_on_params) {
  const auto runs = runs_from(params, tokens, learning_rate, batch_sequences, loss);
  const LawFit fit = [&] {
    const py::gil_scoped_release release;
    return fit_law(runs, {threshold, resamples, seed, sequence_length, batch_on_params});
  }();
  py::dict coefficients;
  py::dict means;
  py::dict intervals;
  const auto direct = as_array(fit.least_squares);
  const auto mean = as_array(fit.bootstrap_mean);
  for (std::size_t i = 0; i < coefficient_count; ++i) {
    const char* name = coefficient_names()[i];
    coefficients[name] = direct[i];
    means[name] = mean[i];
    intervals[name] = py::make_tuple(fit.intervals[i].low, fit.intervals[i].high);
  }
  py::dict result;
  result["coefficients"] = coefficients;
  result["bootstrap_mean"] = means;
  result["intervals"] = intervals;
  result["covariance"] = fit.covariance;
  result["kept"] = fit.kept;
  result["groups"] = fit.groups;
  return result;
}

std::vector<double> smooth_for_python(const at::Tensor& losses, std::int64_t log_interval) {
  require(losses.dim() == 1, "losses: expected a vector, got {} dimensions", losses.dim());
  const at::Tensor dense = losses.to(at::kCPU, at::kDouble).contiguous();
  return smooth_losses({dense.const_data_ptr<double>(), static_cast<std::size_t>(dense.numel())},
                       log_interval);
}

}  // namespace

void bind(py::module_& module) {
  module.def("suggest", &suggest_for_python);
  module.def("learning_rate",
             [](const at::Tensor& params, const at::Tensor& tokens, const std::string& constants) {
               return learning_rate(params, tokens, constants_named(constants));
             });
  module.def("batch_tokens", [](const at::Tensor& tokens, const std::string& constants) {
    return batch_tokens(tokens, constants_named(constants));
  });
  module.def("fit", &fit_for_python);
  module.def("smooth_losses", &smooth_for_python);
}

}  // namespace einkorn::step_law
