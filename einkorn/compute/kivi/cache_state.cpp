// Pages and counters of the cache: who owns what, and what moves where.
#include "einkorn/compute/kivi/cache_state_internal.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "einkorn/compute/kivi/dequantized_cache_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::kivi {
namespace {

std::int64_t pages_for(std::int64_t tokens) {
  return (tokens + page_tokens - 1) / page_tokens;
}

std::uint64_t address_of(const at::Tensor& bytes) {
  return reinterpret_cast<std::uint64_t>(bytes.const_data_ptr());
}

at::Device with_index(at::Device device) {
  return device.is_cuda() ? at::empty({0}, at::dtype(at::kByte).device(device)).device() : device;
}

}  // namespace

Element element_of(at::ScalarType type) {
  if (type == at::kHalf) return Element::f16;
  return type == at::kBFloat16 ? Element::bf16 : Element::f32;
}

Geometry geometry_of(const CacheOptions& options) {
  Geometry g;
  g.kv_heads = static_cast<int>(options.kv_heads);
  g.head_dim = static_cast<int>(options.head_dim);
  g.key_bits = options.key_bits;
  g.value_bits = options.value_bits;
  g.group = options.group;
  g.residual = static_cast<int>(options.residual);
  g.element = element_of(options.type);
  return g;
}

void add_memory(CacheMemory& memory, const Geometry& g, const SequenceState& state) {
  const std::int64_t numbers = std::int64_t{g.kv_heads} * g.head_dim;
  const std::int64_t size = element_bytes(g.element);
  const auto quantized = [&](std::int64_t tokens, int bits) {
    return tokens * numbers / 8 * bits + 2 * size * tokens * numbers / g.group;
  };
  memory.quantized +=
      quantized(state.keys_quantized, g.key_bits) + quantized(state.values_quantized, g.value_bits);
  memory.residual +=
      size * numbers *
      (std::int64_t{2} * state.length - state.keys_quantized - state.values_quantized);
  memory.dense += 2 * size * numbers * state.length;
}

CacheView HostSequence::view(const Geometry& geometry) {
  table = {address_of(ring)};
  for (const at::Tensor& page : pages) table.push_back(address_of(page));
  return {geometry, 1, table.data(), static_cast<std::int64_t>(table.size()), &state};
}

// ---- set-up and checks ----

KiviCache::State::State(const CacheOptions& given)
    : options(given),
      geometry(geometry_of(given)),
      device(with_index(given.device)),
      pages(geometry.kv_heads * block_layout(geometry).bytes, device),
      rings(ring_bytes(geometry), device),
      layers(static_cast<std::size_t>(given.layers)) {
  const auto batch = static_cast<std::size_t>(given.batch);
  rings.reserve(given.layers * given.batch);
  for (Layer& layer : layers) {
    layer.states.resize(batch);
    layer.pages.resize(batch);
    layer.table = at::zeros({given.batch, 1}, at::kLong);
    for (std::size_t b = 0; b < batch; ++b) {
      layer.rings.push_back(rings.allocate());
      set_address(layer, b, 0, rings.address(layer.rings.back()));
    }
    upload_table(layer);
    upload_states(layer);
  }
}

Layer& KiviCache::State::layer(std::int64_t index) {
  require(index >= 0 && index < options.layers, "layer: expected 0 to {}, got {}",
          options.layers - 1, index);
  return layers[static_cast<std::size_t>(index)];
}

std::size_t KiviCache::State::checked_sequence(std::int64_t layer_index, std::int64_t sequence) {
  const auto batch = static_cast<std::int64_t>(layer(layer_index).states.size());
  require(sequence >= 0 && sequence < batch, "sequence: expected 0 to {}, got {}", batch - 1,
          sequence);
  return static_cast<std::size_t>(sequence);
}

std::int64_t KiviCache::State::longest(const Layer& of) const {
  std::int64_t length = 0;
  for (const SequenceState& state : of.states)
    length = std::max<std::int64_t>(length, state.length);
  return length;
}

void KiviCache::State::check_tokens(const at::Tensor& tensor, const char* name,
                                    std::int64_t batch) const {
  require_dense(tensor, name);
  require(tensor.device() == device, "{}: expected them on {}, got {}", name, device.str(),
          tensor.device().str());
  require(tensor.scalar_type() == options.type, "{}: expected dtype {} as the cache has, got {}",
          name, c10::toString(options.type), c10::toString(tensor.scalar_type()));
  require(tensor.dim() == 4 && tensor.size(0) == batch && tensor.size(1) == options.kv_heads &&
              tensor.size(3) == options.head_dim,
          "{}: expected [{}, {}, tokens, {}], got [{}]", name, batch, options.kv_heads,
          options.head_dim, fmt::join(tensor.sizes(), ", "));
}

void KiviCache::State::check_capacity(std::int64_t length, std::int64_t sequence) const {
  const std::int64_t most =
      options.max_length > 0 ? options.max_length : (std::int64_t{1} << 31) - 1;
  require(length <= most, "sequence {}: {} tokens exceed the cache's max_length {}", sequence,
          length, most);
}

// ---- pages and addresses ----

void KiviCache::State::set_address(Layer& of, std::size_t sequence, std::size_t column,
                                   std::uint64_t address) {
  const auto wanted = static_cast<std::int64_t>(column) + 1;
  if (wanted > of.table.size(1)) {
    // Room for twice as many, so that the table is rarely made anew.
    at::Tensor wider = at::zeros({of.table.size(0), 2 * wanted}, at::kLong);
    wider.narrow(1, 0, of.table.size(1)).copy_(of.table);
    of.table = wider;
  }
  auto* addresses = static_cast<std::uint64_t*>(of.table.mutable_data_ptr());
  addresses[static_cast<std::int64_t>(sequence) * of.table.size(1) +
            static_cast<std::int64_t>(column)] = address;
  table_changed = true;
}

void KiviCache::State::add_page(Layer& of, std::size_t sequence) {
  std::vector<std::int32_t>& own = of.pages[sequence];
  own.push_back(pages.allocate());
  set_address(of, sequence, own.size(), pages.address(own.back()));
}

void KiviCache::State::drop_pages(Layer& of, std::size_t sequence, std::int64_t keep) {
  std::vector<std::int32_t>& own = of.pages[sequence];
  while (static_cast<std::int64_t>(own.size()) > keep) {
    pages.release(own.back());
    own.pop_back();
  }
}

void KiviCache::State::make_writable(Layer& of, const std::vector<SequenceState>& next) {
  for (std::size_t b = 0; b < next.size(); ++b) {
    const SequenceState& now = of.states[b];
    if (next[b].length > now.length) {
      const std::int32_t ring = rings.own(of.rings[b]);
      if (ring != of.rings[b]) set_address(of, b, 0, rings.address(ring));
      of.rings[b] = ring;
    }
    std::vector<std::int32_t>& own = of.pages[b];
    const auto take = [&](std::int64_t first_token, std::int64_t last_token) {
      for (std::int64_t page = first_token / page_tokens; page < pages_for(last_token); ++page) {
        const auto at = static_cast<std::size_t>(page);
        while (at >= own.size()) add_page(of, b);
        const std::int32_t mine = pages.own(own[at]);
        if (mine != own[at]) set_address(of, b, at + 1, pages.address(mine));
        own[at] = mine;
      }
    };
    if (next[b].keys_quantized > now.keys_quantized) {
      take(now.keys_quantized, next[b].keys_quantized);
    }
    if (next[b].values_quantized > now.values_quantized) {
      take(now.values_quantized, next[b].values_quantized);
    }
  }
  if (table_changed) upload_table(of);
}

CacheView KiviCache::State::view(Layer& of) {
  CacheView view;
  view.geometry = geometry;
  view.batch = static_cast<std::int64_t>(of.states.size());
  const bool on_cuda = options.device.is_cuda();
  const at::Tensor& table = on_cuda ? of.device_table : of.table;
  view.table = static_cast<const std::uint64_t*>(table.const_data_ptr());
  view.table_stride = table.size(1);
  view.states =
      on_cuda ? static_cast<SequenceState*>(of.device_states.mutable_data_ptr()) : of.states.data();
  return view;
}

void KiviCache::reserve(std::int64_t length) {
  State& s = *state_;
  require(length >= 0, "length: expected at least 0, got {}", length);
  s.check_capacity(length, 0);
  std::int64_t missing = 0;
  for (const Layer& layer : s.layers) {
    for (const auto& own : layer.pages) {
      missing +=
          std::max<std::int64_t>(0, pages_for(length) - static_cast<std::int64_t>(own.size()));
    }
  }
  s.pages.reserve(missing);
  s.reserved_pages = std::max(s.reserved_pages, pages_for(length));
  for (Layer& layer : s.layers) {
    for (std::size_t b = 0; b < layer.states.size(); ++b) {
      while (static_cast<std::int64_t>(layer.pages[b].size()) < pages_for(length)) {
        s.add_page(layer, b);
      }
    }
    s.upload_table(layer);
  }
}

void KiviCache::capture_replayed(std::int64_t layer_index, std::int64_t tokens) {
  require(tokens >= 0, "tokens: expected at least 0, got {}", tokens);
  Layer& layer = state_->layer(layer_index);
  for (SequenceState& state : layer.states) {
    state = state_after(state, state_->geometry.residual, tokens, false);
  }
}

// ---- forks and trims ----

void KiviCache::fork(const std::vector<std::int64_t>& indices) {
  State& s = *state_;
  const std::int64_t old_batch = batch();
  require(!indices.empty(), "indices: expected at least one");
  for (const std::int64_t index : indices) {
    require(index >= 0 && index < old_batch, "indices: expected 0 to {}, got {}", old_batch - 1,
            index);
  }
  for (Layer& layer : s.layers) {
    Layer forked;
    for (const std::int64_t index : indices) {
      const auto from = static_cast<std::size_t>(index);
      forked.states.push_back(layer.states[from]);
      forked.rings.push_back(layer.rings[from]);
      forked.pages.push_back(layer.pages[from]);
      s.rings.retain(layer.rings[from]);
      for (const std::int32_t page : layer.pages[from]) s.pages.retain(page);
    }
    forked.table = layer.table.index_select(0, at::tensor(indices, at::kLong));
    for (std::size_t b = 0; b < layer.states.size(); ++b) {
      s.rings.release(layer.rings[b]);
      s.drop_pages(layer, b, 0);
    }
    layer = std::move(forked);
    s.upload_table(layer);
    s.upload_states(layer);
  }
}

HostSequence KiviCache::State::to_host(const Layer& of, std::size_t sequence) const {
  HostSequence host;
  host.ring = rings.bytes(of.rings[sequence]).cpu();
  for (const std::int32_t page : of.pages[sequence]) host.pages.push_back(pages.bytes(page).cpu());
  host.state = of.states[sequence];
  return host;
}

void KiviCache::State::from_host(Layer& of, std::size_t sequence, const HostSequence& host) {
  of.states[sequence] = host.state;
  if (options.device.is_cpu()) return;  // the host's pages are views
  rings.bytes(of.rings[sequence]).copy_(host.ring);
  for (std::size_t page = 0; page < host.pages.size(); ++page) {
    pages.bytes(of.pages[sequence][page]).copy_(host.pages[page]);
  }
}

// The keys of the block that the new end cuts, and the values beyond its start, become rows again.
std::int64_t KiviCache::State::trim_sequence(Layer& of, std::size_t sequence, std::int64_t length) {
  SequenceState& state = of.states[sequence];
  const auto new_length = static_cast<std::int32_t>(length);
  if (new_length >= state.keys_quantized) {
    state.length = new_length;
    return 0;
  }
  const std::int32_t ring = rings.own(of.rings[sequence]);
  if (ring != of.rings[sequence]) set_address(of, sequence, 0, rings.address(ring));
  of.rings[sequence] = ring;
  HostSequence host = to_host(of, sequence);
  const CacheView view = host.view(geometry);
  const std::int32_t block = new_length / geometry.residual * geometry.residual;
  for (int head = 0; head < geometry.kv_heads; ++head) {
    const DequantizedCache cache{view, 0, head};
    std::byte* rows = ring_of(view, 0, head);
    for (std::int32_t t = block; t < new_length; ++t) {
      for (int d = 0; d < geometry.head_dim; ++d) {
        store_number(geometry.element, key_row_of(view, rows, t), d,
                     static_cast<float>(cache.key(t, d)));
        if (t >= state.values_quantized) continue;
        store_number(geometry.element, value_row_of(view, rows, t), d,
                     static_cast<float>(cache.value(t, d)));
      }
    }
  }
  host.pages.clear();  // not changed
  host.state.length = new_length;
  host.state.keys_quantized = block;
  host.state.values_quantized = std::min(state.values_quantized, block);
  from_host(of, sequence, host);
  drop_pages(of, sequence, std::max(pages_for(block), reserved_pages));
  return new_length - block;
}

std::int64_t KiviCache::trim(std::int64_t length) {
  return trim(std::vector<std::int64_t>(static_cast<std::size_t>(batch()), length));
}

std::int64_t KiviCache::trim(const std::vector<std::int64_t>& lengths) {
  State& s = *state_;
  require(static_cast<std::int64_t>(lengths.size()) == batch(),
          "lengths: expected one for each of {} sequences, got {}", batch(), lengths.size());
  for (const Layer& layer : s.layers) {
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      require(lengths[b] >= 0 && lengths[b] <= layer.states[b].length,
              "length: expected 0 to {}, got {} for sequence {}", layer.states[b].length,
              lengths[b], b);
    }
  }
  std::int64_t restored = 0;
  for (Layer& layer : s.layers) {
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      restored += s.trim_sequence(layer, b, lengths[b]);
    }
    s.upload_table(layer);
    s.upload_states(layer);
  }
  return restored;
}

// ---- out of the cache ----

std::pair<at::Tensor, at::Tensor> KiviCache::dequantize(std::int64_t layer_index) const {
  State& s = *state_;
  const Layer& layer = s.layer(layer_index);
  const Geometry& g = s.geometry;
  const auto options = at::dtype(s.options.type);
  const std::int64_t length = s.longest(layer);
  at::Tensor keys = at::zeros({batch(), g.kv_heads, length, g.head_dim}, options);
  at::Tensor values = at::zeros_like(keys);
  for (std::size_t b = 0; b < layer.states.size(); ++b) {
    HostSequence host = s.to_host(layer, b);
    const CacheView view = host.view(g);
    at::parallel_for(0, g.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t head = begin; head < end; ++head) {
        const DequantizedCache cache{view, 0, head};
        const std::int64_t row = (static_cast<std::int64_t>(b) * g.kv_heads + head) * length;
        for (std::int64_t t = 0; t < host.state.length; ++t) {
          for (int d = 0; d < g.head_dim; ++d) {
            const std::int64_t at = (row + t) * g.head_dim + d;
            store_number(g.element, keys.mutable_data_ptr(), at,
                         static_cast<float>(cache.key(t, d)));
            store_number(g.element, values.mutable_data_ptr(), at,
                         static_cast<float>(cache.value(t, d)));
          }
        }
      }
    });
  }
  return {keys.to(s.device), values.to(s.device)};
}

}  // namespace einkorn::kivi
