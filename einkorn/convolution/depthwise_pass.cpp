#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "einkorn/convolution/depthwise_pass_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/tensor.h"

namespace einkorn::convolution {
namespace {

// Takes tasks in turn, so that a slow core or a costly task holds up nobody. Tasks write to places
// of their own, so the result does not depend on who takes which.
void share_out(std::int64_t tasks, bool on_threads, const std::function<void(std::int64_t)>& run) {
  std::atomic<std::int64_t> next{0};
  const auto take = [&](std::int64_t, std::int64_t) {
    for (std::int64_t task = next++; task < tasks; task = next++) run(task);
  };
  if (!on_threads || tasks <= 1) return take(0, 1);
  at::parallel_for(0, std::min<std::int64_t>(tasks, at::get_num_threads()), 1, take);
}

// FLOPs below which waking the other threads costs more than it saves.
constexpr double worth_threads = 1 << 18;

bool is_worth_threads(const std::vector<DepthwisePass>& passes) {
  double flops = 0;
  for (const DepthwisePass& pass : passes) flops += work_of(pass.problem()).flops;
  return flops >= worth_threads;
}

// Enough parts of each image for all threads to end at about the same time.
std::int64_t parts_of_an_image(std::int64_t images, std::int64_t most) {
  const std::int64_t wanted = 4 * at::get_num_threads();
  return std::clamp<std::int64_t>((wanted + images - 1) / std::max<std::int64_t>(images, 1), 1,
                                  std::max<std::int64_t>(most, 1));
}

// Part `part` of `parts` nearly equal ones of [0, size).
struct Share {
  Share(std::int64_t part, std::int64_t parts, std::int64_t size)
      : begin(part * size / parts), end((part + 1) * size / parts) {}
  std::int64_t begin, end;
};

// Parts of an image so small that what one pass has read, and written, is still in L2 for the next;
// of at least 14 rows, which is what a tile that runs down the image covers.
std::int64_t parts_in_level2(const DepthwisePass& pass) {
  constexpr std::int64_t budget = 384 << 10;
  const std::int64_t height = pass.problem().height;
  const std::int64_t row_bytes = std::max<std::int64_t>(pass.row_bytes(), 1);
  const std::int64_t rows = std::max<std::int64_t>(budget / row_bytes, 14);
  return (height + rows - 1) / rows;
}

using Beside = std::function<void(std::int64_t, std::int64_t, std::int64_t)>;

// A task is some rows of an image in all passes, which then read and write the same lines of
// memory.
void run_by_rows(const std::vector<DepthwisePass>& passes, const Beside& beside) {
  const DepthwiseProblem& size = passes.front().problem();
  std::int64_t parts = parts_of_an_image(size.images, size.height);
  if (passes.size() > 1 || beside) parts = std::max(parts, parts_in_level2(passes.front()));
  share_out(size.images * parts, is_worth_threads(passes), [&](std::int64_t task) {
    const std::int64_t image = task / parts;
    const Share rows(task % parts, parts, size.height);
    if (beside) beside(image, rows.begin, rows.end);
    for (const DepthwisePass& pass : passes) pass.run_rows(image, rows.begin, rows.end);
  });
}

// A task is some channels of an image in one pass, or some rows beside them.
void run_by_blocks(const std::vector<DepthwisePass>& passes, const Beside& beside) {
  const DepthwiseProblem& size = passes.front().problem();
  std::int64_t most_blocks = 1;
  for (const DepthwisePass& pass : passes) most_blocks = std::max(most_blocks, pass.blocks());
  const std::int64_t parts = parts_of_an_image(size.images, most_blocks);
  const auto kinds = static_cast<std::int64_t>(passes.size()) + (beside ? 1 : 0);
  share_out(size.images * kinds * parts, is_worth_threads(passes), [&](std::int64_t task) {
    const std::int64_t image = task / (kinds * parts);
    const auto kind = static_cast<std::size_t>(task / parts % kinds);
    if (kind == passes.size()) {
      const Share rows(task % parts, parts, size.height);
      return beside(image, rows.begin, rows.end);
    }
    const Share blocks(task % parts, parts, passes[kind].blocks());
    passes[kind].run_blocks(image, blocks.begin, blocks.end);
  });
}

double taps_inside(std::int64_t extent, std::int64_t taps, std::int64_t pad) {
  double sum = 0;
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    sum += static_cast<double>(std::max<std::int64_t>(0, extent - std::abs(tap - pad)));
  }
  return sum;
}

// Adds all rows of [parts, size] into the first, in order.
template <typename T>
void add_parts(T* sums, std::int64_t parts, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) {
    double total = 0;
    for (std::int64_t part = 0; part < parts; ++part) {
      total += static_cast<double>(sums[part * size + i]);
    }
    sums[i] = static_cast<T>(total);
  }
}

std::int64_t size_of(Element element) {
  switch (element) {
    case Element::f64:
      return 8;
    case Element::f32:
      return 4;
    case Element::f16:
    case Element::bf16:
      break;
  }
  return 2;
}

}  // namespace

void* ImageTensor::at_channel(std::int64_t channel) const {
  const std::int64_t offset =
      channel / block_channels * block_step + channel % block_channels * strides.channel;
  return static_cast<std::byte*>(tensor.data_ptr()) +
         offset * static_cast<std::int64_t>(tensor.element_size());
}

ConstImages ImageTensor::const_images(std::int64_t first_channel) const {
  return {at_channel(first_channel), strides};
}

Images ImageTensor::mutable_images(std::int64_t first_channel) const {
  return {at_channel(first_channel), strides};
}

ImageTensor image_tensor(const at::Tensor& tensor, const char* name) {
  require_dense(tensor, name);
  require(tensor.dim() == 4 || tensor.dim() == 5,
          "{}: expected images [N, C, H, W] or blocked [N, C/b, H, W, b], got {} dimensions", name,
          tensor.dim());
  element_of(tensor.scalar_type());
  ImageTensor images;
  images.images = tensor.size(0);
  images.height = tensor.size(2);
  images.width = tensor.size(3);
  if (tensor.dim() == 5) {
    images.tensor = tensor.contiguous();
    images.blocks = tensor.size(1);
    images.block_channels = tensor.size(4);
    images.block_step = images.tensor.stride(1);
    images.strides = {images.tensor.stride(0), 1, images.tensor.stride(2), images.tensor.stride(3)};
    images.layout = ImageLayout::channels_last;
    return images;
  }
  const bool in_known_order = tensor.stride(1) == 1 || tensor.stride(3) == 1;
  images.tensor = in_known_order ? tensor : tensor.contiguous();
  images.block_channels = tensor.size(1);
  images.strides = {images.tensor.stride(0), images.tensor.stride(1), images.tensor.stride(2),
                    images.tensor.stride(3)};
  const bool channels_last = images.strides.channel == 1 &&
                             (images.strides.column != 1 || images.tensor.suggest_memory_format() ==
                                                                at::MemoryFormat::ChannelsLast);
  images.layout = channels_last ? ImageLayout::channels_last : ImageLayout::planar;
  return images;
}

ImageTensor images_like(const ImageTensor& x, const at::Tensor& tensor, const char* name) {
  require(tensor.defined() && tensor.sizes() == x.tensor.sizes(), "{}: expected the shape of x",
          name);
  require(tensor.scalar_type() == x.tensor.scalar_type(), "{}: expected {} as x, got {}", name,
          c10::toString(x.tensor.scalar_type()), c10::toString(tensor.scalar_type()));
  require(tensor.device() == x.tensor.device(), "{}: expected it on {}, got {}", name,
          x.tensor.device().str(), tensor.device().str());
  const ImageTensor images = image_tensor(tensor, name);
  if (images.layout == x.layout) return images;
  const auto format = x.layout == ImageLayout::channels_last ? at::MemoryFormat::ChannelsLast
                                                             : at::MemoryFormat::Contiguous;
  return image_tensor(tensor.contiguous(format), name);
}

at::Tensor empty_images_like(const ImageTensor& like, std::int64_t channels) {
  if (like.tensor.dim() == 5) {
    return at::empty(
        {like.images, channels / like.block_channels, like.height, like.width, like.block_channels},
        like.tensor.options());
  }
  const auto format = like.layout == ImageLayout::channels_last ? at::MemoryFormat::ChannelsLast
                                                                : at::MemoryFormat::Contiguous;
  return at::empty({like.images, channels, like.height, like.width}, like.tensor.options(), format);
}

Element element_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Element::f32;
    case at::kDouble:
      return Element::f64;
    case at::kHalf:
      return Element::f16;
    case at::kBFloat16:
      return Element::bf16;
    default:
      throw InvalidArgument(fmt::format(
          "images: expected float32, float64, float16 or bfloat16, got {}", c10::toString(type)));
  }
}

at::ScalarType weight_type(at::ScalarType images) {
  return images == at::kDouble ? at::kDouble : at::kFloat;
}

DepthwiseProblem same_padding_problem(const ImageTensor& x, std::int64_t channels,
                                      std::int64_t kernel_height, std::int64_t kernel_width,
                                      bool transposed) {
  DepthwiseProblem problem;
  problem.images = x.images;
  problem.channels = channels;
  problem.height = x.height;
  problem.width = x.width;
  problem.kernel_height = kernel_height;
  problem.kernel_width = kernel_width;
  problem.pad_top = transposed ? kernel_height / 2 : (kernel_height - 1) / 2;
  problem.pad_left = transposed ? kernel_width / 2 : (kernel_width - 1) / 2;
  problem.element = element_of(x.tensor.scalar_type());
  problem.layout = x.layout;
  return problem;
}

Work work_of(const DepthwiseProblem& problem) {
  const double planes = static_cast<double>(problem.images * problem.channels);
  const double taps = taps_inside(problem.height, problem.kernel_height, problem.pad_top) *
                      taps_inside(problem.width, problem.kernel_width, problem.pad_left);
  const auto pixels = static_cast<double>(problem.height * problem.width);
  return {2 * planes * taps, 2 * planes * pixels * static_cast<double>(size_of(problem.element))};
}

DepthwisePass::DepthwisePass(const DepthwiseProblem& problem, const at::Tensor& weights,
                             const at::Tensor& biases, const ConstImages& x, const Images& y)
    : problem_(problem), kernels_(&depthwise_kernels(problem)), x_(x), y_(y) {
  const std::int64_t blocks = kernels_->blocks(problem);
  const std::int64_t size = blocks * kernels_->block_size(problem);
  packed_ = at::empty({size}, weights.options());
  const void* bias_data = biases.defined() ? biases.const_data_ptr() : nullptr;
  const auto pack = [&](std::int64_t begin, std::int64_t end) {
    kernels_->pack(problem_, weights.const_data_ptr(), bias_data, begin, end,
                   packed_.mutable_data_ptr());
  };
  constexpr std::int64_t elements_worth_threads = 1 << 14;
  at::parallel_for(0, blocks, blocks * elements_worth_threads / std::max<std::int64_t>(size, 1) + 1,
                   pack);
}

std::int64_t DepthwisePass::row_bytes() const {
  return x_.strides.row * size_of(problem_.element);
}

void DepthwisePass::run_blocks(std::int64_t image, std::int64_t block_begin,
                               std::int64_t block_end) const {
  kernels_->forward(problem_, packed_.const_data_ptr(), x_, y_,
                    {image, block_begin, block_end, 0, problem_.height});
}

void DepthwisePass::run_rows(std::int64_t image, std::int64_t row_begin,
                             std::int64_t row_end) const {
  kernels_->forward(problem_, packed_.const_data_ptr(), x_, y_,
                    {image, 0, blocks(), row_begin, row_end});
}

void run_passes(const std::vector<DepthwisePass>& passes, const Beside& beside) {
  if (passes.empty()) return;
  if (passes.front().problem().layout == ImageLayout::channels_last) {
    run_by_rows(passes, beside);
  } else {
    run_by_blocks(passes, beside);
  }
}

void weight_gradient(const DepthwiseProblem& problem, const ConstImages& x, const ConstImages& dy,
                     void* weights, void* biases) {
  const DepthwiseKernels& kernels = depthwise_kernels(problem);
  const std::int64_t blocks = kernels.blocks(problem);
  const std::int64_t block_size = kernels.block_size(problem);
  const std::int64_t strips = kernels.strips(problem);
  // Sums of strips are cut at places that the shape alone decides, never the number of threads.
  constexpr std::int64_t wanted_tasks = 64;
  const std::int64_t parts = std::clamp<std::int64_t>(
      wanted_tasks / std::max<std::int64_t>(blocks, 1), 1, std::max<std::int64_t>(strips, 1));
  const bool is_f64 = problem.element == Element::f64;
  const at::Tensor sums =
      at::empty({parts, blocks * block_size}, is_f64 ? at::kDouble : at::kFloat);
  auto* data = static_cast<std::byte*>(sums.mutable_data_ptr());
  const auto block_bytes = block_size * static_cast<std::int64_t>(sums.element_size());
  share_out(parts * blocks, work_of(problem).flops >= worth_threads, [&](std::int64_t task) {
    const Share some(task / blocks, parts, strips);
    kernels.weight_gradient(problem, x, dy, task % blocks, some.begin, some.end,
                            data + task * block_bytes);
  });
  if (is_f64) {
    add_parts(sums.mutable_data_ptr<double>(), parts, blocks * block_size);
  } else {
    add_parts(sums.mutable_data_ptr<float>(), parts, blocks * block_size);
  }
  kernels.unpack(problem, sums.const_data_ptr(), weights, biases);
}

}  // namespace einkorn::convolution
