// New tokens into the cache: groups that are complete are quantised into their pages, the newest
// tokens go to the residual. A block serves one sequence and kv head, or some of its pages.
#include <algorithm>

#include "einkorn/compute/kivi/device_numbers.cuh"
#include "einkorn/compute/kivi/kivi_cuda.h"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::kivi {
namespace {

constexpr int threads = 256;
// With this many new tokens at most, one block does all of its sequence and kv head.
constexpr std::int64_t few_tokens = 64;

struct Phases {
  bool quantize = true;
  bool store = true;  // rows of the residual, and the counters
};

// Where tokens lie before they are quantised: the residual up to `known`, then the new rows.
template <typename T>
struct Source {
  const ExtendProblem& problem;
  int sequence;
  int kv_head;
  int known;
  T* ring;

  __device__ Source(const ExtendProblem& p, int sequence, int kv_head, int known)
      : problem(p), sequence(sequence), kv_head(kv_head), known(known) {
    const Geometry& g = p.cache.geometry;
    auto* all = reinterpret_cast<T*>(p.cache.table[sequence * p.cache.table_stride]);
    ring = all + kv_head * ring_rows(g) * g.head_dim;
  }
  __device__ T* key_slot(int token) const {
    const Geometry& g = problem.cache.geometry;
    return ring + std::int64_t{token % g.residual} * g.head_dim;
  }
  __device__ T* value_slot(int token) const {
    const Geometry& g = problem.cache.geometry;
    return ring + (g.residual + std::int64_t{token % (g.residual + 1)}) * g.head_dim;
  }
  __device__ const T* row(const Rows& rows, int token) const {
    return static_cast<const T*>(rows.data) + sequence * rows.batch_stride +
           kv_head * rows.head_stride + (token - known) * rows.token_stride;
  }
  __device__ const T* key(int token) const {
    return token < known ? key_slot(token) : row(problem.keys, token);
  }
  __device__ const T* value(int token) const {
    return token < known ? value_slot(token) : row(problem.values, token);
  }
  __device__ char* block(int page) const {
    const CacheView& cache = problem.cache;
    auto* blocks = reinterpret_cast<char*>(cache.table[sequence * cache.table_stride + 1 + page]);
    return blocks + kv_head * block_layout(cache.geometry).bytes;
  }
};

// What the threads of a block share about the page in hand.
template <typename T>
struct Page {
  const T* rows[page_tokens];           // the tokens' keys, then their values
  DeviceScale scales[page_tokens * 8];  // of keys [group][D], of values [token][group]
};

// Codes of 4 rows (q) x 8 columns (e) of one lane, put into its words; bits of columns outside
// [first, last) stay as they were.
template <int bits>
__device__ __forceinline__ void put_words(std::uint32_t* own, const unsigned (&codes)[4][8],
                                          int first, int last) {
  constexpr int low_bits = bits == 3 ? 2 : bits;
  constexpr int codes_per_byte = 8 / low_bits;
  constexpr std::uint32_t field = (1U << low_bits) - 1;
  std::uint32_t value[bits] = {};
  std::uint32_t mask[bits] = {};
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const std::uint32_t counts = e >= first && e < last ? ~0U : 0U;
    const int s = e / 4;
    const int byte = e % 2 * 2 + e % 4 / 2;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int u = 4 * s + q;
      const int shift = 8 * byte + u % codes_per_byte * low_bits;
      value[u / codes_per_byte] |= (codes[q][e] & field & counts) << shift;
      mask[u / codes_per_byte] |= (field & counts) << shift;
      if constexpr (bits == 3) {
        const int high_shift = 8 * byte + 2 * q + s;
        value[2] |= (codes[q][e] >> 2 & 1U & counts) << high_shift;
        mask[2] |= (1U & counts) << high_shift;
      }
    }
  }
#pragma unroll
  for (int word = 0; word < bits; ++word) {
    std::uint32_t& to = own[word * lanes];
    to = first <= 0 && last >= 8 ? value[word] : (to & ~mask[word]) | value[word];
  }
}

__device__ __forceinline__ void put_words(std::uint32_t* own, int bits,
                                          const unsigned (&codes)[4][8], int first, int last) {
  switch (bits) {
    case 1:
      return put_words<1>(own, codes, first, last);
    case 2:
      return put_words<2>(own, codes, first, last);
    case 3:
      return put_words<3>(own, codes, first, last);
    case 4:
      return put_words<4>(own, codes, first, last);
    default:
      return put_words<8>(own, codes, first, last);
  }
}

// Keys [first, last) of a page, whole groups: scales by threads that own channels, then codes.
template <typename T>
__device__ void quantize_keys(const Source<T>& source, int page, int first, int last,
                              Page<T>& shared) {
  const Geometry& g = source.problem.cache.geometry;
  const BlockLayout layout = block_layout(g);
  char* block = source.block(page);
  for (int t = first + static_cast<int>(threadIdx.x); t < last; t += threads) {
    shared.rows[t] = source.key(page * page_tokens + t);
  }
  __syncthreads();
  const int shift = g.group == 32 ? 5 : (g.group == 64 ? 6 : 7);
  const int first_group = first >> shift;
  // Two channels a thread.
  const int pairs = g.head_dim / 2;
  for (int item = static_cast<int>(threadIdx.x); item < ((last >> shift) - first_group) * pairs;
       item += threads) {
    const int group = first_group + item / pairs;
    const int d = item % pairs * 2;
    DeviceRange range[2];
#pragma unroll 16
    for (int t = 0; t < g.group; ++t) {
      float numbers[2];
      load_numbers(shared.rows[(group << shift) + t] + d, numbers);
      range[0].add(numbers[0]);
      range[1].add(numbers[1]);
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const DeviceScale found =
          device_group_scale<T>(range[k].least, range[k].most, range[k].finite, g.key_bits);
      const int index = group * g.head_dim + d + k;
      shared.scales[index] = found;
      from_float(found.scale, reinterpret_cast<T*>(block + layout.key_scale) + index);
      from_float(found.minimum, reinterpret_cast<T*>(block + layout.key_minimum) + index);
    }
  }
  __syncthreads();
  const int chunks = g.head_dim / chunk_size;
  auto* words = reinterpret_cast<std::uint32_t*>(block + layout.key_codes);
  for (int item = static_cast<int>(threadIdx.x);
       item < (last - first) / tile_tokens * chunks * lanes; item += threads) {
    const int lane = item % lanes;
    const int chunk = item / lanes % chunks;
    const int tile = first / tile_tokens + item / lanes / chunks;
    const int channel = chunk * chunk_size + 8 * (lane % 4);
    const DeviceScale* scales =
        shared.scales + ((tile * tile_tokens) >> shift) * g.head_dim + channel;
    float numbers[4][8];
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int r = lane / 4;
      const int token = tile * tile_tokens + 8 * (r / 2) + 2 * q + r % 2;
      load_numbers(shared.rows[token] + channel, numbers[q]);
    }
    unsigned codes[4][8];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const DeviceCoder code(scales[e], g.key_bits);
#pragma unroll
      for (int q = 0; q < 4; ++q) codes[q][e] = code(numbers[q][e]);
    }
    put_words(words + chunk_offset(g, g.key_bits, tile, chunk) + lane, g.key_bits, codes, 0, 8);
  }
  __syncthreads();
}

// Values of tokens [first, last) of a page.
template <typename T>
__device__ void quantize_values(const Source<T>& source, int page, int first, int last,
                                Page<T>& shared) {
  const Geometry& g = source.problem.cache.geometry;
  const BlockLayout layout = block_layout(g);
  const int groups = g.head_dim / g.group;
  char* block = source.block(page);
  for (int t = first + static_cast<int>(threadIdx.x); t < last; t += threads) {
    shared.rows[t] = source.value(page * page_tokens + t);
  }
  __syncthreads();
  for (int item = static_cast<int>(threadIdx.x); item < (last - first) * groups; item += threads) {
    const int token = first + item / groups;
    const int group = item % groups;
    const T* numbers = shared.rows[token] + group * g.group;
    DeviceRange range;
#pragma unroll 4
    for (int d = 0; d < g.group; d += 8) {
      float eight[8];
      load_numbers(numbers + d, eight);
#pragma unroll
      for (int e = 0; e < 8; ++e) range.add(eight[e]);
    }
    const DeviceScale found =
        device_group_scale<T>(range.least, range.most, range.finite, g.value_bits);
    shared.scales[token * groups + group] = found;
    const int index = (token / tile_tokens * groups + group) * tile_tokens + token % tile_tokens;
    from_float(found.scale, reinterpret_cast<T*>(block + layout.value_scale) + index);
    from_float(found.minimum, reinterpret_cast<T*>(block + layout.value_minimum) + index);
  }
  __syncthreads();
  const int chunks = g.head_dim / chunk_size;
  const int first_tile = first / tile_tokens;
  const int tiles = (last - 1) / tile_tokens - first_tile + 1;
  auto* words = reinterpret_cast<std::uint32_t*>(block + layout.value_codes);
  for (int item = static_cast<int>(threadIdx.x); item < tiles * chunks * lanes; item += threads) {
    const int lane = item % lanes;
    const int chunk = item / lanes % chunks;
    const int tile = first_tile + item / lanes / chunks;
    const int channel = chunk * chunk_size + 4 * (lane / 4);
    const int start = tile * tile_tokens + 8 * (lane % 4);
    if (first >= start + 8 || last <= start) continue;
    unsigned codes[4][8] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (start + e < first || start + e >= last) continue;
      float numbers[4];
      load_numbers(shared.rows[start + e] + channel, numbers);
      const DeviceCoder code(shared.scales[(start + e) * groups + channel / g.group], g.value_bits);
#pragma unroll
      for (int q = 0; q < 4; ++q) codes[q][e] = code(numbers[q]);
    }
    put_words(words + chunk_offset(g, g.value_bits, tile, chunk) + lane, g.value_bits, codes,
              first - start, last - start);
  }
  __syncthreads();
}

template <typename T>
__device__ void copy_row(const T* from, T* to, int size) {
  for (int d = static_cast<int>(threadIdx.x); d < size; d += threads) to[d] = from[d];
}

template <typename T>
__global__ void __launch_bounds__(threads)
    extend_kernel(const __grid_constant__ ExtendProblem problem, const Phases phases) {
  __shared__ Page<T> shared;
  const Geometry& g = problem.cache.geometry;
  const int sequence = static_cast<int>(blockIdx.z);
  const int kv_head = static_cast<int>(blockIdx.y);
  const SequenceState state = problem.cache.states[sequence];
  const std::int64_t tokens = problem.counts ? problem.counts[sequence] : problem.tokens;
  const SequenceState next = state_after(state, g.residual, tokens, problem.settled);
  const Source<T> source(problem, sequence, kv_head, state.length);

  if (phases.quantize) {
    const int pages = (next.keys_quantized + page_tokens - 1) / page_tokens;
    // Values lie behind keys, so their page is the first.
    for (int page = state.values_quantized / page_tokens + static_cast<int>(blockIdx.x);
         page < pages; page += static_cast<int>(gridDim.x)) {
      const int start = page * page_tokens;
      const int first_key = max(state.keys_quantized - start, 0);
      const int last_key = min(next.keys_quantized - start, page_tokens);
      if (first_key < last_key) quantize_keys(source, page, first_key, last_key, shared);
      const int first_value = max(state.values_quantized - start, 0);
      const int last_value = min(next.values_quantized - start, page_tokens);
      if (first_value < last_value) {
        quantize_values(source, page, first_value, last_value, shared);
      }
    }
  }
  if (!phases.store) return;
  // A new row may take the place of one that was quantised just now.
  __syncthreads();
  for (int t = max(state.length, next.keys_quantized) + static_cast<int>(blockIdx.x);
       t < next.length; t += static_cast<int>(gridDim.x)) {
    copy_row(source.key(t), source.key_slot(t), g.head_dim);
  }
  for (int t = max(state.length, next.values_quantized) + static_cast<int>(blockIdx.x);
       t < next.length; t += static_cast<int>(gridDim.x)) {
    copy_row(source.value(t), source.value_slot(t), g.head_dim);
  }
  if (threadIdx.x != 0) return;
  // All blocks of the sequence have read its state once the last one comes here.
  __threadfence();
  const unsigned last = gridDim.x * gridDim.y - 1;
  SequenceState* to = problem.cache.states + sequence;
  if (atomicInc(reinterpret_cast<unsigned*>(&to->ticket), last) != last) return;
  to->length = next.length;
  to->keys_quantized = next.keys_quantized;
  to->values_quantized = next.values_quantized;
}

template <typename T>
void launch(const ExtendProblem& problem, cudaStream_t stream) {
  const auto grid = [&](std::int64_t blocks) {
    return dim3(static_cast<unsigned>(blocks),
                static_cast<unsigned>(problem.cache.geometry.kv_heads),
                static_cast<unsigned>(problem.cache.batch));
  };
  if (problem.tokens <= few_tokens) {
    extend_kernel<T><<<grid(1), threads, 0, stream>>>(problem, {true, true});
    check_launch("kivi extend");
    return;
  }
  // Rows of the residual may only be overwritten once every block has read them.
  const std::int64_t pages = problem.tokens / page_tokens + 2;
  extend_kernel<T>
      <<<grid(std::min<std::int64_t>(pages, 1024)), threads, 0, stream>>>(problem, {true, false});
  check_launch("kivi extend: quantise");
  const std::int64_t rows = std::min<std::int64_t>(problem.cache.geometry.residual, 32);
  extend_kernel<T><<<grid(rows), threads, 0, stream>>>(problem, {false, true});
  check_launch("kivi extend: store");
}

}  // namespace

void launch_extend(const ExtendProblem& problem, void* stream) {
  if (problem.cache.geometry.element == Element::f16) {
    launch<__half>(problem, static_cast<cudaStream_t>(stream));
  } else {
    launch<__nv_bfloat16>(problem, static_cast<cudaStream_t>(stream));
  }
}

}  // namespace einkorn::kivi
