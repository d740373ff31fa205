#include "einkorn/convolution/inceptionnext/benchmarks_internal.h"

#include <ATen/ATen.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "einkorn/convolution/depthwise.h"
#include "einkorn/convolution/inceptionnext/folded_network.h"
#include "einkorn/convolution/inceptionnext/inception_mixer.h"
#include "einkorn/convolution/inceptionnext/stock_network_internal.h"
#include "einkorn/convolution/inceptionnext/training_step_internal.h"
#include "einkorn/core/isa.h"
#include "einkorn/core/tensor.h"

namespace einkorn::inceptionnext {
namespace {

using torch::Tensor;

// tiny's first stage: on the CPU a batch of 8 in f32, on a GPU of 64 in 16 bits.
struct Size {
  explicit Size(Device device, at::ScalarType on_cuda = at::kBFloat16)
      : images(device == Device::cpu ? 8 : 64),
        options(
            torch::dtype(device == Device::cpu ? at::kFloat : on_cuda).device(to_torch(device))),
        arithmetic(device == Device::cpu ? Arithmetic::f32 : Arithmetic::bf16) {}

  Tensor random_images() const {
    return torch::randn({images, channels, side, side}, options)
        .contiguous(at::MemoryFormat::ChannelsLast);
  }
  double elements() const { return static_cast<double>(images * channels * side * side); }
  double bytes() const { return static_cast<double>(options.dtype().itemsize()) * elements(); }

  static constexpr std::int64_t channels = 96;
  static constexpr std::int64_t side = 56;
  static constexpr std::int64_t group = 12;
  std::int64_t images;
  torch::TensorOptions options;
  Arithmetic arithmetic;
};

// The call on tensors of either memory format that is faster here, by medians of a few runs.
using OnFormat = std::function<std::function<void()>(at::MemoryFormat)>;

TimedCall better_format(const OnFormat& make, Device device) {
  constexpr int runs = 7;
  TimedCall best;
  double best_seconds = INFINITY;
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const TimedCall call = timed(make(format), device);
    std::vector<double> seconds;
    call();
    for (int i = 0; i < runs; ++i) seconds.push_back(call());
    std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
    if (seconds[runs / 2] < best_seconds) {
      best_seconds = seconds[runs / 2];
      best = call;
    }
  }
  return best;
}

Contest mixer_contest(Device device) {
  const Size size(device);
  const auto weight = [&](at::IntArrayRef shape) { return torch::randn(shape, size.options); };
  const MixerWeights mixer = {weight({Size::group, 1, 3, 3}),  weight({Size::group, 1, 1, 11}),
                              weight({Size::group, 1, 11, 1}), weight({Size::group}),
                              weight({Size::group}),           weight({Size::group})};
  const Tensor x = size.random_images();
  Contest contest;
  contest.ours = timed(
      [x, mixer] {
        const torch::NoGradGuard no_grad;
        inception_dwconv(x, mixer);
      },
      device);
  contest.peer = better_format(
      [&](at::MemoryFormat format) -> std::function<void()> {
        MixerWeights formatted = mixer;
        formatted.square = mixer.square.contiguous(format);
        formatted.wide = mixer.wide.contiguous(format);
        formatted.tall = mixer.tall.contiguous(format);
        return [images = x.contiguous(format), formatted] {
          const torch::NoGradGuard no_grad;
          mixer_by(depthwise_by_torch, images, formatted);
        };
      },
      device);
  const double convolved = size.elements() * 3 * Size::group / Size::channels;
  contest.work = {2 * convolved * (9 + 11 + 11) / 3, 2 * size.bytes()};
  contest.arithmetic = size.arithmetic;
  return contest;
}

// Taps along one dimension that lie in the image, summed over the positions.
double taps_inside(std::int64_t extent, std::int64_t taps) {
  double sum = 0;
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    sum += static_cast<double>(extent - std::abs(tap - taps / 2));
  }
  return sum;
}

double depthwise_flops(const Size& size) {
  const double taps = taps_inside(Size::side, 7);
  return 2 * static_cast<double>(size.images * Size::channels) * taps * taps;
}

Contest forward_contest(Device device) {
  const Size size(device, at::kHalf);
  const Tensor x = size.random_images();
  const Tensor weight = torch::randn({Size::channels, 1, 7, 7}, size.options);
  const Tensor bias = torch::randn({Size::channels}, size.options);
  Contest contest;
  contest.ours = timed([=] { convolution::depthwise_conv2d(x, weight, bias); }, device);
  contest.peer = better_format(
      [&](at::MemoryFormat format) -> std::function<void()> {
        return [images = x.contiguous(format), kernels = weight.contiguous(format), bias] {
          const torch::NoGradGuard no_grad;
          depthwise_by_torch(images, kernels, bias);
        };
      },
      device);
  contest.work = {depthwise_flops(size), 2 * size.bytes()};
  contest.arithmetic = size.arithmetic;
  return contest;
}

Contest backward_contest(Device device) {
  const Size size(device, at::kHalf);
  const Tensor x = size.random_images();
  const Tensor dy = size.random_images();
  const Tensor weight = torch::randn({Size::channels, 1, 7, 7}, size.options);
  Contest contest;
  contest.ours = timed(
      [=] {
        convolution::depthwise_conv2d_input_gradient(dy, weight);
        convolution::depthwise_conv2d_weight_gradient(dy, x, weight);
      },
      device);
  contest.peer = better_format(
      [&](at::MemoryFormat format) -> std::function<void()> {
        return [gradient = dy.contiguous(format), images = x.contiguous(format),
                kernels = weight.contiguous(format)] {
          at::convolution_backward(gradient, images, kernels, at::IntArrayRef{Size::channels},
                                   {1, 1}, {3, 3}, {1, 1}, false, {0, 0}, Size::channels,
                                   {true, true, true});
        };
      },
      device);
  // dy is read twice, x once, dx written.
  contest.work = {2 * depthwise_flops(size), 4 * size.bytes()};
  contest.arithmetic = size.arithmetic;
  return contest;
}

Contest network_contest(std::int64_t images, Device device) {
  const Size size(device);
  auto network = std::make_shared<Network>(named_config("tiny"));
  (*network)->eval();
  auto folded = std::make_shared<FoldedNetwork>(**network);
  const at::ScalarType type = size.options.dtype().toScalarType();
  (*network)->to(to_torch(device), type);
  folded->to(to_torch(device), type);
  const Tensor x = torch::randn({images, 3, 224, 224}, size.options);
  Contest contest;
  contest.ours = timed([folded, x] { folded->forward(x); }, device);
  contest.peer = better_format(
      [&](at::MemoryFormat format) -> std::function<void()> {
        return [network, some = x.contiguous(format)] {
          const torch::NoGradGuard no_grad;
          stock_forward(**network, some);
        };
      },
      device);
  const NetworkCount cost = count((*network)->config(), 224, 224);
  const auto item = static_cast<double>(x.element_size());
  contest.work = {2.0 * static_cast<double>(images * cost.macs),
                  item * static_cast<double>(cost.parameters)};
  contest.arithmetic = size.arithmetic;
  return contest;
}

// A step of batch 64 in bf16 takes three times the forward's multiply-adds.
Contest training_contest(const std::string& model, Device device) {
  constexpr std::int64_t images = 64;
  Contest contest;
  const auto step = [=](Operators operators, at::MemoryFormat format) -> std::function<void()> {
    const auto made =
        std::make_shared<TrainingStep>(model, images, at::kBFloat16, operators, format);
    return [made] { (*made)(); };
  };
  contest.ours = timed(step(Operators::ours, at::MemoryFormat::ChannelsLast), device);
  contest.peer = better_format(
      [&](at::MemoryFormat format) { return step(Operators::stock, format); }, device);
  const NetworkCount cost = count(named_config(model), 224, 224);
  // Each parameter, its gradient and AdamW's two moments are read, and all but the gradient
  // written.
  contest.work = {6.0 * static_cast<double>(images * cost.macs),
                  7.0 * 4 * static_cast<double>(cost.parameters)};
  contest.arithmetic = Arithmetic::bf16;
  return contest;
}

}  // namespace

std::vector<Benchmark> benchmarks() {
  const std::vector<Device> both = {Device::cpu, Device::cuda};
  const auto network = [](std::int64_t images) {
    return [images](Device device) { return network_contest(images, device); };
  };
  return {
      {"Inception mixer, C=96, 56x56 (cpu: N=8 f32; cuda: N=64 bf16)",
       "torch: three convolutions and cat", both, mixer_contest},
      {"7x7 depthwise forward, C=96, 56x56 (cpu: N=8 f32; cuda: N=64 f16)", "torch conv2d", both,
       forward_contest},
      {"7x7 depthwise backward, C=96, 56x56 (cpu: N=8 f32; cuda: N=64 f16)",
       "torch convolution_backward", both, backward_contest},
      {"tiny inference at 224, one image",
       "torch's operators, unfolded",
       {Device::cpu},
       network(1)},
      {"tiny inference at 224, 8 images", "torch's operators, unfolded", {Device::cpu}, network(8)},
      {"tiny inference at 224, 128 images, bf16",
       "torch's operators, unfolded",
       {Device::cuda},
       network(128)},
      {"tiny, training step, 64 images at 224, bf16",
       "torch's operators, autocast",
       {Device::cuda},
       [](Device device) { return training_contest("tiny", device); }},
      {"convnext-tiny, training step, 64 images at 224, bf16",
       "torch's operators, autocast",
       {Device::cuda},
       [](Device device) { return training_contest("convnext-tiny", device); }}};
}

std::vector<KernelChoice> kernels() {
  const Tensor x = torch::zeros({1, 96, 16, 16}).contiguous(at::MemoryFormat::ChannelsLast);
  const std::string level = mixer_implementation(x, 12, 3, 11);
  const std::string reason = why_not(Isa::avx512);
  return {{"depthwise_conv2d", level, reason},
          {"inception_dwconv", level, reason},
          {"folded block products", to_string(active_isa()), reason}};
}

}  // namespace einkorn::inceptionnext
