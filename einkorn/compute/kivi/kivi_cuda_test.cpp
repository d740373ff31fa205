// The device cache against the CPU's; skipped where there is no CUDA device.
#include <gtest/gtest.h>

#include "einkorn/compute/kivi/cache_test_internal.h"
#include "einkorn/core/device.h"

namespace einkorn::kivi {
namespace {

class OnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(Device::cuda)) GTEST_SKIP() << "this machine has no CUDA device";
  }
};

struct Case {
  std::int64_t head_dim;
  int key_bits;
  int value_bits;
  int group;
  std::int64_t residual;
  at::ScalarType type;
  std::int64_t heads_per_kv;
  std::int64_t query_tokens;
};

const Case cases[] = {
    {128, 2, 2, 32, 128, at::kHalf, 1, 1},   {128, 4, 4, 64, 64, at::kHalf, 4, 4},
    {64, 2, 2, 32, 96, at::kBFloat16, 8, 2}, {256, 2, 2, 32, 128, at::kHalf, 2, 1},
    {32, 1, 8, 32, 32, at::kHalf, 3, 1},     {96, 3, 3, 32, 64, at::kBFloat16, 5, 1},
    {192, 8, 4, 64, 128, at::kHalf, 1, 3}};

CacheOptions options_of(const Case& one) {
  CacheOptions options;
  options.batch = 2;
  options.kv_heads = 2;
  options.head_dim = one.head_dim;
  options.key_bits = one.key_bits;
  options.value_bits = one.value_bits;
  options.group = one.group;
  options.residual = one.residual;
  options.type = one.type;
  return options;
}

TEST_F(OnCuda, StoresTheSameBitsAndAttendsAlike) {
  for (const Case& one : cases) {
    SCOPED_TRACE(testing::Message() << "D=" << one.head_dim << " k" << one.key_bits);
    CacheOptions options = options_of(one);
    KiviCache here(options);
    options.device = at::kCUDA;
    KiviCache there(options);
    const auto both = [&](const at::Tensor& k, const at::Tensor& v,
                          const std::vector<std::int64_t>& lengths) {
      here.append(0, k, v, lengths);
      there.append(0, k.cuda(), v.cuda(), lengths);
    };
    both(random_tokens(options, 300), random_tokens(options, 300), {300, 129});
    for (int i = 0; i < 2 * one.residual; ++i) {
      both(random_tokens(options, one.query_tokens), random_tokens(options, one.query_tokens), {});
    }
    for (const std::int64_t b : {0, 1}) {
      const PackedSequence a = here.pack(0, b);
      const PackedSequence c = there.pack(0, b);
      EXPECT_TRUE(a.keys.codes.equal(c.keys.codes) && a.keys.scale.equal(c.keys.scale) &&
                  a.keys.minimum.equal(c.keys.minimum));
      EXPECT_TRUE(a.values.codes.equal(c.values.codes) && a.values.scale.equal(c.values.scale) &&
                  a.values.minimum.equal(c.values.minimum));
      EXPECT_TRUE(a.key_residual.equal(c.key_residual) && a.value_residual.equal(c.value_residual));
    }
    const at::Tensor q =
        at::randn({2, 2 * one.heads_per_kv, one.query_tokens, one.head_dim}).to(one.type);
    // f16 operands: three roundings of 2^-11 each, and that of the output.
    const double bound = one.type == at::kHalf ? 2e-3 : 8e-3;
    const at::Tensor expected = here.attend(0, q.to(at::kFloat)).to(at::kDouble);
    EXPECT_LT(relative_error(there.attend(0, q.cuda()).cpu(), expected), bound);
  }
}

TEST_F(OnCuda, TrimsForksAndLoadsAsTheCpuDoes) {
  CacheOptions options = options_of(cases[0]);
  KiviCache here(options);
  options.device = at::kCUDA;
  KiviCache there(options);
  const at::Tensor k = random_tokens(options, 700);
  const at::Tensor v = random_tokens(options, 700);
  here.prefill(0, k, v);
  there.prefill(0, k.cuda(), v.cuda());
  EXPECT_EQ(here.trim(300), there.trim(300));
  here.fork({1, 0, 1});
  there.fork({1, 0, 1});
  options.batch = 3;
  for (int i = 0; i < 140; ++i) {
    const at::Tensor new_k = random_tokens(options, 1);
    const at::Tensor new_v = random_tokens(options, 1);
    here.append(0, new_k, new_v);
    there.append(0, new_k.cuda(), new_v.cuda());
  }
  const auto a = here.dequantize(0);
  const auto b = there.dequantize(0);
  EXPECT_TRUE(a.first.equal(b.first.cpu()));
  EXPECT_TRUE(a.second.equal(b.second.cpu()));
}

TEST_F(OnCuda, QuantisesWholeTensorsToTheSameBits) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kFloat}) {
    const at::Tensor x = at::randn({3, 5, 128, 384}).to(type);
    for (const int bits : {1, 2, 3, 4, 8}) {
      for (const std::int64_t axis : {-1, -2}) {
        const PackedGroups a = quantize_pack(x, axis, bits, 64);
        const PackedGroups b = quantize_pack(x.cuda(), axis, bits, 64);
        EXPECT_TRUE(a.codes.equal(b.codes.cpu()));
        EXPECT_TRUE(a.scale.equal(b.scale.cpu()) && a.minimum.equal(b.minimum.cpu()));
        EXPECT_TRUE(
            unpack_dequantize(a, axis, bits, 64).equal(unpack_dequantize(b, axis, bits, 64).cpu()));
      }
    }
  }
}

}  // namespace
}  // namespace einkorn::kivi
