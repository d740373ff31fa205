#include "einkorn/convolution/inceptionnext/folded_network.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <chrono>
#include <utility>

#include "einkorn/convolution/depthwise.h"
#include "einkorn/convolution/inceptionnext/mlp_kernels.h"
#include "einkorn/core/error.h"

namespace einkorn::inceptionnext {
namespace {

// BatchNorm in evaluation is y = scale x + shift, per channel, here in f64.
struct Affine {
  torch::Tensor scale;
  torch::Tensor shift;
};

Affine affine_of(const ChannelNorm& norm) {
  require(norm->running_mean.defined(),
          "folding: only BatchNorm can be folded; a ConvNeXt's LayerNorm depends on its input");
  const torch::Tensor variance = norm->running_var.to(at::kDouble) + 1e-5;
  require(variance.isfinite().logical_and(variance.gt(0)).all().item<bool>(),
          "folding: a norm's running variance is negative or not finite");
  const torch::Tensor scale = norm->weight.to(at::kDouble) / variance.sqrt();
  return {scale, norm->bias.to(at::kDouble) - norm->running_mean.to(at::kDouble) * scale};
}

torch::Tensor f32(const torch::Tensor& tensor) {
  return tensor.detach().to(at::kFloat).contiguous();
}

torch::Tensor copy_of(const torch::Tensor& tensor) {
  return tensor.detach().clone();
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

torch::Tensor packed(const torch::Tensor& weight) {
  const GemmKernels& kernels = gemm_kernels();
  const std::int64_t panels = (weight.size(0) + kernels.panel_width - 1) / kernels.panel_width;
  torch::Tensor result = torch::empty({panels * kernels.panel_width * weight.size(1)});
  kernels.pack(weight.const_data_ptr<float>(), weight.size(0), weight.size(1),
               result.mutable_data_ptr<float>());
  return result;
}

}  // namespace

FoldedNetwork::FoldedNetwork(const NetworkImpl& network) : config_(network.config()) {
  const torch::NoGradGuard no_grad;
  require(config_.frame == Frame::metanext,
          "folding: only BatchNorm can be folded; a ConvNeXt's LayerNorm depends on its input");
  const Affine stem = affine_of(network.stem_norm);
  stem_ = {f32(network.stem->weight * stem.scale.view({-1, 1, 1, 1})),
           f32(network.stem->bias * stem.scale + stem.shift)};
  for (const Stage& stage : network.stages) {
    FoldedStage& folded = stages_.emplace_back();
    if (stage->downsample) {
      const Affine norm = affine_of(stage->downsample_norm);
      const torch::Tensor weight = stage->downsample->weight.to(at::kDouble);
      folded.downsample = {f32(weight * norm.scale.view({1, -1, 1, 1})),
                           f32(stage->downsample->bias + (weight.sum({2, 3}) * norm.shift).sum(1))};
    }
    for (const Block& block : stage->blocks) {
      FoldedBlock& target = folded.blocks.emplace_back();
      if (block->inception) {
        const MixerWeights w = block->inception->weights();
        target.inception = {copy_of(w.square),      copy_of(w.wide),      copy_of(w.tall),
                            copy_of(w.square_bias), copy_of(w.wide_bias), copy_of(w.tall_bias)};
      } else if (block->depthwise) {
        target.depthwise = {copy_of(block->depthwise->weight), copy_of(block->depthwise->bias)};
      }
      const Affine norm = affine_of(block->norm);
      const torch::Tensor fc1 = block->mlp->fc1->matrix().to(at::kDouble);
      const torch::Tensor gamma = block->gamma.to(at::kDouble);
      target.fc1 = {f32(fc1 * norm.scale), f32(block->mlp->fc1->bias + fc1.mv(norm.shift))};
      target.fc2 = {f32(block->mlp->fc2->matrix() * gamma.view({-1, 1})),
                    f32(block->mlp->fc2->bias * gamma)};
    }
  }
  const nn::NamedTensors state = nn::state_of(network);
  const auto layer = [&](const std::string& name) {
    return Layer{copy_of(state.at(name + ".weight")), copy_of(state.at(name + ".bias"))};
  };
  head_fc1_ = layer("head.fc1");
  head_norm_ = layer("head.norm");
  head_fc2_ = layer("head.fc2");
  pack();
}

template <typename Self, typename Visit>
void FoldedNetwork::for_each_tensor(Self& self, Visit visit) {
  const auto layer = [&](const std::string& name, auto& some) {
    visit(name + ".weight", some.weight);
    visit(name + ".bias", some.bias);
  };
  layer("stem.0", self.stem_);
  for (std::size_t i = 0; i < self.stages_.size(); ++i) {
    auto& stage = self.stages_[i];
    const std::string stage_name = fmt::format("stages.{}", i);
    if (i > 0) layer(stage_name + ".downsample.1", stage.downsample);
    for (std::size_t j = 0; j < stage.blocks.size(); ++j) {
      auto& block = stage.blocks[j];
      const std::string name = fmt::format("{}.blocks.{}", stage_name, j);
      if (self.config_.mixer == Mixer::inception) {
        visit(name + ".token_mixer.dwconv_hw.weight", block.inception.square);
        visit(name + ".token_mixer.dwconv_hw.bias", block.inception.square_bias);
        visit(name + ".token_mixer.dwconv_w.weight", block.inception.wide);
        visit(name + ".token_mixer.dwconv_w.bias", block.inception.wide_bias);
        visit(name + ".token_mixer.dwconv_h.weight", block.inception.tall);
        visit(name + ".token_mixer.dwconv_h.bias", block.inception.tall_bias);
      } else if (self.config_.mixer == Mixer::depthwise) {
        layer(name + ".token_mixer", block.depthwise);
      }
      layer(name + ".mlp.fc1", block.fc1);
      layer(name + ".mlp.fc2", block.fc2);
    }
  }
  layer("head.fc1", self.head_fc1_);
  layer("head.norm", self.head_norm_);
  layer("head.fc2", self.head_fc2_);
}

FoldedNetwork::FoldedNetwork(const NetworkConfig& config, const nn::NamedTensors& tensors,
                             const std::string& path)
    // A network of that config says which names and shapes there must be.
    : FoldedNetwork(*Network(config)) {
  std::size_t known = 0;
  for_each_tensor(*this, [&](const std::string& name, torch::Tensor& target) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw BadFile(path, fmt::format("tensor '{}'", name), "is missing");
    if (found->second.sizes() != target.sizes()) {
      throw BadFile(
          path, fmt::format("tensor '{}'", name),
          fmt::format("has shape [{}], expected [{}]", fmt::join(found->second.sizes(), ", "),
                      fmt::join(target.sizes(), ", ")));
    }
    target = found->second.to(at::kFloat).contiguous();
    ++known;
  });
  if (known != tensors.size()) {
    throw BadFile(path, "",
                  fmt::format("holds {} tensors, a folded network of this kind has {}",
                              tensors.size(), known));
  }
  pack();
}

nn::NamedTensors FoldedNetwork::state() const {
  nn::NamedTensors state;
  for_each_tensor(*this, [&](const std::string& name, const torch::Tensor& tensor) {
    state.emplace(name, tensor);
  });
  return state;
}

void FoldedNetwork::to(at::Device device, at::ScalarType type) {
  for_each_tensor(
      *this, [&](const std::string&, torch::Tensor& tensor) { tensor = tensor.to(device, type); });
  pack();
}

// Only what the product on the CPU reads.
void FoldedNetwork::pack() {
  const bool here = stem_.weight.is_cpu() && stem_.weight.scalar_type() == at::kFloat;
  for (FoldedStage& stage : stages_) {
    for (FoldedBlock& block : stage.blocks) {
      block.fc1_packed = here ? packed(block.fc1.weight) : torch::Tensor();
      block.fc2_packed = here ? packed(block.fc2.weight) : torch::Tensor();
    }
  }
}

void FoldedNetwork::run_mlp_in_place(const FoldedBlock& block, torch::Tensor& x,
                                     const torch::Tensor& branches) const {
  const std::int64_t channels = x.size(1);
  const std::int64_t convolved = branches.defined() ? branches.size(1) : 0;
  RowSources rows;
  rows.first = x.const_data_ptr<float>();
  rows.first_stride = channels;
  rows.first_count = channels - convolved;
  if (convolved > 0) {
    rows.second = branches.const_data_ptr<float>();
    rows.second_stride = convolved;
    rows.second_count = convolved;
  }
  const auto weights = [](const torch::Tensor& data, const Layer& layer) {
    return PackedWeights{data.const_data_ptr<float>(), layer.bias.const_data_ptr<float>(),
                         layer.bias.size(0)};
  };
  run_folded_mlp(rows, x.numel() / channels, weights(block.fc1_packed, block.fc1),
                 weights(block.fc2_packed, block.fc2), x.mutable_data_ptr<float>());
}

torch::Tensor FoldedNetwork::run_mlp(const FoldedBlock& block, const torch::Tensor& x,
                                     const torch::Tensor& mixed) const {
  const torch::Tensor hidden =
      at::gelu(at::linear(mixed.permute({0, 2, 3, 1}), block.fc1.weight, block.fc1.bias));
  return x + at::linear(hidden, block.fc2.weight, block.fc2.bias).permute({0, 3, 1, 2});
}

torch::Tensor FoldedNetwork::run_block(const FoldedBlock& block, torch::Tensor x,
                                       BlockTime* time) const {
  const bool two_sources = block.fc1_packed.defined();
  const auto begin = std::chrono::steady_clock::now();
  // The convolved channels; the others stay in x.
  torch::Tensor branches;
  if (config_.mixer == Mixer::inception && two_sources) {
    branches = inception_dwconv_branches(x, block.inception);
  } else if (config_.mixer == Mixer::depthwise) {
    const std::int64_t count = block.depthwise.weight.size(0);
    branches = convolution::depthwise_conv2d(x.narrow(1, x.size(1) - count, count),
                                             block.depthwise.weight, block.depthwise.bias);
  }
  torch::Tensor mixed;
  if (!two_sources) {
    if (config_.mixer == Mixer::inception) {
      mixed = inception_dwconv(x, block.inception);
    } else if (branches.defined() && branches.size(1) < x.size(1)) {
      mixed = at::cat({x.narrow(1, 0, x.size(1) - branches.size(1)), branches}, 1);
    } else {
      mixed = branches.defined() ? branches : x;
    }
  }
  if (time != nullptr) time->mixer_seconds = seconds_since(begin);
  const auto middle = std::chrono::steady_clock::now();
  if (two_sources) {
    run_mlp_in_place(block, x, branches);
  } else {
    x = run_mlp(block, x, mixed);
  }
  if (time != nullptr) time->mlp_seconds = seconds_since(middle);
  return x;
}

std::vector<torch::Tensor> FoldedNetwork::features(const torch::Tensor& images,
                                                   std::vector<BlockTime>* times) const {
  const torch::NoGradGuard no_grad;
  require(images.dim() == 4 && images.size(1) == config_.in_channels,
          "network: expected images [N, {}, height, width]", config_.in_channels);
  const std::int64_t least = std::int64_t{4} << (config_.stages() - 1);
  require(images.size(2) >= least && images.size(3) >= least,
          "network: expected images of at least {} x {} pixels, got {} x {}", least, least,
          images.size(2), images.size(3));
  require(images.device() == stem_.weight.device() &&
              images.scalar_type() == stem_.weight.scalar_type(),
          "network: expected images of {} on {}", c10::toString(stem_.weight.scalar_type()),
          stem_.weight.device().str());
  const auto channels_last = at::MemoryFormat::ChannelsLast;
  std::vector<torch::Tensor> outputs;
  torch::Tensor x = at::conv2d(images.contiguous(channels_last), stem_.weight, stem_.bias, 4);
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const FoldedStage& stage = stages_[i];
    if (i > 0) x = at::conv2d(x, stage.downsample.weight, stage.downsample.bias, 2);
    // Blocks work in place: on a tensor that nobody else sees.
    x = x.contiguous(channels_last);
    for (std::size_t j = 0; j < stage.blocks.size(); ++j) {
      BlockTime time{static_cast<std::int64_t>(i), static_cast<std::int64_t>(j), 0, 0};
      x = run_block(stage.blocks[j], x, times == nullptr ? nullptr : &time);
      if (times != nullptr) times->push_back(time);
    }
    outputs.push_back(x);
  }
  return outputs;
}

torch::Tensor FoldedNetwork::forward(const torch::Tensor& images,
                                     std::vector<BlockTime>* times) const {
  const torch::NoGradGuard no_grad;
  const torch::Tensor pooled = features(images, times).back().mean({2, 3});
  const torch::Tensor hidden = at::gelu(at::linear(pooled, head_fc1_.weight, head_fc1_.bias));
  const torch::Tensor normed =
      at::layer_norm(hidden, {hidden.size(1)}, head_norm_.weight, head_norm_.bias, 1e-6);
  return at::linear(normed, head_fc2_.weight, head_fc2_.bias);
}

}  // namespace einkorn::inceptionnext
