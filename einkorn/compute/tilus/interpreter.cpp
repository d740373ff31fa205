#include "einkorn/compute/tilus/interpreter.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <optional>

#include "einkorn/compute/tilus/interpreter_internal.h"
#include "einkorn/compute/tilus/program_internal.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/core/error.h"
#include "einkorn/core/random.h"

namespace einkorn::tilus {
namespace {

constexpr std::int64_t most_blocks = 1 << 20;

// A program as a line of steps, so that a block is a place in it and can wait there.
struct Step {
  enum class Kind { statement, jump, branch_if_zero, for_test } kind = Kind::statement;
  const Statement* statement = nullptr;
  std::size_t target = 0;
};

class Flattened {
 public:
  explicit Flattened(const std::vector<Statement>& body) { append(body); }
  const std::vector<Step>& steps() const { return steps_; }

 private:
  void append(const std::vector<Statement>& statements) {
    for (const Statement& s : statements) append(s);
  }

  void append(const Statement& s) {
    const auto add = [&](Step::Kind kind, std::size_t target = 0) {
      steps_.push_back({kind, &s, target});
      return steps_.size() - 1;
    };
    if (s.op == Opcode::if_else) {
      const std::size_t branch = add(Step::Kind::branch_if_zero);
      append(s.body);
      const std::size_t leave = add(Step::Kind::jump);
      steps_[branch].target = steps_.size();
      append(s.otherwise);
      steps_[leave].target = steps_.size();
    } else if (s.op == Opcode::while_loop) {
      const std::size_t branch = add(Step::Kind::branch_if_zero);
      append(s.body);
      add(Step::Kind::jump, branch);
      steps_[branch].target = steps_.size();
    } else if (s.op == Opcode::for_range) {
      add(Step::Kind::statement);  // sets the variable
      const std::size_t test = add(Step::Kind::for_test);
      append(s.body);
      add(Step::Kind::jump, test);
      steps_[test].target = steps_.size();
    } else {
      add(Step::Kind::statement);
    }
  }

  std::vector<Step> steps_;
};

// The scalars of a block: a loop keeps its end and step as they were when it began.
struct LoopState {
  std::int64_t end = 0;
  std::int64_t step = 1;
  bool entered = false;
};

struct BlockState {
  std::array<std::int64_t, 3> block{};
  std::size_t place = 0;
  std::map<std::string, std::int64_t> scalars;
  std::map<const Statement*, LoopState> loops;
  BlockMemory memory;

  BlockState(const MachineTables& tables, bool check_races) : memory(tables, check_races) {}
};

enum class Outcome { finished, waits };

class Machine {
 public:
  Machine(const CheckedProgram& checked, std::span<const Argument> arguments,
          const InterpretOptions& options)
      : checked_(checked), options_(options), tables_(checked), flattened_(checked.program.body) {
    bind(arguments);
  }

  RunStatistics run() {
    const std::vector<std::array<std::int64_t, 3>> blocks = all_blocks();
    statistics_.blocks = static_cast<std::int64_t>(blocks.size());
    std::deque<std::unique_ptr<BlockState>> waiting;
    std::size_t next = 0;
    // Waiting blocks are tried again only when a new one has run: one pass without progress and
    // nothing left to start is a deadlock.
    while (next < blocks.size() || !waiting.empty()) {
      bool progress = false;
      if (next < blocks.size()) {
        auto state = std::make_unique<BlockState>(tables_, options_.check_races);
        state->block = blocks[next++];
        progress = true;
        if (advance(*state) == Outcome::waits) waiting.push_back(std::move(state));
      }
      for (std::size_t i = waiting.size(); i > 0; --i) {
        std::unique_ptr<BlockState> state = std::move(waiting.front());
        waiting.pop_front();
        const std::size_t before = state->place;
        const bool waits = advance(*state) == Outcome::waits;
        progress = progress || !waits || state->place != before;
        if (waits) waiting.push_back(std::move(state));
      }
      if (!progress && !waiting.empty()) {
        current_ = waiting.front().get();
        stop(*flattened_.steps()[current_->place].statement,
             fmt::format("all {} blocks wait for semaphores", waiting.size()));
      }
    }
    return statistics_;
  }

 private:
  // ---- arguments and grid ----

  void bind(std::span<const Argument> arguments) {
    const std::vector<Parameter>& parameters = checked_.program.parameters;
    require(arguments.size() == parameters.size(), "program {}: {} arguments for {} parameters",
            checked_.program.name, arguments.size(), parameters.size());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& parameter = parameters[i];
      const bool is_buffer = std::holds_alternative<Buffer>(arguments[i]);
      require(is_buffer == parameter.is_pointer, "program {}: argument {} should be {}",
              checked_.program.name, parameter.name,
              parameter.is_pointer ? "a buffer" : "an integer");
      if (is_buffer) {
        buffers_[parameter.name] = std::get<Buffer>(arguments[i]);
      } else {
        const std::int64_t value = std::get<std::int64_t>(arguments[i]);
        require(value == static_cast<std::int32_t>(value), "program {}: argument {} = {} is no i32",
                checked_.program.name, parameter.name, value);
        parameters_[parameter.name] = value;
      }
    }
  }

  std::vector<std::array<std::int64_t, 3>> all_blocks() {
    BlockState outside(tables_, false);
    current_ = &outside;
    std::array<std::int64_t, 3> counts{1, 1, 1};
    const Statement grid;
    std::int64_t total = 1;
    for (std::size_t i = 0; i < checked_.program.grid.size(); ++i) {
      counts[i] = evaluate(grid, checked_.program.grid[i]);
      require(counts[i] >= 0 && counts[i] <= most_blocks && total <= most_blocks,
              "program {}: a grid of {} blocks, expected 0 to 2^20", checked_.program.name,
              counts[i]);
      total *= counts[i];
    }
    require(total <= most_blocks, "program {}: a grid of {} blocks, at most 2^20",
            checked_.program.name, total);
    std::vector<std::array<std::int64_t, 3>> blocks;
    for (std::int64_t z = 0; z < counts[2]; ++z) {
      for (std::int64_t y = 0; y < counts[1]; ++y) {
        for (std::int64_t x = 0; x < counts[0]; ++x) blocks.push_back({x, y, z});
      }
    }
    if (options_.shuffle_blocks) {
      const std::vector<std::int64_t> order =
          Random(options_.seed).permutation(static_cast<std::int64_t>(blocks.size()));
      std::vector<std::array<std::int64_t, 3>> shuffled;
      for (const std::int64_t i : order) shuffled.push_back(blocks[static_cast<std::size_t>(i)]);
      blocks = std::move(shuffled);
    }
    return blocks;
  }

  [[noreturn]] void stop(const Statement& s, const std::string& problem) {
    fail(checked_.program, s,
         fmt::format("block ({}): {}", fmt::join(current_->block, ", "), problem));
  }

  // ---- scalars ----

  std::int64_t evaluate(const Statement& s, const Expression& e) {
    switch (e.op()) {
      case Operator::constant:
        return e.value();
      case Operator::block:
        return current_->block[static_cast<std::size_t>(e.value())];
      case Operator::name: {
        const auto found = current_->scalars.find(e.name());
        return found != current_->scalars.end() ? found->second : parameters_.at(e.name());
      }
      default:
        break;
    }
    const std::int64_t a = evaluate(s, e.left());
    const std::int64_t b = evaluate(s, e.right());
    const std::int64_t value = apply(s, e.op(), a, b);
    if (value != static_cast<std::int32_t>(value)) {
      stop(s, fmt::format("{} = {} is no i32", to_text(e), value));
    }
    return value;
  }

  std::int64_t apply(const Statement& s, Operator op, std::int64_t a, std::int64_t b) {
    switch (op) {
      case Operator::add:
        return a + b;
      case Operator::subtract:
        return a - b;
      case Operator::multiply:
        return a * b;
      case Operator::divide:
      case Operator::remainder:
        if (b == 0) stop(s, "division by zero");
        return op == Operator::divide ? a / b : a % b;
      case Operator::minimum:
        return std::min(a, b);
      case Operator::maximum:
        return std::max(a, b);
      case Operator::less:
        return a < b;
      case Operator::less_equal:
        return a <= b;
      case Operator::equal:
        return a == b;
      case Operator::not_equal:
        return a != b;
      case Operator::logical_and:
        return a != 0 && b != 0;
      default:
        return a != 0 || b != 0;
    }
  }

  Index evaluate(const Statement& s, const std::vector<Expression>& expressions) {
    Index values;
    for (const Expression& one : expressions) values.push_back(evaluate(s, one));
    return values;
  }

  // ---- control ----

  Outcome advance(BlockState& state) {
    current_ = &state;
    const std::vector<Step>& steps = flattened_.steps();
    while (state.place < steps.size()) {
      const Step& step = steps[state.place];
      const Statement& s = *step.statement;
      if (++statistics_.steps > options_.most_steps) {
        stop(s, fmt::format("more than {} steps", options_.most_steps));
      }
      switch (step.kind) {
        case Step::Kind::jump:
          state.place = step.target;
          continue;
        case Step::Kind::branch_if_zero:
          state.place = evaluate(s, s.condition) == 0 ? step.target : state.place + 1;
          continue;
        case Step::Kind::for_test:
          state.place = next_turn(s) ? state.place + 1 : step.target;
          continue;
        case Step::Kind::statement:
          break;
      }
      if (s.op == Opcode::return_block) return Outcome::finished;
      if (s.op == Opcode::lock_semaphore && semaphore(s) != evaluate(s, s.condition)) {
        return Outcome::waits;
      }
      execute(s);
      ++state.place;
    }
    return Outcome::finished;
  }

  bool next_turn(const Statement& s) {
    LoopState& loop = current_->loops[&s];
    std::int64_t& variable = current_->scalars[s.result];
    if (loop.entered) variable += loop.step;
    loop.entered = true;
    return variable < loop.end;
  }

  void begin_loop(const Statement& s) {
    LoopState& loop = current_->loops[&s];
    loop = {evaluate(s, s.end), evaluate(s, s.step), false};
    if (loop.step < 1) stop(s, fmt::format("a step of {}", loop.step));
    current_->scalars[s.result] = evaluate(s, s.start);
  }

  // ---- statements ----

  void execute(const Statement& s) {
    BlockMemory& memory = current_->memory;
    switch (s.op) {
      case Opcode::let:
      case Opcode::set:
        current_->scalars[s.result] = evaluate(s, s.condition);
        return;
      case Opcode::for_range:
        return begin_loop(s);
      case Opcode::view_global:
        return view_global(s);
      case Opcode::shared_tensor:
        return memory.forget(tables_.info(s.result));
      case Opcode::free_shared:
      case Opcode::annotate_layout:
      case Opcode::lock_semaphore:
        return;
      case Opcode::release_semaphore:
        return release(s);
      case Opcode::load:
        return load(s);
      case Opcode::store:
      case Opcode::store_scatter:
        return store(s);
      case Opcode::copy_async:
        return copy_async(s);
      case Opcode::commit_group:
        return memory.commit();
      case Opcode::wait_group:
        return memory.wait(static_cast<std::size_t>(s.count));
      case Opcode::sync:
        return memory.sync();
      case Opcode::print_tensor:
        return print(s);
      case Opcode::print_text:
        statistics_.printed.push_back(s.text);
        return;
      case Opcode::assert_that:
        if (evaluate(s, s.condition) == 0) stop(s, s.text);
        return;
      case Opcode::assume_divisible:
        if (parameters_.at(s.a) % s.count != 0) {
          stop(s, fmt::format("{} = {}", s.a, parameters_.at(s.a)));
        }
        return;
      default:
        break;
    }
    if (s.op == Opcode::dot) {
      const Index& shape = tables_.info(s.result).shape;
      statistics_.dot_flops += 2.0 * static_cast<double>(shape[0] * shape[1]) *
                               static_cast<double>(tables_.info(s.a).shape[1]);
    }
    const std::string problem = compute(tables_, memory, s);
    if (!problem.empty()) stop(s, problem);
  }

  void view_global(const Statement& s) {
    GlobalView view{buffers_.at(s.a), evaluate(s, s.extents)};
    std::int64_t bytes = tables_.info(s.result).type.bits() / 8;
    for (const std::int64_t extent : view.extents) {
      if (extent < 0) stop(s, fmt::format("an extent of {}", extent));
      if (extent > 0 && bytes > static_cast<std::int64_t>(view.buffer.size()) / extent) {
        stop(s,
             fmt::format("{} has {} bytes, which is less than the view", s.a, view.buffer.size()));
      }
      bytes *= extent;
    }
    current_->memory.global[s.result] = std::move(view);
  }

  // Where in memory an element of a transfer's tensor lies: an offset in elements, -1 outside.
  std::int64_t place_in(const Statement& s, const std::string& name, const Index& offsets,
                        const std::vector<std::int64_t>& dims, const Index& element) {
    const TensorInfo& info = tables_.info(name);
    const bool is_shared = info.space == Space::shared;
    const Index& extents = is_shared ? info.shape : current_->memory.global.at(name).extents;
    Index index = offsets;
    for (std::size_t i = 0; i < dims.size(); ++i) {
      index[static_cast<std::size_t>(dims[i])] += element[i];
    }
    std::int64_t place = 0;
    for (std::size_t i = 0; i < index.size(); ++i) {
      if (index[i] < 0 || index[i] >= extents[i]) {
        if (is_shared) {
          stop(s, fmt::format("element [{}] of '{}', which is [{}]", fmt::join(index, ", "), name,
                              fmt::join(extents, ", ")));
        }
        return -1;
      }
      place = place * extents[i] + index[i];
    }
    return is_shared ? shared_place(info, index) : place;
  }

  void load(const Statement& s) {
    const TensorInfo& source = tables_.info(s.a);
    const TensorTable& table = tables_.table(s.result);
    const Index offsets = evaluate(s, s.offsets);
    const std::vector<std::int64_t> dims = transfer_dims(s.dims, s.shape.size(), offsets.size());
    const std::int64_t bytes = source.type.bits() / 8;
    std::vector<std::uint32_t>& codes = current_->memory.codes(s.result);
    // Every thread reads what it holds, replicas too.
    for (std::size_t at = 0; at < table.elements.size(); ++at) {
      const std::int64_t place = place_in(s, s.a, offsets, dims, table.index(table.elements[at]));
      codes[at] = 0;
      if (place < 0) continue;
      if (source.space == Space::global) {
        statistics_.global_read += bytes;
        codes[at] = read_code(current_->memory.global.at(s.a).buffer, place, bytes);
      } else {
        statistics_.shared_read += bytes;
        const std::string problem = current_->memory.read_shared(
            source.shared_offset + place * bytes, bytes, table.thread_of(at), codes[at]);
        if (!problem.empty()) stop(s, problem);
      }
    }
  }

  void store(const Statement& s) {
    const TensorInfo& target = tables_.info(s.a);
    const TensorTable& table = tables_.table(s.b);
    const Index offsets = evaluate(s, s.offsets);
    const std::vector<std::int64_t> dims =
        transfer_dims(s.dims, table.shape.size(), offsets.size());
    const std::int64_t bytes = target.type.bits() / 8;
    const std::vector<std::uint32_t>& codes = current_->memory.codes(s.b);
    // Of replicas, which agree, the first writes.
    for (std::int64_t element = 0; element < table.size(); ++element) {
      const std::size_t at = table.first_place[static_cast<std::size_t>(element)];
      Index index = table.index(element);
      if (s.op == Opcode::store_scatter) {
        index[static_cast<std::size_t>(s.dim)] =
            static_cast<std::int32_t>(current_->memory.codes(s.c)[at]);
      }
      const std::int64_t place = place_in(s, s.a, offsets, dims, index);
      if (place < 0) continue;
      if (target.space == Space::global) {
        statistics_.global_written += bytes;
        write_code(current_->memory.global.at(s.a).buffer, place, bytes, codes[at]);
      } else {
        statistics_.shared_written += bytes;
        const std::string problem = current_->memory.write_shared(
            target.shared_offset + place * bytes, bytes, table.thread_of(at), codes[at]);
        if (!problem.empty()) stop(s, problem);
      }
    }
  }

  void copy_async(const Statement& s) {
    const TensorInfo& target = tables_.info(s.a);
    const Index to = evaluate(s, s.offsets);
    const Index from = evaluate(s, s.source_offsets);
    const std::vector<std::int64_t> to_dims = transfer_dims({}, s.shape.size(), to.size());
    const std::vector<std::int64_t> from_dims = transfer_dims(s.dims, s.shape.size(), from.size());
    const std::int64_t bytes = target.type.bits() / 8;
    std::int64_t size = 1;
    for (const std::int64_t extent : s.shape) size *= extent;
    for (std::int64_t element = 0; element < size; ++element) {
      const Index index = unravel(element, s.shape);
      const std::int64_t source = place_in(s, s.b, from, from_dims, index);
      const std::int64_t place = place_in(s, s.a, to, to_dims, index);
      std::uint32_t code = 0;
      if (source < 0 && s.is_inside) {
        stop(s, fmt::format("element [{}] lies outside '{}'", fmt::join(index, ", "), s.b));
      }
      if (source >= 0) {
        statistics_.global_read += bytes;
        code = read_code(current_->memory.global.at(s.b).buffer, source, bytes);
      }
      statistics_.shared_written += bytes;
      const std::string problem =
          current_->memory.begin_copy(target.shared_offset + place * bytes, bytes, code);
      if (!problem.empty()) stop(s, problem);
    }
  }

  // ---- semaphores ----

  std::int64_t semaphore_place(const Statement& s) {
    const std::int64_t place = place_in(s, s.a, evaluate(s, s.offsets), {}, {});
    if (place < 0) stop(s, fmt::format("no such semaphore in '{}'", s.a));
    return place;
  }

  std::int32_t semaphore(const Statement& s) {
    return static_cast<std::int32_t>(
        read_code(current_->memory.global.at(s.a).buffer, semaphore_place(s), 4));
  }

  void release(const Statement& s) {
    write_code(current_->memory.global.at(s.a).buffer, semaphore_place(s), 4,
               static_cast<std::uint32_t>(evaluate(s, s.condition)));
  }

  void print(const Statement& s) {
    const TensorInfo& info = tables_.info(s.a);
    std::string text = fmt::format("block ({}): {} =", fmt::join(current_->block, ", "), s.a);
    if (info.space != Space::registers) {
      statistics_.printed.push_back(text + " in memory");
      return;
    }
    const TensorTable& table = tables_.table(s.a);
    constexpr std::int64_t most_printed = 1024;
    for (std::int64_t element = 0; element < std::min(table.size(), most_printed); ++element) {
      const std::size_t at = table.first_place[static_cast<std::size_t>(element)];
      const bool begins_row = element % info.shape.back() == 0;
      text += fmt::format("{}{:g}", begins_row ? "\n  " : " ",
                          info.type.decode(current_->memory.codes(s.a)[at]));
    }
    if (table.size() > most_printed) text += " ...";
    statistics_.printed.push_back(text);
  }

  const CheckedProgram& checked_;
  InterpretOptions options_;
  MachineTables tables_;
  Flattened flattened_;
  std::map<std::string, Buffer> buffers_;
  std::map<std::string, std::int64_t> parameters_;
  BlockState* current_ = nullptr;
  RunStatistics statistics_;
};

}  // namespace

RunStatistics interpret(const CheckedProgram& checked, std::span<const Argument> arguments,
                        const InterpretOptions& options) {
  return Machine(checked, arguments, options).run();
}

}  // namespace einkorn::tilus
