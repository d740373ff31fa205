#include <fmt/format.h>
#include <torch/extension.h>

#include <memory>

#include "einkorn/convolution/inceptionnext/folded_network.h"
#include "einkorn/convolution/inceptionnext/image_input.h"
#include "einkorn/convolution/inceptionnext/mixed_precision.h"
#include "einkorn/convolution/inceptionnext/network.h"
#include "einkorn/convolution/inceptionnext/network_file.h"
#include "einkorn/convolution/inceptionnext/receptive_field.h"
#include "einkorn/core/error.h"
#include "einkorn/nn/image.h"

namespace einkorn::inceptionnext {
namespace {

namespace py = pybind11;
using Release = py::call_guard<py::gil_scoped_release>;

// The one list of fields that both directions go by; the enumerations cross as words.
template <typename Config, typename Visit>
void for_each_field(Config& config, Visit visit) {
  visit("depths", config.depths);
  visit("dims", config.dims);
  visit("mlp_ratios", config.mlp_ratios);
  visit("branch_ratio", config.branch_ratio);
  visit("square_size", config.square_size);
  visit("band_size", config.band_size);
  visit("kernel_size", config.kernel_size);
  visit("convolved_share", config.convolved_share);
  visit("in_channels", config.in_channels);
  visit("classes", config.classes);
  visit("drop_path", config.drop_path);
  visit("head_dropout", config.head_dropout);
  visit("layer_scale", config.layer_scale);
  visit("resolution", config.resolution);
  visit("crop_share", config.crop_share);
}

py::dict to_python(const NetworkConfig& config) {
  py::dict fields;
  fields["frame"] = to_string(config.frame);
  fields["mixer"] = to_string(config.mixer);
  for_each_field(config,
                 [&](const char* name, const auto& value) { fields[name] = py::cast(value); });
  return fields;
}

NetworkConfig from_python(const py::dict& fields) {
  NetworkConfig config;
  config.frame = parse_frame(fields["frame"].cast<std::string>());
  config.mixer = parse_mixer(fields["mixer"].cast<std::string>());
  for_each_field(config, [&]<typename Field>(const char* name, Field& value) {
    try {
      value = fields[name].cast<Field>();
    } catch (const py::cast_error&) {
      throw InvalidArgument(
          fmt::format("{}: '{}' does not fit", name, py::str(fields[name]).cast<std::string>()));
    }
  });
  check(config);
  return config;
}

py::dict count_for_python(const py::dict& fields, std::int64_t height, std::int64_t width) {
  const NetworkCount found = count(from_python(fields), height, width);
  py::list stages;
  for (const StageCount& stage : found.stages) {
    py::dict row;
    row["blocks"] = stage.blocks;
    row["height"] = stage.height;
    row["width"] = stage.width;
    row["channels"] = stage.channels;
    row["branch_channels"] = stage.branch_channels;
    row["identity_channels"] = stage.identity_channels;
    row["hidden"] = stage.hidden;
    row["mixer_parameters"] = stage.mixer_parameters;
    row["mixer_macs"] = stage.mixer_macs;
    row["block_parameters"] = stage.block_parameters;
    row["block_macs"] = stage.block_macs;
    stages.append(row);
  }
  py::dict result;
  result["parameters"] = found.parameters;
  result["macs"] = found.macs;
  result["stages"] = stages;
  return result;
}

NetworkConfig config_for(const NetworkFile& file, const std::optional<py::dict>& fields) {
  if (fields) return from_python(*fields);
  if (!file.config) {
    throw BadFile(file.path, "metadata", "does not say what network it is for; give its config");
  }
  return *file.config;
}

py::object load(const std::string& path, const std::optional<py::dict>& fields, bool transfer) {
  const NetworkFile file = read_network_file(path);
  const NetworkConfig config = config_for(file, fields);
  if (file.folded) {
    return py::cast(std::make_shared<FoldedNetwork>(config, file.tensors, file.path));
  }
  Network network(config);
  load_weights(*network, file, transfer ? Fit::transfer : Fit::exact);
  return py::cast(network.ptr());
}

using Named = std::vector<std::pair<std::string, at::Tensor>>;

template <typename Dict>
Named as_list(const Dict& tensors) {
  Named list;
  for (const auto& item : tensors) list.emplace_back(item.key(), item.value());
  return list;
}

void bind_networks(py::module_& module) {
  py::class_<NetworkImpl, std::shared_ptr<NetworkImpl>>(module, "Network")
      .def(py::init([](const py::dict& fields) {
        return std::make_shared<NetworkImpl>(from_python(fields));
      }))
      .def("config", [](const NetworkImpl& self) { return to_python(self.config()); })
      .def("forward", &NetworkImpl::forward, Release())
      .def("features", &NetworkImpl::features, Release())
      .def("mixed_precision_forward", &mixed_precision_forward, Release())
      .def("train", [](NetworkImpl& self, bool mode) { self.train(mode); })
      .def("parameters", [](const NetworkImpl& self) { return as_list(self.named_parameters()); })
      .def("buffers", [](const NetworkImpl& self) { return as_list(self.named_buffers()); })
      .def("save", [](const NetworkImpl& self, const std::string& path,
                      bool force) { save_network({path, force}, self); })
      .def("fold", [](const NetworkImpl& self) { return std::make_shared<FoldedNetwork>(self); })
      .def("receptive_field", &effective_receptive_field, Release())
      .def("spatial_kernels", &spatial_kernels);
  py::class_<FoldedNetwork, std::shared_ptr<FoldedNetwork>>(module, "FoldedNetwork")
      .def("config", [](const FoldedNetwork& self) { return to_python(self.config()); })
      .def(
          "forward",
          [](const FoldedNetwork& self, const at::Tensor& images) { return self.forward(images); },
          Release())
      .def(
          "features",
          [](const FoldedNetwork& self, const at::Tensor& images) { return self.features(images); },
          Release())
      .def("state", &FoldedNetwork::state)
      .def("to", [](FoldedNetwork& self, const at::Device& device,
                    const at::ScalarType& type) { self.to(device, type); })
      .def("save", [](const FoldedNetwork& self, const std::string& path, bool force) {
        save_folded({path, force}, self);
      });
}

}  // namespace

void bind(py::module_& module) {
  bind_networks(module);
  module.def("config_names", &config_names);
  module.def("named_config", [](const std::string& name) { return to_python(named_config(name)); });
  module.def("count", &count_for_python);
  module.def("load", &load);
  module.def("read_image", [](const std::string& path) { return nn::read_image(path); });
  module.def("image_input",
             [](const at::Tensor& image, const py::dict& fields, std::int64_t resolution) {
               return image_input(image, from_python(fields), resolution);
             });
}

}  // namespace einkorn::inceptionnext
