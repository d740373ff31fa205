#include "einkorn/compute/tilus/weight_layout.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <zlib.h>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/tilus/number_type.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

at::Tensor reference_codes(int bits) {
  at::Tensor codes = at::empty({32, 32}, at::kByte);
  for (int k = 0; k < 32; ++k) {
    for (int n = 0; n < 32; ++n) {
      codes[k][n] = (3 * k + 5 * n + k * n / 7) % (1 << bits);
    }
  }
  return codes;
}

std::uint32_t crc(const at::Tensor& bytes) {
  return static_cast<std::uint32_t>(
      crc32(0, bytes.const_data_ptr<std::uint8_t>(), static_cast<uInt>(bytes.numel())));
}

TEST(WeightLayout, ReferenceBytes) {
  const struct {
    int bits;
    std::int64_t bytes;
    std::uint64_t first;
    std::uint32_t crc;
    std::uint32_t packed_crc;
  } expected[] = {{1, 128, 0xcacaca2af97909e7, 0xd19f23fa, 0x4a6a36d6},
                  {2, 256, 0xcc506650cc5066a4, 0xa5a5b55e, 0x4b99be89},
                  {3, 384, 0x188e3caa8533a15f, 0x3d3fc7eb, 0xdeb7feeb},
                  {4, 512, 0x30b8c8d9961e4051, 0xb1cf9b5b, 0x84a99e95},
                  {5, 640, 0x6026ecb205cb9177, 0xfd7e30ca, 0x6df1ddb7},
                  {6, 768, 0xc08046e2cc4352a5, 0xb90f7d6e, 0xafd4f35c},
                  {7, 896, 0x80868c92050b1197, 0x0833e119, 0x4d1b28f9},
                  {8, 1024, 0x0003181b282c494d, 0x7f1c5762, 0x66c4b987}};
  for (const auto& one : expected) {
    SCOPED_TRACE(one.bits);
    const at::Tensor packed = compute::pack_bits(reference_codes(one.bits).reshape({-1}), one.bits);
    EXPECT_EQ(crc(packed), one.packed_crc);
    const at::Tensor tiles = change_layout(packed, one.bits, 32, 32);
    ASSERT_EQ(tiles.sizes(), at::IntArrayRef({2, 2, one.bytes / 4}));
    EXPECT_EQ(crc(tiles), one.crc);
    std::uint64_t first = 0;
    for (int i = 0; i < 8; ++i) {
      first = first << 8 | tiles.const_data_ptr<std::uint8_t>()[i];
    }
    EXPECT_EQ(first, one.first);
    EXPECT_TRUE(at::equal(restore_layout(tiles, one.bits), packed));
  }
}

// Byte by byte from the layouts: (o * 32 + t) * inner + i holds byte o * inner + i of thread t.
TEST(WeightLayout, BytesAreThoseOfTheRegisters) {
  EXPECT_TRUE(rc::check([] {
    const int bits = *rc::gen::inRange(1, 9);
    const WeightTile tile{*rc::gen::element<std::int64_t>(16, 32),
                          *rc::gen::element<std::int64_t>(16, 32, 64)};
    const at::Tensor codes = at::randint(0, 1 << bits, {tile.tile_k, 2 * tile.tile_n}, at::kByte);
    const at::Tensor packed = compute::pack_bits(codes.reshape({-1}), bits);
    const at::Tensor tiles = change_layout(packed, bits, tile.tile_k, 2 * tile.tile_n, tile);
    const auto thread = *rc::gen::inRange<std::int64_t>(0, 32);
    const auto place = *rc::gen::inRange<std::int64_t>(0, tile.codes_per_thread());
    std::vector<std::uint8_t> own(static_cast<std::size_t>(tile.bytes_per_thread(bits)));
    const std::int64_t inner = tile.load_bytes(bits);
    for (std::int64_t i = 0; i < tile.bytes_per_thread(bits); ++i) {
      const std::int64_t at = (i / inner * 32 + thread) * inner + i % inner;
      own[static_cast<std::size_t>(i)] = tiles[0][1][at].item<std::uint8_t>();
    }
    const Index index = tile.codes().at(thread, place);
    RC_ASSERT(read_bits(own.data(), place * bits, bits) ==
              codes[index[0]][tile.tile_n + index[1]].item<std::uint8_t>());
    RC_ASSERT(at::equal(restore_layout(tiles, bits, tile), packed));
  }));
}

TEST(WeightLayout, DoesNotDependOnThreads) {
  const at::Tensor packed = at::randint(0, 256, {128 * 64 * 5 / 8}, at::kByte);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = change_layout(packed, 5, 128, 64);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(change_layout(packed, 5, 128, 64), one));
  at::set_num_threads(threads);
}

TEST(WeightLayout, RefusesWhatDoesNotFit) {
  const at::Tensor bytes = at::zeros({96}, at::kByte);
  const auto expect_refusal = [](const auto& call, const char* words) {
    EXPECT_THAT(call, ThrowsMessage<InvalidArgument>(HasSubstr(words)));
  };
  expect_refusal([&] { change_layout(bytes, 1, 16, 8, {16, 8}); }, "no whole bytes");
  expect_refusal([&] { change_layout(bytes, 6, 16, 8, {16, 12}); }, "tile_n: expected a multiple");
  expect_refusal([&] { change_layout(bytes, 6, 16, 8, {8, 8}); }, "tile_k: expected a multiple");
  expect_refusal([&] { change_layout(bytes, 6, 24, 8, {16, 8}); }, "multiples of the tile");
  expect_refusal([&] { change_layout(bytes, 6, 16, 16, {16, 8}); }, "96 bytes, expected 192");
  expect_refusal([&] { change_layout(bytes, 9, 16, 8); }, "1 to 8");
  expect_refusal([&] { change_layout(bytes.to(at::kInt), 6, 16, 8, {16, 8}); }, "expected u8");
  expect_refusal([&] { restore_layout(bytes, 6); }, "tiles: expected");
  EXPECT_EQ(change_layout(at::zeros({0}, at::kByte), 6, 0, 32).sizes(),
            at::IntArrayRef({0, 2, 192}));
}

TEST(WeightLayout, LargerTilesLoadMoreBytesAtOnce) {
  EXPECT_EQ((WeightTile{16, 16}.load_bytes(6)), 2);
  EXPECT_EQ((WeightTile{16, 32}.load_bytes(6)), 4);
  EXPECT_EQ((WeightTile{16, 64}.load_bytes(6)), 8);
  EXPECT_EQ((WeightTile{16, 128}.load_bytes(6)), 16);
  EXPECT_EQ((WeightTile{16, 128}.load_bytes(7)), 8);
}

}  // namespace
}  // namespace einkorn::tilus
