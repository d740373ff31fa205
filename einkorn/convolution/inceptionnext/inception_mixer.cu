// Which kernels serve a mixer: the fused ones, or the depthwise kernels branch by branch.
#include <algorithm>
#include <type_traits>

#include "einkorn/convolution/depthwise_cuda.h"
#include "einkorn/convolution/inceptionnext/inception_mixer_cuda.h"
#include "einkorn/convolution/inceptionnext/inception_mixer_device.cuh"

namespace einkorn::convolution {
namespace mixer {
namespace {

// Images of one group of channels.
template <typename I>
I from_channel(const InceptionMixerProblem& problem, I images, std::int64_t channel) {
  using Byte = std::conditional_t<std::is_same_v<I, Images>, char, const char>;
  if (images.data != nullptr) {
    images.data = static_cast<Byte*>(images.data) +
                  channel * images.strides.channel * element_bytes(problem.element);
  }
  return images;
}

DepthwiseProblem branch_problem(const InceptionMixerProblem& problem, int branch) {
  DepthwiseProblem part;
  part.images = problem.images;
  part.channels = problem.branch_channels;
  part.height = problem.height;
  part.width = problem.width;
  part.kernel_height = branch == square ? problem.square_size
                       : branch == tall ? problem.band_size
                                        : 1;
  part.kernel_width = branch == square ? problem.square_size
                      : branch == wide ? problem.band_size
                                       : 1;
  part.pad_top = part.kernel_height / 2;
  part.pad_left = part.kernel_width / 2;
  part.element = problem.element;
  part.layout = problem.layout;
  return part;
}

// y = x (+ addend), element by element, for strided images of few or many channels.
template <typename T>
struct CopyArguments {
  std::int64_t count;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  bool planar;
  const T* x;
  const T* addend;
  T* y;
  ImageStrides x_strides;
  ImageStrides y_strides;
};

template <typename T>
__global__ void copy_kernel(const __grid_constant__ CopyArguments<T> arguments) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= arguments.count) return;
  const std::int64_t pixels = arguments.height * arguments.width;
  const std::int64_t n = i / (arguments.channels * pixels);
  const std::int64_t rest = i % (arguments.channels * pixels);
  const std::int64_t c = arguments.planar ? rest / pixels : rest % arguments.channels;
  const std::int64_t pixel = arguments.planar ? rest % pixels : rest / arguments.channels;
  const auto offset = [&](const ImageStrides& strides) {
    return n * strides.image + c * strides.channel + pixel / arguments.width * strides.row +
           pixel % arguments.width * strides.column;
  };
  const std::int64_t to = offset(arguments.y_strides);
  T value = arguments.x[offset(arguments.x_strides)];
  if (arguments.addend != nullptr) value = static_cast<T>(value + arguments.addend[to]);
  arguments.y[to] = value;
}

template <typename T>
void launch_copy(const InceptionMixerProblem& problem, std::int64_t channels, const ConstImages& x,
                 const ConstImages& addend, const Images& y, void* stream) {
  CopyArguments<T> arguments{};
  arguments.count = problem.images * channels * problem.height * problem.width;
  if (arguments.count == 0) return;
  arguments.channels = channels;
  arguments.height = problem.height;
  arguments.width = problem.width;
  arguments.planar = problem.layout == ImageLayout::planar;
  arguments.x = static_cast<const T*>(x.data);
  arguments.addend = static_cast<const T*>(addend.data);
  arguments.y = static_cast<T*>(y.data);
  arguments.x_strides = x.strides;
  arguments.y_strides = y.strides;
  copy_kernel<T><<<static_cast<unsigned>(divided_up(arguments.count, threads_per_block)),
                   threads_per_block, 0, static_cast<cudaStream_t>(stream)>>>(arguments);
  check_launch("inception mixer identity");
}

void copy(const InceptionMixerProblem& problem, std::int64_t channels, const ConstImages& x,
          const ConstImages& addend, const Images& y, void* stream) {
  switch (problem.element) {
    case Element::f32:
      return launch_copy<float>(problem, channels, x, addend, y, stream);
    case Element::f64:
      return launch_copy<double>(problem, channels, x, addend, y, stream);
    case Element::f16:
      return launch_copy<__half>(problem, channels, x, addend, y, stream);
    case Element::bf16:
      return launch_copy<__nv_bfloat16>(problem, channels, x, addend, y, stream);
  }
}

// The convolved channels branch by branch, through the depthwise kernels.
void launch_branches(const InceptionMixerProblem& problem, const InceptionMixerWeights& weights,
                     const Application& call, void* stream) {
  const std::int64_t identity = problem.identity_channels();
  const std::int64_t shift = call.identity == IdentityChannels::copied ? 0 : identity;
  const void* taps[branches] = {weights.square, weights.wide, weights.tall};
  const void* biases[branches] = {weights.square_bias, weights.wide_bias, weights.tall_bias};
  for (int branch = 0; branch < branches; ++branch) {
    const std::int64_t channel = identity + branch * problem.branch_channels;
    const DepthwiseProblem part = branch_problem(problem, branch);
    const ConstImages x = from_channel(problem, call.x, channel);
    const Images y = from_channel(problem, call.y, channel - shift);
    if (call.turned) {
      launch_depthwise_input_gradient(part, taps[branch], x,
                                      from_channel(problem, call.addend, channel).data, y, stream);
    } else {
      launch_depthwise_forward(part, taps[branch], biases[branch], x, y, stream);
    }
  }
  if (call.identity == IdentityChannels::copied) {
    copy(problem, identity, call.x, call.addend, call.y, stream);
  }
}

void launch_mixer(const InceptionMixerProblem& problem, const InceptionMixerWeights& weights,
                  const Application& call, void* stream) {
  if (is_empty(problem)) return;
  if (can_fuse(problem)) {
    launch_fused(problem, weights, call, stream);
  } else {
    launch_branches(problem, weights, call, stream);
  }
}

}  // namespace
}  // namespace mixer

const char* inception_mixer_implementation(const InceptionMixerProblem& problem) {
  return mixer::can_fuse(problem) ? "fused" : "branches";
}

void launch_inception_mixer_forward(const InceptionMixerProblem& problem,
                                    const InceptionMixerWeights& weights, IdentityChannels identity,
                                    const ConstImages& x, const Images& y, void* stream) {
  mixer::launch_mixer(problem, weights, {identity, false, x, ConstImages{}, y}, stream);
}

void launch_inception_mixer_input_gradient(const InceptionMixerProblem& problem,
                                           const InceptionMixerWeights& weights,
                                           const ConstImages& dy, const void* addend,
                                           const Images& dx, void* stream) {
  InceptionMixerWeights taps = weights;
  taps.square_bias = taps.wide_bias = taps.tall_bias = nullptr;
  const ConstImages added = {addend, dx.strides};
  mixer::launch_mixer(problem, taps, {IdentityChannels::copied, true, dy, added, dx}, stream);
}

std::size_t inception_mixer_weight_gradient_scratch_bytes(const InceptionMixerProblem& problem) {
  if (mixer::can_fuse(problem)) return mixer::fused_scratch_bytes(problem);
  std::size_t most = 0;
  for (int branch = 0; branch < mixer::branches; ++branch) {
    most = std::max(
        most, depthwise_weight_gradient_scratch_bytes(mixer::branch_problem(problem, branch)));
  }
  return most;
}

void launch_inception_mixer_weight_gradient(const InceptionMixerProblem& problem,
                                            const ConstImages& x, const ConstImages& dy,
                                            void* scratch, const InceptionMixerGradients& gradients,
                                            void* stream) {
  if (mixer::can_fuse(problem)) {
    return mixer::launch_fused_weight_gradient(problem, x, dy, static_cast<float*>(scratch),
                                               gradients, stream);
  }
  void* taps[mixer::branches] = {gradients.square, gradients.wide, gradients.tall};
  void* biases[mixer::branches] = {gradients.square_bias, gradients.wide_bias, gradients.tall_bias};
  for (int branch = 0; branch < mixer::branches; ++branch) {
    const std::int64_t channel = problem.identity_channels() + branch * problem.branch_channels;
    launch_depthwise_weight_gradient(
        mixer::branch_problem(problem, branch), mixer::from_channel(problem, x, channel),
        mixer::from_channel(problem, dy, channel), scratch, taps[branch], biases[branch], stream);
  }
}

}  // namespace einkorn::convolution
