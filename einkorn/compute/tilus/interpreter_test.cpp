#include "einkorn/compute/tilus/interpreter.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "einkorn/compute/bit_packing.h"
#include "einkorn/compute/tilus/program_builder.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/compute/tilus/weight_layout.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

Buffer bytes_of(at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

RunStatistics run(const std::string& text, std::vector<Argument> arguments,
                  const InterpretOptions& options = {}) {
  return interpret(check(parse_program(text, "test")), arguments, options);
}

// The paper's example: one warp multiplies by a 16 x 8 tile of 6-bit weights at a time.
constexpr const char* i6_matmul = R"(
program i6_matmul(a: ptr f16, w: ptr u8, c: ptr f32, k: i32, n: i32) warps 1 {
  grid n / 8;
  ga = global a[16, k];
  gw = global w[k / 16, n / 8, 96];
  gc = global c[16, n];
  acc = register f32[16, 8], 0;
  for i in 0 .. k / 16 {
    x = load ga[0, i * 16], [16, 16];
    r = load gw[i, block.x, 0], [96], dims [2] : local(3).spatial(32);
    q = view r as i6[16, 8] : local(2,1).column_spatial(4,8).local(2,1);
    h = cast q to f16;
    acc = dot x, h, acc;
  }
  store gc[0, block.x * 8], acc;
}
)";

TEST(Interpreter, MultipliesBySixBitWeights) {
  at::Tensor a = at::randn({16, 48}).to(at::kHalf);
  const at::Tensor codes = at::randint(0, 64, {48, 24}, at::kByte);
  at::Tensor w = change_layout(compute::pack_bits(codes.reshape({-1}), 6), 6, 48, 24, {16, 8});
  at::Tensor c = at::full({16, 24}, NAN);
  const RunStatistics found =
      run(i6_matmul, {bytes_of(a), bytes_of(w), bytes_of(c), std::int64_t{48}, std::int64_t{24}});
  const at::Tensor numbers = codes.to(at::kDouble) - (codes >= 32).to(at::kDouble) * 64;
  const at::Tensor expected = at::matmul(a.to(at::kDouble), numbers);
  // Each of the three dots rounds its sum to f32.
  EXPECT_TRUE(at::allclose(c.to(at::kDouble), expected, 1e-6, 1e-4));
  EXPECT_EQ(found.blocks, 3);
  EXPECT_EQ(found.dot_flops, 2.0 * 16 * 48 * 24);
  EXPECT_EQ(found.global_written, 16 * 24 * 4);
}

// One instruction on a [8, 8] tensor of f32, one warp.
at::Tensor apply(const std::string& statements, at::Tensor x, at::IntArrayRef result_shape) {
  at::Tensor out = at::full(result_shape, NAN);
  const std::string text = fmt::format(
      "program p(x: ptr f32, y: ptr f32) warps 1 {{\n grid 1;\n gx = global x[8, 8];\n"
      " gy = global y[{}];\n x0 = load gx[0, 0], [8, 8];\n {}\n store gy[{}], r;\n}}",
      fmt::join(result_shape, ", "), statements,
      fmt::join(std::vector<int>(result_shape.size(), 0), ", "));
  run(text, {bytes_of(x), bytes_of(out)});
  return out;
}

TEST(Interpreter, InstructionsAgreeWithTorch) {
  const at::Tensor x = at::randn({8, 8});
  const std::pair<const char*, at::Tensor> cases[] = {
      {"r = neg x0;", -x},
      {"r = abs x0;", x.abs()},
      {"r = square x0;", x * x},
      {"r = round x0;", x.round()},
      {"r = exp x0;", x.exp()},
      {"r = exp2 x0;", x.exp2()},
      {"r = sin x0;", x.sin()},
      {"r = cos x0;", x.cos()},
      {"a = abs x0; r = log a;", x.abs().log()},
      {"a = abs x0; r = sqrt a;", x.abs().sqrt()},
      {"a = abs x0; r = rsqrt a;", x.abs().rsqrt()},
      {"r = add x0, 1.5;", x + 1.5},
      {"r = mod x0, 0.75;", at::fmod(x, 0.75)},
      {"r = div x0, x0;", at::ones_like(x)},
      {"a = max x0, 0; r = min a, 1;", x.clamp(0, 1)},
      {"r = clip x0, -0.5, 0.25;", x.clamp(-0.5, 0.25)},
      {"t = transpose x0; r = transpose t;", x},
      {"m = reduce_max x0, dim 1; r = sub x0, m;", x - std::get<0>(x.max(1, true))},
      {"m = reduce_sum x0, dim 0; r = mul x0, m;", x * x.sum(0, true)},
      {"r = scan_sum x0, dim 1;", x.cumsum(1)},
      {"r = scan_min x0, dim 0;", std::get<0>(x.cummin(0))},
      {"b = lt x0, 0; n = neg x0; r = where b, n, x0;", x.abs()},
      {"b = le x0, 0; a = reduce_any b, dim 1; o = div x0, x0; z = neg o;"
       " r = where a, o, z;",
       at::where((x <= 0).any(1, true), 1.0f, -1.0f).expand({8, 8})},
      {"b = ne x0, 0; a = reduce_all b, dim 0; o = div x0, x0; z = neg o;"
       " r = where a, o, z;",
       at::ones({8, 8})},
      {"a = load gx[0, 0], [8, 8]; b = load gx[0, 0], [8, 8]; r = dot a, b, x0;",
       at::addmm(x, x, x)},
      {"h = cast x0 to f16; r = cast h to f32;", x.to(at::kHalf).to(at::kFloat)},
      {"h = cast x0 to bf16; r = cast h to f32;", x.to(at::kBFloat16).to(at::kFloat)},
      {"h = cast x0 to i32; r = cast h to f32;", x.round()},
      {"u = unsqueeze x0, dim 1; r = squeeze u, dim 1;", x}};
  for (const auto& [statements, expected] : cases) {
    EXPECT_TRUE(at::allclose(apply(statements, x, {8, 8}), expected, 1e-5, 1e-6)) << statements;
  }
  EXPECT_TRUE(at::equal(apply("r = repeat x0, [2, 3];", x, {16, 24}), x.repeat({2, 3})));
  EXPECT_TRUE(at::equal(apply("r = transpose x0;", x, {8, 8}), x.t()));
}

TEST(Interpreter, IntegersWrapAroundAndSaturateInCasts) {
  at::Tensor x = at::tensor(std::vector<int>(32, 2147483647), at::kInt);
  at::Tensor out = at::zeros({3, 32}, at::kInt);
  run(R"(
program p(x: ptr i32, y: ptr i32) warps 1 {
  grid 1;
  gx = global x[32];
  gy = global y[3, 32];
  a = load gx[0], [32];
  b = add a, 1;
  store gy[0, 0], b, dims [1];
  small = cast a to i6;
  c = cast small to i32;
  store gy[1, 0], c, dims [1];
  d = mul a, a;
  store gy[2, 0], d, dims [1];
}
)",
      {bytes_of(x), bytes_of(out)});
  EXPECT_EQ(out[0][5].item<int>(), -2147483647 - 1);
  EXPECT_EQ(out[1][5].item<int>(), 31);
  EXPECT_EQ(out[2][5].item<int>(), 1);
}

TEST(Interpreter, MasksGlobalMemory) {
  at::Tensor x = at::ones({5, 7});
  at::Tensor y = at::full({6, 9}, -1.0f);
  run(R"(
program p(x: ptr f32, y: ptr f32) warps 1 {
  grid 1;
  gx = global x[5, 7];
  gy = global y[6, 9];
  t = load gx[-1, 3], [8, 8];
  store gy[2, 4], t;
}
)",
      {bytes_of(x), bytes_of(y)});
  // Rows -1 and 5.. and columns 7.. are 0; rows 6.. and columns 9.. are dropped.
  at::Tensor expected = at::full({6, 9}, -1.0f);
  expected.slice(0, 2, 6).slice(1, 4, 9).zero_();
  expected.slice(0, 3, 6).slice(1, 4, 8).fill_(1);
  EXPECT_TRUE(at::equal(y, expected));
}

constexpr const char* pipeline = R"(
program p(x: ptr f32, y: ptr f32, n: i32) warps 2 {
  grid 1;
  gx = global x[n, 64];
  gy = global y[n, 64];
  s = shared f32[2, 64];
  copy s[0, 0], gx[0, 0], [64], dims [1];
  commit;
  for i in 0 .. n {
    wait 0;
    sync;
    copy s[(i + 1) % 2, 0], gx[i + 1, 0], [64], dims [1];
    commit;
    t = load s[i % 2, 0], [64];
    u = add t, 1;
    store gy[i, 0], u, dims [1];
  }
}
)";

std::string without(std::string text, const std::string& line) {
  const std::size_t at = text.find(line);
  EXPECT_NE(at, std::string::npos);
  return text.erase(at, line.size());
}

TEST(Interpreter, PipelinesRunAndRacesAreFound) {
  at::Tensor x = at::randn({5, 64});
  at::Tensor y = at::zeros({5, 64});
  const std::vector<Argument> arguments = {bytes_of(x), bytes_of(y), std::int64_t{5}};
  run(pipeline, arguments);
  EXPECT_TRUE(at::equal(y, x + 1));
  EXPECT_THAT(
      [&] { run(without(pipeline, "    sync;\n"), arguments); },
      ThrowsMessage<InvalidArgument>(HasSubstr("written by a copy without a sync between")));
  EXPECT_THAT([&] { run(without(pipeline, "    wait 0;\n"), arguments); },
              ThrowsMessage<InvalidArgument>(HasSubstr("before its copy is waited for")));
  EXPECT_THAT([&] { run(without(pipeline, "  commit;\n"), arguments); },
              ThrowsMessage<InvalidArgument>(HasSubstr("before its copy is waited for")));
  const auto expect_race = [](const char* statements, const char* words) {
    const std::string text = std::string(
                                 "program p() warps 1 {\n grid 1;\n s = shared f32[32];\n"
                                 " a = register f32[32], 0;\n") +
                             statements + "\n}";
    EXPECT_THAT([&] { run(text, {}); }, ThrowsMessage<InvalidArgument>(HasSubstr(words)))
        << statements;
  };
  expect_race("b = load s[0], [32];", "never written");
  expect_race("store s[0], a; b = load s[0], [32] : replicate(32).local(32);",
              "read by thread 0 and was written by thread 1");
  expect_race("store s[0], a; sync; b = load s[0], [32] : replicate(32).local(32); store s[0], a;",
              "was read by several threads");
  expect_race(
      "store s[0], a; c = register f32[16], 0 : replicate(2).spatial(16);"
      " d = register f32[16], 0 : local(16).replicate(32); store s[0], d;",
      "was written by thread");
  expect_race("store s[0], a; sync; let i = 20; b = load s[i], [32];",
              "element [32] of 's', which is [32]");
  // What one thread writes it may read, and races can be looked for or not.
  run("program p() warps 1 { grid 1; s = shared f32[32]; a = register f32[32], 0; store s[0], a;"
      " b = load s[0], [32] : spatial(32); }",
      {});
  run("program p() warps 1 { grid 1; s = shared f32[32]; a = register f32[32], 0; store s[0], a;"
      " b = load s[0], [32] : replicate(32).local(32); }",
      {}, {.check_races = false});
}

// Blocks add to one tile in the order of their number, however they are scheduled.
constexpr const char* ordered = R"(
program p(flags: ptr i32, y: ptr f32) warps 1 {
  grid 8;
  gf = global flags[1];
  gy = global y[32];
  lock gf[0] == block.x;
  t = load gy[0], [32];
  t = mul t, 2;
  if block.x % 2 == 1 {
    t = add t, 1;
  }
  store gy[0], t;
  release gf[0] = block.x + 1;
}
)";

TEST(Interpreter, SemaphoresOrderBlocks) {
  for (const std::uint64_t seed : {0, 1, 2, 3}) {
    at::Tensor flags = at::zeros({1}, at::kInt);
    at::Tensor y = at::zeros({32});
    run(ordered, {bytes_of(flags), bytes_of(y)}, {.shuffle_blocks = seed > 0, .seed = seed});
    EXPECT_EQ(y[3].item<float>(), 85.0f);  // 01010101 in binary
  }
  at::Tensor flags = at::full({1}, 3, at::kInt);
  at::Tensor y = at::zeros({32});
  EXPECT_THAT([&] { run(ordered, {bytes_of(flags), bytes_of(y)}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("wait for semaphores")));
}

TEST(Interpreter, ControlFlow) {
  at::Tensor y = at::zeros({32});
  const RunStatistics found = run(R"(
program p(y: ptr f32, n: i32) warps 1 {
  grid 1;
  gy = global y[32];
  t = register f32[32], 0;
  let p = n;
  while 0 < p {
    for i in 0 .. p step 2 {
      t = add t, 1;
    }
    set p = p / 2;
  }
  say "hello";
  print t;
  store gy[0], t;
  if n == 10 { return; }
  t = add t, 100;
  store gy[0], t;
}
)",
                                  {bytes_of(y), std::int64_t{10}});
  EXPECT_EQ(y[0].item<float>(), 5 + 3 + 1 + 1);
  ASSERT_EQ(found.printed.size(), 2u);
  EXPECT_EQ(found.printed[0], "hello");
  EXPECT_THAT(found.printed[1], HasSubstr("block (0, 0, 0): t =\n  10 10"));
}

TEST(Interpreter, ViewsThereAndBackChangeNothing) {
  EXPECT_TRUE(rc::check([] {
    const int bits = *rc::gen::inRange(1, 9);
    at::Tensor x = at::randint(0, 256, {32 * bits}, at::kByte);
    at::Tensor y = at::zeros_like(x);
    run(fmt::format(R"(
program p(x: ptr u8, y: ptr u8) warps 1 {{
  grid 1;
  gx = global x[{0}];
  gy = global y[{0}];
  a = load gx[0], [{0}] : local({1}).spatial(32);
  b = view a as u{1}[16, 16] : local(1,2).local(2,1).column_spatial(4,8).local(2,1);
  c = view b as i{1}[256] : spatial(32).local(8);
  d = view c as u8[{0}] : local({1}).spatial(32);
  store gy[0], d;
}}
)",
                    32 * bits, bits),
        {bytes_of(x), bytes_of(y)});
    RC_ASSERT(at::equal(x, y));
  }));
}

TEST(Interpreter, ScattersAndScaledRows) {
  at::Tensor index = at::tensor({3, 0, 7, 2}, at::kInt);
  at::Tensor x = at::randn({4, 32});
  at::Tensor y = at::zeros({8, 32});
  run(R"(
program p(x: ptr f32, i: ptr i32, y: ptr f32) warps 1 {
  grid 1;
  gx = global x[4, 32];
  gi = global i[4, 1];
  gy = global y[8, 32];
  a = load gx[0, 0], [4, 32] : local(4,1).spatial(1,32);
  j = load gi[0, 0], [4, 1] : local(4,1).replicate(32);
  z = register i32[4, 32], 0;
  jj = add j, z;
  scatter gy[0, 0], a, jj, dim 0;
}
)",
      {bytes_of(x), bytes_of(index), bytes_of(y)});
  EXPECT_TRUE(at::equal(y.index_select(0, index.to(at::kLong)), x));
  EXPECT_EQ((y != 0).sum().item<std::int64_t>(), 4 * 32);
}

TEST(Interpreter, StopsWhatIsWrong) {
  at::Tensor x = at::zeros({64});
  const auto expect_stop = [&](const std::string& statements, std::int64_t n, const char* words) {
    const std::string text =
        "program p(x: ptr f32, n: i32) warps 1 {\n grid 1;\n " + statements + "\n}";
    EXPECT_THAT([&] { run(text, {bytes_of(x), n}, {.most_steps = 1000}); },
                ThrowsMessage<InvalidArgument>(HasSubstr(words)))
        << statements;
  };
  expect_stop("g = global x[n];", 65, "x has 256 bytes, which is less than the view");
  expect_stop("g = global x[n];", -1, "an extent of -1");
  expect_stop("let a = 1 / n;", 0, "line 3: let a = 1 / n: block (0, 0, 0): division by zero");
  expect_stop("let a = n * n;", 1 << 20, "is no i32");
  expect_stop("assert n == 3, \"three\";", 4, "three");
  expect_stop("assume n % 8 == 0;", 12, "n = 12");
  expect_stop("while 1 { sync; }", 0, "more than 1000 steps");
  expect_stop("for i in 0 .. 4 step n { sync; }", 0, "a step of 0");
  expect_stop("g = global x[64]; s = shared f32[128]; copy s[0], g[0], [128] inside;", 0,
              "element [64] lies outside 'g'");
  expect_stop("a = register i32[32], 0; b = div a, a;", 0, "an integer is divided by zero");
  expect_stop(
      "a = register u8[64], 0 : spatial(32).local(2); g = global x[64];"
      " f = load g[0], [32]; v = view f as u8[32, 2] : spatial(16,2).replicate(1).local(2,1);",
      0, "each thread has 32 bits");
  EXPECT_THAT([&] { run("program p(x: ptr f32) warps 1 { grid 1; }", {}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("0 arguments for 1 parameters")));
  EXPECT_THAT([&] { run("program p(n: i32) warps 1 { grid n; }", {bytes_of(x)}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("argument n should be an integer")));
  EXPECT_THAT([&] { run("program p(n: i32) warps 1 { grid n, n; }", {std::int64_t{1 << 15}}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("at most 2^20")));
}

TEST(Interpreter, ReplicasThatDisagreeAreFound) {
  at::Tensor x = at::arange(64, at::kByte);
  EXPECT_THAT(
      [&] {
        run(R"(
program p(x: ptr u8) warps 1 {
  grid 1;
  g = global x[64];
  a = load g[0], [64] : spatial(32).local(2);
  b = view a as f16[16] : replicate(2).spatial(16);
}
)",
            {bytes_of(x)});
      },
      ThrowsMessage<InvalidArgument>(HasSubstr("hold different bits of one element")));
}

}  // namespace
}  // namespace einkorn::tilus
