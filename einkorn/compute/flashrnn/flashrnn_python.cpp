#include <fmt/format.h>
#include <torch/extension.h>

#include "einkorn/compute/flashrnn/constraints.h"
#include "einkorn/compute/flashrnn/flashrnn.h"
#include "einkorn/compute/flashrnn/kernel_problem.h"
#include "einkorn/compute/flashrnn/parity.h"
#include "einkorn/core/error.h"

namespace einkorn::flashrnn {
namespace {

namespace py = pybind11;

// Lets Ctrl-C in Python stop long work.
Progress interruptible() {
  return Progress([](const std::string&, std::int64_t, std::int64_t) {
    const py::gil_scoped_acquire hold;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  });
}

py::dict shape_for_python(const std::string& cell) {
  const CellShape shape = shape_of(parse_cell(cell));
  py::dict result;
  result["recurrent_gates"] = shape.recurrent_gates;
  result["input_gates"] = shape.input_gates;
  result["biases"] = shape.biases;
  result["states"] = shape.states;
  return result;
}

std::vector<std::pair<std::string, ValueOrder>> order_from(
    const std::vector<std::pair<std::string, std::string>>& given) {
  std::vector<std::pair<std::string, ValueOrder>> order;
  for (const auto& [name, end] : given) {
    require(end == "min" || end == "max", "order: expected 'min' or 'max' for '{}', got '{}'", name,
            end);
    order.emplace_back(name, end == "max" ? ValueOrder::largest_first : ValueOrder::smallest_first);
  }
  return order;
}

py::list domains_for_python(const ConstraintProblem& problem) {
  py::list result;
  const std::vector<IntegerDomain> domains = problem.propagate();
  for (std::size_t i = 0; i < domains.size(); ++i) {
    const IntegerDomain& domain = domains[i];
    result.append(py::make_tuple(problem.variables()[i], domain.lowest(), domain.highest(),
                                 domain.factor(), domain.values()));
  }
  return result;
}

py::tuple solve_for_python(const ConstraintProblem& problem,
                           const std::vector<std::pair<std::string, std::string>>& order,
                           std::int64_t count, const std::vector<Assignment>& exclude) {
  SolveOptions options;
  options.order = order_from(order);
  options.count = count;
  options.exclude = exclude;
  const SolveResult found = [&] {
    const py::gil_scoped_release release;
    return problem.solve(options, interruptible());
  }();
  return py::make_tuple(found.solutions, found.exhausted);
}

KernelDirection parse_direction(const std::string& name) {
  require(name == "forward" || name == "backward",
          "direction: expected 'forward' or 'backward', got '{}'", name);
  return name == "forward" ? KernelDirection::forward : KernelDirection::backward;
}

py::tuple train_for_python(const std::string& cell, std::int64_t steps, std::int64_t test_time,
                           std::uint64_t seed) {
  ParityOptions options;
  options.cell = parse_cell(cell);
  options.steps = steps;
  options.test_time = test_time;
  options.seed = seed;
  const py::gil_scoped_release release;
  const ParityResult found = train_parity(options, interruptible());
  const py::gil_scoped_acquire hold;
  return py::make_tuple(found.accuracy, found.losses);
}

}  // namespace

void bind(py::module_& module) {
  module.def("shape_of", &shape_for_python);
  module.def("train_parity", &train_for_python);
  module.def("kernel_constraints",
             [](const std::string& direction, std::int64_t dim, std::int64_t heads,
                std::int64_t batch, std::int64_t gates, std::int64_t element_bytes) {
               return kernel_constraints(parse_direction(direction),
                                         {dim, heads, batch, gates, element_bytes});
             });
  module.def("kernel_order", [](const std::string& direction) {
    std::vector<std::pair<std::string, std::string>> order;
    for (const auto& [name, end] : kernel_order(parse_direction(direction))) {
      order.emplace_back(name, end == ValueOrder::largest_first ? "max" : "min");
    }
    return order;
  });
  py::class_<ConstraintProblem>(module, "ConstraintProblem")
      .def(py::init(
          [](const std::string& text) { return ConstraintProblem::parse(text, "constraints"); }))
      .def("variables", &ConstraintProblem::variables)
      .def("propagate", &domains_for_python)
      .def("holds", &ConstraintProblem::holds)
      .def("solve", &solve_for_python);
}

}  // namespace einkorn::flashrnn
