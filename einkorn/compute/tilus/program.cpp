#include "einkorn/compute/tilus/program.h"

#include <fmt/format.h>

#include "einkorn/compute/tilus/program_builder.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {

// ---- scalars ----

Expression Expression::name(std::string name) {
  Expression expression;
  expression.op_ = Operator::name;
  expression.name_ = std::move(name);
  return expression;
}

Expression Expression::block(int dimension) {
  Expression expression;
  expression.op_ = Operator::block;
  expression.value_ = dimension;
  return expression;
}

Expression Expression::binary(Operator op, Expression left, Expression right) {
  Expression expression;
  expression.op_ = op;
  expression.operands_ = {std::move(left), std::move(right)};
  return expression;
}

Expression operator+(Expression a, Expression b) {
  return Expression::binary(Operator::add, std::move(a), std::move(b));
}
Expression operator-(Expression a, Expression b) {
  return Expression::binary(Operator::subtract, std::move(a), std::move(b));
}
Expression operator*(Expression a, Expression b) {
  return Expression::binary(Operator::multiply, std::move(a), std::move(b));
}
Expression operator/(Expression a, Expression b) {
  return Expression::binary(Operator::divide, std::move(a), std::move(b));
}
Expression operator%(Expression a, Expression b) {
  return Expression::binary(Operator::remainder, std::move(a), std::move(b));
}
Expression operator<(Expression a, Expression b) {
  return Expression::binary(Operator::less, std::move(a), std::move(b));
}
Expression operator==(Expression a, Expression b) {
  return Expression::binary(Operator::equal, std::move(a), std::move(b));
}
Expression operator!=(Expression a, Expression b) {
  return Expression::binary(Operator::not_equal, std::move(a), std::move(b));
}
Expression minimum(Expression a, Expression b) {
  return Expression::binary(Operator::minimum, std::move(a), std::move(b));
}
Expression maximum(Expression a, Expression b) {
  return Expression::binary(Operator::maximum, std::move(a), std::move(b));
}
Expression ceil_div(Expression a, Expression b) {
  return (std::move(a) + b - 1) / b;
}

// ---- functions ----

const std::vector<std::string>& unary_functions() {
  static const std::vector<std::string> names = {"neg",   "abs", "exp", "exp2",  "log",   "sqrt",
                                                 "rsqrt", "sin", "cos", "round", "square"};
  return names;
}

const std::vector<std::string>& binary_functions() {
  static const std::vector<std::string> names = {"add", "sub", "mul", "div", "mod", "max",
                                                 "min", "lt",  "le",  "eq",  "ne"};
  return names;
}

const std::vector<std::string>& reduce_functions() {
  static const std::vector<std::string> names = {"sum", "max", "min", "any", "all"};
  return names;
}

const std::vector<std::string>& scan_functions() {
  static const std::vector<std::string> names = {"sum", "max", "min"};
  return names;
}

// ---- checked programs ----

const TensorInfo& CheckedProgram::tensor(const std::string& name) const {
  for (const NamedTensor& one : tensors) {
    if (one.name == name) return one.info;
  }
  throw InvalidArgument(fmt::format("program {}: no tensor '{}'", program.name, name));
}

// ---- builder ----

ProgramBuilder::ProgramBuilder(std::string name, int warps) : current_(&program_.body) {
  program_.name = std::move(name);
  program_.warps = warps;
}

std::string ProgramBuilder::fresh(const char* prefix) {
  return fmt::format("{}{}", prefix, next_++);
}

Statement& ProgramBuilder::add(Opcode op) {
  current_->emplace_back();
  current_->back().op = op;
  return current_->back();
}

Tensor ProgramBuilder::add_result(Opcode op, const std::function<void(Statement&)>& fill) {
  Statement& statement = add(op);
  statement.result = fresh("t");
  fill(statement);
  return {statement.result};
}

std::vector<Statement> ProgramBuilder::block_of(const std::function<void()>& body) {
  std::vector<Statement> statements;
  std::vector<Statement>* const outer = current_;
  current_ = &statements;
  if (body) body();
  current_ = outer;
  return statements;
}

Expression ProgramBuilder::integer(const std::string& name) {
  program_.parameters.push_back({name, false, NumberType("i32")});
  return Expression::name(name);
}

std::string ProgramBuilder::pointer(const std::string& name, const NumberType& type) {
  program_.parameters.push_back({name, true, type});
  return name;
}

void ProgramBuilder::grid(std::vector<Expression> counts) {
  program_.grid = std::move(counts);
}

Tensor ProgramBuilder::global(const std::string& pointer, std::vector<Expression> extents) {
  return add_result(Opcode::view_global, [&](Statement& s) {
    s.a = pointer;
    s.extents = std::move(extents);
    for (const Parameter& parameter : program_.parameters) {
      if (parameter.name == pointer) s.type = parameter.type;
    }
  });
}

Tensor ProgramBuilder::shared(const NumberType& type, Index shape, bool swizzle) {
  return add_result(Opcode::shared_tensor, [&](Statement& s) {
    s.type = type;
    s.shape = std::move(shape);
    s.swizzle = swizzle;
  });
}

Tensor ProgramBuilder::registers(const NumberType& type, Index shape, double value,
                                 std::optional<Layout> layout) {
  return add_result(Opcode::register_tensor, [&](Statement& s) {
    s.type = type;
    s.shape = std::move(shape);
    s.value = value;
    s.layout = std::move(layout);
  });
}

void ProgramBuilder::free(const Tensor& shared) {
  add(Opcode::free_shared).a = shared.name;
}

Tensor ProgramBuilder::load(const Tensor& from, std::vector<Expression> offsets, Index shape,
                            std::vector<std::int64_t> dims, std::optional<Layout> layout) {
  return add_result(Opcode::load, [&](Statement& s) {
    s.a = from.name;
    s.offsets = std::move(offsets);
    s.shape = std::move(shape);
    s.dims = std::move(dims);
    s.layout = std::move(layout);
  });
}

void ProgramBuilder::store(const Tensor& to, std::vector<Expression> offsets, const Tensor& value,
                           std::vector<std::int64_t> dims) {
  Statement& s = add(Opcode::store);
  s.a = to.name;
  s.offsets = std::move(offsets);
  s.b = value.name;
  s.dims = std::move(dims);
}

void ProgramBuilder::store_scatter(const Tensor& to, std::vector<Expression> offsets,
                                   const Tensor& value, const Tensor& index, std::int64_t dim,
                                   std::vector<std::int64_t> dims) {
  Statement& s = add(Opcode::store_scatter);
  s.a = to.name;
  s.offsets = std::move(offsets);
  s.b = value.name;
  s.c = index.name;
  s.dim = dim;
  s.dims = std::move(dims);
}

void ProgramBuilder::copy_async(const Tensor& to, std::vector<Expression> offsets,
                                const Tensor& from, std::vector<Expression> source_offsets,
                                Index shape, std::vector<std::int64_t> dims, bool is_inside) {
  Statement& s = add(Opcode::copy_async);
  s.a = to.name;
  s.offsets = std::move(offsets);
  s.b = from.name;
  s.source_offsets = std::move(source_offsets);
  s.shape = std::move(shape);
  s.dims = std::move(dims);
  s.is_inside = is_inside;
}

void ProgramBuilder::commit_group() {
  add(Opcode::commit_group);
}
void ProgramBuilder::wait_group(std::int64_t pending) {
  add(Opcode::wait_group).count = pending;
}
void ProgramBuilder::sync() {
  add(Opcode::sync);
}

Tensor ProgramBuilder::cast(const Tensor& a, const NumberType& type, std::optional<Layout> layout) {
  return add_result(Opcode::cast, [&](Statement& s) {
    s.a = a.name;
    s.type = type;
    s.layout = std::move(layout);
  });
}

Tensor ProgramBuilder::view(const Tensor& a, const NumberType& type, Index shape,
                            const Layout& layout) {
  return add_result(Opcode::view, [&](Statement& s) {
    s.a = a.name;
    s.type = type;
    s.shape = std::move(shape);
    s.layout = layout;
  });
}

Tensor ProgramBuilder::unary(const std::string& function, const Tensor& a) {
  return add_result(Opcode::unary, [&](Statement& s) {
    s.function = function;
    s.a = a.name;
  });
}

Tensor ProgramBuilder::binary(const std::string& function, const Tensor& a, const Tensor& b) {
  return add_result(Opcode::binary, [&](Statement& s) {
    s.function = function;
    s.a = a.name;
    s.b = b.name;
  });
}

Tensor ProgramBuilder::binary(const std::string& function, const Tensor& a, double b) {
  return add_result(Opcode::binary, [&](Statement& s) {
    s.function = function;
    s.a = a.name;
    s.value = b;
    s.value_is_operand = true;
  });
}

Tensor ProgramBuilder::clip(const Tensor& a, double low, double high) {
  return add_result(Opcode::clip, [&](Statement& s) {
    s.a = a.name;
    s.value = low;
    s.value2 = high;
  });
}

Tensor ProgramBuilder::where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  return add_result(Opcode::where, [&](Statement& s) {
    s.a = condition.name;
    s.b = a.name;
    s.c = b.name;
  });
}

Tensor ProgramBuilder::reduce(const std::string& function, const Tensor& a, std::int64_t dim) {
  return add_result(Opcode::reduce, [&](Statement& s) {
    s.function = function;
    s.a = a.name;
    s.dim = dim;
  });
}

Tensor ProgramBuilder::scan(const std::string& function, const Tensor& a, std::int64_t dim) {
  return add_result(Opcode::scan, [&](Statement& s) {
    s.function = function;
    s.a = a.name;
    s.dim = dim;
  });
}

Tensor ProgramBuilder::repeat(const Tensor& a, Index counts) {
  return add_result(Opcode::repeat, [&](Statement& s) {
    s.a = a.name;
    s.shape = std::move(counts);
  });
}

Tensor ProgramBuilder::transpose(const Tensor& a) {
  return add_result(Opcode::transpose, [&](Statement& s) { s.a = a.name; });
}

Tensor ProgramBuilder::squeeze(const Tensor& a, std::int64_t dim) {
  return add_result(Opcode::squeeze, [&](Statement& s) {
    s.a = a.name;
    s.dim = dim;
  });
}

Tensor ProgramBuilder::unsqueeze(const Tensor& a, std::int64_t dim) {
  return add_result(Opcode::unsqueeze, [&](Statement& s) {
    s.a = a.name;
    s.dim = dim;
  });
}

Tensor ProgramBuilder::dot(const Tensor& a, const Tensor& b, const Tensor& c) {
  return add_result(Opcode::dot, [&](Statement& s) {
    s.a = a.name;
    s.b = b.name;
    s.c = c.name;
  });
}

void ProgramBuilder::assign(const Tensor& target, const Tensor& value) {
  Statement& s = add(Opcode::assign);
  s.result = target.name;
  s.a = value.name;
}

void ProgramBuilder::accumulate(const Tensor& c, const Tensor& a, const Tensor& b) {
  Statement& s = add(Opcode::dot);
  s.result = c.name;
  s.a = a.name;
  s.b = b.name;
  s.c = c.name;
}

void ProgramBuilder::annotate(const Tensor& a, const Layout& layout) {
  Statement& s = add(Opcode::annotate_layout);
  s.a = a.name;
  s.layout = layout;
}

void ProgramBuilder::lock_semaphore(const Tensor& semaphores, std::vector<Expression> index,
                                    Expression value) {
  Statement& s = add(Opcode::lock_semaphore);
  s.a = semaphores.name;
  s.offsets = std::move(index);
  s.condition = std::move(value);
}

void ProgramBuilder::release_semaphore(const Tensor& semaphores, std::vector<Expression> index,
                                       Expression value) {
  Statement& s = add(Opcode::release_semaphore);
  s.a = semaphores.name;
  s.offsets = std::move(index);
  s.condition = std::move(value);
}

void ProgramBuilder::assume_divisible(const Expression& name, std::int64_t divisor) {
  Statement& s = add(Opcode::assume_divisible);
  s.a = name.name();
  s.count = divisor;
}

void ProgramBuilder::assert_that(Expression condition, std::string message) {
  Statement& s = add(Opcode::assert_that);
  s.condition = std::move(condition);
  s.text = std::move(message);
}

void ProgramBuilder::print(const Tensor& a) {
  add(Opcode::print_tensor).a = a.name;
}

Expression ProgramBuilder::let(Expression value) {
  Statement& s = add(Opcode::let);
  s.result = fresh("s");
  s.condition = std::move(value);
  return Expression::name(s.result);
}

void ProgramBuilder::set(const Expression& variable, Expression value) {
  Statement& s = add(Opcode::set);
  s.result = variable.name();
  s.condition = std::move(value);
}

void ProgramBuilder::for_range(Expression start, Expression end, Expression step,
                               const std::function<void(Expression)>& body, bool unroll) {
  const std::string variable = fresh("i");
  std::vector<Statement> statements = block_of([&] { body(Expression::name(variable)); });
  Statement& s = add(Opcode::for_range);
  s.result = variable;
  s.start = std::move(start);
  s.end = std::move(end);
  s.step = std::move(step);
  s.unroll = unroll;
  s.body = std::move(statements);
}

void ProgramBuilder::if_else(Expression condition, const std::function<void()>& body,
                             const std::function<void()>& otherwise) {
  std::vector<Statement> first = block_of(body);
  std::vector<Statement> second = block_of(otherwise);
  Statement& s = add(Opcode::if_else);
  s.condition = std::move(condition);
  s.body = std::move(first);
  s.otherwise = std::move(second);
}

void ProgramBuilder::while_loop(Expression condition, const std::function<void()>& body) {
  std::vector<Statement> statements = block_of(body);
  Statement& s = add(Opcode::while_loop);
  s.condition = std::move(condition);
  s.body = std::move(statements);
}

void ProgramBuilder::return_block() {
  add(Opcode::return_block);
}

}  // namespace einkorn::tilus
