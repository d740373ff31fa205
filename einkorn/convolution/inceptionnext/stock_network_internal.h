// The same network through torch's own operators: the peer in benchmarks and demonstrations.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

#include "einkorn/convolution/inceptionnext/folded_network.h"
#include "einkorn/convolution/inceptionnext/network.h"

namespace einkorn::inceptionnext {

// A depthwise convolution with same padding: x, weight [channels, 1, height, width], bias.
using DepthwiseFunction =
    std::function<torch::Tensor(const torch::Tensor&, const torch::Tensor&, const torch::Tensor&)>;

// torch's conv2d (oneDNN, cuDNN), and the textbook way: patches unfolded into a matrix.
torch::Tensor depthwise_by_torch(const torch::Tensor& x, const torch::Tensor& weight,
                                 const torch::Tensor& bias);
torch::Tensor depthwise_by_im2col(const torch::Tensor& x, const torch::Tensor& weight,
                                  const torch::Tensor& bias);

// Split, three convolutions and a concatenation.
torch::Tensor mixer_by(const DepthwiseFunction& depthwise, const torch::Tensor& x,
                       const MixerWeights& weights);

// Norms, 1 x 1 convolutions and GELU as modules run them one by one, in the memory format of the
// images. With gradients, in training or evaluation as the network is; without drop path.
torch::Tensor stock_forward(NetworkImpl& network, const torch::Tensor& images,
                            const DepthwiseFunction& depthwise = depthwise_by_torch,
                            std::vector<BlockTime>* times = nullptr);

}  // namespace einkorn::inceptionnext
