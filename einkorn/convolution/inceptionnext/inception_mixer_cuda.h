// The Inception mixer on the device: raw pointers and strides. Channels are [identity, square,
// wide, tall]: the last 3 g of C go through depthwise convolutions of s x s, 1 x b and b x 1 taps
// (odd sizes, zero padding that keeps the image's size), the first C - 3 g pass through.
//
// One fused kernel serves f32, f16 and bf16 in channels_last with s = 3 and b = 7, 9 or 11; other
// cases run the depthwise kernels branch by branch. Launches are queued on the stream, none waits
// or allocates. std::runtime_error when one is refused.
#pragma once

#include <cstddef>
#include <cstdint>

#include "einkorn/convolution/depthwise_kernels.h"

namespace einkorn::convolution {

struct InceptionMixerProblem {
  std::int64_t images = 0;
  std::int64_t channels = 0;
  std::int64_t branch_channels = 0;  // g
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t square_size = 3;
  std::int64_t band_size = 11;
  Element element = Element::f32;
  ImageLayout layout = ImageLayout::channels_last;

  std::int64_t identity_channels() const { return channels - 3 * branch_channels; }
};

// Taps [g, s, s], [g, b] and [g, b], biases [g] each (null: zeros); f32, or f64 where images are.
struct InceptionMixerWeights {
  const void* square = nullptr;
  const void* wide = nullptr;
  const void* tall = nullptr;
  const void* square_bias = nullptr;
  const void* wide_bias = nullptr;
  const void* tall_bias = nullptr;
};

struct InceptionMixerGradients {
  void* square = nullptr;
  void* wide = nullptr;
  void* tall = nullptr;
  void* square_bias = nullptr;  // may be null, as the next two
  void* wide_bias = nullptr;
  void* tall_bias = nullptr;
};

// What becomes of the identity channels: copied to y, which then has all C channels; or left in x,
// and y has the 3 g convolved channels alone.
enum class IdentityChannels { copied, left_out };

// "fused" or "branches".
const char* inception_mixer_implementation(const InceptionMixerProblem& problem);

void launch_inception_mixer_forward(const InceptionMixerProblem& problem,
                                    const InceptionMixerWeights& weights, IdentityChannels identity,
                                    const ConstImages& x, const Images& y, void* stream);

// dx = addend + the mixer's transpose applied to dy (all C channels each). addend may be null
// (none), else it lies in memory as dx does; nothing overlaps dx.
void launch_inception_mixer_input_gradient(const InceptionMixerProblem& problem,
                                           const InceptionMixerWeights& weights,
                                           const ConstImages& dy, const void* addend,
                                           const Images& dx, void* stream);

// From x and dy with all C channels. The same bits in every run on the same kind of device.
std::size_t inception_mixer_weight_gradient_scratch_bytes(const InceptionMixerProblem& problem);
void launch_inception_mixer_weight_gradient(const InceptionMixerProblem& problem,
                                            const ConstImages& x, const ConstImages& dy,
                                            void* scratch, const InceptionMixerGradients& gradients,
                                            void* stream);

}  // namespace einkorn::convolution
