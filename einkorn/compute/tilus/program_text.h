// Programs as text (.tile): one statement a line, comments from # to the end of the line.
//
//   program i6_matmul(a: ptr f16, w: ptr u8, c: ptr f32, k: i32) warps 1 {
//     grid 1, 1;
//     acc = register f32[16, 8], 0;
//     ...
//     for i in 0 .. k / 16 {
//       x = load ga[0, i * 16], [16, 16];
//       r = load gw[i, 0, 0], [96], dims [2] : local(3).spatial(32);
//       q = view r as i6[16, 8] : local(2,1).column_spatial(4,8).local(2,1);
//       h = cast q to f16;
//       acc = dot x, h, acc;
//     }
//     store gc[0, 0], acc;
//   }
//
// The README of this folder lists all statements.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "einkorn/compute/tilus/program.h"

namespace einkorn::tilus {

// Reads one program. path is for messages only. Throws BadFile with the line for anything that is
// no program, and for texts past the limits: 1 MiB, 10000 statements, 32 nested blocks, expressions
// of 200 operators, names of 64 characters.
Program parse_program(std::string_view text, const std::string& path);
Program read_program(const std::filesystem::path& path);

// The text that parses to the same program.
std::string to_text(const Program& program);
std::string to_text(const Expression& expression);

// The statement's first line, for messages.
std::string to_text(const Statement& statement);

}  // namespace einkorn::tilus
