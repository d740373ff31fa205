#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "einkorn/compute/kivi/cache_state_internal.h"
#include "einkorn/compute/kivi/kivi.h"
#include "einkorn/core/error.h"
#include "einkorn/core/trace.h"

namespace einkorn::kivi {
namespace {

bool is_allowed(int bits) {
  return bits == 1 || bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

// Rows as kernels take them: the last dimension dense, the others with any stride.
at::Tensor with_dense_rows(const at::Tensor& tensor) {
  const bool dense = tensor.stride(-1) == 1 || tensor.size(-1) == 1;
  return dense ? tensor : tensor.contiguous();
}

Rows rows_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

Work extend_work(const CacheOptions& options, double tokens) {
  const double numbers = 2 * tokens * static_cast<double>(options.kv_heads * options.head_dim);
  return {6 * numbers, numbers * static_cast<double>(c10::elementSize(options.type)) *
                           (1 + static_cast<double>(options.key_bits) / 16)};
}

}  // namespace

void check(const CacheOptions& o) {
  for (const auto& [name, value] : {std::pair("layers", o.layers),
                                    {"batch", o.batch},
                                    {"kv_heads", o.kv_heads},
                                    {"head_dim", o.head_dim}}) {
    require(value >= 1, "{}: expected at least 1, got {}", name, value);
  }
  // So that sizes in bytes cannot overflow.
  constexpr std::int64_t most = std::int64_t{1} << 20;
  for (const auto& [name, value] :
       {std::pair("layers", o.layers), {"batch", o.batch}, {"kv_heads", o.kv_heads}}) {
    require(value <= most, "{}: expected at most {}, got {}", name, most, value);
  }
  for (const auto& [name, bits] :
       {std::pair("key_bits", o.key_bits), {"value_bits", o.value_bits}}) {
    require(is_allowed(bits), "{}: expected 1, 2, 3, 4 or 8, got {}", name, bits);
  }
  require(o.group == 32 || o.group == 64 || o.group == 128, "group: expected 32, 64 or 128, got {}",
          o.group);
  require(o.head_dim % o.group == 0, "head_dim: expected a multiple of group {}, got {}", o.group,
          o.head_dim);
  require(o.head_dim <= 256, "head_dim: expected at most 256, got {}", o.head_dim);
  require(o.residual >= 1 && o.residual % o.group == 0,
          "residual: expected a positive multiple of group {}, got {}", o.group, o.residual);
  require(o.residual <= most, "residual: expected at most {}, got {}", most, o.residual);
  require(o.max_length >= 0 && o.max_length < (std::int64_t{1} << 31),
          "max_length: expected 0 (no limit) to 2^31 - 1, got {}", o.max_length);
  require(o.type == at::kHalf || o.type == at::kBFloat16 || o.type == at::kFloat,
          "dtype: expected float16, bfloat16 or float32, got {}", c10::toString(o.type));
  require(o.device.is_cpu() || o.device.is_cuda(), "device: expected cpu or cuda, got {}",
          o.device.str());
  require(o.device.is_cpu() || o.type != at::kFloat,
          "dtype: a cache on cuda is float16 or bfloat16, got float32");
  require_available(o.device.is_cuda() ? Device::cuda : Device::cpu);
}

CacheMemory memory_of(const CacheOptions& options, std::int64_t tokens) {
  check(options);
  require(tokens >= 0 && tokens < (std::int64_t{1} << 31), "tokens: expected 0 to 2^31 - 1, got {}",
          tokens);
  const Geometry g = geometry_of(options);
  CacheMemory memory;
  const SequenceState state = state_after({}, g.residual, tokens, true);
  add_memory(memory, g, state);
  const std::int64_t pages = (state.keys_quantized + page_tokens - 1) / page_tokens;
  memory.reserved = pages * g.kv_heads * block_layout(g).bytes + ring_bytes(g);
  const std::int64_t sequences = options.layers * options.batch;
  memory.quantized *= sequences;
  memory.residual *= sequences;
  memory.reserved *= sequences;
  memory.dense *= sequences;
  return memory;
}

// ---- set-up ----

KiviCache::KiviCache(const CacheOptions& options) {
  check(options);
  state_ = std::make_unique<State>(options);
}
KiviCache::~KiviCache() = default;
KiviCache::KiviCache(KiviCache&&) noexcept = default;
KiviCache& KiviCache::operator=(KiviCache&&) noexcept = default;

const CacheOptions& KiviCache::options() const {
  return state_->options;
}

std::int64_t KiviCache::batch() const {
  return static_cast<std::int64_t>(state_->layers.front().states.size());
}

CacheState KiviCache::state(std::int64_t layer, std::int64_t sequence) const {
  const SequenceState& s = state_->layer(layer).states[state_->checked_sequence(layer, sequence)];
  return {s.length, s.keys_quantized, s.length - s.keys_quantized, s.values_quantized,
          s.length - s.values_quantized};
}

CacheMemory KiviCache::memory() const {
  CacheMemory memory;
  for (const Layer& layer : state_->layers) {
    for (const SequenceState& state : layer.states) add_memory(memory, state_->geometry, state);
    memory.reserved += static_cast<std::int64_t>(layer.table.nbytes());
    if (layer.device_table.defined()) {
      memory.reserved += static_cast<std::int64_t>(layer.device_table.nbytes());
    }
  }
  memory.reserved += state_->pages.reserved_bytes() + state_->rings.reserved_bytes();
  return memory;
}

// ---- appending ----

void KiviCache::State::extend(std::int64_t layer_index, const at::Tensor& keys,
                              const at::Tensor& values, const std::vector<std::int64_t>& lengths,
                              bool settled) {
  Layer& to = layer(layer_index);
  const auto batch = static_cast<std::int64_t>(to.states.size());
  check_tokens(keys, "keys", batch);
  check_tokens(values, "values", batch);
  require(keys.size(2) == values.size(2), "values: expected {} tokens as the keys have, got {}",
          keys.size(2), values.size(2));
  const std::int64_t tokens = keys.size(2);
  require(lengths.empty() || static_cast<std::int64_t>(lengths.size()) == batch,
          "lengths: expected one for each of {} sequences, got {}", batch, lengths.size());
  std::vector<std::int32_t> counts;
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t count = lengths.empty() ? tokens : lengths[static_cast<std::size_t>(b)];
    require(count >= 0 && count <= tokens, "lengths: expected 0 to {}, got {} for sequence {}",
            tokens, count, b);
    check_capacity(to.states[static_cast<std::size_t>(b)].length + count, b);
    counts.push_back(static_cast<std::int32_t>(count));
  }

  const at::Tensor dense_keys = with_dense_rows(keys);
  const at::Tensor dense_values = with_dense_rows(values);
  ExtendProblem problem;
  problem.keys = rows_of(dense_keys);
  problem.values = rows_of(dense_values);
  problem.tokens = tokens;
  problem.settled = settled;
  const double all = std::accumulate(counts.begin(), counts.end(), 0.0);
  const Trace trace(
      settled ? "kivi.prefill" : "kivi.append",
      options.device.is_cuda() ? "cuda" : to_string(extend_kernels.level()).c_str(),
      [&] {
        return fmt::format("b={} h={} t={} d={}", batch, options.kv_heads, tokens,
                           options.head_dim);
      },
      extend_work(options, all), options.device.is_cuda() ? Device::cuda : Device::cpu);
  run_extend(to, problem, counts, !lengths.empty());
}

void KiviCache::State::run_extend(Layer& to, ExtendProblem& problem,
                                  const std::vector<std::int32_t>& counts, bool ragged) {
  std::vector<SequenceState> next;
  for (std::size_t b = 0; b < to.states.size(); ++b) {
    next.push_back(state_after(to.states[b], geometry.residual, counts[b], problem.settled));
  }
  make_writable(to, next);
  problem.cache = view(to);
  if (options.device.is_cuda()) {
    extend_on_cuda(to, problem, counts, ragged, next);
    return;
  }
  problem.counts = ragged ? counts.data() : nullptr;
  ExtendKernel* const kernel = extend_kernels.pick();
  const auto batch = static_cast<std::int64_t>(to.states.size());
  at::parallel_for(0, batch * geometry.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      kernel(problem, item / geometry.kv_heads, item % geometry.kv_heads);
    }
  });
  to.states = std::move(next);
}

void KiviCache::prefill(std::int64_t layer, const at::Tensor& keys, const at::Tensor& values,
                        const std::vector<std::int64_t>& lengths) {
  state_->extend(layer, keys, values, lengths, true);
}

void KiviCache::append(std::int64_t layer, const at::Tensor& keys, const at::Tensor& values,
                       const std::vector<std::int64_t>& lengths) {
  state_->extend(layer, keys, values, lengths, false);
}

void KiviCache::settle(std::int64_t layer) {
  Layer& to = state_->layer(layer);
  ExtendProblem problem;
  problem.settled = true;
  state_->run_extend(to, problem, std::vector<std::int32_t>(to.states.size(), 0), false);
}

// ---- attention ----

namespace {

// Pages of one work item on the CPU. Fixed, so that results do not depend on the threads.
constexpr std::int64_t pages_per_item = 8;

struct Item {
  std::int64_t sequence;
  std::int64_t kv_head;
  std::int64_t first_page;
  std::int64_t last_page;
};

std::vector<Item> items_of(const CacheView& cache) {
  std::vector<Item> items;
  for (std::int64_t b = 0; b < cache.batch; ++b) {
    const std::int64_t pages = (cache.states[b].length + page_tokens - 1) / page_tokens;
    for (std::int64_t head = 0; head < cache.geometry.kv_heads; ++head) {
      // An empty sequence has one item too: its outputs are 0.
      for (std::int64_t page = 0; page == 0 || page < pages; page += pages_per_item) {
        items.push_back({b, head, page, std::min(page + pages_per_item, pages)});
      }
    }
  }
  return items;
}

// One row of out from the parts [begin, end) of its keys.
void merge_row(const float* begin, const float* end, std::int64_t step, int head_dim, float* out) {
  float greatest = -INFINITY;
  for (const float* part = begin; part != end; part += step) greatest = std::max(greatest, part[0]);
  float sum = 0;
  std::fill_n(out, head_dim, 0.0F);
  for (const float* part = begin; part != end; part += step) {
    // A part that saw nothing has m = -inf and sum 0; NaN passes on.
    const float factor = part[1] == 0 ? 0 : std::exp(part[0] - greatest);
    sum += factor * part[1];
    for (int d = 0; d < head_dim; ++d) out[d] += factor * part[2 + d];
  }
  if (sum == 0) return;
  for (int d = 0; d < head_dim; ++d) out[d] /= sum;
}

void attend_on_cpu(const AttendProblem& problem) {
  const CacheView& cache = problem.cache;
  const int head_dim = cache.geometry.head_dim;
  const std::int64_t row_size = head_dim + 2;
  const std::int64_t item_size = problem.rows() * row_size;
  const std::vector<Item> items = items_of(cache);
  const at::Tensor partial =
      at::empty({static_cast<std::int64_t>(items.size()), item_size}, at::kFloat);
  float* const parts = partial.mutable_data_ptr<float>();
  AttendKernel* const kernel = attend_kernels.pick();
  at::parallel_for(0, static_cast<std::int64_t>(items.size()), 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t i = begin; i < end; ++i) {
                       const Item& item = items[static_cast<std::size_t>(i)];
                       kernel(problem, item.sequence, item.kv_head, item.first_page, item.last_page,
                              parts + i * item_size);
                     }
                   });
  auto* out = static_cast<float*>(problem.out);
  for (std::size_t first = 0; first < items.size();) {
    std::size_t last = first;
    while (last < items.size() && items[last].sequence == items[first].sequence &&
           items[last].kv_head == items[first].kv_head) {
      ++last;
    }
    const std::int64_t head =
        items[first].sequence * cache.geometry.kv_heads + items[first].kv_head;
    for (std::int64_t row = 0; row < problem.rows(); ++row) {
      const float* begin = parts + static_cast<std::int64_t>(first) * item_size + row * row_size;
      const float* end = parts + static_cast<std::int64_t>(last) * item_size + row * row_size;
      merge_row(begin, end, item_size, head_dim, out + (head * problem.rows() + row) * head_dim);
    }
    first = last;
  }
}

// Numbers to add: f32, broadcast; what is not expanded keeps stride 0.
at::Tensor ready_mask(const at::Tensor& mask, at::IntArrayRef shape, const at::Device& device) {
  require(mask.device() == device, "mask: expected it on {}, got {}", device.str(),
          mask.device().str());
  require(mask.dim() <= 4, "mask: expected at most 4 dimensions, got {}", mask.dim());
  at::Tensor numbers = mask;
  if (mask.scalar_type() == at::kBool) {
    numbers = at::zeros(mask.sizes(), mask.options().dtype(at::kFloat))
                  .masked_fill_(mask.logical_not(), -INFINITY);
  }
  require(at::isFloatingType(numbers.scalar_type()), "mask: expected bool or floating, got {}",
          c10::toString(mask.scalar_type()));
  const std::int64_t offset = 4 - mask.dim();
  for (std::int64_t i = 0; i < mask.dim(); ++i) {
    const std::int64_t wanted = shape[static_cast<std::size_t>(offset + i)];
    require(mask.size(i) == 1 || mask.size(i) == wanted,
            "mask: expected a shape that broadcasts to [{}], got [{}]", fmt::join(shape, ", "),
            fmt::join(mask.sizes(), ", "));
  }
  return numbers.to(at::kFloat).expand(shape);
}

Work attend_work(const KiviCache& cache, const at::Tensor& queries, std::int64_t longest) {
  const CacheMemory one = memory_of(cache.options(), longest);
  const double share = static_cast<double>(cache.batch()) /
                       static_cast<double>(cache.options().layers * cache.options().batch);
  const double queried = static_cast<double>(queries.numel()) * static_cast<double>(longest);
  return {4 * queried, share * static_cast<double>(one.bytes())};
}

}  // namespace

at::Tensor KiviCache::attend(std::int64_t layer_index, const at::Tensor& queries,
                             const AttendOptions& options) const {
  State& s = *state_;
  Layer& from = s.layer(layer_index);
  const auto batch = static_cast<std::int64_t>(from.states.size());
  require_dense(queries, "queries");
  require(queries.device() == s.device, "queries: expected them on {}, got {}", s.device.str(),
          queries.device().str());
  require(queries.scalar_type() == at::kHalf || queries.scalar_type() == at::kBFloat16 ||
              queries.scalar_type() == at::kFloat,
          "queries: expected dtype float16, bfloat16 or float32, got {}",
          c10::toString(queries.scalar_type()));
  require(queries.dim() == 4 && queries.size(0) == batch && queries.size(3) == s.options.head_dim &&
              queries.size(1) >= 1 && queries.size(1) % s.options.kv_heads == 0,
          "queries: expected [{}, a multiple of {} heads, tokens, {}], got [{}]", batch,
          s.options.kv_heads, s.options.head_dim, fmt::join(queries.sizes(), ", "));
  if (queries.numel() == 0) return at::empty_like(queries, at::MemoryFormat::Contiguous);

  const bool on_cuda = s.options.device.is_cuda();
  const at::Tensor rows = with_dense_rows(queries.to(on_cuda ? s.options.type : at::kFloat));
  at::Tensor out = at::empty(queries.sizes(), rows.options());
  const std::int64_t longest = s.longest(from);
  AttendProblem problem;
  problem.cache = s.view(from);
  problem.queries = rows_of(rows);
  problem.heads_per_kv = static_cast<int>(queries.size(1) / s.options.kv_heads);
  problem.query_tokens = queries.size(2);
  problem.causal = options.causal;
  problem.scale = static_cast<float>(
      options.scale.value_or(1 / std::sqrt(static_cast<double>(s.options.head_dim))));
  require(std::isfinite(problem.scale), "scale: expected a finite number");
  at::Tensor mask;
  if (options.mask.defined()) {
    mask = ready_mask(options.mask, {batch, queries.size(1), queries.size(2), longest}, s.device);
    problem.mask = mask.const_data_ptr<float>();
    problem.mask_batch_stride = mask.stride(0);
    problem.mask_head_stride = mask.stride(1);
    problem.mask_query_stride = mask.stride(2);
    problem.mask_key_stride = mask.stride(3);
  }
  problem.out = out.mutable_data_ptr();
  const Trace trace(
      "kivi.attend", on_cuda ? "cuda" : to_string(attend_kernels.level()).c_str(),
      [&] {
        return fmt::format("b={} h={}/{} m={} t={} d={} k{}v{}", batch, queries.size(1),
                           s.options.kv_heads, queries.size(2), longest, s.options.head_dim,
                           s.options.key_bits, s.options.value_bits);
      },
      verbose() ? attend_work(*this, queries, longest) : Work{},
      on_cuda ? Device::cuda : Device::cpu);
  if (on_cuda) {
    s.attend_on_cuda(problem, longest);
  } else {
    attend_on_cpu(problem);
  }
  return out.to(queries.scalar_type());
}

}  // namespace einkorn::kivi
