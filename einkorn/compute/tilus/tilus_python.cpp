#include <fmt/format.h>
#include <torch/extension.h>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/tilus/cuda_source.h"
#include "einkorn/compute/tilus/device_program.h"
#include "einkorn/compute/tilus/interpreter.h"
#include "einkorn/compute/tilus/layout.h"
#include "einkorn/compute/tilus/number_type.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/compute/tilus/quantized_linear.h"
#include "einkorn/compute/tilus/weight_layout.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

namespace py = pybind11;
using Release = py::call_guard<py::gil_scoped_release>;

void bind_layout(py::module_& module) {
  py::class_<Layout>(module, "Layout")
      .def(py::init([](const std::string& text) { return Layout::parse(text); }))
      .def_static("spatial", py::overload_cast<const Index&>(&Layout::spatial))
      .def_static("local", py::overload_cast<const Index&>(&Layout::local))
      .def_static("column_spatial", &Layout::column_spatial)
      .def_static("column_local", &Layout::column_local)
      .def_static("replicate", &Layout::replicate)
      .def_static("auto_local_spatial", &Layout::auto_local_spatial)
      .def_property_readonly("shape",
                             [](const Layout& l) { return py::tuple(py::cast(l.shape())); })
      .def_property_readonly("threads", &Layout::threads)
      .def_property_readonly("local_size", &Layout::local_size)
      .def_property_readonly("replication", &Layout::replication)
      .def("at", [](const Layout& l, std::int64_t thread,
                    std::int64_t local) { return py::tuple(py::cast(l.at(thread, local))); })
      .def("threads_of", &Layout::threads_of)
      .def("local_of", &Layout::local_of)
      .def("concat", &Layout::concat)
      .def("permute", &Layout::permute)
      .def("reshape", &Layout::reshape)
      .def("reduce", &Layout::reduce, py::arg("dims"), py::arg("keep_dims") = false)
      .def("left_divide", [](const Layout& f, const Layout& g) { return left_divide(f, g); })
      .def("diagram", &Layout::diagram)
      .def("__mul__", [](const Layout& f, const Layout& g) { return f * g; })
      .def("__truediv__", [](const Layout& f, const Layout& g) { return f / g; })
      .def("__eq__", [](const Layout& f, const Layout& g) { return f == g; })
      .def("__hash__", [](const Layout& f) { return py::hash(py::str(f.to_string())); })
      .def("__str__", &Layout::to_string)
      .def("__repr__", [](const Layout& l) { return fmt::format("Layout('{}')", l.to_string()); });
}

QuantizedWeights weights_of(const std::string& type, std::int64_t rows, std::int64_t columns,
                            std::int64_t group, const at::Tensor& packed, const at::Tensor& scales,
                            const std::optional<at::Tensor>& offsets) {
  QuantizedWeights weights{NumberType(type), rows, columns, group, packed, scales, {}};
  if (offsets) weights.offsets = *offsets;
  return weights;
}

py::tuple tuple_of(const QuantizedWeights& w) {
  const py::object offsets = w.has_offsets() ? py::cast(w.offsets) : py::none();
  return py::make_tuple(w.type.name(), w.rows, w.columns, w.group, w.packed, w.scales, offsets);
}

void bind_weights(py::module_& module) {
  module.def("quantize", [](const at::Tensor& weight, const std::string& type, std::int64_t group,
                            const std::string& scale) {
    const at::ScalarType scale_type = scale == "f16"    ? at::kHalf
                                      : scale == "bf16" ? at::kBFloat16
                                                        : at::kFloat;
    require(scale == "f16" || scale == "bf16" || scale == "f32",
            "scale: expected f16, bf16 or f32, got '{}'", scale);
    const QuantizedWeights weights = [&] {
      const py::gil_scoped_release release;
      return quantize(weight, {NumberType(type), group, scale_type});
    }();
    return tuple_of(weights);
  });
  module.def(
      "dequantize",
      [](const std::string& type, std::int64_t rows, std::int64_t columns, std::int64_t group,
         const at::Tensor& packed, const at::Tensor& scales,
         const std::optional<at::Tensor>& offsets) {
        return dequantize(weights_of(type, rows, columns, group, packed, scales, offsets));
      },
      Release());
  module.def("prepare", [](const std::string& type, std::int64_t rows, std::int64_t columns,
                           std::int64_t group, const at::Tensor& packed, const at::Tensor& scales,
                           const std::optional<at::Tensor>& offsets) {
    const PreparedWeights prepared =
        prepare(weights_of(type, rows, columns, group, packed, scales, offsets));
    const py::object prepared_offsets =
        prepared.offsets.defined() ? py::cast(prepared.offsets) : py::none();
    return py::make_tuple(prepared.words, prepared.scales, prepared_offsets);
  });
  module.def("save", [](const std::string& path, bool force, const std::string& type,
                        std::int64_t rows, std::int64_t columns, std::int64_t group,
                        const at::Tensor& packed, const at::Tensor& scales,
                        const std::optional<at::Tensor>& offsets) {
    write_weights({path, force}, weights_of(type, rows, columns, group, packed, scales, offsets));
  });
  module.def("load", [](const std::string& path) { return tuple_of(read_weights(path)); });
  module.def(
      "change_layout",
      [](const at::Tensor& packed, int bits, std::int64_t rows, std::int64_t columns,
         std::int64_t tile_k, std::int64_t tile_n) {
        return change_layout(packed, bits, rows, columns, {tile_k, tile_n});
      },
      Release());
  module.def(
      "restore_layout",
      [](const at::Tensor& tiles, int bits, std::int64_t tile_k, std::int64_t tile_n) {
        return restore_layout(tiles, bits, {tile_k, tile_n});
      },
      Release());
}

void bind_programs(py::module_& module) {
  module.def("check_program", [](const std::string& source) {
    return to_text(check(parse_program(source, "program")).program);
  });
  module.def("cuda_source", [](const std::string& source) {
    return generate_cuda(check(parse_program(source, "program"))).text;
  });
  module.def("run_program", [](const std::string& source,
                               const std::vector<std::variant<std::int64_t, at::Tensor>>& arguments,
                               bool check_races, bool shuffle, std::uint64_t seed) {
    const CheckedProgram checked = check(parse_program(source, "program"));
    bool on_cuda = false;
    for (const TensorArgument& argument : arguments) {
      const auto* const tensor = std::get_if<at::Tensor>(&argument);
      on_cuda = on_cuda || (tensor != nullptr && tensor->is_cuda());
    }
    py::dict result;
    if (on_cuda) {
      DeviceProgram(checked).launch(arguments);
      return result;
    }
    const RunStatistics found = [&] {
      const py::gil_scoped_release release;
      return interpret(checked, arguments,
                       {.check_races = check_races, .shuffle_blocks = shuffle, .seed = seed});
    }();
    result["blocks"] = found.blocks;
    result["statements"] = found.steps;
    result["global_read"] = found.global_read;
    result["global_written"] = found.global_written;
    result["shared_read"] = found.shared_read;
    result["shared_written"] = found.shared_written;
    result["dot_flops"] = found.dot_flops;
    result["printed"] = found.printed;
    return result;
  });
}

}  // namespace

void bind(py::module_& module) {
  bind_layout(module);
  bind_weights(module);
  bind_programs(module);
  module.def("type_facts", [](const std::string& name) {
    const NumberType type(name);
    return py::make_tuple(type.name(), type.bits(), type.max_value(), type.min_value());
  });
  module.def("decode", [](const std::string& name, const std::vector<std::uint32_t>& codes) {
    const NumberType type(name);
    std::vector<double> values;
    for (const std::uint32_t code : codes) values.push_back(type.decode(code));
    return values;
  });
  module.def("encode", [](const std::string& name, const std::vector<double>& values) {
    const NumberType type(name);
    std::vector<std::uint32_t> codes;
    for (const double value : values) codes.push_back(type.encode(value));
    return codes;
  });
}

}  // namespace einkorn::tilus
