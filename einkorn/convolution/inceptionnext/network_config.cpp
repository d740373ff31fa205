#include "einkorn/convolution/inceptionnext/network_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn::inceptionnext {
namespace {

NetworkConfig make(std::vector<std::int64_t> depths, std::vector<std::int64_t> dims) {
  NetworkConfig config;
  config.depths = std::move(depths);
  config.dims = std::move(dims);
  return config;
}

NetworkConfig atto() {
  NetworkConfig config = make({2, 2, 6, 2}, {40, 80, 160, 320});
  config.branch_ratio = 0.25;
  config.band_size = 9;
  return config;
}

NetworkConfig base_384() {
  NetworkConfig config = make({3, 3, 27, 3}, {128, 256, 512, 1024});
  config.resolution = 384;
  config.crop_share = 1;
  return config;
}

NetworkConfig convnext_tiny() {
  NetworkConfig config = make({3, 3, 9, 3}, {96, 192, 384, 768});
  config.frame = Frame::convnext;
  config.mixer = Mixer::depthwise;
  config.mlp_ratios = {4, 4, 4, 4};
  return config;
}

NetworkConfig toy() {
  NetworkConfig config = make({1, 1, 2}, {24, 48, 96});
  config.mlp_ratios = {4, 4, 3};
  config.band_size = 7;
  config.in_channels = 1;
  config.classes = 10;
  config.resolution = 32;
  config.crop_share = 1;
  return config;
}

std::int64_t floor_share(double share, std::int64_t channels) {
  return static_cast<std::int64_t>(share * static_cast<double>(channels));
}

constexpr std::int64_t patch = 4;  // of the stem, pixels a side

// Far beyond any network; products of them are in range.
constexpr std::int64_t most_channels = 1 << 30;
constexpr double largest_mlp_ratio = 1 << 10;

// Far beyond any network, and low enough that no count overflows.
void check_countable(const NetworkConfig& config, std::int64_t height, std::int64_t width) {
  constexpr double most = 1e18;
  const double pixels = static_cast<double>(height) * static_cast<double>(width);
  const auto widest =
      static_cast<double>(*std::max_element(config.dims.begin(), config.dims.end()));
  const double ends = static_cast<double>(config.classes) + static_cast<double>(config.in_channels);
  const double kernels = std::pow(static_cast<double>(config.kernel_size), 2) +
                         std::pow(static_cast<double>(config.square_size), 2) +
                         2 * static_cast<double>(config.band_size);
  // Stem, downsampling and head, then the blocks.
  double macs = (pixels + 1) * widest * (16 * ends + 8 * widest);
  for (std::size_t i = 0; i < config.dims.size(); ++i) {
    macs += (pixels + 1) * static_cast<double>(config.depths[i]) * widest *
            (2 * config.mlp_ratios[i] * widest + kernels + 8);
  }
  require(macs <= most, "network: at {} x {} pixels it is too large to be counted", height, width);
}

// A layer of `out` units that each see `in` inputs, with a bias.
std::int64_t layer_parameters(std::int64_t in, std::int64_t out) {
  return (in + 1) * out;
}

StageCount count_stage(const NetworkConfig& config, std::int64_t stage, std::int64_t height,
                       std::int64_t width) {
  const auto at = static_cast<std::size_t>(stage);
  StageCount found;
  found.blocks = config.depths[at];
  found.height = height;
  found.width = width;
  found.channels = config.dims[at];
  found.hidden = config.hidden_channels(stage);
  std::int64_t taps = 0;
  std::int64_t groups = 0;
  if (config.mixer == Mixer::inception) {
    found.branch_channels = config.branch_channels(found.channels);
    taps = config.square_size * config.square_size + 2 * config.band_size;
    groups = 3;
  } else if (config.mixer == Mixer::depthwise) {
    found.branch_channels = config.convolved_channels(found.channels);
    taps = config.kernel_size * config.kernel_size;
    groups = 1;
  }
  const std::int64_t pixels = height * width;
  found.identity_channels = found.channels - groups * found.branch_channels;
  found.mixer_parameters = found.branch_channels * (taps + groups);
  found.mixer_macs = found.branch_channels * taps * pixels;
  const std::int64_t norm_and_scale = 3 * found.channels;
  found.block_parameters = found.mixer_parameters + norm_and_scale +
                           layer_parameters(found.channels, found.hidden) +
                           layer_parameters(found.hidden, found.channels);
  found.block_macs = found.mixer_macs + 2 * found.channels * found.hidden * pixels;
  return found;
}

void count_head(const NetworkConfig& config, NetworkCount& found) {
  const std::int64_t channels = config.dims.back();
  const std::int64_t features = config.frame == Frame::metanext ? 3 * channels : channels;
  found.parameters += 2 * features + layer_parameters(features, config.classes);
  found.macs += features * config.classes;
  if (config.frame == Frame::metanext) {
    found.parameters += layer_parameters(channels, features);
    found.macs += channels * features;
  }
}

}  // namespace

std::string to_string(Mixer mixer) {
  switch (mixer) {
    case Mixer::depthwise:
      return "depthwise";
    case Mixer::identity:
      return "identity";
    case Mixer::inception:
      break;
  }
  return "inception";
}

Mixer parse_mixer(const std::string& name) {
  for (const Mixer mixer : {Mixer::inception, Mixer::depthwise, Mixer::identity}) {
    if (to_string(mixer) == name) return mixer;
  }
  throw InvalidArgument(fmt::format("mixer: expected inception, depthwise or identity, got '{}'{}",
                                    name, hint(name, {"inception", "depthwise", "identity"})));
}

std::string to_string(Frame frame) {
  return frame == Frame::metanext ? "metanext" : "convnext";
}

Frame parse_frame(const std::string& name) {
  for (const Frame frame : {Frame::metanext, Frame::convnext}) {
    if (to_string(frame) == name) return frame;
  }
  throw InvalidArgument(fmt::format("frame: expected metanext or convnext, got '{}'{}", name,
                                    hint(name, {"metanext", "convnext"})));
}

std::int64_t NetworkConfig::branch_channels(std::int64_t channels) const {
  return floor_share(branch_ratio, channels);
}

std::int64_t NetworkConfig::convolved_channels(std::int64_t channels) const {
  return floor_share(convolved_share, channels);
}

std::int64_t NetworkConfig::hidden_channels(std::int64_t stage) const {
  const auto at = static_cast<std::size_t>(stage);
  return floor_share(mlp_ratios[at], dims[at]);
}

const std::vector<std::string>& config_names() {
  static const std::vector<std::string> names = {"atto",     "tiny",          "small", "base",
                                                 "base-384", "convnext-tiny", "toy"};
  return names;
}

NetworkConfig named_config(const std::string& given) {
  std::string name = given;
  std::replace(name.begin(), name.end(), '_', '-');
  for (const std::string_view prefix : {"inceptionnext-", "inception-next-"}) {
    if (name.rfind(prefix, 0) == 0) name.erase(0, prefix.size());
  }
  if (name == "atto") return atto();
  if (name == "tiny") return make({3, 3, 9, 3}, {96, 192, 384, 768});
  if (name == "small") return make({3, 3, 27, 3}, {96, 192, 384, 768});
  if (name == "base") return make({3, 3, 27, 3}, {128, 256, 512, 1024});
  if (name == "base-384") return base_384();
  if (name == "convnext-tiny") return convnext_tiny();
  if (name == "toy") return toy();
  throw InvalidArgument(fmt::format("model: expected one of {}, got '{}'{}",
                                    fmt::join(config_names(), ", "), given,
                                    hint(name, config_names())));
}

void check(const NetworkConfig& config) {
  const std::size_t stages = config.dims.size();
  require(stages >= 1 && config.depths.size() == stages && config.mlp_ratios.size() == stages,
          "network: expected as many depths ({}) and MLP ratios ({}) as dims ({}), at least one",
          config.depths.size(), config.mlp_ratios.size(), stages);
  for (std::size_t i = 0; i < stages; ++i) {
    require(config.dims[i] >= 1 && config.dims[i] <= most_channels && config.depths[i] >= 0,
            "network: stage {} has {} channels and {} blocks", i, config.dims[i], config.depths[i]);
    require(config.mlp_ratios[i] > 0 && config.mlp_ratios[i] <= largest_mlp_ratio &&
                config.hidden_channels(static_cast<std::int64_t>(i)) >= 1,
            "network: MLP ratio {} of stage {} leaves no hidden channel, or too many",
            config.mlp_ratios[i], i);
    if (config.mixer == Mixer::inception) {
      require(config.branch_channels(config.dims[i]) >= 1,
              "network: branch ratio {} of {} channels leaves none", config.branch_ratio,
              config.dims[i]);
      require(3 * config.branch_channels(config.dims[i]) <= config.dims[i],
              "network: branch ratio {} takes more than all of {} channels", config.branch_ratio,
              config.dims[i]);
    }
    if (config.mixer == Mixer::depthwise) {
      require(config.convolved_channels(config.dims[i]) >= 1,
              "network: convolved share {} of {} channels leaves none", config.convolved_share,
              config.dims[i]);
    }
  }
  const auto odd = [](std::int64_t size, const char* name) {
    require(size >= 1 && size % 2 == 1, "network: {}: expected an odd size >= 1, got {}", name,
            size);
  };
  odd(config.square_size, "square size");
  odd(config.band_size, "band size");
  odd(config.kernel_size, "kernel size");
  require(config.branch_ratio > 0 && config.branch_ratio <= 1.0 / 3,
          "network: branch ratio: expected a number > 0 and <= 1/3, got {}", config.branch_ratio);
  require(config.convolved_share > 0 && config.convolved_share <= 1,
          "network: convolved share: expected a number > 0 and <= 1, got {}",
          config.convolved_share);
  require(config.in_channels >= 1, "network: input channels: expected a number >= 1, got {}",
          config.in_channels);
  require(config.classes >= 1, "network: classes: expected a number >= 1, got {}", config.classes);
  require(config.drop_path >= 0 && config.drop_path < 1 && config.head_dropout >= 0 &&
              config.head_dropout < 1,
          "network: drop path and head dropout: expected numbers >= 0 and < 1");
  require(config.resolution >= 1 && config.crop_share > 0 && config.crop_share <= 1,
          "network: resolution {} and crop share {}: expected a number >= 1 and one > 0 and <= 1",
          config.resolution, config.crop_share);
  require(std::isfinite(config.layer_scale), "network: layer scale: expected a finite number");
}

NetworkCount count(const NetworkConfig& config, std::int64_t height, std::int64_t width) {
  check(config);
  check_countable(config, height, width);
  NetworkCount found;
  height /= patch;
  width /= patch;
  const std::int64_t patch_inputs = patch * patch * config.in_channels;
  found.parameters = layer_parameters(patch_inputs, config.dims[0]) + 2 * config.dims[0];
  found.macs = patch_inputs * config.dims[0] * height * width;
  for (std::int64_t stage = 0; stage < config.stages(); ++stage) {
    const auto at = static_cast<std::size_t>(stage);
    if (stage > 0) {
      height /= 2;
      width /= 2;
      const std::int64_t before = config.dims[at - 1];
      found.parameters += 2 * before + layer_parameters(4 * before, config.dims[at]);
      found.macs += 4 * before * config.dims[at] * height * width;
    }
    require(height >= 1 && width >= 1, "network: the image is so small that stage {} has no pixels",
            stage);
    found.stages.push_back(count_stage(config, stage, height, width));
    found.parameters += found.stages.back().blocks * found.stages.back().block_parameters;
    found.macs += found.stages.back().blocks * found.stages.back().block_macs;
  }
  count_head(config, found);
  return found;
}

}  // namespace einkorn::inceptionnext
