// What happens in registers: casts, arithmetic, reductions, products.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "einkorn/compute/tilus/cuda_source_internal.h"
#include "einkorn/compute/tilus/program_internal.h"

namespace einkorn::tilus {

std::int64_t CudaGenerator::operand_place(const std::string& name, const std::string& result,
                                          std::int64_t local) const {
  if (layout(name) == layout(result)) return local;
  const Index index = layout(result).at(0, local);
  const Index& shape = info(name).shape;
  Index own(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) {
    own[i] = shape[i] == 1 ? 0 : index[index.size() - shape.size() + i];
  }
  return layout(name).local_of(own);
}

void CudaGenerator::copy_words(const std::string& result, const std::string& source) {
  if (result == source) return;
  for (std::int64_t i = 0; i < words(result); ++i) {
    line("{}[{}] = {}[{}];", reg(result), i, reg(source), i);
  }
}

void CudaGenerator::cast(const Statement& s) {
  const NumberType& from = info(s.a).type;
  const NumberType& to = info(s.result).type;
  const bool keeps_order = layout(s.a) == layout(s.result);
  if (from == to && keeps_order) return copy_words(s.result, s.a);
  const std::int64_t count = layout(s.result).local_size();
  const bool is_exact_float =
      from.is_float() && from.exponent_bits() <= 5 && from != NumberType("f7e5m1");
  if (to == NumberType("f16") && count % 2 == 0 && from.is_small() &&
      (!from.is_float() || is_exact_float)) {
    for (std::int64_t local = 0; local < count; local += 2) cast_pair(s, local);
    return;
  }
  for (std::int64_t local = 0; local < count; ++local) {
    const std::int64_t place = operand_place(s.a, s.result, local);
    if (!from.is_float() && !to.is_float()) {
      set_element(s.result, local,
                  fmt::format("{}::from_integer({}::integer({}))", number_class(to),
                              number_class(from), element(s.a, place)));
    } else {
      set_element(s.result, local,
                  fmt::format("{}::from({})", number_class(to), as_float(s.a, place)));
    }
  }
}

void CudaGenerator::cast_pair(const Statement& s, std::int64_t local) {
  const NumberType& from = info(s.a).type;
  const int width = from.bits();
  const std::int64_t low = operand_place(s.a, s.result, local) * width;
  const std::int64_t high = operand_place(s.a, s.result, local + 1) * width;
  const std::string target = fmt::format("{}[{}]", reg(s.result), local / 2);
  const bool is_signed = from.kind() == NumberKind::signed_integer;
  const std::uint32_t flip = is_signed ? 1u << (width - 1) : 0u;
  const std::int64_t shift = low % 16;
  const bool is_apart = high > low && (high - low) % 16 == 0;
  const std::string halves = is_apart ? halves_of(s.a, low / 16, high / 16) : "";
  if (is_apart && shift + width <= 16 && !from.is_float()) {
    // Codes that end within the 10 bits of the mantissa stay where they are.
    const std::int64_t moved = shift + width <= 10 ? 0 : first_past_mantissa(width, shift % width);
    line("{} = shifted_integers_to_f16x2<{}, {}, {}, {}u>({});", target, width, moved,
         shift - moved, flip, halves);
    return;
  }
  std::string pair;
  if (is_apart && shift + width <= 16) {
    pair = fmt::format("{} >> {}", halves, shift);
  } else if (is_apart) {
    pair = fmt::format("straddling<{}, {}>({}, {})", width, shift, halves,
                       halves_of(s.a, low / 16 + 1, high / 16 + 1));
  } else {
    pair = fmt::format("{} | {} << 16", element(s.a, low / width), element(s.a, high / width));
  }
  if (!from.is_float()) {
    line("{} = integers_to_f16x2<{}u>({});", target, flip, pair);
  } else if (from == NumberType("f8e4m3")) {
    line("{} = e4m3_to_f16x2(({}) & 0x00ff00ffu);", target, pair);
  } else {
    line("{} = floats_to_f16x2<{}, {}>({});", target, from.exponent_bits(), from.mantissa_bits(),
         pair);
  }
}

std::int64_t CudaGenerator::first_past_mantissa(int width, std::int64_t position) {
  while (position + width <= 10) position += width;
  return position;
}

std::string CudaGenerator::halves_of(const std::string& name, std::int64_t low,
                                     std::int64_t high) const {
  return fmt::format("__byte_perm({0}[{1}], {0}[{2}], 0x{3}{4})", reg(name), low / 2, high / 2,
                     high % 2 == 0 ? "54" : "76", low % 2 == 0 ? "10" : "32");
}

std::string CudaGenerator::literal(double value) {
  if (std::isinf(value))
    return value > 0 ? "__uint_as_float(0x7f800000u)" : "__uint_as_float(0xff800000u)";
  return fmt::format("{:.9e}f", value);
}

void CudaGenerator::unary(const Statement& s) {
  static const std::map<std::string, std::string> of_floats = {
      {"neg", "-({})"},    {"abs", "fabsf({})"},   {"exp", "expf({})"},     {"exp2", "exp2f({})"},
      {"log", "logf({})"}, {"sqrt", "sqrtf({})"},  {"rsqrt", "rsqrtf({})"}, {"sin", "sinf({})"},
      {"cos", "cosf({})"}, {"round", "rintf({})"}, {"square", "square({})"}};
  const bool is_float = info(s.a).type.is_float();
  for (std::int64_t local = 0; local < layout(s.result).local_size(); ++local) {
    if (is_float) {
      const std::string value = as_float(s.a, local);
      const std::string result = s.function == "square"
                                     ? fmt::format("{0} * {0}", value)
                                     : fmt::format(fmt::runtime(of_floats.at(s.function)), value);
      set_element(s.result, local, fmt::format("{}::from({})", numbers(s.result), result));
    } else {
      const std::string code = element(s.a, local);
      const std::string result = s.function == "neg"      ? fmt::format("0u - {}", code)
                                 : s.function == "square" ? fmt::format("{0} * {0}", code)
                                                          : fmt::format("(u32)abs((int){})", code);
      set_element(s.result, local, result);
    }
  }
}

std::string CudaGenerator::joined(const std::string& function, const std::string& a,
                                  const std::string& b, bool is_float) {
  static const std::map<std::string, std::string> operators = {
      {"add", "+"}, {"sub", "-"}, {"mul", "*"}, {"div", "/"}, {"mod", "%"},
      {"lt", "<"},  {"le", "<="}, {"eq", "=="}, {"ne", "!="}};
  if (function == "max" || function == "min") {
    return fmt::format("{}{}({}, {})", is_float ? "f" : "", is_float ? function + "f" : function, a,
                       b);
  }
  if (function == "mod" && is_float) return fmt::format("fmodf({}, {})", a, b);
  // Products and sums are rounded each, as the interpreter does it.
  if (is_float && function == "add") return fmt::format("__fadd_rn({}, {})", a, b);
  if (is_float && function == "sub") return fmt::format("__fadd_rn({}, -({}))", a, b);
  if (is_float && function == "mul") return fmt::format("__fmul_rn({}, {})", a, b);
  return fmt::format("({} {} {})", a, operators.at(function), b);
}

bool CudaGenerator::binary_by_pairs(const Statement& s) {
  const std::int64_t count = layout(s.result).local_size();
  const bool has_instruction = s.function == "mul" || s.function == "add" || s.function == "sub";
  if (info(s.a).type != NumberType("f16") || !has_instruction || count % 2 != 0 ||
      s.value_is_operand) {
    return false;
  }
  const auto pair = [&](const std::string& name, std::int64_t local) -> std::string {
    const std::int64_t low = operand_place(name, s.result, local);
    const std::int64_t high = operand_place(name, s.result, local + 1);
    if (low % 2 == 0 && high == low + 1) return fmt::format("{}[{}]", reg(name), low / 2);
    if (high == low) {
      return fmt::format("__byte_perm({}[{}], 0, {})", reg(name), low / 2,
                         low % 2 == 0 ? "0x1010" : "0x3232");
    }
    return fmt::format("({} | {} << 16)", element(name, low), element(name, high));
  };
  for (std::int64_t local = 0; local < count; local += 2) {
    line("{}[{}] = {}_f16x2({}, {});", reg(s.result), local / 2, s.function, pair(s.a, local),
         pair(s.b, local));
  }
  return true;
}

void CudaGenerator::binary(const Statement& s) {
  if (binary_by_pairs(s)) return;
  const NumberType& type = info(s.a).type;
  const bool compares =
      s.function == "lt" || s.function == "le" || s.function == "eq" || s.function == "ne";
  const bool is_exact = s.function == "add" || s.function == "sub" || s.function == "mul";
  for (std::int64_t local = 0; local < layout(s.result).local_size(); ++local) {
    const auto operand = [&](const std::string& name) {
      const std::int64_t place = operand_place(name, s.result, local);
      if (type.is_float()) return as_float(name, place);
      return fmt::format("{}{}", is_exact ? "" : "(int)", element(name, place));
    };
    const double constant = type.is_float() ? type.decode(type.encode(s.value)) : s.value;
    const std::string right = !s.value_is_operand ? operand(s.b)
                              : type.is_float()   ? literal(constant)
                                                  : fmt::format("{}", static_cast<int>(constant));
    const std::string value = joined(s.function, operand(s.a), right, type.is_float());
    const std::string code = compares ? fmt::format("({} ? 1u : 0u)", value)
                             : type.is_float()
                                 ? fmt::format("{}::from({})", numbers(s.result), value)
                                 : fmt::format("(u32)({})", value);
    set_element(s.result, local, code);
  }
}

void CudaGenerator::clip(const Statement& s) {
  const NumberType& type = info(s.a).type;
  for (std::int64_t local = 0; local < layout(s.result).local_size(); ++local) {
    if (type.is_float()) {
      set_element(s.result, local,
                  fmt::format("{}::from(fminf(fmaxf({}, {}), {}))", numbers(s.result),
                              as_float(s.a, local), literal(type.decode(type.encode(s.value))),
                              literal(type.decode(type.encode(s.value2)))));
    } else {
      set_element(s.result, local,
                  fmt::format("(u32)min(max((int){}, {}), {})", element(s.a, local),
                              static_cast<std::int64_t>(std::max(s.value, type.min_value())),
                              static_cast<std::int64_t>(std::min(s.value2, type.max_value()))));
    }
  }
}

void CudaGenerator::where(const Statement& s) {
  for (std::int64_t local = 0; local < layout(s.result).local_size(); ++local) {
    set_element(s.result, local,
                fmt::format("{} != 0 ? {} : {}", element(s.a, operand_place(s.a, s.result, local)),
                            element(s.b, operand_place(s.b, s.result, local)),
                            element(s.c, operand_place(s.c, s.result, local))));
  }
}

std::string CudaGenerator::scratch(const std::string& place) {
  return fmt::format("*(u32*)(shared_memory + {} + 4 * ({}))", scratch_offset_, place);
}

std::string CudaGenerator::element_number(const std::string& name, std::int64_t local) const {
  const Layout& own = layout(name);
  const Index index = own.at(0, local);
  std::string text = "0";
  for (std::int64_t dim = 0; dim < own.rank(); ++dim) {
    const auto at = static_cast<std::size_t>(dim);
    text = fmt::format("({}) * {} + {} + {}", text, own.shape()[at], thread_index(own, dim),
                       index[at]);
  }
  return text;
}

std::string CudaGenerator::combined(const Statement& s, const std::string& a,
                                    const std::string& b) const {
  if (s.function == "any") return fmt::format("(({} | {}) != 0 ? 1u : 0u)", a, b);
  if (s.function == "all") return fmt::format("({} != 0 && {} != 0 ? 1u : 0u)", a, b);
  const bool is_float = info(s.a).type.is_float();
  const std::string function = s.function == "sum" ? "add" : s.function;
  if (!is_float && function == "add") return fmt::format("{} + {}", a, b);
  if (!is_float) return fmt::format("(u32){}((int){}, (int){})", function, a, b);
  return fmt::format("F32::from({})", joined(function, fmt::format("F32::to({})", a),
                                             fmt::format("F32::to({})", b), true));
}

void CudaGenerator::accumulate(const Statement& s) {
  const TensorInfo& source = info(s.a);
  const auto dim = static_cast<std::size_t>(s.dim);
  const std::int64_t extent = source.shape[dim];
  std::int64_t stride = 1;
  for (std::size_t i = dim + 1; i < source.shape.size(); ++i) stride *= source.shape[i];
  scratch_bytes_ = std::max(scratch_bytes_, 4 * layout(s.a).size());
  if (scratch_offset_ + scratch_bytes_ > most_shared_bytes) {
    fail(checked_.program, s, "no shared memory is left for this reduction");
  }
  line("__syncthreads();");
  for (std::int64_t local = 0; local < layout(s.a).local_size(); ++local) {
    const std::string code = source.type.is_float()
                                 ? fmt::format("F32::from({})", as_float(s.a, local))
                                 : element(s.a, local);
    line("{} = {};", scratch(element_number(s.a, local)), code);
  }
  line("__syncthreads();");
  const bool scans = s.op == Opcode::scan;
  for (std::int64_t local = 0; local < layout(s.result).local_size(); ++local) {
    line("{{");
    ++indent_;
    line("const int number = {};", element_number(s.result, local));
    line("const int inner = number % {};", stride);
    line("const int outer = number / {};", scans ? stride * extent : stride);
    line("const int count = {};",
         scans ? fmt::format("number / {} % {} + 1", stride, extent) : std::to_string(extent));
    line("const int first = outer * {} + inner;", stride * extent);
    line("u32 total = {};", scratch("first"));
    if (s.function == "any" || s.function == "all") line("total = total != 0 ? 1u : 0u;");
    line("for (int j = 1; j < count; ++j) total = {};",
         combined(s, "total", scratch(fmt::format("first + j * {}", stride))));
    set_element(s.result, local,
                source.type.is_float() ? fmt::format("{}::from(F32::to(total))", numbers(s.result))
                                       : std::string("total"));
    --indent_;
    line("}}");
  }
  line("__syncthreads();");
}

void CudaGenerator::dot(const Statement& s) {
  const Layout& c = layout(s.result);
  const std::int64_t k = info(s.a).shape[1];
  const bool has_cores = bits(s.a) == 16 && is_tensor_core_dot(layout(s.a), layout(s.b), c, k);
  copy_words(s.result, s.c);
  if (has_cores) return dot_by_tensor_cores(s, k);
  for (std::int64_t local = 0; local < c.local_size(); ++local) {
    const Index index = c.at(0, local);
    for (std::int64_t i = 0; i < k; ++i) {
      line("{0}[{1}] = F32::from(fmaf({2}, {3}, F32::to({0}[{1}])));", reg(s.result), local,
           as_float(s.a, layout(s.a).local_of({index[0], i})),
           as_float(s.b, layout(s.b).local_of({i, index[1]})));
    }
  }
}

void CudaGenerator::dot_by_tensor_cores(const Statement& s, std::int64_t k) {
  const Layout& c = layout(s.result);
  const bool is_bf16 = info(s.a).type == NumberType("bf16");
  for (std::int64_t step = 0; step < k; step += 16) {
    for (std::int64_t tile = 0; tile < c.local_size() / 4; ++tile) {
      const Index index = c.at(0, 4 * tile);
      line("mma<{0}>({1} + {2}, {3} + {4}, {5} + {6}, {1} + {2});", is_bf16, reg(s.result),
           4 * tile, reg(s.a), layout(s.a).local_of({index[0], step}) / 2, reg(s.b),
           layout(s.b).local_of({step, index[1]}) / 2);
    }
  }
}

}  // namespace einkorn::tilus
