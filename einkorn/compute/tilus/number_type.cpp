#include "einkorn/compute/tilus/number_type.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn::tilus {
namespace {

constexpr const char* known_types =
    "u1..u8, i1..i8, f3..f8 with a split such as f6e3m2, u16, u32, i16, i32, f16, bf16, f32";

struct Split {
  int exponent;
  int mantissa;
};

// Of f3 to f8.
constexpr Split default_splits[] = {{1, 1}, {2, 1}, {2, 2}, {3, 2}, {3, 3}, {4, 3}};

[[noreturn]] void refuse(const std::string& name) {
  throw InvalidArgument(fmt::format("type '{}': expected one of {}", name, known_types));
}

// The number that the text is, for texts of one or two digits without a leading zero.
int small_number(std::string_view text, const std::string& name) {
  if (text.empty() || text.size() > 2 || text[0] == '0') refuse(name);
  int value = 0;
  for (const char digit : text) {
    if (digit < '0' || digit > '9') refuse(name);
    value = 10 * value + (digit - '0');
  }
  return value;
}

NumberType parse_float(const std::string& name) {
  const std::size_t exponent_at = name.find('e');
  if (exponent_at == std::string::npos) {
    const int bits = small_number(std::string_view(name).substr(1), name);
    if (bits < 3 || bits > 8) refuse(name);
    const Split split = default_splits[bits - 3];
    return NumberType::floating(split.exponent, split.mantissa);
  }
  const std::size_t mantissa_at = name.find('m', exponent_at);
  if (mantissa_at == std::string::npos) refuse(name);
  const std::string_view text = name;
  const int bits = small_number(text.substr(1, exponent_at - 1), name);
  const int exponent =
      small_number(text.substr(exponent_at + 1, mantissa_at - exponent_at - 1), name);
  const int mantissa = small_number(text.substr(mantissa_at + 1), name);
  require(bits == 1 + exponent + mantissa && bits >= 3 && bits <= 8,
          "type '{}': expected 3 to 8 bits, a sign bit beside exponent and mantissa", name);
  return NumberType::floating(exponent, mantissa);
}

}  // namespace

NumberType::NumberType(const std::string& name) {
  if (name == "f16") {
    *this = floating(5, 10);
  } else if (name == "bf16") {
    *this = floating(8, 7);
  } else if (name == "f32") {
    *this = floating(8, 23);
  } else if (name.size() < 2) {
    refuse(name);
  } else if (name[0] == 'f') {
    *this = parse_float(name);
  } else if (name[0] == 'u' || name[0] == 'i') {
    const int bits = small_number(std::string_view(name).substr(1), name);
    if (bits > 8 && bits != 16 && bits != 32) refuse(name);
    *this = name[0] == 'u' ? unsigned_integer(bits) : signed_integer(bits);
  } else {
    refuse(name);
  }
}

NumberType NumberType::unsigned_integer(int bits) {
  return NumberType(NumberKind::unsigned_integer, bits, 0, 0);
}

NumberType NumberType::signed_integer(int bits) {
  return NumberType(NumberKind::signed_integer, bits, 0, 0);
}

NumberType NumberType::floating(int exponent_bits, int mantissa_bits) {
  return NumberType(NumberKind::floating, 1 + exponent_bits + mantissa_bits, exponent_bits,
                    mantissa_bits);
}

std::string NumberType::name() const {
  switch (kind_) {
    case NumberKind::unsigned_integer:
      return fmt::format("u{}", bits_);
    case NumberKind::signed_integer:
      return fmt::format("i{}", bits_);
    case NumberKind::floating:
      break;
  }
  if (bits_ == 32) return "f32";
  if (bits_ == 16) return exponent_bits_ == 5 ? "f16" : "bf16";
  return fmt::format("f{}e{}m{}", bits_, exponent_bits_, mantissa_bits_);
}

int NumberType::bias() const {
  return (1 << (exponent_bits_ - 1)) - 1;
}

bool NumberType::is_ieee() const {
  return bits_ > 8 || (exponent_bits_ == 5 && mantissa_bits_ == 2);
}

double NumberType::max_value() const {
  switch (kind_) {
    case NumberKind::unsigned_integer:
      return std::ldexp(1.0, bits_) - 1;
    case NumberKind::signed_integer:
      return std::ldexp(1.0, bits_ - 1) - 1;
    case NumberKind::floating:
      break;
  }
  const int top = (1 << exponent_bits_) - 1 - bias();
  const double last_mantissa = 2 - std::ldexp(1.0, -mantissa_bits_);
  const bool top_is_reserved = is_ieee() || name() == "f7e5m1";
  if (top_is_reserved) return std::ldexp(last_mantissa, top - 1);
  if (name() == "f8e4m3") return 448;
  return std::ldexp(last_mantissa, top);
}

double NumberType::min_value() const {
  switch (kind_) {
    case NumberKind::unsigned_integer:
      return 0;
    case NumberKind::signed_integer:
      return -std::ldexp(1.0, bits_ - 1);
    case NumberKind::floating:
      break;
  }
  return -max_value();
}

double NumberType::smallest_positive() const {
  return is_float() ? std::ldexp(1.0, 1 - bias() - mantissa_bits_) : 1;
}

double NumberType::decode(std::uint32_t code) const {
  const std::uint32_t mask = bits_ == 32 ? ~0u : (1u << bits_) - 1;
  code &= mask;
  if (kind_ == NumberKind::unsigned_integer) return code;
  const bool top_bit = (code >> (bits_ - 1) & 1u) != 0;
  if (kind_ == NumberKind::signed_integer) return code - (top_bit ? std::ldexp(1.0, bits_) : 0);

  const std::uint32_t mantissa = code & ((1u << mantissa_bits_) - 1);
  const std::uint32_t exponent = code >> mantissa_bits_ & ((1u << exponent_bits_) - 1);
  const bool is_top = exponent == (1u << exponent_bits_) - 1;
  const double sign = top_bit ? -1 : 1;
  if (is_top && is_ieee()) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::copysign(std::numeric_limits<double>::quiet_NaN(), sign);
  }
  if (is_top && mantissa == 7 && exponent_bits_ == 4 && mantissa_bits_ == 3) {
    return std::copysign(std::numeric_limits<double>::quiet_NaN(), sign);
  }
  const double significand = exponent == 0 ? mantissa : mantissa + std::ldexp(1.0, mantissa_bits_);
  const int power = std::max(static_cast<int>(exponent), 1) - bias() - mantissa_bits_;
  return sign * std::ldexp(significand, power);
}

// Positive codes are ordered as their numbers are, and rounding up past a mantissa of all ones
// carries into the exponent, so the code is counted in steps of the binade that the number is in.
std::uint64_t NumberType::magnitude_code(double magnitude) const {
  const int lowest = 1 - bias();
  const int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), lowest) : lowest;
  const double steps = std::nearbyint(std::ldexp(magnitude, mantissa_bits_ - exponent));
  const double below = std::ldexp(static_cast<double>(exponent - lowest), mantissa_bits_);
  return static_cast<std::uint64_t>(below + steps);
}

std::uint32_t NumberType::encode(double value) const {
  if (!is_float()) {
    if (std::isnan(value)) return 0;
    const double nearest = std::nearbyint(std::clamp(value, min_value(), max_value()));
    const auto code = static_cast<std::uint32_t>(static_cast<std::int64_t>(nearest));
    return bits_ == 32 ? code : code & ((1u << bits_) - 1);
  }
  const std::uint32_t sign = std::signbit(value) ? 1u << (bits_ - 1) : 0;
  const std::uint32_t top_code = ((1u << exponent_bits_) - 1) << mantissa_bits_;
  const std::uint64_t max_code = magnitude_code(max_value());
  if (bits_ > 8) {
    if (std::isnan(value)) return sign | top_code | 1u << (mantissa_bits_ - 1);
    if (std::isinf(value) || magnitude_code(std::abs(value)) > max_code) return sign | top_code;
    return sign | static_cast<std::uint32_t>(magnitude_code(std::abs(value)));
  }
  const double magnitude = std::isnan(value) ? max_value() : std::abs(value);
  const std::uint64_t code = magnitude >= max_value() ? max_code : magnitude_code(magnitude);
  return sign | static_cast<std::uint32_t>(code);
}

std::vector<NumberType> small_types() {
  std::vector<NumberType> types;
  for (int bits = 1; bits <= 8; ++bits) types.push_back(NumberType::unsigned_integer(bits));
  for (int bits = 1; bits <= 8; ++bits) types.push_back(NumberType::signed_integer(bits));
  for (int bits = 3; bits <= 8; ++bits) {
    for (int exponent = bits - 2; exponent >= 1; --exponent) {
      types.push_back(NumberType::floating(exponent, bits - 1 - exponent));
    }
  }
  return types;
}

std::vector<NumberType> weight_types() {
  std::vector<NumberType> types;
  for (int bits = 1; bits <= 8; ++bits) types.push_back(NumberType::unsigned_integer(bits));
  for (int bits = 2; bits <= 8; ++bits) types.push_back(NumberType::signed_integer(bits));
  for (const Split split : default_splits) {
    types.push_back(NumberType::floating(split.exponent, split.mantissa));
  }
  return types;
}

std::uint32_t read_bits(const std::uint8_t* bytes, std::int64_t position, int bits) {
  std::uint64_t value = 0;
  const std::int64_t first = position / 8;
  const std::int64_t last = (position + bits - 1) / 8;
  for (std::int64_t i = last; i >= first; --i) value = value << 8 | bytes[i];
  return static_cast<std::uint32_t>(value >> (position % 8) & ((std::uint64_t{1} << bits) - 1));
}

void write_bits(std::uint8_t* bytes, std::int64_t position, int bits, std::uint32_t value) {
  for (int done = 0; done < bits;) {
    const std::int64_t at = position + done;
    const int shift = static_cast<int>(at % 8);
    const int count = std::min(8 - shift, bits - done);
    const std::uint32_t mask = (1u << count) - 1;
    std::uint8_t& byte = bytes[at / 8];
    byte = static_cast<std::uint8_t>((byte & ~(mask << shift)) | (value >> done & mask) << shift);
    done += count;
  }
}

}  // namespace einkorn::tilus
