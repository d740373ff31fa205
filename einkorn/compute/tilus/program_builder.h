// Building programs in C++.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "einkorn/compute/tilus/program.h"

namespace einkorn::tilus {

// A tensor of a program under construction: a name.
struct Tensor {
  std::string name;
};

// Builds one program, statement by statement:
//   ProgramBuilder b("scale", 4);
//   const auto x = b.pointer("x", NumberType("f16"));
//   const auto n = b.integer("n");
//   b.grid({ceil_div(n, 256)});
//   const Tensor g = b.global(x, {n});
//   Tensor r = b.load(g, {b.block(0) * 256}, {256});
//   b.store(g, {b.block(0) * 256}, b.binary("mul", r, 2.0));
//   const Program program = b.build();
// Nothing is checked here: check(program) does that.
class ProgramBuilder {
 public:
  ProgramBuilder(std::string name, int warps);

  Expression integer(const std::string& name);
  std::string pointer(const std::string& name, const NumberType& type);
  void grid(std::vector<Expression> counts);
  static Expression block(int dimension) { return Expression::block(dimension); }

  Tensor global(const std::string& pointer, std::vector<Expression> extents);
  Tensor shared(const NumberType& type, Index shape, bool swizzle = false);
  Tensor registers(const NumberType& type, Index shape, double value = 0,
                   std::optional<Layout> layout = std::nullopt);
  void free(const Tensor& shared);

  // dims: the dimensions of memory that the tensor's dimensions walk along; empty: the last ones.
  Tensor load(const Tensor& from, std::vector<Expression> offsets, Index shape,
              std::vector<std::int64_t> dims = {}, std::optional<Layout> layout = std::nullopt);
  void store(const Tensor& to, std::vector<Expression> offsets, const Tensor& value,
             std::vector<std::int64_t> dims = {});
  void store_scatter(const Tensor& to, std::vector<Expression> offsets, const Tensor& value,
                     const Tensor& index, std::int64_t dim, std::vector<std::int64_t> dims = {});
  void copy_async(const Tensor& to, std::vector<Expression> offsets, const Tensor& from,
                  std::vector<Expression> source_offsets, Index shape,
                  std::vector<std::int64_t> dims = {}, bool is_inside = false);
  void commit_group();
  void wait_group(std::int64_t pending);
  void sync();

  Tensor cast(const Tensor& a, const NumberType& type, std::optional<Layout> layout = std::nullopt);
  Tensor view(const Tensor& a, const NumberType& type, Index shape, const Layout& layout);
  Tensor unary(const std::string& function, const Tensor& a);
  Tensor binary(const std::string& function, const Tensor& a, const Tensor& b);
  Tensor binary(const std::string& function, const Tensor& a, double b);
  Tensor clip(const Tensor& a, double low, double high);
  Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
  Tensor reduce(const std::string& function, const Tensor& a, std::int64_t dim);
  Tensor scan(const std::string& function, const Tensor& a, std::int64_t dim);
  Tensor repeat(const Tensor& a, Index counts);
  Tensor transpose(const Tensor& a);
  Tensor squeeze(const Tensor& a, std::int64_t dim);
  Tensor unsqueeze(const Tensor& a, std::int64_t dim);
  Tensor dot(const Tensor& a, const Tensor& b, const Tensor& c);
  void assign(const Tensor& target, const Tensor& value);
  // c = a b + c, in place.
  void accumulate(const Tensor& c, const Tensor& a, const Tensor& b);
  void annotate(const Tensor& a, const Layout& layout);

  void lock_semaphore(const Tensor& semaphores, std::vector<Expression> index, Expression value);
  void release_semaphore(const Tensor& semaphores, std::vector<Expression> index, Expression value);
  void assume_divisible(const Expression& name, std::int64_t divisor);
  void assert_that(Expression condition, std::string message);
  void print(const Tensor& a);

  Expression let(Expression value);
  void set(const Expression& variable, Expression value);
  void for_range(Expression start, Expression end, Expression step,
                 const std::function<void(Expression)>& body, bool unroll = false);
  void if_else(Expression condition, const std::function<void()>& body,
               const std::function<void()>& otherwise = {});
  void while_loop(Expression condition, const std::function<void()>& body);
  void return_block();

  Program build() const { return program_; }

 private:
  Statement& add(Opcode op);
  Tensor add_result(Opcode op, const std::function<void(Statement&)>& fill);
  std::vector<Statement> block_of(const std::function<void()>& body);
  std::string fresh(const char* prefix);

  Program program_;
  std::vector<Statement>* current_;
  int next_ = 0;
};

}  // namespace einkorn::tilus
