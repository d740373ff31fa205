#include <fmt/format.h>
#include <torch/extension.h>

#include "einkorn/compute/marlin/marlin.h"
#include "einkorn/core/error.h"

namespace einkorn::marlin {
namespace {

namespace py = pybind11;
using Release = py::call_guard<py::gil_scoped_release>;

QuantizeOptions options_from(int bits, std::int64_t group_size, bool symmetric, bool sparse,
                             bool clip_search, at::ScalarType scale_dtype, double damping,
                             bool act_order) {
  QuantizeOptions options;
  options.bits = bits;
  options.group_size = group_size;
  options.symmetric = symmetric;
  options.sparse_2_4 = sparse;
  options.clip_search = clip_search;
  options.scale_dtype = scale_dtype;
  options.damping = damping;
  options.act_order = act_order;
  return options;
}

// Lets Ctrl-C in Python stop GPTQ.
Progress python_progress() {
  return Progress([](const std::string&, std::int64_t, std::int64_t) {
    const py::gil_scoped_acquire hold;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  });
}

// Undefined tensors are None in Python.
template <at::Tensor QuantizedWeights::* member>
std::optional<at::Tensor> part(const QuantizedWeights& weights) {
  const at::Tensor& tensor = weights.*member;
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}
template <at::Tensor PreparedWeights::* member>
std::optional<at::Tensor> prepared_part(const PreparedWeights& weights) {
  const at::Tensor& tensor = weights.*member;
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

QuantizedWeights make_weights(std::int64_t inputs, std::int64_t outputs, int bits,
                              std::int64_t group_size, const at::Tensor& words,
                              const at::Tensor& scales, const std::optional<at::Tensor>& zeros,
                              const std::optional<at::Tensor>& metadata,
                              const std::optional<at::Tensor>& order,
                              const std::optional<at::Tensor>& bias) {
  QuantizedWeights weights;
  weights.inputs = inputs;
  weights.outputs = outputs;
  weights.bits = bits;
  weights.group_size = group_size;
  weights.words = words;
  weights.scales = scales;
  weights.zero_points = zeros.value_or(at::Tensor());
  weights.metadata = metadata.value_or(at::Tensor());
  weights.order = order.value_or(at::Tensor());
  weights.bias = bias.value_or(at::Tensor());
  check(weights);
  return weights;
}

void bind_weights(py::module_& module) {
  py::class_<QuantizedWeights>(module, "QuantizedWeights")
      .def(py::init(&make_weights))
      .def_readonly("inputs", &QuantizedWeights::inputs)
      .def_readonly("outputs", &QuantizedWeights::outputs)
      .def_readonly("bits", &QuantizedWeights::bits)
      .def_readonly("group_size", &QuantizedWeights::group_size)
      .def_property_readonly("B", &part<&QuantizedWeights::words>)
      .def_property_readonly("s", &part<&QuantizedWeights::scales>)
      .def_property_readonly("zero_points", &part<&QuantizedWeights::zero_points>)
      .def_property_readonly("meta", &part<&QuantizedWeights::metadata>)
      .def_property_readonly("order", &part<&QuantizedWeights::order>)
      .def_property_readonly("bias", &part<&QuantizedWeights::bias>)
      .def_property_readonly("nbytes", &QuantizedWeights::bytes)
      .def("to", &to_device, Release())
      .def("with_bias",
           [](QuantizedWeights weights, const at::Tensor& bias) {
             weights.bias = bias;
             check(weights);
             return weights;
           })
      .def("codes", &codes_of, Release())
      .def("scales", &scales_of, Release())
      .def(
          "dequantize",
          [](const QuantizedWeights& self, at::ScalarType dtype) {
            return dequantize(self, dtype);
          },
          Release())
      .def("save", [](const QuantizedWeights& self, const std::string& path, bool force,
                      const std::string& prefix) { save({path, force}, self, prefix); });
  py::class_<PreparedWeights>(module, "PreparedWeights")
      .def_readonly("inputs", &PreparedWeights::inputs)
      .def_readonly("outputs", &PreparedWeights::outputs)
      .def_readonly("bits", &PreparedWeights::bits)
      .def_readonly("group_size", &PreparedWeights::group_size)
      .def_property_readonly("words", &prepared_part<&PreparedWeights::words>)
      .def_property_readonly("scales", &prepared_part<&PreparedWeights::scales>)
      .def_property_readonly("zero_points", &prepared_part<&PreparedWeights::zero_points>)
      .def_property_readonly("order", &prepared_part<&PreparedWeights::order>)
      .def_property_readonly("bias", &prepared_part<&PreparedWeights::bias>);
}

}  // namespace

void bind(py::module_& module) {
  bind_weights(module);
  module.def("pack_codes", &pack_codes, Release());
  module.def("unpack_codes", &unpack_codes, Release());
  module.def("prune_mask_2_4", &prune_mask_2_4, Release());
  module.def("from_codes", &from_codes, Release());
  module.def("quantize_rtn",
             [](const at::Tensor& weights, int bits, std::int64_t group_size, bool symmetric,
                bool sparse, bool clip_search, at::ScalarType scale_dtype) {
               const py::gil_scoped_release release;
               return quantize_rtn(weights, options_from(bits, group_size, symmetric, sparse,
                                                         clip_search, scale_dtype, 0.1, false));
             });
  module.def("gptq_quantize", [](const at::Tensor& weights, const at::Tensor& inputs,
                                 bool is_hessian, int bits, std::int64_t group_size, bool symmetric,
                                 bool sparse, bool clip_search, at::ScalarType scale_dtype,
                                 double damping, bool act_order) {
    const QuantizeOptions options = options_from(bits, group_size, symmetric, sparse, clip_search,
                                                 scale_dtype, damping, act_order);
    const Progress progress = python_progress();
    const GptqResult found = [&] {
      const py::gil_scoped_release release;
      return is_hessian ? gptq_quantize_hessian(weights, inputs, options, progress)
                        : gptq_quantize(weights, inputs, options, progress);
    }();
    return py::make_tuple(found.weights, found.loss, found.factored);
  });
  module.def("relative_error", &relative_error, Release());
  module.def("from_gptq", &from_gptq, Release());
  module.def("from_awq", &from_awq, Release());
  module.def("from_official", &from_official, Release());
  module.def("from_official_2_4", &from_official_2_4, Release());
  module.def("load",
             [](const std::string& path, const std::string& prefix) { return load(path, prefix); });
  module.def("prepare", &prepare, Release());
  module.def(
      "matmul",
      [](const at::Tensor& activations, const PreparedWeights& weights, bool int8) {
        return matmul(activations, weights, int8 ? Activations::int8 : Activations::floating);
      },
      Release());
  module.def("mul", &mul, Release());
  module.def("mul_2_4", &mul_2_4, Release());
}

}  // namespace einkorn::marlin
