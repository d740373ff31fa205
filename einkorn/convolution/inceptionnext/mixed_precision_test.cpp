#include "einkorn/convolution/inceptionnext/mixed_precision.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>

#include "einkorn/core/error.h"
#include "einkorn/core/machine.h"

namespace einkorn::inceptionnext {
namespace {

TEST(MixedPrecision, RefusesImagesThatAreNotOnCuda) {
  Network network(named_config("toy"));
  EXPECT_THROW(mixed_precision_forward(*network, torch::zeros({1, 3, 32, 32})), InvalidArgument);
}

class MixedPrecisionOnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(Device::cuda)) GTEST_SKIP() << "this machine has no CUDA device";
    torch::manual_seed(3);
  }
};

NetworkConfig small_config(Frame frame, Mixer mixer) {
  NetworkConfig config;
  config.frame = frame;
  config.mixer = mixer;
  config.depths = {1, 2, 1};
  config.dims = {32, 64, 96};
  config.mlp_ratios = {4, 4, 3};
  config.classes = 10;
  config.layer_scale = 0.5;
  return config;
}

struct Pass {
  at::Tensor logits;
  std::map<std::string, at::Tensor> gradients;
  std::map<std::string, at::Tensor> buffers;
};

Network copy_of(const Network& network) {
  Network copy(network->config());
  copy->to(network->stem->weight.device());
  const torch::NoGradGuard no_grad;
  const auto parameters = network->parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) copy->parameters()[i].copy_(parameters[i]);
  return copy;
}

// Forward and backward on a copy of the network, so that running statistics start alike.
template <typename Forward>
Pass pass(const Network& network, const Forward& forward) {
  Network copy = copy_of(network);
  Pass result;
  result.logits = forward(*copy);
  const at::Tensor labels =
      torch::arange(result.logits.size(0), result.logits.options().dtype(at::kLong)).remainder(10);
  at::cross_entropy_loss(result.logits, labels).backward();
  for (const auto& item : copy->named_parameters()) {
    result.gradients[item.key()] = item.value().grad();
  }
  for (const auto& item : copy->named_buffers()) result.buffers[item.key()] = item.value();
  return result;
}

// Of the norm of what is expected, or where that is zero but for rounding (what a batch norm behind
// it takes away again) of `least`.
double relative_error(const at::Tensor& found, const at::Tensor& expected, double least = 0) {
  const at::Tensor exact = expected.to(at::kDouble);
  const double norm = std::max(exact.norm().item<double>(), least);
  return (found.to(at::kDouble) - exact).norm().item<double>() / norm;
}

double largest_norm(const std::map<std::string, at::Tensor>& tensors) {
  double largest = 0;
  for (const auto& [name, tensor] : tensors) {
    largest = std::max(largest, tensor.to(at::kDouble).norm().item<double>());
  }
  return largest;
}

struct Case {
  Frame frame;
  Mixer mixer;
  double share;
};

constexpr Case cases[] = {{Frame::metanext, Mixer::inception, 1},
                          {Frame::metanext, Mixer::identity, 1},
                          {Frame::convnext, Mixer::depthwise, 1},
                          {Frame::convnext, Mixer::depthwise, 0.25}};

// In f64 by torch's own operators and ours; f32 through the fused kernels differs by rounding only.
TEST_F(MixedPrecisionOnCuda, IsTheNetworkInSinglePrecision) {
  for (const Case& one : cases) {
    SCOPED_TRACE(to_string(one.frame) + " " + to_string(one.mixer));
    NetworkConfig config = small_config(one.frame, one.mixer);
    config.convolved_share = one.share;
    Network network(config);
    network->to(at::kCUDA);
    // 36 x 44: the last row and column of patches of the second downsampling are cut.
    const at::Tensor images = torch::randn({6, 3, 36, 44}, at::kCUDA);
    const Pass fused = pass(network, [&](NetworkImpl& copy) {
      return mixed_precision_forward(copy, images, at::kFloat);
    });
    const Pass plain = pass(network, [&](NetworkImpl& copy) {
      copy.to(at::kDouble);
      return copy.forward(images.to(at::kDouble));
    });
    EXPECT_LT(relative_error(fused.logits, plain.logits), 1e-5);
    const double least = 1e-3 * largest_norm(plain.gradients);
    for (const auto& [name, gradient] : plain.gradients) {
      EXPECT_LT(relative_error(fused.gradients.at(name), gradient, least), 2e-4) << name;
    }
    for (const auto& [name, buffer] : plain.buffers) {
      EXPECT_LT(relative_error(fused.buffers.at(name), buffer, 1), 1e-5) << name;
    }
  }
}

TEST_F(MixedPrecisionOnCuda, SixteenBitsStayCloseToSinglePrecision) {
  for (const Case& one : cases) {
    SCOPED_TRACE(to_string(one.frame) + " " + to_string(one.mixer));
    NetworkConfig config = small_config(one.frame, one.mixer);
    config.convolved_share = one.share;
    Network network(config);
    network->to(at::kCUDA);
    const at::Tensor images = torch::randn({16, 3, 64, 64}, at::kCUDA);
    const auto run = [&](at::ScalarType type) {
      return pass(network,
                  [&](NetworkImpl& copy) { return mixed_precision_forward(copy, images, type); });
    };
    const Pass exact = run(at::kFloat);
    for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
      const Pass rounded = run(type);
      EXPECT_EQ(rounded.logits.scalar_type(), at::kFloat);
      EXPECT_LT(relative_error(rounded.logits, exact.logits), 0.05);
      // The direction of the whole gradient, by which training goes.
      double product = 0;
      double norm = 0;
      double exact_norm = 0;
      for (const auto& [name, gradient] : exact.gradients) {
        const at::Tensor& other = rounded.gradients.at(name);
        product += (gradient * other).sum().item<double>();
        norm += other.square().sum().item<double>();
        exact_norm += gradient.square().sum().item<double>();
      }
      EXPECT_GT(product / std::sqrt(norm * exact_norm), 0.995);
    }
  }
}

TEST_F(MixedPrecisionOnCuda, DropsWholeImages) {
  NetworkConfig config = small_config(Frame::metanext, Mixer::inception);
  config.drop_path = 0.5;
  Network network(config);
  network->to(at::kCUDA);
  const at::Tensor images = torch::randn({4, 3, 32, 32}, at::kCUDA);
  const at::Tensor one = mixed_precision_forward(*network, images, at::kFloat);
  const at::Tensor other = mixed_precision_forward(*network, images, at::kFloat);
  EXPECT_FALSE(one.equal(other));
  EXPECT_TRUE(one.isfinite().all().item<bool>());
}

TEST_F(MixedPrecisionOnCuda, RefusesWhatItCannotRun) {
  Network network(small_config(Frame::metanext, Mixer::inception));
  network->to(at::kCUDA);
  const at::Tensor images = torch::randn({2, 3, 32, 32}, at::kCUDA);
  EXPECT_THROW(mixed_precision_forward(*network, images, at::kDouble), InvalidArgument);
  EXPECT_THROW(mixed_precision_forward(*network, images.narrow(1, 0, 2)), InvalidArgument);
  network->eval();
  EXPECT_THROW(mixed_precision_forward(*network, images), InvalidArgument);
  network->train();
  network->to(at::kHalf);
  EXPECT_THROW(mixed_precision_forward(*network, images), InvalidArgument);
}

}  // namespace
}  // namespace einkorn::inceptionnext
