// Quantisers, importers, files.
#include "einkorn/compute/marlin/quantize.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/file_test_internal.h"
#include "einkorn/core/files/safetensors.h"
#include "einkorn/nn/weights.h"

namespace einkorn::marlin {
namespace {

using testing::HasSubstr;

at::Tensor seeded(std::int64_t rows, std::int64_t columns, std::uint64_t seed = 1) {
  at::manual_seed(seed);
  return at::randn({rows, columns});
}

void expect_same(const QuantizedWeights& a, const QuantizedWeights& b) {
  EXPECT_EQ(a.inputs, b.inputs);
  EXPECT_EQ(a.outputs, b.outputs);
  EXPECT_EQ(a.bits, b.bits);
  EXPECT_EQ(a.group_size, b.group_size);
  for (const auto member :
       {&QuantizedWeights::words, &QuantizedWeights::scales, &QuantizedWeights::zero_points,
        &QuantizedWeights::metadata, &QuantizedWeights::order, &QuantizedWeights::bias}) {
    ASSERT_EQ((a.*member).defined(), (b.*member).defined());
    if (!(a.*member).defined()) continue;
    EXPECT_TRUE((a.*member).equal(b.*member));
  }
}

TEST(MarlinRtn, RelativeErrorOfNormalWeightsIsAsPublished) {
  const double error = relative_error(seeded(1024, 512), quantize_rtn(seeded(1024, 512)));
  EXPECT_GT(error, 0.10);
  EXPECT_LT(error, 0.115);
}

TEST(MarlinRtn, EachWeightGoesToItsNearestCode) {
  const at::Tensor w = seeded(128, 8);
  const QuantizedWeights quantized = quantize_rtn(w);
  const at::Tensor scales = scales_of(quantized).to(at::kDouble);
  // f16(2 max|w| / 15).
  EXPECT_TRUE(
      scales_of(quantized).equal((w.to(at::kDouble).abs().amax(0, true) * 2 / 15).to(at::kHalf)));
  const at::Tensor expected =
      at::clamp(at::round(w.to(at::kDouble) / scales) + 8, 0, 15).to(at::kByte);
  EXPECT_TRUE(codes_of(quantized).equal(expected));
}

TEST(MarlinRtn, ErrorsAreBoundedByHalfAStepForEveryOption) {
  for (const int bits : {4, 8}) {
    for (const std::int64_t group : {32, 64, 128, -1}) {
      for (const bool symmetric : {true, false}) {
        for (const std::int64_t rows : {1, 31, 32, 33, 127, 200}) {
          QuantizeOptions options;
          options.bits = bits;
          options.group_size = group;
          options.symmetric = symmetric;
          const at::Tensor w = seeded(rows, 65) + (symmetric ? 0.0 : 1.0);
          const QuantizedWeights quantized = quantize_rtn(w, options);
          ASSERT_EQ(quantized.zero_points.defined(), !symmetric);
          const at::Tensor step = scales_of(quantized)
                                      .to(at::kDouble)
                                      .repeat_interleave(group == -1 ? rows : group, 0)
                                      .slice(0, 0, rows);
          const at::Tensor error =
              (dequantize(quantized, at::kDouble) - w.to(at::kDouble)).abs() / step;
          // Half a step, and at an end of the range what rounding its scale to f16 moves it, and
          // for symmetric codes the missing positive end.
          EXPECT_LE(error.max().item<double>(), bits == 4 ? 0.52 : 0.72)
              << bits << " " << group << " " << symmetric << " " << rows;
        }
      }
    }
  }
}

TEST(MarlinRtn, ClipSearchNeverRaisesTheError) {
  QuantizeOptions options;
  const at::Tensor w = seeded(256, 64);
  const double plain = relative_error(w, quantize_rtn(w, options));
  options.clip_search = true;
  EXPECT_LT(relative_error(w, quantize_rtn(w, options)), plain);
}

TEST(MarlinRtn, ZeroGroupsHaveScaleOneAndCodeEight) {
  at::Tensor w = seeded(256, 3);
  w.slice(0, 0, 128).zero_();
  const QuantizedWeights quantized = quantize_rtn(w);
  EXPECT_TRUE(scales_of(quantized)[0].eq(1).all().item<bool>());
  EXPECT_TRUE(codes_of(quantized).slice(0, 0, 128).eq(8).all().item<bool>());
  EXPECT_EQ(relative_error(at::zeros({64, 64}), quantize_rtn(at::zeros({64, 64}))), 0);
}

TEST(MarlinRtn, SparseWeightsKeepTwoOfFour) {
  QuantizeOptions options;
  options.sparse_2_4 = true;
  const at::Tensor w = seeded(130, 70);
  const QuantizedWeights quantized = quantize_rtn(w, options);
  EXPECT_TRUE(quantized.is_sparse());
  const at::Tensor dense = dequantize(quantized, at::kFloat);
  EXPECT_TRUE(dense.masked_select(~prune_mask_2_4(w)).eq(0).all().item<bool>());
  EXPECT_LT(((dense - w * prune_mask_2_4(w)).norm() / w.norm()).item<double>(), 0.12);
  // 2 bits of codes, 1 of metadata and 1/8 of scales for each weight of whole blocks.
  const QuantizedWeights whole = quantize_rtn(seeded(256, 128), options);
  EXPECT_EQ(whole.bytes() * 8, 256 * 128 * 3 + 256 * 128 / 8);
}

TEST(MarlinRtn, EmptyMatricesAreQuantised) {
  EXPECT_EQ(quantize_rtn(at::zeros({0, 64})).groups(), 0);
  EXPECT_EQ(codes_of(quantize_rtn(at::zeros({64, 0}))).numel(), 0);
}

TEST(MarlinRtn, BadInputIsRefused) {
  const auto message = [](const at::Tensor& w, QuantizeOptions options = {}) {
    return message_of<InvalidArgument>([&] { quantize_rtn(w, options); });
  };
  at::Tensor w = seeded(32, 4);
  w[3][1] = NAN;
  EXPECT_THAT(message(w), HasSubstr("finite"));
  EXPECT_THAT(message(at::full({32, 4}, 1e6)), HasSubstr("beyond Half"));
  EXPECT_THAT(message(at::zeros({4})), HasSubstr("matrix [K, N]"));
  EXPECT_THAT(message(seeded(8, 8), {.bits = 5}), HasSubstr("expected 4 or 8, got 5"));
  EXPECT_THAT(message(seeded(8, 8), {.group_size = 48}), HasSubstr("32, 64, 128 or -1"));
  EXPECT_THAT(message(seeded(8, 8), {.symmetric = false, .sparse_2_4 = true}),
              HasSubstr("no zero points"));
  EXPECT_NO_THROW(quantize_rtn(at::full({32, 4}, 1e6), {.scale_dtype = at::kBFloat16}));
}

// ---- GPTQ ----

// Features correlated as rho^|i - j|.
at::Tensor correlated(std::int64_t rows, std::int64_t columns, double rho) {
  at::Tensor x = seeded(rows, columns, 3).to(at::kDouble);
  for (std::int64_t k = 1; k < columns; ++k) {
    x.select(1, k).mul_(std::sqrt(1 - rho * rho)).add_(x.select(1, k - 1), rho);
  }
  return x;
}

double output_error(const at::Tensor& x, const at::Tensor& w, const QuantizedWeights& quantized) {
  return x.matmul(w.to(at::kDouble) - dequantize(quantized, at::kDouble)).norm().item<double>();
}

TEST(MarlinGptq, HalvesTheOutputErrorOfCorrelatedInputs) {
  const at::Tensor x = correlated(512, 256, 0.9);
  const at::Tensor w = seeded(256, 64, 4);
  QuantizeOptions options;
  const double rtn = output_error(x, w, quantize_rtn(w, options));
  EXPECT_LE(output_error(x, w, gptq_quantize(w, x, options).weights), 0.5 * rtn);
  options.clip_search = true;
  EXPECT_LE(output_error(x, w, gptq_quantize(w, x, options).weights), 0.5 * rtn);
  options.act_order = true;
  const GptqResult ordered = gptq_quantize(w, x, options);
  EXPECT_TRUE(ordered.weights.order.defined());
  EXPECT_LE(output_error(x, w, ordered.weights), 0.5 * rtn);
}

TEST(MarlinGptq, WithUncorrelatedInputsItIsRoundingToNearest) {
  // H = 2 I: no error can be made up for.
  const at::Tensor w = seeded(128, 16);
  const GptqResult found = gptq_quantize_hessian(w, 2 * at::eye(128, at::kDouble));
  expect_same(found.weights, quantize_rtn(w));
  const at::Tensor error = w.to(at::kDouble) - dequantize(found.weights, at::kDouble);
  // U = I / sqrt(2 * 1.1).
  EXPECT_NEAR(found.loss, error.square().sum().item<double>() * 2.2 / 2, 1e-9 * found.loss);
}

TEST(MarlinGptq, MatchesTheTextbookRecursion) {
  const at::Tensor x = correlated(100, 40, 0.8);
  const at::Tensor w = seeded(40, 5, 6);
  const QuantizeOptions options{.group_size = 32};
  const GptqResult found = gptq_quantize(w, x, options);
  // The recursion by rows, each step with its own inverse of what is left of H.
  at::Tensor h = x.t().matmul(x) * (2.0 / 100);
  h.diagonal().add_(0.1 * h.diagonal().mean());
  at::Tensor rest = w.to(at::kDouble).clone();
  const at::Tensor codes = codes_of(found.weights).to(at::kDouble);
  const at::Tensor scales = scales_of(found.weights).to(at::kDouble);
  for (std::int64_t k = 0; k < 40; ++k) {
    const at::Tensor q = at::clamp(at::round(rest[k] / scales[k / 32]) + 8, 0, 15);
    ASSERT_TRUE(q.equal(codes[k])) << k;
    if (k == 39) break;
    const at::Tensor inverse = at::linalg_inv(h.slice(0, k).slice(1, k));
    const at::Tensor error = (rest[k] - (q - 8) * scales[k / 32]) / inverse[0][0];
    rest.slice(0, k + 1).sub_(at::outer(inverse[0].slice(0, 1), error));
  }
}

TEST(MarlinGptq, IndefiniteHessiansFallBackToRounding) {
  at::Tensor h = at::eye(64, at::kDouble);
  h[0][1] = h[1][0] = 5;
  const at::Tensor w = seeded(64, 8);
  const GptqResult found = gptq_quantize_hessian(w, h);
  EXPECT_FALSE(found.factored);
  expect_same(found.weights, quantize_rtn(w));
}

TEST(MarlinGptq, FewSamplesAndDeadInputsAreHandled) {
  at::Tensor x = seeded(3, 64, 5);
  x.select(1, 7).zero_();
  const GptqResult found = gptq_quantize(seeded(64, 8), x);
  EXPECT_TRUE(found.factored);
  EXPECT_TRUE(std::isfinite(found.loss));
}

TEST(MarlinGptq, PrunedWeightsStayZero) {
  QuantizeOptions options;
  options.sparse_2_4 = true;
  const at::Tensor w = seeded(128, 16);
  const GptqResult found = gptq_quantize(w, correlated(300, 128, 0.7), options);
  const at::Tensor dense = dequantize(found.weights, at::kFloat);
  EXPECT_TRUE(dense.masked_select(~prune_mask_2_4(w)).eq(0).all().item<bool>());
}

TEST(MarlinGptq, BadInputIsRefused) {
  EXPECT_THAT(message_of<InvalidArgument>([] { gptq_quantize(seeded(64, 8), seeded(10, 63)); }),
              HasSubstr("K = 64"));
  EXPECT_THAT(message_of<InvalidArgument>(
                  [] { gptq_quantize_hessian(seeded(64, 8), seeded(64, 63).to(at::kDouble)); }),
              HasSubstr("[64, 64]"));
  EXPECT_THAT(message_of<InvalidArgument>(
                  [] { gptq_quantize(seeded(64, 8), seeded(10, 64), {.damping = 0}); }),
              HasSubstr("damping"));
}

// ---- other formats ----

at::Tensor packed_along(const at::Tensor& codes, std::int64_t dimension, int bits,
                        const std::vector<std::int64_t>& order) {
  const at::Tensor rows = dimension == 0 ? codes.t() : codes;
  const std::int64_t per_word = 32 / bits;
  const at::Tensor grouped = rows.reshape({rows.size(0), -1, per_word}).to(at::kLong);
  at::Tensor words = at::zeros({rows.size(0), grouped.size(1)}, at::kLong);
  for (std::int64_t i = 0; i < per_word; ++i) {
    words += grouped.select(2, order[static_cast<std::size_t>(i)]) * (std::int64_t{1} << bits * i);
  }
  words = at::where(words >= std::int64_t{1} << 31, words - (std::int64_t{1} << 32), words)
              .to(at::kInt);
  return dimension == 0 ? words.t().contiguous() : words;
}

const std::vector<std::int64_t> in_order = {0, 1, 2, 3, 4, 5, 6, 7};
const std::vector<std::int64_t> awq_order = {0, 2, 4, 6, 1, 3, 5, 7};

struct Foreign {
  at::Tensor codes = at::randint(16, {256, 64}, at::kByte);
  at::Tensor zeros = at::randint(1, 16, {2, 64}, at::kByte);
  at::Tensor scales = (at::rand({2, 64}) + 0.5).to(at::kHalf);

  at::Tensor dense() const {
    return (codes.to(at::kDouble) - zeros.to(at::kDouble).repeat_interleave(128, 0)) *
           scales.to(at::kDouble).repeat_interleave(128, 0);
  }
};

TEST(MarlinImport, GptqTensorsKeepTheirWeights) {
  const Foreign foreign;
  const at::Tensor qweight = packed_along(foreign.codes, 0, 4, in_order);
  const at::Tensor minus_one = packed_along(foreign.zeros - 1, 1, 4, in_order);
  const QuantizedWeights w = from_gptq(qweight, minus_one, foreign.scales, std::nullopt);
  EXPECT_EQ(w.group_size, 128);
  EXPECT_TRUE(dequantize(w, at::kDouble).equal(foreign.dense()));
  const at::Tensor plain = packed_along(foreign.zeros, 1, 4, in_order);
  expect_same(from_gptq(qweight, plain, foreign.scales, std::nullopt, 4, 0), w);
}

TEST(MarlinImport, SymmetricGptqTensorsLoseTheirZeroPoints) {
  Foreign foreign;
  foreign.zeros.fill_(8);
  const QuantizedWeights w =
      from_gptq(packed_along(foreign.codes, 0, 4, in_order),
                packed_along(foreign.zeros - 1, 1, 4, in_order), foreign.scales, std::nullopt);
  EXPECT_FALSE(w.zero_points.defined());
  EXPECT_TRUE(dequantize(w, at::kDouble).equal(foreign.dense()));
}

TEST(MarlinImport, GroupsInAnyOrderBecomeActOrder) {
  const Foreign foreign;
  at::manual_seed(9);
  const at::Tensor g_idx = at::randperm(256).floor_divide(128).to(at::kInt);
  const QuantizedWeights w =
      from_gptq(packed_along(foreign.codes, 0, 4, in_order),
                packed_along(foreign.zeros - 1, 1, 4, in_order), foreign.scales, g_idx);
  ASSERT_TRUE(w.order.defined());
  const at::Tensor index = g_idx.to(at::kLong);
  const at::Tensor expected =
      (foreign.codes.to(at::kDouble) - foreign.zeros.to(at::kDouble).index_select(0, index)) *
      foreign.scales.to(at::kDouble).index_select(0, index);
  EXPECT_TRUE(dequantize(w, at::kDouble).equal(expected));
}

TEST(MarlinImport, EightBitGptq) {
  const at::Tensor codes = at::randint(256, {64, 32}, at::kByte);
  const at::Tensor zeros = at::full({1, 32}, 128, at::kByte);
  const at::Tensor scales = (at::rand({1, 32}) + 0.5).to(at::kHalf);
  const QuantizedWeights w =
      from_gptq(packed_along(codes, 0, 8, in_order), packed_along(zeros - 1, 1, 8, in_order),
                scales, std::nullopt, 8);
  EXPECT_EQ(w.group_size, -1);
  EXPECT_FALSE(w.zero_points.defined());
  EXPECT_TRUE(codes_of(w).equal(codes));
}

TEST(MarlinImport, AwqTensorsKeepTheirWeights) {
  const Foreign foreign;
  const QuantizedWeights w = from_awq(packed_along(foreign.codes, 1, 4, awq_order),
                                      packed_along(foreign.zeros, 1, 4, awq_order), foreign.scales);
  EXPECT_TRUE(dequantize(w, at::kDouble).equal(foreign.dense()));
}

TEST(MarlinImport, OfficialTensorsAreTaken) {
  const QuantizedWeights w = quantize_rtn(seeded(256, 128));
  expect_same(from_official(w.words, w.scales), w);
  QuantizeOptions options;
  options.sparse_2_4 = true;
  const QuantizedWeights sparse = quantize_rtn(seeded(256, 128), options);
  expect_same(from_official_2_4(sparse.words, sparse.metadata, sparse.scales), sparse);
}

TEST(MarlinImport, MisshapenTensorsAreRefused) {
  const Foreign foreign;
  const at::Tensor qweight = packed_along(foreign.codes, 0, 4, in_order);
  const at::Tensor qzeros = packed_along(foreign.zeros - 1, 1, 4, in_order);
  const auto message = [&](const auto& call) { return message_of<InvalidArgument>(call); };
  EXPECT_THAT(message([&] { from_gptq(qweight.to(at::kLong), qzeros, foreign.scales, {}); }),
              HasSubstr("qweight: expected an int32 matrix"));
  EXPECT_THAT(message([&] { from_gptq(qweight, qzeros, foreign.scales.slice(1, 0, 8), {}); }),
              HasSubstr("expected 64 columns"));
  EXPECT_THAT(
      message([&] { from_gptq(qweight, qzeros, foreign.scales, at::zeros({256}, at::kInt)); }),
      HasSubstr("g_idx"));
  EXPECT_THAT(message([&] { from_official(at::zeros({4, 100}, at::kInt), foreign.scales); }),
              HasSubstr("multiple of 128 words"));
}

// ---- files ----

TEST(MarlinFile, WeightsComeBackAsTheyWere) {
  const TemporaryFolder folder;
  QuantizedWeights full = gptq_quantize(seeded(100, 70), seeded(50, 100),
                                        {.group_size = 32, .symmetric = false, .act_order = true})
                              .weights;
  full.bias = seeded(1, 70)[0];
  save({folder / "full.safetensors"}, full);
  expect_same(load(folder / "full.safetensors"), full);
  QuantizeOptions sparse;
  sparse.sparse_2_4 = true;
  sparse.bits = 8;
  sparse.scale_dtype = at::kBFloat16;
  const QuantizedWeights pruned = quantize_rtn(seeded(70, 130), sparse);
  save({folder / "sparse.safetensors"}, pruned, "layer.");
  expect_same(load(folder / "sparse.safetensors", "layer."), pruned);
  EXPECT_THAT(message_of([&] { load(folder / "sparse.safetensors"); }),
              HasSubstr("tensor 'B': is missing"));
  EXPECT_THAT(message_of([&] { save({folder / "full.safetensors"}, full); }),
              HasSubstr("full.safetensors"));
}

TEST(MarlinFile, ForeignAndDamagedFilesAreRefusedInOneLine) {
  const TemporaryFolder folder;
  const auto refuse = [&](const nn::NamedTensors& tensors,
                          const std::map<std::string, std::string>& metadata) {
    const std::filesystem::path path = folder / "bad.safetensors";
    nn::write_tensors({path, true}, tensors, metadata);
    const std::string message = message_of([&] { load(path); });
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  };
  const QuantizedWeights w = quantize_rtn(seeded(64, 64));
  const nn::NamedTensors good = {{"B", w.words}, {"s", w.scales}};
  const std::string fields = "version=1 bits=4 group_size=128 inputs=64 outputs=64";
  EXPECT_THAT(refuse(good, {}), HasSubstr("no entry 'einkorn.marlin'"));
  EXPECT_THAT(refuse(good, {{"einkorn.marlin", "version=1 bits=4"}}),
              HasSubstr("has no field group_size"));
  EXPECT_THAT(refuse(good, {{"einkorn.marlin", "version=2 bits=4"}}), HasSubstr("version=1"));
  EXPECT_THAT(refuse({{"B", w.words}}, {{"einkorn.marlin", fields}}),
              HasSubstr("tensor 's': is missing"));
  EXPECT_THAT(refuse({{"B", w.words.slice(1, 0, 64).contiguous()}, {"s", w.scales}},
                     {{"einkorn.marlin", fields}}),
              HasSubstr("words: expected Int [4, 128]"));
  EXPECT_THAT(
      refuse({{"B", w.words}, {"s", w.scales.to(at::kFloat)}}, {{"einkorn.marlin", fields}}),
      HasSubstr("scales: expected float16 or bfloat16"));
  EXPECT_THAT(refuse({{"B", w.words}, {"s", w.scales}, {"order", at::zeros({64}, at::kLong)}},
                     {{"einkorn.marlin", fields}}),
              HasSubstr("permutation"));
  EXPECT_THAT(
      refuse(good, {{"einkorn.marlin",
                     "version=1 bits=4 group_size=128 inputs=64 outputs=9223372036854775807"}}),
      HasSubstr("[0, 2^31)"));
}

TEST(MarlinFile, EveryBeginningOfAFileIsRefused) {
  const TemporaryFolder folder;
  save({folder / "w.safetensors"}, quantize_rtn(seeded(16, 64)));
  const std::vector<std::byte> content = read_content(folder / "w.safetensors");
  for (std::size_t size = 0; size < content.size(); size += 7) {
    const std::filesystem::path path = folder / "cut.safetensors";
    write_content({path, true}, std::span(content).first(size));
    EXPECT_THROW(load(path), BadFile) << size;
  }
}

TEST(MarlinQuantizeProperty, DequantisedCodesQuantiseToThemselves) {
  EXPECT_TRUE(rc::check("from_codes and codes_of are inverse", [] {
    const int bits = *rc::gen::element(4, 8);
    const auto rows = *rc::gen::inRange<std::int64_t>(1, 200);
    const auto columns = *rc::gen::inRange<std::int64_t>(1, 130);
    const auto group = *rc::gen::element<std::int64_t>(32, 64, 128, -1);
    const std::int64_t groups = group == -1 ? 1 : (rows + group - 1) / group;
    const at::Tensor codes = at::randint(1 << bits, {rows, columns}, at::kByte);
    const at::Tensor scales = (at::rand({groups, columns}) + 0.1).to(at::kHalf);
    const QuantizedWeights w = from_codes(codes, scales, bits, group);
    RC_ASSERT(codes_of(w).equal(codes));
    RC_ASSERT(scales_of(w).equal(scales));
  }));
}

}  // namespace
}  // namespace einkorn::marlin
