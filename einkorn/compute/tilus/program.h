// Programs of the thread-block machine. An instruction acts on tensors of a whole block of threads:
// in global memory, in the block's shared memory, or in registers, where a Layout says which thread
// holds what. The same program is interpreted on the CPU (interpreter.h), printed and read as text
// (program_text.h) and turned into CUDA (cuda_source.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "einkorn/compute/tilus/layout.h"
#include "einkorn/compute/tilus/number_type.h"

namespace einkorn::tilus {

// ---- scalars ----

enum class Operator {
  constant,  // value
  name,      // a parameter, a loop variable or a `let`
  block,     // block.x, block.y, block.z: value 0, 1, 2
  add,
  subtract,
  multiply,
  divide,     // towards zero; by zero is an error
  remainder,  // of that division
  minimum,
  maximum,
  less,
  less_equal,
  equal,
  not_equal,
  logical_and,  // both sides are evaluated
  logical_or,
};

// An expression over 32-bit integers, the same for all threads of a block.
class Expression {
 public:
  Expression() = default;  // 0
  Expression(std::int64_t constant) : value_(constant) {}
  Expression(int constant) : value_(constant) {}
  static Expression name(std::string name);
  static Expression block(int dimension);
  static Expression binary(Operator op, Expression left, Expression right);

  Operator op() const { return op_; }
  std::int64_t value() const { return value_; }
  const std::string& name() const { return name_; }
  const Expression& left() const { return operands_[0]; }
  const Expression& right() const { return operands_[1]; }
  bool is_constant() const { return op_ == Operator::constant; }

 private:
  Operator op_ = Operator::constant;
  std::int64_t value_ = 0;
  std::string name_;
  std::vector<Expression> operands_;
};

Expression operator+(Expression a, Expression b);
Expression operator-(Expression a, Expression b);
Expression operator*(Expression a, Expression b);
Expression operator/(Expression a, Expression b);
Expression operator%(Expression a, Expression b);
Expression operator<(Expression a, Expression b);
Expression operator==(Expression a, Expression b);
Expression operator!=(Expression a, Expression b);
Expression minimum(Expression a, Expression b);
Expression maximum(Expression a, Expression b);
Expression ceil_div(Expression a, Expression b);  // (a + b - 1) / b

// ---- statements ----

enum class Opcode {
  // tensors
  view_global,      // result = global POINTER : TYPE[extents]
  shared_tensor,    // result = shared TYPE[shape]
  register_tensor,  // result = register TYPE[shape], value
  free_shared,      // free a
  // transfer; offsets pick the corner, dims the dimensions of memory that the tensor spans
  load,           // result = load a[offsets] shape dims
  store,          // store a[offsets], b dims
  store_scatter,  // scatter a[offsets], b, index c, dim: element i of dimension dim goes to c[i]
  copy_async,     // copy a[offsets] <- b[source offsets] shape dims
  commit_group,
  wait_group,  // until at most `count` committed groups are pending
  // computation
  cast,       // result = cast a to TYPE; a given layout may order a thread's elements anew
  view,       // result = view a as TYPE: the same bits of each thread, in another layout
  unary,      // result = FUNCTION a
  binary,     // result = FUNCTION a, b (a tensor that broadcasts, or a number)
  clip,       // result = clip a, value, value2
  where,      // result = where a, b, c
  reduce,     // result = FUNCTION a, dim: the dimension stays, with size 1
  scan,       // result = scan_FUNCTION a, dim: inclusive
  repeat,     // result = repeat a, shape: whole copies along each dimension
  transpose,  // result = transpose a
  squeeze,    // result = squeeze a, dim
  unsqueeze,  // result = unsqueeze a, dim
  assign,     // result = copy a
  dot,        // result = dot a, b, c: a b + c
  // blocks
  sync,
  lock_semaphore,     // wait until a[offset] == condition
  release_semaphore,  // a[offset] = condition, after all that the block did before
  // debugging and facts
  print_tensor,
  print_text,
  assert_that,       // stops the program if the condition is 0
  assume_divisible,  // a fact for the code generator: name is a multiple of count; checked at
                     // launch
  annotate_layout,
  // control
  let,  // result = scalar
  set,  // result := scalar
  for_range,
  if_else,
  while_loop,
  return_block,
};

// One statement, as flat as the text is: which fields mean something is said by the opcode.
struct Statement {
  Opcode op = Opcode::sync;
  std::string result;
  std::string a;
  std::string b;
  std::string c;
  std::string function;  // "exp", "add", "sum", ...
  NumberType type;
  Index shape;
  std::vector<Expression> extents;         // of a global view
  std::vector<Expression> offsets;         // into a
  std::vector<Expression> source_offsets;  // into b
  std::vector<std::int64_t> dims;
  std::optional<Layout> layout;  // of the result, if given
  double value = 0;
  double value2 = 0;
  bool value_is_operand = false;  // binary: the right operand is `value`
  bool is_inside = false;  // copy_async: nothing lies outside the source, as the author knows
  bool swizzle = false;    // shared tensors: 16-byte vectors of a row are permuted by row
  std::int64_t count = 0;  // wait_group, assume_divisible
  std::int64_t dim = 0;
  std::string text;
  Expression condition;  // if, while, assert, let, set, semaphores
  Expression start;
  Expression end;
  Expression step = 1;
  bool unroll = false;
  std::vector<Statement> body;
  std::vector<Statement> otherwise;
  int line = 0;  // of the text; 0 where a builder made it
};

struct Parameter {
  std::string name;
  bool is_pointer = false;  // else an i32
  NumberType type;          // of what it points to
};

struct Program {
  std::string name;
  std::vector<Parameter> parameters;
  std::vector<Expression> grid;  // 1 to 3 counts of blocks, over the parameters
  int warps = 1;
  std::vector<Statement> body;

  std::int64_t threads() const { return 32 * std::int64_t{warps}; }
};

// What functions there are.
const std::vector<std::string>& unary_functions();   // neg abs exp exp2 log sqrt rsqrt sin cos ...
const std::vector<std::string>& binary_functions();  // add sub mul div mod max min lt le eq ne
const std::vector<std::string>& reduce_functions();  // sum max min any all
const std::vector<std::string>& scan_functions();    // sum max min

// ---- what the verifier finds ----

enum class Space { global, shared, registers };

struct TensorInfo {
  Space space = Space::registers;
  NumberType type;
  Index shape;  // shared and registers; of a global view the extents that are constant, -1
                // for others
  std::vector<Expression> extents;  // global
  std::optional<Layout> layout;     // registers, once inferred
  bool swizzle = false;
  std::int64_t shared_offset = 0;  // bytes, a multiple of 16
};

struct NamedTensor {
  std::string name;
  TensorInfo info;
};

// A verified program: every tensor with its shape and, after inference, its layout.
struct CheckedProgram {
  Program program;
  std::vector<NamedTensor> tensors;  // in order of definition

  std::int64_t shared_bytes = 0;  // where freed tensors make room for later ones

  const TensorInfo& tensor(const std::string& name) const;
};

// Checks names, scopes, types, shapes, offsets and layouts, and infers every layout that is not
// given. Throws InvalidArgument: program, line or statement, what is wrong, what was expected.
CheckedProgram check(const Program& program);

}  // namespace einkorn::tilus
