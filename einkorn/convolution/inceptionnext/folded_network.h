// InceptionNeXt for inference, without its norms: BatchNorm and layer scale are folded into the
// layers beside them. A block is mixer -> product with GELU -> product with residual.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

#include "einkorn/convolution/inceptionnext/inception_mixer.h"
#include "einkorn/convolution/inceptionnext/network.h"
#include "einkorn/convolution/inceptionnext/network_config.h"
#include "einkorn/nn/weights.h"

namespace einkorn::inceptionnext {

// Where the time of a forward pass goes.
struct BlockTime {
  std::int64_t stage = 0;
  std::int64_t block = 0;
  double mixer_seconds = 0;
  double mlp_seconds = 0;
};

// Folding, in f64 (s = w / sqrt(var + eps), per channel):
//   stem        W' = s W,       b' = beta + (b - mean) s
//   downsample  W' = W s,       b' = b + sum W (beta - mean s)      (its norm comes first; no
//   padding) fc1         W' = W s,       b' = b + W (beta - mean s)          (the mixer's identity
//   channels
//                                                                    forbid folding backward)
//   fc2         W' = gamma W,   b' = gamma b
//
// On the CPU in f32 the first product reads the identity channels from the block's input and only
// the convolved ones from a buffer; hidden activations stay in L2. Elsewhere torch's products run.
class FoldedNetwork {
 public:
  // From a trained network, with its running statistics. Throws InvalidArgument for the frame
  // convnext, whose LayerNorms depend on the input, and for variances <= -eps or not finite.
  explicit FoldedNetwork(const NetworkImpl& network);

  // From the tensors of a folded file. Throws BadFile for missing, unexpected or misshapen ones.
  FoldedNetwork(const NetworkConfig& config, const nn::NamedTensors& tensors,
                const std::string& path);

  // images [N, in_channels, H, W] of the weights' type and device -> logits [N, classes].
  torch::Tensor forward(const torch::Tensor& images, std::vector<BlockTime>* times = nullptr) const;

  // The outputs of the stages.
  std::vector<torch::Tensor> features(const torch::Tensor& images,
                                      std::vector<BlockTime>* times = nullptr) const;

  // Names as of the unfolded network, without norms and layer scales.
  nn::NamedTensors state() const;

  void to(at::Device device, at::ScalarType type);

  const NetworkConfig& config() const { return config_; }

 private:
  struct Layer {
    torch::Tensor weight;
    torch::Tensor bias;
  };
  struct FoldedBlock {
    MixerWeights inception;  // of Mixer::inception
    Layer depthwise;         // of Mixer::depthwise
    Layer fc1;               // [hidden, channels]
    Layer fc2;               // [channels, hidden]
    torch::Tensor fc1_packed;
    torch::Tensor fc2_packed;
  };
  struct FoldedStage {
    Layer downsample;
    std::vector<FoldedBlock> blocks;
  };

  // Calls visit(name, tensor) for every weight; the one list of names that reading, writing and
  // moving go by.
  template <typename Self, typename Visit>
  static void for_each_tensor(Self& self, Visit visit);

  void pack();
  torch::Tensor run_block(const FoldedBlock& block, torch::Tensor x, BlockTime* time) const;
  torch::Tensor run_mlp(const FoldedBlock& block, const torch::Tensor& x,
                        const torch::Tensor& mixed) const;
  void run_mlp_in_place(const FoldedBlock& block, torch::Tensor& x,
                        const torch::Tensor& branches) const;

  NetworkConfig config_;
  Layer stem_;
  std::vector<FoldedStage> stages_;
  Layer head_fc1_;
  Layer head_norm_;
  Layer head_fc2_;
};

}  // namespace einkorn::inceptionnext
