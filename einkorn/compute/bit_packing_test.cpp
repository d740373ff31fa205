#include "einkorn/compute/bit_packing.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstring>
#include <vector>

#include "einkorn/core/error.h"
#include "einkorn/core/isa.h"

namespace einkorn::compute {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// Bit by bit, as the format is defined.
std::vector<std::uint8_t> packed_by_definition(const std::vector<std::uint8_t>& codes, int bits) {
  const auto count = static_cast<std::int64_t>(codes.size());
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(packed_bytes(count, bits)));
  for (std::int64_t i = 0; i < count; ++i) {
    for (int b = 0; b < bits; ++b) {
      const std::int64_t p = i * bits + b;
      const int bit = codes[static_cast<std::size_t>(i)] >> b & 1;
      packed[static_cast<std::size_t>(p / 8)] |= static_cast<std::uint8_t>(bit << p % 8);
    }
  }
  return packed;
}

std::string hex(const std::vector<std::uint8_t>& bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

TEST(BitPacking, HasTheReferenceBytes) {
  const char* expected[] = {"5555",
                            "93939393",
                            "4375c64375c6",
                            "832dc7610ba54fe9",
                            "03357979300b56fd4972",
                            "03d24817179a2b5ceb3f9138",
                            "03444372e1844c2b584df723269d",
                            "03080d12171c21262b30353a3f44494e"};
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    for (int bits = 1; bits <= 8; ++bits) {
      std::vector<std::uint8_t> codes;
      for (int i = 0; i < 16; ++i) codes.push_back((5 * i + 3) % (1 << bits) & 0xFF);
      std::vector<std::uint8_t> packed(static_cast<std::size_t>(packed_bytes(16, bits)));
      pack_bits(bits, 16, codes.data(), packed.data());
      EXPECT_EQ(hex(packed), expected[bits - 1]) << to_string(isa) << ", " << bits << " bits";
    }
  }
}

// Poisoned outputs with a margin: every byte is written, and none beyond.
TEST(BitPacking, PacksAndUnpacksAnyCountAtEveryLevel) {
  constexpr std::uint8_t margin = 0xA5;
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    for (int bits = 1; bits <= 8; ++bits) {
      for (const std::int64_t count :
           {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1001}) {
        std::vector<std::uint8_t> codes;
        for (std::int64_t i = 0; i < count; ++i) {
          codes.push_back(static_cast<std::uint8_t>((i * 167 + i / 7) % (1 << bits)));
        }
        const auto bytes = static_cast<std::size_t>(packed_bytes(count, bits));
        // Misaligned by one byte.
        std::vector<std::uint8_t> packed(bytes + 9, margin);
        pack_bits(bits, count, codes.data(), packed.data() + 1);
        const std::vector<std::uint8_t> inner(packed.begin() + 1,
                                              packed.begin() + 1 + static_cast<long>(bytes));
        EXPECT_EQ(inner, packed_by_definition(codes, bits)) << bits << " bits, " << count;
        EXPECT_EQ(packed[0], margin);
        EXPECT_EQ(packed[bytes + 1], margin);
        // An exact copy, so that a sanitizer sees reads past its end.
        std::vector<std::uint8_t> found(static_cast<std::size_t>(count) + 1, margin);
        unpack_bits(bits, count, inner.data(), found.data());
        EXPECT_EQ(found.back(), margin);
        found.pop_back();
        EXPECT_EQ(found, codes) << bits << " bits, " << count;
      }
    }
  }
}

TEST(BitPacking, DropsHighBits) {
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    const std::vector<std::uint8_t> codes(40, 0xFF);
    std::vector<std::uint8_t> packed(15);
    pack_bits(3, 40, codes.data(), packed.data());
    EXPECT_EQ(packed, std::vector<std::uint8_t>(15, 0xFF));
  }
}

TEST(BitPacking, TensorsRoundTrip) {
  EXPECT_TRUE(rc::check("unpack(pack(x)) = x", [] {
    const int bits = *rc::gen::inRange(1, 9);
    const std::int64_t rows = *rc::gen::inRange(0, 5);
    const std::int64_t count = *rc::gen::inRange(0, 300);
    const at::Tensor wide = at::randint(0, 1 << bits, {rows, 2 * count}, at::kByte);
    const at::Tensor codes = wide.slice(1, 0, 2 * count, 2);
    const at::Tensor packed = pack_bits(codes, bits);
    RC_ASSERT(packed.size(1) == packed_bytes(count, bits));
    RC_ASSERT(unpack_bits(packed, bits, count).equal(codes));
  }));
}

TEST(BitPacking, LongRowsAreTheSameOnAnyNumberOfThreads) {
  const at::Tensor codes = at::randint(0, 8, {3, 200003}, at::kByte);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = pack_bits(codes, 3);
  at::set_num_threads(4);
  const at::Tensor four = pack_bits(codes, 3);
  const at::Tensor back = unpack_bits(four, 3, 200003);
  at::set_num_threads(threads);
  EXPECT_TRUE(one.equal(four));
  EXPECT_TRUE(back.equal(codes));
}

TEST(BitPacking, RefusesBadInput) {
  const at::Tensor codes = at::zeros({2, 8}, at::kByte);
  const auto refuses = [](const auto& call, const char* words) {
    EXPECT_THAT(call, ThrowsMessage<InvalidArgument>(HasSubstr(words)));
  };
  refuses([&] { pack_bits(codes, 0); }, "bits: expected 1 to 8, got 0");
  refuses([&] { pack_bits(codes, 9); }, "bits: expected 1 to 8, got 9");
  refuses([&] { pack_bits(codes.to(at::kInt), 2); }, "codes: expected dtype uint8, got Int");
  refuses([&] { pack_bits(at::zeros({}, at::kByte), 2); },
          "codes: expected at least one dimension");
  refuses([&] { unpack_bits(codes, 3, 30); },
          "packed: expected rows of 12 bytes for 30 codes of 3 bits, got 8");
  refuses([&] { unpack_bits(codes, 2, -1); }, "packed: expected rows of 0 bytes");
}

}  // namespace
}  // namespace einkorn::compute
