#include <algorithm>
#include <limits>

#include "einkorn/compute/kivi/attend_device.cuh"
#include "einkorn/compute/kivi/attend_variants_cuda.h"
#include "einkorn/compute/kivi/kivi_cuda.h"
#include "einkorn/core/launch_cuda.h"

namespace einkorn::kivi {
namespace {

// Shared memory that the pages in flight of one block may take, so that several blocks fit.
constexpr std::int64_t stage_bytes = 50 * 1024;
constexpr std::int64_t multiprocessor_bytes = 227 * 1024;
constexpr std::int64_t block_pages = 3;  // start, merge and end of a block in pages' time, about

std::int64_t stages_for(std::int64_t bytes) {
  return std::clamp<std::int64_t>(stage_bytes / bytes, 2, most_stages);
}

AttendVariant variant_of(const AttendProblem& problem) {
  const Geometry& g = problem.cache.geometry;
  AttendVariant variant;
  variant.chunks = g.head_dim / chunk_size;
  const bool usual_size = variant.chunks == 2 || variant.chunks == 4 || variant.chunks == 8;
  const bool usual_bits = g.key_bits == g.value_bits && (g.key_bits == 2 || g.key_bits == 4);
  if (usual_size && usual_bits) {
    variant.bits = g.key_bits;
    if (problem.rows() > 8 && variant.chunks <= 4) variant.row_tiles = 2;
  }
  return variant;
}

std::int64_t row_blocks_of(const AttendProblem& problem, const AttendVariant& variant) {
  const std::int64_t rows = 8 * variant.row_tiles;
  return (problem.rows() + rows - 1) / rows;
}

}  // namespace

bool has_attend_kernel(const Geometry& geometry) {
  const int chunks = geometry.head_dim / chunk_size;
  return chunks <= 4 || chunks == 6 || chunks == 8;
}

AttendPlan plan_attend(const AttendProblem& problem, std::int64_t longest) {
  const Geometry& g = problem.cache.geometry;
  const AttendVariant variant = variant_of(problem);
  const std::int64_t blocks = problem.cache.batch * g.kv_heads * row_blocks_of(problem, variant);
  const std::int64_t pages =
      (std::max<std::int64_t>(longest - g.residual, 0) + page_tokens - 1) / page_tokens +
      tail_pages;
  const std::int64_t bytes = block_layout(g).bytes;
  const std::int64_t shared = stages_for(bytes) * bytes + 1024;
  const std::int64_t at_once =
      multiprocessor_count() *
      std::clamp<std::int64_t>(multiprocessor_bytes / shared, 1,
                               blocks_at_once(variant.chunks, variant.row_tiles, variant.bits));
  // Rounds of blocks, each as long as a block's pages and what a block costs beside them.
  AttendPlan plan;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t splits = 1; splits <= std::min<std::int64_t>(pages, 256); ++splits) {
    const std::int64_t rounds = (blocks * splits + at_once - 1) / at_once;
    const std::int64_t cost = rounds * ((pages + splits - 1) / splits + block_pages);
    if (cost >= least) continue;
    least = cost;
    plan.splits = static_cast<int>(splits);
  }
  plan.counters = blocks;
  plan.partial_floats =
      blocks * plan.splits * 8 * variant.row_tiles * (std::int64_t{g.head_dim} + 2);
  return plan;
}

void launch_attend(const AttendProblem& problem, const AttendPlan& plan, float* partial,
                   std::uint32_t* counters, void* stream) {
  const AttendVariant variant = variant_of(problem);
  AttendArguments args;
  args.problem = problem;
  args.layout = block_layout(problem.cache.geometry);
  args.splits = plan.splits;
  args.row_blocks = static_cast<int>(row_blocks_of(problem, variant));
  args.stages = static_cast<int>(stages_for(args.layout.bytes));
  args.group_chunks = problem.cache.geometry.group / 64;
  args.partial = partial;
  args.counters = counters;
  if (problem.cache.geometry.element == Element::f16) {
    launch_attend_f16(args, variant, stream);
  } else {
    launch_attend_bf16(args, variant, stream);
  }
}

}  // namespace einkorn::kivi
