#include "einkorn/convolution/inceptionnext/mixed_precision.h"

#include <torch/torch.h>

#include "einkorn/core/error.h"

#if EINKORN_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einkorn/convolution/depthwise_pass_internal.h"
#include "einkorn/convolution/fused_block_cuda.h"
#endif

namespace einkorn::inceptionnext {

#if EINKORN_WITH_CUDA
namespace {

using at::Tensor;
using convolution::Rows;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// Activations are [rows, channels] throughout, contiguous: rows are the pixels of all images.

void* stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

Rows shape_of(const Tensor& x) {
  return {x.size(0), x.size(1), convolution::element_of(x.scalar_type())};
}

Tensor scratch_for(const Tensor& x) {
  const auto bytes = static_cast<std::int64_t>(convolution::row_scratch_bytes(shape_of(x)));
  return at::empty({bytes}, x.options().dtype(at::kByte));
}

Tensor per_channel(const Tensor& x) {
  return at::empty({x.size(1)}, x.options().dtype(at::kFloat));
}

float* floats(const Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<float>() : nullptr;
}

struct BatchNormOfRows : torch::autograd::Function<BatchNormOfRows> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& running_mean,
                        const Tensor& running_variance) {
    const Tensor mean = per_channel(x);
    const Tensor inverse_deviation = per_channel(x);
    const Tensor y = at::empty_like(x);
    launch_batch_norm_statistics(shape_of(x), x.const_data_ptr(), 1e-5f, 0.1f, floats(mean),
                                 floats(inverse_deviation), floats(running_mean),
                                 floats(running_variance), scratch_for(x).mutable_data_ptr(),
                                 stream());
    launch_batch_norm_apply(shape_of(x), x.const_data_ptr(), floats(mean),
                            floats(inverse_deviation), floats(weight), floats(bias),
                            y.mutable_data_ptr(), stream());
    context->save_for_backward({x, weight, mean, inverse_deviation});
    return y;
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor& weight = saved[1];
    const Tensor& mean = saved[2];
    const Tensor& inverse_deviation = saved[3];
    const Tensor dy = gradients[0].contiguous();
    const Tensor dweight = per_channel(x);
    const Tensor dbias = per_channel(x);
    const Tensor dx = at::empty_like(x);
    launch_batch_norm_parameter_gradient(shape_of(x), x.const_data_ptr(), dy.const_data_ptr(),
                                         floats(mean), floats(inverse_deviation), floats(dweight),
                                         floats(dbias), scratch_for(x).mutable_data_ptr(),
                                         stream());
    launch_batch_norm_input_gradient(shape_of(x), x.const_data_ptr(), dy.const_data_ptr(),
                                     floats(mean), floats(inverse_deviation), floats(weight),
                                     floats(dweight), floats(dbias), dx.mutable_data_ptr(),
                                     stream());
    return {dx, dweight, dbias, Tensor(), Tensor()};
  }
};

struct LayerNormOfRows : torch::autograd::Function<LayerNormOfRows> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Tensor& bias) {
    const Tensor mean = at::empty({x.size(0)}, weight.options());
    const Tensor inverse_deviation = at::empty_like(mean);
    const Tensor y = at::empty_like(x);
    launch_layer_norm_forward(shape_of(x), x.const_data_ptr(), floats(weight), floats(bias), 1e-6f,
                              y.mutable_data_ptr(), floats(mean), floats(inverse_deviation),
                              stream());
    context->save_for_backward({x, weight, mean, inverse_deviation});
    return y;
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor dy = gradients[0].contiguous();
    const Tensor dx = at::empty_like(x);
    const Tensor dweight = per_channel(x);
    const Tensor dbias = per_channel(x);
    launch_layer_norm_backward(shape_of(x), x.const_data_ptr(), dy.const_data_ptr(),
                               floats(saved[2]), floats(saved[3]), floats(saved[1]),
                               dx.mutable_data_ptr(), floats(dweight), floats(dbias),
                               scratch_for(x).mutable_data_ptr(), stream());
    return {dx, dweight, dbias};
  }
};

// a^T b summed in f32.
Tensor product_of_columns(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == at::kFloat ? at::mm(a.t(), b) : at::mm(a.t(), b, at::kFloat);
}

// x weight^T, and the bias if there is one; weight [out, in] and bias [out] are f32.
struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    const Tensor rounded = weight.to(x.scalar_type());
    context->save_for_backward({x, rounded});
    context->saved_data["has_bias"] = bias.has_value();
    if (bias) return at::addmm(bias->to(x.scalar_type()), x, rounded.t());
    return at::mm(x, rounded.t());
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor dy = gradients[0].contiguous();
    tensor_list result(3);
    if (context->needs_input_grad(0)) result[0] = at::mm(dy, saved[1]);
    result[1] = product_of_columns(dy, saved[0]);
    if (context->saved_data["has_bias"].toBool()) result[2] = dy.sum({0}, false, at::kFloat);
    return result;
  }
};

struct BiasGelu : torch::autograd::Function<BiasGelu> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& bias) {
    const Tensor y = at::empty_like(x);
    launch_bias_gelu_forward(shape_of(x), x.const_data_ptr(), floats(bias), y.mutable_data_ptr(),
                             stream());
    context->save_for_backward({x, bias});
    return y;
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor dy = gradients[0].contiguous();
    const Tensor dx = at::empty_like(x);
    const Tensor dbias = per_channel(x);
    launch_bias_gelu_backward(shape_of(x), x.const_data_ptr(), floats(saved[1]),
                              dy.const_data_ptr(), dx.mutable_data_ptr(), floats(dbias),
                              scratch_for(x).mutable_data_ptr(), stream());
    return {dx, dbias};
  }
};

// x + kept * scale * (z + bias); kept [images] is 1 / keep probability or 0, left out: 1.
struct ScaledResidual : torch::autograd::Function<ScaledResidual> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& z,
                        const Tensor& scale, const Tensor& bias, const std::optional<Tensor>& kept,
                        std::int64_t rows_per_image) {
    const Tensor image_scale = kept.value_or(Tensor());
    const Tensor y = at::empty_like(x);
    launch_scaled_residual_forward(
        shape_of(x), {rows_per_image, floats(image_scale), floats(scale), floats(bias)},
        x.const_data_ptr(), z.const_data_ptr(), y.mutable_data_ptr(), stream());
    context->save_for_backward({z, scale, bias, image_scale});
    context->saved_data["rows_per_image"] = rows_per_image;
    return y;
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor& z = saved[0];
    const Tensor dy = gradients[0].contiguous();
    const Tensor dz = at::empty_like(z);
    const Tensor dscale = per_channel(z);
    const Tensor dbias = per_channel(z);
    const std::int64_t rows_per_image = context->saved_data["rows_per_image"].toInt();
    launch_scaled_residual_backward(
        shape_of(z), {rows_per_image, floats(saved[3]), floats(saved[1]), floats(saved[2])},
        dy.const_data_ptr(), z.const_data_ptr(), dz.mutable_data_ptr(), floats(dscale),
        floats(dbias), scratch_for(z).mutable_data_ptr(), stream());
    return {dy, dz, dscale, dbias, Tensor(), Tensor()};
  }
};

// Feature maps and the size of the images that their rows make up.
struct Features {
  Tensor rows;  // [images * height * width, channels]
  std::int64_t images;
  std::int64_t height;
  std::int64_t width;

  // A view as images [N, C, H, W], channels last.
  Tensor as_images() const {
    return rows.view({images, height, width, rows.size(1)}).permute({0, 3, 1, 2});
  }
  Features with(const Tensor& others) const { return {others, images, height, width}; }
};

Tensor rows_of(const Tensor& images) {
  return images.permute({0, 2, 3, 1}).reshape({-1, images.size(1)}).contiguous();
}

Tensor normalize(ChannelNorm& norm, const Tensor& rows) {
  if (!norm->running_mean.defined()) {
    return LayerNormOfRows::apply(rows, norm->weight, norm->bias);
  }
  norm->num_batches_tracked.add_(1);
  return BatchNormOfRows::apply(rows, norm->weight, norm->bias, norm->running_mean,
                                norm->running_var);
}

// A convolution whose stride is its kernel's size, as the product of patches (row, column,
// channel).
Features patch_convolution(torch::nn::Conv2d& convolution, const Features& x) {
  const std::int64_t size = convolution->weight.size(2);
  const std::int64_t channels = x.rows.size(1);
  const std::int64_t height = x.height / size;
  const std::int64_t width = x.width / size;
  const Tensor patches = x.rows.view({x.images, x.height, x.width, channels})
                             .narrow(1, 0, height * size)
                             .narrow(2, 0, width * size)
                             .reshape({x.images, height, size, width, size, channels})
                             .permute({0, 1, 3, 2, 4, 5})
                             .reshape({x.images * height * width, size * size * channels});
  const Tensor matrix =
      convolution->weight.permute({0, 2, 3, 1}).reshape({convolution->weight.size(0), -1});
  return {Linear::apply(patches, matrix, convolution->bias), x.images, height, width};
}

// Of each image: 0 or 1 / keep probability; nothing where no image is dropped.
std::optional<Tensor> drop_path_scale(double rate, const Features& x) {
  if (rate == 0) return std::nullopt;
  const double keep = 1 - rate;
  return at::empty({x.images}, x.rows.options().dtype(at::kFloat)).bernoulli_(keep).div_(keep);
}

Features block_forward(Block& block, const Features& x) {
  const Tensor mixed = rows_of(block->mix(x.as_images()));
  const Tensor normed = normalize(block->norm, mixed);
  const Pointwise& fc1 = block->mlp->fc1;
  const Pointwise& fc2 = block->mlp->fc2;
  const Tensor hidden =
      BiasGelu::apply(Linear::apply(normed, fc1->matrix(), std::nullopt), fc1->bias);
  const Tensor branch = Linear::apply(hidden, fc2->matrix(), std::nullopt);
  const std::optional<Tensor> kept = drop_path_scale(block->drop_path_rate(), x);
  return x.with(
      ScaledResidual::apply(x.rows, branch, block->gamma, fc2->bias, kept, x.height * x.width));
}

void check_inputs(NetworkImpl& network, const Tensor& images, at::ScalarType type) {
  require(type == at::kBFloat16 || type == at::kHalf || type == at::kFloat,
          "type: expected bfloat16, float16 or float32, got {}", c10::toString(type));
  network.check_images(images);
  require(network.is_training(), "network: expected it in training mode");
  for (const Tensor& parameter : network.parameters()) {
    require(parameter.scalar_type() == at::kFloat && parameter.device() == images.device(),
            "network: expected parameters of float32 on {}, got {} on {}", images.device().str(),
            c10::toString(parameter.scalar_type()), parameter.device().str());
  }
}

}  // namespace

Tensor mixed_precision_forward(NetworkImpl& network, const Tensor& images, at::ScalarType type) {
  require(images.is_cuda(), "images: expected them on cuda, got {}", images.device().str());
  check_inputs(network, images, type);
  const c10::cuda::CUDAGuard guard(images.device());
  Features x = {rows_of(images.to(type)), images.size(0), images.size(2), images.size(3)};
  x = patch_convolution(network.stem, x);
  x = x.with(normalize(network.stem_norm, x.rows));
  for (Stage& stage : network.stages) {
    if (stage->downsample) {
      x = patch_convolution(stage->downsample, x.with(normalize(stage->downsample_norm, x.rows)));
    }
    for (Block& block : stage->blocks) x = block_forward(block, x);
  }
  const Tensor pooled =
      x.rows.view({x.images, x.height * x.width, x.rows.size(1)}).mean({1}, false, at::kFloat);
  return network.head->classify(pooled);
}

#else

at::Tensor mixed_precision_forward(NetworkImpl&, const at::Tensor&, at::ScalarType) {
  throw InvalidArgument("mixed_precision_forward: this build has no CUDA");
}

#endif

}  // namespace einkorn::inceptionnext
