// The file format against the published layout: reference values, closed forms, inverses.
#include "einkorn/compute/marlin/format.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <set>
#include <vector>

#include "einkorn/core/error.h"
#include "einkorn/core/files/file_test_internal.h"

namespace einkorn::marlin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// q(k, n) = (3k + 5n + floor(k n / 7)) mod 16.
at::Tensor reference_codes(std::int64_t rows, std::int64_t columns) {
  const at::Tensor k = at::arange(rows, at::kLong).unsqueeze(1);
  const at::Tensor n = at::arange(columns, at::kLong).unsqueeze(0);
  return (3 * k + 5 * n + (k * n).floor_divide(7)).remainder(16).to(at::kByte);
}

std::uint32_t word_at(const at::Tensor& words, std::int64_t row, std::int64_t column) {
  return static_cast<std::uint32_t>(words[row][column].item<std::int32_t>());
}

// CRC-32 as in zlib (polynomial 0xEDB88320).
std::uint32_t crc32_of(const at::Tensor& tensor) {
  const auto* bytes = static_cast<const unsigned char*>(tensor.const_data_ptr());
  std::uint32_t crc = ~0U;
  for (std::size_t i = 0; i < tensor.nbytes(); ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320U : 0U);
  }
  return ~crc;
}

template <typename Array>
std::vector<std::int64_t> first_of(const Array& array, std::size_t count) {
  return {array.begin(), array.begin() + static_cast<std::ptrdiff_t>(count)};
}

template <typename Array>
bool is_permutation(const Array& array) {
  const std::set<std::int64_t> values(array.begin(), array.end());
  return values.size() == array.size() && *values.begin() == 0 &&
         *values.rbegin() == static_cast<std::int64_t>(array.size()) - 1;
}

at::Tensor random_codes(std::int64_t rows, std::int64_t columns, int bits) {
  return at::randint(1 << bits, {rows, columns}, at::kByte);
}

TEST(MarlinFormat, DenseOrderStartsAndEndsAsPublished) {
  const auto order = dense_code_order(4);
  EXPECT_THAT(first_of(order, 16), ElementsAre(0, 128, 8, 136, 16, 144, 24, 152, 256, 384, 264, 392,
                                               272, 400, 280, 408));
  const std::vector<std::int64_t> last(order.end() - 8, order.end());
  EXPECT_THAT(last, ElementsAre(871, 999, 879, 1007, 887, 1015, 895, 1023));
  EXPECT_TRUE(is_permutation(order));
  EXPECT_TRUE(is_permutation(dense_code_order(8)));
}

TEST(MarlinFormat, ScaleOrdersStartAsPublished) {
  EXPECT_THAT(first_of(grouped_scale_order(), 10), ElementsAre(0, 8, 16, 24, 32, 40, 48, 56, 1, 9));
  EXPECT_THAT(first_of(column_scale_order(), 12),
              ElementsAre(0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11));
  EXPECT_TRUE(is_permutation(grouped_scale_order()));
  EXPECT_TRUE(is_permutation(column_scale_order()));
  EXPECT_TRUE(is_permutation(sparse_scale_order()));
}

TEST(MarlinFormat, PackedWordsAreThoseOfTheOfficialPacker) {
  const at::Tensor words = pack_codes(reference_codes(128, 256), 4, 8);
  ASSERT_EQ(words.sizes(), at::IntArrayRef({8, 512}));
  const std::uint32_t expected[] = {0xdcb39880, 0x1ef5b8a0, 0x6047d8c0,
                                    0xb38908e0, 0x541910e6, 0xebaf844a};
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(word_at(words, 0, i), expected[i]) << i;
  EXPECT_EQ(word_at(words, 3, 17), 0x3fafd859U);
  EXPECT_EQ(word_at(words, 7, 511), 0xaf1f37b8U);
  EXPECT_EQ(crc32_of(words), 0x38aca6abU);
}

TEST(MarlinFormat, CodePlaceIsWhereThePackerPuts) {
  for (const int bits : {4, 8}) {
    const at::Tensor codes = random_codes(48, 192, bits);
    const at::Tensor words = pack_codes(codes, bits, 0);
    for (std::int64_t k = 0; k < 48; ++k) {
      for (std::int64_t n = 0; n < 192; ++n) {
        const CodePlace place = code_place(k, n, bits);
        const std::uint32_t code =
            word_at(words, place.row, place.column) >> place.shift & ((1U << bits) - 1);
        ASSERT_EQ(code, codes[k][n].item<std::uint8_t>()) << bits << " " << k << " " << n;
      }
    }
  }
}

TEST(MarlinFormat, UnpackInvertsPackForEveryShape) {
  for (const int bits : {4, 8}) {
    for (const std::int64_t rows : {0, 1, 15, 16, 17, 33, 64, 127}) {
      for (const std::int64_t columns : {0, 1, 7, 63, 64, 65, 130}) {
        const at::Tensor codes = random_codes(rows, columns, bits);
        const at::Tensor words = pack_codes(codes, bits, 8);
        EXPECT_TRUE(unpack_codes(words, bits, rows, columns).equal(codes))
            << bits << " " << rows << " " << columns;
      }
    }
  }
}

TEST(MarlinFormat, StridedCodesPackLikeDenseOnes) {
  const at::Tensor codes = random_codes(64, 80, 4);
  const at::Tensor strided = codes.t().contiguous().t();
  EXPECT_TRUE(pack_codes(strided, 4, 8).equal(pack_codes(codes, 4, 8)));
}

TEST(MarlinFormat, ScalesComeBack) {
  for (const ScaleOrder order :
       {ScaleOrder::grouped, ScaleOrder::column, ScaleOrder::sparse, ScaleOrder::plain}) {
    for (const std::int64_t columns : {0, 1, 63, 64, 100, 128}) {
      const at::Tensor scales = at::randn({3, columns}).to(at::kHalf);
      const at::Tensor stored = permute_scales(scales, order);
      EXPECT_EQ(stored.size(1), (columns + 63) / 64 * 64);
      EXPECT_TRUE(unpermute_scales(stored, order, columns).equal(scales));
    }
  }
  const at::Tensor scales = at::arange(64, at::kFloat).unsqueeze(0);
  EXPECT_EQ(permute_scales(scales, ScaleOrder::grouped)[0][1].item<float>(), 8);
  EXPECT_EQ(permute_scales(scales, ScaleOrder::column)[0][32].item<float>(), 32);
}

TEST(MarlinFormat, BadCodesAreRefused) {
  const auto message = [](const auto& call) { return message_of<InvalidArgument>(call); };
  EXPECT_THAT(message([] { pack_codes(at::full({16, 64}, 16, at::kByte), 4, 8); }),
              HasSubstr("below 16"));
  EXPECT_THAT(message([] { pack_codes(at::zeros({16, 64}, at::kByte), 3, 8); }),
              HasSubstr("expected 4 or 8, got 3"));
  EXPECT_THAT(message([] { pack_codes(at::zeros({16, 64}, at::kInt), 4, 8); }),
              HasSubstr("uint8 matrix"));
  EXPECT_THAT(message([] { unpack_codes(at::zeros({1, 128}, at::kInt), 4, 32, 64); }),
              HasSubstr("int32 matrix [2, 128]"));
  EXPECT_THAT(message([] { quad_encoding(16); }), HasSubstr("four flags"));
}

// ---- 2:4 ----

TEST(MarlinSparseFormat, QuadEncodingsAreTheOfficialOnes) {
  const auto encode = [](const char* flags) {
    unsigned bits = 0;
    for (unsigned i = 0; i < 4; ++i) bits |= static_cast<unsigned>(flags[i] == '1') << i;
    return quad_encoding(bits);
  };
  EXPECT_EQ(encode("1100"), 0x4);
  EXPECT_EQ(encode("1010"), 0x8);
  EXPECT_EQ(encode("1001"), 0xC);
  EXPECT_EQ(encode("0110"), 0x9);
  EXPECT_EQ(encode("0101"), 0xD);
  EXPECT_EQ(encode("0011"), 0xE);
  EXPECT_EQ(encode("1011"), 0xC);
  EXPECT_EQ(encode("0111"), 0xD);
  EXPECT_EQ(encode("1111"), 0x4);
  for (const char* flags : {"0000", "0001", "0010"}) EXPECT_EQ(encode(flags), 0xE) << flags;
  EXPECT_EQ(encode("0100"), 0x9);
  EXPECT_EQ(encode("1000"), 0x8);
}

TEST(MarlinSparseFormat, MetadataPlacesAreTheOfficialOnes) {
  const auto row = [](std::int64_t r, std::int64_t count) {
    std::vector<std::int64_t> places;
    for (std::int64_t c = 0; c < count; ++c) places.push_back(metadata_place(r, c, 64));
    return places;
  };
  EXPECT_THAT(row(0, 8), ElementsAre(0, 2, 128, 130, 256, 258, 384, 386));
  EXPECT_THAT(row(1, 3), ElementsAre(4, 6, 132));
  EXPECT_THAT(row(2, 3), ElementsAre(64, 66, 192));
  EXPECT_THAT(row(4, 3), ElementsAre(1, 3, 129));
  EXPECT_THAT(row(8, 2), ElementsAre(8, 10));
  EXPECT_THAT(row(33, 3), ElementsAre(36, 38, 164));
  for (const std::int64_t rows : {64, 128, 192}) {
    std::set<std::int64_t> places;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < 8; ++c) places.insert(metadata_place(r, c, rows));
    }
    EXPECT_EQ(places.size(), static_cast<std::size_t>(8 * rows));
    EXPECT_EQ(*places.rbegin(), 8 * rows - 1);
  }
}

TEST(MarlinSparseFormat, CodeOrderIsTheOfficialOne) {
  const auto order = sparse_code_order(4);
  EXPECT_THAT(first_of(order, 16),
              ElementsAre(0, 128, 4, 132, 16, 144, 20, 148, 1, 129, 5, 133, 17, 145, 21, 149));
  EXPECT_TRUE(is_permutation(order));
  EXPECT_TRUE(is_permutation(sparse_code_order(8)));
}

TEST(MarlinSparseFormat, PruningKeepsTheTwoLargest) {
  const at::Tensor w =
      at::tensor({1.0, -3.0, 2.0, 0.5, 1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 4.0}).unsqueeze(1);
  const at::Tensor keep = prune_mask_2_4(w).squeeze(1);
  const bool expected[] = {false, true, true, false, true, true, false, false, true, false, true};
  for (std::int64_t i = 0; i < 11; ++i) EXPECT_EQ(keep[i].item<bool>(), expected[i]) << i;
}

TEST(MarlinSparseFormat, UnpackInvertsPackForEveryShape) {
  for (const int bits : {4, 8}) {
    for (const std::int64_t rows : {1, 4, 31, 32, 33, 64, 96}) {
      for (const std::int64_t columns : {1, 63, 64, 65, 128}) {
        const at::Tensor keep = prune_mask_2_4(at::randn({rows, columns}));
        const at::Tensor codes = random_codes(rows, columns, bits).masked_fill(~keep, 8);
        const SparseCodes sparse = pack_sparse_codes(codes, keep, bits, 8);
        EXPECT_EQ(sparse.metadata.size(1), (rows + 31) / 32 * 2);
        EXPECT_TRUE(unpack_sparse_codes(sparse, bits, rows, columns, 8).equal(codes))
            << bits << " " << rows << " " << columns;
      }
    }
  }
}

TEST(MarlinSparseFormat, DenseQuadsAreRefused) {
  EXPECT_THAT(message_of<InvalidArgument>([] {
                pack_sparse_codes(at::zeros({4, 1}, at::kByte), at::ones({4, 1}, at::kBool), 4, 8);
              }),
              HasSubstr("at most two of four"));
}

TEST(MarlinFormatProperty, PackIsABijectionOfWholeSlabs) {
  EXPECT_TRUE(rc::check("unpack(words) packs to the same words", [] {
    const auto tiles = *rc::gen::inRange<std::int64_t>(1, 4);
    const auto slabs = *rc::gen::inRange<std::int64_t>(1, 4);
    const int bits = *rc::gen::element(4, 8);
    const at::Tensor words =
        at::randint(std::numeric_limits<std::int32_t>::min(),
                    std::numeric_limits<std::int32_t>::max(), {tiles, slabs * 32 * bits}, at::kInt);
    const at::Tensor codes = unpack_codes(words, bits, tiles * 16, slabs * 64);
    RC_ASSERT(pack_codes(codes, bits, 0).equal(words));
  }));
}

}  // namespace
}  // namespace einkorn::marlin
