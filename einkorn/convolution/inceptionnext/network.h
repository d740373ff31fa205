// InceptionNeXt and ConvNeXt as torch modules. Parts and parameters have timm's names, so weights
// load under the keys that timm saves.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "einkorn/convolution/inceptionnext/inception_mixer.h"
#include "einkorn/convolution/inceptionnext/network_config.h"

namespace einkorn::inceptionnext {

// One depthwise convolution's weight [channels, 1, height, width] and bias [channels].
class DepthwiseKernelImpl : public torch::nn::Module {
 public:
  DepthwiseKernelImpl(std::int64_t channels, std::int64_t height, std::int64_t width);

  torch::Tensor weight;
  torch::Tensor bias;
};
TORCH_MODULE(DepthwiseKernel);

// Parts dwconv_hw, dwconv_w and dwconv_h.
class InceptionMixerImpl : public torch::nn::Module {
 public:
  InceptionMixerImpl(const NetworkConfig& config, std::int64_t channels);

  torch::Tensor forward(const torch::Tensor& x);
  MixerWeights weights() const;

 private:
  DepthwiseKernel square_;
  DepthwiseKernel wide_;
  DepthwiseKernel tall_;
};
TORCH_MODULE(InceptionMixer);

// BatchNorm over the batch (eps 1e-5, momentum 0.1) in the frame metanext, LayerNorm over the
// channels of a pixel (eps 1e-6) in the frame convnext. Images [N, C, H, W].
class ChannelNormImpl : public torch::nn::Module {
 public:
  ChannelNormImpl(Frame frame, std::int64_t channels);

  torch::Tensor forward(const torch::Tensor& x);

  torch::Tensor weight;
  torch::Tensor bias;
  torch::Tensor running_mean;  // these three of BatchNorm only
  torch::Tensor running_var;
  torch::Tensor num_batches_tracked;
};
TORCH_MODULE(ChannelNorm);

// A linear map of the channels of every pixel, channels last: [..., in] -> [..., out]. The weight
// is stored as a 1 x 1 convolution's [out, in, 1, 1] in the frame metanext, else as [out, in].
class PointwiseImpl : public torch::nn::Module {
 public:
  PointwiseImpl(Frame frame, std::int64_t in, std::int64_t out);

  torch::Tensor forward(const torch::Tensor& pixels);
  torch::Tensor matrix() const;  // [out, in]

  torch::Tensor weight;
  torch::Tensor bias;
};
TORCH_MODULE(Pointwise);

// Parts fc1 and fc2.
class MlpImpl : public torch::nn::Module {
 public:
  MlpImpl(Frame frame, std::int64_t channels, std::int64_t hidden);

  torch::Tensor forward(const torch::Tensor& pixels);

  Pointwise fc1;
  Pointwise fc2;
};
TORCH_MODULE(Mlp);

// y = x + drop_path(gamma * fc2(gelu(fc1(norm(mixer(x)))))). Yu et al., equation 5.
class BlockImpl : public torch::nn::Module {
 public:
  BlockImpl(const NetworkConfig& config, std::int64_t stage, double drop_path);

  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor mix(const torch::Tensor& x);
  double drop_path_rate() const { return drop_path_; }

  InceptionMixer inception{nullptr};   // of Mixer::inception
  DepthwiseKernel depthwise{nullptr};  // of Mixer::depthwise
  ChannelNorm norm;
  Mlp mlp;
  torch::Tensor gamma;

 private:
  double drop_path_;
};
TORCH_MODULE(Block);

// Norm and a 2 x 2 convolution of stride 2 (but before the first stage), then blocks.
class StageImpl : public torch::nn::Module {
 public:
  // drop_path: of each block.
  StageImpl(const NetworkConfig& config, std::int64_t stage, const std::vector<double>& drop_path);

  torch::Tensor forward(torch::Tensor x);

  ChannelNorm downsample_norm{nullptr};
  torch::nn::Conv2d downsample{nullptr};
  std::vector<Block> blocks;
};
TORCH_MODULE(Stage);

// Features of the last stage to logits. Parts fc1, norm, fc2 (metanext) or norm, fc (convnext).
class HeadImpl : public torch::nn::Module {
 public:
  explicit HeadImpl(const NetworkConfig& config);

  torch::Tensor forward(const torch::Tensor& features);
  torch::Tensor classify(torch::Tensor pooled);  // of means over the pixels [N, C]

 private:
  torch::nn::Linear first_{nullptr};
  torch::nn::LayerNorm norm_;
  torch::nn::Dropout dropout_;
  torch::nn::Linear classifier_;
};
TORCH_MODULE(Head);

class NetworkImpl : public torch::nn::Module {
 public:
  // Weights normal with standard deviation 0.02 (timm cuts at +-2, a hundred deviations away),
  // biases 0, norms 1 and 0, layer scales config.layer_scale; drawn from torch's current generator.
  // Throws InvalidArgument for a config that check() refuses.
  explicit NetworkImpl(const NetworkConfig& config);

  // images [N, in_channels, H, W], H and W >= 4 * 2^(stages - 1) -> logits [N, classes].
  torch::Tensor forward(const torch::Tensor& images);

  // The outputs of the stages, at strides 4, 8, 16, ...
  std::vector<torch::Tensor> features(const torch::Tensor& images);

  // Throws InvalidArgument for images that forward() does not take.
  void check_images(const torch::Tensor& images) const;

  const NetworkConfig& config() const { return config_; }

  torch::nn::Conv2d stem;
  ChannelNorm stem_norm;
  std::vector<Stage> stages;
  Head head;

 private:
  NetworkConfig config_;
};
TORCH_MODULE(Network);

}  // namespace einkorn::inceptionnext
