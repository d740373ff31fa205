// The numbers that tiles are made of: integers and floats of 1 to 8 bits, and the wider types that
// activations and indices have.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace einkorn::tilus {

enum class NumberKind { unsigned_integer, signed_integer, floating };

// A number format. Small ones (bits <= 8):
//   uN    0 .. 2^N - 1
//   iN    two's complement, -2^(N-1) .. 2^(N-1) - 1
//   fNeEmM sign, E exponent bits, M mantissa bits, N = 1 + E + M, E, M >= 1, bias 2^(E-1) - 1 (0
//   for
//         E = 1); exponent 0 is subnormal; there is no infinity and no NaN, an exponent of all ones
//         is a number like any other. Exceptions: f8e4m3 has NaN at S.1111.111 (OCP, max 448);
//         f8e5m2 has IEEE's infinities and NaNs (max 57344); f7e5m1 decodes exponent 31 as
//         65536 (1 + M/2), but its largest number is 49152, so encode never makes those codes.
// Wide ones: u16, u32, i16, i32, f16, bf16, f32, with IEEE's infinities and NaNs.
class NumberType {
 public:
  NumberType() = default;  // u8

  // "u4", "i7", "f6e3m2", "f16", "bf16", "f32", "i32", ...; "f6" alone is the default split of its
  // width (f3e1m1, f4e2m1, f5e2m2, f6e3m2, f7e3m3, f8e4m3). Throws InvalidArgument, with what
  // exists, for any other name.
  explicit NumberType(const std::string& name);

  static NumberType unsigned_integer(int bits);
  static NumberType signed_integer(int bits);
  static NumberType floating(int exponent_bits, int mantissa_bits);

  std::string name() const;
  NumberKind kind() const { return kind_; }
  bool is_float() const { return kind_ == NumberKind::floating; }
  bool is_small() const { return bits() <= 8; }
  int bits() const { return bits_; }
  int exponent_bits() const { return exponent_bits_; }  // 0 for integers
  int mantissa_bits() const { return mantissa_bits_; }
  int bias() const;
  std::uint32_t code_count() const { return 1u << bits_; }  // bits <= 16

  // The largest and smallest finite number.
  double max_value() const;
  double min_value() const;
  // Floats: the smallest positive number, a subnormal. Integers: 1.
  double smallest_positive() const;

  // The number that a code (its low bits()) stands for; NaN and infinities where the type has them.
  double decode(std::uint32_t code) const;

  // The code of the nearest number, ties to the even code; integers: ties to the even integer. What
  // is too large saturates at max_value (min_value), infinities too; wide floats go to infinity as
  // hardware does. -0 keeps its sign. NaN: the largest number with NaN's sign in small floats, NaN
  // in wide ones, 0 in integers.
  std::uint32_t encode(double value) const;

  friend bool operator==(const NumberType&, const NumberType&) = default;

 private:
  NumberType(NumberKind kind, int bits, int exponent_bits, int mantissa_bits)
      : kind_(kind), bits_(bits), exponent_bits_(exponent_bits), mantissa_bits_(mantissa_bits) {}
  std::uint64_t magnitude_code(double magnitude) const;
  bool is_ieee() const;

  NumberKind kind_ = NumberKind::unsigned_integer;
  int bits_ = 8;
  int exponent_bits_ = 0;
  int mantissa_bits_ = 0;
};

// Every type of at most 8 bits: u1..u8, i1..i8, and all splits of f3..f8.
std::vector<NumberType> small_types();
// The 21 weight types of the paper's evaluation: u1..u8, i2..i8, and the default f3..f8.
std::vector<NumberType> weight_types();

// The element of `bits` <= 32 bits that begins at bit `position` of a byte stream, and its writing;
// elements lie as einkorn/compute/bit_packing.h packs them.
std::uint32_t read_bits(const std::uint8_t* bytes, std::int64_t position, int bits);
void write_bits(std::uint8_t* bytes, std::int64_t position, int bits, std::uint32_t value);

}  // namespace einkorn::tilus
