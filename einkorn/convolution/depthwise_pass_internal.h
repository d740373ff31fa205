// Depthwise convolutions of tensors on the CPU, cut into parts that threads take: what
// depthwise_conv2d and the mixers that are made of depthwise convolutions share.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "einkorn/convolution/depthwise_kernels.h"
#include "einkorn/core/system.h"

namespace einkorn::convolution {

// A tensor of images as kernels see it. [N, C, H, W] is one block of channels; [N, C/b, H, W, b] is
// C/b blocks of b channels, `block_step` elements apart.
struct ImageTensor {
  at::Tensor tensor;
  std::int64_t images = 0, height = 0, width = 0;
  std::int64_t block_channels = 0;
  std::int64_t blocks = 1;
  std::int64_t block_step = 0;
  ImageStrides strides;
  ImageLayout layout = ImageLayout::planar;

  std::int64_t channels() const { return blocks * block_channels; }

  // Where a channel's plane begins (of image 0).
  void* at_channel(std::int64_t channel) const;
  ConstImages const_images(std::int64_t first_channel = 0) const;
  Images mutable_images(std::int64_t first_channel = 0) const;
};

// Throws InvalidArgument unless the tensor is 4-D or 5-D (blocked, contiguous) images of a type
// that the kernels know. A tensor in neither order is copied. `name` is used in the message.
ImageTensor image_tensor(const at::Tensor& tensor, const char* name);

// A gradient (or another partner) of x: of its shape, type and device, else InvalidArgument;
// brought into x's order of memory.
ImageTensor images_like(const ImageTensor& x, const at::Tensor& tensor, const char* name);

// An uninitialised tensor of the same shape, type and memory format (but dense), with `channels`
// channels; 4-D only where that differs.
at::Tensor empty_images_like(const ImageTensor& like, std::int64_t channels);

Element element_of(at::ScalarType type);

// f64 for f64 images, else f32: the type of weights and sums.
at::ScalarType weight_type(at::ScalarType images);

// `channels` channels of images like x, with the padding of torch's "same"; `transposed`: of the
// transposed convolution, whose padding lies on the other side.
DepthwiseProblem same_padding_problem(const ImageTensor& x, std::int64_t channels,
                                      std::int64_t kernel_height, std::int64_t kernel_width,
                                      bool transposed = false);

// FLOPs (two a multiply-add, taps outside the image not counted) and the bytes that must be moved.
Work work_of(const DepthwiseProblem& problem);

// One convolution of some channels, with its weights packed for the kernel in force. The memory
// under x and y must outlive it.
class DepthwisePass {
 public:
  // weights [channels, ..taps], biases [channels] or undefined: contiguous, of weight_type.
  DepthwisePass(const DepthwiseProblem& problem, const at::Tensor& weights,
                const at::Tensor& biases, const ConstImages& x, const Images& y);

  const DepthwiseProblem& problem() const { return problem_; }

  std::int64_t blocks() const { return kernels_->blocks(problem_); }

  // From one row of x to the next.
  std::int64_t row_bytes() const;

  // All rows of some blocks of channels (planar images) of one image.
  void run_blocks(std::int64_t image, std::int64_t block_begin, std::int64_t block_end) const;

  // Some rows of one image, all channels.
  void run_rows(std::int64_t image, std::int64_t row_begin, std::int64_t row_end) const;

 private:
  DepthwiseProblem problem_;
  const DepthwiseKernels* kernels_;
  at::Tensor packed_;
  ConstImages x_;
  Images y_;
};

// Runs passes over the same images on all threads. beside(image, row_begin, row_end), if given, is
// called so that it sees every row of every image once, near the passes' work on the same rows.
void run_passes(const std::vector<DepthwisePass>& passes,
                const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& beside = {});

// Gradients of some channels' weights ([channels, 1, kernel_height, kernel_width]) and biases, in
// weight_type, into contiguous memory.
void weight_gradient(const DepthwiseProblem& problem, const ConstImages& x, const ConstImages& dy,
                     void* weights, void* biases);

}  // namespace einkorn::convolution
