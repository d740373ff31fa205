// The recurrence for AVX2 and AVX-512. Lanes are neighbouring units; a block of units takes the
// products of all its gates from one panel of R, in which the gates alternate, and goes through the
// nonlinearities while its sums are in L1.
#include "einkorn/compute/flashrnn/recurrence_kernels.h"
#include "einkorn/core/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "einkorn/compute/flashrnn/recurrence_cpu.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "einkorn/compute/flashrnn/cells_simd.h"

HWY_BEFORE_NAMESPACE();
namespace einkorn::flashrnn {
namespace HWY_NAMESPACE {

template <typename T>
constexpr std::int64_t lanes_of() {
  return static_cast<std::int64_t>(hn::MaxLanes(Tag<T>()));
}

// Rows whose sums stay in L1 together.
inline constexpr std::int64_t row_group = 48;
// Terms of a product between two visits to the sums: the panel's part then stays in L1.
inline constexpr std::int64_t term_group = 128;

// How many rows a tile of `vectors` vectors takes: sums, one row of the panel and a broadcast have
// to fit into 32 or 16 registers.
constexpr int tile_rows(int vectors) {
#if HWY_TARGET == HWY_AVX3
  constexpr int rows[] = {0, 12, 12, 8, 6};
#else
  constexpr int rows[] = {0, 8, 5, 3, 2};
#endif
  return rows[vectors];
}

// sums[m][j] += sum over k of panel[k][m] * rows[j][k], for `vectors` vectors m and `count` rows j.
template <int vectors, int count, typename T>
HWY_INLINE void multiply_tile(const T* HWY_RESTRICT panel, std::int64_t terms, const T* const* rows,
                              T* const* sums, std::ptrdiff_t vector_stride) {
  const Tag<T> d;
  constexpr auto lanes = static_cast<std::size_t>(lanes_of<T>());
  Vector<T> sum[vectors * count];
#pragma GCC unroll 4
  for (int m = 0; m < vectors; ++m) {
#pragma GCC unroll 12
    for (int j = 0; j < count; ++j) {
      sum[m * count + j] = hn::LoadU(d, sums[j] + m * vector_stride);
    }
  }
  for (std::int64_t k = 0; k < terms; ++k) {
    Vector<T> factor[vectors];
#pragma GCC unroll 4
    for (int m = 0; m < vectors; ++m) {
      factor[m] = hn::LoadU(d, panel + static_cast<std::size_t>(m) * lanes);
      hwy::Prefetch(panel + static_cast<std::size_t>(term_group * vectors + m) * lanes);
    }
#pragma GCC unroll 12
    for (int j = 0; j < count; ++j) {
      const auto value = hn::Set(d, rows[j][k]);
#pragma GCC unroll 4
      for (int m = 0; m < vectors; ++m) {
        sum[m * count + j] = hn::MulAdd(factor[m], value, sum[m * count + j]);
      }
    }
    panel += static_cast<std::size_t>(vectors) * lanes;
  }
#pragma GCC unroll 4
  for (int m = 0; m < vectors; ++m) {
#pragma GCC unroll 12
    for (int j = 0; j < count; ++j) {
      hn::StoreU(sum[m * count + j], d, sums[j] + m * vector_stride);
    }
  }
}

template <int vectors, int count, typename T>
void multiply_rows(std::int64_t rows_here, const T* panel, std::int64_t terms, const T* const* rows,
                   T* const* sums, std::ptrdiff_t vector_stride) {
  if constexpr (count > 0) {
    if (rows_here == count) {
      multiply_tile<vectors, count>(panel, terms, rows, sums, vector_stride);
    } else {
      multiply_rows<vectors, count - 1>(rows_here, panel, terms, rows, sums, vector_stride);
    }
  }
}

// All rows of a group, in tiles of nearly equal size, all terms in groups.
template <int vectors, typename T>
void multiply(const T* panel, std::int64_t terms, const T* const* rows, T* const* sums,
              std::int64_t count, std::ptrdiff_t vector_stride) {
  constexpr int most = tile_rows(vectors);
  const std::int64_t tiles = (count + most - 1) / most;
  const T* advanced[row_group] = {};
  for (std::int64_t k = 0; k < terms; k += term_group) {
    for (std::int64_t j = 0; j < count; ++j) advanced[j] = rows[j] + k;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t begin = tile * count / tiles;
      const std::int64_t end = (tile + 1) * count / tiles;
      multiply_rows<vectors, most>(end - begin, panel + k * vectors * lanes_of<T>(),
                                   std::min(term_group, terms - k), advanced + begin, sums + begin,
                                   vector_stride);
    }
  }
}

// Loads and stores of up to a vector.
template <typename T>
struct Lanes {
  std::int64_t count;

  HWY_INLINE Vector<T> load(const T* from) const {
    const Tag<T> d;
    if (count == lanes_of<T>()) return hn::LoadU(d, from);
    return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(count)), d, from);
  }
  HWY_INLINE void store(Vector<T> value, T* to) const {
    const Tag<T> d;
    if (count == lanes_of<T>()) {
      hn::StoreU(value, d, to);
    } else {
      hn::BlendedStore(value, hn::FirstN(d, static_cast<std::size_t>(count)), d, to);
    }
  }
  HWY_INLINE void clear(T* to) const { store(hn::Zero(Tag<T>()), to); }
};

// Addresses in the dense tensors for one head.
template <typename T>
struct HeadOffsets {
  const Sequence& q;
  std::int64_t head;

  std::int64_t state(std::int64_t s, std::int64_t row, std::int64_t time) const {
    return (((s * q.batch + row) * q.time + time) * q.heads + head) * q.dim;
  }
  std::int64_t boundary(std::int64_t s, std::int64_t row) const {
    return ((s * q.batch + row) * q.heads + head) * q.dim;
  }
  std::int64_t gate(std::int64_t count, std::int64_t row, std::int64_t time, std::int64_t g) const {
    return (((row * q.time + time) * count + g) * q.heads + head) * q.dim;
  }
  std::int64_t scratch(std::int64_t parity, std::int64_t row, std::int64_t stride) const {
    return ((parity * q.heads + head) * q.batch + row) * stride;
  }
};

// The rows of a part that still run at a step, a group of them at a time.
template <typename Body>
void for_row_groups(const Sequence& q, std::int64_t step, const StepPart& part, const Body& body) {
  std::int64_t active[row_group] = {};
  std::int64_t count = 0;
  for (std::int64_t row = part.row_begin; row < part.row_end; ++row) {
    if (step < q.length(row)) active[count++] = row;
    if (count == row_group || (row + 1 == part.row_end && count > 0)) {
      body(active, count);
      count = 0;
    }
  }
}

template <Cell cell, typename T>
void forward_block(const ForwardPass<T>& pass, std::int64_t step, std::int64_t head,
                   std::int64_t block, const std::int64_t* rows, std::int64_t count) {
  const Sequence& q = pass.sequence;
  constexpr CellShape shape = shape_of(cell);
  constexpr auto gates = static_cast<int>(shape.recurrent_gates);
  constexpr std::int64_t lanes = lanes_of<T>();
  const HeadOffsets<T> at = {q, head};
  const std::int64_t unit = block * lanes;
  const Lanes<T> part = {std::min(lanes, q.dim - unit)};
  const std::int64_t stride = row_stride(q.dim);

  HWY_ALIGN T sums[gates * row_group * lanes];
  T* sum_rows[row_group] = {};
  const T* hidden_rows[row_group] = {};
  const auto vector_stride = static_cast<std::ptrdiff_t>(row_group * lanes);
  std::fill_n(sums, gates * row_group * lanes, T{0});
  for (std::int64_t j = 0; j < count; ++j) {
    sum_rows[j] = sums + j * lanes;
    hidden_rows[j] = pass.hidden + at.scratch(step % 2, rows[j], stride);
  }
  const std::int64_t blocks = (q.dim + lanes - 1) / lanes;
  const T* panel = pass.recurrent + (head * blocks + block) * q.dim * gates * lanes;
  multiply<gates>(panel, q.dim, hidden_rows, sum_rows, count, vector_stride);

  const auto bound = constant<T>(q.forward_clip);
  Vector<T> bias[max_gates];
  for (std::int64_t g = 0; g < shape.biases; ++g) {
    bias[g] = part.load(pass.bias + (g * q.heads + head) * q.dim + unit);
  }
  for (std::int64_t j = 0; j < count; ++j) {
    const std::int64_t row = rows[j];
    const std::int64_t time = q.position(row, step);
    Vector<T> w[max_gates], y[max_gates], previous[max_states], states[max_states],
        saved[max_gates];
    const T* input =
        pass.input.data + row * pass.input.batch + time * pass.input.time + head * pass.input.head;
    for (std::int64_t g = 0; g < shape.input_gates; ++g) {
      w[g] = part.load(input + g * pass.input.gate + unit);
    }
    for (int g = 0; g < gates; ++g) {
      y[g] = hn::LoadU(Tag<T>(), sum_rows[j] + g * vector_stride);
    }
    previous[0] = part.load(hidden_rows[j] + unit);
    for (std::int64_t s = 1; s < shape.states; ++s) {
      previous[s] =
          part.load(step == 0 ? pass.initial + at.boundary(s, row) + unit
                              : pass.states + at.state(s, row, q.position(row, step - 1)) + unit);
    }
    Step<cell, T>::forward(w, y, bias, previous, states, saved);
    states[0] = clipped<T>(states[0], bound);
    for (std::int64_t s = 0; s < shape.states; ++s) {
      part.store(states[s], pass.states + at.state(s, row, time) + unit);
    }
    for (std::int64_t g = 0; pass.gates && g < shape.saved_gates; ++g) {
      part.store(saved[g], pass.gates + at.gate(shape.saved_gates, row, time, g) + unit);
    }
    part.store(states[0], pass.hidden + at.scratch((step + 1) % 2, row, stride) + unit);
  }
}

template <Cell cell, typename T>
void forward_cell(const ForwardPass<T>& pass, std::int64_t step, const StepPart& part) {
  const Sequence& q = pass.sequence;
  constexpr CellShape shape = shape_of(cell);
  constexpr std::int64_t lanes = lanes_of<T>();
  for (std::int64_t block = part.block_begin; block < part.block_end; ++block) {
    for_row_groups(q, step, part, [&](const std::int64_t* rows, std::int64_t count) HWY_ATTR {
      forward_block<cell>(pass, step, part.head, block, rows, count);
    });
    // What lies behind a sequence's end is zero.
    if (!q.lengths) continue;
    const HeadOffsets<T> at = {q, part.head};
    const std::int64_t unit = block * lanes;
    const Lanes<T> units = {std::min(lanes, q.dim - unit)};
    for (std::int64_t row = part.row_begin; row < part.row_end; ++row) {
      if (step < q.length(row)) continue;
      for (std::int64_t s = 0; s < shape.states; ++s) {
        units.clear(pass.states + at.state(s, row, step) + unit);
      }
      for (std::int64_t g = 0; pass.gates && g < shape.saved_gates; ++g) {
        units.clear(pass.gates + at.gate(shape.saved_gates, row, step, g) + unit);
      }
    }
  }
}

template <Cell cell, typename T>
void backward_row(const BackwardPass<T>& pass, std::int64_t step, std::int64_t head,
                  std::int64_t row, std::int64_t unit) {
  const Sequence& q = pass.sequence;
  constexpr CellShape shape = shape_of(cell);
  const HeadOffsets<T> at = {q, head};
  const Lanes<T> part = {std::min(lanes_of<T>(), q.dim - unit)};
  const std::int64_t time = q.position(row, step);
  T* rows =
      pass.gate_rows + at.scratch(step % 2, row, row_stride(shape.recurrent_gates * q.dim)) + unit;
  const auto gate = [&](T* tensor, std::int64_t count, std::int64_t g) {
    return tensor + at.gate(count, row, time, g) + unit;
  };
  if (step >= q.length(row)) {
    for (std::int64_t g = 0; g < shape.input_gates; ++g) {
      part.clear(gate(pass.input_gradient, shape.input_gates, g));
    }
    for (std::int64_t g = 0; pass.recurrent_gradient && g < shape.recurrent_gates; ++g) {
      part.clear(gate(pass.recurrent_gradient, shape.recurrent_gates, g));
    }
    return;
  }
  Vector<T> d[max_states], states[max_states], previous[max_states], gates[max_gates];
  Vector<T> input[max_gates], recurrent[max_gates], carry[max_states];
  for (std::int64_t s = 0; s < shape.states; ++s) {
    const std::int64_t boundary = at.boundary(s, row) + unit;
    d[s] = part.load(pass.carry + boundary);
    if (s == 0) d[s] = clipped<T>(d[s], constant<T>(q.gradient_clip));
    if (pass.gradient_states) {
      d[s] = d[s] + part.load(pass.gradient_states + at.state(s, row, time) + unit);
    }
    if (pass.gradient_last && step == q.length(row) - 1) {
      d[s] = d[s] + part.load(pass.gradient_last + boundary);
    }
    states[s] = part.load(pass.states + at.state(s, row, time) + unit);
    previous[s] =
        part.load(step == 0 ? pass.initial + boundary
                            : pass.states + at.state(s, row, q.position(row, step - 1)) + unit);
  }
  for (std::int64_t g = 0; g < shape.saved_gates; ++g) {
    gates[g] = part.load(pass.gates + at.gate(shape.saved_gates, row, time, g) + unit);
  }
  Step<cell, T>::backward(d, gates, states, previous, constant<T>(q.forward_clip), input, recurrent,
                          carry);
  constexpr bool is_apart = cell == Cell::gru;
  for (std::int64_t g = 0; g < shape.input_gates; ++g) {
    part.store(input[g], gate(pass.input_gradient, shape.input_gates, g));
  }
  for (std::int64_t g = 0; g < shape.recurrent_gates; ++g) {
    const auto value = is_apart ? recurrent[g] : input[g];
    part.store(value, rows + g * q.dim);
    if constexpr (is_apart) {
      part.store(value, gate(pass.recurrent_gradient, shape.recurrent_gates, g));
    }
  }
  for (std::int64_t s = 0; s < shape.states; ++s) {
    part.store(carry[s], pass.carry + at.boundary(s, row) + unit);
  }
}

template <Cell cell, typename T>
void backward_cell(const BackwardPass<T>& pass, std::int64_t step, const StepPart& part) {
  for (std::int64_t row = part.row_begin; row < part.row_end; ++row) {
    for (std::int64_t block = part.block_begin; block < part.block_end; ++block) {
      backward_row<cell>(pass, step, part.head, row, block * lanes_of<T>());
    }
  }
}

// Sums start from the carries and go back there.
template <int blocks, typename T>
void carry_panel(const BackwardPass<T>& pass, std::int64_t step, std::int64_t head, const T* panel,
                 std::int64_t first_unit, const std::int64_t* rows, std::int64_t count) {
  const Sequence& q = pass.sequence;
  constexpr std::int64_t lanes = lanes_of<T>();
  const HeadOffsets<T> at = {q, head};
  const std::int64_t terms = shape_of(q.cell).recurrent_gates * q.dim;
  HWY_ALIGN T sums[blocks * row_group * lanes];
  T* sum_rows[row_group] = {};
  const T* gate_rows[row_group] = {};
  const auto vector_stride = static_cast<std::ptrdiff_t>(row_group * lanes);
  const auto visit = [&](const auto& move) {
    for (std::int64_t j = 0; j < count; ++j) {
      for (int m = 0; m < blocks; ++m) {
        const std::int64_t unit = first_unit + m * lanes;
        move(Lanes<T>{std::min(lanes, q.dim - unit)}, pass.carry + at.boundary(0, rows[j]) + unit,
             sums + m * vector_stride + j * lanes);
      }
    }
  };
  for (std::int64_t j = 0; j < count; ++j) {
    sum_rows[j] = sums + j * lanes;
    gate_rows[j] = pass.gate_rows + at.scratch(step % 2, rows[j], row_stride(terms));
  }
  visit([](Lanes<T> part, T* carry, T* sum)
            HWY_ATTR { hn::StoreU(part.load(carry), Tag<T>(), sum); });
  multiply<blocks>(panel, terms, gate_rows, sum_rows, count, vector_stride);
  visit([](Lanes<T> part, T* carry, T* sum)
            HWY_ATTR { part.store(hn::LoadU(Tag<T>(), sum), carry); });
}

template <typename T>
void backward_carry(const BackwardPass<T>& pass, std::int64_t step, const StepPart& part) {
  const Sequence& q = pass.sequence;
  constexpr std::int64_t lanes = lanes_of<T>();
  const std::int64_t blocks = (q.dim + lanes - 1) / lanes;
  const std::int64_t terms = shape_of(q.cell).recurrent_gates * q.dim;
  for (std::int64_t block = part.block_begin; block < part.block_end; block += pass.panel_blocks) {
    const std::int64_t width = std::min(pass.panel_blocks, part.block_end - block);
    const T* panel = pass.recurrent + (part.head * blocks + block) * terms * lanes;
    for_row_groups(q, step, part, [&](const std::int64_t* rows, std::int64_t count) HWY_ATTR {
      const auto run = [&]<int blocks_here>() HWY_ATTR {
        carry_panel<blocks_here>(pass, step, part.head, panel, block * lanes, rows, count);
      };
      if (width == 1) run.template operator()<1>();
      if (width == 2) run.template operator()<2>();
      if (width == 3) run.template operator()<3>();
      if (width == 4) run.template operator()<4>();
    });
  }
}

template <typename T>
void pack(const HeadMatrix<T>& matrix, std::int64_t begin, std::int64_t end, T* packed) {
  constexpr std::int64_t lanes = lanes_of<T>();
  packed += begin * matrix.dim * matrix.gates * lanes;
  for (std::int64_t block = begin; block < end; ++block) {
    for (std::int64_t k = 0; k < matrix.dim; ++k) {
      for (std::int64_t g = 0; g < matrix.gates; ++g) {
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          const std::int64_t unit = block * lanes + lane;
          *packed++ = unit < matrix.dim
                          ? matrix.data[g * matrix.gate_stride + unit * matrix.dim + k]
                          : T{0};
        }
      }
    }
  }
}

template <typename T>
void pack_transposed(const HeadMatrix<T>& matrix, std::int64_t panel_blocks, std::int64_t begin,
                     std::int64_t end, T* packed) {
  constexpr std::int64_t lanes = lanes_of<T>();
  const std::int64_t blocks = (matrix.dim + lanes - 1) / lanes;
  const std::int64_t terms = matrix.gates * matrix.dim;
  packed += begin * panel_blocks * terms * lanes;
  for (std::int64_t panel = begin; panel < end; ++panel) {
    const std::int64_t first = panel * panel_blocks * lanes;
    const std::int64_t width = std::min(panel_blocks, blocks - panel * panel_blocks) * lanes;
    const std::int64_t used = std::min(width, matrix.dim - first);
    for (std::int64_t g = 0; g < matrix.gates; ++g) {
      for (std::int64_t unit = 0; unit < matrix.dim; ++unit) {
        const T* row = matrix.data + g * matrix.gate_stride + unit * matrix.dim + first;
        packed = std::copy_n(row, used, packed);
        packed = std::fill_n(packed, width - used, T{0});
      }
    }
  }
}

template <typename T>
void forward_step(const ForwardPass<T>& pass, std::int64_t step, const StepPart& part) {
  switch (pass.sequence.cell) {
    case Cell::lstm:
      return forward_cell<Cell::lstm>(pass, step, part);
    case Cell::gru:
      return forward_cell<Cell::gru>(pass, step, part);
    case Cell::elman:
      return forward_cell<Cell::elman>(pass, step, part);
    case Cell::slstm:
      return forward_cell<Cell::slstm>(pass, step, part);
  }
}

template <typename T>
void backward_gates(const BackwardPass<T>& pass, std::int64_t step, const StepPart& part) {
  switch (pass.sequence.cell) {
    case Cell::lstm:
      return backward_cell<Cell::lstm>(pass, step, part);
    case Cell::gru:
      return backward_cell<Cell::gru>(pass, step, part);
    case Cell::elman:
      return backward_cell<Cell::elman>(pass, step, part);
    case Cell::slstm:
      return backward_cell<Cell::slstm>(pass, step, part);
  }
}

template <typename T>
const RecurrenceKernels<T>& kernels() {
  static const RecurrenceKernels<T> table = {lanes_of<T>(),       &pack<T>,
                                             &pack_transposed<T>, &forward_step<T>,
                                             &backward_gates<T>,  &backward_carry<T>};
  return table;
}

const RecurrenceKernels<float>* kernels_f32() {
  return &kernels<float>();
}
const RecurrenceKernels<double>* kernels_f64() {
  return &kernels<double>();
}

}  // namespace HWY_NAMESPACE
}  // namespace einkorn::flashrnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace einkorn::flashrnn {
namespace {

template <typename T>
const RecurrenceKernels<T>* no_kernels() {
  return nullptr;
}

using Kernels32 = const RecurrenceKernels<float>* (*)();
using Kernels64 = const RecurrenceKernels<double>* (*)();
const KernelTable<Kernels32> tables_f32 = EINKORN_SIMD_VERSIONS(no_kernels<float>, kernels_f32);
const KernelTable<Kernels64> tables_f64 = EINKORN_SIMD_VERSIONS(no_kernels<double>, kernels_f64);

}  // namespace

template <>
const RecurrenceKernels<float>* recurrence_kernels<float>() {
  return tables_f32.pick()();
}
template <>
const RecurrenceKernels<double>* recurrence_kernels<double>() {
  return tables_f64.pick()();
}

Isa recurrence_level() {
  return tables_f32.level();
}

}  // namespace einkorn::flashrnn
#endif  // HWY_ONCE
