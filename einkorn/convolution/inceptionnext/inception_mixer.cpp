#include "einkorn/convolution/inceptionnext/inception_mixer.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "einkorn/convolution/depthwise_pass_internal.h"
#include "einkorn/convolution/inceptionnext/copy_kernels.h"
#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"
#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAStream.h>

#include "einkorn/convolution/inceptionnext/inception_mixer_cuda.h"
#endif

namespace einkorn::inceptionnext {
namespace {

using convolution::ConstImages;
using convolution::DepthwisePass;
using convolution::DepthwiseProblem;
using convolution::Images;
using convolution::ImageTensor;

enum class Identity { copied, left_out };
enum class Direction { forward, input_gradient };

// The sizes of one call, checked.
struct Sizes {
  std::int64_t group = 0;   // g
  std::int64_t square = 0;  // s
  std::int64_t band = 0;    // b
  std::int64_t identity = 0;
};

Sizes checked_sizes(const MixerWeights& weights, const ImageTensor& x) {
  Sizes sizes;
  const auto expect = [&](const at::Tensor& weight, const char* name) {
    require(weight.defined() && weight.dim() == 4 && weight.size(1) == 1,
            "{}: expected [g, 1, kernel height, kernel width]", name);
    require(weight.device() == x.tensor.device(), "{}: expected it on {}, got {}", name,
            x.tensor.device().str(), weight.device().str());
    convolution::element_of(weight.scalar_type());
  };
  expect(weights.square, "square weight (dwconv_hw)");
  expect(weights.wide, "wide weight (dwconv_w)");
  expect(weights.tall, "tall weight (dwconv_h)");
  sizes.group = weights.square.size(0);
  sizes.square = weights.square.size(2);
  sizes.band = weights.wide.size(3);
  sizes.identity = x.channels() - 3 * sizes.group;
  require(sizes.group >= 1, "mixer: expected at least one channel a branch");
  require(sizes.identity >= 0, "mixer: three branches of {} channels need {} channels, got {}",
          sizes.group, 3 * sizes.group, x.channels());
  require(sizes.square % 2 == 1 && weights.square.size(3) == sizes.square,
          "square weight (dwconv_hw): expected an odd size x the same, got {}",
          fmt::join(weights.square.sizes().slice(2), " x "));
  require(sizes.band % 2 == 1 && weights.wide.size(2) == 1 && weights.wide.size(0) == sizes.group,
          "wide weight (dwconv_w): expected [{}, 1, 1, odd], got [{}]", sizes.group,
          fmt::join(weights.wide.sizes(), ", "));
  require(weights.tall.sizes() == at::IntArrayRef({sizes.group, 1, sizes.band, 1}),
          "tall weight (dwconv_h): expected [{}, 1, {}, 1], got [{}]", sizes.group, sizes.band,
          fmt::join(weights.tall.sizes(), ", "));
  for (const at::Tensor* bias : {&weights.square_bias, &weights.wide_bias, &weights.tall_bias}) {
    require(bias->defined() && bias->dim() == 1 && bias->size(0) == sizes.group &&
                bias->device() == x.tensor.device(),
            "biases: expected three of shape [{}] on {}", sizes.group, x.tensor.device().str());
  }
  return sizes;
}

// Dense weights of the type that sums have. Others are converted all at once: six small kernels
// would take a GPU longer than the convolutions.
MixerWeights ready_weights(const MixerWeights& given, const ImageTensor& x) {
  const at::ScalarType type = convolution::weight_type(x.tensor.scalar_type());
  const at::Tensor parts[] = {given.square,      given.wide,      given.tall,
                              given.square_bias, given.wide_bias, given.tall_bias};
  std::vector<at::Tensor> ready;
  const auto is_ready = [&](const at::Tensor& part) { return part.scalar_type() == type; };
  if (std::all_of(std::begin(parts), std::end(parts), is_ready)) {
    for (const at::Tensor& part : parts) ready.push_back(part.contiguous());
  } else {
    std::vector<at::Tensor> flat;
    std::vector<std::int64_t> sizes;
    for (const at::Tensor& part : parts) {
      flat.push_back(part.reshape({-1}));
      sizes.push_back(part.numel());
    }
    const at::Tensor converted = at::cat(flat).to(type);
    for (const at::Tensor& part : converted.split_with_sizes(sizes)) {
      ready.push_back(part.view(parts[ready.size()].sizes()));
    }
  }
  return {ready[0], ready[1], ready[2], ready[3], ready[4], ready[5]};
}

struct Branch {
  const at::Tensor* weight;
  const at::Tensor* bias;
};

std::array<Branch, 3> branches_of(const MixerWeights& weights) {
  return {{{&weights.square, &weights.square_bias},
           {&weights.wide, &weights.wide_bias},
           {&weights.tall, &weights.tall_bias}}};
}

// Calls visit(branch, first channel in the branch, first channel in x, count): a branch's channels,
// cut where x's blocks of channels end.
template <typename Visit>
void for_each_segment(const MixerWeights& weights, const Sizes& sizes, const ImageTensor& x,
                      Visit visit) {
  std::int64_t channel = sizes.identity;
  for (const Branch& branch : branches_of(weights)) {
    const std::int64_t end = channel + sizes.group;
    for (std::int64_t done = 0; channel < end;) {
      const std::int64_t block_left = x.block_channels - channel % x.block_channels;
      const std::int64_t count = std::min(end - channel, block_left);
      visit(branch, done, channel, count);
      done += count;
      channel += count;
    }
  }
}

// Copies rows of the first `channels` channels; y is dense.
void copy_identity(const ImageTensor& x, const ImageTensor& y, std::int64_t channels,
                   std::int64_t image, std::int64_t row_begin, std::int64_t row_end) {
  const auto bytes = static_cast<std::int64_t>(x.tensor.element_size());
  const bool planar = x.layout == convolution::ImageLayout::planar;
  // Runs: the pixels of a row with some channels each, or the channels' pieces of a row.
  const std::int64_t block = planar ? channels : x.block_channels;
  for (std::int64_t first = 0; first < channels; first += block) {
    const std::int64_t some = std::min(block, channels - first);
    const auto* from = static_cast<const std::byte*>(x.at_channel(first));
    auto* to = static_cast<std::byte*>(y.at_channel(first));
    for (std::int64_t i = row_begin; i < row_end; ++i) {
      const auto* from_row = from + (image * x.strides.image + i * x.strides.row) * bytes;
      auto* to_row = to + (image * y.strides.image + i * y.strides.row) * bytes;
      if (planar) {
        copy_runs(from_row, x.strides.channel * bytes, to_row, y.strides.channel * bytes, some,
                  x.width * bytes);
      } else {
        copy_runs(from_row, x.strides.column * bytes, to_row, y.strides.column * bytes, x.width,
                  some * bytes);
      }
    }
  }
}

void mix_on_cpu(Direction direction, Identity identity, const ImageTensor& x, const ImageTensor& y,
                const MixerWeights& weights, const Sizes& sizes) {
  const bool transposed = direction == Direction::input_gradient;
  const std::int64_t y_offset = identity == Identity::copied ? 0 : -sizes.identity;
  std::vector<DepthwisePass> passes;
  for_each_segment(
      weights, sizes, x, [&](const Branch& branch, auto done, auto channel, auto count) {
        const DepthwiseProblem problem = convolution::same_padding_problem(
            x, count, branch.weight->size(2), branch.weight->size(3), transposed);
        at::Tensor weight = branch.weight->narrow(0, done, count);
        if (transposed) weight = weight.flip({2, 3});
        const at::Tensor bias = transposed ? at::Tensor() : branch.bias->narrow(0, done, count);
        passes.emplace_back(problem, weight, bias, x.const_images(channel),
                            y.mutable_images(channel + y_offset));
      });
  if (identity == Identity::left_out) return convolution::run_passes(passes);
  convolution::run_passes(passes, [&](auto image, auto row_begin, auto row_end) {
    copy_identity(x, y, sizes.identity, image, row_begin, row_end);
  });
}

#if EINKORN_WITH_CUDA
void* current_stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

convolution::InceptionMixerProblem device_problem(const ImageTensor& x, const Sizes& sizes,
                                                  std::int64_t channels) {
  return {x.images, channels,     sizes.group, x.height,
          x.width,  sizes.square, sizes.band,  convolution::element_of(x.tensor.scalar_type()),
          x.layout};
}

convolution::InceptionMixerWeights device_weights(const MixerWeights& weights) {
  return {weights.square.const_data_ptr(),    weights.wide.const_data_ptr(),
          weights.tall.const_data_ptr(),      weights.square_bias.const_data_ptr(),
          weights.wide_bias.const_data_ptr(), weights.tall_bias.const_data_ptr()};
}

void mix_on_cuda(Direction direction, Identity identity, const ImageTensor& x, const ImageTensor& y,
                 const MixerWeights& weights, const Sizes& sizes) {
  require(x.blocks == 1, "mixer: images in blocks of channels are for the cpu");
  const auto problem = device_problem(x, sizes, x.channels());
  if (direction == Direction::input_gradient) {
    launch_inception_mixer_input_gradient(problem, device_weights(weights), x.const_images(), {},
                                          y.mutable_images(), current_stream());
    return;
  }
  const auto kept = identity == Identity::copied ? convolution::IdentityChannels::copied
                                                 : convolution::IdentityChannels::left_out;
  launch_inception_mixer_forward(problem, device_weights(weights), kept, x.const_images(),
                                 y.mutable_images(), current_stream());
}
#endif

// Into dense tensors of zeros.
void add_weight_gradients(const ImageTensor& x, const ImageTensor& dy, const Sizes& sizes,
                          const MixerWeights& sums) {
#if EINKORN_WITH_CUDA
  if (x.tensor.is_cuda()) {
    require(x.blocks == 1, "mixer: images in blocks of channels are for the cpu");
    const auto problem = device_problem(x, sizes, x.channels());
    const auto bytes = static_cast<std::int64_t>(
        convolution::inception_mixer_weight_gradient_scratch_bytes(problem));
    const at::Tensor scratch = at::empty({bytes}, sums.square.options().dtype(at::kByte));
    const convolution::InceptionMixerGradients gradients = {
        sums.square.mutable_data_ptr(),    sums.wide.mutable_data_ptr(),
        sums.tall.mutable_data_ptr(),      sums.square_bias.mutable_data_ptr(),
        sums.wide_bias.mutable_data_ptr(), sums.tall_bias.mutable_data_ptr()};
    launch_inception_mixer_weight_gradient(problem, x.const_images(), dy.const_images(),
                                           scratch.mutable_data_ptr(), gradients, current_stream());
    return;
  }
#endif
  for_each_segment(sums, sizes, x, [&](const Branch& branch, auto done, auto channel, auto count) {
    const DepthwiseProblem problem =
        convolution::same_padding_problem(x, count, branch.weight->size(2), branch.weight->size(3));
    convolution::weight_gradient(problem, x.const_images(channel), dy.const_images(channel),
                                 branch.weight->narrow(0, done, count).mutable_data_ptr(),
                                 branch.bias->narrow(0, done, count).mutable_data_ptr());
  });
}

Work work_of_mixer(const ImageTensor& x, const Sizes& sizes, Identity identity) {
  const auto pixels = static_cast<double>(x.images * x.height * x.width);
  const auto group = static_cast<double>(sizes.group);
  const auto moved = identity == Identity::copied ? static_cast<double>(x.channels()) : 3 * group;
  const auto taps = static_cast<double>(sizes.square * sizes.square + 2 * sizes.band);
  return {2 * taps * group * pixels,
          2 * moved * pixels * static_cast<double>(x.tensor.element_size())};
}

std::string implementation_of(const ImageTensor& x, const Sizes& sizes) {
#if EINKORN_WITH_CUDA
  if (x.tensor.is_cuda()) {
    return convolution::inception_mixer_implementation(device_problem(x, sizes, x.channels()));
  }
#endif
  return convolution::depthwise_implementation(
      convolution::same_padding_problem(x, sizes.group, sizes.square, sizes.square));
}

Trace trace_of(const char* operation, const ImageTensor& x, const Sizes& sizes, Identity identity) {
  return Trace(
      operation, implementation_of(x, sizes).c_str(),
      [&] {
        return fmt::format("n={} c={} g={} {}x{} s={} b={}", x.images, x.channels(), sizes.group,
                           x.height, x.width, sizes.square, sizes.band);
      },
      work_of_mixer(x, sizes, identity), device_kind(x.tensor));
}

at::Tensor mix(Direction direction, Identity identity, const at::Tensor& tensor, const char* name,
               const MixerWeights& given) {
  const ImageTensor x = convolution::image_tensor(tensor, name);
  const Sizes sizes = checked_sizes(given, x);
  require(identity == Identity::copied || tensor.dim() == 4,
          "{}: expected [N, C, H, W] where the identity channels are left out", name);
  const std::int64_t channels = identity == Identity::copied ? x.channels() : 3 * sizes.group;
  at::Tensor result = convolution::empty_images_like(x, channels);
  if (result.numel() == 0) return result;
  const ImageTensor y = convolution::image_tensor(result, "output");
  const MixerWeights weights = ready_weights(given, x);
  const Trace trace = trace_of(
      direction == Direction::forward ? "inception_dwconv" : "inception_dwconv_input_gradient", x,
      sizes, identity);
#if EINKORN_WITH_CUDA
  if (x.tensor.is_cuda()) {
    mix_on_cuda(direction, identity, x, y, weights, sizes);
    return result;
  }
#endif
  mix_on_cpu(direction, identity, x, y, weights, sizes);
  return result;
}

}  // namespace

at::Tensor inception_dwconv(const at::Tensor& x, const MixerWeights& weights) {
  return mix(Direction::forward, Identity::copied, x, "x", weights);
}

at::Tensor inception_dwconv_branches(const at::Tensor& x, const MixerWeights& weights) {
  return mix(Direction::forward, Identity::left_out, x, "x", weights);
}

at::Tensor inception_dwconv_input_gradient(const at::Tensor& dy, const MixerWeights& weights) {
  return mix(Direction::input_gradient, Identity::copied, dy, "dy", weights);
}

MixerWeights inception_dwconv_weight_gradient(const at::Tensor& dy, const at::Tensor& tensor,
                                              const MixerWeights& given) {
  const ImageTensor x = convolution::image_tensor(tensor, "x");
  const ImageTensor gradient = convolution::images_like(x, dy, "dy");
  const Sizes sizes = checked_sizes(given, x);
  MixerWeights weights = ready_weights(given, x);
  MixerWeights sums = {at::zeros_like(weights.square),    at::zeros_like(weights.wide),
                       at::zeros_like(weights.tall),      at::zeros_like(weights.square_bias),
                       at::zeros_like(weights.wide_bias), at::zeros_like(weights.tall_bias)};
  if (tensor.numel() > 0) {
    const Trace trace = trace_of("inception_dwconv_weight_gradient", x, sizes, Identity::left_out);
    add_weight_gradients(x, gradient, sizes, sums);
  }
  const auto as = [](const at::Tensor& sum, const at::Tensor& like) {
    return sum.to(like.scalar_type());
  };
  return {as(sums.square, given.square),       as(sums.wide, given.wide),
          as(sums.tall, given.tall),           as(sums.square_bias, given.square_bias),
          as(sums.wide_bias, given.wide_bias), as(sums.tall_bias, given.tall_bias)};
}

std::string mixer_implementation(const at::Tensor& tensor, std::int64_t branch_channels,
                                 std::int64_t square_size, std::int64_t band_size) {
  const ImageTensor x = convolution::image_tensor(tensor, "x");
  return implementation_of(
      x, {branch_channels, square_size, band_size, x.channels() - 3 * branch_channels});
}

}  // namespace einkorn::inceptionnext
