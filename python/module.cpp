// The Python extension: errors, the registry's jobs, the command, and the rooms' own functions.
#include <torch/extension.h>

#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/json.h"
#include "bindings.h"
#include "einkorn/core/error.h"
#include "einkorn/core/registry.h"

namespace einkorn {
namespace {

namespace py = pybind11;

void register_errors() {
  // Global, not per module: torch.ops.einkorn.* go through torch's own binding.
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const InvalidArgument& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const BadFile& error) {
      PyErr_SetString(PyExc_OSError, error.what());
    } catch (const Interrupted&) {
      PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
  });
}

std::string describe() {
  app::Json all = app::Json::array();
  for (const System& system : systems()) all.push_back(app::to_json_in_full(system));
  return all.dump();
}

std::string run_job(const std::string& system_name, const std::string& job_name,
                    const std::string& options_json, bool force) {
  const System& system = find_system(system_name);
  const Job& job = find_job(system, job_name);
  const app::Json words = app::Json::parse(options_json);
  std::map<std::string, OptionValue> given;
  for (const auto& [name, value] : words.items()) {
    given[name] = app::option_value_from(value);
  }
  const Options options(job.options, std::move(given), force);
  if (options.has("device")) require_available(options.device());
  const auto begin = std::chrono::steady_clock::now();
  // Lets Ctrl-C in Python stop long work at its next report of progress.
  const Progress progress([](const std::string&, std::int64_t, std::int64_t) {
    const py::gil_scoped_acquire hold;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  });
  const Report report = [&] {
    const py::gil_scoped_release release;
    return job.run(options, progress);
  }();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  return app::to_json(system.name, job.name, options, report, elapsed.count())
      .dump(-1, ' ', false, app::Json::error_handler_t::replace);
}

}  // namespace
}  // namespace einkorn

PYBIND11_MODULE(_einkorn, module) {
  namespace py = pybind11;
  einkorn::register_errors();
  module.doc() = "Compiled part of einkorn; use the package's typed modules.";
  module.def("describe", &einkorn::describe, "All systems with their jobs and options, as JSON.");
  module.def("run_job", &einkorn::run_job, py::arg("system"), py::arg("job"), py::arg("options"),
             py::arg("force"), "Runs a job; options and result are JSON.");
  module.def("run_command", &einkorn::app::run_command, py::arg("arguments"),
             py::call_guard<py::gil_scoped_release>(), "The command line; returns the exit code.");
  einkorn::bind_systems(module);
}
