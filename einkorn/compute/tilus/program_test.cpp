#include "einkorn/compute/tilus/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "einkorn/compute/tilus/interpreter.h"
#include "einkorn/compute/tilus/program_builder.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// Every statement that there is.
constexpr const char* everything = R"(# A program that does nothing sensible.
program everything(a: ptr f16, w: ptr u8, flags: ptr i32, c: ptr f32, m: i32, n: i32) warps 2 {
  grid (m + 15) / 16, n;
  assume m % 16 == 0;
  assert (0 < m) && (n <= 4096), "sizes";
  ga = global a[m, 64];
  gw = global w[4, 192];
  gf = global flags[n];
  gc = global c[m, 16];
  s = shared f16[16, 64] swizzle;
  copy s[0, 0], ga[block.x * 16, 0], [16, 64];
  commit;
  wait 0;
  sync;
  x = load s[0, 0], [16, 64];
  free s;
  r = load gw[block.y % 4, 0], [192], dims [1] : local(3).spatial(64);
  q = view r as i6[32, 8] : local(2,1).spatial(1,2).reduced;
  return;
}
)";

std::string valid_program() {
  std::string text = everything;
  const std::string bad = "  q = view r as i6[32, 8] : local(2,1).spatial(1,2).reduced;\n";
  text.replace(text.find(bad), bad.size(), R"(
  q = view r as i6[16, 16] : spatial(1,2).local(2,1).column_spatial(4,8).local(2,1);
  wide = cast q to f32;
  y = exp wide;
  y = clip y, -1.5, 1e+06;
  t = transpose y;
  u = unsqueeze y, dim 0;
  v = squeeze u, dim 0;
  total = reduce_sum v, dim 1;
  running = scan_max v, dim 0;
  z = sub running, total;
  small = lt z, -0.25;
  chosen = where small, z, y;
  copies = repeat total, [1, 2];
  acc = register f32[16, 16], 0;
  for i in 0 .. min(n, 4) step 2 unroll {
    if i == block.y {
      acc = assign chosen;
    } else {
      acc = mul acc, 2;
    }
  }
  let p = n;
  while 0 < p {
    set p = p / 2;
  }
  lock gf[block.y] == 0;
  store gc[block.x * 16, 0], acc;
  release gf[block.y] = block.x + 1;
  index = register i32[16, 16], 3;
  scatter gc[0, 0], acc, index, dim 1, dims [0, 1];
  print total;
  say "done";
)");
  return text;
}

TEST(ProgramText, ComesBack) {
  const Program program = parse_program(valid_program(), "test");
  const std::string text = to_text(program);
  EXPECT_EQ(to_text(parse_program(text, "again")), text);
  EXPECT_EQ(program.name, "everything");
  EXPECT_EQ(program.warps, 2);
  EXPECT_EQ(program.parameters.size(), 6u);
  check(program);
}

TEST(ProgramText, ErrorsNameTheLine) {
  const std::pair<const char*, const char*> bad[] = {
      {"", "line 1: expected 'program' before the end"},
      {"program p() warps 0 {", "line 1: expected an integer from 1 to 32"},
      {"program p(x: f16) warps 1 {", "a parameter is an i32 or a 'ptr'"},
      {"program p(x: ptr f17) warps 1 {", "type 'f17'"},
      {"program p() warps 1 {\n grid 1;\n frobnicate;\n}",
       "line 3: unknown statement 'frobnicate'"},
      {"program p() warps 1 {\n grid 1;\n x = jump y;\n}", "line 3: unknown instruction 'jump'"},
      {"program p() warps 1 {\n grid 1;\n sync\n}", "line 4: expected ';' before '}'"},
      {"program p() warps 1 {\n grid 1;\n sync;", "expected a statement before the end"},
      {"program p() warps 1 {\n grid 1;\n wait 99999999999999999999;\n}", "from 0 to 64"},
      {"program p() warps 1 {\n grid block.q;\n}", "expected block.x, block.y or block.z"},
      {"program p() warps 1 {\n grid 1;\n x = register f32[2], nan;\n}", "expected a number"},
      {"program p() warps 1 {\n grid 1;\n x = register f32[2], 0 : spatial(;\n}",
       "line 3: layout:"},
      {"program p() warps 1 {\n grid 1, 1, 1, 1;\n}", "at most 3 dimensions"},
      {"program p() warps 1 {\n grid 1;\n say \"x\n\";\n}", "on the same line"},
      {"program p() warps 1 {\n grid 1;\n} x", "expected nothing after the program"},
      {"program p() warps 1 {\n grid 3x;\n}", "expected an integer, got '3x"},
      {"program p() warps 1 {\n grid \xff;\n}", "UTF-8"}};
  for (const auto& [text, words] : bad) {
    EXPECT_THAT([text = text] { parse_program(text, "p.tile"); },
                ThrowsMessage<BadFile>(HasSubstr(words)))
        << text;
  }
  std::string deep = "program p() warps 1 { grid 1; ";
  for (int i = 0; i < 100000; ++i) deep += "if 1 { ";
  EXPECT_THAT([&] { parse_program(deep, "p"); },
              ThrowsMessage<BadFile>(HasSubstr("nested blocks")));
  const std::string parentheses = "program p() warps 1 { grid " + std::string(100000, '(');
  EXPECT_THAT([&] { parse_program(parentheses, "p"); },
              ThrowsMessage<BadFile>(HasSubstr("parentheses")));
  std::string long_sum = "program p() warps 1 { grid 1";
  for (int i = 0; i < 100000; ++i) long_sum += " + 1";
  EXPECT_THAT([&] { parse_program(long_sum, "p"); },
              ThrowsMessage<BadFile>(HasSubstr("more than 200 operators")));
  EXPECT_THAT([] { parse_program(std::string(2 << 20, ' '), "p"); },
              ThrowsMessage<BadFile>(HasSubstr("1 MiB")));
}

// Damaged programs: they parse or they are refused; what parses is checked, or refused, and what is
// checked runs, or is stopped. Nothing else happens.
TEST(ProgramText, DamagedProgramsAreRefusedOrRun) {
  const std::string whole = valid_program();
  EXPECT_TRUE(rc::check([&] {
    std::string text = whole;
    const int edits = *rc::gen::inRange(1, 5);
    for (int i = 0; i < edits; ++i) {
      const auto at = *rc::gen::inRange<std::size_t>(0, text.size());
      const auto size =
          *rc::gen::inRange<std::size_t>(0, std::min<std::size_t>(30, text.size() - at));
      switch (*rc::gen::inRange(0, 4)) {
        case 0:
          text.erase(at, size);
          break;
        case 1:
          text.insert(at, text.substr(*rc::gen::inRange<std::size_t>(0, text.size()), size));
          break;
        case 2:
          text[at] = *rc::gen::elementOf(std::string("0123456789-*/%<=[](){};:.,#\" \nxn_"));
          break;
        default:
          text[at] = *rc::gen::arbitrary<char>();
      }
    }
    try {
      const Program program = parse_program(text, "damaged");
      RC_ASSERT(to_text(parse_program(to_text(program), "again")) == to_text(program));
      const CheckedProgram checked = check(program);
      std::vector<std::byte> memory(1 << 12);
      std::vector<Argument> arguments;
      for (const Parameter& parameter : program.parameters) {
        if (parameter.is_pointer) {
          arguments.emplace_back(Buffer(memory));
        } else {
          arguments.emplace_back(std::int64_t{2});
        }
      }
      interpret(checked, arguments, {.most_steps = 2000});
    } catch (const BadFile&) {
    } catch (const InvalidArgument&) {
    }
  }));
}

// ---- checks ----

// A program of one warp with these statements, an f16 pointer p and an i32 n.
void expect_refusal(const std::string& statements, const char* words) {
  const std::string text =
      "program p(p: ptr f16, n: i32) warps 1 {\n grid 1;\n g = global p[n, 64];\n " + statements +
      "\n}";
  EXPECT_THAT([&] { check(parse_program(text, "test")); },
              ThrowsMessage<InvalidArgument>(HasSubstr(words)))
      << statements;
}

TEST(ProgramCheck, DiagnosticsNameStatementAndReason) {
  expect_refusal("x = load h[0, 0], [16, 64];",
                 "program p, line 4: x = load h[0, 0], [16, 64]: no tensor 'h' is known here");
  expect_refusal("x = load g[0], [16, 64];", "1 offsets into a tensor of rank 2");
  expect_refusal("x = load g[0, 0], [16, 64], dims [1, 1];", "2 different dims below 2");
  expect_refusal("x = load g[q, 0], [16, 64];", "no scalar 'q'");
  expect_refusal("x = load g[0, 0], [16, 64] : spatial(4,8);",
                 "a layout of shape [4, 8] for a tensor");
  expect_refusal("x = load g[0, 0], [4, 4] : spatial(4,4);",
                 "a layout of 16 threads in a program of 32");
  expect_refusal("x = load g[0, 0], [16, 64]; y = cast x to f32; z = add x, y;",
                 "f16 and f32: cast");
  expect_refusal("x = load g[0, 0], [16, 64]; y = cast x to i4; z = exp y;", "no arithmetic on i4");
  expect_refusal("x = load g[0, 0], [16, 64]; y = view x as i6[16, 64] : local(4,8).spatial(4,8);",
                 "each thread has 512 bits as f16 and 192 as i6");
  expect_refusal("x = register f32[8, 4], 0; y = register f32[8, 3], 0; z = add x, y;",
                 "shapes [8, 4] and [8, 3] do not broadcast");
  expect_refusal("s = shared f16[16, 64]; x = load s[8, 0], [16, 64];",
                 "elements 8 to 23 of dimension 0, which has 16");
  expect_refusal("s = shared i4[16, 64];", "at least 8 bits");
  expect_refusal("s = shared f32[1024, 1024];", "4194304 bytes of shared memory, at most 232448");
  expect_refusal("s = shared f16[16, 24] swizzle;", "2^n vectors");
  expect_refusal("s = shared f16[16, 64]; if n { free s; }", "in the block that defines it");
  expect_refusal("s = shared f16[16, 64]; free s; x = load s[0, 0], [16, 64];", "no tensor 's'");
  expect_refusal("if n { x = register f32[32], 0; } y = exp x;", "no tensor 'x' is known here");
  expect_refusal("x = register f32[32], 0; x = register f32[64], 0;", "cannot become f32[64]");
  expect_refusal("n = register f32[32], 0;", "'n' is a name already");
  expect_refusal("set n = 4;", "only what 'let' defines can be set");
  expect_refusal("for i in 0 .. n { set i = 3; }", "only what 'let' defines can be set");
  expect_refusal("x = register f32[1024, 1024], 0;", "registers a thread, which has 255");
  expect_refusal("x = register f32[4096, 1024], 0;", "more than 2^20 elements");
  expect_refusal("lock g[0, 0] == 1;", "semaphores are a global tensor of i32");
  expect_refusal("x = register f32[16], 0; store g[0, 0], x;", "a f32 into a tensor of f16");
  expect_refusal("a = load g[0, 0], [16, 64]; c = register f32[16, 8], 0; d = dot a, a, c;",
                 "shapes [16, 64] x [16, 64] + [16, 8] are not");
  expect_refusal(
      "a = load g[0, 0], [16, 16] : local(8,1).spatial(2,16); b = load g[0, 0], [16, 8];"
      " c = register f32[16, 8], 0; d = dot a, b, c;",
      "neither those of tensor cores nor has each thread all rows");
  expect_refusal(
      "x = load g[0, 0], [64, 16] : local(32,1).spatial(2,16); y = transpose x;"
      " z = exp y; annotate z : local(1,32).spatial(16,2);",
      "'y' lies as");
  expect_refusal("x = register f32[32], 0; y = clip x, 2, 1;", "the bounds are out of order");
  EXPECT_THAT([] { check(parse_program("program p() warps 1 { grid block.x; }", "t")); },
              ThrowsMessage<InvalidArgument>(HasSubstr("the grid cannot depend on the block")));
  EXPECT_THAT([] { check(parse_program("program p(w: ptr i4) warps 1 { grid 1; }", "t")); },
              ThrowsMessage<InvalidArgument>(HasSubstr("point to u8 and view")));
}

TEST(ProgramCheck, InfersTensorCoreLayouts) {
  const CheckedProgram checked = check(parse_program(R"(
program p(a: ptr f16, b: ptr f16, c: ptr f32) warps 4 {
  grid 1;
  ga = global a[32, 32];
  gb = global b[32, 64];
  gc = global c[32, 64];
  acc = register f32[32, 64], 0;
  x = load ga[0, 0], [32, 32];
  y = load gb[0, 0], [32, 64];
  acc = dot x, y, acc;
  store gc[0, 0], acc;
}
)",
                                                     "test"));
  const Layout warps = Layout::spatial({1, 4});
  EXPECT_EQ(*checked.tensor("acc").layout, warps * Layout::local({2, 2}) * mma_c());
  // As the paper builds them: warps that share rows replicate them.
  EXPECT_EQ(*checked.tensor("x").layout,
            Layout::spatial({1, 1, 4}, {1, 0, 2}).reduce({2}) * Layout::local({2, 2}) * mma_a());
  EXPECT_EQ(*checked.tensor("y").layout,
            Layout::spatial({1, 4, 1}, {0, 2, 1}).reduce({2}) * Layout::local({2, 2}) * mma_b());
}

TEST(ProgramCheck, InfersByteLayoutsOfViews) {
  const CheckedProgram checked = check(parse_program(R"(
program p(w: ptr u8) warps 1 {
  grid 1;
  g = global w[384];
  r = load g[0], [384];
  q = view r as i6[16, 32] : local(1,4).local(2,1).column_spatial(4,8).local(2,1);
}
)",
                                                     "test"));
  EXPECT_EQ(*checked.tensor("r").layout,
            Layout::local({3}) * Layout::spatial({32}) * Layout::local({4}));
}

TEST(ProgramCheck, FreedSharedMemoryIsUsedAgain) {
  const CheckedProgram checked = check(parse_program(R"(
program p() warps 1 {
  grid 1;
  a = shared f32[64];
  b = shared f32[64];
  free a;
  c = shared f32[32];
  d = shared f32[64];
}
)",
                                                     "test"));
  EXPECT_EQ(checked.tensor("c").shared_offset, 0);
  EXPECT_EQ(checked.tensor("d").shared_offset, 512);
  EXPECT_EQ(checked.shared_bytes, 768);
}

TEST(ProgramBuilder, MakesWhatTheTextSays) {
  ProgramBuilder b("scale", 4);
  const std::string x = b.pointer("x", NumberType("f16"));
  const Expression n = b.integer("n");
  b.grid({ceil_div(n, 256)});
  const Tensor g = b.global(x, {n});
  const Tensor r = b.load(g, {ProgramBuilder::block(0) * 256}, {256});
  b.store(g, {ProgramBuilder::block(0) * 256}, b.binary("mul", r, 2.5));
  const Program program = b.build();
  EXPECT_EQ(to_text(program),
            "program scale(x: ptr f16, n: i32) warps 4 {\n"
            "  grid ((n + 256) - 1) / 256;\n"
            "  t0 = global x[n];\n"
            "  t1 = load t0[block.x * 256], [256];\n"
            "  t2 = mul t1, 2.5;\n"
            "  store t0[block.x * 256], t2;\n"
            "}\n");
  check(program);
}

}  // namespace
}  // namespace einkorn::tilus
