// The cache in the published packing, and as a safetensors file.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/kivi/cache_state_internal.h"
#include "einkorn/compute/kivi/dequantized_cache_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"
#include "einkorn/nn/weights.h"

namespace einkorn::kivi {
namespace {

constexpr const char* format_name = "einkorn.kivi 1";

// The tensors of a sequence in `pack`'s shapes, and how a key or value number is addressed.
PackedSequence empty_sequence(const Geometry& g, const SequenceState& state, at::ScalarType type) {
  const auto packed = [&](std::int64_t rows, std::int64_t size, int bits) {
    PackedGroups groups;
    groups.codes = at::empty({g.kv_heads, rows, size * bits / 32}, at::kInt);
    groups.scale = at::empty({g.kv_heads, rows, size / g.group}, type);
    groups.minimum = at::empty_like(groups.scale);
    return groups;
  };
  PackedSequence sequence;
  sequence.keys = packed(g.head_dim, state.keys_quantized, g.key_bits);
  sequence.values = packed(state.values_quantized, g.head_dim, g.value_bits);
  sequence.key_residual =
      at::empty({g.kv_heads, state.length - state.keys_quantized, g.head_dim}, type);
  sequence.value_residual =
      at::empty({g.kv_heads, state.length - state.values_quantized, g.head_dim}, type);
  return sequence;
}

// One kv head of a sequence in CPU memory: its numbers by token and channel.
struct HeadAccess {
  const CacheView& cache;
  std::int64_t head;
  Geometry g = cache.geometry;
  BlockLayout layout = block_layout(g);

  std::byte* block(std::int64_t token) const {
    return block_of(cache, 0, head, token / page_tokens);
  }

  std::uint32_t* key_chunk(std::int64_t token, int d) const {
    const int row = static_cast<int>(token % page_tokens);
    return reinterpret_cast<std::uint32_t*>(block(token) + layout.key_codes) +
           chunk_offset(g, g.key_bits, row / tile_tokens, d / chunk_size);
  }
  CodePlace key_place(std::int64_t token, int d) const {
    return code_place(g.key_bits, key_row(static_cast<int>(token % tile_tokens)), d % chunk_size);
  }
  std::int64_t key_number(std::int64_t token, int d) const {
    return token % page_tokens / g.group * g.head_dim + d;
  }

  std::uint32_t* value_chunk(std::int64_t token, int d) const {
    const int column = static_cast<int>(token % page_tokens);
    return reinterpret_cast<std::uint32_t*>(block(token) + layout.value_codes) +
           chunk_offset(g, g.value_bits, column / tile_tokens, d / chunk_size);
  }
  CodePlace value_place(std::int64_t token, int d) const {
    return code_place(g.value_bits, value_row(d % chunk_size),
                      static_cast<int>(token % tile_tokens));
  }
  std::int64_t value_number(std::int64_t token, int group) const {
    const std::int64_t tile = token % page_tokens / tile_tokens;
    return (tile * (g.head_dim / g.group) + group) * tile_tokens + token % tile_tokens;
  }
};

std::byte* bytes_of(const at::Tensor& tensor, std::int64_t index) {
  return static_cast<std::byte*>(tensor.data_ptr()) +
         index * static_cast<std::int64_t>(tensor.element_size());
}

void copy_number(const Geometry& g, std::byte* from, std::byte* to) {
  std::memcpy(to, from, static_cast<std::size_t>(element_bytes(g.element)));
}

enum class Direction { out_of_cache, into_cache };

// Moves one head's keys between the cache and `packed`, number by number.
void move_keys(const HeadAccess& head, const PackedSequence& packed, std::int64_t tokens,
               Direction direction) {
  const Geometry& g = head.g;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(tokens));
  for (int d = 0; d < g.head_dim; ++d) {
    const std::int64_t row = head.head * g.head_dim + d;
    auto* words = reinterpret_cast<std::uint8_t*>(
        bytes_of(packed.keys.codes, row * packed.keys.codes.size(2)));
    if (direction == Direction::into_cache) {
      compute::unpack_bits(g.key_bits, tokens, words, codes.data());
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::uint8_t& code = codes[static_cast<std::size_t>(t)];
      if (direction == Direction::into_cache) {
        put_code(head.key_chunk(t, d), g.key_bits, head.key_place(t, d), code);
      } else {
        code = static_cast<std::uint8_t>(
            get_code(head.key_chunk(t, d), g.key_bits, head.key_place(t, d)));
      }
      if (t % g.group != 0) continue;
      const std::int64_t inside = head.key_number(t, d) * element_bytes(g.element);
      const std::int64_t outside = row * packed.keys.scale.size(2) + t / g.group;
      std::byte* own[] = {head.block(t) + head.layout.key_scale + inside,
                          head.block(t) + head.layout.key_minimum + inside};
      std::byte* published[] = {bytes_of(packed.keys.scale, outside),
                                bytes_of(packed.keys.minimum, outside)};
      for (int i = 0; i < 2; ++i) {
        const bool in = direction == Direction::into_cache;
        copy_number(g, in ? published[i] : own[i], in ? own[i] : published[i]);
      }
    }
    if (direction == Direction::out_of_cache) {
      compute::pack_bits(g.key_bits, tokens, codes.data(), words);
    }
  }
}

void move_values(const HeadAccess& head, const PackedSequence& packed, std::int64_t tokens,
                 Direction direction) {
  const Geometry& g = head.g;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(g.head_dim));
  const bool in = direction == Direction::into_cache;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t row = head.head * tokens + t;
    auto* words = reinterpret_cast<std::uint8_t*>(
        bytes_of(packed.values.codes, row * packed.values.codes.size(2)));
    if (in) compute::unpack_bits(g.value_bits, g.head_dim, words, codes.data());
    for (int d = 0; d < g.head_dim; ++d) {
      std::uint8_t& code = codes[static_cast<std::size_t>(d)];
      if (in) {
        put_code(head.value_chunk(t, d), g.value_bits, head.value_place(t, d), code);
      } else {
        code = static_cast<std::uint8_t>(
            get_code(head.value_chunk(t, d), g.value_bits, head.value_place(t, d)));
      }
    }
    if (!in) compute::pack_bits(g.value_bits, g.head_dim, codes.data(), words);
    for (int group = 0; group < g.head_dim / g.group; ++group) {
      const std::int64_t inside = head.value_number(t, group) * element_bytes(g.element);
      const std::int64_t outside = row * packed.values.scale.size(2) + group;
      std::byte* own[] = {head.block(t) + head.layout.value_scale + inside,
                          head.block(t) + head.layout.value_minimum + inside};
      std::byte* published[] = {bytes_of(packed.values.scale, outside),
                                bytes_of(packed.values.minimum, outside)};
      for (int i = 0; i < 2; ++i) {
        copy_number(g, in ? published[i] : own[i], in ? own[i] : published[i]);
      }
    }
  }
}

void move_residual(const HeadAccess& head, const PackedSequence& packed, const SequenceState& state,
                   Direction direction) {
  const Geometry& g = head.g;
  std::byte* ring = ring_of(head.cache, 0, head.head);
  const auto bytes = static_cast<std::size_t>(g.head_dim * element_bytes(g.element));
  const auto move = [&](std::byte* own, std::byte* published) {
    const bool in = direction == Direction::into_cache;
    std::memcpy(in ? own : published, in ? published : own, bytes);
  };
  for (std::int64_t t = state.keys_quantized; t < state.length; ++t) {
    const std::int64_t row = head.head * packed.key_residual.size(1) + t - state.keys_quantized;
    move(key_row_of(head.cache, ring, t), bytes_of(packed.key_residual, row * g.head_dim));
  }
  for (std::int64_t t = state.values_quantized; t < state.length; ++t) {
    const std::int64_t row = head.head * packed.value_residual.size(1) + t - state.values_quantized;
    move(value_row_of(head.cache, ring, t), bytes_of(packed.value_residual, row * g.head_dim));
  }
}

void move_sequence(HostSequence& host, const Geometry& g, const PackedSequence& packed,
                   Direction direction) {
  const CacheView view = host.view(g);
  at::parallel_for(0, g.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t head = begin; head < end; ++head) {
      const HeadAccess access{view, head};
      move_keys(access, packed, host.state.keys_quantized, direction);
      move_values(access, packed, host.state.values_quantized, direction);
      move_residual(access, packed, host.state, direction);
    }
  });
}

// Dense on the CPU, with the shape that `like` has.
at::Tensor fitting(const at::Tensor& tensor, const at::Tensor& like, const char* name) {
  require(tensor.defined() && tensor.sizes() == like.sizes() &&
              tensor.scalar_type() == like.scalar_type(),
          "{}: expected {} [{}], got {}", name, c10::toString(like.scalar_type()),
          fmt::join(like.sizes(), ", "),
          tensor.defined() ? fmt::format("{} [{}]", c10::toString(tensor.scalar_type()),
                                         fmt::join(tensor.sizes(), ", "))
                           : "none");
  return tensor.cpu().contiguous();
}

SequenceState counters_of(const PackedSequence& packed, const Geometry& g) {
  for (const at::Tensor* tensor :
       {&packed.keys.codes, &packed.values.codes, &packed.key_residual, &packed.value_residual}) {
    require(tensor->defined() && tensor->dim() == 3, "packed sequence: expected 3 dimensions");
  }
  const std::int64_t keys = packed.keys.codes.size(2) * 32 / g.key_bits;
  const std::int64_t values = packed.values.codes.size(1);
  const std::int64_t length = keys + packed.key_residual.size(1);
  require(keys % g.group == 0 && keys % g.residual == 0,
          "key_codes: {} quantised keys are no multiple of residual {}", keys, g.residual);
  require(values <= keys && length - values == packed.value_residual.size(1) &&
              length - keys <= g.residual && length - values <= g.residual + 1 &&
              length < (std::int64_t{1} << 31),
          "packed sequence: {} + {} keys and {} + {} values do not fit residual {}", keys,
          packed.key_residual.size(1), values, packed.value_residual.size(1), g.residual);
  SequenceState state;
  state.length = static_cast<std::int32_t>(length);
  state.keys_quantized = static_cast<std::int32_t>(keys);
  state.values_quantized = static_cast<std::int32_t>(values);
  return state;
}

}  // namespace

PackedSequence KiviCache::pack(std::int64_t layer_index, std::int64_t sequence) const {
  const std::size_t at = state_->checked_sequence(layer_index, sequence);
  HostSequence host = state_->to_host(state_->layer(layer_index), at);
  const PackedSequence packed = empty_sequence(state_->geometry, host.state, state_->options.type);
  move_sequence(host, state_->geometry, packed, Direction::out_of_cache);
  return packed;
}

void KiviCache::unpack(std::int64_t layer_index, std::int64_t sequence,
                       const PackedSequence& packed) {
  State& s = *state_;
  const std::size_t at = s.checked_sequence(layer_index, sequence);
  Layer& layer = s.layer(layer_index);
  require(layer.states[at].length == 0, "sequence {}: holds {} tokens, expected an empty one",
          sequence, layer.states[at].length);
  const SequenceState state = counters_of(packed, s.geometry);
  s.check_capacity(state.length, sequence);
  const PackedSequence like = empty_sequence(s.geometry, state, s.options.type);
  PackedSequence ready;
  ready.keys = {fitting(packed.keys.codes, like.keys.codes, "key_codes"),
                fitting(packed.keys.scale, like.keys.scale, "key_scale"),
                fitting(packed.keys.minimum, like.keys.minimum, "key_minimum")};
  ready.values = {fitting(packed.values.codes, like.values.codes, "value_codes"),
                  fitting(packed.values.scale, like.values.scale, "value_scale"),
                  fitting(packed.values.minimum, like.values.minimum, "value_minimum")};
  ready.key_residual = fitting(packed.key_residual, like.key_residual, "key_residual");
  ready.value_residual = fitting(packed.value_residual, like.value_residual, "value_residual");

  std::vector<SequenceState> next = layer.states;
  next[at] = state;
  s.make_writable(layer, next);
  HostSequence host = s.to_host(layer, at);
  host.state = state;
  move_sequence(host, s.geometry, ready, Direction::into_cache);
  s.from_host(layer, at, host);
  s.upload_states(layer);
}

// ---- files ----

namespace {

struct NamedTensor {
  const char* name;
  at::Tensor PackedSequence::* residual;
  PackedGroups PackedSequence::* groups;
  at::Tensor PackedGroups::* part;

  at::Tensor& of(PackedSequence& sequence) const {
    return groups ? sequence.*groups.*part : sequence.*residual;
  }
};

const NamedTensor named_tensors[] = {
    {"key_codes", nullptr, &PackedSequence::keys, &PackedGroups::codes},
    {"key_scale", nullptr, &PackedSequence::keys, &PackedGroups::scale},
    {"key_minimum", nullptr, &PackedSequence::keys, &PackedGroups::minimum},
    {"value_codes", nullptr, &PackedSequence::values, &PackedGroups::codes},
    {"value_scale", nullptr, &PackedSequence::values, &PackedGroups::scale},
    {"value_minimum", nullptr, &PackedSequence::values, &PackedGroups::minimum},
    {"key_residual", &PackedSequence::key_residual, nullptr, nullptr},
    {"value_residual", &PackedSequence::value_residual, nullptr, nullptr},
};

std::string tensor_name(std::int64_t layer, std::int64_t sequence, const char* name) {
  return fmt::format("layer.{}.sequence.{}.{}", layer, sequence, name);
}

using Metadata = std::map<std::string, std::string>;

// The one list of options that files carry.
template <typename Options, typename Visit>
void for_each_number(Options& options, const Visit& visit) {
  visit("layers", options.layers);
  visit("batch", options.batch);
  visit("kv_heads", options.kv_heads);
  visit("head_dim", options.head_dim);
  visit("max_length", options.max_length);
  visit("key_bits", options.key_bits);
  visit("value_bits", options.value_bits);
  visit("group", options.group);
  visit("residual", options.residual);
}

constexpr std::pair<const char*, at::ScalarType> dtype_names[] = {
    {"float16", at::kHalf}, {"bfloat16", at::kBFloat16}, {"float32", at::kFloat}};

CacheOptions options_from(const Metadata& metadata, const std::string& path) {
  const auto text = [&](const std::string& name) {
    const auto found = metadata.find(name);
    if (found == metadata.end()) throw BadFile(path, "metadata", fmt::format("no '{}'", name));
    return found->second;
  };
  if (text("format") != format_name) {
    throw BadFile(path, "metadata",
                  fmt::format("format '{}', expected '{}'", text("format"), format_name));
  }
  CacheOptions options;
  for_each_number(options, [&]<typename Number>(const char* name, Number& value) {
    const auto number = to_integer(text(name));
    if (!number || *number < 0 || *number >= (std::int64_t{1} << 31)) {
      throw BadFile(path, "metadata", fmt::format("{} '{}'", name, text(name)));
    }
    value = static_cast<Number>(*number);
  });
  const auto* type = std::find_if(std::begin(dtype_names), std::end(dtype_names),
                                  [&](const auto& entry) { return entry.first == text("dtype"); });
  if (type == std::end(dtype_names)) {
    throw BadFile(path, "metadata", fmt::format("dtype '{}'", text("dtype")));
  }
  options.type = type->second;
  return options;
}

}  // namespace

void KiviCache::save(const OutputPath& path) const {
  nn::NamedTensors tensors;
  for (std::int64_t layer = 0; layer < state_->options.layers; ++layer) {
    for (std::int64_t b = 0; b < batch(); ++b) {
      PackedSequence packed = pack(layer, b);
      for (const NamedTensor& one : named_tensors) {
        tensors.emplace(tensor_name(layer, b, one.name), one.of(packed));
      }
    }
  }
  CacheOptions options = state_->options;
  options.batch = batch();
  Metadata metadata = {{"format", format_name}};
  for_each_number(options, [&](const char* name, const auto& value) {
    metadata[name] = std::to_string(value);
  });
  for (const auto& [name, type] : dtype_names) {
    if (type == options.type) metadata["dtype"] = name;
  }
  nn::write_tensors(path, tensors, metadata);
}

KiviCache KiviCache::load(const std::filesystem::path& path, at::Device device) {
  Metadata metadata;
  const nn::NamedTensors tensors = nn::read_tensors(path, &metadata);
  CacheOptions options = options_from(metadata, path.string());
  require_available(device.is_cuda() ? Device::cuda : Device::cpu);
  options.device = device;
  try {
    check(options);
  } catch (const InvalidArgument& problem) {
    throw BadFile(path.string(), "metadata", problem.what());
  }
  const std::int64_t expected = options.layers * options.batch * std::ssize(named_tensors);
  if (std::ssize(tensors) != expected) {
    throw BadFile(path.string(), "",
                  fmt::format("{} tensors, expected {} for {} layers of {} sequences",
                              tensors.size(), expected, options.layers, options.batch));
  }
  KiviCache cache(options);
  for (std::int64_t layer = 0; layer < options.layers; ++layer) {
    for (std::int64_t b = 0; b < options.batch; ++b) {
      PackedSequence packed;
      for (const NamedTensor& one : named_tensors) {
        const std::string name = tensor_name(layer, b, one.name);
        const auto found = tensors.find(name);
        if (found == tensors.end()) throw BadFile(path.string(), "", "no tensor '" + name + "'");
        one.of(packed) = found->second;
      }
      try {
        cache.unpack(layer, b, packed);
      } catch (const InvalidArgument& problem) {
        throw BadFile(path.string(), fmt::format("layer {}, sequence {}", layer, b),
                      problem.what());
      }
    }
  }
  return cache;
}

}  // namespace einkorn::kivi
