#include "einkorn/compute/kivi/kivi.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "einkorn/compute/kivi/cache_test_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/isa.h"

namespace einkorn::kivi {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

CacheOptions small_cache() {
  CacheOptions options;
  options.batch = 2;
  options.kv_heads = 2;
  options.head_dim = 64;
  options.residual = 64;
  options.type = at::kFloat;
  return options;
}

void fill(KiviCache& cache, std::int64_t layer, std::int64_t tokens) {
  cache.prefill(layer, random_tokens(cache.options(), tokens),
                random_tokens(cache.options(), tokens));
}

void step(KiviCache& cache, std::int64_t layer, History* history = nullptr,
          std::int64_t tokens = 1) {
  const at::Tensor k = random_tokens(cache.options(), tokens);
  const at::Tensor v = random_tokens(cache.options(), tokens);
  cache.append(layer, k, v);
  if (history) history->add(k, v);
}

// ---- counters ----

std::vector<std::int64_t> counts(const KiviCache& cache) {
  const CacheState s = cache.state(0, 0);
  return {s.length, s.keys_quantized, s.keys_residual, s.values_quantized, s.values_residual};
}

using Counts = std::vector<std::int64_t>;

struct Row {
  std::int64_t residual;
  std::int64_t prefill;
  Counts filled;
  std::int64_t steps;
  Counts stepped;
};

const Row published_states[] = {
    {128, 160, {160, 128, 32, 32, 128}, 1, {161, 128, 33, 33, 128}},
    {128, 128, {128, 128, 0, 0, 128}, 1, {129, 128, 1, 1, 128}},
    {128, 127, {127, 0, 127, 0, 127}, 1, {128, 128, 0, 0, 128}},
    {128, 300, {300, 256, 44, 172, 128}, 83, {383, 256, 127, 255, 128}},
    {128, 300, {300, 256, 44, 172, 128}, 84, {384, 384, 0, 256, 128}},
    {32, 5, {5, 0, 5, 0, 5}, 60, {65, 64, 1, 33, 32}},
};

TEST(KiviCache, CountsAsPublished) {
  for (const Row& row : published_states) {
    CacheOptions options = small_cache();
    options.residual = row.residual;
    KiviCache cache(options);
    fill(cache, 0, row.prefill);
    EXPECT_EQ(counts(cache), row.filled);
    for (std::int64_t i = 0; i < row.steps; ++i) step(cache, 0);
    cache.settle(0);
    EXPECT_EQ(counts(cache), row.stepped);
  }
}

// During a step the newest R + 1 values, and a block of keys that is full, are still exact.
TEST(KiviCache, AStepSeesItsBlockUnquantised) {
  CacheOptions options = small_cache();
  KiviCache cache(options);
  fill(cache, 0, 127);
  step(cache, 0);
  EXPECT_EQ(counts(cache), (Counts{128, 64, 64, 63, 65}));
  step(cache, 0);
  EXPECT_EQ(counts(cache), (Counts{129, 128, 1, 64, 65}));
}

// ---- attention ----

struct Case {
  std::int64_t head_dim;
  int key_bits;
  int value_bits;
  int group;
  std::int64_t residual;
  at::ScalarType type;
  std::int64_t heads_per_kv;
  std::int64_t query_tokens;
  std::vector<std::int64_t> prefill;
  std::int64_t steps;
};

const Case cases[] = {
    {128, 2, 2, 32, 128, at::kHalf, 1, 1, {0, 300}, 2},
    {128, 2, 2, 32, 32, at::kFloat, 4, 1, {1, 129}, 40},
    {128, 2, 2, 128, 128, at::kFloat, 3, 1, {257, 255}, 2},
    {64, 4, 4, 64, 64, at::kBFloat16, 2, 3, {65, 63}, 3},
    {32, 8, 8, 32, 32, at::kFloat, 1, 2, {31, 33}, 17},
    {32, 1, 1, 32, 96, at::kHalf, 5, 1, {7, 200}, 1},
    {96, 3, 3, 32, 64, at::kFloat, 7, 1, {130, 8}, 5},
    {256, 3, 8, 64, 64, at::kHalf, 2, 1, {200, 9}, 2},
    {64, 1, 4, 32, 64, at::kFloat, 8, 2, {15, 161}, 2},
    {64, 8, 2, 64, 128, at::kHalf, 1, 5, {384, 16}, 1},
};

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

void check_content(const KiviCache& cache, const History& history) {
  const auto [keys, values] = cache.dequantize(0);
  for (std::int64_t b = 0; b < cache.batch(); ++b) {
    const auto at = static_cast<std::size_t>(b);
    const std::int64_t n = history.keys[at].size(1);
    const auto [k, v] =
        expected_content(cache.options(), cache.state(0, b), history.keys[at], history.values[at]);
    ASSERT_TRUE(keys[b].narrow(1, 0, n).equal(k));
    ASSERT_TRUE(values[b].narrow(1, 0, n).equal(v));
  }
}

// The cache's own numbers, so that nothing but the attention itself is in the error: f32 roundings
// of numbers of magnitude 10 and of sums of up to 256 products, which the softmax takes as they
// are; half-precision outputs are rounded once.
double tolerance(at::ScalarType type) {
  return type == at::kFloat ? 1e-5 : (type == at::kHalf ? 5e-4 : 4e-3);
}

void check_attention(const KiviCache& cache, const Case& one, const AttendOptions& how) {
  const auto [keys, values] = cache.dequantize(0);
  const at::Tensor q =
      at::randn({2, 2 * one.heads_per_kv, one.query_tokens, one.head_dim + 1}, at::kFloat)
          .to(one.type)
          .slice(3, 1);
  const at::Tensor found = cache.attend(0, q, how);
  ASSERT_EQ(found.scalar_type(), one.type);
  const double scale = how.scale.value_or(1 / std::sqrt(static_cast<double>(one.head_dim)));
  for (std::int64_t b = 0; b < 2; ++b) {
    const std::int64_t n = cache.state(0, b).length;
    at::Tensor mask;
    if (how.mask.defined()) mask = how.mask[b].narrow(2, 0, n);
    const at::Tensor expected = attention_in_double(
        q[b], keys[b].narrow(1, 0, n), values[b].narrow(1, 0, n), scale, how.causal, mask);
    EXPECT_LT(relative_error(found[b], expected), tolerance(one.type)) << "sequence " << b;
  }
}

TEST(KiviCache, AgreesWithAttentionInDoubleAtEveryLevel) {
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    for (const Case& one : cases) {
      SCOPED_TRACE(testing::Message() << to_string(isa) << " D=" << one.head_dim << " k"
                                      << one.key_bits << "v" << one.value_bits);
      const CacheOptions options = options_of(one);
      KiviCache cache(options);
      History history(options);
      const std::int64_t most = std::max(one.prefill[0], one.prefill[1]);
      const at::Tensor k = random_tokens(options, most);
      const at::Tensor v = random_tokens(options, most);
      cache.prefill(0, k, v, one.prefill);
      history.add(k, v, one.prefill);
      check_content(cache, history);
      for (std::int64_t i = 0; i < one.steps; ++i) step(cache, 0, &history, one.query_tokens);
      check_content(cache, history);
      check_attention(cache, one, {});
      AttendOptions how;
      how.scale = 0.03;
      how.causal = false;
      check_attention(cache, one, how);
    }
  }
}

TEST(KiviCache, AddsMasksThatBroadcast) {
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    const Case one = cases[3];
    const CacheOptions options = options_of(one);
    KiviCache cache(options);
    cache.prefill(0, random_tokens(options, 200), random_tokens(options, 200), {200, 150});
    AttendOptions how;
    how.mask = at::randn({2, 4, 3, 200});
    how.mask.slice(3, 0, 200, 3).fill_(-INFINITY);
    check_attention(cache, one, how);
    const at::Tensor q = at::randn({2, 4, 3, 64}).to(one.type);
    AttendOptions words;
    words.mask = at::randint(0, 2, {3, 1}).to(at::kBool);
    AttendOptions numbers;
    numbers.mask = at::zeros({3, 1}).masked_fill(words.mask.logical_not(), -INFINITY);
    EXPECT_TRUE(cache.attend(0, q, words).equal(cache.attend(0, q, numbers)));
    // A row that sees nothing is 0.
    words.mask = at::zeros({1}, at::kBool);
    EXPECT_EQ(cache.attend(0, q, words).abs().max().item<float>(), 0);
  }
}

TEST(KiviCache, IsExactWhileAllIsResidual) {
  CacheOptions options = small_cache();
  options.residual = 256;
  KiviCache cache(options);
  History history(options);
  const at::Tensor k = random_tokens(options, 200);
  const at::Tensor v = random_tokens(options, 200);
  cache.prefill(0, k, v);
  const at::Tensor q = at::randn({2, 4, 1, 64});
  for (std::int64_t b = 0; b < 2; ++b) {
    const at::Tensor expected = attention_in_double(q[b], k[b], v[b], 0.125, true);
    EXPECT_LT(relative_error(cache.attend(0, q)[b], expected), 1e-6);
  }
}

TEST(KiviCache, AnEmptySequenceGivesZeros) {
  KiviCache cache(small_cache());
  const at::Tensor q = at::randn({2, 2, 1, 64});
  EXPECT_EQ(cache.attend(0, q).abs().sum().item<float>(), 0);
  EXPECT_EQ(cache.attend(0, q.narrow(2, 0, 0)).numel(), 0);
  EXPECT_EQ(cache.dequantize(0).first.numel(), 0);
}

TEST(KiviCache, DependsNeitherOnThreadsNorOnTheBatch) {
  CacheOptions options = small_cache();
  options.type = at::kHalf;
  KiviCache cache(options);
  const at::Tensor k = random_tokens(options, 5000);
  const at::Tensor v = random_tokens(options, 5000);
  cache.prefill(0, k, v, {5000, 700});
  const at::Tensor q = at::randn({2, 6, 1, 64}).to(at::kHalf);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = cache.attend(0, q);
  at::set_num_threads(5);
  const at::Tensor five = cache.attend(0, q);
  at::set_num_threads(threads);
  EXPECT_TRUE(one.equal(five));
  options.batch = 1;
  KiviCache alone(options);
  alone.prefill(0, k.narrow(0, 1, 1).narrow(2, 0, 700), v.narrow(0, 1, 1).narrow(2, 0, 700));
  EXPECT_TRUE(alone.attend(0, q.narrow(0, 1, 1)).equal(one.narrow(0, 1, 1)));
}

// The pieces in which tokens come do not matter.
TEST(KiviCache, AnySequenceOfAppendsEndsInTheSameContent) {
  EXPECT_TRUE(rc::check("appends in pieces = one prefill", [] {
    CacheOptions options = small_cache();
    options.key_bits = *rc::gen::element(1, 2, 3, 4, 8);
    options.value_bits = *rc::gen::element(1, 2, 3, 4, 8);
    options.residual = *rc::gen::element(32, 64, 96);
    const Isa isa = *rc::gen::elementOf(supported_isas());
    const ScopedIsa forced(isa);
    KiviCache pieces(options);
    KiviCache whole(options);
    History history(options);
    std::int64_t total = 0;
    while (total < 330) {
      const std::int64_t tokens = *rc::gen::element(0, 1, 2, 15, 33, 64, 65, 129);
      const at::Tensor k = random_tokens(options, tokens);
      const at::Tensor v = random_tokens(options, tokens);
      if (*rc::gen::arbitrary<bool>()) {
        pieces.append(0, k, v);
      } else {
        pieces.prefill(0, k, v);
      }
      history.add(k, v);
      total += std::max<std::int64_t>(tokens, 1);
    }
    pieces.settle(0);
    whole.prefill(0, at::stack(history.keys), at::stack(history.values));
    const auto a = pieces.dequantize(0);
    const auto b = whole.dequantize(0);
    RC_ASSERT(a.first.equal(b.first) && a.second.equal(b.second));
  }));
}

TEST(KiviCache, LevelsStoreTheSameBits) {
  for (const Case& one : cases) {
    const CacheOptions options = options_of(one);
    const at::Tensor k = random_tokens(options, 300);
    const at::Tensor v = random_tokens(options, 300);
    std::vector<PackedSequence> found;
    for (const Isa isa : supported_isas()) {
      const ScopedIsa forced(isa);
      KiviCache cache(options);
      cache.prefill(0, k.narrow(2, 0, 201), v.narrow(2, 0, 201));
      cache.append(0, k.narrow(2, 201, 99), v.narrow(2, 201, 99));
      found.push_back(cache.pack(0, 1));
    }
    for (const PackedSequence& other : found) {
      EXPECT_TRUE(other.keys.codes.equal(found[0].keys.codes));
      EXPECT_TRUE(other.keys.scale.equal(found[0].keys.scale));
      EXPECT_TRUE(other.keys.minimum.equal(found[0].keys.minimum));
      EXPECT_TRUE(other.values.codes.equal(found[0].values.codes));
      EXPECT_TRUE(other.values.scale.equal(found[0].values.scale));
      EXPECT_TRUE(other.values.minimum.equal(found[0].values.minimum));
    }
  }
}

// ---- numbers that are not finite ----

TEST(KiviCache, NaNSpoilsItsGroupAndNothingElse) {
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    const CacheOptions options = small_cache();
    KiviCache cache(options);
    at::Tensor k = random_tokens(options, 200).clone();
    at::Tensor v = random_tokens(options, 200).clone();
    k[0][0][40][3] = NAN;
    v[1][1][7][50] = INFINITY;
    cache.prefill(0, k, v);
    const auto [keys, values] = cache.dequantize(0);
    EXPECT_EQ(keys.isnan().sum().item<int>(), 32);
    EXPECT_TRUE(keys[0][0].narrow(0, 32, 32).select(1, 3).isnan().all().item<bool>());
    EXPECT_EQ(values.isnan().sum().item<int>(), 32);
    const at::Tensor out = cache.attend(0, at::randn({2, 2, 1, 64}));
    EXPECT_TRUE(out[0][0].isnan().all().item<bool>());
    EXPECT_TRUE(out[1][1].narrow(1, 32, 32).isnan().all().item<bool>());
    EXPECT_EQ(out.isnan().sum().item<int>(), 64 + 32);
  }
}

TEST(KiviCache, PagesLeaveNothingBehind) {
  for (const Isa isa : supported_isas()) {
    const ScopedIsa forced(isa);
    const CacheOptions options = small_cache();
    KiviCache cache(options);
    const at::Tensor spoilt = at::full({2, 2, 500, 64}, NAN);
    cache.prefill(0, spoilt, spoilt);
    cache.trim(0);
    const at::Tensor k = random_tokens(options, 333);
    const at::Tensor v = random_tokens(options, 333);
    cache.prefill(0, k, v);
    KiviCache fresh(options);
    fresh.prefill(0, k, v);
    const at::Tensor q = at::randn({2, 2, 1, 64});
    EXPECT_TRUE(cache.attend(0, q).equal(fresh.attend(0, q)));
  }
}

// ---- trims and forks ----

TEST(KiviCache, TrimWithinTheResidualIsExact) {
  const CacheOptions options = small_cache();
  KiviCache cache(options);
  fill(cache, 0, 130);
  step(cache, 0);
  const at::Tensor q = at::randn({2, 2, 1, 64});
  const at::Tensor before = cache.attend(0, q);
  KiviCache kept(options);
  step(cache, 0);
  step(cache, 0);
  EXPECT_EQ(cache.trim(131), 0);
  EXPECT_EQ(cache.state(0, 0).length, 131);
  // Two values more than before are quantised: only they may differ.
  EXPECT_LT(relative_error(cache.attend(0, q), before.to(at::kDouble)), 0.1);
}

TEST(KiviCache, TrimIntoPagesKeepsTheValuesThatTheyHave) {
  EXPECT_TRUE(rc::check("what remains is what was there", [] {
    CacheOptions options = small_cache();
    options.layers = 2;
    options.residual = *rc::gen::element(32, 64, 128);
    KiviCache cache(options);
    for (const std::int64_t layer : {0, 1}) fill(cache, layer, *rc::gen::inRange(250, 400));
    const auto before = cache.dequantize(1);
    const std::int64_t length = *rc::gen::inRange(0, 250);
    cache.trim(length);
    const CacheState state = cache.state(1, 0);
    RC_ASSERT(state.length == length && state.keys_residual < options.residual + 1);
    const auto after = cache.dequantize(1);
    RC_ASSERT(after.first.equal(before.first.narrow(2, 0, length)));
    RC_ASSERT(after.second.equal(before.second.narrow(2, 0, length)));
    // And it goes on from there, with every invariant of the counters.
    for (int i = 0; i < 140; ++i) step(cache, 1);
    cache.settle(1);
    const CacheState later = cache.state(1, 1);
    RC_ASSERT(later.length == length + 140 && later.keys_residual < options.residual);
    RC_ASSERT(later.values_residual <= options.residual);
    RC_ASSERT(cache.attend(1, at::randn({2, 2, 1, 64})).isfinite().all().item<bool>());
  }));
}

TEST(KiviCache, TrimsEachSequenceOnItsOwn) {
  KiviCache cache(small_cache());
  fill(cache, 0, 300);
  EXPECT_EQ(cache.trim({300, 200}), 200 - 192);
  EXPECT_EQ(cache.state(0, 0).length, 300);
  EXPECT_EQ(cache.state(0, 1).length, 200);
}

// A fork behaves as a cache of its own that got the same tokens.
TEST(KiviCache, ForksShareUntilTheyWrite) {
  CacheOptions options = small_cache();
  options.type = at::kHalf;
  const at::Tensor k = random_tokens(options, 290);
  const at::Tensor v = random_tokens(options, 290);
  const std::vector<std::int64_t> beams = {1, 1, 0};
  KiviCache forked(options);
  forked.prefill(0, k, v);
  const std::int64_t bytes = forked.memory().reserved;
  forked.fork(beams);
  EXPECT_EQ(forked.batch(), 3);
  EXPECT_LE(forked.memory().reserved, bytes + 100);  // a row more in the table
  options.batch = 3;
  KiviCache copied(options);
  const at::Tensor indices = at::tensor(beams);
  copied.prefill(0, k.index_select(0, indices), v.index_select(0, indices));
  for (int i = 0; i < 150; ++i) {
    const at::Tensor new_k = random_tokens(options, 1);
    const at::Tensor new_v = random_tokens(options, 1);
    forked.append(0, new_k, new_v);
    copied.append(0, new_k, new_v);
    if (i % 30 != 0) continue;
    const at::Tensor q = at::randn({3, 2, 1, 64}).to(at::kHalf);
    ASSERT_TRUE(forked.attend(0, q).equal(copied.attend(0, q))) << i;
  }
  const auto a = forked.dequantize(0);
  const auto b = copied.dequantize(0);
  EXPECT_TRUE(a.first.equal(b.first));
  EXPECT_TRUE(a.second.equal(b.second));
}

TEST(KiviCache, ReservedMemoryIsNotMadeAnew) {
  CacheOptions options = small_cache();
  options.max_length = 1000;
  KiviCache cache(options);
  cache.reserve(1000);
  const std::int64_t reserved = cache.memory().reserved;
  fill(cache, 0, 990);
  for (int i = 0; i < 10; ++i) step(cache, 0);
  EXPECT_EQ(cache.memory().reserved, reserved);
}

// ---- memory ----

TEST(KiviCache, TakesTheBytesOfTheFormula) {
  CacheOptions options;
  options.layers = 32;
  options.kv_heads = 8;
  const CacheMemory memory = memory_of(options, 4096);
  // 4096 keys and 3968 values of a head at 3 bits, 128 values at 16.
  const std::int64_t head = 196608 + 190464 + 128 * 128 * 2;
  EXPECT_EQ(memory.bytes(), 32 * 8 * head);
  EXPECT_EQ(memory.dense, std::int64_t{2} * 32 * 8 * 1048576);
  options.layers = 1;
  options.batch = 2;
  KiviCache cache(options);
  fill(cache, 0, 777);
  EXPECT_EQ(cache.memory().bytes(), memory_of(options, 777).bytes());
  EXPECT_EQ(cache.memory().dense, memory_of(options, 777).dense);
  EXPECT_GE(cache.memory().reserved, memory_of(options, 777).reserved);
}

// ---- bad input ----

TEST(KiviCache, RefusesBadInput) {
  const auto refuses = [](const auto& call, const char* words) {
    EXPECT_THAT(call, ThrowsMessage<InvalidArgument>(HasSubstr(words)));
  };
  const auto with = [](const auto& change) {
    CacheOptions options = small_cache();
    change(options);
    return KiviCache(options);
  };
  refuses([&] { with([](CacheOptions& o) { o.residual = 40; }); },
          "residual: expected a positive multiple of group 32, got 40");
  refuses([&] { with([](CacheOptions& o) { o.head_dim = 80; }); },
          "head_dim: expected a multiple of group 32, got 80");
  refuses([&] { with([](CacheOptions& o) { o.head_dim = 512; }); }, "at most 256, got 512");
  refuses([&] { with([](CacheOptions& o) { o.key_bits = 5; }); },
          "key_bits: expected 1, 2, 3, 4 or 8, got 5");
  refuses([&] { with([](CacheOptions& o) { o.group = 16; }); }, "group: expected 32, 64 or 128");
  refuses([&] { with([](CacheOptions& o) { o.batch = 0; }); }, "batch: expected at least 1");
  refuses([&] { with([](CacheOptions& o) { o.type = at::kDouble; }); }, "dtype: expected float16");
  refuses([&] { with([](CacheOptions& o) { o.device = at::kMeta; }); }, "device: expected cpu");

  CacheOptions options = small_cache();
  options.max_length = 100;
  KiviCache cache(options);
  const at::Tensor k = random_tokens(options, 60);
  refuses([&] { cache.append(1, k, k); }, "layer: expected 0 to 0, got 1");
  refuses([&] { cache.append(0, k, k.narrow(2, 0, 3)); }, "values: expected 60 tokens");
  refuses([&] { cache.append(0, k[0], k); }, "keys: expected [2, 2, tokens, 64]");
  refuses([&] { cache.append(0, k.to(at::kHalf), k); }, "keys: expected dtype Float");
  refuses([&] { cache.prefill(0, k, k, {60}); }, "lengths: expected one for each of 2 sequences");
  refuses([&] { cache.prefill(0, k, k, {60, 61}); }, "lengths: expected 0 to 60, got 61");
  cache.prefill(0, k, k, {60, 0});
  refuses([&] { cache.prefill(0, k, k, {41, 0}); },
          "sequence 0: 101 tokens exceed the cache's max_length 100");
  EXPECT_EQ(cache.state(0, 0).length, 60);  // a refused call changes nothing
  refuses([&] { cache.attend(0, at::zeros({2, 3, 1, 64})); }, "a multiple of 2 heads");
  refuses([&] { cache.attend(0, at::zeros({2, 2, 1, 64}, at::kInt)); }, "queries: expected dtype");
  AttendOptions how;
  how.mask = at::zeros({2, 2, 1, 59});
  refuses([&] { cache.attend(0, at::zeros({2, 2, 1, 64}), how); },
          "mask: expected a shape that broadcasts to [2, 2, 1, 60]");
  refuses([&] { cache.trim(61); }, "length: expected 0 to 60, got 61 for sequence 0");
  refuses([&] { cache.fork({0, 2}); }, "indices: expected 0 to 1, got 2");
  refuses([&] { cache.fork({}); }, "indices: expected at least one");
  refuses([&] { cache.reserve(101); }, "101 tokens exceed");
  refuses([&] { cache.state(0, 2); }, "sequence: expected 0 to 1, got 2");
}

}  // namespace
}  // namespace einkorn::kivi
