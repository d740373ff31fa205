#include "einkorn/compute/tilus/number_type.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <limits>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::string packed_hex(int bits) {
  std::vector<std::uint8_t> codes;
  for (int i = 0; i < 16; ++i)
    codes.push_back(static_cast<std::uint8_t>((5 * i + 3) % (1 << bits)));
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(compute::packed_bytes(16, bits)));
  compute::pack_bits(bits, 16, codes.data(), bytes.data());
  std::string text;
  for (const std::uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

TEST(NumberType, PackingIsBitContiguous) {
  EXPECT_EQ(packed_hex(1), "5555");
  EXPECT_EQ(packed_hex(2), "93939393");
  EXPECT_EQ(packed_hex(3), "4375c64375c6");
  EXPECT_EQ(packed_hex(4), "832dc7610ba54fe9");
  EXPECT_EQ(packed_hex(5), "03357979300b56fd4972");
  EXPECT_EQ(packed_hex(6), "03d24817179a2b5ceb3f9138");
  EXPECT_EQ(packed_hex(7), "03444372e1844c2b584df723269d");
  EXPECT_EQ(packed_hex(8), "03080d12171c21262b30353a3f44494e");
}

TEST(NumberType, BitsAreReadAsTheyArePacked) {
  EXPECT_TRUE(rc::check([] {
    const int bits = *rc::gen::inRange(1, 33);
    const auto count = *rc::gen::inRange(1, 20);
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>((bits * count + 7) / 8), 0xA5);
    std::vector<std::uint32_t> values;
    for (int i = 0; i < count; ++i) {
      const auto value = *rc::gen::arbitrary<std::uint32_t>();
      values.push_back(bits == 32 ? value : value & ((1u << bits) - 1));
      write_bits(bytes.data(), i * bits, bits, values.back());
    }
    for (int i = 0; i < count; ++i) {
      RC_ASSERT(read_bits(bytes.data(), i * bits, bits) == values[static_cast<std::size_t>(i)]);
    }
    if (bits <= 8) {
      std::vector<std::uint8_t> codes(values.begin(), values.end());
      std::vector<std::uint8_t> packed(bytes.size());
      compute::pack_bits(bits, count, codes.data(), packed.data());
      for (int i = 0; i < count; ++i) {
        RC_ASSERT(read_bits(packed.data(), i * bits, bits) == values[static_cast<std::size_t>(i)]);
      }
    }
  }));
}

std::vector<double> positive_values(const char* name) {
  const NumberType type(name);
  std::vector<double> values;
  for (std::uint32_t code = 0; code < type.code_count() / 2; ++code) {
    values.push_back(type.decode(code));
  }
  return values;
}

TEST(NumberType, ValueTables) {
  using Values = std::vector<double>;
  EXPECT_EQ(positive_values("f3e1m1"), (Values{0, 1, 2, 3}));
  EXPECT_EQ(positive_values("f4e2m1"), (Values{0, .5, 1, 1.5, 2, 3, 4, 6}));
  EXPECT_EQ(positive_values("f4e1m2"), (Values{0, .5, 1, 1.5, 2, 2.5, 3, 3.5}));
  EXPECT_EQ(positive_values("f5e2m2"),
            (Values{0, .25, .5, .75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7}));
  EXPECT_EQ(positive_values("f5e3m1"),
            (Values{0, .125, .25, .375, .5, .75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24}));
}

TEST(NumberType, LargestAndSmallest) {
  const struct {
    const char* name;
    double max;
    double smallest;
  } expected[] = {{"f5e1m3", 3.75, .25},
                  {"f6e3m2", 28, .0625},
                  {"f6e2m3", 7.5, .125},
                  {"f6e4m1", 384, .0078125},
                  {"f7e4m2", 448, .00390625},
                  {"f7e3m3", 30, .03125},
                  {"f7e2m4", 7.75, .0625},
                  {"f8e4m3", 448, 0.001953125},
                  {"f7e5m1", 49152, 0x1p-15},
                  {"f8e5m2", 57344, 0x1p-16},
                  {"f16", 65504, 0x1p-24},
                  {"u3", 7, 1},
                  {"i4", 7, 1},
                  {"u4", 15, 1}};
  for (const auto& one : expected) {
    SCOPED_TRACE(one.name);
    EXPECT_EQ(NumberType(one.name).max_value(), one.max);
    EXPECT_EQ(NumberType(one.name).smallest_positive(), one.smallest);
  }
  EXPECT_EQ(NumberType("i1").min_value(), -1);
  EXPECT_EQ(NumberType("i1").max_value(), 0);
  EXPECT_EQ(NumberType("bf16").max_value(), 0x1.FEp127);
  EXPECT_EQ(NumberType("f32").max_value(), std::numeric_limits<float>::max());
}

TEST(NumberType, EncodesToTheNearestTiesToEven) {
  const struct {
    const char* name;
    std::vector<std::pair<double, std::uint32_t>> pairs;
  } expected[] = {
      {"f4e2m1",
       {{.25, 0},
        {.26, 1},
        {.75, 2},
        {1.25, 2},
        {1.75, 4},
        {2.5, 4},
        {3.5, 6},
        {5, 6},
        {7, 7},
        {-.3, 9},
        {.3, 1}}},
      {"f6e3m2",
       {{.03, 0},
        {.09375, 2},
        {.15625, 2},
        {1.1, 12},
        {1.375, 14},
        {13, 26},
        {30, 31},
        {-27, 63},
        {.2, 3}}},
      {"f3e1m1", {{.5, 0}, {.51, 1}, {1.5, 2}, {2.5, 2}, {-2.49, 6}, {9, 3}}},
      {"f7e4m2", {{.0009, 0}, {.003, 1}, {300, 61}, {449, 63}, {-1e9, 127}, {.0146484375, 4}}},
      {"f7e5m1", {{49152, 61}, {60000, 61}, {1e30, 61}}},
      {"f8e4m3", {{448, 0x7e}, {1e9, 0x7e}, {464, 0x7e}}},
      {"f8e5m2", {{57344, 0x7b}, {1e9, 0x7b}}},
      {"f16", {{65519, 0x7bff}, {65520, 0x7c00}, {0x1p-25, 0}, {0x1.8p-25, 1}}},
      {"u4", {{2.5, 2}, {3.5, 4}, {-3, 0}, {99, 15}}},
      {"i4", {{-8.4, 8}, {7.6, 7}, {-0.5, 0}, {-1.5, 14}}},
      {"i1", {{1, 0}, {-0.6, 1}}}};
  for (const auto& one : expected) {
    for (const auto& [value, code] : one.pairs) {
      EXPECT_EQ(NumberType(one.name).encode(value), code) << one.name << " of " << value;
    }
  }
}

TEST(NumberType, EveryCodeComesBack) {
  std::vector<NumberType> types = small_types();
  for (const char* wide : {"f16", "bf16", "i16", "u16"}) types.emplace_back(wide);
  for (const NumberType& type : types) {
    for (std::uint32_t code = 0; code < type.code_count(); ++code) {
      const double value = type.decode(code);
      const bool has_code = std::abs(value) <= std::max(type.max_value(), -type.min_value());
      if (!has_code && !(type.bits() > 8 && std::isinf(value))) continue;
      ASSERT_EQ(type.encode(value), code) << type.name() << " code " << code;
    }
  }
}

// The definition of rounding: no code is nearer, and a tie goes to the even code.
TEST(NumberType, NoCodeIsNearer) {
  EXPECT_TRUE(rc::check([] {
    const NumberType type = *rc::gen::elementOf(small_types());
    const double value = *rc::gen::inRange(-70000, 70000) * 0x1p-12 * type.max_value() / 16;
    const std::uint32_t code = type.encode(value);
    const double error = std::abs(type.decode(code) - value);
    for (std::uint32_t other = 0; other < type.code_count(); ++other) {
      const double number = type.decode(other);
      // Not NaN, infinities, and the numbers of f7e5m1 past the largest.
      if (!(std::abs(number) <= std::max(type.max_value(), -type.min_value()))) continue;
      const double other_error = std::abs(number - value);
      RC_ASSERT(other_error >= error);
      if (other_error == error && number != type.decode(code)) {
        const bool inside = value > type.min_value() && value < type.max_value();
        RC_ASSERT(!inside || code % 2 == 0);
      }
    }
  }));
}

TEST(NumberType, SpecialValues) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(NumberType("f6e3m2").encode(nan), 31u);
  EXPECT_EQ(NumberType("f6e3m2").encode(std::copysign(nan, -1.0)), 63u);
  EXPECT_EQ(NumberType("f6e3m2").encode(-0.0), 32u);
  EXPECT_EQ(NumberType("f6e3m2").encode(-INFINITY), 63u);
  EXPECT_EQ(NumberType("i6").encode(nan), 0u);
  EXPECT_EQ(NumberType("i6").encode(INFINITY), 31u);
  EXPECT_TRUE(std::isnan(NumberType("f8e4m3").decode(0x7f)));
  EXPECT_TRUE(std::isnan(NumberType("f16").decode(NumberType("f16").encode(nan))));
  EXPECT_EQ(NumberType("f8e5m2").decode(0xfc), -INFINITY);
  EXPECT_EQ(NumberType("f7e5m1").decode(62), 65536);
  EXPECT_EQ(NumberType("f7e5m1").decode(63), 98304);
}

TEST(NumberType, Names) {
  for (const NumberType& type : small_types()) EXPECT_EQ(NumberType(type.name()), type);
  EXPECT_EQ(small_types().size(), 37u);
  EXPECT_EQ(weight_types().size(), 21u);
  EXPECT_EQ(NumberType("f6"), NumberType("f6e3m2"));
  for (const char* bad : {"", "f", "f2", "f9", "u0", "u9", "i33", "f6e3", "f6e3m3", "f6e0m5",
                          "f6m2e3", "x4", "u04", "u4 ", "f64", "F6E3M2", "i-4", "f6e3m2x"}) {
    EXPECT_THAT([&] { NumberType type{std::string(bad)}; },
                ThrowsMessage<InvalidArgument>(HasSubstr(fmt::format("type '{}': expected", bad))));
  }
}

}  // namespace
}  // namespace einkorn::tilus
