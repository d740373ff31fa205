#include "einkorn/compute/tilus/matmul_program.h"

#include <fmt/format.h>

#include "einkorn/compute/tilus/program_builder.h"
#include "einkorn/compute/tilus/program_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

// Register layouts of a block's tiles (paper, section on layouts of matrix products).
struct BlockLayouts {
  Layout a;
  Layout b;
  Layout codes;  // b as the weight tiles order it
  Layout c;
  Layout weight_bytes;  // [k tiles, n tiles, bytes]
  Layout scales;        // [1, n]: of the weights, or of the sums that they scale
};

BlockLayouts block_layouts(const MatmulTypes& types, const MatmulSchedule& s) {
  const Layout warps = Layout::spatial({s.warps_m, s.warps_n});
  BlockLayouts layouts;
  layouts.c = warps * Layout::local({s.repeat_m, s.repeat_n}) * mma_c();
  const DotLayouts operands = tensor_core_operands(layouts.c, s.block_k());
  layouts.a = operands.a;
  layouts.b = operands.b;
  layouts.codes = Layout::local({s.repeat_k, 1}) *
                  pairs_first(warps.reduce({0}, true) * Layout::local({1, s.repeat_n}) * mma_b());
  const Layout tiles = Layout::local({s.repeat_k, 1}) * warps.reduce({0}, true);
  layouts.weight_bytes = tiles.concat(s.tile().bytes(types.weight.bits()));
  layouts.scales = (types.has_offsets ? layouts.b : layouts.c).reduce({0}, true);
  return layouts;
}

void check_schedule(const MatmulTypes& types, const MatmulSchedule& s) {
  require(s.warps_m >= 1 && s.warps_n >= 1 && s.repeat_m >= 1 && s.repeat_n >= 1 &&
              s.repeat_k >= 1 && s.stages >= 2 && s.split_k >= 1 && s.warps_m * s.warps_n <= 32,
          "schedule {}: expected positive numbers, 2 stages and at most 32 warps", s.name());
  require(types.weight.is_small(), "weights of {}: expected at most 8 bits", types.weight.name());
  require(types.activation == NumberType("f16") || types.activation == NumberType("bf16"),
          "activations of {}: expected f16 or bf16", types.activation.name());
  require(types.group % s.block_k() == 0,
          "schedule {}: groups of {} are no multiple of the block's {} of k", s.name(), types.group,
          s.block_k());
  s.tile().check(types.weight.bits());
}

// The body of the program, in the order in which it runs.
class MatmulBuilder {
 public:
  MatmulBuilder(const MatmulTypes& types, const MatmulSchedule& schedule)
      : types_(types),
        schedule_(schedule),
        layouts_(block_layouts(types, schedule)),
        b_(fmt::format("matmul_{}_{}", types.weight.name(), schedule.name()),
           schedule.warps_m * schedule.warps_n) {}

  Program build() {
    declare();
    prologue();
    main_loop();
    epilogue();
    return b_.build();
  }

 private:
  std::int64_t tile_bytes() const {
    return 32 * schedule_.tile().bytes_per_thread(types_.weight.bits());
  }
  std::int64_t tiles_n() const { return schedule_.block_n() / schedule_.tile().tile_n; }

  void declare() {
    const MatmulSchedule& s = schedule_;
    const std::string a = b_.pointer("a", types_.activation);
    const std::string w = b_.pointer("w", NumberType("u8"));
    const std::string scales = b_.pointer("s", types_.activation);
    std::string offsets;
    if (types_.has_offsets) offsets = b_.pointer("o", types_.activation);
    const std::string c = b_.pointer("c", NumberType("f32"));
    std::string flags;
    if (s.split_k > 1) flags = b_.pointer("flags", NumberType("i32"));
    m_ = b_.integer("m");
    n_ = b_.integer("n");
    k_ = b_.integer("k");
    b_.grid({n_ / s.block_n(), ceil_div(m_, s.block_m()), s.split_k});
    b_.assume_divisible(n_, s.block_n());
    b_.assume_divisible(k_, s.block_k() * s.split_k);
    b_.assume_divisible(k_, types_.group);
    a_ = b_.global(a, {m_, k_});
    w_ = b_.global(w, {k_ / 16, n_ / s.tile().tile_n, tile_bytes()});
    s_ = b_.global(scales, {k_ / types_.group, n_});
    if (types_.has_offsets) o_ = b_.global(offsets, {k_ / types_.group, n_});
    c_ = b_.global(c, {m_, n_});
    if (s.split_k > 1) flags_ = b_.global(flags, {ceil_div(m_, s.block_m()), n_ / s.block_n()});
    shared_a_ = b_.shared(types_.activation, {s.stages, s.block_m(), s.block_k()}, true);
    shared_w_ = b_.shared(NumberType("u8"), {s.stages, s.repeat_k, tiles_n(), tile_bytes()});
    shared_s_ = b_.shared(types_.activation, {s.stages, 1, s.block_n()});
    if (types_.has_offsets) shared_o_ = b_.shared(types_.activation, {s.stages, 1, s.block_n()});
    sum_ = b_.registers(NumberType("f32"), {s.block_m(), s.block_n()}, 0, layouts_.c);
    if (!types_.has_offsets) {
      group_sum_ = b_.registers(NumberType("f32"), {s.block_m(), s.block_n()}, 0, layouts_.c);
    }
    // Steps of k of this block: [first, first + steps).
    steps_ = b_.let(k_ / (s.block_k() * s.split_k));
    first_ = b_.let(ProgramBuilder::block(2) * steps_);
  }

  // Tile `step` of k into its stage; beyond the block's last step nothing is copied.
  void copy_tile(const Expression& step, const Expression& stage) {
    const MatmulSchedule& s = schedule_;
    const Expression column = ProgramBuilder::block(0) * s.block_n();
    b_.if_else(step < steps_, [&] {
      const Expression tile = first_ + step;
      b_.copy_async(shared_a_, {stage, 0, 0}, a_,
                    {ProgramBuilder::block(1) * s.block_m(), tile * s.block_k()},
                    {s.block_m(), s.block_k()});
      b_.copy_async(shared_w_, {stage, 0, 0, 0}, w_,
                    {tile * s.repeat_k, ProgramBuilder::block(0) * tiles_n(), 0},
                    {s.repeat_k, tiles_n(), tile_bytes()}, {}, true);
      const Expression group = tile * s.block_k() / types_.group;
      b_.copy_async(shared_s_, {stage, 0, 0}, s_, {group, column}, {1, s.block_n()}, {}, true);
      if (types_.has_offsets) {
        b_.copy_async(shared_o_, {stage, 0, 0}, o_, {group, column}, {1, s.block_n()}, {}, true);
      }
    });
    b_.commit_group();
  }

  void prologue() {
    for (int stage = 0; stage + 1 < schedule_.stages; ++stage) copy_tile(stage, stage);
    b_.wait_group(schedule_.stages - 2);
    b_.sync();
  }

  void main_loop() {
    const MatmulSchedule& s = schedule_;
    b_.for_range(0, steps_, 1, [&](const Expression& step) {
      const Expression stage = b_.let(step % s.stages);
      // First the copy, into the stage that the last turn has read: it runs while this turn
      // computes.
      copy_tile(step + (s.stages - 1), (step + (s.stages - 1)) % s.stages);
      const Tensor x =
          b_.load(shared_a_, {stage, 0, 0}, {s.block_m(), s.block_k()}, {}, layouts_.a);
      const Tensor bytes =
          b_.load(shared_w_, {stage, 0, 0, 0}, {s.repeat_k, tiles_n(), tile_bytes()}, {},
                  layouts_.weight_bytes);
      const Tensor codes =
          b_.view(bytes, types_.weight, {s.block_k(), s.block_n()}, layouts_.codes);
      const Tensor numbers = b_.cast(codes, types_.activation, layouts_.b);
      if (types_.has_offsets) {
        add_shifted(x, numbers, stage);
      } else {
        add_scaled(x, numbers, step, stage);
      }
      b_.wait_group(s.stages - 2);
      b_.sync();
    });
  }

  Tensor load_scales(const Tensor& shared, const Expression& stage) {
    return b_.load(shared, {stage, 0, 0}, {1, schedule_.block_n()}, {}, layouts_.scales);
  }

  // Weights get their scale and offset before the product, rounded to the activation's type.
  void add_shifted(const Tensor& x, const Tensor& numbers, const Expression& stage) {
    const Tensor scaled = b_.binary("mul", numbers, load_scales(shared_s_, stage));
    b_.accumulate(sum_, x, b_.binary("add", scaled, load_scales(shared_o_, stage)));
  }

  // Numbers are multiplied as they are, which is exact, and the sum over a group is scaled once.
  void add_scaled(const Tensor& x, const Tensor& numbers, const Expression& step,
                  const Expression& stage) {
    b_.accumulate(group_sum_, x, numbers);
    const std::int64_t per_group = types_.group / schedule_.block_k();
    const Expression ends_group = (first_ + step) % per_group == per_group - 1;
    const Expression ends_block = step == steps_ - 1;
    b_.if_else(Expression::binary(Operator::logical_or, ends_group, ends_block), [&] {
      const Tensor scales = b_.cast(load_scales(shared_s_, stage), NumberType("f32"));
      b_.assign(sum_, b_.binary("add", sum_, b_.binary("mul", group_sum_, scales)));
      b_.assign(group_sum_,
                b_.registers(NumberType("f32"), {schedule_.block_m(), schedule_.block_n()}, 0,
                             layouts_.c));
    });
  }

  // Blocks of a split add in the order of their number; the last one leaves the flag as it was.
  void epilogue() {
    const MatmulSchedule& s = schedule_;
    const std::vector<Expression> corner = {ProgramBuilder::block(1) * s.block_m(),
                                            ProgramBuilder::block(0) * s.block_n()};
    if (s.split_k == 1) {
      b_.store(c_, corner, sum_);
      return;
    }
    const std::vector<Expression> flag = {ProgramBuilder::block(1), ProgramBuilder::block(0)};
    b_.lock_semaphore(flags_, flag, ProgramBuilder::block(2));
    b_.if_else(0 < ProgramBuilder::block(2), [&] {
      const Tensor before = b_.load(c_, corner, {s.block_m(), s.block_n()}, {}, layouts_.c);
      b_.assign(sum_, b_.binary("add", sum_, before));
    });
    b_.store(c_, corner, sum_);
    b_.release_semaphore(flags_, flag, (ProgramBuilder::block(2) + 1) % s.split_k);
  }

  MatmulTypes types_;
  MatmulSchedule schedule_;
  BlockLayouts layouts_;
  ProgramBuilder b_;
  Expression m_, n_, k_, steps_, first_;
  Tensor a_, w_, s_, o_, c_, flags_, shared_a_, shared_w_, shared_s_, shared_o_, sum_, group_sum_;
};

}  // namespace

std::string MatmulSchedule::name() const {
  return fmt::format("w{}x{}_r{}x{}x{}_s{}_k{}", warps_m, warps_n, repeat_m, repeat_n, repeat_k,
                     stages, split_k);
}

Program matmul_program(const MatmulTypes& types, const MatmulSchedule& schedule) {
  check_schedule(types, schedule);
  return MatmulBuilder(types, schedule).build();
}

std::vector<MatmulSchedule> matmul_schedules(const MatmulTypes& types, std::int64_t m,
                                             std::int64_t n, std::int64_t k) {
  struct Shape {
    int warps_m, warps_n, repeat_m, repeat_n, repeat_k;
  };
  // The paper's, and for few rows one row of tiles with long steps of k.
  static constexpr Shape shapes[] = {
      {1, 4, 1, 2, 4}, {1, 4, 1, 4, 2}, {1, 4, 1, 4, 4}, {1, 4, 1, 4, 8}, {1, 4, 1, 8, 1},
      {1, 4, 1, 8, 2}, {1, 4, 1, 8, 4}, {1, 4, 1, 8, 8}, {1, 8, 1, 4, 2}, {1, 8, 1, 4, 4},
      {1, 8, 1, 8, 2}, {1, 4, 2, 4, 1}, {1, 4, 2, 4, 2}, {1, 8, 2, 4, 1}, {1, 8, 2, 4, 2},
      {2, 4, 2, 4, 1}, {2, 4, 2, 4, 2}, {2, 4, 4, 2, 2}, {1, 4, 4, 2, 2}, {1, 8, 4, 2, 2},
      {2, 4, 1, 8, 1}, {2, 4, 1, 8, 2}};
  std::vector<MatmulSchedule> found;
  for (const Shape& shape : shapes) {
    for (const int stages : {3, 4}) {
      for (const int split : {1, 2, 4, 8, 16}) {
        MatmulSchedule s{shape.warps_m,  shape.warps_n, shape.repeat_m, shape.repeat_n,
                         shape.repeat_k, stages,        split};
        const bool has_bytes = s.tile().codes_per_thread() * types.weight.bits() % 8 == 0;
        const bool fits = types.group % s.block_k() == 0 && n % s.block_n() == 0 &&
                          k % (s.block_k() * split) == 0 && has_bytes;
        // Tiles twice as tall as the rows are a waste.
        const bool is_too_tall = s.block_m() >= 2 * m && s.block_m() > 16;
        const std::int64_t shared =
            stages * (s.block_m() * s.block_k() * 2 +
                      s.block_k() * s.block_n() * types.weight.bits() / 8 + 4 * s.block_n());
        if (fits && !is_too_tall && shared <= most_shared_bytes) found.push_back(s);
      }
    }
  }
  return found;
}

}  // namespace einkorn::tilus
