// How a quantised cache lies in memory. Shared by the kernels of both devices; no tensors.
//
// A page holds 128 tokens of one sequence in one layer: one block for each kv head. A block is made
// for tensor cores: its codes are cut into chunks of 32 rows x 32 columns, where columns are what a
// product sums over (channels of a key, tokens of a value) and rows are what remains (tokens of a
// key, channels of a value). Lane 4 r + i of a warp holds, of rows r + 8 q (q < 4) and columns
// 8 i + 4 s + 2 pair + half, a word of which one AND yields two codes as (subnormal) f16 numbers:
// byte 2 half + pair. CPU kernels take four lanes (i) as a 128-bit block.
#pragma once

#include <cstdint>

namespace einkorn::kivi {

enum class Element { f16, bf16, f32 };

constexpr int element_bytes(Element element) {
  return element == Element::f32 ? 4 : 2;
}

constexpr int tile_tokens = 32;  // one chunk of rows (keys) or columns (values)
constexpr int page_tokens = 128;
constexpr int tiles_per_page = page_tokens / tile_tokens;
constexpr int chunk_size = 32;
constexpr int lanes = 32;

// What all pages of a cache have in common.
struct Geometry {
  int kv_heads = 1;
  int head_dim = 128;  // D, a multiple of group
  int key_bits = 2;
  int value_bits = 2;
  int group = 32;      // G: 32, 64 or 128
  int residual = 128;  // R, a multiple of group
  Element element = Element::f16;
};

// Byte offsets in a block, and its size.
//   key codes    u32 [4 tiles][D/32][key_bits][32 lanes]
//   key scale    [128/G][D], then key minimum likewise
//   value codes  u32 [4 tiles][D/32][value_bits][32 lanes]
//   value scale  [4 tiles][D/G][32 tokens], then value minimum likewise
struct BlockLayout {
  std::int64_t key_codes = 0;
  std::int64_t key_scale = 0;
  std::int64_t key_minimum = 0;
  std::int64_t value_codes = 0;
  std::int64_t value_scale = 0;
  std::int64_t value_minimum = 0;
  std::int64_t bytes = 0;
};

constexpr BlockLayout block_layout(const Geometry& g) {
  const std::int64_t numbers =
      std::int64_t{page_tokens} * g.head_dim / g.group * element_bytes(g.element);
  BlockLayout layout;
  layout.key_scale = std::int64_t{page_tokens} * g.head_dim * g.key_bits / 8;
  layout.key_minimum = layout.key_scale + numbers;
  layout.value_codes = layout.key_minimum + numbers;
  layout.value_scale =
      layout.value_codes + std::int64_t{page_tokens} * g.head_dim * g.value_bits / 8;
  layout.value_minimum = layout.value_scale + numbers;
  layout.bytes = layout.value_minimum + numbers;
  return layout;
}

// The residual of one sequence in one layer: [kv heads][R keys, then R + 1 values][D]. Token t lies
// in row t % R of the keys and row t % (R + 1) of the values; a step reads its oldest value once
// more before that is quantised, hence the one row more.
constexpr std::int64_t ring_rows(const Geometry& g) {
  return 2 * std::int64_t{g.residual} + 1;
}
constexpr std::int64_t ring_bytes(const Geometry& g) {
  return g.kv_heads * ring_rows(g) * g.head_dim * element_bytes(g.element);
}

// A row of a chunk as 8 q + r: keys by token, so that a transposed 8x8 tile of scores has the
// tokens 8 i + 2 q and the next in lane i; values by channel 4 r + q.
constexpr int key_row(int token) {
  return token % 8 / 2 * 8 + token / 8 * 2 + token % 2;
}
constexpr int value_row(int channel) {
  return channel % 4 * 8 + channel / 4;
}

// Where a code lies in its chunk: low_bits bits in one word, and for 3 bits a third in another.
struct CodePlace {
  int word = 0;
  int shift = 0;
  int high_word = 0;
  int high_shift = 0;
};

constexpr CodePlace code_place(int bits, int row, int column) {
  const int r = row % 8;
  const int q = row / 8;
  const int lane = 4 * r + column / 8;
  const int s = column % 8 / 4;
  const int byte = column % 2 * 2 + column % 4 / 2;
  CodePlace place;
  if (bits == 3) {  // two bits as below, the third in a plane of its own
    place.word = s * lanes + lane;
    place.shift = 8 * byte + 2 * q;
    place.high_word = 2 * lanes + lane;
    place.high_shift = 8 * byte + 2 * q + s;
    return place;
  }
  const int codes_per_byte = 8 / bits;
  const int u = 4 * s + q;
  place.word = u / codes_per_byte * lanes + lane;
  place.shift = 8 * byte + u % codes_per_byte * bits;
  return place;
}

constexpr std::uint32_t get_code(const std::uint32_t* chunk, int bits, const CodePlace& place) {
  if (bits == 3) {
    return (chunk[place.word] >> place.shift & 3) | (chunk[place.high_word] >> place.high_shift & 1)
                                                        << 2;
  }
  return chunk[place.word] >> place.shift & ((1U << bits) - 1);
}

// Sets a code whatever was there before.
constexpr void put_code(std::uint32_t* chunk, int bits, const CodePlace& place,
                        std::uint32_t code) {
  const std::uint32_t mask = bits == 3 ? 3 : (1U << bits) - 1;
  chunk[place.word] = (chunk[place.word] & ~(mask << place.shift)) | (code & mask) << place.shift;
  if (bits != 3) return;
  chunk[place.high_word] =
      (chunk[place.high_word] & ~(1U << place.high_shift)) | (code >> 2 & 1) << place.high_shift;
}

// Words of a tile (32 tokens, all channels) before chunk number `chunk` of it.
constexpr std::int64_t chunk_offset(const Geometry& g, int bits, int tile, int chunk) {
  return (std::int64_t{tile} * (g.head_dim / chunk_size) + chunk) * bits * lanes;
}

// Counters of one sequence in one layer: values_quantized <= keys_quantized <= length,
// length - keys_quantized <= R, length - values_quantized <= R + 1.
struct SequenceState {
  std::int32_t length = 0;
  std::int32_t keys_quantized = 0;
  std::int32_t values_quantized = 0;
  std::int32_t ticket = 0;  // for blocks of a device kernel that wait for each other
};

// The counters once `tokens` more have come: the flushes of steps before the last are done, and if
// settled those of the last too.
constexpr SequenceState state_after(const SequenceState& state, int residual, std::int64_t tokens,
                                    bool settled) {
  SequenceState next = state;
  next.length = static_cast<std::int32_t>(state.length + tokens);
  const std::int32_t counted = settled ? next.length : next.length - 1;
  const std::int32_t keys = counted < 0 ? 0 : counted / residual * residual;
  const std::int32_t values = counted < residual ? 0 : counted - residual;
  next.keys_quantized = keys > state.keys_quantized ? keys : state.keys_quantized;
  next.values_quantized = values > state.values_quantized ? values : state.values_quantized;
  return next;
}

}  // namespace einkorn::kivi
