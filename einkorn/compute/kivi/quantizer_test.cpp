#include "einkorn/compute/kivi/quantizer.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <vector>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/kivi/cache_layout_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::kivi {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<std::uint32_t> words_of(const at::Tensor& codes) {
  const at::Tensor dense = codes.contiguous();
  const auto* data = static_cast<const std::uint32_t*>(dense.const_data_ptr());
  return {data, data + dense.numel()};
}

// x_i = ((7 i + 3) mod 22 - 11) / 8, i = 0 .. 31.
at::Tensor reference_group() {
  const at::Tensor i = at::arange(32, at::kFloat);
  return (at::remainder(7 * i + 3, 22) - 11) / 8;
}

struct Published {
  int bits;
  double scale;
  std::vector<std::uint32_t> words;
  double squared_error;
};

const Published published[] = {
    {2, 0.875, {0xe7924924, 0x24924e79}, 1.96875},
    {4, 0.175, {0x61b61c72, 0xe94fa50b, 0x72d83e94, 0x0b61b61c}, 0.07875},
    {8,
     0.0102941176,
     {0x18ce7924, 0x610cc26d, 0xaa5500b6, 0xf39e49ff, 0x31e7923d, 0x7924db86, 0xc26d18ce,
      0x00b6610c},
     2.7249135e-4},
};

TEST(KiviQuantizer, HasTheReferenceWordsInEveryType) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const Published& expected : published) {
      const at::Tensor x = reference_group().to(type);
      const PackedGroups packed = quantize_pack(x, -1, expected.bits, 32);
      EXPECT_EQ(packed.minimum.item<double>(), -1.375);
      // bf16 rounds a scale of 0.175 by more than the distance to the nearest tie.
      if (type == at::kBFloat16 && expected.bits != 2) continue;
      EXPECT_THAT(words_of(packed.codes), ElementsAreArray(expected.words));
      const double rounding = type == at::kFloat ? 6e-8 : 5e-4;
      EXPECT_NEAR(packed.scale.item<double>(), expected.scale, rounding * expected.scale);
      if (type != at::kFloat) continue;
      const at::Tensor back = unpack_dequantize(packed, -1, expected.bits, 32);
      const double error = (back - x).to(at::kDouble).square().sum().item<double>();
      // Each of 32 numbers is moved by 2e-7 at most: f32 roundings of scale, product and sum.
      EXPECT_NEAR(error, expected.squared_error, 4e-7 * std::sqrt(32 * expected.squared_error));
    }
  }
}

// K[t, d] = ((5 t + 9 d) mod 22 - 11) / 8 (1 + d), t < 32, d < 4.
at::Tensor reference_keys() {
  const at::Tensor t = at::arange(32, at::kFloat).unsqueeze(1);
  const at::Tensor d = at::arange(4, at::kFloat);
  return (at::remainder(5 * t + 9 * d, 22) - 11) / 8 * (1 + d);
}

TEST(KiviQuantizer, HasTheReferenceScores) {
  const at::Tensor keys = reference_keys().view({1, 1, 32, 4});
  const PackedGroups packed = quantize_pack(keys, -2, 2, 32);
  ASSERT_EQ(packed.codes.sizes(), at::IntArrayRef({1, 1, 4, 2}));
  const auto scale = at::tensor({0.875F, 1.75F, 2.625F, 3.5F});
  EXPECT_TRUE(packed.scale.flatten().equal(scale));
  EXPECT_TRUE(packed.minimum.flatten().equal(at::tensor({-1.375F, -2.75F, -4.125F, -5.5F})));
  const std::vector<std::uint32_t> words = words_of(packed.codes);
  EXPECT_EQ(words[0], 0x5e939394U);
  EXPECT_EQ(words[1], 0x39394a4eU);
  EXPECT_EQ(words[6], 0x97a4e4e5U);
  EXPECT_EQ(words[7], 0x4e4e5293U);

  const at::Tensor query = ((at::arange(4, at::kFloat) - 1.5) / 2).view({1, 1, 1, 4});
  const at::Tensor scores = qgemv_outer(query, packed, 2, 32).flatten();
  const float expected[] = {0.71875F, -2.34375F, 0.5F, 4.4375F, -4.53125F, 0.28125F};
  for (int t = 0; t < 6; ++t) EXPECT_EQ(scores[t].item<float>(), expected[t]) << t;
  EXPECT_EQ(scores[31].item<float>(), 0.71875F);
  EXPECT_EQ(scores.sum().item<float>(), -3.46875F);
  EXPECT_EQ(scores.abs().sum().item<float>(), 68.09375F);
  const at::Tensor exact = at::matmul(query, keys.transpose(2, 3)).flatten();
  EXPECT_EQ(exact[0].item<float>(), -0.4375F);
  EXPECT_EQ(exact[1].item<float>(), -0.9375F);
  EXPECT_EQ(exact[2].item<float>(), 0.625F);
}

TEST(KiviQuantizer, ErrsByHalfAStepAtMost) {
  EXPECT_TRUE(rc::check("|x' - x| <= scale / 2 and a second pass changes nothing", [] {
    const int bits = *rc::gen::element(1, 2, 3, 4, 8);
    const int group = *rc::gen::element(32, 64, 128);
    const double magnitude = std::pow(10, *rc::gen::inRange(-3, 4));
    const at::Tensor x = at::randn({3, 2 * group}) * magnitude;
    const PackedGroups packed = quantize_pack(x, -1, bits, group);
    const at::Tensor back = unpack_dequantize(packed, -1, bits, group);
    const at::Tensor half = packed.scale.repeat_interleave(group, -1) / 2;
    // Rounding of the scale itself moves the greatest level.
    RC_ASSERT(((back - x).abs() <= half * (1 + 1e-5) + magnitude * 1e-6).all().item<bool>());
    const PackedGroups again = quantize_pack(back, -1, bits, group);
    RC_ASSERT(again.codes.equal(packed.codes));
  }));
}

TEST(KiviQuantizer, KeepsConstantGroupsAndGuardsSmallScales) {
  const at::Tensor constant = at::full({1, 64}, 0.3F).to(at::kHalf);
  for (const int bits : {1, 2, 3, 4, 8}) {
    const PackedGroups packed = quantize_pack(constant, -1, bits, 64);
    EXPECT_EQ(packed.codes.abs().sum().item<int>(), 0);
    EXPECT_TRUE(unpack_dequantize(packed, -1, bits, 64).equal(constant));
  }
  // A range whose scale is below the smallest f16.
  at::Tensor narrow = at::zeros({32}, at::kHalf);
  narrow[3] = 5.96e-8;
  const PackedGroups packed = quantize_pack(narrow, -1, 8, 32);
  EXPECT_EQ(packed.scale.item<float>(), 0);
  EXPECT_EQ(packed.codes.abs().sum().item<int>(), 0);
}

TEST(KiviQuantizer, SaturatesRangesBeyondTheType) {
  at::Tensor wide = at::zeros({32}, at::kHalf);
  wide[0] = 65504;
  wide[1] = -65504;
  const PackedGroups packed = quantize_pack(wide, -1, 1, 32);
  EXPECT_EQ(packed.scale.item<float>(), 65504);
  at::Tensor huge = at::zeros({32});
  huge[0] = 3.3e38F;
  huge[1] = -3.3e38F;
  EXPECT_TRUE(quantize_pack(huge, -1, 2, 32).scale.isfinite().all().item<bool>());
}

TEST(KiviQuantizer, SpoilsAGroupThatIsNotFinite) {
  for (const double spoilt : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    at::Tensor x = at::randn({96});
    x[40] = spoilt;
    const PackedGroups packed = quantize_pack(x, -1, 2, 32);
    EXPECT_TRUE(packed.scale.isnan().equal(at::tensor({0, 1, 0}).to(at::kBool)));
    EXPECT_TRUE(packed.minimum.isnan().equal(at::tensor({0, 1, 0}).to(at::kBool)));
  }
}

TEST(KiviQuantizer, TakesStridedInputAndBothAxes) {
  const at::Tensor wide = at::randn({2, 64, 3, 130});
  const at::Tensor view = wide.slice(3, 1, 129).transpose(1, 2);  // [2, 3, 64, 128]
  for (const int bits : {1, 2, 3, 4, 8}) {
    const PackedGroups values = quantize_pack(view, -1, bits, 64);
    EXPECT_TRUE(values.codes.equal(quantize_pack(view.contiguous(), -1, bits, 64).codes));
    const PackedGroups keys = quantize_pack(view, -2, bits, 32);
    EXPECT_EQ(keys.codes.sizes(), at::IntArrayRef({2, 3, 128, 64 * bits / 32}));
    const PackedGroups turned = quantize_pack(view.transpose(2, 3), -1, bits, 32);
    EXPECT_TRUE(keys.codes.equal(turned.codes));
    const at::Tensor back = unpack_dequantize(keys, -2, bits, 32);
    EXPECT_EQ(back.sizes(), view.sizes());
    EXPECT_TRUE(back.equal(unpack_dequantize(turned, -1, bits, 32).transpose(2, 3)));
  }
}

TEST(KiviQuantizer, MultipliesAsTheDequantisedMatrixDoes) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    for (const std::int64_t rows : {0, 1, 3, 16}) {
      const at::Tensor matrix = at::randn({2, 2, 33, 96});
      const at::Tensor a = at::randn({2, 2, rows, 33});
      const PackedGroups packed = quantize_pack(matrix, -1, bits, 32);
      const at::Tensor dense = unpack_dequantize(packed, -1, bits, 32).to(at::kDouble);
      const at::Tensor expected = at::matmul(a.to(at::kDouble), dense);
      const at::Tensor found = qgemv_outer(a, packed, bits, 32);
      EXPECT_EQ(found.sizes(), expected.sizes());
      // 33 products of numbers of magnitude 5: 33 roundings each.
      EXPECT_TRUE(found.to(at::kDouble).allclose(expected, 0, 2e-5));
    }
  }
}

TEST(KiviQuantizer, OperatorsHaveMetaKernels) {
  const at::Tensor x = at::randn({2, 3, 64, 128}, at::dtype(at::kHalf)).to(at::kMeta);
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("einkorn::kivi_quantize_pack", "")
                      .typed<std::tuple<at::Tensor, at::Tensor, at::Tensor>(
                          const at::Tensor&, std::int64_t, std::int64_t, std::int64_t)>();
  const auto [codes, scale, minimum] = op.call(x, -2, 3, 32);
  EXPECT_EQ(codes.sizes(), at::IntArrayRef({2, 3, 128, 6}));
  EXPECT_EQ(scale.sizes(), at::IntArrayRef({2, 3, 128, 2}));
  EXPECT_EQ(minimum.scalar_type(), at::kHalf);
}

TEST(KiviQuantizer, RefusesBadInput) {
  const auto refuses = [](const auto& call, const char* words) {
    EXPECT_THAT(call, ThrowsMessage<InvalidArgument>(HasSubstr(words)));
  };
  const at::Tensor x = at::zeros({2, 64});
  refuses([&] { quantize_pack(x, -1, 5, 32); }, "bits: expected 1, 2, 3, 4 or 8, got 5");
  refuses([&] { quantize_pack(x, -1, 2, 16); }, "group: expected 32, 64 or 128, got 16");
  refuses([&] { quantize_pack(x, 0, 2, 32); }, "axis: expected -1 or -2, got 0");
  refuses([&] { quantize_pack(x, -2, 2, 32); }, "expected a multiple of group 32 along axis -2");
  refuses([&] { quantize_pack(x.to(at::kDouble), -1, 2, 32); }, "x: expected float16");
  PackedGroups packed = quantize_pack(x, -1, 2, 32);
  refuses([&] { unpack_dequantize(packed, -1, 2, 128); }, "no whole groups of 128");
  refuses([&] { unpack_dequantize(packed, -1, 4, 32); }, "scale, minimum: expected shape [2, 1]");
  refuses([&] { qgemv_outer(at::zeros({1, 3}), packed, 2, 32); }, "a: expected [..., M, 2]");
  packed.codes = packed.codes.to(at::kLong);
  refuses([&] { unpack_dequantize(packed, -1, 2, 32); }, "codes: expected dtype int32, got Long");
}

// ---- the layout ----

TEST(KiviLayout, GivesEveryCodeBitsOfItsOwn) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    std::vector<std::uint32_t> chunk(static_cast<std::size_t>(bits * lanes));
    for (int row = 0; row < chunk_size; ++row) {
      for (int column = 0; column < chunk_size; ++column) {
        const CodePlace place = code_place(bits, row, column);
        const auto all = static_cast<std::uint32_t>((1 << bits) - 1);
        ASSERT_EQ(get_code(chunk.data(), bits, place), 0U) << bits << " " << row << " " << column;
        put_code(chunk.data(), bits, place, all);
        ASSERT_EQ(get_code(chunk.data(), bits, place), all);
      }
    }
    for (const std::uint32_t word : chunk) ASSERT_EQ(word, 0xFFFFFFFFU);
  }
}

TEST(KiviLayout, RowsArePermutations) {
  std::vector<int> keys;
  std::vector<int> values;
  for (int i = 0; i < 32; ++i) {
    keys.push_back(key_row(i));
    values.push_back(value_row(i));
  }
  std::sort(keys.begin(), keys.end());
  std::sort(values.begin(), values.end());
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(keys[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(values[static_cast<std::size_t>(i)], i);
  }
}

}  // namespace
}  // namespace einkorn::kivi
