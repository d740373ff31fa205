// Depthwise convolution on CPUs: a plain reference in double, and tiles in registers for AVX2 and
// AVX-512. All see the same tasks: some rows of one image, or the weights of one block of channels.
//
// f32 channels-last images are read and written where they lie. Other element types, and groups of
// channels narrower than a vector where masks are slow, pass through a strip of f32 rows in L2: an
// input is converted once instead of once for each tap. Planar images pass through such a strip as
// well, with zeros left and right, so that no vector has to ask whether its lanes lie in the image.
#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/convolution/depthwise_cpu.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "einkorn/convolution/depthwise_internal.h"
#include "einkorn/convolution/depthwise_simd.h"
#include "einkorn/convolution/elements_simd.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::convolution {
namespace HWY_NAMESPACE {

// An image whose element at (row 0, column 0) of the first channel is at origin; in elements.
template <typename T>
struct View {
  T* origin = nullptr;
  std::ptrdiff_t row = 0;
  std::ptrdiff_t column = 0;
  std::ptrdiff_t channel = 1;

  T* at(std::int64_t i, std::int64_t j) const { return origin + i * row + j * column; }
  View from_channel(std::int64_t first) const {
    return {origin + first * channel, row, column, channel};
  }
};

template <typename Stored>
View<const Stored> view_of(const ConstImages& images, std::int64_t image) {
  const ImageStrides& strides = images.strides;
  return {static_cast<const Stored*>(images.data) + image * strides.image, strides.row,
          strides.column, strides.channel};
}

template <typename Stored>
View<Stored> view_of(const Images& images, std::int64_t image) {
  const ImageStrides& strides = images.strides;
  return {static_cast<Stored*>(images.data) + image * strides.image, strides.row, strides.column,
          strides.channel};
}

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  std::int64_t size() const { return end - begin; }
};

// The rows of the image that outputs `rows` depend on.
inline Range input_rows(const DepthwiseProblem& problem, Range rows) {
  return {std::max<std::int64_t>(0, rows.begin - problem.pad_top),
          std::min(problem.height, rows.end + problem.kernel_height - 1 - problem.pad_top)};
}

// This thread's memory until its next call.
template <typename T>
T* workspace(std::int64_t size) {
  return reinterpret_cast<T*>(thread_workspace(static_cast<std::size_t>(size) * sizeof(T)));
}

// Asks for the first line of every pixel of some rows.
template <typename T>
void prefetch(const View<const T>& x, Range rows, std::int64_t width) {
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = 0; j < width; ++j) hwy::Prefetch(x.at(i, j));
  }
}

template <typename X, typename Y>
Walk walk_of(const DepthwiseAxes& axes, const View<X>& x, const View<Y>& y) {
  Walk walk;
  walk.x_slide = axes.vertical ? x.row : x.column;
  walk.x_outer = axes.vertical ? x.column : x.row;
  walk.y_slide = axes.vertical ? y.row : y.column;
  walk.y_outer = axes.vertical ? y.column : y.row;
  walk.slide_taps = axes.slide_taps;
  return walk;
}

// One block of channels, outputs slide x outer.
template <class D, class M, typename T = hn::TFromD<D>>
void forward_block(D d, M mask, const DepthwiseAxes& axes, const View<const T>& x, const View<T>& y,
                   const T* packed, Range slide, Range outer) {
  const Walk walk = walk_of(axes, x, y);
  for (std::int64_t q = outer.begin; q < outer.end; ++q) {
    const std::int64_t tap_begin = std::max<std::int64_t>(0, axes.outer_pad - q);
    const std::int64_t tap_end = std::min(axes.outer_taps, axes.outer_extent + axes.outer_pad - q);
    const T* input = x.origin + (q - axes.outer_pad) * walk.x_outer;
    T* output = y.origin + q * walk.y_outer;
    for_each_tile(slide.size(),
                  [&]<int width>(std::integral_constant<int, width>, std::int64_t first) HWY_ATTR {
                    const std::int64_t p = slide.begin + first;
                    forward_tile<width, WeightLanes::each>(
                        d, mask, walk, input + (p - axes.slide_pad) * walk.x_slide,
                        axes.slide_pad - p, axes.slide_extent + axes.slide_pad - p, tap_begin,
                        tap_end, packed, output + p * walk.y_slide);
                  });
  }
}

// Rows in groups of what a tile covers, and in each group one block of channels after the other, so
// that rows are read from memory as they lie. The next group's new rows are on their way meanwhile:
// no prefetcher follows a block's line in every pixel.
template <typename T>
void forward_in_place(const DepthwiseProblem& problem, const T* packed, const View<const T>& x,
                      const View<T>& y, const ImagePart& part) {
  const Tag<T> d;
  const DepthwiseAxes axes(problem, lanes_of<T>());
  const DepthwiseBlocks blocks(problem, lanes_of<T>());
  const auto mask = hn::FirstN(d, static_cast<std::size_t>(blocks.used));
  const std::int64_t group = axes.vertical ? tile_width : 1;
  const Range columns = {0, problem.width};
  for (std::int64_t i = part.row_begin; i < part.row_end; i += group) {
    const Range rows = {i, std::min(i + group, part.row_end)};
    const Range next = {input_rows(problem, rows).end,
                        input_rows(problem, {rows.begin + group, rows.end + group}).end};
    for (std::int64_t block = part.block_begin; block < part.block_end; ++block) {
      const View<const T> input = x.from_channel(blocks.first_channel(block));
      prefetch(input, next, problem.width);
      forward_block(d, mask, axes, input, y.from_channel(blocks.first_channel(block)),
                    packed + block * blocks.size, axes.vertical ? rows : columns,
                    axes.vertical ? columns : rows);
    }
  }
}

// Rows that fit a budget together with the inputs above and below them; whole tiles if there is a
// choice.
inline std::int64_t strip_rows(const DepthwiseProblem& problem, std::int64_t bytes_a_row_pair,
                               std::int64_t budget) {
  const std::int64_t rows = budget / bytes_a_row_pair - (problem.kernel_height - 1) / 2;
  const std::int64_t whole_tiles = rows / tile_width * tile_width;
  return std::min(problem.height, std::max<std::int64_t>(whole_tiles > 0 ? whole_tiles : rows, 1));
}

inline constexpr std::int64_t level1_budget = 24 << 10;
inline constexpr std::int64_t level2_budget = 256 << 10;

// Planes of `used` channels to vectors of channels and back: `pixels` neighbouring pixels.
template <typename T, typename Stored>
void channels_to_lanes(const Stored* from, std::ptrdiff_t channel, std::int64_t used,
                       std::int64_t pixels, T* to) {
  const Tag<T> d;
  constexpr std::int64_t lanes = lanes_of<T>();
  HWY_ALIGN T run[lanes];
  for (std::int64_t j = 0; j < pixels; j += lanes) {
    const std::int64_t count = std::min(lanes, pixels - j);
    for (std::int64_t lane = 0; lane < used; ++lane) {
      hn::Store(load_elements(d, from + lane * channel + j, count), d, run);
      for (std::int64_t k = 0; k < count; ++k) to[(j + k) * lanes + lane] = run[k];
    }
  }
}

template <typename T, typename Stored>
void lanes_to_channels(const T* from, std::int64_t pixels, std::int64_t lane_begin,
                       std::int64_t lane_end, std::ptrdiff_t channel, Stored* to) {
  const Tag<T> d;
  constexpr std::int64_t lanes = lanes_of<T>();
  HWY_ALIGN T run[lanes];
  for (std::int64_t j = 0; j < pixels; j += lanes) {
    const std::int64_t count = std::min(lanes, pixels - j);
    for (std::int64_t lane = lane_begin; lane < lane_end; ++lane) {
      for (std::int64_t k = 0; k < count; ++k) run[k] = from[(j + k) * lanes + lane];
      store_elements(d, hn::Load(d, run), to + lane * channel + j, count);
    }
  }
}

// Copies rows of some channels, converted, to a dense strip of vectors of channels; the view gives
// image coordinates.
template <typename T, typename Stored>
View<const T> gather_rows(const View<const Stored>& from, std::int64_t width, std::int64_t used,
                          Range rows, T* strip) {
  const Tag<T> d;
  constexpr std::int64_t lanes = lanes_of<T>();
  T* to = strip;
  if (from.channel != 1 && from.row == width) {
    channels_to_lanes(from.at(rows.begin, 0), from.channel, used, rows.size() * width, to);
  } else {
    for (std::int64_t i = rows.begin; i < rows.end; ++i, to += width * lanes) {
      if (from.channel != 1) {
        channels_to_lanes(from.at(i, 0), from.channel, used, width, to);
        continue;
      }
      for (std::int64_t j = 0; j < width; ++j) {
        hn::Store(load_elements(d, from.at(i, j), used), d, to + j * lanes);
      }
    }
  }
  return {strip - rows.begin * width * lanes, width * lanes, lanes};
}

// The way back, for lanes [lane_begin, lane_end) of the strip.
template <typename T, typename Stored>
void scatter_rows(const View<T>& from, std::int64_t width, std::int64_t lane_begin,
                  std::int64_t lane_end, Range rows, const View<Stored>& to) {
  const Tag<T> d;
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    if (to.channel != 1) {
      lanes_to_channels(from.at(i, 0), width, lane_begin, lane_end, to.channel, to.at(i, 0));
      continue;
    }
    for (std::int64_t j = 0; j < width; ++j) {
      store_elements(d, hn::Load(d, from.at(i, j)), to.at(i, j), lane_end);
    }
  }
}

// The same where pixels lie so far apart that their lines meet in few sets of L1, and each needs a
// page of its own: a block's inputs are first gathered, a strip of rows at a time. For tiles that
// run along rows.
template <typename T>
void forward_gathered(const DepthwiseProblem& problem, const T* packed, const View<const T>& x,
                      const View<T>& y, const ImagePart& part) {
  const Tag<T> d;
  constexpr std::int64_t lanes = lanes_of<T>();
  const DepthwiseAxes axes(problem, lanes);
  const DepthwiseBlocks blocks(problem, lanes);
  const auto mask = hn::FirstN(d, static_cast<std::size_t>(blocks.used));
  const std::int64_t row_size = problem.width * lanes;
  const std::int64_t rows_at_once =
      strip_rows(problem, 2 * row_size * std::int64_t{sizeof(T)}, level2_budget / 2);
  T* strip = workspace<T>((rows_at_once + problem.kernel_height - 1) * row_size);
  const Range columns = {0, problem.width};
  for (std::int64_t i = part.row_begin; i < part.row_end; i += rows_at_once) {
    const Range rows = {i, std::min(i + rows_at_once, part.row_end)};
    for (std::int64_t block = part.block_begin; block < part.block_end; ++block) {
      const std::int64_t channel = blocks.first_channel(block);
      const View<const T> input = gather_rows(x.from_channel(channel), problem.width, blocks.used,
                                              input_rows(problem, rows), strip);
      forward_block(d, mask, axes, input, y.from_channel(channel), packed + block * blocks.size,
                    columns, rows);
    }
  }
}

template <typename T, typename Stored>
void forward_through_strip(const DepthwiseProblem& problem, const T* packed,
                           const View<const Stored>& x, const View<Stored>& y,
                           const ImagePart& part) {
  const Tag<T> d;
  constexpr std::int64_t lanes = lanes_of<T>();
  const DepthwiseAxes axes(problem, lanes);
  const DepthwiseBlocks blocks(problem, lanes);
  const auto all_lanes = hn::FirstN(d, static_cast<std::size_t>(lanes));
  const std::int64_t row_size = problem.width * lanes;
  const std::int64_t rows_at_once =
      strip_rows(problem, 2 * row_size * static_cast<std::int64_t>(sizeof(T)), level2_budget);
  const std::int64_t input_size = (rows_at_once + problem.kernel_height - 1) * row_size;
  T* input_strip = workspace<T>(input_size + rows_at_once * row_size);
  T* output_strip = input_strip + input_size;
  const Range columns = {0, problem.width};

  for (std::int64_t i = part.row_begin; i < part.row_end; i += rows_at_once) {
    const Range rows = {i, std::min(i + rows_at_once, part.row_end)};
    const View<T> output = {output_strip - i * row_size, row_size, lanes};
    for (std::int64_t block = part.block_begin; block < part.block_end; ++block) {
      const std::int64_t channel = blocks.first_channel(block);
      const View<const T> input = gather_rows(x.from_channel(channel), problem.width, blocks.used,
                                              input_rows(problem, rows), input_strip);
      forward_block(d, all_lanes, axes, input, output, packed + block * blocks.size,
                    axes.vertical ? rows : columns, axes.vertical ? columns : rows);
      // In planar images another thread may own the channels that the block before covers.
      const std::int64_t owned = x.channel == 1 ? 0 : block * lanes - channel;
      scatter_rows(output, problem.width, owned, blocks.used, rows, y.from_channel(channel));
    }
  }
}

// Strips of one plane: inputs with zeros left and right, outputs (or their gradients) in whole
// vectors.
template <typename T>
struct PlaneStrips {
  explicit PlaneStrips(const DepthwiseProblem& problem)
      : output_pitch(round_up(problem.width, lanes_of<T>())),
        input_pitch(round_up(output_pitch + problem.kernel_width - 1, lanes_of<T>())),
        rows(strip_rows(problem, (input_pitch + output_pitch) * std::int64_t{sizeof(T)},
                        level1_budget)),
        input_size((rows + problem.kernel_height - 1) * input_pitch),
        output_size(rows * output_pitch) {}

  std::int64_t output_pitch, input_pitch, rows, input_size, output_size;
};

// Converts rows of a plane into a strip, `pad_left` columns from its left edge; the view gives
// image rows, and columns from that edge.
template <typename T, typename Stored>
View<const T> pad_rows(const View<const Stored>& plane, std::int64_t width, Range rows,
                       std::int64_t pad_left, std::int64_t pitch, T* strip) {
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    read_row(plane.at(i, 0), width, strip + (i - rows.begin) * pitch + pad_left);
  }
  return {strip - rows.begin * pitch, pitch, 1};
}

// Outputs `rows` of one plane from a padded strip.
template <typename T>
void forward_plane_rows(const DepthwiseProblem& problem, const T* packed,
                        const View<const T>& padded, const View<T>& y, Range rows) {
  const Tag<T> d;
  constexpr std::int64_t lanes = lanes_of<T>();
  const DepthwiseAxes axes(problem, lanes);
  const Walk walk = walk_of(axes, padded, y);
  const auto mask = hn::FirstN(d, static_cast<std::size_t>(std::min(lanes, problem.width)));
  for (std::int64_t vector = 0; vector < problem.width; vector += lanes) {
    const std::int64_t column = std::max<std::int64_t>(0, std::min(vector, problem.width - lanes));
    for_each_tile(rows.size(), [&]<int width>(std::integral_constant<int, width>,
                                              std::int64_t first) HWY_ATTR {
      const std::int64_t p = rows.begin + first;
      forward_tile<width, WeightLanes::shared>(
          d, mask, walk, padded.at(p - axes.slide_pad, column), axes.slide_pad - p,
          axes.slide_extent + axes.slide_pad - p, 0, axes.outer_taps, packed, y.at(p, column));
    });
  }
}

// Vectors of columns; a block is one channel.
template <typename T, typename Stored>
void forward_planes(const DepthwiseProblem& problem, const T* packed, const View<const Stored>& x,
                    const View<Stored>& y, const ImagePart& part) {
  const PlaneStrips<T> strips(problem);
  T* input_strip = workspace<T>(strips.input_size + strips.output_size);
  T* output_strip = input_strip + strips.input_size;
  std::fill_n(input_strip, strips.input_size, T{0});
  for (std::int64_t channel = part.block_begin; channel < part.block_end; ++channel) {
    const View<const Stored> from = x.from_channel(channel);
    const View<Stored> to = y.from_channel(channel);
    const T* weights = packed + channel * (1 + problem.taps());
    for (std::int64_t i = part.row_begin; i < part.row_end; i += strips.rows) {
      const Range rows = {i, std::min(i + strips.rows, part.row_end)};
      const View<const T> padded = pad_rows(from, problem.width, input_rows(problem, rows),
                                            problem.pad_left, strips.input_pitch, input_strip);
      if constexpr (std::is_same_v<T, Stored>) {
        if (masks_are_free || problem.width >= lanes_of<T>()) {
          forward_plane_rows(problem, weights, padded, to, rows);
          continue;
        }
      }
      const View<T> output = {output_strip - i * strips.output_pitch, strips.output_pitch, 1};
      forward_plane_rows(problem, weights, padded, output, rows);
      for (std::int64_t row = rows.begin; row < rows.end; ++row) {
        write_row(output.at(row, 0), problem.width, to.at(row, 0));
      }
    }
  }
}

// Whether vectors may be read from (and written to) the images themselves.
template <typename T, typename Stored>
bool in_place(const DepthwiseProblem& problem) {
  return std::is_same_v<T, Stored> && problem.layout == ImageLayout::channels_last &&
         (masks_are_free || problem.channels >= lanes_of<T>());
}

// The step from pixel to pixel above which gathering pays; not for tiles that run down the image,
// which read a column once.
inline constexpr std::int64_t far_apart_bytes = 2048;

template <typename T, typename Stored>
void forward_part(const DepthwiseProblem& problem, const T* packed, const ConstImages& x,
                  const Images& y, const ImagePart& part) {
  const auto input = view_of<Stored>(x, part.image);
  const auto output = view_of<Stored>(y, part.image);
  if (!lanes_hold_channels(problem, lanes_of<T>())) {
    return forward_planes(problem, packed, input, output, part);
  }
  if constexpr (std::is_same_v<T, Stored>) {
    if (in_place<T, Stored>(problem)) {
      const bool far_apart = input.column * std::int64_t{sizeof(T)} > far_apart_bytes &&
                             !DepthwiseAxes(problem, lanes_of<T>()).vertical;
      return far_apart ? forward_gathered(problem, packed, input, output, part)
                       : forward_in_place(problem, packed, input, output, part);
    }
  }
  forward_through_strip(problem, packed, input, output, part);
}

// Rows of a strip in the weight gradient: what fits L1, or, where tiles run down the image and need
// many rows, L2.
template <typename T>
std::int64_t gradient_strip_rows(const DepthwiseProblem& problem) {
  if (!lanes_hold_channels(problem, lanes_of<T>())) return PlaneStrips<T>(problem).rows;
  const std::int64_t row_bytes = problem.width * lanes_of<T>() * std::int64_t{sizeof(T)};
  const bool vertical = DepthwiseAxes(problem, lanes_of<T>()).vertical;
  return strip_rows(problem, 2 * row_bytes, vertical ? level2_budget : level1_budget);
}

template <typename T>
std::int64_t gradient_strips(const DepthwiseProblem& problem) {
  const std::int64_t rows = gradient_strip_rows<T>(problem);
  return problem.images * ((problem.height + rows - 1) / rows);
}

// Calls visit(image, rows) for strips [begin, end).
template <typename T, class Visit>
void for_each_strip(const DepthwiseProblem& problem, Range strips, const Visit& visit) {
  const std::int64_t rows = gradient_strip_rows<T>(problem);
  const std::int64_t an_image = (problem.height + rows - 1) / rows;
  for (std::int64_t strip = strips.begin; strip < strips.end; ++strip) {
    const std::int64_t first = strip % an_image * rows;
    visit(strip / an_image, Range{first, std::min(first + rows, problem.height)});
  }
}

// Adds the gradients of one outer tap's runs of slide taps, summed over outputs slide x
// outer_count. x and dy lie at slide coordinate 0; totals: a vector a tap.
template <class D, class M, typename T = hn::TFromD<D>>
void add_gradients(D d, M mask, const DepthwiseAxes& axes, const Walk& walk, const T* x,
                   const T* dy, Range slide, std::int64_t outer_count, T* totals) {
  for (std::int64_t s = 0; s < axes.slide_taps; s += tap_run) {
    const std::int64_t shift = slide.begin + s - axes.slide_pad;
    GradientRange<T> range;
    range.x = x + shift * walk.x_slide;
    range.dy = dy + slide.begin * walk.y_slide;
    range.slide_count = slide.size();
    range.slide_begin = -shift;
    range.slide_end = axes.slide_extent - shift;
    range.outer_count = outer_count;
    T* tap_totals = totals + s * lanes_of<T>();
    with_taps(std::min<std::int64_t>(tap_run, axes.slide_taps - s),
              [&]<int taps_in_run>(std::integral_constant<int, taps_in_run>)
                  HWY_ATTR { gradient_taps<taps_in_run>(d, mask, walk, range, tap_totals); });
  }
}

// Adds to totals (biases first) the gradients of a block of channels over some rows of an image.
template <class D, class M, typename T = hn::TFromD<D>>
void add_block_gradients(D d, M mask, const DepthwiseProblem& problem, const View<const T>& x,
                         const View<const T>& dy, Range rows, T* totals) {
  const DepthwiseAxes axes(problem, lanes_of<T>());
  const Walk walk = walk_of(axes, x, dy);
  auto sum = hn::LoadU(d, totals);
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = 0; j < problem.width; ++j) {
      sum = hn::Add(sum, load_lanes<masks_are_free>(d, mask, dy.at(i, j)));
    }
  }
  hn::StoreU(sum, d, totals);

  const Range columns = {0, problem.width};
  const Range slide = axes.vertical ? rows : columns;
  const Range outer = axes.vertical ? columns : rows;
  for (std::int64_t o = 0; o < axes.outer_taps; ++o) {
    const std::int64_t offset = o - axes.outer_pad;
    const std::int64_t begin = std::max(outer.begin, -offset);
    const std::int64_t end = std::min(outer.end, axes.outer_extent - offset);
    if (begin >= end) continue;
    add_gradients(d, mask, axes, walk, x.origin + (begin + offset) * walk.x_outer,
                  dy.origin + begin * walk.y_outer, slide, end - begin,
                  totals + (1 + o * axes.slide_taps) * lanes_of<T>());
  }
}

// One block of channels.
template <typename T, typename Stored>
void gradient_block(const DepthwiseProblem& problem, const ConstImages& x, const ConstImages& dy,
                    std::int64_t block, Range strips, T* totals) {
  const Tag<T> d;
  constexpr std::int64_t lanes = lanes_of<T>();
  const DepthwiseBlocks blocks(problem, lanes);
  const std::int64_t channel = blocks.first_channel(block);
  if constexpr (std::is_same_v<T, Stored>) {
    if (in_place<T, Stored>(problem)) {
      const auto mask = hn::FirstN(d, static_cast<std::size_t>(blocks.used));
      for_each_strip<T>(problem, strips, [&](std::int64_t image, Range rows) HWY_ATTR {
        add_block_gradients(d, mask, problem, view_of<T>(x, image).from_channel(channel),
                            view_of<T>(dy, image).from_channel(channel), rows, totals);
      });
      return;
    }
  }
  const std::int64_t row_size = problem.width * lanes;
  const std::int64_t strip_rows = gradient_strip_rows<T>(problem);
  const std::int64_t input_size = (strip_rows + problem.kernel_height - 1) * row_size;
  T* input_strip = workspace<T>(input_size + strip_rows * row_size);
  const auto mask = hn::FirstN(d, static_cast<std::size_t>(lanes));
  for_each_strip<T>(problem, strips, [&](std::int64_t image, Range rows) HWY_ATTR {
    const auto gather = [&](const ConstImages& images, Range some_rows, T* strip) HWY_ATTR {
      return gather_rows(view_of<Stored>(images, image).from_channel(channel), problem.width,
                         blocks.used, some_rows, strip);
    };
    const auto input = gather(x, input_rows(problem, rows), input_strip);
    const auto gradient = gather(dy, rows, input_strip + input_size);
    add_block_gradients(d, mask, problem, input, gradient, rows, totals);
  });
}

// One channel. Lanes hold columns, so each tap's total is summed over the lanes at the end.
template <typename T, typename Stored>
void gradient_plane(const DepthwiseProblem& problem, const ConstImages& x, const ConstImages& dy,
                    std::int64_t channel, Range some_strips, T* totals) {
  const Tag<T> d;
  constexpr std::int64_t lanes = lanes_of<T>();
  const DepthwiseAxes axes(problem, lanes);
  const PlaneStrips<T> strips(problem);
  const std::int64_t total_lanes = (1 + problem.taps()) * lanes;
  const std::int64_t size = strips.input_size + strips.output_size + total_lanes;
  T* input_strip = workspace<T>(size);
  T* gradient_strip = input_strip + strips.input_size;
  T* lane_totals = gradient_strip + strips.output_size;
  std::fill_n(input_strip, size, T{0});

  const auto mask = hn::FirstN(d, static_cast<std::size_t>(lanes));
  for_each_strip<T>(problem, some_strips, [&](std::int64_t image, Range rows) HWY_ATTR {
    const auto input =
        pad_rows(view_of<Stored>(x, image).from_channel(channel), problem.width,
                 input_rows(problem, rows), problem.pad_left, strips.input_pitch, input_strip);
    const auto gradient = pad_rows(view_of<Stored>(dy, image).from_channel(channel), problem.width,
                                   rows, 0, strips.output_pitch, gradient_strip);
    auto sum = hn::LoadU(d, lane_totals);
    for (std::int64_t i = 0; i < rows.size() * strips.output_pitch; i += lanes) {
      sum = hn::Add(sum, hn::Load(d, gradient_strip + i));
    }
    hn::StoreU(sum, d, lane_totals);
    Walk walk = walk_of(axes, input, gradient);
    walk.x_outer = walk.y_outer = lanes;
    for (std::int64_t o = 0; o < axes.outer_taps; ++o) {
      add_gradients(d, mask, axes, walk, input.at(0, o), gradient.origin, rows,
                    strips.output_pitch / lanes, lane_totals + (1 + o * axes.slide_taps) * lanes);
    }
  });
  for (std::int64_t tap = 0; tap < 1 + problem.taps(); ++tap) {
    totals[tap] = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, lane_totals + tap * lanes)));
  }
}

// Calls body(Stored()) for the problem's element type.
template <typename T, class Body>
void with_element(const DepthwiseProblem& problem, const Body& body) {
  if constexpr (std::is_same_v<T, double>) {
    body(double());
  } else if (problem.element == Element::f16) {
    body(hwy::float16_t());
  } else if (problem.element == Element::bf16) {
    body(hwy::bfloat16_t());
  } else {
    body(float());
  }
}

template <typename T>
struct Kernels {
  static std::int64_t blocks(const DepthwiseProblem& problem) {
    return DepthwiseBlocks(problem, lanes_of<T>()).count;
  }

  static std::int64_t block_size(const DepthwiseProblem& problem) {
    return DepthwiseBlocks(problem, lanes_of<T>()).size;
  }

  static void pack(const DepthwiseProblem& problem, const void* weights, const void* biases,
                   std::int64_t block_begin, std::int64_t block_end, void* packed) {
    pack_weights<T>(problem, lanes_of<T>(), weights, biases, block_begin, block_end, packed);
  }

  static void unpack(const DepthwiseProblem& problem, const void* packed, void* weights,
                     void* biases) {
    unpack_weights<T>(problem, lanes_of<T>(), packed, weights, biases);
  }

  static void forward(const DepthwiseProblem& problem, const void* packed, const ConstImages& x,
                      const Images& y, const ImagePart& part) {
    const auto* weights = static_cast<const T*>(packed);
    with_element<T>(problem, [&]<typename Stored>(Stored) HWY_ATTR {
      forward_part<T, Stored>(problem, weights, x, y, part);
    });
  }

  static void weight_gradient(const DepthwiseProblem& problem, const ConstImages& x,
                              const ConstImages& dy, std::int64_t block, std::int64_t strip_begin,
                              std::int64_t strip_end, void* packed_block) {
    auto* totals = static_cast<T*>(packed_block);
    std::fill_n(totals, block_size(problem), T{0});
    with_element<T>(problem, [&]<typename Stored>(Stored) HWY_ATTR {
      const Range strips = {strip_begin, strip_end};
      if (lanes_hold_channels(problem, lanes_of<T>())) {
        gradient_block<T, Stored>(problem, x, dy, block, strips, totals);
      } else {
        gradient_plane<T, Stored>(problem, x, dy, block, strips, totals);
      }
    });
  }

  static constexpr DepthwiseKernels table = {
      &blocks, &block_size, &pack, &unpack, &forward, &gradient_strips<T>, &weight_gradient};
};

const DepthwiseKernels f32_kernels = Kernels<float>::table;
const DepthwiseKernels f64_kernels = Kernels<double>::table;

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::convolution
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn::convolution {
namespace {

const KernelTable<const DepthwiseKernels*> f32_table =
    EINKORN_SIMD_VERSIONS(depthwise_reference_f32, f32_kernels);
const KernelTable<const DepthwiseKernels*> f64_table =
    EINKORN_SIMD_VERSIONS(depthwise_reference_f64, f64_kernels);

}  // namespace

const DepthwiseKernels& depthwise_kernels(const DepthwiseProblem& problem) {
  return *(problem.element == Element::f64 ? f64_table : f32_table).pick();
}

std::string depthwise_implementation(const DepthwiseProblem& problem) {
  return to_string((problem.element == Element::f64 ? f64_table : f32_table).level());
}

}  // namespace einkorn::convolution
#endif  // HWY_ONCE
