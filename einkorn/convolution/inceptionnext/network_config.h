// What an InceptionNeXt or ConvNeXt is made of: by name or part by part, with exact counts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace einkorn::inceptionnext {

// How the pixels of a channel are mixed.
enum class Mixer {
  inception,  // identity, s x s, 1 x b, b x 1
  depthwise,  // k x k for the last channels, the first (if any) pass through
  identity,   // nothing: a network without spatial kernels between its stages
};

// Parsing throws InvalidArgument for other names.
std::string to_string(Mixer mixer);
Mixer parse_mixer(const std::string& name);

// The frame around the mixers.
//   metanext: BatchNorm, 1 x 1 convolutions, head pool - linear - GELU - LayerNorm - linear
//   convnext: LayerNorm, linear layers, head pool - LayerNorm - linear
enum class Frame { metanext, convnext };

std::string to_string(Frame frame);
Frame parse_frame(const std::string& name);

struct NetworkConfig {
  Frame frame = Frame::metanext;
  std::vector<std::int64_t> depths = {3, 3, 9, 3};
  std::vector<std::int64_t> dims = {96, 192, 384, 768};
  std::vector<double> mlp_ratios = {4, 4, 4, 3};
  Mixer mixer = Mixer::inception;
  double branch_ratio = 0.125;   // r_g, in (0, 1/3]; a branch has floor(r_g C) channels
  std::int64_t square_size = 3;  // s, odd
  std::int64_t band_size = 11;   // b, odd
  std::int64_t kernel_size = 7;  // k of Mixer::depthwise, odd
  double convolved_share = 1;    // q of Mixer::depthwise, in (0, 1]; floor(q C) channels
  std::int64_t in_channels = 3;
  std::int64_t classes = 1000;
  double drop_path = 0;       // of the last block, linear from 0 in the first; in [0, 1)
  double head_dropout = 0;    // in [0, 1)
  double layer_scale = 1e-6;  // initial gamma
  std::int64_t resolution = 224;
  double crop_share = 0.875;

  std::int64_t stages() const { return static_cast<std::int64_t>(dims.size()); }
  std::int64_t branch_channels(std::int64_t channels) const;
  std::int64_t convolved_channels(std::int64_t channels) const;
  std::int64_t hidden_channels(std::int64_t stage) const;
};

// atto, tiny, small, base, base-384 (Yu et al., table 8), convnext-tiny (Liu et al. 2022), and toy
// (three stages for images of 32 x 32). Also with the prefixes of the paper's code and of timm,
// "inceptionnext_" and "inception_next_", and with underscores.
// Throws InvalidArgument with the nearest name as a hint.
NetworkConfig named_config(const std::string& name);
const std::vector<std::string>& config_names();

// Throws InvalidArgument that names the part out of range.
void check(const NetworkConfig& config);

// One stage at one input size. Multiply-adds of convolutions and linear layers, none left out at
// borders (as papers count).
struct StageCount {
  std::int64_t blocks = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 0;
  std::int64_t branch_channels = 0;    // channels of one convolved group
  std::int64_t identity_channels = 0;  // channels that the mixer passes through
  std::int64_t hidden = 0;
  std::int64_t mixer_parameters = 0;  // of one block
  std::int64_t mixer_macs = 0;
  std::int64_t block_parameters = 0;
  std::int64_t block_macs = 0;
};

struct NetworkCount {
  std::int64_t parameters = 0;
  std::int64_t macs = 0;
  std::vector<StageCount> stages;
};

// Throws InvalidArgument if an image of height x width leaves a stage without pixels.
NetworkCount count(const NetworkConfig& config, std::int64_t height, std::int64_t width);

}  // namespace einkorn::inceptionnext
