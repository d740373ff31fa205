#include "einkorn/convolution/depthwise.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "einkorn/convolution/depthwise_pass_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"
#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einkorn/convolution/depthwise_cuda.h"
#endif

namespace einkorn::convolution {
namespace {

enum class Direction { forward, input_gradient };

// Dense weights of the type that sums have.
void require_weight(const at::Tensor& weight, const ImageTensor& images) {
  require(weight.defined() && weight.dim() == 4 && weight.size(1) == 1,
          "weight: expected [channels, 1, kernel height, kernel width]");
  require(weight.size(0) == images.channels(), "weight: expected {} channels as the images, got {}",
          images.channels(), weight.size(0));
  require(weight.size(2) >= 1 && weight.size(3) >= 1, "weight: expected kernel sizes >= 1, got {}",
          fmt::join(weight.sizes().slice(2), " x "));
  require(weight.device() == images.tensor.device(), "weight: expected it on {}, got {}",
          images.tensor.device().str(), weight.device().str());
  element_of(weight.scalar_type());
}

at::Tensor ready_weights(const at::Tensor& weight, const ImageTensor& images) {
  require_weight(weight, images);
  return weight.to(weight_type(images.tensor.scalar_type())).contiguous();
}

void require_bias(const at::Tensor& bias, const ImageTensor& images) {
  require(bias.dim() == 1 && bias.size(0) == images.channels(), "bias: expected shape [{}]",
          images.channels());
  require(bias.device() == images.tensor.device(), "bias: expected it on {}, got {}",
          images.tensor.device().str(), bias.device().str());
}

at::Tensor rows_of(const at::Tensor& tensor, std::int64_t begin, std::int64_t count) {
  return tensor.defined() ? tensor.narrow(0, begin, count) : tensor;
}

std::string shapes(const DepthwiseProblem& problem, const char* images) {
  return fmt::format("{} n={} c={} {}x{} k={}x{}", images, problem.images, problem.channels,
                     problem.height, problem.width, problem.kernel_height, problem.kernel_width);
}

const char* name_of(ImageLayout layout) {
  return layout == ImageLayout::channels_last ? "channels_last" : "planar";
}

#if EINKORN_WITH_CUDA
void* current_stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}
#endif

// One block of channels; the whole image where it is not blocked.
void convolve_block_on_cuda([[maybe_unused]] Direction direction,
                            [[maybe_unused]] const DepthwiseProblem& problem,
                            [[maybe_unused]] const at::Tensor& weights,
                            [[maybe_unused]] const at::Tensor& biases,
                            [[maybe_unused]] const ConstImages& x,
                            [[maybe_unused]] const Images& y) {
#if EINKORN_WITH_CUDA
  if (direction == Direction::forward) {
    const void* bias_data = biases.defined() ? biases.const_data_ptr() : nullptr;
    launch_depthwise_forward(problem, weights.const_data_ptr(), bias_data, x, y, current_stream());
  } else {
    launch_depthwise_input_gradient(problem, weights.const_data_ptr(), x, nullptr, y,
                                    current_stream());
  }
#endif
}

std::string implementation_of(const DepthwiseProblem& problem,
                              [[maybe_unused]] const ImageTensor& x,
                              [[maybe_unused]] const ImageTensor& y) {
#if EINKORN_WITH_CUDA
  if (x.tensor.is_cuda()) {
    return depthwise_cuda_implementation(problem, x.const_images(), y.mutable_images());
  }
#endif
  return depthwise_implementation(problem);
}

// Whether the kernels take weights and biases of the images' 16-bit type as they are: converting
// them first takes two launches, a tenth of a large convolution's time.
bool takes_narrow_weights([[maybe_unused]] const DepthwiseProblem& problem,
                          [[maybe_unused]] const ImageTensor& x,
                          [[maybe_unused]] const ImageTensor& y,
                          [[maybe_unused]] const at::Tensor& weight,
                          [[maybe_unused]] const at::Tensor& bias) {
#if EINKORN_WITH_CUDA
  const at::ScalarType type = x.tensor.scalar_type();
  const bool narrow = (type == at::kHalf || type == at::kBFloat16) &&
                      weight.scalar_type() == type &&
                      (!bias.defined() || bias.scalar_type() == type);
  return narrow && x.tensor.is_cuda() && x.blocks == 1 &&
         takes_narrow_weights(problem, x.const_images(), y.mutable_images());
#else
  return false;
#endif
}

at::Tensor convolve(Direction direction, const at::Tensor& tensor, const char* name,
                    const at::Tensor& weight, const std::optional<at::Tensor>& maybe_bias) {
  const ImageTensor x = image_tensor(tensor, name);
  const at::Tensor bias = maybe_bias.value_or(at::Tensor());
  require_weight(weight, x);
  if (bias.defined()) require_bias(bias, x);
  at::Tensor result = empty_images_like(x, x.channels());
  if (result.numel() == 0) return result;
  const ImageTensor y = image_tensor(result, "output");
  const bool on_cpu = x.tensor.is_cpu();
  const bool transposed = direction == Direction::input_gradient;
  // The device kernels take the forward problem and turn it round themselves.
  DepthwiseProblem problem = same_padding_problem(x, x.block_channels, weight.size(2),
                                                  weight.size(3), transposed && on_cpu);
  problem.narrow_weights = takes_narrow_weights(problem, x, y, weight, bias);
  const at::ScalarType type =
      problem.narrow_weights ? weight.scalar_type() : weight_type(tensor.scalar_type());
  const at::Tensor weights = weight.to(type).contiguous();
  const at::Tensor biases = bias.defined() ? bias.to(type).contiguous() : bias;
  Work work = work_of(problem);
  work.flops *= static_cast<double>(x.blocks);
  work.bytes *= static_cast<double>(x.blocks);
  const Trace trace(
      transposed ? "depthwise_conv2d_input_gradient" : "depthwise_conv2d",
      implementation_of(problem, x, y).c_str(), [&] { return shapes(problem, name_of(x.layout)); },
      work, device_kind(x.tensor));

  const at::Tensor oriented = transposed && on_cpu ? weights.flip({2, 3}) : weights;
  std::vector<DepthwisePass> passes;
  for (std::int64_t first = 0; first < x.channels(); first += x.block_channels) {
    const at::Tensor block_weights = rows_of(oriented, first, x.block_channels);
    const at::Tensor block_biases = rows_of(biases, first, x.block_channels);
    if (on_cpu) {
      passes.emplace_back(problem, block_weights, block_biases, x.const_images(first),
                          y.mutable_images(first));
    } else {
      convolve_block_on_cuda(direction, problem, block_weights, block_biases, x.const_images(first),
                             y.mutable_images(first));
    }
  }
  run_passes(passes);
  return result;
}

void weight_gradient_on_cuda([[maybe_unused]] const DepthwiseProblem& problem,
                             [[maybe_unused]] const ConstImages& x,
                             [[maybe_unused]] const ConstImages& dy,
                             [[maybe_unused]] const at::Tensor& weights,
                             [[maybe_unused]] const at::Tensor& biases) {
#if EINKORN_WITH_CUDA
  const auto bytes = static_cast<std::int64_t>(depthwise_weight_gradient_scratch_bytes(problem));
  const at::Tensor scratch = at::empty({bytes}, weights.options().dtype(at::kByte));
  launch_depthwise_weight_gradient(problem, x, dy, scratch.mutable_data_ptr(),
                                   weights.mutable_data_ptr(), biases.mutable_data_ptr(),
                                   current_stream());
#endif
}

}  // namespace

at::Tensor depthwise_conv2d(const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
  return convolve(Direction::forward, x, "x", weight, bias);
}

at::Tensor depthwise_conv2d_input_gradient(const at::Tensor& dy, const at::Tensor& weight) {
  return convolve(Direction::input_gradient, dy, "dy", weight, std::nullopt);
}

std::pair<at::Tensor, at::Tensor> depthwise_conv2d_weight_gradient(const at::Tensor& dy,
                                                                   const at::Tensor& x,
                                                                   const at::Tensor& weight) {
  const ImageTensor input = image_tensor(x, "x");
  const ImageTensor gradient = images_like(input, dy, "dy");
  at::Tensor weights = at::zeros_like(ready_weights(weight, input));
  at::Tensor biases = at::zeros({input.channels()}, weights.options());
  if (x.numel() > 0) {
    const DepthwiseProblem problem =
        same_padding_problem(input, input.block_channels, weight.size(2), weight.size(3));
    const Trace trace(
        "depthwise_conv2d_weight_gradient", implementation_of(problem, input, gradient).c_str(),
        [&] { return shapes(problem, name_of(input.layout)); }, work_of(problem), device_kind(x));
    for (std::int64_t first = 0; first < input.channels(); first += input.block_channels) {
      const at::Tensor block_weights = rows_of(weights, first, input.block_channels);
      const at::Tensor block_biases = rows_of(biases, first, input.block_channels);
      const ConstImages some_x = input.const_images(first);
      const ConstImages some_dy = gradient.const_images(first);
      if (x.is_cpu()) {
        weight_gradient(problem, some_x, some_dy, block_weights.mutable_data_ptr(),
                        block_biases.mutable_data_ptr());
      } else {
        weight_gradient_on_cuda(problem, some_x, some_dy, block_weights, block_biases);
      }
    }
  }
  return {weights.to(weight.scalar_type()), biases.to(weight.scalar_type())};
}

}  // namespace einkorn::convolution
