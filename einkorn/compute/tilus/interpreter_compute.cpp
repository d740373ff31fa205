#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "einkorn/compute/tilus/interpreter_internal.h"

namespace einkorn::tilus {
namespace {

using Codes = std::vector<std::uint32_t>;

// ---- numbers ----

float to_float(const NumberType& type, std::uint32_t code) {
  if (type.bits() == 32 && type.is_float()) return std::bit_cast<float>(code);
  return static_cast<float>(type.decode(code));
}

std::uint32_t from_float(const NumberType& type, float value) {
  if (type.bits() == 32 && type.is_float()) return std::bit_cast<std::uint32_t>(value);
  return type.encode(value);
}

std::uint32_t cast_code(const NumberType& from, const NumberType& to, std::uint32_t code) {
  if (from == to) return code;
  // Through f32, except between integers, which f32 might round.
  if (!from.is_float() && !to.is_float()) return to.encode(from.decode(code));
  return from_float(to, to_float(from, code));
}

float apply(const std::string& function, float x) {
  if (function == "neg") return -x;
  if (function == "abs") return std::abs(x);
  if (function == "exp") return std::exp(x);
  if (function == "exp2") return std::exp2(x);
  if (function == "log") return std::log(x);
  if (function == "sqrt") return std::sqrt(x);
  if (function == "rsqrt") return 1 / std::sqrt(x);
  if (function == "sin") return std::sin(x);
  if (function == "cos") return std::cos(x);
  if (function == "round") return std::nearbyint(x);
  return x * x;
}

std::int32_t apply(const std::string& function, std::int32_t x) {
  const auto bits = static_cast<std::uint32_t>(x);
  if (function == "neg") return static_cast<std::int32_t>(0u - bits);
  if (function == "abs") return x < 0 ? static_cast<std::int32_t>(0u - bits) : x;
  return static_cast<std::int32_t>(bits * bits);
}

bool is_comparison(const std::string& function) {
  return function == "lt" || function == "le" || function == "eq" || function == "ne";
}

template <typename T>
bool compare(const std::string& function, T a, T b) {
  if (function == "lt") return a < b;
  if (function == "le") return a <= b;
  return (a == b) == (function == "eq");
}

float apply(const std::string& function, float a, float b) {
  if (function == "add") return a + b;
  if (function == "sub") return a - b;
  if (function == "mul") return a * b;
  if (function == "div") return a / b;
  if (function == "mod") return std::fmod(a, b);
  return function == "max" ? std::fmax(a, b) : std::fmin(a, b);
}

// Division by zero has been ruled out.
std::int32_t apply(const std::string& function, std::int32_t a, std::int32_t b) {
  const auto x = static_cast<std::uint32_t>(a);
  const auto y = static_cast<std::uint32_t>(b);
  if (function == "add") return static_cast<std::int32_t>(x + y);
  if (function == "sub") return static_cast<std::int32_t>(x - y);
  if (function == "mul") return static_cast<std::int32_t>(x * y);
  if (function == "div") return b == -1 ? static_cast<std::int32_t>(0u - x) : a / b;
  if (function == "mod") return b == -1 ? 0 : a % b;
  return function == "max" ? std::max(a, b) : std::min(a, b);
}

// ---- one instruction ----

class Computation {
 public:
  Computation(const MachineTables& tables, BlockMemory& memory, const Statement& s)
      : tables_(tables), memory_(memory), s_(s) {}

  std::string run() {
    switch (s_.op) {
      case Opcode::register_tensor: {
        // Built first, stored last: the result may be an operand too.
        const std::uint32_t code = s_.type.is_float()
                                       ? from_float(s_.type, static_cast<float>(s_.value))
                                       : s_.type.encode(s_.value);
        return fill([&](std::int64_t) { return code; });
      }
      case Opcode::cast:
        return fill([&](std::int64_t e) {
          return cast_code(info(s_.a).type, info(s_.result).type, code(s_.a, e));
        });
      case Opcode::assign:
        return fill([&](std::int64_t e) { return code(s_.a, e); });
      case Opcode::view:
        return view();
      case Opcode::unary:
        return fill([&](std::int64_t e) { return unary(code(s_.a, e)); });
      case Opcode::binary:
        return binary();
      case Opcode::clip:
        return clip();
      case Opcode::where:
        return fill([&](std::int64_t e) {
          const Index index = unravel(e, info(s_.result).shape);
          return broadcast_code(s_.a, index) != 0 ? broadcast_code(s_.b, index)
                                                  : broadcast_code(s_.c, index);
        });
      case Opcode::reduce:
      case Opcode::scan:
        return accumulate();
      case Opcode::dot:
        return dot();
      default:
        return rearrange();
    }
  }

 private:
  const TensorInfo& info(const std::string& name) const { return tables_.info(name); }

  std::uint32_t code(const std::string& name, std::int64_t element) {
    return memory_.codes(name)[tables_.table(name).first_place[static_cast<std::size_t>(element)]];
  }

  std::int64_t ravel(const std::string& name, const Index& index) const {
    std::int64_t element = 0;
    for (std::size_t i = 0; i < index.size(); ++i) {
      element = element * info(name).shape[i] + index[i];
    }
    return element;
  }

  // The element of an operand that broadcasts to the index.
  std::uint32_t broadcast_code(const std::string& name, const Index& index) {
    const Index& shape = info(name).shape;
    Index own(shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i) {
      own[i] = shape[i] == 1 ? 0 : index[index.size() - shape.size() + i];
    }
    return code(name, ravel(name, own));
  }

  std::string fill(const std::function<std::uint32_t(std::int64_t)>& of_element) {
    const TensorTable& table = tables_.table(s_.result);
    Codes values(static_cast<std::size_t>(table.size()));
    for (std::int64_t e = 0; e < table.size(); ++e) {
      values[static_cast<std::size_t>(e)] = of_element(e);
    }
    Codes& target = memory_.codes(s_.result);
    for (std::size_t at = 0; at < target.size(); ++at) {
      target[at] = values[static_cast<std::size_t>(table.elements[at])];
    }
    return "";
  }

  // The bits of each thread, read anew. Replicas must still agree.
  std::string view() {
    const TensorTable& from = tables_.table(s_.a);
    const TensorTable& to = tables_.table(s_.result);
    const int from_bits = info(s_.a).type.bits();
    const int to_bits = info(s_.result).type.bits();
    const Codes source = memory_.codes(s_.a);
    Codes& target = memory_.codes(s_.result);
    const std::int64_t threads = static_cast<std::int64_t>(to.elements.size()) / to.local_size;
    std::vector<std::uint8_t> own(static_cast<std::size_t>((from.local_size * from_bits + 7) / 8));
    for (std::int64_t thread = 0; thread < threads; ++thread) {
      for (std::int64_t local = 0; local < from.local_size; ++local) {
        write_bits(own.data(), local * from_bits, from_bits,
                   source[static_cast<std::size_t>(thread * from.local_size + local)]);
      }
      for (std::int64_t local = 0; local < to.local_size; ++local) {
        target[static_cast<std::size_t>(thread * to.local_size + local)] =
            read_bits(own.data(), local * to_bits, to_bits);
      }
    }
    for (std::size_t at = 0; at < target.size(); ++at) {
      const auto element = static_cast<std::size_t>(to.elements[at]);
      if (target[at] != target[to.first_place[element]]) {
        return fmt::format("threads {} and {} hold different bits of one element",
                           to.thread_of(to.first_place[element]), to.thread_of(at));
      }
    }
    return "";
  }

  std::uint32_t unary(std::uint32_t operand) const {
    const NumberType& type = info(s_.a).type;
    if (type.is_float()) return from_float(type, apply(s_.function, to_float(type, operand)));
    return static_cast<std::uint32_t>(apply(s_.function, static_cast<std::int32_t>(operand)));
  }

  std::string binary() {
    const NumberType& type = info(s_.a).type;
    const bool divides = s_.function == "div" || s_.function == "mod";
    bool by_zero = false;
    const auto constant =
        type.is_float() ? from_float(type, static_cast<float>(s_.value)) : type.encode(s_.value);
    fill([&](std::int64_t e) -> std::uint32_t {
      const Index index = unravel(e, info(s_.result).shape);
      const std::uint32_t left = broadcast_code(s_.a, index);
      const std::uint32_t right = s_.value_is_operand ? constant : broadcast_code(s_.b, index);
      if (type.is_float()) {
        const float a = to_float(type, left);
        const float b = to_float(type, right);
        if (is_comparison(s_.function)) return compare(s_.function, a, b) ? 1 : 0;
        return from_float(type, apply(s_.function, a, b));
      }
      const auto a = static_cast<std::int32_t>(left);
      const auto b = static_cast<std::int32_t>(right);
      if (is_comparison(s_.function)) return compare(s_.function, a, b) ? 1 : 0;
      if (divides && b == 0) {
        by_zero = true;
        return 0;
      }
      return static_cast<std::uint32_t>(apply(s_.function, a, b));
    });
    return by_zero ? "an integer is divided by zero" : "";
  }

  std::string clip() {
    const NumberType& type = info(s_.a).type;
    return fill([&](std::int64_t e) {
      const std::uint32_t operand = code(s_.a, e);
      if (!type.is_float()) {
        return type.encode(std::clamp(type.decode(operand), s_.value, s_.value2));
      }
      const float low = to_float(type, from_float(type, static_cast<float>(s_.value)));
      const float high = to_float(type, from_float(type, static_cast<float>(s_.value2)));
      return from_float(type, std::fmin(std::fmax(to_float(type, operand), low), high));
    });
  }

  // One step of a reduction.
  std::uint32_t joined(const NumberType& type, std::uint32_t a, std::uint32_t b) const {
    if (s_.function == "any") return (a | b) != 0 ? 1 : 0;
    if (s_.function == "all") return a != 0 && b != 0 ? 1 : 0;
    const std::string function = s_.function == "sum" ? "add" : s_.function;
    if (!type.is_float()) {
      return static_cast<std::uint32_t>(
          apply(function, static_cast<std::int32_t>(a), static_cast<std::int32_t>(b)));
    }
    return from_float(type, apply(function, to_float(type, a), to_float(type, b)));
  }

  // Sums of f16 and bf16 are kept in f32 and rounded at the end.
  std::uint32_t total(const Index& first, std::int64_t count) {
    const NumberType& type = info(s_.a).type;
    Index index = first;
    const auto dim = static_cast<std::size_t>(s_.dim);
    if (s_.function == "sum" && type.is_float()) {
      float sum = 0;
      for (index[dim] = 0; index[dim] < count; ++index[dim]) {
        sum += to_float(type, code(s_.a, ravel(s_.a, index)));
      }
      return from_float(type, sum);
    }
    index[dim] = 0;
    std::uint32_t result = code(s_.a, ravel(s_.a, index));
    if (s_.function == "any" || s_.function == "all") result = result != 0 ? 1 : 0;
    for (index[dim] = 1; index[dim] < count; ++index[dim]) {
      result = joined(type, result, code(s_.a, ravel(s_.a, index)));
    }
    return result;
  }

  std::string accumulate() {
    const auto dim = static_cast<std::size_t>(s_.dim);
    const std::int64_t extent = info(s_.a).shape[dim];
    return fill([&](std::int64_t e) {
      const Index index = unravel(e, info(s_.result).shape);
      return total(index, s_.op == Opcode::scan ? index[dim] + 1 : extent);
    });
  }

  std::string dot() {
    const std::int64_t k_count = info(s_.a).shape[1];
    const std::int64_t columns = info(s_.b).shape[1];
    const NumberType& type = info(s_.a).type;
    return fill([&](std::int64_t e) {
      const std::int64_t m = e / columns;
      const std::int64_t n = e % columns;
      double sum = to_float(info(s_.c).type, code(s_.c, e));
      for (std::int64_t k = 0; k < k_count; ++k) {
        sum += static_cast<double>(to_float(type, code(s_.a, m * k_count + k))) *
               to_float(type, code(s_.b, k * columns + n));
      }
      return std::bit_cast<std::uint32_t>(static_cast<float>(sum));
    });
  }

  // Elements move, or keep their row-major place.
  std::string rearrange() {
    const Index& shape = info(s_.a).shape;
    return fill([&](std::int64_t e) {
      if (s_.op == Opcode::squeeze || s_.op == Opcode::unsqueeze) return code(s_.a, e);
      Index index = unravel(e, info(s_.result).shape);
      if (s_.op == Opcode::transpose) {
        std::swap(index[0], index[1]);
      } else {
        for (std::size_t i = 0; i < shape.size(); ++i) index[i] %= shape[i];
      }
      return code(s_.a, ravel(s_.a, index));
    });
  }

  const MachineTables& tables_;
  BlockMemory& memory_;
  const Statement& s_;
};

}  // namespace

std::string compute(const MachineTables& tables, BlockMemory& memory, const Statement& s) {
  return Computation(tables, memory, s).run();
}

}  // namespace einkorn::tilus
