#include "einkorn/compute/tilus/matmul_program.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "einkorn/compute/tilus/cuda_source.h"
#include "einkorn/compute/tilus/device_program.h"
#include "einkorn/compute/tilus/interpreter.h"
#include "einkorn/compute/tilus/kernel_compiler.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/core/device.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

struct Case {
  MatmulTypes types;
  MatmulSchedule schedule;
  std::int64_t m;
  std::int64_t n;
  std::int64_t k;
};

double relative(const at::Tensor& found, const at::Tensor& expected) {
  return ((found.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

// What the program should give: weights with offsets are rounded to the activation's type after the
// scale and after the offset.
at::Tensor expected_product(const at::Tensor& x, const QuantizedWeights& weights) {
  QuantizedWeights codes = weights;
  codes.scales = at::ones_like(weights.scales);
  if (weights.has_offsets()) codes.offsets = at::zeros_like(weights.offsets);
  const auto spread = [&](const at::Tensor& per_group) {
    return per_group.repeat_interleave(weights.group, 0);
  };
  at::Tensor dense = dequantize(codes).to(at::kDouble) * spread(weights.scales).to(at::kDouble);
  if (weights.has_offsets()) {
    dense =
        dequantize(codes).to(x.scalar_type()) * spread(weights.scales) + spread(weights.offsets);
  }
  return at::matmul(x.to(at::kDouble), dense.to(at::kDouble));
}

QuantizedWeights weights_for(const Case& one) {
  const auto scale = one.types.activation == NumberType("f16") ? at::kHalf : at::kBFloat16;
  return quantize(at::randn({one.n, one.k}), {one.types.weight, one.types.group, scale});
}

at::Tensor interpreted(const Case& one, const QuantizedWeights& weights, const at::Tensor& x,
                       const InterpretOptions& options = {}) {
  const CheckedProgram checked = check(matmul_program(one.types, one.schedule));
  const at::Tensor tiles =
      change_layout(weights.packed, one.types.weight.bits(), one.k, one.n, one.schedule.tile());
  at::Tensor out = at::full({one.m, one.n}, NAN);
  std::vector<TensorArgument> arguments = {x, tiles, weights.scales};
  if (one.types.has_offsets) arguments.emplace_back(weights.offsets);
  arguments.emplace_back(out);
  const MatmulSchedule& s = one.schedule;
  at::Tensor flags =
      at::zeros({(one.m + s.block_m() - 1) / s.block_m() * (one.n / s.block_n())}, at::kInt);
  if (s.split_k > 1) arguments.emplace_back(flags);
  for (const std::int64_t size : {one.m, one.n, one.k}) arguments.emplace_back(size);
  interpret(checked, arguments, options);
  EXPECT_EQ(flags.abs().sum().item<std::int64_t>(), 0);
  return out;
}

void expect_product(const Case& one, const InterpretOptions& options = {}) {
  const QuantizedWeights weights = weights_for(one);
  const at::Tensor x = at::randn({one.m, one.k}).to(weights.scales.scalar_type());
  const at::Tensor out = interpreted(one, weights, x, options);
  EXPECT_LE(relative(out, expected_product(x, weights)), 1e-6)
      << one.types.weight.name() << " " << one.schedule.name();
}

MatmulTypes types_of(const NumberType& weight, const char* activation = "f16") {
  return {weight, NumberType(activation), 32, weight.kind() == NumberKind::unsigned_integer};
}

TEST(MatmulProgram, EveryWeightType) {
  const MatmulSchedule schedule{1, 1, 1, 2, 2, 2, 1};
  for (const NumberType& type : weight_types()) {
    expect_product({types_of(type), schedule, 5, 16, 64});
  }
}

TEST(MatmulProgram, Schedules) {
  const NumberType type("f6e3m2");
  for (const char* name : {"w1x2_r1x2x1_s2_k1", "w2x1_r1x2x2_s3_k1", "w2x2_r2x2x1_s4_k1",
                           "w1x1_r1x4x2_s3_k2", "w1x2_r1x2x1_s2_k4"}) {
    const MatmulSchedule schedule = parse_schedule(name);
    EXPECT_EQ(schedule.name(), name);
    expect_product({types_of(type), schedule, 17, 2 * schedule.block_n(), 128},
                   {.shuffle_blocks = true, .seed = 5});
  }
  expect_product({types_of(NumberType("i5"), "bf16"), {1, 2, 1, 2, 1, 3, 1}, 3, 32, 64});
}

TEST(MatmulProgram, TextComesBack) {
  const Program program = matmul_program(types_of(NumberType("u3")), {});
  const std::string text = to_text(program);
  EXPECT_EQ(to_text(parse_program(text, "matmul")), text);
  check(parse_program(text, "matmul"));
}

TEST(MatmulProgram, RefusesWhatDoesNotFit) {
  EXPECT_THAT([] { matmul_program({NumberType("i4"), NumberType("f32")}, {}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("expected f16 or bf16")));
  EXPECT_THAT([] { matmul_program({NumberType("f16")}, {}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("at most 8 bits")));
  EXPECT_THAT([] { matmul_program({NumberType("i4"), NumberType("f16"), 16}, {1, 4, 1, 8, 2}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("no multiple of the block's 32")));
  EXPECT_THAT([] { matmul_program({NumberType("i1")}, {1, 4, 1, 1, 1}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("no whole bytes")));
  for (const char* bad : {"", "w1x4", "w1x4_r1x8x1_s3_k1x", "w1x4_r1x8x1_s3_k01", "fast"}) {
    EXPECT_THAT([bad] { parse_schedule(bad); },
                ThrowsMessage<InvalidArgument>(HasSubstr("expected a name such as")));
  }
}

TEST(MatmulProgram, SchedulesFitTheirSizes) {
  for (const NumberType& type : weight_types()) {
    const std::vector<MatmulSchedule> all = matmul_schedules({type}, 16, 4096, 4096);
    EXPECT_GT(all.size(), 20u) << type.name();
    for (const MatmulSchedule& s : all) {
      EXPECT_EQ(4096 % s.block_n(), 0);
      EXPECT_EQ(4096 % (s.block_k() * s.split_k), 0);
      EXPECT_EQ(s.block_m(), 16);
    }
  }
  EXPECT_TRUE(matmul_schedules({NumberType("i4")}, 16, 100, 4096).empty());
}

// ---- CUDA text ----

TEST(CudaSource, UsesTensorCoresAndWideCopies) {
  const CheckedProgram checked =
      check(matmul_program({NumberType("f6e3m2")}, {1, 4, 1, 8, 2, 3, 1}));
  const CudaSource source = generate_cuda(checked);
  EXPECT_EQ(source.threads, 128);
  EXPECT_EQ(source.shared_bytes, checked.shared_bytes);
  for (const char* words : {"mma<false>(", "ldmatrix_x4(", "copy_vector<16>(", "straddling<6, ",
                            "wait_copies<1>()", "extern \"C\" __global__"}) {
    EXPECT_THAT(source.text, HasSubstr(words));
  }
}

TEST(CudaSource, MasksOnlyWhatMayLieOutside) {
  const std::string text = generate_cuda(check(parse_program(R"(
program p(x: ptr f32, n: i32) warps 1 {
  grid 1;
  assume n % 128 == 0;
  g = global x[n];
  h = global x[64];
  a = load g[block.x * 128], [128];
  b = load h[0], [64];
}
)",
                                                             "test")))
                               .text;
  EXPECT_THAT(text, HasSubstr("load_vector<16>(r_a + 0"));
  EXPECT_THAT(text, HasSubstr("(u32)(i0) < (u32)(e_g_0)"));
  EXPECT_THAT(text, HasSubstr("load_vector<8>(r_b + 0, m_h + (long long)(i0) * 4, true)"));
}

TEST(KernelCompiler, KeysDependOnEverything) {
  const std::string key = cache_key("text", "sm_90a", "nvcc");
  EXPECT_EQ(key.size(), 32u);
  EXPECT_EQ(key, cache_key("text", "sm_90a", "nvcc"));
  EXPECT_NE(key, cache_key("texT", "sm_90a", "nvcc"));
  EXPECT_NE(key, cache_key("text", "sm_90", "nvcc"));
  EXPECT_NE(key, cache_key("text", "sm_90a", "NVRTC 13.0"));
}

class WithCompiler : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_compiler().empty()) GTEST_SKIP() << "neither NVRTC nor nvcc is here";
    folder_ = std::filesystem::temp_directory_path() / fmt::format("einkorn_tilus_{}", ::getpid());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_F(WithCompiler, CompilesOnceAndKeeps) {
  const CudaSource source =
      generate_cuda(check(matmul_program({NumberType("i3")}, {1, 4, 1, 4, 2, 3, 2})));
  const CompiledKernel first = compile_cuda(source, {.cache = folder_});
  EXPECT_FALSE(first.from_cache);
  const CompiledKernel second = compile_cuda(source, {.cache = folder_});
  EXPECT_TRUE(second.from_cache);
  EXPECT_EQ(first.image, second.image);
  EXPECT_GT(first.image.size(), 1000u);
  EXPECT_THAT([&] { compile_cuda({"this is no CUDA", "k"}, {.cache = folder_}); },
              ThrowsMessage<std::runtime_error>(HasSubstr("error")));
  EXPECT_THAT([&] { compile_cuda(source, {.architecture = "sm_90a; rm"}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("expected a name such as sm_90a")));
}

TEST_F(WithCompiler, EveryInstructionCompiles) {
  const CudaSource source = generate_cuda(check(parse_program(R"(
program p(x: ptr f32, h: ptr f16, i: ptr i32, y: ptr f32, n: i32) warps 2 {
  grid n;
  gx = global x[n, 64];
  gh = global h[n, 64];
  gi = global i[n];
  gy = global y[n, 64];
  a = load gx[0, 0], [16, 64];
  b = load gh[0, 0], [16, 64];
  e = exp a;
  e = log e;
  e = sin e;
  e = rsqrt e;
  e = round e;
  e = clip e, -1, inf;
  s = reduce_sum e, dim 1;
  c = scan_max e, dim 0;
  d = mod c, s;
  t = lt d, 0.5;
  o = reduce_any t, dim 1;
  w = where o, d, a;
  q = cast b to f6e3m2;
  r = cast q to bf16;
  f = cast r to f32;
  k = cast f to i32;
  k = div k, 3;
  z = cast k to u8;
  z2 = cast z to f16;
  m = register f32[16, 16], 0;
  u = transpose b;
  v = cast u to f32;
  j = cast w to i32;
  scatter gy[0, 0], w, j, dim 0;
  let p = n;
  while 0 < p {
    set p = p - 1;
    if p == 3 { return; } else { say "no"; }
  }
  lock gi[0] == block.x;
  store gy[0, 0], w;
  release gi[0] = block.x + 1;
  assert n < 100, "few";
  print s;
}
)",
                                                              "test")));
  EXPECT_GT(compile_cuda(source, {.cache = folder_}).image.size(), 1000u);
}

// ---- on a GPU ----

class OnCuda : public WithCompiler {
 protected:
  void SetUp() override {
    if (!is_available(Device::cuda)) GTEST_SKIP() << "no CUDA device is here";
    WithCompiler::SetUp();
  }
};

TEST_F(OnCuda, EveryWeightTypeIsWhatTheInterpreterSays) {
  for (const NumberType& type : weight_types()) {
    for (const std::int64_t m : {1, 16, 33}) {
      const Case one{{type, NumberType("f16"), 64, type.kind() == NumberKind::unsigned_integer},
                     {},
                     m,
                     512,
                     256};
      const QuantizedWeights weights = weights_for(one);
      const at::Tensor x = at::randn({m, one.k}).to(at::kHalf);
      const at::Tensor found = DeviceLinear(weights).forward(x.to(at::kCUDA)).cpu();
      EXPECT_LE(relative(found, expected_product(x, weights)), 1e-3) << type.name() << " " << m;
    }
  }
}

}  // namespace
}  // namespace einkorn::tilus
