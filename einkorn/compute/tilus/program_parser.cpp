#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <limits>

#include "einkorn/compute/tilus/layout_internal.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/text_internal.h"
#include "einkorn/core/text.h"

namespace einkorn::tilus {
namespace {

constexpr std::size_t most_bytes = std::size_t{1} << 20;
constexpr int most_statements = 10000;
constexpr int most_nesting = 32;
constexpr int most_operators = 200;
constexpr std::size_t longest_name = 64;
constexpr std::size_t most_dimensions = 8;

bool starts_name(char character) {
  return std::isalpha(static_cast<unsigned char>(character)) || character == '_';
}

bool is_in_name(char character) {
  return std::isalnum(static_cast<unsigned char>(character)) || character == '_';
}

class Parser {
 public:
  Parser(std::string_view text, const std::string& path) : text_(text), rest_(text), path_(path) {}

  Program program() {
    Program program;
    expect_word("program");
    program.name = name("a program name");
    expect("(");
    if (!accept(")")) {
      do {
        program.parameters.push_back(parameter());
      } while (accept(","));
      expect(")");
    }
    expect_word("warps");
    program.warps = static_cast<int>(integer(1, 32));
    expect("{");
    expect_word("grid");
    do {
      if (program.grid.size() == 3) fail("a grid has at most 3 dimensions");
      program.grid.push_back(expression());
    } while (accept(","));
    expect(";");
    program.body = block_rest();
    skip_space();
    if (!rest_.empty()) fail("expected nothing after the program");
    return program;
  }

 private:
  // ---- characters ----

  [[noreturn]] void fail(const std::string& problem) {
    const auto position = static_cast<std::size_t>(rest_.data() - text_.data());
    throw BadFile(path_, line_place(line_at(text_, position)), problem);
  }

  int line() {
    skip_space();
    const auto position = static_cast<std::size_t>(rest_.data() - text_.data());
    // Lines are counted on, so that the whole text is gone through once.
    for (; counted_ < position; ++counted_) line_ += text_[counted_] == '\n' ? 1 : 0;
    return line_;
  }

  void skip_space() {
    while (!rest_.empty()) {
      if (rest_[0] == '#') {
        const std::size_t end = rest_.find('\n');
        rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end);
      } else if (std::isspace(static_cast<unsigned char>(rest_[0]))) {
        rest_.remove_prefix(1);
      } else {
        return;
      }
    }
  }

  std::string seen() {
    skip_space();
    return rest_.empty() ? "the end" : fmt::format("'{}'", excerpt(rest_.substr(0, 20)));
  }

  bool accept(std::string_view symbol) {
    skip_space();
    if (!rest_.starts_with(symbol)) return false;
    // '<' is not the beginning of '<=', nor '=' that of '=='.
    const std::string_view behind = rest_.substr(symbol.size());
    if ((symbol == "<" || symbol == "=") && behind.starts_with("=")) return false;
    rest_.remove_prefix(symbol.size());
    return true;
  }

  void expect(std::string_view symbol) {
    if (!accept(symbol)) fail(fmt::format("expected '{}' before {}", symbol, seen()));
  }

  std::string_view peek_word() {
    skip_space();
    if (rest_.empty() || !starts_name(rest_[0])) return {};
    std::size_t size = 1;
    while (size < rest_.size() && is_in_name(rest_[size])) ++size;
    return rest_.substr(0, size);
  }

  bool accept_word(std::string_view word) {
    if (peek_word() != word) return false;
    rest_.remove_prefix(word.size());
    return true;
  }

  void expect_word(std::string_view word) {
    if (!accept_word(word)) fail(fmt::format("expected '{}' before {}", word, seen()));
  }

  std::string name(const char* what) {
    const std::string_view word = peek_word();
    if (word.empty()) fail(fmt::format("expected {} before {}", what, seen()));
    if (word.size() > longest_name) {
      fail(fmt::format("a name of {} characters, the longest has {}", word.size(), longest_name));
    }
    rest_.remove_prefix(word.size());
    return std::string(word);
  }

  std::int64_t integer(std::int64_t least, std::int64_t most) {
    const bool is_negative = accept("-");
    skip_space();
    std::size_t size = 0;
    while (size < rest_.size() && std::isdigit(static_cast<unsigned char>(rest_[size]))) ++size;
    if (size == 0) fail(fmt::format("expected an integer before {}", seen()));
    if (size < rest_.size() && starts_name(rest_[size]))
      fail(fmt::format("expected an integer, got {}", seen()));
    const std::optional<std::int64_t> value = to_integer(rest_.substr(0, size));
    const std::int64_t signed_value = value ? (is_negative ? -*value : *value) : most + 1;
    if (!value || signed_value < least || signed_value > most) {
      fail(fmt::format("expected an integer from {} to {}, got {}", least, most, seen()));
    }
    rest_.remove_prefix(size);
    return signed_value;
  }

  double number() {
    skip_space();
    std::size_t size = !rest_.empty() && (rest_[0] == '-' || rest_[0] == '+') ? 1 : 0;
    while (size < rest_.size() && (is_in_name(rest_[size]) || rest_[size] == '.' ||
                                   ((rest_[size] == '-' || rest_[size] == '+') &&
                                    (rest_[size - 1] == 'e' || rest_[size - 1] == 'E')))) {
      ++size;
    }
    const std::optional<double> value = to_real(rest_.substr(0, size));
    if (!value || *value != *value) fail(fmt::format("expected a number before {}", seen()));
    rest_.remove_prefix(size);
    return *value;
  }

  std::string quoted() {
    expect("\"");
    const std::size_t end = rest_.find_first_of("\"\n");
    if (end == std::string_view::npos || rest_[end] != '"') fail("expected '\"' on the same line");
    const std::string content(rest_.substr(0, end));
    rest_.remove_prefix(end + 1);
    return content;
  }

  // ---- pieces of statements ----

  NumberType type() {
    const std::string word = name("a type");
    try {
      return NumberType(word);
    } catch (const InvalidArgument& error) {
      fail(error.what());
    }
  }

  Layout layout() {
    skip_space();
    const std::string_view whole = rest_;
    try {
      return take_layout(rest_);
    } catch (const InvalidArgument& error) {
      rest_ = whole;  // the line on which the layout begins
      fail(error.what());
    }
  }

  Index integers(std::int64_t least) {
    Index values;
    expect("[");
    if (accept("]")) return values;
    do {
      if (values.size() == most_dimensions) fail("more than 8 dimensions");
      values.push_back(integer(least, std::numeric_limits<std::int32_t>::max()));
    } while (accept(","));
    expect("]");
    return values;
  }

  std::vector<Expression> expressions() {
    std::vector<Expression> values;
    expect("[");
    do {
      if (values.size() == most_dimensions) fail("more than 8 dimensions");
      values.push_back(expression());
    } while (accept(","));
    expect("]");
    return values;
  }

  void optional_dims(Statement& s) {
    if (!accept(",")) return;
    expect_word("dims");
    s.dims = integers(0);
  }

  void dim(Statement& s) {
    expect(",");
    expect_word("dim");
    s.dim = integer(0, static_cast<std::int64_t>(most_dimensions));
  }

  Parameter parameter() {
    Parameter parameter;
    parameter.name = name("a parameter name");
    expect(":");
    parameter.is_pointer = accept_word("ptr");
    parameter.type = type();
    if (!parameter.is_pointer && parameter.type != NumberType("i32")) {
      fail("a parameter is an i32 or a 'ptr' to some type");
    }
    return parameter;
  }

  // ---- expressions, by precedence ----

  Expression expression() {
    operators_ = 0;
    return disjunction();
  }

  Expression joined(Operator op, Expression left, Expression right) {
    if (++operators_ > most_operators) {
      fail(fmt::format("an expression of more than {} operators", most_operators));
    }
    return Expression::binary(op, std::move(left), std::move(right));
  }

  Expression disjunction() {
    Expression left = conjunction();
    while (accept("||")) left = joined(Operator::logical_or, std::move(left), conjunction());
    return left;
  }

  Expression conjunction() {
    Expression left = comparison();
    while (accept("&&")) left = joined(Operator::logical_and, std::move(left), comparison());
    return left;
  }

  Expression comparison() {
    Expression left = sum();
    if (accept("==")) return joined(Operator::equal, std::move(left), sum());
    if (accept("!=")) return joined(Operator::not_equal, std::move(left), sum());
    if (accept("<=")) return joined(Operator::less_equal, std::move(left), sum());
    if (accept("<")) return joined(Operator::less, std::move(left), sum());
    return left;
  }

  Expression sum() {
    Expression left = product();
    while (true) {
      if (accept("+")) {
        left = joined(Operator::add, std::move(left), product());
      } else if (accept("-")) {
        left = joined(Operator::subtract, std::move(left), product());
      } else {
        return left;
      }
    }
  }

  Expression product() {
    Expression left = factor();
    while (true) {
      if (accept("*")) {
        left = joined(Operator::multiply, std::move(left), factor());
      } else if (accept("/")) {
        left = joined(Operator::divide, std::move(left), factor());
      } else if (accept("%")) {
        left = joined(Operator::remainder, std::move(left), factor());
      } else {
        return left;
      }
    }
  }

  Expression factor() {
    skip_space();
    if (accept("(")) {
      if (++operators_ > most_operators) fail("too many parentheses in an expression");
      Expression inner = disjunction();
      expect(")");
      return inner;
    }
    const bool is_number =
        !rest_.empty() && (rest_[0] == '-' || std::isdigit(static_cast<unsigned char>(rest_[0])));
    if (is_number) {
      return integer(std::numeric_limits<std::int32_t>::min(),
                     std::numeric_limits<std::int32_t>::max());
    }
    const std::string word = name("a number or a name");
    if (word == "block") {
      expect(".");
      for (int dimension = 0; dimension < 3; ++dimension) {
        if (accept_word(std::string_view("xyz").substr(static_cast<std::size_t>(dimension), 1))) {
          return Expression::block(dimension);
        }
      }
      fail("expected block.x, block.y or block.z");
    }
    if ((word == "min" || word == "max") && accept("(")) {
      Expression left = disjunction();
      expect(",");
      Expression right = disjunction();
      expect(")");
      return joined(word == "min" ? Operator::minimum : Operator::maximum, std::move(left),
                    std::move(right));
    }
    return Expression::name(word);
  }

  // ---- statements ----

  std::vector<Statement> block_rest() {
    if (++nesting_ > most_nesting) fail(fmt::format("more than {} nested blocks", most_nesting));
    std::vector<Statement> statements;
    while (!accept("}")) {
      if (++statements_ > most_statements) {
        fail(fmt::format("more than {} statements", most_statements));
      }
      const int at = line();
      statements.push_back(statement());
      statements.back().line = at;
    }
    --nesting_;
    return statements;
  }

  std::vector<Statement> block() {
    expect("{");
    return block_rest();
  }

  Statement statement() {
    Statement s;
    const std::string word = name("a statement");
    if (word == "for") {
      s.op = Opcode::for_range;
      s.result = name("a loop variable");
      expect_word("in");
      s.start = expression();
      expect("..");
      s.end = expression();
      if (accept_word("step")) s.step = expression();
      s.unroll = accept_word("unroll");
      s.body = block();
      return s;
    }
    if (word == "if") {
      s.op = Opcode::if_else;
      s.condition = expression();
      s.body = block();
      if (accept_word("else")) s.otherwise = block();
      return s;
    }
    if (word == "while") {
      s.op = Opcode::while_loop;
      s.condition = expression();
      s.body = block();
      return s;
    }
    if (accept("=")) {
      s.result = word;
      definition(s);
      if (accept(":")) s.layout = layout();
    } else {
      command(s, word);
    }
    expect(";");
    return s;
  }

  void command(Statement& s, const std::string& word) {
    if (word == "store" || word == "scatter") {
      s.op = word == "store" ? Opcode::store : Opcode::store_scatter;
      s.a = name("a tensor");
      s.offsets = expressions();
      expect(",");
      s.b = name("a tensor");
      if (s.op == Opcode::store_scatter) {
        expect(",");
        s.c = name("a tensor of indices");
        dim(s);
      }
      optional_dims(s);
    } else if (word == "copy") {
      s.op = Opcode::copy_async;
      s.a = name("a shared tensor");
      s.offsets = expressions();
      expect(",");
      s.b = name("a global tensor");
      s.source_offsets = expressions();
      expect(",");
      s.shape = integers(1);
      optional_dims(s);
      s.is_inside = accept_word("inside");
    } else if (word == "commit") {
      s.op = Opcode::commit_group;
    } else if (word == "wait") {
      s.op = Opcode::wait_group;
      s.count = integer(0, 64);
    } else if (word == "sync") {
      s.op = Opcode::sync;
    } else if (word == "free" || word == "print") {
      s.op = word == "free" ? Opcode::free_shared : Opcode::print_tensor;
      s.a = name("a tensor");
    } else if (word == "say") {
      s.op = Opcode::print_text;
      s.text = quoted();
    } else if (word == "assert") {
      s.op = Opcode::assert_that;
      s.condition = expression();
      expect(",");
      s.text = quoted();
    } else if (word == "assume") {
      s.op = Opcode::assume_divisible;
      s.a = name("a parameter");
      expect("%");
      s.count = integer(1, 1 << 20);
      expect("==");
      integer(0, 0);
    } else if (word == "annotate") {
      s.op = Opcode::annotate_layout;
      s.a = name("a tensor");
      expect(":");
      s.layout = layout();
    } else if (word == "lock" || word == "release") {
      s.op = word == "lock" ? Opcode::lock_semaphore : Opcode::release_semaphore;
      s.a = name("a tensor of semaphores");
      s.offsets = expressions();
      expect(word == "lock" ? "==" : "=");
      s.condition = expression();
    } else if (word == "let" || word == "set") {
      s.op = word == "let" ? Opcode::let : Opcode::set;
      s.result = name("a name");
      expect("=");
      s.condition = expression();
    } else if (word == "return") {
      s.op = Opcode::return_block;
    } else {
      fail(fmt::format("unknown statement '{}'", word));
    }
  }

  // What stands behind "result =".
  void definition(Statement& s) {
    const std::string word = name("an instruction");
    if (word == "global") {
      s.op = Opcode::view_global;
      s.a = name("a pointer");
      s.extents = expressions();
    } else if (word == "shared") {
      s.op = Opcode::shared_tensor;
      s.type = type();
      s.shape = integers(1);
      s.swizzle = accept_word("swizzle");
    } else if (word == "register") {
      s.op = Opcode::register_tensor;
      s.type = type();
      s.shape = integers(1);
      expect(",");
      s.value = number();
    } else if (word == "load") {
      s.op = Opcode::load;
      s.a = name("a tensor");
      s.offsets = expressions();
      expect(",");
      s.shape = integers(1);
      optional_dims(s);
    } else if (word == "cast") {
      s.op = Opcode::cast;
      s.a = name("a tensor");
      expect_word("to");
      s.type = type();
    } else if (word == "view") {
      s.op = Opcode::view;
      s.a = name("a tensor");
      expect_word("as");
      s.type = type();
      s.shape = integers(1);
    } else if (word == "clip") {
      s.op = Opcode::clip;
      s.a = name("a tensor");
      expect(",");
      s.value = number();
      expect(",");
      s.value2 = number();
    } else if (word == "where" || word == "dot") {
      s.op = word == "where" ? Opcode::where : Opcode::dot;
      s.a = name("a tensor");
      expect(",");
      s.b = name("a tensor");
      expect(",");
      s.c = name("a tensor");
    } else if (word == "repeat") {
      s.op = Opcode::repeat;
      s.a = name("a tensor");
      expect(",");
      s.shape = integers(1);
    } else if (word == "transpose" || word == "assign") {
      s.op = word == "assign" ? Opcode::assign : Opcode::transpose;
      s.a = name("a tensor");
    } else if (word == "squeeze" || word == "unsqueeze") {
      s.op = word == "squeeze" ? Opcode::squeeze : Opcode::unsqueeze;
      s.a = name("a tensor");
      dim(s);
    } else {
      function(s, word);
    }
  }

  void function(Statement& s, const std::string& word) {
    const auto is_one_of = [](const std::vector<std::string>& names, std::string_view one) {
      return std::find(names.begin(), names.end(), one) != names.end();
    };
    const std::string_view text = word;
    if (is_one_of(unary_functions(), word)) {
      s.op = Opcode::unary;
      s.function = word;
      s.a = name("a tensor");
    } else if (is_one_of(binary_functions(), word)) {
      s.op = Opcode::binary;
      s.function = word;
      s.a = name("a tensor");
      expect(",");
      const std::string_view next = peek_word();
      s.value_is_operand = next.empty() || next == "inf";
      if (s.value_is_operand) {
        s.value = number();
      } else {
        s.b = name("a tensor");
      }
    } else if (text.starts_with("reduce_") && is_one_of(reduce_functions(), text.substr(7))) {
      s.op = Opcode::reduce;
      s.function = word.substr(7);
      s.a = name("a tensor");
      dim(s);
    } else if (text.starts_with("scan_") && is_one_of(scan_functions(), text.substr(5))) {
      s.op = Opcode::scan;
      s.function = word.substr(5);
      s.a = name("a tensor");
      dim(s);
    } else {
      fail(fmt::format("unknown instruction '{}'", word));
    }
  }

  std::string_view text_;
  std::string_view rest_;
  const std::string& path_;
  std::size_t counted_ = 0;
  int line_ = 1;
  int operators_ = 0;
  int statements_ = 0;
  int nesting_ = 0;
};

}  // namespace

Program parse_program(std::string_view text, const std::string& path) {
  if (text.size() > most_bytes) throw BadFile(path, "", "is longer than 1 MiB");
  return Parser(require_text(text, path), path).program();
}

Program read_program(const std::filesystem::path& path) {
  return parse_program(read_text(path, most_bytes), path.string());
}

}  // namespace einkorn::tilus
