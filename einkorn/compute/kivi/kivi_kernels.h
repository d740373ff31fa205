// Raw kernels of the quantised cache: pointers, sizes and strides.
#pragma once

#include <cstdint>

#include "einkorn/compute/kivi/cache_layout_internal.h"
#include "einkorn/core/isa.h"

namespace einkorn::kivi {

// One layer of a cache. The table has a row for each sequence: the address of its residual, then
// the addresses of its pages (kv_heads blocks each).
struct CacheView {
  Geometry geometry;
  std::int64_t batch = 0;
  const std::uint64_t* table = nullptr;
  std::int64_t table_stride = 0;
  SequenceState* states = nullptr;
};

// Rows of D elements [batch][heads][tokens]; strides in elements.
struct Rows {
  const void* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t token_stride = 0;
};

// Appends tokens: what must be quantised by state_after() goes to the pages, the newest to the
// residual. Pages and residuals are there already, owned by this sequence alone.
struct ExtendProblem {
  CacheView cache;
  Rows keys;
  Rows values;
  std::int64_t tokens = 0;               // the most of any sequence
  const std::int32_t* counts = nullptr;  // tokens of each sequence; null: `tokens` for all
  bool settled = false;
};

// One sequence and kv head, CPU: quantises and stores, but leaves the state.
using ExtendKernel = void(const ExtendProblem&, std::int64_t sequence, std::int64_t kv_head);
extern const KernelTable<ExtendKernel*> extend_kernels;

// Attention of query rows over the cache.
struct AttendProblem {
  CacheView cache;
  Rows queries;  // [batch][kv_heads * heads_per_kv][query_tokens]; f32 on the CPU
  int heads_per_kv = 1;
  std::int64_t query_tokens = 1;
  // Query token i sees keys up to length - query_tokens + i; else all of them.
  bool causal = true;
  float scale = 1;
  const float* mask = nullptr;  // added to scaled scores; null for none
  std::int64_t mask_batch_stride = 0;
  std::int64_t mask_head_stride = 0;
  std::int64_t mask_query_stride = 0;
  std::int64_t mask_key_stride = 0;
  void* out = nullptr;  // [batch][heads][query_tokens][D], contiguous; f32 on the CPU

  constexpr std::int64_t rows() const { return heads_per_kv * query_tokens; }  // of one kv head
};

// Keys that query row `row` of a kv head may see.
constexpr std::int64_t visible_keys(const AttendProblem& p, std::int64_t length, std::int64_t row) {
  return p.causal ? length - p.query_tokens + row % p.query_tokens + 1 : length;
}

// Pages [first_page, last_page) for one sequence and kv head. partial: for each row the greatest
// score m, the sum l of exp(score - m), and D sums of exp(score - m) value.
using AttendKernel = void(const AttendProblem&, std::int64_t sequence, std::int64_t kv_head,
                          std::int64_t first_page, std::int64_t last_page, float* partial);
extern const KernelTable<AttendKernel*> attend_kernels;

// The scalar level of both: plain, in double where numbers are rounded.
void extend_scalar(const ExtendProblem& problem, std::int64_t sequence, std::int64_t kv_head);
void attend_scalar(const AttendProblem& problem, std::int64_t sequence, std::int64_t kv_head,
                   std::int64_t first_page, std::int64_t last_page, float* partial);

}  // namespace einkorn::kivi
