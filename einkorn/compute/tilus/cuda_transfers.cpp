// Transfers between memory and registers: vectors, masks, swizzles, ldmatrix.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <numeric>

#include "einkorn/compute/tilus/cuda_source_internal.h"
#include "einkorn/compute/tilus/program_internal.h"

namespace einkorn::tilus {
namespace {

// Digits of the thread number, from the fast end, as the layout orders them.
struct ThreadDigit {
  std::int64_t divisor;
  std::int64_t size;
  std::int64_t dim;     // -1: replication
  std::int64_t weight;  // what one step of the digit adds to the index of the dimension
};

std::vector<ThreadDigit> thread_digits(const Layout& layout) {
  std::vector<std::int64_t> dims;
  std::vector<std::int64_t> weights;
  std::size_t mode = 0;
  for (std::int64_t dim = 0; dim < layout.rank(); ++dim) {
    const std::int64_t extent = layout.shape()[static_cast<std::size_t>(dim)];
    for (std::int64_t rest = extent; rest > 1; ++mode) {
      rest /= layout.mode_shape()[mode];
      dims.push_back(dim);
      weights.push_back(rest);
    }
  }
  std::vector<ThreadDigit> digits;
  std::int64_t divisor = 1;
  for (std::size_t i = layout.spatial_modes().size(); i-- > 0;) {
    const std::int64_t entry = layout.spatial_modes()[i];
    const auto at = static_cast<std::size_t>(std::max<std::int64_t>(entry, 0));
    const std::int64_t size = entry < 0 ? -entry : layout.mode_shape()[at];
    digits.push_back({divisor, size, entry < 0 ? -1 : dims[at], entry < 0 ? 0 : weights[at]});
    divisor *= size;
  }
  return digits;
}

}  // namespace

std::string CudaGenerator::thread_index(const Layout& layout, std::int64_t dim) const {
  std::string text;
  for (const ThreadDigit& digit : thread_digits(layout)) {
    if (digit.dim != dim) continue;
    std::string part = digit.divisor == 1 ? "tid" : fmt::format("tid / {}", digit.divisor);
    if (digit.divisor * digit.size != layout.threads()) part += fmt::format(" % {}", digit.size);
    if (digit.weight != 1) part = fmt::format("({}) * {}", part, digit.weight);
    text += (text.empty() ? "" : " + ") + part;
  }
  return text.empty() ? "0" : text;
}

std::string CudaGenerator::first_replica(const Layout& layout) const {
  std::string text;
  for (const ThreadDigit& digit : thread_digits(layout)) {
    if (digit.dim >= 0) continue;
    text +=
        fmt::format("{}tid / {} % {} == 0", text.empty() ? "" : " && ", digit.divisor, digit.size);
  }
  return text;
}

CudaGenerator::Transfer CudaGenerator::transfer(const std::string& memory,
                                                const std::vector<Expression>& offsets,
                                                const std::vector<std::int64_t>& dims,
                                                std::size_t tensor_rank) const {
  const bool is_shared = info(memory).space == Space::shared;
  return {memory, offsets, transfer_dims(dims, tensor_rank, offsets.size()), offsets.size(),
          is_shared};
}

std::string CudaGenerator::extent(const Transfer& t, std::size_t dim) const {
  const TensorInfo& memory = info(t.memory);
  if (memory.shape[dim] >= 0) return std::to_string(memory.shape[dim]);
  return fmt::format("e_{}_{}", t.memory, dim);
}

std::int64_t CudaGenerator::extent_divisor(const Transfer& t, std::size_t dim) const {
  const TensorInfo& memory = info(t.memory);
  return memory.shape[dim] >= 0 ? divisor(Expression(memory.shape[dim]))
                                : divisor(memory.extents[dim]);
}

std::int64_t CudaGenerator::vector_size(const Transfer& t, std::int64_t consecutive) const {
  if (t.dims.empty() || t.dims.back() != static_cast<std::int64_t>(t.rank) - 1) return 1;
  const int element_bytes = info(t.memory).type.bits() / 8;
  std::int64_t size = std::gcd(consecutive, std::int64_t{16 / element_bytes});
  size = std::gcd(size, divisor(t.offsets.back()));
  return std::gcd(size, extent_divisor(t, t.rank - 1));
}

std::int64_t CudaGenerator::consecutive(const Layout& layout) {
  const Layout canonical = layout.canonical();
  if (canonical.local_modes().empty() || canonical.mode_shape().empty()) return 1;
  const std::int64_t last = static_cast<std::int64_t>(canonical.mode_shape().size()) - 1;
  const bool ends = canonical.shape().back() > 1 && canonical.local_modes().back() == last;
  return ends ? canonical.mode_shape().back() : 1;
}

void CudaGenerator::emit_base(const Transfer& t, const std::vector<std::string>& thread_parts) {
  for (std::size_t i = 0; i < t.rank; ++i) {
    std::string text = scalar(t.offsets[i]);
    for (std::size_t j = 0; j < t.dims.size(); ++j) {
      if (t.dims[j] == static_cast<std::int64_t>(i)) text += " + " + thread_parts[j];
    }
    line("const int i{} = {};", i, text);
  }
}

std::vector<std::string> CudaGenerator::indices(const Transfer& t, const Index& local) const {
  std::vector<std::string> result;
  for (std::size_t i = 0; i < t.rank; ++i) {
    std::string text = fmt::format("i{}", i);
    for (std::size_t j = 0; j < t.dims.size(); ++j) {
      if (t.dims[j] == static_cast<std::int64_t>(i) && local[j] != 0) {
        text += fmt::format(" + {}", local[j]);
      }
    }
    result.push_back(text);
  }
  return result;
}

std::string CudaGenerator::address(const Transfer& t, const std::vector<std::string>& index) const {
  const TensorInfo& memory = info(t.memory);
  const int element_bytes = memory.type.bits() / 8;
  std::vector<std::string> parts = index;
  if (memory.swizzle) {
    const std::int64_t vector = 16 / element_bytes;
    const std::int64_t span = std::min<std::int64_t>(8, memory.shape.back() / vector);
    parts.back() = fmt::format("(({}) ^ (({}) / {} % {} * {}))", parts.back(), parts[t.rank - 2],
                               8 / span, span, vector);
  }
  const char* const first_type = t.is_shared ? "" : "(long long)";
  std::string place = fmt::format("{}({})", first_type, parts[0]);
  for (std::size_t i = 1; i < t.rank; ++i) {
    place = fmt::format("({} * {} + ({}))", place, extent(t, i), parts[i]);
  }
  const std::string base =
      t.is_shared ? fmt::format("shared_memory + {}", memory.shared_offset) : "m_" + t.memory;
  return fmt::format("{} + {} * {}", base, place, element_bytes);
}

std::string CudaGenerator::inside(const Transfer& t, const std::vector<std::string>& index,
                                  const Index& shape) const {
  if (t.is_shared) return "true";
  std::string text;
  for (std::size_t i = 0; i < t.rank; ++i) {
    std::int64_t span = 1;
    for (std::size_t j = 0; j < t.dims.size(); ++j) {
      if (t.dims[j] == static_cast<std::int64_t>(i)) span = shape[j];
    }
    const std::int64_t constant = info(t.memory).shape[i];
    const bool is_known = t.offsets[i].is_constant() && t.offsets[i].value() >= 0 &&
                          constant >= 0 && t.offsets[i].value() + span <= constant;
    if (is_known) continue;
    text +=
        fmt::format("{}(u32)({}) < (u32)({})", text.empty() ? "" : " && ", index[i], extent(t, i));
  }
  return text.empty() ? "true" : text;
}

std::vector<std::string> CudaGenerator::thread_parts(const Layout& layout) const {
  std::vector<std::string> parts;
  for (std::int64_t dim = 0; dim < layout.rank(); ++dim) {
    parts.push_back(thread_index(layout, dim));
  }
  return parts;
}

void CudaGenerator::load(const Statement& s) {
  const Layout& own = layout(s.result);
  const Transfer t = transfer(s.a, s.offsets, s.dims, s.shape.size());
  line("{{");
  ++indent_;
  if (!load_by_ldmatrix(s, t)) {
    const std::int64_t size = vector_size(t, consecutive(own));
    const int element_bits = bits(s.result);
    const std::int64_t vector_bits = size * element_bits;
    emit_base(t, thread_parts(own));
    for (std::int64_t local = 0; local < own.local_size(); local += size) {
      const std::vector<std::string> index = indices(t, own.at(0, local));
      const std::string from = address(t, index);
      const std::string is_inside = inside(t, index, s.shape);
      if (vector_bits >= 32) {
        line("load_vector<{}>({} + {}, {}, {});", vector_bits / 8, reg(s.result),
             local * element_bits / 32, from, is_inside);
      } else {
        line("{{ u32 v[1]; load_vector<{}>(v, {}, {}); put<{}>({}, {}, v[0]); }}", vector_bits / 8,
             from, is_inside, vector_bits, reg(s.result), local / size);
      }
    }
  }
  --indent_;
  line("}}");
}

bool CudaGenerator::load_by_ldmatrix(const Statement& s, const Transfer& t) {
  const Layout& own = layout(s.result);
  const TensorInfo& memory = info(s.a);
  const bool is_matrix = t.is_shared && bits(s.result) == 16 && own.rank() == 2 &&
                         t.dims.back() == static_cast<std::int64_t>(t.rank) - 1;
  if (!is_matrix || !divides(ldmatrix_unit(), own)) return false;
  const Layout tiles = own / ldmatrix_unit();
  if (tiles.local_size() % 4 != 0 || memory.shape.back() * 2 % 16 != 0 ||
      divisor(t.offsets.back()) % 8 != 0) {
    return false;
  }
  // The tile's warp part depends on tid / 32, its lane part on the lane.
  std::vector<std::string> parts;
  for (std::int64_t dim = 0; dim < 2; ++dim) {
    std::string warp = thread_index(tiles, dim);
    for (std::size_t at = warp.find("tid"); at != std::string::npos;
         at = warp.find("tid", at + 4)) {
      warp.replace(at, 3, "(tid / 32)");
      at += 7;
    }
    parts.push_back(fmt::format("({}) * 8", warp));
  }
  emit_base(t, parts);
  line("const int lane = tid % 32;");
  for (std::int64_t first = 0; first < tiles.local_size(); first += 4) {
    std::array<std::string, 2> own_part;
    for (std::size_t dim = 0; dim < 2; ++dim) {
      std::array<std::int64_t, 4> place{};
      for (std::size_t i = 0; i < 4; ++i) {
        place[i] = 8 * tiles.at(0, first + static_cast<std::int64_t>(i))[dim];
      }
      own_part[dim] = fmt::format("(lane < 16 ? (lane < 8 ? {} : {}) : (lane < 24 ? {} : {}))",
                                  place[0], place[1], place[2], place[3]);
    }
    own_part[0] += " + lane % 8";
    std::vector<std::string> index;
    for (std::size_t i = 0; i < t.rank; ++i) {
      std::string text = fmt::format("i{}", i);
      for (std::size_t j = 0; j < 2; ++j) {
        if (t.dims[j] == static_cast<std::int64_t>(i)) text += " + " + own_part[j];
      }
      index.push_back(text);
    }
    line("ldmatrix_x4({} + {}, {});", reg(s.result), first, address(t, index));
  }
  return true;
}

void CudaGenerator::store(const Statement& s) {
  const Layout& own = layout(s.b);
  const Index& shape = info(s.b).shape;
  const Transfer t = transfer(s.a, s.offsets, s.dims, shape.size());
  const bool scatters = s.op == Opcode::store_scatter;
  const std::string only = first_replica(own);
  line("{}{{", only.empty() ? "" : "if (" + only + ") ");
  ++indent_;
  std::vector<std::string> parts = thread_parts(own);
  if (scatters) parts[static_cast<std::size_t>(s.dim)] = "0";
  emit_base(t, parts);
  const std::int64_t size = scatters ? 1 : vector_size(t, consecutive(own));
  const std::int64_t vector_bits = size * bits(s.b);
  for (std::int64_t local = 0; local < own.local_size(); local += size) {
    Index place = own.at(0, local);
    if (scatters) place[static_cast<std::size_t>(s.dim)] = 0;
    std::vector<std::string> index = indices(t, place);
    if (scatters) {
      const auto dim = static_cast<std::size_t>(t.dims[static_cast<std::size_t>(s.dim)]);
      index[dim] += fmt::format(" + (int){}", element(s.c, local));
    }
    // A scattered index may be anything.
    const Index span = scatters ? Index(shape.size(), std::int64_t{1} << 40) : shape;
    const std::string value =
        vector_bits >= 32 ? fmt::format("{} + {}", reg(s.b), local * bits(s.b) / 32) : "v";
    const std::string is_inside = inside(t, index, span);
    if (vector_bits < 32) {
      line("{{ const u32 v[1] = {{get<{}>({}, {})}}; if ({}) store_vector<{}>({}, v); }}",
           vector_bits, reg(s.b), local / size, is_inside, vector_bits / 8, address(t, index));
    } else {
      line("if ({}) store_vector<{}>({}, {});", is_inside, vector_bits / 8, address(t, index),
           value);
    }
  }
  --indent_;
  line("}}");
}

void CudaGenerator::copy_async(const Statement& s) {
  const Transfer to = transfer(s.a, s.offsets, {}, s.shape.size());
  const Transfer from = transfer(s.b, s.source_offsets, s.dims, s.shape.size());
  const std::int64_t size =
      std::gcd(vector_size(to, s.shape.back()), vector_size(from, s.shape.back()));
  const std::int64_t bytes = size * info(s.a).type.bits() / 8;
  Index vectors = s.shape;
  vectors.back() /= size;
  std::int64_t count = 1;
  for (const std::int64_t extent : vectors) count *= extent;
  const std::int64_t threads = checked_.program.threads();
  line("#pragma unroll");
  line("for (int c = 0; c < {}; ++c) {{", (count + threads - 1) / threads);
  ++indent_;
  line("const int vector = c * {} + tid;", threads);
  if (count % threads != 0) line("if (vector >= {}) break;", count);
  std::int64_t divisor_of = count;
  std::vector<std::string> own;
  for (std::size_t dim = 0; dim < vectors.size(); ++dim) {
    divisor_of /= vectors[dim];
    const std::string scale =
        dim + 1 == vectors.size() && size > 1 ? fmt::format(" * {}", size) : "";
    own.push_back(fmt::format("(vector / {} % {}){}", divisor_of, vectors[dim], scale));
  }
  const auto index_of = [&](const Transfer& t) {
    std::vector<std::string> index;
    for (std::size_t i = 0; i < t.rank; ++i) {
      std::string text = scalar(t.offsets[i]);
      for (std::size_t j = 0; j < t.dims.size(); ++j) {
        if (t.dims[j] == static_cast<std::int64_t>(i)) text += " + " + own[j];
      }
      index.push_back(text);
    }
    return index;
  };
  const std::vector<std::string> source = index_of(from);
  const std::string target = address(to, index_of(to));
  if (s.is_inside) {
    line("copy_vector<{}>({}, {}, true);", bytes, target, address(from, source));
  } else {
    line("const bool is_inside = {};", inside(from, source, s.shape));
    line("copy_vector<{}>({}, is_inside ? {} : m_{}, is_inside);", bytes, target,
         address(from, source), s.b);
  }
  --indent_;
  line("}}");
}

}  // namespace einkorn::tilus
