#include "einkorn/compute/kivi/kivi_experiments.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "einkorn/compute/kivi/kivi.h"
#include "einkorn/core/error.h"

namespace einkorn::kivi {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014) and Box-Muller, cosine first.
class Normals {
 public:
  explicit Normals(std::uint64_t seed) : state_(seed) {}

  at::Tensor draw(at::IntArrayRef shape) {
    at::Tensor result = at::empty(shape, at::kDouble);
    auto* to = result.mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < result.numel(); ++i) to[i] = next();
    return result;
  }

 private:
  double uniform() {
    state_ += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    return static_cast<double>(z >> 11) * 0x1p-53;
  }
  double next() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    const double angle = 2 * std::numbers::pi * uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }

  std::uint64_t state_;
  double spare_ = 0;
  bool has_spare_ = false;
};

// Quantised and back in double, scales not rounded.
at::Tensor there_and_back(const at::Tensor& x, GroupAxis axis, int bits, int group) {
  const at::Tensor rows = (axis == GroupAxis::channel ? x.t() : x).contiguous();
  const at::Tensor groups = rows.view({-1, group});
  const at::Tensor minimum = groups.amin({1}, true);
  const at::Tensor scale = (groups.amax({1}, true) - minimum) / ((1 << bits) - 1);
  const at::Tensor codes = at::where(scale > 0, ((groups - minimum) / scale).round(), 0);
  const at::Tensor back = (codes * scale + minimum).view(rows.sizes());
  return axis == GroupAxis::channel ? back.t() : back;
}

at::Tensor weights_of(const AxisData& data, const at::Tensor& keys) {
  const double scale = 1 / std::sqrt(static_cast<double>(keys.size(1)));
  return at::softmax(at::matmul(data.queries, keys.t()) * scale, 1);
}

double relative(const at::Tensor& found, const at::Tensor& exact) {
  return ((found - exact).norm() / exact.norm()).item<double>();
}

}  // namespace

AxisData axis_data(std::uint64_t seed, std::int64_t tokens, std::int64_t head_dim,
                   std::int64_t queries) {
  require(tokens >= 1 && head_dim >= 1 && queries >= 1, "sizes: expected at least 1");
  Normals normals(seed);
  AxisData data;
  data.keys = normals.draw({tokens, head_dim});
  data.values = normals.draw({tokens, head_dim});
  data.queries = normals.draw({queries, head_dim});
  for (const std::int64_t column : {3, 17, 40, 77, 101}) {
    if (column >= head_dim) break;
    data.keys.select(1, column).mul_(2).add_(column % 2 == 1 ? 8 : -8);
  }
  data.values.mul_(normals.draw({tokens, 1}).exp());
  return data;
}

AxisErrors key_errors(const AxisData& data, GroupAxis axis, int bits, int group) {
  const at::Tensor keys = there_and_back(data.keys, axis, bits, group);
  const at::Tensor exact = weights_of(data, data.keys);
  const at::Tensor found = weights_of(data, keys);
  AxisErrors errors;
  errors.content = relative(keys, data.keys);
  errors.weights = (found - exact).abs().sum(1).mean().item<double>();
  errors.output = relative(at::matmul(found, data.values), at::matmul(exact, data.values));
  return errors;
}

AxisErrors value_errors(const AxisData& data, GroupAxis axis, int bits, int group) {
  const at::Tensor values = there_and_back(data.values, axis, bits, group);
  const at::Tensor exact = weights_of(data, data.keys);
  AxisErrors errors;
  errors.content = relative(values, data.values);
  errors.output = relative(at::matmul(exact, values), at::matmul(exact, data.values));
  return errors;
}

double output_error(const AxisData& data, GroupAxis key_axis, GroupAxis value_axis, int bits,
                    int group) {
  const at::Tensor weights = weights_of(data, there_and_back(data.keys, key_axis, bits, group));
  const at::Tensor values = there_and_back(data.values, value_axis, bits, group);
  return relative(at::matmul(weights, values),
                  at::matmul(weights_of(data, data.keys), data.values));
}

// ---- the claim ----

namespace {

struct Expected {
  const char* name;
  double per_token;
  double per_channel;
};

// numpy, float64, seed 7, T = 1024, D = 128, groups of 32.
constexpr Expected expected_at_2_bits[] = {{"keys", 0.5705, 0.2183},
                                           {"attention weights", 0.8329, 0.3342},
                                           {"output by keys", 1.4952, 0.4822},
                                           {"values", 0.3983, 0.5707},
                                           {"output by values", 0.4049, 1.0898}};
constexpr Expected expected_at_4_bits[] = {{"keys", 0.103, 0.0434},
                                           {"attention weights", 0.1574, 0.0663},
                                           {"output by keys", 0.1997, 0.0887},
                                           {"values", 0.0783, 0.1107},
                                           {"output by values", 0.0821, 0.1381}};

void check_axes(const AxisData& data, int bits, const Expected (&expected)[5], Evidence& evidence) {
  Table table{fmt::format("Relative errors at {} bits", bits),
              {"error of", "groups of channels (per token)", "groups of tokens (per channel)"},
              {}};
  const auto row_of = [&](GroupAxis axis) {
    const AxisErrors keys = key_errors(data, axis, bits, 32);
    const AxisErrors values = value_errors(data, axis, bits, 32);
    return std::array{keys.content, keys.weights, keys.output, values.content, values.output};
  };
  const auto token = row_of(GroupAxis::token);
  const auto channel = row_of(GroupAxis::channel);
  for (std::size_t i = 0; i < token.size(); ++i) {
    // Three digits, as far as they are given.
    const auto add = [&](const char* axis, double measured, double wanted) {
      evidence.checks.push_back({fmt::format("{}, per {}, {} bits", expected[i].name, axis, bits),
                                 measured, Relation::equal, wanted,
                                 std::max(5e-4 * wanted, 5.1e-5)});
    };
    add("token", token[i], expected[i].per_token);
    add("channel", channel[i], expected[i].per_channel);
    table.rows.push_back({expected[i].name, token[i], channel[i]});
  }
  evidence.tables.push_back(std::move(table));
}

void check_pairs(const AxisData& data, Evidence& evidence) {
  struct Pair {
    const char* name;
    GroupAxis keys;
    GroupAxis values;
    double expected;
  };
  constexpr Pair pairs[] = {
      {"keys per channel, values per token", GroupAxis::channel, GroupAxis::token, 0.6815},
      {"keys per channel, values per channel", GroupAxis::channel, GroupAxis::channel, 1.2302},
      {"keys per token, values per token", GroupAxis::token, GroupAxis::token, 1.6935},
      {"keys per token, values per channel", GroupAxis::token, GroupAxis::channel, 2.3292}};
  Plot plot{"Output error, both at 2 bits", "", "relative error", {}};
  Series series{"relative error", {}, {}, Mark::bars};
  std::vector<double> errors;
  for (const Pair& pair : pairs) {
    errors.push_back(output_error(data, pair.keys, pair.values, 2, 32));
    evidence.checks.push_back({fmt::format("output, {}, 2 bits", pair.name), errors.back(),
                               Relation::equal, pair.expected, 5e-4 * pair.expected});
    series.x.push_back(static_cast<double>(series.x.size()));
    series.y.push_back(errors.back());
    plot.categories.emplace_back(pair.name);
  }
  plot.series.push_back(std::move(series));
  evidence.plots.push_back(std::move(plot));
  evidence.checks.push_back({"KIVI's pair over the best other pair", errors[0], Relation::less,
                             *std::min_element(errors.begin() + 1, errors.end())});
}

// The cache itself on the same head: its error against exact attention is the experiment's, up to
// the exact residual and the rounding of scales.
void check_cache(const AxisData& data, Device device, Evidence& evidence) {
  CacheOptions options;
  options.residual = 32;
  options.type = at::kHalf;
  options.device = to_torch(device);
  const auto ready = [&](const at::Tensor& x) {
    return x.to(at::kHalf).to(options.device).unsqueeze(0).unsqueeze(0);
  };
  KiviCache cache(options);
  cache.prefill(0, ready(data.keys), ready(data.values));
  AttendOptions how;
  how.causal = false;
  const at::Tensor found =
      cache.attend(0, ready(data.queries), how).cpu().to(at::kDouble).squeeze(0).squeeze(0);
  const auto [keys, values] = cache.dequantize(0);
  const auto as_double = [](const at::Tensor& x) { return x.cpu().to(at::kDouble)[0][0]; };
  AxisData stored = data;
  stored.keys = as_double(keys);
  const at::Tensor expected = at::matmul(weights_of(stored, stored.keys), as_double(values));
  evidence.checks.push_back(
      {"cache against double on its own numbers", relative(found, expected), Relation::less, 2e-3});
  const at::Tensor exact = at::matmul(weights_of(data, data.keys), data.values);
  evidence.checks.push_back(
      {"cache against exact attention", relative(found, exact), Relation::less, 0.75});
  const CacheMemory memory = cache.memory();
  evidence.checks.push_back(
      {"bytes of a plain cache over ours, 1024 tokens, R = 32",
       static_cast<double>(memory.dense) / static_cast<double>(memory.bytes()), Relation::at_least,
       4});
}

double median_seconds(const TimedCall& call) {
  std::array<double, 7> seconds;
  call();
  for (double& one : seconds) one = call();
  std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
  return seconds[3];
}

// Attention over many tokens, quantised against exact rows in the same cache class.
void check_speed(const ReproductionRun& run, Evidence& evidence) {
  CacheOptions options;
  options.batch = 8;
  options.kv_heads = 8;
  constexpr std::int64_t tokens = 16384;
  const bool on_cuda = run.device == Device::cuda;
  options.type = on_cuda ? at::kHalf : at::kFloat;
  options.device = to_torch(run.device);
  const auto type = at::dtype(options.type).device(options.device);
  const at::Tensor queries = at::randn({8, 8, 1, 128}, type);
  const auto seconds_with = [&](std::int64_t residual) {
    CacheOptions own = options;
    own.residual = residual;
    KiviCache cache(own);
    // A piece at a time: the tokens are never all there uncompressed.
    for (std::int64_t done = 0; done < tokens; done += 2048) {
      run.progress("filling a cache", done, tokens);
      const at::Tensor piece = at::randn({8, 8, 2048, 128}, type);
      cache.prefill(0, piece, piece);
    }
    return median_seconds(timed([&] { cache.attend(0, queries); }, run.device));
  };
  const double quantized = seconds_with(128);
  const double exact = seconds_with(2 * tokens);
  evidence.checks.push_back({"time of exact rows over 2 bits, b = 8, 8 kv heads, 16384 tokens",
                             exact / quantized, Relation::at_least, 2.5});
  evidence.notes.push_back(
      fmt::format("attend took {:.2f} ms at 2 bits, {:.2f} ms on exact rows ({})", quantized * 1e3,
                  exact * 1e3, c10::toString(options.type)));
}

}  // namespace

Evidence reproduce(const ReproductionRun& run) {
  const AxisData data = axis_data(7, 1024, 128, 64);
  Evidence evidence;
  check_axes(data, 2, expected_at_2_bits, evidence);
  check_axes(data, 4, expected_at_4_bits, evidence);
  check_pairs(data, evidence);
  check_cache(data, run.device, evidence);
  if (run.full) check_speed(run, evidence);
  return evidence;
}

}  // namespace einkorn::kivi
