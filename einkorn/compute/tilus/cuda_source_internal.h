// The generator of CUDA text: one class, whose parts stand in cuda_source.cpp (statements and
// scalars), cuda_transfers.cpp (memory) and cuda_computation.cpp (registers).
#pragma once

#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

#include "einkorn/compute/tilus/cuda_source.h"
#include "einkorn/compute/tilus/program.h"

namespace einkorn::tilus {

// The device functions that generated kernels call.
extern const char* const cuda_prelude;

// The C++ class of a type in cuda_prelude.
std::string number_class(const NumberType& type);

class CudaGenerator {
 public:
  explicit CudaGenerator(const CheckedProgram& checked);
  CudaSource run();

 private:
  template <typename... Args>
  void line(fmt::format_string<Args...> text, Args&&... args) {
    body_ += std::string(2 * static_cast<std::size_t>(indent_), ' ') +
             fmt::format(text, std::forward<Args>(args)...) + "\n";
  }
  static std::string reg(const std::string& name) { return "r_" + name; }
  const TensorInfo& info(const std::string& name) const { return *infos_.at(name); }
  const Layout& layout(const std::string& name) const { return *info(name).layout; }
  int bits(const std::string& name) const { return info(name).type.bits(); }
  std::int64_t words(const std::string& name) const {
    return (layout(name).local_size() * bits(name) + 31) / 32;
  }
  std::string numbers(const std::string& name) const { return number_class(info(name).type); }
  std::string element(const std::string& name, std::int64_t local) const {
    return fmt::format("get<{}>({}, {})", bits(name), reg(name), local);
  }
  void set_element(const std::string& name, std::int64_t local, const std::string& code) {
    line("put<{}>({}, {}, {});", bits(name), reg(name), local, code);
  }
  std::string as_float(const std::string& name, std::int64_t local) const {
    return fmt::format("{}::to({})", numbers(name), element(name, local));
  }

  static std::string scalar(const Expression& e);
  static const char* infix(Operator op);
  // What is known of names: parameters by assumption, loop variables by their start and step.
  void collect_facts(const std::vector<Statement>& statements);
  // A number that divides the expression for sure; 2^20 stands for "all".
  std::int64_t divisor(const Expression& e) const;

  // The index along one dimension that this thread adds to every one of its elements.
  std::string thread_index(const Layout& layout, std::int64_t dim) const;
  // True in the thread that writes for all replicas; empty where there is only one.
  std::string first_replica(const Layout& layout) const;

  struct Transfer {
    std::string memory;
    std::vector<Expression> offsets;
    std::vector<std::int64_t> dims;
    std::size_t rank;
    bool is_shared;
  };
  Transfer transfer(const std::string& memory, const std::vector<Expression>& offsets,
                    const std::vector<std::int64_t>& dims, std::size_t tensor_rank) const;
  std::string extent(const Transfer& t, std::size_t dim) const;
  std::int64_t extent_divisor(const Transfer& t, std::size_t dim) const;
  // The widest vector along the last dimension of memory: of elements that are
  // consecutive there, begin at a multiple, and end inside or outside together.
  std::int64_t vector_size(const Transfer& t, std::int64_t consecutive) const;
  // How many of a layout's local elements in a row are consecutive along the last dimension, from a
  // multiple of that number on.
  static std::int64_t consecutive(const Layout& layout);
  // Names i0, i1, ... for the memory index of this thread's first element, without local parts.
  void emit_base(const Transfer& t, const std::vector<std::string>& thread_parts);
  // The index of an element that lies `local` beyond the base.
  std::vector<std::string> indices(const Transfer& t, const Index& local) const;
  std::string address(const Transfer& t, const std::vector<std::string>& index) const;
  // Whether an element lies inside a global view, where that is not known.
  std::string inside(const Transfer& t, const std::vector<std::string>& index,
                     const Index& shape) const;

  std::vector<std::string> thread_parts(const Layout& layout) const;
  void load(const Statement& s);
  // Four 8 x 8 tiles of 16 bits at a time: lane l gives the address of row l % 8 of tile l / 8.
  bool load_by_ldmatrix(const Statement& s, const Transfer& t);
  void store(const Statement& s);
  // Vectors dealt out to the threads in row-major order.
  void copy_async(const Statement& s);

  // The place in an operand that broadcasts, for a place of the result: of the same thread.
  std::int64_t operand_place(const std::string& name, const std::string& result,
                             std::int64_t local) const;
  void copy_words(const std::string& result, const std::string& source);
  void cast(const Statement& s);
  // Two neighbours of the result as f16 in one word. Where their codes lie a multiple of 16 bits
  // apart they are brought side by side as they are, one in each half of a word.
  void cast_pair(const Statement& s, std::int64_t local);
  // Of codes that begin at `position` and side by side behind it, the first one's place whose end
  // lies past the 10 bits of f16's mantissa: one move then serves all that follow.
  static std::int64_t first_past_mantissa(int width, std::int64_t position);
  // The 16-bit halves number `low` and `high` of a tensor's words, side by side.
  std::string halves_of(const std::string& name, std::int64_t low, std::int64_t high) const;
  static std::string literal(double value);
  void unary(const Statement& s);
  static std::string joined(const std::string& function, const std::string& a, const std::string& b,
                            bool is_float);
  // Two f16 at once, where both operands have them so or one number for both.
  bool binary_by_pairs(const Statement& s);
  void binary(const Statement& s);
  void clip(const Statement& s);
  void where(const Statement& s);

  std::string scratch(const std::string& place);
  // The row-major element of this thread's place, as text.
  std::string element_number(const std::string& name, std::int64_t local) const;
  std::string combined(const Statement& s, const std::string& a, const std::string& b) const;
  // All elements go to shared memory (floats as f32); each thread reads what its results need.
  void accumulate(const Statement& s);

  void dot(const Statement& s);
  void dot_by_tensor_cores(const Statement& s, std::int64_t k);

  void block(const std::vector<Statement>& statements, int indent);
  void statement(const Statement& s);
  void loop(const Statement& s);
  void control(const Statement& s);
  void print(const Statement& s);

  const CheckedProgram& checked_;
  std::map<std::string, const TensorInfo*> infos_;
  std::map<std::string, std::int64_t> divisors_;
  std::string body_;
  int indent_ = 1;
  std::int64_t scratch_offset_ = 0;
  std::int64_t scratch_bytes_ = 0;
};

}  // namespace einkorn::tilus
