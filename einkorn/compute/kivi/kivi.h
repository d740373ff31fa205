// KIVI: a key-value cache at 1 to 8 bits without calibration. Keys are quantised per channel
// (groups run along tokens), values per token (groups run along channels), the newest tokens stay
// as they are.
//
// Liu, Yuan, Jin, Zhong, Xu, Braverman, Chen, Hu, "KIVI: A Tuning-Free Asymmetric 2bit Quantization
// for KV Cache", ICML 2024, arXiv 2402.02750.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "einkorn/compute/kivi/quantizer.h"
#include "einkorn/core/options.h"
#include "einkorn/core/tensor.h"

namespace einkorn::kivi {

struct CacheOptions {
  std::int64_t layers = 1;
  std::int64_t batch = 1;
  std::int64_t kv_heads = 1;
  std::int64_t head_dim = 128;  // D: a multiple of group, at most 256
  std::int64_t max_length = 0;  // tokens that a sequence may reach; 0 for no limit
  int key_bits = 2;             // 1, 2, 3, 4 or 8
  int value_bits = 2;
  int group = 32;                   // G: 32, 64 or 128
  std::int64_t residual = 128;      // R: tokens kept as they are; a multiple of group
  at::ScalarType type = at::kHalf;  // f16, bf16 or f32 (f32 on the CPU alone)
  at::Device device = at::kCPU;
};

// Throws InvalidArgument for options outside their ranges.
void check(const CacheOptions& options);

// How many tokens of a sequence lie where. The key residual cycles through 0 .. R, the value
// residual is the newest R tokens; during a step (after append) it is R + 1, as the flush of the
// step's oldest value waits for the next append or settle.
struct CacheState {
  std::int64_t length = 0;
  std::int64_t keys_quantized = 0;
  std::int64_t keys_residual = 0;
  std::int64_t values_quantized = 0;
  std::int64_t values_residual = 0;
};

// Bytes that a cache takes.
struct CacheMemory {
  std::int64_t quantized = 0;  // codes, scales and minima of quantised tokens
  std::int64_t residual = 0;   // rows of tokens kept as they are
  std::int64_t reserved = 0;   // what is allocated: whole pages, residuals, tables
  std::int64_t dense = 0;      // the same tokens in a plain cache of the same dtype
  std::int64_t bytes() const { return quantized + residual; }
};

// The same for a cache filled with `tokens` a sequence, without making it; reserved is that of
// memory fully used.
CacheMemory memory_of(const CacheOptions& options, std::int64_t tokens);

struct AttendOptions {
  std::optional<double> scale;  // of q . k; by default 1 / sqrt(D)
  // With several query tokens: token i of m sees keys up to length - m + i.
  bool causal = true;
  // Added to scaled scores (floating), or true where a key counts (bool); broadcasts to
  // [batch, heads, query tokens, greatest length].
  at::Tensor mask = {};
};

// Quantised tokens and residual of one sequence in one layer, in the published packing.
struct PackedSequence {
  PackedGroups keys;          // axis -2: codes [kv_heads, D, keys_quantized * bits / 32], ...
  PackedGroups values;        // axis -1: codes [kv_heads, values_quantized, D * bits / 32], ...
  at::Tensor key_residual;    // [kv_heads, keys_residual, D]
  at::Tensor value_residual;  // [kv_heads, values_residual, D]
};

// The cache. Tokens lie in pages of 128 (cache_layout_internal.h), allocated as they are needed and
// never moved; nothing is copied but a page or residual that forks share, when one of them writes.
//
// append and attend never wait for a CUDA device and can be captured into a graph once reserve()
// was called (capture_replayed() below). Calls on one cache must be ordered by the caller: one
// thread, and one stream or events between streams; attend may run on several streams at once.
//
// NaN or infinity in a key spoils (makes NaN) its group of tokens in that channel, in a value its
// group of channels of that token, and so every output that looks at them; nothing else.
class KiviCache {
 public:
  explicit KiviCache(const CacheOptions& options);
  ~KiviCache();
  KiviCache(KiviCache&&) noexcept;
  KiviCache& operator=(KiviCache&&) noexcept;

  const CacheOptions& options() const;
  std::int64_t batch() const;  // options().batch until fork() changes it

  // Appends a prompt (or its next piece): keys, values [batch, kv_heads, T, D] of the cache's dtype
  // and device, any strides; rotary positions are applied before. lengths[b] <= T tokens of
  // sequence b count, the first ones (padding stands behind); by default all T. Then quantises all
  // but the residual: keys [0, n - n mod R), values [0, n - R). The prompt's own attention is the
  // caller's, on the exact tensors. Throws InvalidArgument (shape, dtype, device, capacity).
  void prefill(std::int64_t layer, const at::Tensor& keys, const at::Tensor& values,
               const std::vector<std::int64_t>& lengths = {});

  // Appends the tokens of a decode step, [batch, kv_heads, m, D], after the flushes that the step
  // before left due. The step's own attend sees its block unquantised, as published.
  void append(std::int64_t layer, const at::Tensor& keys, const at::Tensor& values,
              const std::vector<std::int64_t>& lengths = {});

  // Does the flushes that are due, as the next append would.
  void settle(std::int64_t layer);

  // softmax(scale q k^T + mask) v for queries [batch, heads, m, D], heads a multiple of kv_heads
  // (query head i reads kv head i kv_heads / heads): [batch, heads, m, D] of the queries' dtype.
  // Products are f32 on the CPU; on CUDA f16 products with f32 sums. A row that sees no key is 0.
  // The result depends on neither the number of threads nor on what else is in the batch.
  at::Tensor attend(std::int64_t layer, const at::Tensor& queries,
                    const AttendOptions& options = {}) const;

  // Keys and values as attend sees them, [batch, kv_heads, greatest length, D], zeros behind the
  // end of shorter sequences. By way of the CPU.
  std::pair<at::Tensor, at::Tensor> dequantize(std::int64_t layer) const;

  CacheState state(std::int64_t layer, std::int64_t sequence) const;
  CacheMemory memory() const;

  // Forgets the tokens from `length` on, in all layers (speculative decoding that was refused).
  // Exact as long as only residual keys go. Beyond that, quantised tokens of the block of R that is
  // cut are turned back to residual rows with the values they have by now, and rounded anew when
  // the block is full again. Returns how many tokens of how many layers' sequences that were.
  // Lengths may be given one a sequence. Throws InvalidArgument for lengths beyond a sequence's.
  std::int64_t trim(std::int64_t length);
  std::int64_t trim(const std::vector<std::int64_t>& lengths);

  // Sequence i of the new batch continues sequence indices[i] of the old one (beam search, prefix
  // reuse). Pages and residuals are shared until written.
  void fork(const std::vector<std::int64_t>& indices);

  // Allocates for `length` tokens of every sequence, so that appends up to there allocate nothing.
  void reserve(std::int64_t length);

  // Tells the host side that a captured graph with one append of `tokens` to this layer ran again.
  void capture_replayed(std::int64_t layer, std::int64_t tokens = 1);

  // One sequence of one layer, to the published packing and back (into an empty sequence).
  PackedSequence pack(std::int64_t layer, std::int64_t sequence) const;
  void unpack(std::int64_t layer, std::int64_t sequence, const PackedSequence& packed);

  // A safetensors file, "layer.0.sequence.0.key_codes" and so on, options as metadata. load throws
  // BadFile for whatever does not fit.
  void save(const OutputPath& path) const;
  static KiviCache load(const std::filesystem::path& path, at::Device device = at::kCPU);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace einkorn::kivi
