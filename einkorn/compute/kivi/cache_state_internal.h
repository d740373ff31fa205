// What a KiviCache holds, for the files that implement it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "einkorn/compute/kivi/kivi.h"
#include "einkorn/compute/kivi/kivi_kernels.h"
#include "einkorn/compute/kivi/page_pool_internal.h"

namespace einkorn::kivi {

Element element_of(at::ScalarType type);
Geometry geometry_of(const CacheOptions& options);

// Adds what one sequence in one layer takes; leaves `reserved`.
void add_memory(CacheMemory& memory, const Geometry& geometry, const SequenceState& state);

struct Layer {
  std::vector<SequenceState> states;
  std::vector<std::int32_t> rings;
  std::vector<std::vector<std::int32_t>> pages;
  // Addresses as CacheView wants them, i64 [batch, 1 + pages]; on CUDA with a copy on the device.
  at::Tensor table;
  at::Tensor device_table;
  at::Tensor device_states;  // i32 [batch, 4]; the device keeps them up to date itself
};

// Pages of one sequence in CPU memory: views on the CPU, copies on CUDA.
struct HostSequence {
  at::Tensor ring;
  std::vector<at::Tensor> pages;
  std::vector<std::uint64_t> table;
  SequenceState state;
  CacheView view(const Geometry& geometry);
};

struct KiviCache::State {
  explicit State(const CacheOptions& options);

  Layer& layer(std::int64_t index);
  std::size_t checked_sequence(std::int64_t layer_index, std::int64_t sequence);
  std::int64_t longest(const Layer& layer) const;
  void check_tokens(const at::Tensor& tensor, const char* name, std::int64_t batch) const;
  void check_capacity(std::int64_t length, std::int64_t sequence) const;

  void extend(std::int64_t layer_index, const at::Tensor& keys, const at::Tensor& values,
              const std::vector<std::int64_t>& lengths, bool settled);
  void run_extend(Layer& to, ExtendProblem& problem, const std::vector<std::int32_t>& counts,
                  bool ragged);

  // Makes sure that every sequence has all pages up to its next state, and owns alone those that
  // it will write.
  void make_writable(Layer& layer, const std::vector<SequenceState>& next);
  void add_page(Layer& layer, std::size_t sequence);
  void drop_pages(Layer& layer, std::size_t sequence, std::int64_t keep);
  // After a change of pages: the addresses, here and on the device.
  void set_address(Layer& layer, std::size_t sequence, std::size_t column, std::uint64_t address);
  void upload_table(Layer& layer);
  void upload_states(Layer& layer);
  CacheView view(Layer& layer);

  HostSequence to_host(const Layer& layer, std::size_t sequence) const;
  void from_host(Layer& layer, std::size_t sequence, const HostSequence& host);
  std::int64_t trim_sequence(Layer& layer, std::size_t sequence, std::int64_t length);

  void extend_on_cuda(Layer& to, ExtendProblem& problem, const std::vector<std::int32_t>& counts,
                      bool ragged, std::vector<SequenceState>& next);
  void attend_on_cuda(const AttendProblem& problem, std::int64_t longest);

  CacheOptions options;
  Geometry geometry;
  at::Device device;  // with its index
  PagePool pages;
  PagePool rings;
  std::vector<Layer> layers;
  bool table_changed = false;
  std::int64_t reserved_pages = 0;       // of each sequence, kept when tokens go
  std::map<void*, at::Tensor> counters;  // by stream; zero between calls
};

}  // namespace einkorn::kivi
