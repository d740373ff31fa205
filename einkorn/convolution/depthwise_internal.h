// What every instruction set's depthwise kernels agree on: which axis a tile slides along, how
// channels are grouped into blocks, and where packed weights lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "einkorn/convolution/depthwise_kernels.h"

namespace einkorn::convolution {

inline std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Vectors hold channels, or, where images are planar and wide enough, neighbouring columns.
inline bool lanes_hold_channels(const DepthwiseProblem& problem, std::int64_t vector_lanes) {
  if (problem.layout == ImageLayout::channels_last) return true;
  const bool columns_fill_vectors = 5 * problem.width >= 3 * round_up(problem.width, vector_lanes);
  return problem.channels >= vector_lanes && !columns_fill_vectors;
}

// The slide axis is the one with more taps (vectors of channels), or the one that vectors do not
// run along (vectors of columns). `vertical`: it runs down the image.
struct DepthwiseAxes {
  DepthwiseAxes(const DepthwiseProblem& problem, std::int64_t vector_lanes)
      : vertical(!lanes_hold_channels(problem, vector_lanes) ||
                 problem.kernel_height > problem.kernel_width),
        slide_taps(vertical ? problem.kernel_height : problem.kernel_width),
        slide_pad(vertical ? problem.pad_top : problem.pad_left),
        slide_extent(vertical ? problem.height : problem.width),
        outer_taps(vertical ? problem.kernel_width : problem.kernel_height),
        outer_pad(vertical ? problem.pad_left : problem.pad_top),
        outer_extent(vertical ? problem.width : problem.height) {}

  bool vertical;
  std::int64_t slide_taps, slide_pad, slide_extent;
  std::int64_t outer_taps, outer_pad, outer_extent;
};

// Blocks of `lanes` channels (1 where vectors hold columns). The last one reaches back over the one
// before it rather than past the end; with fewer channels than lanes there is one, partly empty.
struct DepthwiseBlocks {
  DepthwiseBlocks(const DepthwiseProblem& problem, std::int64_t vector_lanes)
      : channels(problem.channels),
        lanes(lanes_hold_channels(problem, vector_lanes) ? vector_lanes : 1),
        count((channels + lanes - 1) / lanes),
        size((1 + problem.taps()) * lanes),
        used(std::min(lanes, channels)) {}

  std::int64_t first_channel(std::int64_t block) const {
    return std::max<std::int64_t>(0, std::min(block * lanes, channels - lanes));
  }

  std::int64_t channels, lanes, count, size;
  std::int64_t used;  // lanes of a block that hold a channel
};

// Calls visit(weight, position) for each pair of an element of weights [channels, taps] and its
// place in packed memory, and visit_bias(channel, position) likewise, for blocks [begin, end).
template <typename Visit, typename VisitBias>
void for_each_packed(const DepthwiseProblem& problem, std::int64_t vector_lanes, std::int64_t begin,
                     std::int64_t end, Visit visit, VisitBias visit_bias) {
  const DepthwiseAxes axes(problem, vector_lanes);
  const DepthwiseBlocks blocks(problem, vector_lanes);
  const std::int64_t taps = problem.taps();
  const std::int64_t outer_step = axes.vertical ? 1 : problem.kernel_width;
  const std::int64_t slide_step = axes.vertical ? problem.kernel_width : 1;
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t first = blocks.first_channel(block);
    std::int64_t position = block * blocks.size;
    for (std::int64_t lane = 0; lane < blocks.used; ++lane)
      visit_bias(first + lane, position + lane);
    for (std::int64_t outer = 0; outer < axes.outer_taps; ++outer) {
      for (std::int64_t slide = 0; slide < axes.slide_taps; ++slide) {
        position += blocks.lanes;
        const std::int64_t weight = first * taps + outer * outer_step + slide * slide_step;
        for (std::int64_t lane = 0; lane < blocks.used; ++lane) {
          visit(weight + lane * taps, position + lane);
        }
      }
    }
  }
}

template <typename T>
void pack_weights(const DepthwiseProblem& problem, std::int64_t vector_lanes, const void* weights,
                  const void* biases, std::int64_t begin, std::int64_t end, void* packed) {
  const DepthwiseBlocks blocks(problem, vector_lanes);
  const auto* w = static_cast<const T*>(weights);
  const auto* b = static_cast<const T*>(biases);
  auto* to = static_cast<T*>(packed);
  // Lanes without a channel, and missing biases.
  if (blocks.channels < blocks.lanes || b == nullptr) {
    std::fill(to + begin * blocks.size, to + end * blocks.size, T{0});
  }
  for_each_packed(
      problem, vector_lanes, begin, end,
      [&](std::int64_t weight, std::int64_t position) { to[position] = w[weight]; },
      [&](std::int64_t channel, std::int64_t position) {
        if (b != nullptr) to[position] = b[channel];
      });
}

template <typename T>
void unpack_weights(const DepthwiseProblem& problem, std::int64_t vector_lanes, const void* packed,
                    void* weights, void* biases) {
  const auto* from = static_cast<const T*>(packed);
  auto* w = static_cast<T*>(weights);
  auto* b = static_cast<T*>(biases);
  for_each_packed(
      problem, vector_lanes, 0, DepthwiseBlocks(problem, vector_lanes).count,
      [&](std::int64_t weight, std::int64_t position) { w[weight] = from[position]; },
      [&](std::int64_t channel, std::int64_t position) {
        if (b != nullptr) b[channel] = from[position];
      });
}

// Memory of this thread that lives on between calls: strips of images would otherwise be mapped and
// unmapped by every call. 64-byte aligned; valid until the next call.
inline std::byte* thread_workspace(std::size_t bytes) {
  struct Release {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  thread_local std::unique_ptr<std::byte[], Release> memory;
  thread_local std::size_t capacity = 0;
  if (capacity < bytes) {
    memory.reset();
    memory.reset(new (std::align_val_t{64}) std::byte[bytes]);
    capacity = bytes;
  }
  return memory.get();
}

}  // namespace einkorn::convolution
