#include "einkorn/convolution/inceptionnext/network_file.h"

#include <fmt/ranges.h>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn::inceptionnext {
namespace {

using Metadata = std::map<std::string, std::string>;

constexpr const char* marker = "einkorn.network";

std::string joined(const auto& values) {
  return fmt::format("{}", fmt::join(values, ","));
}

Metadata metadata_of(const NetworkConfig& config) {
  return {{marker, to_string(config.frame)},
          {"depths", joined(config.depths)},
          {"dims", joined(config.dims)},
          {"mlp_ratios", joined(config.mlp_ratios)},
          {"mixer", to_string(config.mixer)},
          {"branch_ratio", fmt::format("{}", config.branch_ratio)},
          {"square_size", fmt::format("{}", config.square_size)},
          {"band_size", fmt::format("{}", config.band_size)},
          {"kernel_size", fmt::format("{}", config.kernel_size)},
          {"convolved_share", fmt::format("{}", config.convolved_share)},
          {"in_channels", fmt::format("{}", config.in_channels)},
          {"classes", fmt::format("{}", config.classes)},
          {"resolution", fmt::format("{}", config.resolution)},
          {"crop_share", fmt::format("{}", config.crop_share)}};
}

// Values of a file's metadata, each with an error that names it.
class Reader {
 public:
  Reader(const Metadata& metadata, const std::string& path) : metadata_(metadata), path_(path) {}

  const std::string& word(const std::string& name) const {
    const auto found = metadata_.find(name);
    if (found == metadata_.end()) fail(name, "is missing");
    return found->second;
  }

  std::int64_t integer(const std::string& name) const {
    const auto value = to_integer(word(name));
    if (!value) fail(name, "is not a whole number");
    return *value;
  }

  double real(const std::string& name) const {
    const auto value = to_real(word(name));
    if (!value) fail(name, "is not a number");
    return *value;
  }

  std::vector<std::int64_t> integers(const std::string& name) const {
    std::vector<std::int64_t> values;
    for (const std::string& item : split(word(name), ',')) {
      const auto value = to_integer(item);
      if (!value) fail(name, "is not a list of whole numbers");
      values.push_back(*value);
    }
    return values;
  }

  std::vector<double> reals(const std::string& name) const {
    std::vector<double> values;
    for (const std::string& item : split(word(name), ',')) {
      const auto value = to_real(item);
      if (!value) fail(name, "is not a list of numbers");
      values.push_back(*value);
    }
    return values;
  }

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& problem) const {
    throw BadFile(path_, fmt::format("metadata '{}'", name), problem);
  }

  const Metadata& metadata_;
  const std::string& path_;
};

std::optional<NetworkConfig> config_of(const Metadata& metadata, const std::string& path) {
  if (metadata.count(marker) == 0) return std::nullopt;
  const Reader reader(metadata, path);
  NetworkConfig config;
  config.depths = reader.integers("depths");
  config.dims = reader.integers("dims");
  config.mlp_ratios = reader.reals("mlp_ratios");
  config.branch_ratio = reader.real("branch_ratio");
  config.square_size = reader.integer("square_size");
  config.band_size = reader.integer("band_size");
  config.kernel_size = reader.integer("kernel_size");
  config.convolved_share = reader.real("convolved_share");
  config.in_channels = reader.integer("in_channels");
  config.classes = reader.integer("classes");
  config.resolution = reader.integer("resolution");
  config.crop_share = reader.real("crop_share");
  try {
    config.frame = parse_frame(reader.word(marker));
    config.mixer = parse_mixer(reader.word("mixer"));
    check(config);
  } catch (const InvalidArgument& error) {
    throw BadFile(path, "metadata", error.what());
  }
  return config;
}

// Refuses metadata of a network so much larger than the file that building it would be a trap.
// (Folding saves far less than half of the parameters.)
void check_fits(const NetworkConfig& config, std::int64_t values, const std::string& path) {
  try {
    const std::int64_t parameters = count(config, config.resolution, config.resolution).parameters;
    require(parameters / 2 <= values, "a network of {} parameters; the file holds {} values",
            parameters, values);
  } catch (const InvalidArgument& error) {
    throw BadFile(path, "metadata", error.what());
  }
}

bool has_suffix(const std::string& name, const std::string& suffix) {
  return name.size() >= suffix.size() &&
         name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
}

// [out, in, h, w] for another number of input channels: repeated in turn and scaled to keep the
// sum, or, for one channel, summed.
torch::Tensor with_input_channels(const torch::Tensor& weight, std::int64_t channels) {
  const std::int64_t have = weight.size(1);
  if (channels == 1) return weight.sum(1, /*keepdim=*/true);
  const torch::Tensor turns = torch::arange(channels).remainder(have);
  return weight.index_select(1, turns) *
         (static_cast<double>(have) / static_cast<double>(channels));
}

void adapt(const NetworkImpl& network, nn::NamedTensors& tensors) {
  const nn::NamedTensors own = nn::state_of(network);
  const std::string classifier = network.config().frame == Frame::metanext ? "head.fc2" : "head.fc";
  for (const char* part : {".weight", ".bias"}) {
    const std::string name = classifier + part;
    const auto found = tensors.find(name);
    if (found != tensors.end() && found->second.sizes() != own.at(name).sizes()) {
      found->second = own.at(name).detach().clone();
    }
  }
  const auto stem = tensors.find("stem.0.weight");
  const std::int64_t channels = network.config().in_channels;
  if (stem != tensors.end() && stem->second.dim() == 4 && stem->second.size(1) != channels) {
    stem->second = with_input_channels(stem->second, channels);
  }
}

}  // namespace

NetworkFile read_network_file(const std::filesystem::path& path) {
  NetworkFile file;
  file.path = path.string();
  Metadata metadata;
  file.tensors = nn::read_tensors(path, &metadata);
  file.config = config_of(metadata, file.path);
  file.folded = true;
  std::int64_t values = 0;
  for (const auto& [name, tensor] : file.tensors) {
    if (has_suffix(name, ".running_mean") || has_suffix(name, ".gamma")) file.folded = false;
    values += tensor.numel();
    if (tensor.is_floating_point() && !tensor.isfinite().all().item<bool>()) {
      throw BadFile(file.path, fmt::format("tensor '{}'", name),
                    "holds values that are not finite");
    }
  }
  if (file.config) check_fits(*file.config, values, file.path);
  return file;
}

void load_weights(NetworkImpl& network, const NetworkFile& file, Fit fit) {
  if (fit == Fit::exact) return nn::load_state(network, file.tensors, file.path);
  nn::NamedTensors tensors = file.tensors;
  adapt(network, tensors);
  nn::load_state(network, tensors, file.path);
}

void save_network(const OutputPath& path, const NetworkImpl& network) {
  nn::write_tensors(path, nn::state_of(network), metadata_of(network.config()));
}

void save_folded(const OutputPath& path, const FoldedNetwork& network) {
  nn::write_tensors(path, network.state(), metadata_of(network.config()));
}

}  // namespace einkorn::inceptionnext
