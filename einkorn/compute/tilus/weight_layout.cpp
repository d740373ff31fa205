#include "einkorn/compute/tilus/weight_layout.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

constexpr std::int64_t warp_size = 32;

// Where each code of a tile comes from, in the order of threads and their places: offsets into the
// row-major matrix from the tile's first code.
std::vector<std::int64_t> code_offsets(const WeightTile& tile, std::int64_t columns) {
  const Layout codes = tile.codes();
  std::vector<std::int64_t> offsets;
  for (std::int64_t thread = 0; thread < warp_size; ++thread) {
    for (std::int64_t place = 0; place < codes.local_size(); ++place) {
      const Index index = codes.at(thread, place);
      offsets.push_back(index[0] * columns + index[1]);
    }
  }
  return offsets;
}

// Where each byte of a thread lies in the tile, threads first.
std::vector<std::int64_t> byte_offsets(const WeightTile& tile, int bits) {
  const Layout bytes = tile.bytes(bits);
  std::vector<std::int64_t> offsets;
  for (std::int64_t thread = 0; thread < warp_size; ++thread) {
    for (std::int64_t place = 0; place < bytes.local_size(); ++place) {
      offsets.push_back(bytes.at(thread, place)[0]);
    }
  }
  return offsets;
}

void require_bytes(const at::Tensor& bytes, const char* name) {
  require_dense(bytes, name);
  require(bytes.is_cpu() && bytes.scalar_type() == at::kByte, "{}: expected u8 on the CPU", name);
}

// How a matrix falls into tiles.
struct TileShape {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t down;    // tiles
  std::int64_t across;  // tiles
  std::int64_t bytes;   // of a tile
  std::vector<std::int64_t> codes_from;
  std::vector<std::int64_t> bytes_to;

  TileShape(const WeightTile& tile, int bits, std::int64_t row_count, std::int64_t column_count)
      : rows(row_count),
        columns(column_count),
        down(row_count / tile.tile_k),
        across(column_count / tile.tile_n),
        bytes(warp_size * tile.bytes_per_thread(bits)),
        codes_from(code_offsets(tile, column_count)),
        bytes_to(byte_offsets(tile, bits)) {}
};

}  // namespace

Layout pairs_first(const Layout& layout) {
  Index local = layout.local_modes();
  std::rotate(local.begin(), local.end() - 1, local.end());
  return Layout(layout.shape(), layout.mode_shape(), layout.spatial_modes(), local);
}

Layout WeightTile::codes() const {
  const Layout in_order = Layout::local({tile_k / 16, tile_n / 8}) * mma_b();
  return pairs_apart ? pairs_first(in_order) : in_order;
}

std::int64_t WeightTile::load_bytes(int bits) const {
  return std::gcd(bytes_per_thread(bits), std::int64_t{16});
}

Layout WeightTile::bytes(int bits) const {
  const std::int64_t inner = load_bytes(bits);
  return Layout::local({bytes_per_thread(bits) / inner}) * Layout::spatial({warp_size}) *
         Layout::local({inner});
}

void WeightTile::check(int bits) const {
  require(bits >= 1 && bits <= 8, "bits: expected 1 to 8, got {}", bits);
  require(tile_k >= 16 && tile_k % 16 == 0 && tile_k <= 1024,
          "tile_k: expected a multiple of 16 up to 1024, got {}", tile_k);
  require(tile_n >= 8 && tile_n % 8 == 0 && tile_n <= 1024,
          "tile_n: expected a multiple of 8 up to 1024, got {}", tile_n);
  require(codes_per_thread() * bits % 8 == 0,
          "a {} x {} tile gives each thread {} codes of {} bits, which are no whole bytes: take a "
          "larger tile",
          tile_k, tile_n, codes_per_thread(), bits);
}

at::Tensor change_layout(const at::Tensor& packed, int bits, std::int64_t rows,
                         std::int64_t columns, const WeightTile& tile) {
  tile.check(bits);
  require_bytes(packed, "packed");
  require(rows >= 0 && columns >= 0 && rows % tile.tile_k == 0 && columns % tile.tile_n == 0,
          "weights [{}, {}]: expected multiples of the tile, {} x {}", rows, columns, tile.tile_k,
          tile.tile_n);
  require(packed.numel() == compute::packed_bytes(rows * columns, bits),
          "packed: {} bytes, expected {} for [{}, {}] codes of {} bits", packed.numel(),
          compute::packed_bytes(rows * columns, bits), rows, columns, bits);
  const TileShape shape(tile, bits, rows, columns);
  const at::Tensor source = packed.contiguous();
  at::Tensor tiles = at::empty({shape.down, shape.across, shape.bytes}, at::kByte);
  const auto* from = source.const_data_ptr<std::uint8_t>();
  auto* const to = tiles.data_ptr<std::uint8_t>();
  const std::int64_t per_thread = tile.codes_per_thread();
  const std::int64_t thread_bytes = tile.bytes_per_thread(bits);
  at::parallel_for(0, shape.down, 1, [&](std::int64_t begin, std::int64_t end) {
    // tile_k rows of 16 begin on a byte, whatever the width.
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(tile.tile_k * columns));
    std::vector<std::uint8_t> own(static_cast<std::size_t>(per_thread));
    std::vector<std::uint8_t> own_bytes(static_cast<std::size_t>(thread_bytes));
    for (std::int64_t down = begin; down < end; ++down) {
      compute::unpack_bits(bits, tile.tile_k * columns,
                           from + down * tile.tile_k * columns * bits / 8, codes.data());
      for (std::int64_t across = 0; across < shape.across; ++across) {
        std::uint8_t* const target = to + (down * shape.across + across) * shape.bytes;
        const std::uint8_t* const first = codes.data() + across * tile.tile_n;
        for (std::int64_t thread = 0; thread < warp_size; ++thread) {
          const std::int64_t* const offsets = shape.codes_from.data() + thread * per_thread;
          for (std::int64_t i = 0; i < per_thread; ++i) own[i] = first[offsets[i]];
          compute::pack_bits(bits, per_thread, own.data(), own_bytes.data());
          const std::int64_t* const places = shape.bytes_to.data() + thread * thread_bytes;
          for (std::int64_t i = 0; i < thread_bytes; ++i) target[places[i]] = own_bytes[i];
        }
      }
    }
  });
  return tiles;
}

at::Tensor restore_layout(const at::Tensor& tiles, int bits, const WeightTile& tile) {
  tile.check(bits);
  require_bytes(tiles, "tiles");
  require(tiles.dim() == 3 && tiles.size(2) == warp_size * tile.bytes_per_thread(bits),
          "tiles: expected [rows / {}, columns / {}, {}]", tile.tile_k, tile.tile_n,
          warp_size * tile.bytes_per_thread(bits));
  const std::int64_t rows = tiles.size(0) * tile.tile_k;
  const std::int64_t columns = tiles.size(1) * tile.tile_n;
  const TileShape shape(tile, bits, rows, columns);
  const at::Tensor source = tiles.contiguous();
  at::Tensor packed = at::empty({compute::packed_bytes(rows * columns, bits)}, at::kByte);
  const auto* from = source.const_data_ptr<std::uint8_t>();
  auto* const to = packed.data_ptr<std::uint8_t>();
  const std::int64_t per_thread = tile.codes_per_thread();
  const std::int64_t thread_bytes = tile.bytes_per_thread(bits);
  at::parallel_for(0, shape.down, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(tile.tile_k * columns));
    std::vector<std::uint8_t> own(static_cast<std::size_t>(per_thread));
    std::vector<std::uint8_t> own_bytes(static_cast<std::size_t>(thread_bytes));
    for (std::int64_t down = begin; down < end; ++down) {
      for (std::int64_t across = 0; across < shape.across; ++across) {
        const std::uint8_t* const tile_bytes = from + (down * shape.across + across) * shape.bytes;
        std::uint8_t* const first = codes.data() + across * tile.tile_n;
        for (std::int64_t thread = 0; thread < warp_size; ++thread) {
          const std::int64_t* const places = shape.bytes_to.data() + thread * thread_bytes;
          for (std::int64_t i = 0; i < thread_bytes; ++i) own_bytes[i] = tile_bytes[places[i]];
          compute::unpack_bits(bits, per_thread, own_bytes.data(), own.data());
          const std::int64_t* const offsets = shape.codes_from.data() + thread * per_thread;
          for (std::int64_t i = 0; i < per_thread; ++i) first[offsets[i]] = own[i];
        }
      }
      compute::pack_bits(bits, tile.tile_k * columns, codes.data(),
                         to + down * tile.tile_k * columns * bits / 8);
    }
  });
  return packed;
}

}  // namespace einkorn::tilus
