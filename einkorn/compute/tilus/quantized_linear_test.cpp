#include "einkorn/compute/tilus/quantized_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <filesystem>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/safetensors.h"
#include "einkorn/core/isa.h"

namespace einkorn::tilus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// Any codes at all, but those of NaN and infinities.
QuantizedWeights random_weights(const NumberType& type, std::int64_t rows, std::int64_t columns,
                                std::int64_t group) {
  QuantizedWeights weights;
  weights.type = type;
  weights.rows = rows;
  weights.columns = columns;
  weights.group = group;
  at::Tensor codes = at::randint(0, type.code_count(), {rows * columns}, at::kByte);
  if (type.bits() == 8 && type.is_float()) {
    auto* data = codes.data_ptr<std::uint8_t>();
    for (std::int64_t i = 0; i < codes.numel(); ++i) {
      if (!std::isfinite(type.decode(data[i]))) data[i] = 0x3C;
    }
  }
  weights.packed = compute::pack_bits(codes, type.bits());
  weights.scales = (at::rand({rows / group, columns}) + 0.5).to(at::kHalf);
  if (type.kind() == NumberKind::unsigned_integer) {
    weights.offsets = -type.max_value() / 2 * weights.scales;
  }
  return weights;
}

double relative(const at::Tensor& found, const at::Tensor& expected) {
  return ((found.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

at::Tensor reference(const at::Tensor& x, const QuantizedWeights& weights) {
  return at::matmul(x.to(at::kDouble), dequantize(weights).to(at::kDouble));
}

// The largest error against what the terms of its sum add up to in magnitude, which rounding is
// relative to: single outputs may cancel to nearly nothing.
double backward_error(const at::Tensor& found, const at::Tensor& x,
                      const QuantizedWeights& weights) {
  const at::Tensor magnitude =
      at::matmul(x.to(at::kDouble).abs(), dequantize(weights).to(at::kDouble).abs());
  const at::Tensor error = (found.to(at::kDouble) - reference(x, weights)).abs();
  return (error / magnitude).max().item<double>();
}

TEST(QuantizedWeights, DequantizesByDefinition) {
  for (const NumberType& type : small_types()) {
    const QuantizedWeights weights = random_weights(type, 6, 5, 3);
    const at::Tensor dense = dequantize(weights);
    const at::Tensor codes = compute::unpack_bits(weights.packed, type.bits(), 30);
    for (int k = 0; k < 6; ++k) {
      for (int n = 0; n < 5; ++n) {
        const auto scale = weights.scales[k / 3][n].item<float>();
        const float offset = weights.has_offsets() ? weights.offsets[k / 3][n].item<float>() : 0.0f;
        const auto number = static_cast<float>(type.decode(codes[k * 5 + n].item<std::uint8_t>()));
        ASSERT_FLOAT_EQ(dense[k][n].item<float>(), number * scale + offset) << type.name();
      }
    }
  }
}

// Expected relative Frobenius errors for N(0, 1), groups of 128 (the paper's companion figures).
TEST(QuantizedWeights, ErrorsOfNormalWeights) {
  const std::pair<const char*, double> expected[] = {
      {"i2", .769},      {"i3", .275},      {"i4", .118},      {"i5", .0550},     {"i6", .0266},
      {"i7", .0131},     {"i8", .0065},     {"f3e1m1", .275},  {"f4e2m1", .109},  {"f4e1m2", .118},
      {"f5e3m1", .102},  {"f5e2m2", .0535}, {"f5e1m3", .0550}, {"f6e3m2", .0512}, {"f6e2m3", .0265},
      {"f6e4m1", .102},  {"f7e4m2", .0512}, {"f7e3m3", .0255}, {"f7e2m4", .0131}, {"f8e4m3", .0258},
      {"f8e5m2", .0512}, {"u2", .50},       {"u3", .215},      {"u4", .100},      {"u5", .0484},
      {"u6", .0238},     {"u7", .0118},     {"u8", .0059}};
  at::manual_seed(3);
  const at::Tensor weight = at::randn({512, 512});
  for (const auto& [name, error] : expected) {
    const QuantizedWeights weights = quantize(weight, {.type = NumberType(name)});
    // The figures have two or three digits and vary by 2 % with the seed.
    EXPECT_NEAR(relative_error(weights, weight), error, 0.025 * error) << name;
  }
  // Two clusters at mean -+ mean |w|: sqrt(1 - 2/pi) of a normal variable is left.
  const QuantizedWeights one_bit = quantize(weight, {.type = NumberType("u1")});
  EXPECT_NEAR(relative_error(one_bit, weight), std::sqrt(1 - 2 / M_PI), 0.01);
}

TEST(QuantizedWeights, NumbersOfTheTypeAreKept) {
  EXPECT_TRUE(rc::check([] {
    const NumberType type = *rc::gen::elementOf(small_types());
    if (type.name() == "u1" || type.name() == "i1") return;
    const QuantizedWeights weights = random_weights(type, 32, 4, 32);
    at::Tensor weight = dequantize(weights).t().contiguous();
    if (type.kind() != NumberKind::unsigned_integer) {
      // A group's largest magnitude decides its scale; let it be the type's largest number.
      weight.select(1, 0).copy_(weights.scales[0].to(at::kFloat) * type.max_value());
      weight =
          at::minimum(weight, weights.scales[0].to(at::kFloat).unsqueeze(1) * type.max_value());
      weight =
          at::maximum(weight, -weights.scales[0].to(at::kFloat).unsqueeze(1) * type.max_value());
    } else {
      weight.select(1, 0).copy_(weights.offsets[0].to(at::kFloat));
      weight.select(1, 1).copy_(weights.offsets[0].to(at::kFloat) +
                                weights.scales[0].to(at::kFloat) * type.max_value());
    }
    const QuantizedWeights again =
        quantize(weight, {.type = type, .group = 32, .scale_type = at::kFloat});
    RC_ASSERT(relative_error(again, weight) < 1e-3);
  }));
}

TEST(QuantizedWeights, FilesComeBack) {
  const auto path = std::filesystem::temp_directory_path() /
                    fmt::format("einkorn_tilus_{}.safetensors", ::getpid());
  for (const char* name : {"u3", "f6e3m2", "i5"}) {
    const QuantizedWeights weights = quantize(at::randn({24, 64}), {NumberType(name), 32});
    write_weights({path, true}, weights);
    const QuantizedWeights read = read_weights(path);
    EXPECT_EQ(read.type, weights.type);
    EXPECT_EQ(read.group, 32);
    EXPECT_TRUE(at::equal(dequantize(read), dequantize(weights)));
  }
  SafetensorsFile file = read_safetensors(path);
  const auto expect_bad = [&](const char* key, const char* value, const char* words) {
    SafetensorsFile broken = file;
    broken.metadata[key] = value;
    write_safetensors({path, true}, broken);
    EXPECT_THAT([&] { read_weights(path); }, ThrowsMessage<BadFile>(HasSubstr(words)));
  };
  expect_bad("format", "other", "expected the format einkorn.tilus");
  expect_bad("type", "i9", "type 'i9'");
  expect_bad("rows", "-64", "from 0 to 2^29");
  expect_bad("rows", "4096", "packed: expected u8");
  expect_bad("group", "7", "groups that divide the rows");
  file.tensors.erase("scales");
  write_safetensors({path, true}, file);
  EXPECT_THAT([&] { read_weights(path); }, ThrowsMessage<BadFile>(HasSubstr("no tensor 'scales'")));
  std::filesystem::remove(path);
}

TEST(QuantizedWeights, RefusesBadInput) {
  const auto expect_refusal = [](const auto& call, const char* words) {
    EXPECT_THAT(call, ThrowsMessage<InvalidArgument>(HasSubstr(words)));
  };
  const NumberType i4("i4");
  expect_refusal([&] { quantize(at::randn({4, 100}), {i4}); },
                 "group: 128 does not divide the 100");
  expect_refusal([&] { quantize(at::randn({4, 128}), {i4, -1}); }, "group: expected at least 0");
  expect_refusal([&] { quantize(at::randn({128}), {i4}); }, "floating-point matrix");
  expect_refusal([&] { quantize(at::full({2, 128}, NAN), {i4}); }, "finite");
  expect_refusal([&] { quantize(at::randn({2, 128}), {NumberType("f16")}); }, "more than 8 bits");
  expect_refusal([&] { quantize(at::randn({2, 128}), {i4, 128, at::kDouble}); }, "scale_type");
  QuantizedWeights weights = random_weights(NumberType("f8e4m3"), 32, 2, 32);
  weights.packed[5] = 0x7f;
  expect_refusal([&] { prepare(weights); }, "code 0x7f at 5 is not a finite f8e4m3");
  weights = random_weights(i4, 32, 2, 32);
  weights.scales = weights.scales.to(at::kDouble);
  expect_refusal([&] { prepare(weights); }, "scales: expected f16");
}

class AtEveryIsa : public testing::TestWithParam<Isa> {};

INSTANTIATE_TEST_SUITE_P(Levels, AtEveryIsa, testing::ValuesIn(supported_isas()),
                         [](const auto& level) { return to_string(level.param); });

TEST_P(AtEveryIsa, EveryTypeIsTheDequantisedProduct) {
  const ScopedIsa isa(GetParam());
  for (const NumberType& type : small_types()) {
    SCOPED_TRACE(type.name());
    const QuantizedWeights weights = random_weights(type, 64, 40, 32);
    const QuantizedLinear layer(weights);
    EXPECT_TRUE(at::equal(dequantize(layer.weights()), dequantize(weights)));
    for (const std::int64_t m : {1, 3, 9}) {
      const at::Tensor x = at::randn({m, 64});
      EXPECT_LE(relative(layer.forward(x), reference(x, weights)), 1e-6) << m;
    }
  }
}

TEST_P(AtEveryIsa, AwkwardSizes) {
  const ScopedIsa isa(GetParam());
  const NumberType type("f5e2m2");
  for (const std::int64_t group : {1, 7, 16, 31, 32, 33, 64, 65}) {
    for (const std::int64_t columns : {1, 7, 8, 15, 16, 17, 31, 33, 65}) {
      const QuantizedWeights weights = random_weights(type, 3 * group, columns, group);
      const QuantizedLinear layer(weights);
      for (const std::int64_t m : {1, 2, 4, 5, 8, 15, 17}) {
        const at::Tensor x = at::randn({m, 3 * group});
        ASSERT_LE(backward_error(layer.forward(x), x, weights), 1e-6)
            << group << " " << columns << " " << m;
      }
    }
  }
}

TEST(QuantizedLinear, ManyRowsTakeTheDenseProduct) {
  for (const char* name : {"u3", "i7", "f6e3m2"}) {
    const QuantizedWeights weights = random_weights(NumberType(name), 96, 530, 48);
    const QuantizedLinear layer(weights);
    for (const std::int64_t m : {63, 64, 65, 200}) {
      const at::Tensor x = at::randn({m, 96});
      EXPECT_LE(relative(layer.forward(x), reference(x, weights)), 1e-6) << name << " " << m;
    }
  }
}

TEST(QuantizedLinear, ShapesDtypesAndStrides) {
  const QuantizedWeights weights = random_weights(NumberType("i4"), 64, 24, 32);
  const QuantizedLinear layer(weights);
  EXPECT_EQ(layer.in_features(), 64);
  EXPECT_EQ(layer.out_features(), 24);
  const at::Tensor x = at::randn({2, 3, 64});
  EXPECT_EQ(layer.forward(x).sizes(), at::IntArrayRef({2, 3, 24}));
  EXPECT_EQ(layer.forward(x[0][0]).sizes(), at::IntArrayRef({24}));
  EXPECT_EQ(layer.forward(at::empty({0, 64})).sizes(), at::IntArrayRef({0, 24}));
  const at::Tensor strided = at::randn({64, 5}).t();
  EXPECT_TRUE(at::equal(layer.forward(strided), layer.forward(strided.contiguous())));
  const at::Tensor misaligned = at::randn({1 + 5 * 64}).narrow(0, 1, 5 * 64).reshape({5, 64});
  EXPECT_LE(relative(layer.forward(misaligned), reference(misaligned, weights)), 1e-6);
  for (const auto type : {at::kHalf, at::kBFloat16}) {
    const at::Tensor rounded = x.to(type);
    const at::Tensor out = layer.forward(rounded);
    EXPECT_EQ(out.scalar_type(), type);
    EXPECT_LE(relative(out, reference(rounded, weights)), type == at::kHalf ? 5e-4 : 4e-3);
  }
}

TEST(QuantizedLinear, DoesNotDependOnThreads) {
  const QuantizedLinear layer(random_weights(NumberType("u5"), 128, 200, 64));
  const at::Tensor x = at::randn({5, 128});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = layer.forward(x);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(layer.forward(x), one));
  at::set_num_threads(threads);
}

TEST(QuantizedLinear, NotANumberGoesWhereItGoesInADenseProduct) {
  const QuantizedLinear layer(random_weights(NumberType("i6"), 64, 20, 32));
  at::Tensor x = at::randn({3, 64});
  x[1][40] = NAN;
  const at::Tensor out = layer.forward(x);
  EXPECT_TRUE(out[1].isnan().all().item<bool>());
  EXPECT_FALSE(out[0].isnan().any().item<bool>());
  EXPECT_FALSE(out[2].isnan().any().item<bool>());
}

TEST(QuantizedLinear, GradientInX) {
  const QuantizedWeights weights = random_weights(NumberType("f6e3m2"), 32, 12, 16);
  const QuantizedLinear layer(weights);
  const at::Tensor x = at::randn({3, 32}).requires_grad_();
  const at::Tensor direction = at::randn({3, 12});
  (layer.forward(x) * direction).sum().backward();
  const at::Tensor expected =
      at::matmul(direction.to(at::kDouble), dequantize(weights).to(at::kDouble).t());
  EXPECT_LE(relative(x.grad(), expected), 1e-6);
}

TEST(QuantizedLinear, RefusesBadInput) {
  const QuantizedLinear layer(random_weights(NumberType("i4"), 64, 24, 32));
  const auto expect_refusal = [](const auto& call, const char* words) {
    EXPECT_THAT(call, ThrowsMessage<InvalidArgument>(HasSubstr(words)));
  };
  expect_refusal([&] { layer.forward(at::randn({2, 63})); }, "a last dimension of 64, got 63");
  expect_refusal([&] { layer.forward(at::randn({2, 64}, at::kDouble)); }, "f32, f16 or bf16");
  expect_refusal([&] { layer.forward(at::randn({})); }, "a last dimension of 64");
  expect_refusal([&] { layer.forward(at::Tensor()); }, "x");
}

}  // namespace
}  // namespace einkorn::tilus
