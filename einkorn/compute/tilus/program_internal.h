// What checking, interpreting and generating share.
#pragma once

#include <string>

#include "einkorn/compute/tilus/program.h"

namespace einkorn::tilus {

inline constexpr std::int64_t most_shared_bytes = 227 * 1024;
inline constexpr std::int64_t most_register_bits = 255 * 32;  // of one tensor, a thread

// Throws InvalidArgument: program, place and statement before the problem.
[[noreturn]] void fail(const Program& program, const Statement& statement,
                       const std::string& problem);

// Gives every register tensor a layout, or throws.
void infer_layouts(CheckedProgram& checked);

// The dimensions of memory that a transfer's tensor dimensions walk along.
std::vector<std::int64_t> transfer_dims(const std::vector<std::int64_t>& dims,
                                        std::size_t tensor_rank, std::size_t memory_rank);

// A dot whose layouts are those of tensor cores: c = Q mma_c, a = (Q over m) local(1, k / 16)
// mma_a, b = local(k / 16, 1) (Q over n) mma_b.
struct DotLayouts {
  Layout a;
  Layout b;
};
DotLayouts tensor_core_operands(const Layout& c, std::int64_t k);
bool is_tensor_core_dot(const Layout& a, const Layout& b, const Layout& c, std::int64_t k);
// Operands of which each thread holds all of its rows and columns, for plain arithmetic.
DotLayouts plain_operands(const Layout& c, std::int64_t k);

// Whether each thread holds the same elements in both, if in another order.
bool same_threads(const Layout& a, const Layout& b);

// Bytes of a shared tensor, a multiple of 16.
std::int64_t shared_tensor_bytes(const TensorInfo& info);

// Where an element of a shared tensor lies, in elements, with its swizzle.
std::int64_t shared_place(const TensorInfo& info, const Index& index);

}  // namespace einkorn::tilus
