// What the tests of the cache share: caches filled at random, and attention in double.
#pragma once

#include <ATen/ATen.h>

#include <cmath>

#include "einkorn/compute/kivi/kivi.h"

namespace einkorn::kivi {

// The tokens that went into one layer, per sequence [kv_heads, n, D].
struct History {
  std::vector<at::Tensor> keys;
  std::vector<at::Tensor> values;

  explicit History(const CacheOptions& options)
      : keys(static_cast<std::size_t>(options.batch),
             at::empty({options.kv_heads, 0, options.head_dim}, at::dtype(options.type))),
        values(keys) {}

  void add(const at::Tensor& new_keys, const at::Tensor& new_values,
           const std::vector<std::int64_t>& lengths = {}) {
    for (std::size_t b = 0; b < keys.size(); ++b) {
      const std::int64_t count = lengths.empty() ? new_keys.size(2) : lengths[b];
      const auto row = static_cast<std::int64_t>(b);
      keys[b] = at::cat({keys[b], new_keys[row].narrow(1, 0, count)}, 1);
      values[b] = at::cat({values[b], new_values[row].narrow(1, 0, count)}, 1);
    }
  }
};

// [batch, kv_heads, tokens, D] with one channel of large magnitude, as a view that is neither dense
// nor aligned.
inline at::Tensor random_tokens(const CacheOptions& options, std::int64_t tokens) {
  at::Tensor wide =
      at::randn({options.batch, tokens, options.kv_heads, options.head_dim + 3}, at::kFloat);
  wide.select(3, 6).add_(8);
  return wide.to(options.type).slice(3, 1, options.head_dim + 1).transpose(1, 2);
}

// What a cache in `state` must hold of a sequence: the published quantiser on whole tensors.
inline std::pair<at::Tensor, at::Tensor> expected_content(const CacheOptions& options,
                                                          const CacheState& state,
                                                          const at::Tensor& keys,
                                                          const at::Tensor& values) {
  at::Tensor k = keys.clone();
  at::Tensor v = values.clone();
  if (state.keys_quantized > 0) {
    at::Tensor part = k.narrow(1, 0, state.keys_quantized);
    const PackedGroups packed =
        quantize_pack(part.unsqueeze(0), -2, options.key_bits, options.group);
    part.copy_(unpack_dequantize(packed, -2, options.key_bits, options.group).squeeze(0));
  }
  if (state.values_quantized > 0) {
    at::Tensor part = v.narrow(1, 0, state.values_quantized);
    const PackedGroups packed = quantize_pack(part, -1, options.value_bits, options.group);
    part.copy_(unpack_dequantize(packed, -1, options.value_bits, options.group));
  }
  return {k, v};
}

// softmax(scale q k^T + mask) v of one sequence in double; q [heads, m, D], k and v [kv_heads, n,
// D], mask [heads, m, n] or undefined.
inline at::Tensor attention_in_double(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      double scale, bool causal, const at::Tensor& mask = {}) {
  const std::int64_t share = q.size(0) / k.size(0);
  const at::Tensor keys = k.to(at::kDouble).repeat_interleave(share, 0);
  const at::Tensor values = v.to(at::kDouble).repeat_interleave(share, 0);
  at::Tensor scores = at::matmul(q.to(at::kDouble), keys.transpose(1, 2)) * scale;
  if (mask.defined()) scores = scores + mask.to(at::kDouble);
  if (causal) {
    const std::int64_t n = k.size(1);
    const std::int64_t m = q.size(1);
    const at::Tensor last = n - m + at::arange(m).unsqueeze(1);
    scores = scores.masked_fill(at::arange(n) > last, -INFINITY);
  }
  // A row that sees nothing is 0.
  return at::matmul(at::softmax(scores, -1).nan_to_num(0), values);
}

inline double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const double norm = expected.norm().item<double>();
  return (found.to(at::kDouble) - expected).norm().item<double>() / std::max(norm, 1e-30);
}

}  // namespace einkorn::kivi
