#include "einkorn/compute/marlin/format.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "einkorn/core/error.h"

namespace einkorn::marlin {
namespace {

constexpr std::int64_t slab_codes = tile_size * slab_columns;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void require_bits(int bits) {
  require(bits == 4 || bits == 8, "bits: expected 4 or 8, got {}", bits);
}

void require_codes(const at::Tensor& codes, int bits) {
  require_bits(bits);
  require_dense(codes, "codes");
  require(codes.is_cpu() && codes.scalar_type() == at::kByte && codes.dim() == 2,
          "codes: expected a uint8 matrix [K, N] on the cpu");
  require(bits == 8 || codes.numel() == 0 || codes.max().item<int>() < 16,
          "codes: expected codes below 16 for 4 bits, got {}",
          codes.numel() == 0 ? 0 : codes.max().item<int>());
}

// Row of a fragment entry e (0..7) of lane: which k within the tile.
std::int64_t entry_row(std::int64_t lane, std::int64_t entry) {
  return 2 * (lane % 4) + entry % 2 + 8 * (entry / 2 % 2);
}

// The entry at each position of the words of a lane's tile.
std::array<std::int64_t, 8> entry_order(int bits) {
  if (bits == 4) return {0, 2, 4, 6, 1, 3, 5, 7};
  return {0, 2, 1, 3, 4, 6, 5, 7};
}

template <typename Source>
std::array<std::int64_t, 1024> code_order(int bits, Source source) {
  require_bits(bits);
  std::array<std::int64_t, 1024> order = {};
  std::size_t next = 0;
  for (std::int64_t lane = 0; lane < 32; ++lane) {
    for (std::int64_t tile = 0; tile < 4; ++tile) {
      for (const std::int64_t entry : entry_order(bits)) order[next++] = source(lane, tile, entry);
    }
  }
  return order;
}

// Source indices are 16 k + n % 16 + 256 (n / 16).
std::int64_t source_row(std::int64_t source) {
  return source % 256 / 16;
}
std::int64_t source_column(std::int64_t source) {
  return source / 256 * 16 + source % 16;
}

// words[row, ...] of whole slabs, from code(k, n).
template <typename Code>
at::Tensor pack_in_order(std::int64_t rows, std::int64_t columns, int bits,
                         const std::array<std::int64_t, 1024>& order, const Code& code) {
  const std::int64_t tile_rows = rows / tile_size;
  const std::int64_t slabs = columns / slab_columns;
  const std::int64_t codes_per_word = 32 / bits;
  const std::int64_t slab_words = slab_codes / codes_per_word;
  at::Tensor words = at::empty({tile_rows, slabs * slab_words}, at::kInt);
  std::int32_t* data = words.mutable_data_ptr<std::int32_t>();
  at::parallel_for(0, tile_rows * slabs, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t row = unit / slabs * tile_size;
      const std::int64_t column = unit % slabs * slab_columns;
      for (std::int64_t w = 0; w < slab_words; ++w) {
        std::uint32_t word = 0;
        for (std::int64_t p = 0; p < codes_per_word; ++p) {
          const std::int64_t source = order[static_cast<std::size_t>(w * codes_per_word + p)];
          const std::uint32_t q = code(row + source_row(source), column + source_column(source));
          word |= q << (bits * p);
        }
        data[unit * slab_words + w] = static_cast<std::int32_t>(word);
      }
    }
  });
  return words;
}

template <typename Store>
void unpack_in_order(const at::Tensor& words, int bits, const std::array<std::int64_t, 1024>& order,
                     const Store& store) {
  const std::int64_t codes_per_word = 32 / bits;
  const std::int64_t slab_words = slab_codes / codes_per_word;
  const std::int64_t slabs = words.size(1) / slab_words;
  const at::Tensor dense = words.contiguous();
  const std::int32_t* data = dense.const_data_ptr<std::int32_t>();
  const std::uint32_t mask = (1U << bits) - 1;
  at::parallel_for(0, words.size(0) * slabs, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t row = unit / slabs * tile_size;
      const std::int64_t column = unit % slabs * slab_columns;
      for (std::int64_t w = 0; w < slab_words; ++w) {
        const auto word = static_cast<std::uint32_t>(data[unit * slab_words + w]);
        for (std::int64_t p = 0; p < codes_per_word; ++p) {
          const std::int64_t source = order[static_cast<std::size_t>(w * codes_per_word + p)];
          store(row + source_row(source), column + source_column(source),
                static_cast<std::uint8_t>(word >> (bits * p) & mask));
        }
      }
    }
  });
}

void require_words(const at::Tensor& words, int bits, std::int64_t tile_rows,
                   std::int64_t columns) {
  require_bits(bits);
  require_dense(words, "words");
  const std::int64_t width = round_up(columns, slab_columns) * bits / 2;
  require(words.is_cpu() && words.scalar_type() == at::kInt && words.dim() == 2 &&
              words.size(0) == tile_rows && words.size(1) == width,
          "words: expected an int32 matrix [{}, {}] on the cpu", tile_rows, width);
}

template <std::size_t size>
at::Tensor gather_blocks(const at::Tensor& scales, const std::array<std::int64_t, size>& order,
                         bool invert) {
  std::array<std::int64_t, size> index = order;
  if (invert) {
    for (std::size_t i = 0; i < size; ++i) {
      index[static_cast<std::size_t>(order[i])] = static_cast<std::int64_t>(i);
    }
  }
  const at::Tensor places =
      at::tensor(at::IntArrayRef(index.data(), index.size()), at::kLong).to(scales.device());
  return scales.reshape({-1, static_cast<std::int64_t>(size)})
      .index_select(1, places)
      .reshape(scales.sizes());
}

at::Tensor reorder(const at::Tensor& scales, ScaleOrder order, bool invert) {
  switch (order) {
    case ScaleOrder::grouped:
      return gather_blocks(scales, grouped_scale_order(), invert);
    case ScaleOrder::column:
      return gather_blocks(scales, column_scale_order(), invert);
    case ScaleOrder::sparse:
      return gather_blocks(scales, sparse_scale_order(), invert);
    case ScaleOrder::plain:
      break;
  }
  return scales.contiguous();
}

}  // namespace

CodePlace code_place(std::int64_t k, std::int64_t n, int bits) {
  require_bits(bits);
  const std::int64_t kk = k % 16;
  const std::int64_t nn = n % 16;
  const std::int64_t lane = nn % 8 * 4 + kk % 8 / 2;
  const std::int64_t entry = nn / 8 * 4 + kk / 8 * 2 + kk % 2;
  const auto order = entry_order(bits);
  const auto position = std::find(order.begin(), order.end(), entry) - order.begin();
  const std::int64_t in_slab = (lane * 4 + n / 16 % 4) * 8 + position;
  const std::int64_t codes_per_word = 32 / bits;
  return {k / 16, (n / 64 * slab_codes + in_slab) / codes_per_word,
          static_cast<int>(in_slab % codes_per_word) * bits};
}

std::array<std::int64_t, 1024> dense_code_order(int bits) {
  return code_order(bits, [](std::int64_t lane, std::int64_t tile, std::int64_t entry) {
    return 16 * entry_row(lane, entry) + lane / 4 + 8 * (entry / 4) + 256 * tile;
  });
}

std::array<std::int64_t, 1024> sparse_code_order(int bits) {
  return code_order(bits, [](std::int64_t lane, std::int64_t tile, std::int64_t entry) {
    const std::int64_t column = lane / 4;
    return 16 * entry_row(lane, entry) + 256 * (column / 2) + 8 * (column % 2) + 4 * (entry / 4) +
           tile;
  });
}

at::Tensor pack_codes(const at::Tensor& codes, int bits, std::uint8_t padding) {
  require_codes(codes, bits);
  const at::Tensor dense = codes.contiguous();
  const std::uint8_t* data = dense.const_data_ptr<std::uint8_t>();
  const std::int64_t rows = codes.size(0);
  const std::int64_t columns = codes.size(1);
  const auto code = [=](std::int64_t k, std::int64_t n) {
    return k < rows && n < columns ? data[k * columns + n] : padding;
  };
  return pack_in_order(round_up(rows, tile_size), round_up(columns, slab_columns), bits,
                       dense_code_order(bits), code);
}

at::Tensor unpack_codes(const at::Tensor& words, int bits, std::int64_t rows,
                        std::int64_t columns) {
  require_words(words, bits, (rows + tile_size - 1) / tile_size, columns);
  at::Tensor codes = at::empty({rows, columns}, at::kByte);
  std::uint8_t* data = codes.mutable_data_ptr<std::uint8_t>();
  unpack_in_order(words, bits, dense_code_order(bits),
                  [=](std::int64_t k, std::int64_t n, std::uint8_t code) {
                    if (k < rows && n < columns) data[k * columns + n] = code;
                  });
  return codes;
}

std::array<std::int64_t, 64> grouped_scale_order() {
  std::array<std::int64_t, 64> order = {};
  for (std::size_t i = 0; i < 64; ++i) order[i] = static_cast<std::int64_t>(i / 8 + 8 * (i % 8));
  return order;
}

std::array<std::int64_t, 32> column_scale_order() {
  constexpr std::array<std::int64_t, 8> steps = {0, 1, 8, 9, 16, 17, 24, 25};
  std::array<std::int64_t, 32> order = {};
  for (std::size_t i = 0; i < 32; ++i) {
    order[i] = 2 * static_cast<std::int64_t>(i / 8) + steps[i % 8];
  }
  return order;
}

std::array<std::int64_t, 64> sparse_scale_order() {
  constexpr std::array<std::int64_t, 8> steps = {0, 4, 1, 5, 2, 6, 3, 7};
  std::array<std::int64_t, 64> order = {};
  for (std::size_t i = 0; i < 64; ++i) {
    order[i] = 8 * static_cast<std::int64_t>(i / 8) + steps[i % 8];
  }
  return order;
}

at::Tensor permute_scales(const at::Tensor& scales, ScaleOrder order) {
  require_dense(scales, "scales");
  require(scales.dim() == 2, "scales: expected a matrix [groups, N]");
  const std::int64_t missing = round_up(scales.size(1), slab_columns) - scales.size(1);
  return reorder(at::constant_pad_nd(scales, {0, missing}, 0), order, false);
}

at::Tensor unpermute_scales(const at::Tensor& scales, ScaleOrder order, std::int64_t columns) {
  require_dense(scales, "scales");
  require(scales.dim() == 2 && scales.size(1) == round_up(columns, slab_columns),
          "scales: expected a matrix [groups, {}]", round_up(columns, slab_columns));
  return reorder(scales, order, true).slice(1, 0, columns).contiguous();
}

// ---- 2:4 sparsity ----

int quad_encoding(unsigned flags) {
  require(flags < 16, "quad: expected four flags, got {}", flags);
  const bool m0 = flags & 1;
  const bool m1 = flags & 2;
  const bool m3 = flags & 8;
  const int first = (!m0 && m1 ? 1 : 0) | (!m0 && !m1 ? 2 : 0);
  const int second = ((m0 && m1) || (!m0 && !m1) || m3 ? 1 : 0) | ((!m0 && m1) || !m1 ? 2 : 0);
  return first | second << 2;
}

at::Tensor prune_mask_2_4(const at::Tensor& weights) {
  require_dense(weights, "weights");
  require(weights.dim() == 2 && at::isFloatingType(weights.scalar_type()),
          "weights: expected a floating matrix [K, N]");
  const std::int64_t rows = weights.size(0);
  const std::int64_t filled = round_up(rows, 4);
  const at::Tensor quads = at::constant_pad_nd(weights.abs(), {0, 0, 0, filled - rows}, 0)
                               .reshape({filled / 4, 4, weights.size(1)});
  // Rank of each weight in its quad: a stable descending order breaks ties by the row.
  const at::Tensor rank = std::get<1>(quads.sort(true, 1, true)).argsort(true, 1, false);
  return rank.lt(2).reshape({filled, weights.size(1)}).slice(0, 0, rows).contiguous();
}

std::int64_t metadata_place(std::int64_t row, std::int64_t column, std::int64_t rows) {
  std::int64_t to =
      row / 64 * 64 + row % 2 * 2 + row % 8 / 4 + row % 32 % 4 / 2 * 32 + row % 64 / 8 * 4;
  if (to % 2 == 0 && column % 2 == 1) {
    ++to;
    --column;
  } else if (to % 2 == 1 && column % 2 == 0) {
    --to;
    ++column;
  }
  return column / 2 * 2 * rows + to * 2 + column % 2;
}

SparseCodes pack_sparse_codes(const at::Tensor& codes, const at::Tensor& keep, int bits,
                              std::uint8_t padding) {
  require_codes(codes, bits);
  require_dense(keep, "keep");
  require(keep.is_cpu() && keep.scalar_type() == at::kBool && keep.sizes() == codes.sizes(),
          "keep: expected a bool matrix of the shape of the codes");
  const std::int64_t rows = round_up(codes.size(0), 2 * tile_size);
  const std::int64_t columns = round_up(codes.size(1), slab_columns);
  const std::int64_t row_fill = rows - codes.size(0);
  const std::int64_t column_fill = columns - codes.size(1);
  const at::Tensor kept = at::constant_pad_nd(keep, {0, column_fill, 0, row_fill}, 0).contiguous();
  require(kept.numel() == 0 ||
              kept.reshape({rows / 4, 4, columns}).sum(1).max().item<std::int64_t>() <= 2,
          "keep: expected at most two of four successive rows kept");
  const at::Tensor all = at::constant_pad_nd(codes, {0, column_fill, 0, row_fill}, padding)
                             .masked_fill(~kept, padding);
  const bool* flags = kept.const_data_ptr<bool>();
  const std::uint8_t* data = all.const_data_ptr<std::uint8_t>();

  SparseCodes sparse;
  sparse.metadata = at::zeros({columns, rows / tile_size}, at::kShort);
  auto* metadata = sparse.metadata.mutable_data_ptr<std::int16_t>();
  const auto quad = [=](std::int64_t q, std::int64_t n) {
    unsigned present = 0;
    for (std::int64_t i = 0; i < 4; ++i) {
      present |= static_cast<unsigned>(flags[(4 * q + i) * columns + n]) << i;
    }
    return quad_encoding(present);
  };
  at::parallel_for(0, columns, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      for (std::int64_t c = 0; c < rows / tile_size; ++c) {
        unsigned word = 0;
        for (std::int64_t i = 0; i < 4; ++i) {
          word |= static_cast<unsigned>(quad(4 * c + i, n)) << (4 * i);
        }
        metadata[metadata_place(n, c, columns)] = static_cast<std::int16_t>(word);
      }
    }
  });
  const auto code = [=](std::int64_t half, std::int64_t n) {
    const std::int64_t row = half / 2 * 4 + (quad(half / 2, n) >> (half % 2 * 2) & 3);
    return data[row * columns + n];
  };
  sparse.words = pack_in_order(rows / 2, columns, bits, sparse_code_order(bits), code);
  return sparse;
}

at::Tensor unpack_sparse_codes(const SparseCodes& sparse, int bits, std::int64_t rows,
                               std::int64_t columns, std::uint8_t zero_code) {
  const std::int64_t filled_rows = round_up(rows, 2 * tile_size);
  const std::int64_t filled_columns = round_up(columns, slab_columns);
  require_words(sparse.words, bits, filled_rows / (2 * tile_size), columns);
  const at::Tensor& found = sparse.metadata;
  require_dense(found, "metadata");
  require(found.is_cpu() && found.scalar_type() == at::kShort && found.dim() == 2 &&
              found.size(0) == filled_columns && found.size(1) == filled_rows / tile_size,
          "metadata: expected an int16 matrix [{}, {}] on the cpu", filled_columns,
          filled_rows / tile_size);
  const at::Tensor dense = found.contiguous();
  const auto* metadata = dense.const_data_ptr<std::int16_t>();
  at::Tensor codes = at::full({rows, columns}, zero_code, at::kByte);
  std::uint8_t* data = codes.mutable_data_ptr<std::uint8_t>();
  unpack_in_order(sparse.words, bits, sparse_code_order(bits),
                  [=](std::int64_t half, std::int64_t n, std::uint8_t code) {
                    const std::int64_t block = half / 8;
                    const auto word = static_cast<std::uint16_t>(
                        metadata[metadata_place(n, block, filled_columns)]);
                    const std::int64_t k = half / 2 * 4 + (word >> (half % 8 * 2) & 3);
                    if (k < rows && n < columns) data[k * columns + n] = code;
                  });
  return codes;
}

}  // namespace einkorn::marlin
