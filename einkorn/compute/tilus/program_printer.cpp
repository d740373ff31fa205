#include <fmt/format.h>
#include <fmt/ranges.h>

#include "einkorn/compute/tilus/program_text.h"

namespace einkorn::tilus {
namespace {

const char* infix(Operator op) {
  switch (op) {
    case Operator::add:
      return "+";
    case Operator::subtract:
      return "-";
    case Operator::multiply:
      return "*";
    case Operator::divide:
      return "/";
    case Operator::remainder:
      return "%";
    case Operator::less:
      return "<";
    case Operator::less_equal:
      return "<=";
    case Operator::equal:
      return "==";
    case Operator::not_equal:
      return "!=";
    case Operator::logical_and:
      return "&&";
    case Operator::logical_or:
      return "||";
    default:
      return nullptr;
  }
}

std::string operand(const Expression& expression) {
  const std::string text = to_text(expression);
  return infix(expression.op()) != nullptr ? "(" + text + ")" : text;
}

std::string list(const std::vector<Expression>& expressions) {
  std::string text;
  for (const Expression& one : expressions) text += (text.empty() ? "" : ", ") + to_text(one);
  return "[" + text + "]";
}

std::string list(const Index& values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}

std::string dims_of(const Statement& s) {
  return s.dims.empty() ? "" : ", dims " + list(s.dims);
}

// Without the layout and the semicolon; of blocks the head.
std::string head(const Statement& s) {
  switch (s.op) {
    case Opcode::view_global:
      return fmt::format("{} = global {}{}", s.result, s.a, list(s.extents));
    case Opcode::shared_tensor:
      return fmt::format("{} = shared {}{}{}", s.result, s.type.name(), list(s.shape),
                         s.swizzle ? " swizzle" : "");
    case Opcode::register_tensor:
      return fmt::format("{} = register {}{}, {}", s.result, s.type.name(), list(s.shape), s.value);
    case Opcode::free_shared:
      return "free " + s.a;
    case Opcode::load:
      return fmt::format("{} = load {}{}, {}{}", s.result, s.a, list(s.offsets), list(s.shape),
                         dims_of(s));
    case Opcode::store:
      return fmt::format("store {}{}, {}{}", s.a, list(s.offsets), s.b, dims_of(s));
    case Opcode::store_scatter:
      return fmt::format("scatter {}{}, {}, {}, dim {}{}", s.a, list(s.offsets), s.b, s.c, s.dim,
                         dims_of(s));
    case Opcode::copy_async:
      return fmt::format("copy {}{}, {}{}, {}{}{}", s.a, list(s.offsets), s.b,
                         list(s.source_offsets), list(s.shape), dims_of(s),
                         s.is_inside ? " inside" : "");
    case Opcode::commit_group:
      return "commit";
    case Opcode::wait_group:
      return fmt::format("wait {}", s.count);
    case Opcode::cast:
      return fmt::format("{} = cast {} to {}", s.result, s.a, s.type.name());
    case Opcode::view:
      return fmt::format("{} = view {} as {}{}", s.result, s.a, s.type.name(), list(s.shape));
    case Opcode::unary:
      return fmt::format("{} = {} {}", s.result, s.function, s.a);
    case Opcode::binary:
      return fmt::format("{} = {} {}, {}", s.result, s.function, s.a,
                         s.value_is_operand ? fmt::format("{}", s.value) : s.b);
    case Opcode::clip:
      return fmt::format("{} = clip {}, {}, {}", s.result, s.a, s.value, s.value2);
    case Opcode::where:
      return fmt::format("{} = where {}, {}, {}", s.result, s.a, s.b, s.c);
    case Opcode::reduce:
      return fmt::format("{} = reduce_{} {}, dim {}", s.result, s.function, s.a, s.dim);
    case Opcode::scan:
      return fmt::format("{} = scan_{} {}, dim {}", s.result, s.function, s.a, s.dim);
    case Opcode::repeat:
      return fmt::format("{} = repeat {}, {}", s.result, s.a, list(s.shape));
    case Opcode::transpose:
      return fmt::format("{} = transpose {}", s.result, s.a);
    case Opcode::squeeze:
      return fmt::format("{} = squeeze {}, dim {}", s.result, s.a, s.dim);
    case Opcode::unsqueeze:
      return fmt::format("{} = unsqueeze {}, dim {}", s.result, s.a, s.dim);
    case Opcode::assign:
      return fmt::format("{} = assign {}", s.result, s.a);
    case Opcode::dot:
      return fmt::format("{} = dot {}, {}, {}", s.result, s.a, s.b, s.c);
    case Opcode::sync:
      return "sync";
    case Opcode::lock_semaphore:
      return fmt::format("lock {}{} == {}", s.a, list(s.offsets), to_text(s.condition));
    case Opcode::release_semaphore:
      return fmt::format("release {}{} = {}", s.a, list(s.offsets), to_text(s.condition));
    case Opcode::print_tensor:
      return "print " + s.a;
    case Opcode::print_text:
      return fmt::format("say \"{}\"", s.text);
    case Opcode::assert_that:
      return fmt::format("assert {}, \"{}\"", to_text(s.condition), s.text);
    case Opcode::assume_divisible:
      return fmt::format("assume {} % {} == 0", s.a, s.count);
    case Opcode::annotate_layout:
      return "annotate " + s.a;
    case Opcode::let:
      return fmt::format("let {} = {}", s.result, to_text(s.condition));
    case Opcode::set:
      return fmt::format("set {} = {}", s.result, to_text(s.condition));
    case Opcode::for_range: {
      const bool has_step = !(s.step.is_constant() && s.step.value() == 1);
      return fmt::format("for {} in {} .. {}{}{}", s.result, to_text(s.start), to_text(s.end),
                         has_step ? " step " + to_text(s.step) : "", s.unroll ? " unroll" : "");
    }
    case Opcode::if_else:
      return "if " + to_text(s.condition);
    case Opcode::while_loop:
      return "while " + to_text(s.condition);
    case Opcode::return_block:
      break;
  }
  return "return";
}

void append(std::string& text, const std::vector<Statement>& statements, std::size_t indent) {
  const std::string margin(indent, ' ');
  for (const Statement& s : statements) {
    text += margin + to_text(s);
    if (s.op == Opcode::for_range || s.op == Opcode::if_else || s.op == Opcode::while_loop) {
      text += " {\n";
      append(text, s.body, indent + 2);
      text += margin + "}";
      if (!s.otherwise.empty()) {
        text += " else {\n";
        append(text, s.otherwise, indent + 2);
        text += margin + "}";
      }
      text += "\n";
    } else {
      text += ";\n";
    }
  }
}

}  // namespace

std::string to_text(const Expression& expression) {
  switch (expression.op()) {
    case Operator::constant:
      return std::to_string(expression.value());
    case Operator::name:
      return expression.name();
    case Operator::block:
      return fmt::format("block.{}", static_cast<char>('x' + expression.value()));
    case Operator::minimum:
    case Operator::maximum:
      return fmt::format("{}({}, {})", expression.op() == Operator::minimum ? "min" : "max",
                         to_text(expression.left()), to_text(expression.right()));
    default:
      return fmt::format("{} {} {}", operand(expression.left()), infix(expression.op()),
                         operand(expression.right()));
  }
}

std::string to_text(const Statement& statement) {
  std::string text = head(statement);
  if (statement.layout) text += " : " + statement.layout->to_string();
  return text;
}

std::string to_text(const Program& program) {
  std::vector<std::string> parameters;
  for (const Parameter& parameter : program.parameters) {
    parameters.push_back(fmt::format("{}: {}{}", parameter.name, parameter.is_pointer ? "ptr " : "",
                                     parameter.type.name()));
  }
  std::string grid = list(program.grid);
  grid = grid.substr(1, grid.size() - 2);
  std::string text = fmt::format("program {}({}) warps {} {{\n  grid {};\n", program.name,
                                 fmt::join(parameters, ", "), program.warps, grid);
  append(text, program.body, 2);
  return text + "}\n";
}

}  // namespace einkorn::tilus
