#include <torch/extension.h>

#include <memory>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/kivi/kivi.h"
#include "einkorn/core/error.h"

namespace einkorn::kivi {
namespace {

namespace py = pybind11;
using Release = py::call_guard<py::gil_scoped_release>;

py::tuple as_tuple(const PackedGroups& groups) {
  return py::make_tuple(groups.codes, groups.scale, groups.minimum);
}

py::dict as_dict(const CacheOptions& options) {
  py::dict fields;
  fields["layers"] = options.layers;
  fields["batch"] = options.batch;
  fields["kv_heads"] = options.kv_heads;
  fields["head_dim"] = options.head_dim;
  fields["max_length"] = options.max_length;
  fields["key_bits"] = options.key_bits;
  fields["value_bits"] = options.value_bits;
  fields["group"] = options.group;
  fields["residual"] = options.residual;
  return fields;
}

CacheOptions options_of(const py::dict& fields, at::ScalarType type, const at::Device& device) {
  CacheOptions options;
  options.layers = fields["layers"].cast<std::int64_t>();
  options.batch = fields["batch"].cast<std::int64_t>();
  options.kv_heads = fields["kv_heads"].cast<std::int64_t>();
  options.head_dim = fields["head_dim"].cast<std::int64_t>();
  options.max_length = fields["max_length"].cast<std::int64_t>();
  options.key_bits = fields["key_bits"].cast<int>();
  options.value_bits = fields["value_bits"].cast<int>();
  options.group = fields["group"].cast<int>();
  options.residual = fields["residual"].cast<std::int64_t>();
  options.type = type;
  options.device = device;
  return options;
}

py::dict as_dict(const CacheMemory& memory) {
  py::dict fields;
  fields["bytes"] = memory.bytes();
  fields["quantized"] = memory.quantized;
  fields["residual"] = memory.residual;
  fields["reserved"] = memory.reserved;
  fields["dense"] = memory.dense;
  return fields;
}

at::Tensor attend(const KiviCache& cache, std::int64_t layer, const at::Tensor& queries,
                  std::optional<double> scale, bool causal, const std::optional<at::Tensor>& mask) {
  AttendOptions options;
  options.scale = scale;
  options.causal = causal;
  if (mask) options.mask = *mask;
  const py::gil_scoped_release release;
  return cache.attend(layer, queries, options);
}

py::tuple state_of(const KiviCache& cache, std::int64_t layer, std::int64_t sequence) {
  const CacheState s = cache.state(layer, sequence);
  return py::make_tuple(s.length, s.keys_quantized, s.keys_residual, s.values_quantized,
                        s.values_residual);
}

py::dict pack(const KiviCache& cache, std::int64_t layer, std::int64_t sequence) {
  const PackedSequence packed = [&] {
    const py::gil_scoped_release release;
    return cache.pack(layer, sequence);
  }();
  py::dict fields;
  fields["keys"] = as_tuple(packed.keys);
  fields["values"] = as_tuple(packed.values);
  fields["key_residual"] = packed.key_residual;
  fields["value_residual"] = packed.value_residual;
  return fields;
}

void unpack(KiviCache& cache, std::int64_t layer, std::int64_t sequence, const py::dict& fields) {
  const auto groups = [&](const char* name) {
    const auto parts = fields[name].cast<std::tuple<at::Tensor, at::Tensor, at::Tensor>>();
    return PackedGroups{std::get<0>(parts), std::get<1>(parts), std::get<2>(parts)};
  };
  const PackedSequence packed = {groups("keys"), groups("values"),
                                 fields["key_residual"].cast<at::Tensor>(),
                                 fields["value_residual"].cast<at::Tensor>()};
  const py::gil_scoped_release release;
  cache.unpack(layer, sequence, packed);
}

void bind_cache(py::module_& module) {
  py::class_<KiviCache, std::shared_ptr<KiviCache>>(module, "Cache")
      .def(py::init([](const py::dict& fields, at::ScalarType type, const at::Device& device) {
        return std::make_shared<KiviCache>(options_of(fields, type, device));
      }))
      .def("options", [](const KiviCache& self) { return as_dict(self.options()); })
      .def("dtype", [](const KiviCache& self) { return self.options().type; })
      .def("device", [](const KiviCache& self) { return self.options().device; })
      .def("batch", &KiviCache::batch)
      .def("prefill", &KiviCache::prefill, Release())
      .def("append", &KiviCache::append, Release())
      .def("settle", &KiviCache::settle, Release())
      .def("attend", &attend)
      .def("dequantize", &KiviCache::dequantize, Release())
      .def("state", &state_of)
      .def("memory", [](const KiviCache& self) { return as_dict(self.memory()); })
      .def("trim", py::overload_cast<const std::vector<std::int64_t>&>(&KiviCache::trim), Release())
      .def("fork", &KiviCache::fork, Release())
      .def("reserve", &KiviCache::reserve, Release())
      .def("capture_replayed", &KiviCache::capture_replayed)
      .def("pack", &pack)
      .def("unpack", &unpack)
      .def(
          "save",
          [](const KiviCache& self, const std::string& path, bool force) {
            self.save({path, force});
          },
          Release());
  module.def(
      "load",
      [](const std::string& path, const at::Device& device) {
        return std::make_shared<KiviCache>(KiviCache::load(path, device));
      },
      Release());
}

}  // namespace

void bind(py::module_& module) {
  bind_cache(module);
  module.def("memory_of", [](const py::dict& fields, at::ScalarType type, std::int64_t tokens) {
    return as_dict(memory_of(options_of(fields, type, at::kCPU), tokens));
  });
  module.def("pack_bits",
             [](const at::Tensor& codes, int bits) { return compute::pack_bits(codes, bits); });
  module.def("unpack_bits", [](const at::Tensor& packed, int bits, std::int64_t count) {
    return compute::unpack_bits(packed, bits, count);
  });
}

}  // namespace einkorn::kivi
