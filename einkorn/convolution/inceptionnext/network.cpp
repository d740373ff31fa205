#include "einkorn/convolution/inceptionnext/network.h"

#include <ATen/ATen.h>

#include <utility>

#include "einkorn/convolution/depthwise_autograd.h"
#include "einkorn/convolution/inceptionnext/mixer_autograd.h"
#include "einkorn/core/error.h"

namespace einkorn::inceptionnext {
namespace {

constexpr std::int64_t patch = 4;

std::int64_t channels_of(const NetworkConfig& config, std::int64_t stage) {
  return config.dims[static_cast<std::size_t>(stage)];
}

torch::Tensor initial_weight(at::IntArrayRef shape) {
  return torch::randn(shape) * 0.02;
}

torch::nn::Conv2d patch_convolution(std::int64_t in, std::int64_t out, std::int64_t size) {
  torch::nn::Conv2d convolution(torch::nn::Conv2dOptions(in, out, size).stride(size));
  const torch::NoGradGuard no_grad;
  convolution->weight.copy_(initial_weight(convolution->weight.sizes()));
  convolution->bias.zero_();
  return convolution;
}

torch::nn::Linear linear(std::int64_t in, std::int64_t out) {
  torch::nn::Linear layer(in, out);
  const torch::NoGradGuard no_grad;
  layer->weight.copy_(initial_weight(layer->weight.sizes()));
  layer->bias.zero_();
  return layer;
}

torch::nn::LayerNorm head_norm(std::int64_t channels) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({channels}).eps(1e-6));
}

// Stochastic depth (Huang et al. 2016): an image's branch is dropped, or scaled up if it is kept.
torch::Tensor drop_images(const torch::Tensor& branch, double rate, bool training) {
  if (rate == 0 || !training) return branch;
  const double keep = 1 - rate;
  return branch * torch::empty({branch.size(0), 1, 1, 1}, branch.options()).bernoulli_(keep) / keep;
}

}  // namespace

DepthwiseKernelImpl::DepthwiseKernelImpl(std::int64_t channels, std::int64_t height,
                                         std::int64_t width)
    : weight(register_parameter("weight", initial_weight({channels, 1, height, width}))),
      bias(register_parameter("bias", torch::zeros({channels}))) {}

InceptionMixerImpl::InceptionMixerImpl(const NetworkConfig& config, std::int64_t channels)
    : square_(config.branch_channels(channels), config.square_size, config.square_size),
      wide_(config.branch_channels(channels), 1, config.band_size),
      tall_(config.branch_channels(channels), config.band_size, 1) {
  register_module("dwconv_hw", square_);
  register_module("dwconv_w", wide_);
  register_module("dwconv_h", tall_);
}

MixerWeights InceptionMixerImpl::weights() const {
  return {square_->weight, wide_->weight, tall_->weight, square_->bias, wide_->bias, tall_->bias};
}

torch::Tensor InceptionMixerImpl::forward(const torch::Tensor& x) {
  return differentiable_inception_dwconv(x, weights());
}

ChannelNormImpl::ChannelNormImpl(Frame frame, std::int64_t channels)
    : weight(register_parameter("weight", torch::ones({channels}))),
      bias(register_parameter("bias", torch::zeros({channels}))) {
  if (frame == Frame::convnext) return;
  running_mean = register_buffer("running_mean", torch::zeros({channels}));
  running_var = register_buffer("running_var", torch::ones({channels}));
  num_batches_tracked = register_buffer("num_batches_tracked", torch::zeros({}, at::kLong));
}

torch::Tensor ChannelNormImpl::forward(const torch::Tensor& x) {
  if (running_mean.defined()) {
    if (is_training()) num_batches_tracked.add_(1);
    return at::batch_norm(x, weight, bias, running_mean, running_var, is_training(), 0.1, 1e-5,
                          /*cudnn_enabled=*/true);
  }
  const torch::Tensor pixels = x.permute({0, 2, 3, 1});
  return at::layer_norm(pixels, {x.size(1)}, weight, bias, 1e-6).permute({0, 3, 1, 2});
}

PointwiseImpl::PointwiseImpl(Frame frame, std::int64_t in, std::int64_t out)
    : weight(register_parameter("weight", frame == Frame::metanext ? initial_weight({out, in, 1, 1})
                                                                   : initial_weight({out, in}))),
      bias(register_parameter("bias", torch::zeros({out}))) {}

torch::Tensor PointwiseImpl::matrix() const {
  return weight.view({weight.size(0), weight.size(1)});
}

torch::Tensor PointwiseImpl::forward(const torch::Tensor& pixels) {
  return at::linear(pixels, matrix(), bias);
}

MlpImpl::MlpImpl(Frame frame, std::int64_t channels, std::int64_t hidden)
    : fc1(frame, channels, hidden), fc2(frame, hidden, channels) {
  register_module("fc1", fc1);
  register_module("fc2", fc2);
}

torch::Tensor MlpImpl::forward(const torch::Tensor& pixels) {
  return fc2->forward(at::gelu(fc1->forward(pixels)));
}

BlockImpl::BlockImpl(const NetworkConfig& config, std::int64_t stage, double drop_path)
    : norm(config.frame, channels_of(config, stage)),
      mlp(config.frame, channels_of(config, stage), config.hidden_channels(stage)),
      drop_path_(drop_path) {
  const std::int64_t channels = channels_of(config, stage);
  const char* mixer_name = config.frame == Frame::metanext ? "token_mixer" : "conv_dw";
  if (config.mixer == Mixer::inception) {
    inception = register_module(mixer_name, InceptionMixer(config, channels));
  } else if (config.mixer == Mixer::depthwise) {
    depthwise =
        register_module(mixer_name, DepthwiseKernel(config.convolved_channels(channels),
                                                    config.kernel_size, config.kernel_size));
  }
  register_module("norm", norm);
  register_module("mlp", mlp);
  gamma = register_parameter("gamma", torch::full({channels}, config.layer_scale));
}

// The first channels of a partial depthwise convolution pass through: order identity, convolved.
torch::Tensor BlockImpl::mix(const torch::Tensor& x) {
  if (inception) return inception->forward(x);
  if (!depthwise) return x;
  const std::int64_t passed = x.size(1) - depthwise->weight.size(0);
  const auto convolve = [&](const torch::Tensor& some) {
    return convolution::differentiable_depthwise_conv2d(some, depthwise->weight, depthwise->bias);
  };
  if (passed == 0) return convolve(x);
  return at::cat({x.narrow(1, 0, passed), convolve(x.narrow(1, passed, x.size(1) - passed))}, 1);
}

torch::Tensor BlockImpl::forward(const torch::Tensor& x) {
  const torch::Tensor pixels = norm->forward(mix(x)).permute({0, 2, 3, 1});
  const torch::Tensor branch = drop_images(mlp->forward(pixels) * gamma, drop_path_, is_training());
  return x + branch.permute({0, 3, 1, 2});
}

StageImpl::StageImpl(const NetworkConfig& config, std::int64_t stage,
                     const std::vector<double>& drop_path) {
  if (stage > 0) {
    const std::int64_t before = channels_of(config, stage - 1);
    downsample_norm = ChannelNorm(config.frame, before);
    downsample = patch_convolution(before, channels_of(config, stage), 2);
    torch::nn::ModuleList parts;
    parts->push_back(downsample_norm);
    parts->push_back(downsample);
    register_module("downsample", parts);
  }
  torch::nn::ModuleList list;
  for (const double rate : drop_path) {
    blocks.emplace_back(config, stage, rate);
    list->push_back(blocks.back());
  }
  register_module("blocks", list);
}

torch::Tensor StageImpl::forward(torch::Tensor x) {
  if (downsample) x = downsample->forward(downsample_norm->forward(x));
  for (Block& block : blocks) x = block->forward(x);
  return x;
}

HeadImpl::HeadImpl(const NetworkConfig& config)
    : norm_(
          head_norm(config.frame == Frame::metanext ? 3 * config.dims.back() : config.dims.back())),
      dropout_(config.head_dropout),
      classifier_(linear(norm_->options.normalized_shape()[0], config.classes)) {
  if (config.frame == Frame::metanext) {
    first_ = register_module("fc1", linear(config.dims.back(), 3 * config.dims.back()));
  }
  register_module("norm", norm_);
  register_module(config.frame == Frame::metanext ? "fc2" : "fc", classifier_);
  register_module("dropout", dropout_);
}

torch::Tensor HeadImpl::forward(const torch::Tensor& features) {
  return classify(features.mean({2, 3}));
}

torch::Tensor HeadImpl::classify(torch::Tensor pooled) {
  if (first_) pooled = at::gelu(first_->forward(pooled));
  return classifier_->forward(dropout_->forward(norm_->forward(pooled)));
}

namespace {

const NetworkConfig& checked(const NetworkConfig& config) {
  check(config);
  return config;
}

// Rates grow linearly over all blocks of the network.
std::vector<std::vector<double>> drop_path_rates(const NetworkConfig& config) {
  std::int64_t total = 0;
  for (const std::int64_t depth : config.depths) total += depth;
  std::vector<std::vector<double>> rates;
  std::int64_t block = 0;
  for (const std::int64_t depth : config.depths) {
    std::vector<double>& stage = rates.emplace_back();
    for (std::int64_t i = 0; i < depth; ++i, ++block) {
      const auto share =
          static_cast<double>(block) / static_cast<double>(std::max<std::int64_t>(total - 1, 1));
      stage.push_back(config.drop_path * share);
    }
  }
  return rates;
}

}  // namespace

NetworkImpl::NetworkImpl(const NetworkConfig& config)
    : stem(patch_convolution(checked(config).in_channels, config.dims[0], patch)),
      stem_norm(config.frame, config.dims[0]),
      head(nullptr),
      config_(config) {
  torch::nn::ModuleList stem_parts;
  stem_parts->push_back(stem);
  stem_parts->push_back(stem_norm);
  register_module("stem", stem_parts);
  const auto rates = drop_path_rates(config);
  torch::nn::ModuleList stage_list;
  for (std::int64_t stage = 0; stage < config.stages(); ++stage) {
    stages.emplace_back(config, stage, rates[static_cast<std::size_t>(stage)]);
    stage_list->push_back(stages.back());
  }
  register_module("stages", stage_list);
  head = register_module("head", Head(config));
}

void NetworkImpl::check_images(const torch::Tensor& images) const {
  require(images.dim() == 4 && images.size(1) == config_.in_channels,
          "network: expected images [N, {}, height, width]", config_.in_channels);
  const std::int64_t least = patch << (config_.stages() - 1);
  require(images.size(2) >= least && images.size(3) >= least,
          "network: expected images of at least {} x {} pixels, got {} x {}", least, least,
          images.size(2), images.size(3));
}

std::vector<torch::Tensor> NetworkImpl::features(const torch::Tensor& images) {
  check_images(images);
  torch::Tensor x = images.contiguous(at::MemoryFormat::ChannelsLast);
  x = stem_norm->forward(stem->forward(x));
  std::vector<torch::Tensor> outputs;
  for (Stage& stage : stages) outputs.push_back(x = stage->forward(x));
  return outputs;
}

torch::Tensor NetworkImpl::forward(const torch::Tensor& images) {
  return head->forward(features(images).back());
}

}  // namespace einkorn::inceptionnext
