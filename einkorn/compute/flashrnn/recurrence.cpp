#include <ATen/Parallel.h>

#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "einkorn/compute/flashrnn/recurrence_internal.h"
#include "einkorn/compute/flashrnn/step_barrier_internal.h"

namespace einkorn::flashrnn {
namespace {

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};
template <typename T>
using Scratch = std::unique_ptr<T, FreeAligned>;

// Not cleared: the threads that use a part of it touch it first.
template <typename T>
Scratch<T> scratch(std::int64_t size) {
  const auto bytes = static_cast<std::size_t>(size) * sizeof(T);
  return Scratch<T>(static_cast<T*>(::operator new(bytes, std::align_val_t{64})));
}

// How the work of one step is cut. With heads (and groups of rows) enough for all threads each
// thread takes whole sequences through all steps and never waits; else the threads share the blocks
// of each step and meet once a step. Groups of rows follow from the shape alone, so that a row's
// sums are the same for every number of threads.
struct Cut {
  std::int64_t threads = 1;
  std::int64_t row_groups = 1;
  bool apart = false;

  Cut(const Sequence& q, std::int64_t bytes_of_head) {
    constexpr std::int64_t rows_worth_a_group = 8;
    constexpr std::int64_t level2 = std::int64_t{1} << 20;
    // Operations that take a thread about a tenth of a millisecond; a unit's nonlinearities count
    // as 400.
    constexpr std::int64_t worth_a_thread = 5'000'000;
    const std::int64_t operations =
        q.batch * q.time * q.heads * q.dim * (2 * shape_of(q.cell).recurrent_gates * q.dim + 400);
    threads = std::clamp<std::int64_t>(operations / worth_a_thread, 1, at::get_num_threads());
    const bool is_cached = bytes_of_head <= level2;
    if (is_cached && q.heads < 16) {
      row_groups = std::max<std::int64_t>(1, q.batch / rows_worth_a_group);
    }
    const std::int64_t tasks = q.heads * row_groups;
    // The last round of tasks may leave threads idle; not too many of them.
    const std::int64_t rounds = (tasks + threads - 1) / threads;
    apart = threads == 1 || (is_cached && 4 * tasks >= 3 * rounds * threads);
  }
};

// Calls run(part, barrier-at-each-step) for all steps, forward or back, on all threads.
template <typename Step>
void for_steps(const Sequence& q, const Cut& cut, std::int64_t blocks, std::int64_t panel_blocks,
               bool backwards, const Step& run_step) {
  const auto for_time = [&](const auto& body) {
    for (std::int64_t i = 0; i < q.time; ++i) body(backwards ? q.time - 1 - i : i);
  };
  if (cut.apart) {
    const std::int64_t tasks = q.heads * cut.row_groups;
    at::parallel_for(0, tasks, (tasks + cut.threads - 1) / cut.threads,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t task = begin; task < end; ++task) {
                         const std::int64_t group = task % cut.row_groups;
                         const StepPart part = {task / cut.row_groups,
                                                group * q.batch / cut.row_groups,
                                                (group + 1) * q.batch / cut.row_groups, 0, blocks};
                         for_time([&](std::int64_t step) { run_step(step, &part, 1, [] {}); });
                       }
                     });
    return;
  }
  const std::int64_t panels = (blocks + panel_blocks - 1) / panel_blocks;
  const std::int64_t all = q.heads * panels;
  const std::int64_t workers = std::min(cut.threads, all);
  StepBarrier barrier(workers);
  at::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<StepPart> parts;
    const std::int64_t last = end * all / workers;
    for (std::int64_t i = begin * all / workers; i < last;) {
      const std::int64_t head = i / panels;
      const std::int64_t stop = std::min(last, (head + 1) * panels);
      parts.push_back({head, 0, q.batch, (i - head * panels) * panel_blocks,
                       std::min(blocks, (stop - head * panels) * panel_blocks)});
      i = stop;
    }
    for_time([&](std::int64_t step) {
      run_step(step, parts.data(), static_cast<std::int64_t>(parts.size()),
               [&] { barrier.arrive_and_wait(end - begin); });
    });
  });
}

template <typename T>
HeadMatrix<T> head_matrix(const Sequence& q, const T* recurrent, std::int64_t head) {
  return {recurrent + head * q.dim * q.dim, q.heads * q.dim * q.dim,
          shape_of(q.cell).recurrent_gates, q.dim};
}

// Blocks or panels that a thread packs at least.
std::int64_t packing_grain(const Sequence& q) {
  constexpr std::int64_t numbers_worth_a_thread = 1 << 16;
  return 1 + numbers_worth_a_thread / (16 * q.dim);
}

void run_reference(const Sequence& q, const auto& run) {
  at::parallel_for(0, q.batch * q.heads, 1, run);
}

}  // namespace

template <typename T>
void run_forward(ForwardPass<T> pass, const RecurrenceKernels<T>* kernels) {
  const Sequence& q = pass.sequence;
  if constexpr (std::is_same_v<T, double>) {
    if (!kernels) {
      return run_reference(
          q, [&](std::int64_t begin, std::int64_t end) { reference_forward(pass, begin, end); });
    }
  }
  const CellShape shape = shape_of(q.cell);
  const std::int64_t blocks = (q.dim + kernels->lanes - 1) / kernels->lanes;
  const std::int64_t head_size = blocks * kernels->lanes * shape.recurrent_gates * q.dim;
  const Cut cut(q, head_size * static_cast<std::int64_t>(sizeof(T)));

  const auto packed = scratch<T>(q.heads * head_size);
  const T* recurrent = pass.recurrent;
  at::parallel_for(0, q.heads * blocks, packing_grain(q),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t i = begin; i < end; ++i) {
                       const std::int64_t head = i / blocks;
                       kernels->pack(head_matrix(q, recurrent, head), i % blocks, i % blocks + 1,
                                     packed.get() + head * head_size);
                     }
                   });
  pass.recurrent = packed.get();

  const std::int64_t stride = row_stride(q.dim);
  const auto hidden = scratch<T>(2 * q.heads * q.batch * stride);
  pass.hidden = hidden.get();
  for (std::int64_t head = 0; head < q.heads; ++head) {
    for (std::int64_t row = 0; row < q.batch; ++row) {
      std::copy_n(pass.initial + (row * q.heads + head) * q.dim, q.dim,
                  hidden.get() + (head * q.batch + row) * stride);
    }
  }
  for_steps(q, cut, blocks, 1, false,
            [&](std::int64_t step, const StepPart* parts, std::int64_t count, const auto& meet) {
              for (std::int64_t i = 0; i < count; ++i) {
                kernels->forward_step(pass, step, parts[i]);
              }
              meet();
            });
}

template <typename T>
void run_backward(BackwardPass<T> pass, const RecurrenceKernels<T>* kernels) {
  const Sequence& q = pass.sequence;
  if constexpr (std::is_same_v<T, double>) {
    if (!kernels) {
      return run_reference(
          q, [&](std::int64_t begin, std::int64_t end) { reference_backward(pass, begin, end); });
    }
  }
  const CellShape shape = shape_of(q.cell);
  const std::int64_t blocks = (q.dim + kernels->lanes - 1) / kernels->lanes;
  const std::int64_t terms = shape.recurrent_gates * q.dim;
  const std::int64_t head_size = blocks * kernels->lanes * terms;
  const Cut cut(q, head_size * static_cast<std::int64_t>(sizeof(T)));

  // Wide panels save loads; with few of them a thread threatens to have one more than the others.
  pass.panel_blocks = max_panel_blocks;
  while (!cut.apart && pass.panel_blocks > 1 &&
         q.heads * blocks < 3 * pass.panel_blocks * cut.threads) {
    pass.panel_blocks /= 2;
  }
  const std::int64_t panels = (blocks + pass.panel_blocks - 1) / pass.panel_blocks;
  const auto packed = scratch<T>(q.heads * head_size);
  const T* recurrent = pass.recurrent;
  if (!q.gradient_cut) {
    at::parallel_for(
        0, q.heads * panels, packing_grain(q), [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t head = i / panels;
            kernels->pack_transposed(head_matrix(q, recurrent, head), pass.panel_blocks, i % panels,
                                     i % panels + 1, packed.get() + head * head_size);
          }
        });
  }
  pass.recurrent = packed.get();

  const auto gate_rows = scratch<T>(2 * q.heads * q.batch * row_stride(terms));
  pass.gate_rows = gate_rows.get();
  for_steps(q, cut, blocks, pass.panel_blocks, true,
            [&](std::int64_t step, const StepPart* parts, std::int64_t count, const auto& meet) {
              for (std::int64_t i = 0; i < count; ++i) {
                kernels->backward_gates(pass, step, parts[i]);
              }
              if (q.gradient_cut) return;
              meet();
              for (std::int64_t i = 0; i < count; ++i) {
                kernels->backward_carry(pass, step, parts[i]);
              }
            });
  if (!pass.gradient_last) return;
  // A row without steps hands the gradient of `last` straight on.
  for (std::int64_t s = 0; s < shape.states; ++s) {
    for (std::int64_t row = 0; row < q.batch; ++row) {
      if (q.length(row) > 0) continue;
      const std::int64_t offset = (s * q.batch + row) * q.heads * q.dim;
      for (std::int64_t i = offset; i < offset + q.heads * q.dim; ++i) {
        pass.carry[i] += pass.gradient_last[i];
      }
    }
  }
}

template void run_forward(ForwardPass<float>, const RecurrenceKernels<float>*);
template void run_forward(ForwardPass<double>, const RecurrenceKernels<double>*);
template void run_backward(BackwardPass<float>, const RecurrenceKernels<float>*);
template void run_backward(BackwardPass<double>, const RecurrenceKernels<double>*);

}  // namespace einkorn::flashrnn
