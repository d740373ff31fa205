#include <ATen/ATen.h>
#include <fmt/format.h>

#include <memory>

#include "einkorn/compute/kivi/kivi.h"
#include "einkorn/compute/kivi/kivi_jobs_internal.h"

namespace einkorn::kivi {
namespace {

// One decode step's attention.
struct Setting {
  std::int64_t batch;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t tokens;
  int bits;
};

constexpr std::int64_t head_dim = 128;

std::string name_of(const Setting& s) {
  return fmt::format("attend, {} bits, b={}, {}/{} heads, {} tokens, D=128", s.bits, s.batch,
                     s.heads, s.kv_heads, s.tokens);
}

struct Prepared {
  std::shared_ptr<KiviCache> cache;
  at::Tensor keys;
  at::Tensor values;
  at::Tensor queries;
};

Prepared prepare(const Setting& s, Device device, at::ScalarType cache_type,
                 at::ScalarType peer_type) {
  CacheOptions options;
  options.batch = s.batch;
  options.kv_heads = s.kv_heads;
  options.key_bits = options.value_bits = s.bits;
  options.type = cache_type;
  options.device = to_torch(device);
  const auto type = at::dtype(peer_type).device(options.device);
  Prepared made;
  made.cache = std::make_shared<KiviCache>(options);
  made.keys = at::randn({s.batch, s.kv_heads, s.tokens, head_dim}, type);
  made.values = at::randn_like(made.keys);
  made.queries = at::randn({s.batch, s.heads, 1, head_dim}, type);
  // As during a step: the last token is not settled yet.
  const auto part = [&](const at::Tensor& x, std::int64_t first, std::int64_t count) {
    return x.narrow(2, first, count).to(cache_type);
  };
  made.cache->prefill(0, part(made.keys, 0, s.tokens - 1), part(made.values, 0, s.tokens - 1));
  made.cache->append(0, part(made.keys, s.tokens - 1, 1), part(made.values, s.tokens - 1, 1));
  return made;
}

Work work_of(const Setting& s, const KiviCache& cache) {
  const auto queried = static_cast<double>(s.batch * s.heads * s.tokens * head_dim);
  return {4 * queried, static_cast<double>(cache.memory().bytes())};
}

// torch on the CPU reads f32, on CUDA f16: what it is fastest with.
Contest against_torch(const Setting& s, Device device) {
  const bool on_cuda = device == Device::cuda;
  const Prepared made = prepare(s, device, at::kHalf, on_cuda ? at::kHalf : at::kFloat);
  Contest contest;
  contest.ours = timed([cache = made.cache, q = made.queries] { cache->attend(0, q); }, device);
  const bool grouped = s.heads != s.kv_heads;
  contest.peer = timed(
      [made, grouped] {
        at::scaled_dot_product_attention(made.queries, made.keys, made.values, {}, 0, false,
                                         std::nullopt, grouped);
      },
      device);
  contest.work = work_of(s, *made.cache);
  contest.arithmetic = on_cuda ? Arithmetic::bf16 : Arithmetic::f32;
  return contest;
}

Benchmark torch_benchmark(const Setting& s, Device device) {
  return {name_of(s),
          device == Device::cuda ? "torch scaled_dot_product_attention, f16"
                                 : "torch scaled_dot_product_attention, f32",
          {device},
          [s](Device on) { return against_torch(s, on); }};
}

// The same cache class with all tokens in the residual: what dequantising costs or saves by itself.
Contest against_exact_rows(const Setting& s, Device device) {
  const Prepared made = prepare(s, device, at::kHalf, at::kHalf);
  CacheOptions options = made.cache->options();
  options.residual = (s.tokens / options.group + 1) * options.group;
  const auto exact = std::make_shared<KiviCache>(options);
  exact->prefill(0, made.keys, made.values);
  Contest contest;
  contest.ours = timed([cache = made.cache, q = made.queries] { cache->attend(0, q); }, device);
  contest.peer = timed([exact, q = made.queries] { exact->attend(0, q); }, device);
  contest.work = work_of(s, *made.cache);
  return contest;
}

// A prompt into the cache; the peer is a copy of the same rows, which a plain cache needs too.
Contest prefill_contest(const Setting& s, Device device) {
  Prepared made = prepare(s, device, at::kHalf, at::kHalf);
  Contest contest;
  contest.ours = timed(
      [made] {
        made.cache->trim(0);
        made.cache->prefill(0, made.keys, made.values);
      },
      device);
  contest.peer = timed(
      [made, to = at::empty_like(made.keys)]() mutable {
        to.copy_(made.keys);
        to.copy_(made.values);
      },
      device);
  contest.work = {6.0 * 2 * static_cast<double>(made.keys.numel()),
                  2.0 * static_cast<double>(made.keys.nbytes()) +
                      static_cast<double>(made.cache->memory().bytes())};
  return contest;
}

}  // namespace

std::vector<Benchmark> benchmarks() {
  static constexpr Setting small = {1, 32, 32, 8192, 2};
  static constexpr Setting grouped = {1, 32, 8, 8192, 2};
  static constexpr Setting four_bits = {1, 32, 8, 8192, 4};
  static constexpr Setting many = {16, 32, 32, 4096, 2};
  static constexpr Setting long_context = {4, 32, 8, 32768, 2};
  static constexpr Setting large = {64, 32, 32, 8192, 2};
  std::vector<Benchmark> all;
  for (const Setting& s : {small, grouped, four_bits}) {
    all.push_back(torch_benchmark(s, Device::cpu));
  }
  all.push_back({name_of(small) + ", against our exact rows",
                 "the same cache, all residual, f16",
                 {Device::cpu},
                 [](Device device) { return against_exact_rows(small, device); }});
  for (const Setting& s : {many, long_context, large}) {
    all.push_back(torch_benchmark(s, Device::cuda));
  }
  all.push_back({"prefill, 2 bits, b=1, 8 kv heads, 8192 tokens, D=128",
                 "torch copy of keys and values",
                 {Device::cpu},
                 [](Device device) { return prefill_contest(grouped, device); }});
  all.push_back({"prefill, 2 bits, b=16, 32 kv heads, 4096 tokens, D=128",
                 "torch copy of keys and values",
                 {Device::cuda},
                 [](Device device) { return prefill_contest(many, device); }});
  return all;
}

}  // namespace einkorn::kivi
