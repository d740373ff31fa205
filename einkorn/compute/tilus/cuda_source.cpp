#include "einkorn/compute/tilus/cuda_source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numeric>

#include "einkorn/compute/tilus/cuda_source_internal.h"
#include "einkorn/compute/tilus/program_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {

CudaSource generate_cuda(const CheckedProgram& checked) {
  return CudaGenerator(checked).run();
}

std::string number_class(const NumberType& type) {
  if (type == NumberType("f32")) return "F32";
  if (type == NumberType("f16")) return "F16";
  if (type == NumberType("bf16")) return "BF16";
  if (type.kind() == NumberKind::unsigned_integer) return fmt::format("Unsigned<{}>", type.bits());
  if (type.kind() == NumberKind::signed_integer) return fmt::format("Signed<{}>", type.bits());
  return fmt::format("Small<{}, {}, {}u>", type.exponent_bits(), type.mantissa_bits(),
                     type.encode(type.max_value()));
}

CudaGenerator::CudaGenerator(const CheckedProgram& checked) : checked_(checked) {
  for (const NamedTensor& one : checked.tensors) infos_[one.name] = &one.info;
  collect_facts(checked.program.body);
}

CudaSource CudaGenerator::run() {
  const Program& program = checked_.program;
  scratch_offset_ = checked_.shared_bytes;
  block(program.body, 1);
  std::vector<std::string> parameters;
  for (const Parameter& parameter : program.parameters) {
    parameters.push_back(parameter.is_pointer ? "u8* __restrict__ p_" + parameter.name
                                              : "int v_" + parameter.name);
  }
  CudaSource source;
  source.kernel = "tilus_" + program.name;
  source.threads = static_cast<int>(program.threads());
  source.shared_bytes = scratch_offset_ + scratch_bytes_;
  source.text = cuda_prelude;
  source.text += fmt::format(
      "\nextern \"C\" __global__ void __launch_bounds__({}) {}({}) {{\n"
      "  extern __shared__ __align__(128) u8 shared_memory[];\n"
      "  const int tid = threadIdx.x;\n  (void)tid;\n  (void)shared_memory;\n",
      source.threads, source.kernel, fmt::join(parameters, ", "));
  for (const NamedTensor& one : checked_.tensors) {
    if (one.info.space != Space::registers) continue;
    source.text += fmt::format("  u32 {}[{}];\n", reg(one.name), words(one.name));
  }
  source.text += body_ + "}\n";
  return source;
}

std::string CudaGenerator::scalar(const Expression& e) {
  switch (e.op()) {
    case Operator::constant:
      return e.value() < 0 ? fmt::format("({})", e.value()) : std::to_string(e.value());
    case Operator::name:
      return "v_" + e.name();
    case Operator::block:
      return fmt::format("(int)blockIdx.{}", static_cast<char>('x' + e.value()));
    case Operator::minimum:
    case Operator::maximum:
      return fmt::format("{}({}, {})", e.op() == Operator::minimum ? "min" : "max",
                         scalar(e.left()), scalar(e.right()));
    default:
      return fmt::format("({} {} {})", scalar(e.left()), infix(e.op()), scalar(e.right()));
  }
}

const char* CudaGenerator::infix(Operator op) {
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
    default:
      return "||";
  }
}

void CudaGenerator::collect_facts(const std::vector<Statement>& statements) {
  for (const Statement& s : statements) {
    if (s.op == Opcode::assume_divisible) {
      divisors_[s.a] = std::lcm(divisors_.contains(s.a) ? divisors_[s.a] : 1, s.count);
    } else if (s.op == Opcode::for_range) {
      // Loops beside each other may share a name: what holds for all of them.
      const std::int64_t own = std::gcd(divisor(s.start), divisor(s.step));
      divisors_[s.result] = divisors_.contains(s.result) ? std::gcd(divisors_[s.result], own) : own;
    }
    collect_facts(s.body);
    collect_facts(s.otherwise);
  }
}

std::int64_t CudaGenerator::divisor(const Expression& e) const {
  constexpr std::int64_t all = 1 << 20;
  switch (e.op()) {
    case Operator::constant:
      return e.value() == 0 ? all : std::gcd(std::abs(e.value()), all);
    case Operator::name: {
      const auto found = divisors_.find(e.name());
      return found == divisors_.end() ? 1 : std::gcd(found->second, all);
    }
    case Operator::add:
    case Operator::subtract:
    case Operator::minimum:
    case Operator::maximum:
      return std::gcd(divisor(e.left()), divisor(e.right()));
    case Operator::multiply:
      return std::min(all, divisor(e.left()) * divisor(e.right()));
    case Operator::remainder:
      return std::gcd(divisor(e.left()), divisor(e.right()));
    default:
      return 1;
  }
}

void CudaGenerator::block(const std::vector<Statement>& statements, int indent) {
  const int outer = indent_;
  indent_ = indent;
  for (const Statement& s : statements) statement(s);
  indent_ = outer;
}

void CudaGenerator::statement(const Statement& s) {
  switch (s.op) {
    case Opcode::view_global:
      line("u8* const m_{} = p_{};", s.result, s.a);
      for (std::size_t i = 0; i < s.extents.size(); ++i) {
        if (!s.extents[i].is_constant()) {
          line("const int e_{}_{} = {};", s.result, i, scalar(s.extents[i]));
        }
      }
      return;
    case Opcode::register_tensor:
      for (std::int64_t local = 0; local < layout(s.result).local_size(); ++local) {
        set_element(s.result, local, fmt::format("{}u", s.type.encode(s.value)));
      }
      return;
    case Opcode::load:
      return load(s);
    case Opcode::store:
    case Opcode::store_scatter:
      return store(s);
    case Opcode::copy_async:
      return copy_async(s);
    case Opcode::commit_group:
      return line("commit_copies();");
    case Opcode::wait_group:
      return line("wait_copies<{}>();", s.count);
    case Opcode::sync:
      return line("__syncthreads();");
    case Opcode::cast:
      return cast(s);
    case Opcode::unary:
      return unary(s);
    case Opcode::binary:
      return binary(s);
    case Opcode::clip:
      return clip(s);
    case Opcode::where:
      return where(s);
    case Opcode::reduce:
    case Opcode::scan:
      return accumulate(s);
    case Opcode::repeat:
      for (std::int64_t local = 0; local < layout(s.result).local_size(); ++local) {
        set_element(s.result, local, element(s.a, local % layout(s.a).local_size()));
      }
      return;
    case Opcode::view:
    case Opcode::transpose:
    case Opcode::squeeze:
    case Opcode::unsqueeze:
    case Opcode::assign:
      // The places of a thread stay in order.
      return copy_words(s.result, s.a);
    case Opcode::dot:
      return dot(s);
    case Opcode::for_range:
      return loop(s);
    default:
      return control(s);
  }
}

void CudaGenerator::loop(const Statement& s) {
  line("#pragma unroll{}", s.unroll ? "" : " 1");
  line(
      "for (int v_{0} = {1}, end_{0} = {2}, step_{0} = {3}; v_{0} < end_{0}; v_{0} += step_{0}) "
      "{{",
      s.result, scalar(s.start), scalar(s.end), scalar(s.step));
  block(s.body, indent_ + 1);
  line("}}");
}

void CudaGenerator::control(const Statement& s) {
  switch (s.op) {
    case Opcode::if_else:
    case Opcode::while_loop:
      line("{} ({} != 0) {{", s.op == Opcode::if_else ? "if" : "while", scalar(s.condition));
      block(s.body, indent_ + 1);
      if (!s.otherwise.empty()) {
        line("}} else {{");
        block(s.otherwise, indent_ + 1);
      }
      return line("}}");
    case Opcode::let:
      return line("int v_{} = {};", s.result, scalar(s.condition));
    case Opcode::set:
      return line("v_{} = {};", s.result, scalar(s.condition));
    case Opcode::lock_semaphore:
    case Opcode::release_semaphore: {
      const Transfer t = transfer(s.a, s.offsets, {}, 0);
      line("{{");
      ++indent_;
      emit_base(t, {});
      line("{}({}, {});", s.op == Opcode::lock_semaphore ? "wait_for" : "release_to",
           address(t, indices(t, {})), scalar(s.condition));
      --indent_;
      return line("}}");
    }
    case Opcode::assert_that:
      line("if (!({})) {{", scalar(s.condition));
      line("  if (tid == 0) printf(\"%s\\n\", \"{}\");", s.text);
      line("  __trap();");
      return line("}}");
    case Opcode::print_text:
      return line("if (tid == 0) printf(\"%s\\n\", \"{}\");", s.text);
    case Opcode::print_tensor:
      return print(s);
    case Opcode::return_block:
      return line("return;");
    default:
      // Shared tensors have their place, and facts and annotations leave nothing to do.
      return;
  }
}

void CudaGenerator::print(const Statement& s) {
  if (info(s.a).space != Space::registers) return;
  const std::string only = first_replica(layout(s.a));
  line("if ({}) {{", only.empty() ? "true" : only);
  ++indent_;
  for (std::int64_t local = 0; local < layout(s.a).local_size(); ++local) {
    line(
        "printf(\"block (%d, %d, %d): {}[%d] = %g\\n\", blockIdx.x, blockIdx.y, blockIdx.z, {}, "
        "(double){});",
        s.a, element_number(s.a, local), as_float(s.a, local));
  }
  --indent_;
  line("}}");
}

}  // namespace einkorn::tilus
