#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "einkorn/compute/tilus/program.h"
#include "einkorn/compute/tilus/program_internal.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {

void fail(const Program& program, const Statement& statement, const std::string& problem) {
  const std::string place =
      statement.line > 0 ? fmt::format(", line {}", statement.line) : std::string();
  throw InvalidArgument(
      fmt::format("program {}{}: {}: {}", program.name, place, to_text(statement), problem));
}

std::vector<std::int64_t> transfer_dims(const std::vector<std::int64_t>& dims,
                                        std::size_t tensor_rank, std::size_t memory_rank) {
  if (!dims.empty() || tensor_rank > memory_rank) return dims;
  std::vector<std::int64_t> last;
  for (std::size_t i = memory_rank - tensor_rank; i < memory_rank; ++i) {
    last.push_back(static_cast<std::int64_t>(i));
  }
  return last;
}

std::int64_t shared_tensor_bytes(const TensorInfo& info) {
  std::int64_t bits = info.type.bits();
  for (const std::int64_t extent : info.shape) bits *= extent;
  return (bits + 127) / 128 * 16;
}

std::int64_t shared_place(const TensorInfo& info, const Index& index) {
  Index moved = index;
  if (info.swizzle) {
    // 16-byte vectors of a row are exchanged by XOR with the number of the row, counted in lines of
    // 128 bytes, which all banks serve at once: eight rows of one vector lie in eight places.
    const std::int64_t vector = 128 / info.type.bits();
    const std::int64_t vectors = info.shape.back() / vector;
    const std::int64_t span = std::min<std::int64_t>(8, vectors);
    const std::int64_t row = index[index.size() - 2];
    const std::int64_t at = index.back() / vector;
    moved.back() = (at ^ (row / (8 / span) % span)) * vector + index.back() % vector;
  }
  std::int64_t place = 0;
  for (std::size_t i = 0; i < moved.size(); ++i) place = place * info.shape[i] + moved[i];
  return place;
}

namespace {

constexpr std::int64_t most_elements = std::int64_t{1} << 20;
constexpr std::int64_t most_state_bits = std::int64_t{1} << 29;  // registers of a block

bool is_arithmetic(const NumberType& type) {
  return type == NumberType("f32") || type == NumberType("f16") || type == NumberType("bf16") ||
         type == NumberType("i32");
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string words(const Index& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

class Checker {
 public:
  explicit Checker(const Program& program) { checked_.program = program; }

  CheckedProgram run() {
    check_head();
    check_block(program().body);
    infer_layouts(checked_);
    check_state();
    return std::move(checked_);
  }

 private:
  const Program& program() const { return checked_.program; }

  // ---- head ----

  static bool is_name(const std::string& text) {
    const auto is_letter = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    };
    if (text.empty() || text.size() > 64 || !is_letter(text[0])) return false;
    return std::all_of(text.begin(), text.end(),
                       [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
  }

  void check_head() {
    require(is_name(program().name), "program: expected a name of letters, digits and _");
    require(program().warps >= 1 && program().warps <= 32, "program {}: expected 1 to 32 warps",
            program().name);
    require(!program().grid.empty() && program().grid.size() <= 3,
            "program {}: expected a grid of 1 to 3 dimensions", program().name);
    for (const Parameter& parameter : program().parameters) {
      require(is_name(parameter.name), "program {}: a parameter is not named properly",
              program().name);
      require(names_.insert(parameter.name).second, "program {}: two parameters are called {}",
              program().name, parameter.name);
      if (parameter.is_pointer) {
        require(parameter.type.bits() >= 8, "program {}: pointer {} to {}: point to u8 and view",
                program().name, parameter.name, parameter.type.name());
        pointers_[parameter.name] = parameter.type;
      } else {
        scalars_.insert(parameter.name);
        integer_parameters_.insert(parameter.name);
      }
    }
    const Statement grid;
    for (const Expression& extent : program().grid) check_expression(grid, extent, false);
  }

  // ---- scalars ----

  void check_expression(const Statement& s, const Expression& e, bool in_block = true) {
    switch (e.op()) {
      case Operator::constant:
        return;
      case Operator::block:
        require(in_block, "program {}: the grid cannot depend on the block", program().name);
        return;
      case Operator::name:
        if (scalars_.contains(e.name())) return;
        require(in_block, "program {}: the grid needs '{}', which is no i32 parameter",
                program().name, e.name());
        fail_in(s, fmt::format("no scalar '{}' is known here", e.name()));
      default:
        check_expression(s, e.left(), in_block);
        check_expression(s, e.right(), in_block);
    }
  }

  [[noreturn]] void fail_in(const Statement& s, const std::string& problem) const {
    fail(program(), s, problem);
  }

  // ---- tensors ----

  const TensorInfo& operand(const Statement& s, const std::string& name) const {
    const auto found = index_.find(name);
    if (found == index_.end() || !assigned_.contains(name)) {
      fail_in(s, fmt::format("no tensor '{}' is known here", name));
    }
    return checked_.tensors[found->second].info;
  }

  const TensorInfo& register_operand(const Statement& s, const std::string& name) const {
    const TensorInfo& info = operand(s, name);
    if (info.space != Space::registers) fail_in(s, fmt::format("'{}' is not in registers", name));
    return info;
  }

  const TensorInfo& memory_operand(const Statement& s, const std::string& name) const {
    const TensorInfo& info = operand(s, name);
    if (info.space == Space::registers) fail_in(s, fmt::format("'{}' is not in memory", name));
    return info;
  }

  void define(const Statement& s, TensorInfo info) {
    if (!is_name(s.result)) fail_in(s, "the result has no proper name");
    if (info.space != Space::global) {
      std::int64_t size = 1;
      for (const std::int64_t extent : info.shape) {
        if (extent < 1 || extent > most_elements || size > most_elements / extent) {
          fail_in(s,
                  fmt::format("a shape {} of more than 2^20 elements or none", words(info.shape)));
        }
        size *= extent;
      }
    }
    const auto found = index_.find(s.result);
    if (found == index_.end()) {
      if (!names_.insert(s.result).second) {
        fail_in(s, fmt::format("'{}' is a name already", s.result));
      }
      if (checked_.tensors.size() == 1000) fail_in(s, "more than 1000 tensors");
      index_[s.result] = checked_.tensors.size();
      info.layout = s.layout;
      checked_.tensors.push_back({s.result, std::move(info)});
    } else {
      TensorInfo& known = checked_.tensors[found->second].info;
      if (known.space != Space::registers || info.space != Space::registers) {
        fail_in(s, fmt::format("'{}' is a name already", s.result));
      }
      if (known.type != info.type || known.shape != info.shape) {
        fail_in(s, fmt::format("'{}' is {}{}, and cannot become {}{}", s.result, known.type.name(),
                               words(known.shape), info.type.name(), words(info.shape)));
      }
      if (s.layout) set_layout(s, known, *s.layout);
    }
    if (s.layout) check_layout(s, checked_.tensors[index_[s.result]].info);
    assigned_.insert(s.result);
  }

  void set_layout(const Statement& s, TensorInfo& info, const Layout& layout) const {
    if (info.layout && !(*info.layout == layout)) {
      fail_in(s, "another layout was given: " + info.layout->to_string());
    }
    info.layout = layout;
    check_layout(s, info);
  }

  void check_layout(const Statement& s, const TensorInfo& info) const {
    if (info.space != Space::registers) fail_in(s, "only tensors in registers have layouts");
    if (info.layout->shape() != info.shape) {
      fail_in(s, fmt::format("a layout of shape {} for a tensor of shape {}",
                             words(info.layout->shape()), words(info.shape)));
    }
    if (info.layout->threads() != program().threads()) {
      fail_in(s, fmt::format("a layout of {} threads in a program of {}", info.layout->threads(),
                             program().threads()));
    }
  }

  TensorInfo in_registers(const NumberType& type, const Index& shape) const {
    TensorInfo info;
    info.type = type;
    info.shape = shape;
    return info;
  }

  // Of a transfer between memory and a tensor of the given shape.
  void check_transfer(const Statement& s, const TensorInfo& memory,
                      const std::vector<Expression>& offsets, const Index& shape,
                      const std::vector<std::int64_t>& given_dims) {
    const std::size_t rank =
        memory.space == Space::global ? memory.extents.size() : memory.shape.size();
    if (offsets.size() != rank) {
      fail_in(s, fmt::format("{} offsets into a tensor of rank {}", offsets.size(), rank));
    }
    for (const Expression& offset : offsets) check_expression(s, offset);
    const std::vector<std::int64_t> dims = transfer_dims(given_dims, shape.size(), rank);
    std::set<std::int64_t> distinct(dims.begin(), dims.end());
    if (dims.size() != shape.size() || distinct.size() != dims.size() ||
        (!dims.empty() &&
         (*distinct.begin() < 0 || *distinct.rbegin() >= static_cast<std::int64_t>(rank)))) {
      fail_in(s, fmt::format("expected {} different dims below {}", shape.size(), rank));
    }
    if (memory.space != Space::shared) return;
    for (std::size_t i = 0; i < rank; ++i) {
      const auto at = std::find(dims.begin(), dims.end(), static_cast<std::int64_t>(i));
      const std::int64_t span =
          at == dims.end() ? 1 : shape[static_cast<std::size_t>(at - dims.begin())];
      const std::int64_t first = offsets[i].is_constant() ? offsets[i].value() : 0;
      if (first < 0 || first + span > memory.shape[i]) {
        fail_in(s, fmt::format("elements {} to {} of dimension {}, which has {}", first,
                               first + span - 1, i, memory.shape[i]));
      }
    }
  }

  static Index broadcast(const Index& a, const Index& b, bool& fits) {
    Index result(std::max(a.size(), b.size()), 1);
    fits = true;
    for (std::size_t i = 0; i < result.size(); ++i) {
      const std::int64_t from_a = i < a.size() ? a[a.size() - 1 - i] : 1;
      const std::int64_t from_b = i < b.size() ? b[b.size() - 1 - i] : 1;
      fits = fits && (from_a == from_b || from_a == 1 || from_b == 1);
      result[result.size() - 1 - i] = std::max(from_a, from_b);
    }
    return result;
  }

  Index broadcast_or_fail(const Statement& s, const Index& a, const Index& b) const {
    bool fits = false;
    const Index shape = broadcast(a, b, fits);
    if (!fits) fail_in(s, fmt::format("shapes {} and {} do not broadcast", words(a), words(b)));
    return shape;
  }

  void require_arithmetic(const Statement& s, const NumberType& type) const {
    if (!is_arithmetic(type)) {
      fail_in(s, fmt::format("no arithmetic on {}: cast to f32, f16, bf16 or i32", type.name()));
    }
  }

  void require_dim(const Statement& s, const TensorInfo& info, bool may_append = false) const {
    const auto rank = static_cast<std::int64_t>(info.shape.size());
    if (s.dim < 0 || s.dim >= rank + (may_append ? 1 : 0)) {
      fail_in(s, fmt::format("no dimension {} in rank {}", s.dim, rank));
    }
  }

  // ---- blocks of statements ----

  void check_block(const std::vector<Statement>& statements) {
    const std::set<std::string> scalars = scalars_;
    const std::set<std::string> variables = variables_;
    std::vector<std::string> shared_here;
    for (const Statement& s : statements) {
      check_statement(s);
      if (s.op == Opcode::shared_tensor) {
        place_shared(s);
        shared_here.push_back(s.result);
      } else if (s.op == Opcode::free_shared) {
        const auto at = std::find(shared_here.begin(), shared_here.end(), s.a);
        if (at == shared_here.end()) {
          fail_in(s, "a shared tensor is freed once, in the block that defines it");
        }
        shared_here.erase(at);
        assigned_.erase(s.a);
        live_shared_.erase(s.a);
      }
    }
    scalars_ = scalars;
    variables_ = variables;
  }

  // The lowest gap among the tensors that live.
  void place_shared(const Statement& s) {
    TensorInfo& info = checked_.tensors[index_[s.result]].info;
    const std::int64_t bytes = shared_tensor_bytes(info);
    std::vector<std::pair<std::int64_t, std::int64_t>> taken;
    for (const std::string& name : live_shared_) {
      const TensorInfo& other = checked_.tensors[index_[name]].info;
      taken.emplace_back(other.shared_offset, other.shared_offset + shared_tensor_bytes(other));
    }
    std::sort(taken.begin(), taken.end());
    std::int64_t offset = 0;
    for (const auto& [begin, end] : taken) {
      if (offset + bytes <= begin) break;
      offset = std::max(offset, end);
    }
    info.shared_offset = offset;
    live_shared_.insert(s.result);
    checked_.shared_bytes = std::max(checked_.shared_bytes, offset + bytes);
    if (checked_.shared_bytes > most_shared_bytes) {
      fail_in(s, fmt::format("{} bytes of shared memory, at most {}", checked_.shared_bytes,
                             most_shared_bytes));
    }
  }

  void check_statement(const Statement& s) {
    switch (s.op) {
      case Opcode::view_global:
      case Opcode::shared_tensor:
      case Opcode::register_tensor:
      case Opcode::free_shared:
        return check_definition(s);
      case Opcode::load:
      case Opcode::store:
      case Opcode::store_scatter:
      case Opcode::copy_async:
        return check_movement(s);
      case Opcode::cast:
      case Opcode::view:
      case Opcode::unary:
      case Opcode::binary:
      case Opcode::clip:
      case Opcode::where:
      case Opcode::reduce:
      case Opcode::scan:
      case Opcode::repeat:
      case Opcode::transpose:
      case Opcode::squeeze:
      case Opcode::unsqueeze:
      case Opcode::assign:
      case Opcode::dot:
        return check_computation(s);
      default:
        return check_other(s);
    }
  }

  void check_definition(const Statement& s) {
    TensorInfo info;
    info.type = s.type;
    info.shape = s.shape;
    if (s.op == Opcode::free_shared) {
      if (operand(s, s.a).space != Space::shared) fail_in(s, "only shared tensors are freed");
      return;
    }
    if (s.op == Opcode::view_global) {
      const auto pointer = pointers_.find(s.a);
      if (pointer == pointers_.end()) fail_in(s, fmt::format("no pointer '{}'", s.a));
      info.space = Space::global;
      info.type = pointer->second;
      info.extents = s.extents;
      if (s.extents.empty() || s.extents.size() > 8) fail_in(s, "expected 1 to 8 extents");
      for (const Expression& extent : s.extents) {
        check_expression(s, extent);
        info.shape.push_back(extent.is_constant() ? extent.value() : -1);
      }
    } else if (s.op == Opcode::shared_tensor) {
      info.space = Space::shared;
      info.swizzle = s.swizzle;
      if (s.type.bits() < 8) fail_in(s, "memory holds types of at least 8 bits: take u8 and view");
      if (s.swizzle) check_swizzle(s);
    } else if (s.value != s.value) {
      fail_in(s, "a register tensor begins as a number");
    }
    if (info.space != Space::global && (s.shape.empty() || s.shape.size() > 8)) {
      fail_in(s, "expected 1 to 8 dimensions");
    }
    define(s, std::move(info));
  }

  void check_swizzle(const Statement& s) const {
    const int bits = s.type.bits();
    const bool fits = s.shape.size() >= 2 && bits >= 8 && s.shape.back() * bits % 128 == 0;
    const std::int64_t vectors = fits ? s.shape.back() * bits / 128 : 1;
    // XOR stays within a row only among a power of two of vectors.
    if (!fits || (vectors & (vectors - 1)) != 0) {
      fail_in(s, "a swizzled tensor has rows of 2^n vectors of 16 bytes");
    }
  }

  void check_movement(const Statement& s) {
    const TensorInfo memory = memory_operand(s, s.a);
    if (s.op == Opcode::load) {
      check_transfer(s, memory, s.offsets, s.shape, s.dims);
      return define(s, in_registers(memory.type, s.shape));
    }
    if (s.op == Opcode::copy_async) {
      const TensorInfo& source = memory_operand(s, s.b);
      if (memory.space != Space::shared || source.space != Space::global) {
        fail_in(s, "copies go from global to shared memory");
      }
      if (memory.type != source.type || memory.type.bits() < 8) {
        fail_in(s, "copies are between equal types of at least 8 bits");
      }
      check_transfer(s, memory, s.offsets, s.shape, {});
      return check_transfer(s, source, s.source_offsets, s.shape, s.dims);
    }
    const TensorInfo& value = register_operand(s, s.b);
    if (value.type != memory.type) {
      fail_in(s, fmt::format("a {} into a tensor of {}", value.type.name(), memory.type.name()));
    }
    check_transfer(s, memory, s.offsets, value.shape, s.dims);
    if (s.op == Opcode::store_scatter) {
      require_dim(s, value);
      const TensorInfo& index = register_operand(s, s.c);
      if (index.type != NumberType("i32") || index.shape != value.shape) {
        fail_in(s, "indices are i32 of the shape of the values");
      }
      if (memory.space != Space::global) fail_in(s, "scatters go to global memory");
    }
  }

  void check_computation(const Statement& s) {
    const TensorInfo a = register_operand(s, s.a);
    switch (s.op) {
      case Opcode::cast:
        return define(s, in_registers(s.type, a.shape));
      case Opcode::view:
        return define(s, in_registers(s.type, s.shape));
      case Opcode::unary: {
        require_arithmetic(s, a.type);
        if (!contains(unary_functions(), s.function)) fail_in(s, "unknown function");
        static const std::vector<std::string> of_integers = {"neg", "abs", "square"};
        if (!a.type.is_float() && !contains(of_integers, s.function)) {
          fail_in(s, "integers have neg, abs and square only: cast to f32");
        }
        return define(s, in_registers(a.type, a.shape));
      }
      case Opcode::binary:
        return check_binary(s, a);
      case Opcode::clip:
        require_arithmetic(s, a.type);
        if (!(s.value <= s.value2)) fail_in(s, "the bounds are out of order");
        return define(s, in_registers(a.type, a.shape));
      case Opcode::where: {
        const TensorInfo& yes = register_operand(s, s.b);
        const TensorInfo& no = register_operand(s, s.c);
        if (a.type != NumberType("u8") || yes.type != no.type) {
          fail_in(s, "expected a condition of u8 and two values of one type");
        }
        const Index shape =
            broadcast_or_fail(s, a.shape, broadcast_or_fail(s, yes.shape, no.shape));
        return define(s, in_registers(yes.type, shape));
      }
      case Opcode::reduce:
      case Opcode::scan: {
        const bool is_logical = s.function == "any" || s.function == "all";
        if (!contains(s.op == Opcode::scan ? scan_functions() : reduce_functions(), s.function)) {
          fail_in(s, "unknown function");
        }
        if (is_logical && a.type != NumberType("u8")) fail_in(s, "any and all are of u8");
        if (!is_logical) require_arithmetic(s, a.type);
        require_dim(s, a);
        Index shape = a.shape;
        if (s.op == Opcode::reduce) shape[static_cast<std::size_t>(s.dim)] = 1;
        return define(s, in_registers(a.type, shape));
      }
      case Opcode::repeat: {
        if (s.shape.size() != a.shape.size()) fail_in(s, "expected a count for each dimension");
        Index shape = a.shape;
        for (std::size_t i = 0; i < shape.size(); ++i) {
          if (s.shape[i] < 1 || s.shape[i] > most_elements) fail_in(s, "counts are at least 1");
          shape[i] *= s.shape[i];
        }
        return define(s, in_registers(a.type, shape));
      }
      case Opcode::transpose:
        if (a.shape.size() != 2) fail_in(s, "only matrices are transposed");
        return define(s, in_registers(a.type, {a.shape[1], a.shape[0]}));
      case Opcode::squeeze: {
        require_dim(s, a);
        Index shape = a.shape;
        if (shape[static_cast<std::size_t>(s.dim)] != 1) fail_in(s, "the dimension is not 1");
        shape.erase(shape.begin() + s.dim);
        return define(s, in_registers(a.type, shape));
      }
      case Opcode::unsqueeze: {
        require_dim(s, a, true);
        if (a.shape.size() == 8) fail_in(s, "more than 8 dimensions");
        Index shape = a.shape;
        shape.insert(shape.begin() + s.dim, 1);
        return define(s, in_registers(a.type, shape));
      }
      case Opcode::assign:
        return define(s, in_registers(a.type, a.shape));
      default:
        return check_dot(s, a);
    }
  }

  void check_binary(const Statement& s, const TensorInfo& a) {
    require_arithmetic(s, a.type);
    if (!contains(binary_functions(), s.function)) fail_in(s, "unknown function");
    Index shape = a.shape;
    if (!s.value_is_operand) {
      const TensorInfo& b = register_operand(s, s.b);
      if (b.type != a.type) {
        fail_in(s, fmt::format("{} and {}: cast one of them", a.type.name(), b.type.name()));
      }
      shape = broadcast_or_fail(s, a.shape, b.shape);
    } else if (s.value != s.value || (!a.type.is_float() && s.value != std::floor(s.value))) {
      fail_in(s, "the number is none of the tensor's type");
    }
    static const std::vector<std::string> comparisons = {"lt", "le", "eq", "ne"};
    const bool compares = contains(comparisons, s.function);
    define(s, in_registers(compares ? NumberType("u8") : a.type, shape));
  }

  void check_dot(const Statement& s, const TensorInfo& a) {
    const TensorInfo& b = register_operand(s, s.b);
    const TensorInfo& c = register_operand(s, s.c);
    if (a.type != b.type || !a.type.is_float() || !is_arithmetic(a.type) ||
        c.type != NumberType("f32")) {
      fail_in(s, "expected factors of one type (f16, bf16, f32) and an f32 to add to");
    }
    const bool fits = a.shape.size() == 2 && b.shape.size() == 2 && c.shape.size() == 2 &&
                      a.shape[1] == b.shape[0] && a.shape[0] == c.shape[0] &&
                      b.shape[1] == c.shape[1];
    if (!fits) {
      fail_in(s, fmt::format("shapes {} x {} + {} are not [m, k] x [k, n] + [m, n]", words(a.shape),
                             words(b.shape), words(c.shape)));
    }
    define(s, in_registers(c.type, c.shape));
  }

  // Statements in a block that may not run define nothing for those behind it.
  void check_branch(const std::vector<Statement>& statements) {
    const std::set<std::string> assigned = assigned_;
    check_block(statements);
    assigned_ = assigned;
  }

  void check_other(const Statement& s) {
    switch (s.op) {
      case Opcode::commit_group:
      case Opcode::sync:
      case Opcode::return_block:
        return;
      case Opcode::wait_group:
        if (s.count < 0) fail_in(s, "expected at least 0 pending groups");
        return;
      case Opcode::print_tensor:
        operand(s, s.a);
        return;
      case Opcode::print_text:
        return check_words(s);
      case Opcode::assert_that:
        check_words(s);
        return check_expression(s, s.condition);
      case Opcode::assume_divisible:
        if (!integer_parameters_.contains(s.a)) fail_in(s, "expected an i32 parameter");
        if (s.count < 1) fail_in(s, "expected a divisor of at least 1");
        return;
      case Opcode::annotate_layout:
        register_operand(s, s.a);
        if (!s.layout) fail_in(s, "no layout is given");
        return set_layout(s, checked_.tensors[index_[s.a]].info, *s.layout);
      case Opcode::lock_semaphore:
      case Opcode::release_semaphore: {
        const TensorInfo& semaphores = memory_operand(s, s.a);
        if (semaphores.space != Space::global || semaphores.type != NumberType("i32")) {
          fail_in(s, "semaphores are a global tensor of i32");
        }
        check_transfer(s, semaphores, s.offsets, {}, {});
        return check_expression(s, s.condition);
      }
      case Opcode::let:
        check_expression(s, s.condition);
        if (!is_name(s.result) || !names_.insert(s.result).second) {
          fail_in(s, fmt::format("'{}' is a name already, or none", s.result));
        }
        scalars_.insert(s.result);
        variables_.insert(s.result);
        return;
      case Opcode::set:
        check_expression(s, s.condition);
        if (!variables_.contains(s.result)) fail_in(s, "only what 'let' defines can be set");
        return;
      case Opcode::for_range:
        check_expression(s, s.start);
        check_expression(s, s.end);
        check_expression(s, s.step);
        if (!is_name(s.result) || names_.contains(s.result)) {
          fail_in(s, fmt::format("'{}' is a name already, or none", s.result));
        }
        scalars_.insert(s.result);
        names_.insert(s.result);
        check_branch(s.body);
        // Loops beside each other may use one name.
        scalars_.erase(s.result);
        names_.erase(s.result);
        return;
      default:
        check_expression(s, s.condition);
        check_branch(s.body);
        check_branch(s.otherwise);
    }
  }

  void check_words(const Statement& s) const {
    for (const char c : s.text) {
      if (c < ' ' || c > '~' || c == '"' || c == '\\')
        fail_in(s, "text is ASCII without \" and \\");
    }
  }

  void check_state() const {
    std::int64_t bits = 0;
    for (const NamedTensor& one : checked_.tensors) {
      if (one.info.space != Space::registers) continue;
      const std::int64_t own = one.info.layout->local_size() * one.info.type.bits();
      require(own <= most_register_bits,
              "program {}: '{}' takes {} registers a thread, which has 255", program().name,
              one.name, own / 32);
      bits += own * program().threads();
    }
    require(bits <= most_state_bits, "program {}: more than 64 MiB of registers", program().name);
  }

  CheckedProgram checked_;
  std::map<std::string, std::size_t> index_;
  std::map<std::string, NumberType> pointers_;
  std::set<std::string> names_;
  std::set<std::string> scalars_;
  std::set<std::string> integer_parameters_;
  std::set<std::string> variables_;
  std::set<std::string> assigned_;
  std::set<std::string> live_shared_;
};

}  // namespace

CheckedProgram check(const Program& program) {
  return Checker(program).run();
}

}  // namespace einkorn::tilus
