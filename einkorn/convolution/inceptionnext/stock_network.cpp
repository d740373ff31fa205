#include "einkorn/convolution/inceptionnext/stock_network_internal.h"

#include <ATen/ATen.h>

#include <chrono>

namespace einkorn::inceptionnext {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

torch::Tensor mix(const DepthwiseFunction& depthwise, const Block& block, const torch::Tensor& x) {
  if (block->inception) return mixer_by(depthwise, x, block->inception->weights());
  if (!block->depthwise) return x;
  const torch::Tensor& weight = block->depthwise->weight;
  const std::int64_t passed = x.size(1) - weight.size(0);
  const torch::Tensor convolved =
      depthwise(x.narrow(1, passed, weight.size(0)), weight, block->depthwise->bias);
  return passed == 0 ? convolved : at::cat({x.narrow(1, 0, passed), convolved}, 1);
}

// timm's modules: 1 x 1 convolutions in the frame metanext, linear layers on [N, H, W, C] in
// convnext.
torch::Tensor mlp(const NetworkConfig& config, const Block& block, const torch::Tensor& x) {
  const Pointwise& fc1 = block->mlp->fc1;
  const Pointwise& fc2 = block->mlp->fc2;
  if (config.frame == Frame::metanext) {
    const torch::Tensor hidden = at::gelu(at::conv2d(x, fc1->weight, fc1->bias));
    return at::conv2d(hidden, fc2->weight, fc2->bias);
  }
  const torch::Tensor hidden =
      at::gelu(at::linear(x.permute({0, 2, 3, 1}), fc1->weight, fc1->bias));
  return at::linear(hidden, fc2->weight, fc2->bias).permute({0, 3, 1, 2});
}

}  // namespace

torch::Tensor depthwise_by_torch(const torch::Tensor& x, const torch::Tensor& weight,
                                 const torch::Tensor& bias) {
  return at::conv2d(x, weight, bias, 1, {weight.size(2) / 2, weight.size(3) / 2}, 1, x.size(1));
}

torch::Tensor depthwise_by_im2col(const torch::Tensor& x, const torch::Tensor& weight,
                                  const torch::Tensor& bias) {
  const std::int64_t kh = weight.size(2);
  const std::int64_t kw = weight.size(3);
  const torch::Tensor patches =
      at::im2col(x.contiguous(), {kh, kw}, {1, 1}, {kh / 2, kw / 2}, {1, 1})
          .view({x.size(0), x.size(1), kh * kw, x.size(2) * x.size(3)});
  const torch::Tensor sums = at::matmul(weight.view({x.size(1), 1, kh * kw}), patches);
  return sums.view(x.sizes()) + bias.view({-1, 1, 1});
}

torch::Tensor mixer_by(const DepthwiseFunction& depthwise, const torch::Tensor& x,
                       const MixerWeights& weights) {
  const std::int64_t group = weights.square.size(0);
  const auto parts = x.split_with_sizes({x.size(1) - 3 * group, group, group, group}, 1);
  return at::cat({parts[0], depthwise(parts[1], weights.square, weights.square_bias),
                  depthwise(parts[2], weights.wide, weights.wide_bias),
                  depthwise(parts[3], weights.tall, weights.tall_bias)},
                 1);
}

torch::Tensor stock_forward(NetworkImpl& network, const torch::Tensor& images,
                            const DepthwiseFunction& depthwise, std::vector<BlockTime>* times) {
  torch::Tensor x = network.stem_norm->forward(network.stem->forward(images));
  for (std::size_t i = 0; i < network.stages.size(); ++i) {
    Stage& stage = network.stages[i];
    if (stage->downsample) x = stage->downsample->forward(stage->downsample_norm->forward(x));
    for (std::size_t j = 0; j < stage->blocks.size(); ++j) {
      Block& block = stage->blocks[j];
      const auto begin = std::chrono::steady_clock::now();
      const torch::Tensor mixed = mix(depthwise, block, x);
      const double mixer_seconds = seconds_since(begin);
      const auto middle = std::chrono::steady_clock::now();
      const torch::Tensor branch = mlp(network.config(), block, block->norm->forward(mixed));
      x = x + branch * block->gamma.view({-1, 1, 1});
      if (times != nullptr) {
        times->push_back({static_cast<std::int64_t>(i), static_cast<std::int64_t>(j), mixer_seconds,
                          seconds_since(middle)});
      }
    }
  }
  return network.head->forward(x);
}

}  // namespace einkorn::inceptionnext
