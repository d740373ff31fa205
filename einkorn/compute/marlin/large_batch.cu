// Rows by the hundred. Weights become numbers in registers and enter wgmma as its operand A (rows
// of it are output columns); the activations, arranged beforehand as swizzled tiles, are operand B
// in shared memory. One warp copies tiles in bulk, two warpgroups multiply: 256 columns x 128 rows
// a block.
//
// Where whole tiles fill the processors evenly each block takes whole tiles; otherwise blocks take
// equal runs of steps and leave f32 sums of shared tiles, which a second kernel adds in the order
// of rows: the same bits in every run.
#include <algorithm>

#include "einkorn/compute/marlin/marlin_cuda.h"
#include "einkorn/compute/marlin/marlin_device.cuh"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::marlin {
namespace {

constexpr int tile_columns = 256;
constexpr int tile_rows = 128;
constexpr int step_inputs = 64;
constexpr int consumers = 256;
constexpr int threads = consumers + 128;
constexpr int a_bytes = tile_rows * step_inputs * 2;
constexpr int out_stride = tile_columns * 2 + 16;  // bytes; shifts the rows to other banks
constexpr int out_bytes = tile_rows * out_stride;

struct Params {
  const std::uint32_t* words;
  const std::uint16_t* scales;
  const std::uint16_t* zeros;
  bool scales_are_bf16;
  const unsigned char* a;  // arranged
  int inputs;
  int outputs;
  int rows;
  int slabs;
  int group_shift;  // log2 of rows a group; 30: all rows
  int groups;
  void* out;
  const float* bias;
  float* partial;
  int column_tiles;
  int row_tiles;
  int tile_steps;
  int blocks;
  bool whole_tiles;

  __host__ __device__ int tiles() const { return column_tiles * row_tiles; }
};

// ---- activations as tiles ----

// Tile (row tile, step): 128 rows of 64 inputs, 128 bytes a row, 16-byte chunk c of row r at c ^ r
// % 8.
__global__ void arrange_kernel(const uint4* a, std::int64_t a_stride, int rows, int inputs,
                               int steps, uint4* arranged) {
  const int step = blockIdx.x;
  const int row_tile = blockIdx.y;
  uint4* tile = arranged + (static_cast<std::int64_t>(row_tile) * steps + step) * (a_bytes / 16);
  for (int i = threadIdx.x; i < a_bytes / 16; i += blockDim.x) {
    const int row = i / 8;
    const int chunk = i % 8;
    const int from_row = row_tile * tile_rows + row;
    const int k = step * step_inputs + chunk * 8;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (from_row < rows && k < inputs) value = __ldg(a + (from_row * a_stride + k) / 8);
    tile[row * 8 + (chunk ^ (row & 7))] = value;
  }
}

// ---- barriers and bulk copies ----

__device__ __forceinline__ void init_barrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void arrive_expecting(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait_barrier(std::uint32_t barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void copy_bulk(std::uint32_t to, const void* from, int bytes,
                                          std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void synchronize_consumers() {
  asm volatile("bar.sync 1, %0;\n" ::"n"(consumers) : "memory");
}

// ---- wgmma ----

// 128-byte rows, swizzled; atoms of eight rows follow each other.
__device__ __forceinline__ std::uint64_t describe_rows(std::uint32_t address) {
  constexpr std::uint64_t swizzle_128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t atom_stride = std::uint64_t{1024 >> 4} << 32;
  return swizzle_128 | atom_stride | std::uint64_t{1} << 16 | ((address & 0x3ffff) >> 4);
}
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int pending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}
__device__ __forceinline__ void multiply_tiles(half_t, float (&d)[64], const std::uint32_t (&a)[4],
                                               std::uint64_t rows) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
        "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));
}
__device__ __forceinline__ void multiply_tiles(bf16_t, float (&d)[64], const std::uint32_t (&a)[4],
                                               std::uint64_t rows) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
        "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));
}

__device__ __forceinline__ void store_transposed(std::uint32_t address, std::uint32_t r0,
                                                 std::uint32_t r1, std::uint32_t r2,
                                                 std::uint32_t r3) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(address),
      "r"(r0), "r"(r1), "r"(r2), "r"(r3)
      : "memory");
}

// ---- the blocks' shares ----

__device__ __forceinline__ std::int64_t first_step(const Params& p, int block) {
  const std::int64_t tiles = p.tiles();
  if (p.whole_tiles) return block * tiles / p.blocks * p.tile_steps;
  return block * tiles * p.tile_steps / p.blocks;
}
__device__ __forceinline__ int owner(const Params& p, std::int64_t step) {
  const std::int64_t steps = static_cast<std::int64_t>(p.tiles()) * p.tile_steps;
  return static_cast<int>(((step + 1) * p.blocks - 1) / steps);
}

__device__ __forceinline__ bool is_shared(const Params& p, int tile) {
  if (p.whole_tiles) return false;
  const std::int64_t begin = static_cast<std::int64_t>(tile) * p.tile_steps;
  return owner(p, begin) != owner(p, begin + p.tile_steps - 1);
}
// Sums of a block's first or last tile, the only ones that it can share: [fours][consumers].
constexpr int share_fours = tile_rows * tile_columns / 4 / consumers;
__device__ __forceinline__ float4* share_of(const Params& p, int block, int tile) {
  const int is_second = first_step(p, block) / p.tile_steps != tile;
  return reinterpret_cast<float4*>(p.partial) +
         static_cast<std::int64_t>(2 * block + is_second) * (share_fours * consumers);
}

template <typename T, int bits_, bool has_zeros_>
struct Config {
  using Element = T;
  static constexpr int bits = bits_;
  static constexpr bool has_zeros = has_zeros_;
  static constexpr int slab_bytes = 128 * bits;
  static constexpr int weight_bytes = step_inputs / 16 * 4 * slab_bytes;
  static constexpr int stage_bytes = a_bytes + weight_bytes;
  static constexpr int stages = (224 * 1024 - out_bytes) / stage_bytes;
  static constexpr int shared_bytes = 1024 + stages * stage_bytes + out_bytes;
};

template <typename C>
struct Shared {
  std::uint32_t stages;  // aligned to 1024
  std::uint32_t out;
  std::uint32_t full;  // barriers
  std::uint32_t empty;

  __device__ std::uint32_t a(int slot) const { return stages + slot * C::stage_bytes; }
  __device__ std::uint32_t weights(int slot) const { return a(slot) + a_bytes; }
};

// One thread: tiles into free stages.
template <typename C>
__device__ void produce(const Params& p, const Shared<C>& shared, std::int64_t begin,
                        std::int64_t end) {
  const std::int64_t row_bytes = static_cast<std::int64_t>(p.slabs) * C::slab_bytes;
  const int input_tiles = (p.inputs + 15) / 16;
  int slot = 0;
  int parity = 1;  // the first round finds all stages free
  for (std::int64_t step = begin; step < end; ++step) {
    const int tile = static_cast<int>(step / p.tile_steps);
    const int k_step = static_cast<int>(step % p.tile_steps);
    const int slab = tile / p.row_tiles * 4;
    const int row_tile = tile % p.row_tiles;
    const int width = min(4, p.slabs - slab) * C::slab_bytes;
    const int count = min(step_inputs / 16, input_tiles - k_step * (step_inputs / 16));
    const std::uint32_t barrier = shared.full + slot * 8;
    wait_barrier(shared.empty + slot * 8, parity);
    arrive_expecting(barrier, a_bytes + count * width);
    copy_bulk(shared.a(slot),
              p.a + (static_cast<std::int64_t>(row_tile) * p.tile_steps + k_step) * a_bytes,
              a_bytes, barrier);
    const char* from = reinterpret_cast<const char*>(p.words) +
                       k_step * (step_inputs / 16) * row_bytes +
                       static_cast<std::int64_t>(slab) * C::slab_bytes;
    for (int i = 0; i < count; ++i) {
      copy_bulk(shared.weights(slot) + i * 4 * C::slab_bytes, from + i * row_bytes, width, barrier);
    }
    if (++slot == C::stages) {
      slot = 0;
      parity ^= 1;
    }
  }
}

// A warp owns 32 columns: tiles 2 (w % 2) and 2 (w % 2) + 1 of slab w / 2 of its warpgroup's two.
template <typename C>
struct Consumer {
  using T = typename C::Element;
  using P = typename Pair<T>::Type;
  const Params& p;
  const Shared<C>& shared;
  int lane = threadIdx.x % 32;
  int warp = threadIdx.x / 32 % 4;
  int group = threadIdx.x / 128;
  int local_slab = group * 2 + warp / 2;  // of the tile's four
  float sums[2][64];
  P scales[4];  // of (tile, half): 2 tile + half
  Zeros<T, C::bits> zeros[C::has_zeros ? 2 : 1];

  __device__ Consumer(const Params& params, const Shared<C>& memory) : p(params), shared(memory) {
    if constexpr (!C::has_zeros) {
      zeros[0].set(0, 1 << (C::bits - 1));
      zeros[0].set(1, 1 << (C::bits - 1));
    }
    clear();
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 64; ++i) sums[0][i] = sums[1][i] = 0;
  }

  // Scales or zero points of this lane's four columns in the group of input k.
  __device__ __forceinline__ uint2 fetch(const std::uint16_t* from, int slab, int k) const {
    const int in_range = min(k >> p.group_shift, p.groups - 1);
    const std::int64_t at = (static_cast<std::int64_t>(in_range) * p.slabs + slab) * 64;
    return __ldg(reinterpret_cast<const uint2*>(from + at + lane / 4 * 8 + warp % 2 * 4));
  }

  __device__ __forceinline__ void use(uint2 scale, uint2 zero) {
    const uint4 four = make_uint4(scale.x, scale.y, zero.x, zero.y);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scales[i] = Pair<T>::broadcast(number_at(four, i, p.scales_are_bf16));
      if constexpr (C::has_zeros) {
        zeros[i / 2].set(i % 2, number_at(four, i + 4, p.scales_are_bf16));
      }
    }
  }

  // Fragments of 16 inputs of both tiles, not yet scaled.
  __device__ __forceinline__ void dequantize(std::uint32_t weights, int i,
                                             std::uint32_t (&a)[2][4]) {
    const std::uint32_t at = weights + (i * 4 + local_slab) * C::slab_bytes +
                             (lane * 4 + warp % 2 * 2) * (C::bits / 4) * 4;
    std::uint32_t words[2 * C::bits / 4];
    if constexpr (C::bits == 4) {
      asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];\n" : "=r"(words[0]), "=r"(words[1]) : "r"(at));
    } else {
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "r"(at));
    }
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      Dequantizer<T, C::bits>::apply(words + tile * C::bits / 4, zeros[C::has_zeros ? tile : 0],
                                     a[tile]);
    }
  }

  __device__ __forceinline__ void scale(const std::uint32_t (&codes)[2][4],
                                        std::uint32_t (&a)[2][4]) const {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        a[tile][r] = as_bits(__hmul2(as_pair<P>(codes[tile][r]), scales[2 * tile + r % 2]));
      }
    }
  }

  __device__ __forceinline__ void run(std::int64_t begin, std::int64_t end) {
    int slot = 0;
    int previous = -1;
    int parity = 0;
    for (std::int64_t step = begin; step < end;) {
      const int tile = static_cast<int>(step / p.tile_steps);
      const int slab = min(tile / p.row_tiles * 4 + local_slab, p.slabs - 1);
      const std::int64_t tile_end = std::int64_t{tile + 1} * p.tile_steps;
      const std::int64_t last = tile_end < end ? tile_end : end;
      int k = static_cast<int>(step % p.tile_steps) * step_inputs;
      uint2 next_scales[2], next_zeros[2] = {};
      std::uint32_t a[2][2][4];
      prefetch(slab, k, next_scales, next_zeros);
      for (; step < last; ++step, k += step_inputs) {
        use(next_scales[0], next_zeros[0]);
        const uint2 second_scales = next_scales[1];
        const uint2 second_zeros = next_zeros[1];
        prefetch(slab, k + step_inputs, next_scales, next_zeros);
        wait_barrier(shared.full + slot * 8, parity);
#pragma unroll
        for (int i = 0; i < step_inputs / 16; ++i) {
          // Only the scaling waits until the product that read a[i % 2] is done.
          if (i == 2 && p.group_shift == 5) use(second_scales, second_zeros);
          std::uint32_t codes[2][4];
          dequantize(shared.weights(slot), i, codes);
          wait_products<1>();
          if (i == 1 && previous >= 0) release(previous);
          scale(codes, a[i % 2]);
          const std::uint64_t rows = describe_rows(shared.a(slot) + i * 32);
          begin_products();
          multiply_tiles(T(), sums[0], a[i % 2][0], rows);
          multiply_tiles(T(), sums[1], a[i % 2][1], rows);
          commit_products();
        }
        previous = slot;
        if (++slot == C::stages) {
          slot = 0;
          parity ^= 1;
        }
      }
      wait_products<0>();
      release(previous);
      previous = -1;
      finish(tile);
      clear();
    }
  }

  __device__ __forceinline__ void prefetch(int slab, int k, uint2 (&scale)[2],
                                           uint2 (&zero)[2]) const {
    scale[0] = fetch(p.scales, slab, k);
    if constexpr (C::has_zeros) zero[0] = fetch(p.zeros, slab, k);
    if (p.group_shift == 5) {
      scale[1] = fetch(p.scales, slab, k + 32);
      if constexpr (C::has_zeros) zero[1] = fetch(p.zeros, slab, k + 32);
    }
  }

  __device__ __forceinline__ void release(int slot) const {
    if (threadIdx.x % 128 == 0) arrive(shared.empty + slot * 8);
  }

  __device__ __forceinline__ void finish(int tile) {
    if (is_shared(p, tile)) return leave_share(tile);
    const int column = tile / p.row_tiles * tile_columns;
    const int row = tile % p.row_tiles * tile_rows;
    const int local_column = local_slab * 64 + warp % 2 * 32;
    if (p.bias != nullptr) add_bias(column + local_column);
    // Nobody still reads the previous tile's results.
    synchronize_consumers();
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      std::uint32_t r[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* two = sums[j / 2] + i * 4 + j % 2 * 2;
        r[j] = pack(two[0], two[1]);
      }
      const std::uint32_t at =
          shared.out + (i * 8 + lane % 8) * out_stride + (local_column + lane / 8 * 8) * 2;
      store_transposed(at, r[0], r[1], r[2], r[3]);
    }
    synchronize_consumers();
    write_out(row, column);
  }

  static __device__ __forceinline__ std::uint32_t pack(float low, float high) {
    const T l = Pair<T>::from_float(low);
    const T h = Pair<T>::from_float(high);
    return *reinterpret_cast<const std::uint16_t*>(&l) |
           static_cast<std::uint32_t>(*reinterpret_cast<const std::uint16_t*>(&h)) << 16;
  }

  __device__ __forceinline__ void add_bias(int column) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int n = column + j * 8 + lane / 4;
      const float bias = n < p.outputs ? p.bias[n] : 0;
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        sums[j / 2][i * 4 + j % 2 * 2] += bias;
        sums[j / 2][i * 4 + j % 2 * 2 + 1] += bias;
      }
    }
  }

  __device__ __forceinline__ void write_out(int row, int column) const {
    const int count = min(tile_rows, p.rows - row);
    T* out = static_cast<T*>(p.out);
    const bool whole = p.outputs % 8 == 0;
    for (int i = threadIdx.x; i < count * (tile_columns / 8); i += consumers) {
      const int r = i / (tile_columns / 8);
      const int n = column + i % (tile_columns / 8) * 8;
      const std::uint32_t at = shared.out + r * out_stride + (n - column) * 2;
      std::uint32_t v[4];
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                   : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                   : "r"(at));
      T* to = out + static_cast<std::int64_t>(row + r) * p.outputs + n;
      if (whole) {
        if (n < p.outputs) *reinterpret_cast<uint4*>(to) = make_uint4(v[0], v[1], v[2], v[3]);
        continue;
      }
      for (int j = 0; j < 8; ++j) {
        if (n + j >= p.outputs) break;
        const auto bits = static_cast<std::uint16_t>(j % 2 == 0 ? v[j / 2] : v[j / 2] >> 16);
        *reinterpret_cast<std::uint16_t*>(to + j) = bits;
      }
    }
  }

  __device__ __forceinline__ void leave_share(int tile) const {
    float4* own = share_of(p, blockIdx.x, tile) + threadIdx.x;
#pragma unroll
    for (int i = 0; i < share_fours; ++i) {
      const float* four = sums[i / 16] + i % 16 * 4;
      __stcg(own + i * consumers, make_float4(four[0], four[1], four[2], four[3]));
    }
  }
};

// Adds the shares of tiles that several blocks worked on, in the order of their rows of W. A block
// of threads takes one four of each consumer's sums.
template <typename T>
__global__ void __launch_bounds__(consumers) add_shares_kernel(const __grid_constant__ Params p) {
  const int tile = blockIdx.y;
  if (!is_shared(p, tile)) return;
  const std::int64_t begin = static_cast<std::int64_t>(tile) * p.tile_steps;
  const int first = owner(p, begin);
  const int last = owner(p, begin + p.tile_steps - 1);
  const int i = blockIdx.x;
  const int thread = threadIdx.x;
  // The place of these four in the tile, as Consumer holds them.
  const int lane = thread % 32;
  const int warp = thread / 32 % 4;
  const int row = tile % p.row_tiles * tile_rows + i % 16 * 8 + lane % 4 * 2;
  const int column = tile / p.row_tiles * tile_columns + (thread / 128 * 2 + warp / 2) * 64 +
                     warp % 2 * 32 + i / 16 * 16 + lane / 4;
  if (tile % p.row_tiles * tile_rows + i % 16 * 8 >= p.rows) return;
  float4 sum = make_float4(0, 0, 0, 0);
  constexpr int at_once = 4;  // loads in flight
  for (int block = first; block <= last; block += at_once) {
    float4 parts[at_once];
#pragma unroll
    for (int b = 0; b < at_once; ++b) {
      parts[b] = block + b <= last ? __ldcg(share_of(p, block + b, tile) + i * consumers + thread)
                                   : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int b = 0; b < at_once; ++b) {
      sum.x += parts[b].x;
      sum.y += parts[b].y;
      sum.z += parts[b].z;
      sum.w += parts[b].w;
    }
  }
  const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int m = row + j % 2;
    const int n = column + j / 2 * 8;
    if (m < p.rows && n < p.outputs) {
      const float bias = p.bias != nullptr ? p.bias[n] : 0;
      static_cast<T*>(p.out)[static_cast<std::int64_t>(m) * p.outputs + n] =
          Pair<T>::from_float(values[j] + bias);
    }
  }
}

template <typename C>
__global__ void __launch_bounds__(threads, 1) large_batch_kernel(const __grid_constant__ Params p) {
  extern __shared__ unsigned char dynamic[];
  __shared__ __align__(8) std::uint64_t barriers[2 * C::stages];
  Shared<C> shared;
  shared.stages = (shared_address(dynamic) + 1023) / 1024 * 1024;
  shared.out = shared.stages + C::stages * C::stage_bytes;
  shared.full = shared_address(barriers);
  shared.empty = shared.full + C::stages * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < C::stages; ++i) {
      init_barrier(shared.full + i * 8, 1);
      init_barrier(shared.empty + i * 8, 2);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  __syncthreads();
  const std::int64_t begin = first_step(p, blockIdx.x);
  const std::int64_t end = first_step(p, blockIdx.x + 1);
  // The warpgroup that copies hands its registers to those that multiply.
  if (threadIdx.x >= consumers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;\n");
    if (threadIdx.x == consumers) produce<C>(p, shared, begin, end);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;\n");
    Consumer<C> consumer(p, shared);
    consumer.run(begin, end);
  }
}

template <typename C>
void launch(const Params& p, cudaStream_t stream) {
  check_cuda(cudaFuncSetAttribute(large_batch_kernel<C>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, C::shared_bytes),
             "marlin large batch: shared memory");
  large_batch_kernel<C><<<p.blocks, threads, C::shared_bytes, stream>>>(p);
  check_launch("marlin large batch");
  if (p.whole_tiles) return;
  add_shares_kernel<typename C::Element>
      <<<dim3(share_fours, static_cast<unsigned>(p.tiles())), consumers, 0, stream>>>(p);
  check_launch("marlin add shares");
}

template <typename T>
void launch_for(const Params& p, int bits, cudaStream_t stream) {
  const bool has_zeros = p.zeros != nullptr;
  if (bits == 4) {
    has_zeros ? launch<Config<T, 4, true>>(p, stream) : launch<Config<T, 4, false>>(p, stream);
  } else {
    has_zeros ? launch<Config<T, 8, true>>(p, stream) : launch<Config<T, 8, false>>(p, stream);
  }
}

int shift_of(std::int64_t group_size) {
  constexpr int all_rows = 30;
  return group_size == 32 ? 5 : group_size == 64 ? 6 : group_size == 128 ? 7 : all_rows;
}

int divide_up(std::int64_t value, std::int64_t by) {
  return static_cast<int>((value + by - 1) / by);
}

}  // namespace

std::size_t arranged_bytes(std::int64_t rows, std::int64_t inputs) {
  return static_cast<std::size_t>(divide_up(rows, tile_rows)) *
         static_cast<std::size_t>(divide_up(inputs, step_inputs)) * a_bytes;
}

void launch_large_batch(const CudaProduct& product, void* arranged, int processors, void* stream) {
  const CudaMatrix& w = product.weights;
  const auto queue = static_cast<cudaStream_t>(stream);
  Params p = {};
  p.words = w.words;
  p.scales = static_cast<const std::uint16_t*>(w.scales);
  p.zeros = static_cast<const std::uint16_t*>(w.zeros);
  p.scales_are_bf16 = w.scale_type == HalfType::bf16;
  p.a = static_cast<const unsigned char*>(arranged);
  p.inputs = static_cast<int>(w.inputs);
  p.outputs = static_cast<int>(w.outputs);
  p.rows = static_cast<int>(product.rows);
  p.slabs = static_cast<int>(w.columns / 64);
  p.group_shift = shift_of(w.group_size);
  p.groups = w.group_size == 0 ? 1 : divide_up(w.inputs, w.group_size);
  p.out = product.out;
  p.bias = product.bias;
  p.partial = reinterpret_cast<float*>(static_cast<char*>(product.workspace) + counter_bytes);
  p.column_tiles = divide_up(p.slabs, 4);
  p.row_tiles = divide_up(p.rows, tile_rows);
  p.tile_steps = divide_up(p.inputs, step_inputs);
  // Whole tiles, where the last round leaves at most a tenth of the processors idle.
  const int rounds = divide_up(p.tiles(), processors);
  p.whole_tiles = p.tiles() * 10 >= rounds * processors * 9;
  p.blocks = static_cast<int>(std::min<std::int64_t>(
      processors, p.whole_tiles ? p.tiles() : std::int64_t{p.tiles()} * p.tile_steps));
  const dim3 grid(static_cast<unsigned>(p.tile_steps), static_cast<unsigned>(p.row_tiles));
  arrange_kernel<<<grid, 256, 0, queue>>>(static_cast<const uint4*>(product.a), product.a_stride,
                                          p.rows, p.inputs, p.tile_steps,
                                          static_cast<uint4*>(arranged));
  check_launch("marlin arrange");
  product.type == HalfType::f16 ? launch_for<half_t>(p, w.bits, queue)
                                : launch_for<bf16_t>(p, w.bits, queue);
}

}  // namespace einkorn::marlin
