// Layouts that are not given follow from those that are: rules for each instruction, applied until
// nothing changes; then one default at a time, the most important kind first.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "einkorn/compute/tilus/program_internal.h"
#include "einkorn/compute/tilus/program_text.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {

DotLayouts tensor_core_operands(const Layout& c, std::int64_t k) {
  const Layout tiles = c / mma_c();
  return {tiles.reduce({1}, true) * Layout::local({1, k / 16}) * mma_a(),
          Layout::local({k / 16, 1}) * tiles.reduce({0}, true) * mma_b()};
}

bool is_tensor_core_dot(const Layout& a, const Layout& b, const Layout& c, std::int64_t k) {
  if (k % 16 != 0 || !divides(mma_c(), c)) return false;
  const DotLayouts expected = tensor_core_operands(c, k);
  return a == expected.a && b == expected.b;
}

DotLayouts plain_operands(const Layout& c, std::int64_t k) {
  return {c.reduce({1}, true) * Layout::local({1, k}), Layout::local({k, 1}) * c.reduce({0}, true)};
}

// Digits of local places may be exchanged: with the local modes in the order of the dimensions, and
// nothing merged, equal layouts remain.
bool same_threads(const Layout& a, const Layout& b) {
  if (a.shape() != b.shape() || a.threads() != b.threads()) return false;
  const auto in_order = [](const Layout& layout) {
    Index local = layout.local_modes();
    std::sort(local.begin(), local.end());
    return Layout(layout.shape(), layout.mode_shape(), layout.spatial_modes(), local);
  };
  return in_order(a) == in_order(b);
}

namespace {

class Inference {
 public:
  explicit Inference(CheckedProgram& checked) : checked_(checked) {
    for (NamedTensor& one : checked.tensors) tensors_[one.name] = &one.info;
    collect(checked.program.body);
  }

  void run() {
    while (true) {
      settle();
      if (!give_default(Opcode::dot) && !give_default(Opcode::load) &&
          !give_default(Opcode::register_tensor)) {
        break;
      }
    }
    for (const Statement* s : statements_) validate(*s);
  }

 private:
  void collect(const std::vector<Statement>& statements) {
    for (const Statement& s : statements) {
      statements_.push_back(&s);
      collect(s.body);
      collect(s.otherwise);
    }
  }

  TensorInfo& tensor(const std::string& name) { return *tensors_.at(name); }
  bool known(const std::string& name) { return tensor(name).layout.has_value(); }
  const Layout& layout(const std::string& name) { return *tensor(name).layout; }

  bool give(const std::string& name, const Layout& layout) {
    tensor(name).layout = layout;
    return true;
  }

  std::int64_t threads() const { return checked_.program.threads(); }

  void settle() {
    for (bool changed = true; changed;) {
      changed = false;
      for (const Statement* s : statements_) changed = propagate(*s) || changed;
    }
  }

  // Of operands that broadcast to the result.
  bool propagate_pointwise(const std::string& result, const std::vector<std::string>& operands) {
    bool changed = false;
    for (const std::string& name : operands) {
      const bool same_shape = tensor(name).shape == tensor(result).shape;
      if (!known(result) && known(name) && same_shape) changed = give(result, layout(name));
      if (known(result) && !known(name)) {
        changed = give(name, layout(result).reduce_to(tensor(name).shape));
      }
    }
    return changed;
  }

  static std::vector<std::string> operands_of(const Statement& s) {
    std::vector<std::string> names;
    for (const std::string* name : {&s.a, &s.b, &s.c}) {
      if (!name->empty()) names.push_back(*name);
    }
    return names;
  }

  bool propagate(const Statement& s) {
    switch (s.op) {
      case Opcode::cast:
      case Opcode::unary:
      case Opcode::binary:
      case Opcode::clip:
      case Opcode::where:
      case Opcode::scan:
      case Opcode::assign:
        return propagate_pointwise(s.result, operands_of(s));
      case Opcode::store_scatter:
        return propagate_pointwise(s.b, {s.c}) || propagate_pointwise(s.c, {s.b});
      case Opcode::reduce:
        if (known(s.a) && !known(s.result)) {
          return give(s.result, layout(s.a).reduce({s.dim}, true));
        }
        return false;
      case Opcode::repeat:
        if (known(s.a) && !known(s.result)) {
          return give(s.result, Layout::local(s.shape) * layout(s.a));
        }
        return false;
      case Opcode::transpose:
        return propagate_by(
            s, [](const Layout& l) { return l.permute({1, 0}); },
            [](const Layout& l) { return l.permute({1, 0}); });
      case Opcode::squeeze:
        return propagate_by(
            s, [&](const Layout& l) { return l.squeeze(s.dim); },
            [&](const Layout& l) { return l.unsqueeze(s.dim); });
      case Opcode::unsqueeze:
        return propagate_by(
            s, [&](const Layout& l) { return l.unsqueeze(s.dim); },
            [&](const Layout& l) { return l.squeeze(s.dim); });
      case Opcode::view:
        return propagate_view(s);
      case Opcode::dot:
        return propagate_dot(s);
      default:
        return false;
    }
  }

  bool propagate_by(const Statement& s, const std::function<Layout(const Layout&)>& forward,
                    const std::function<Layout(const Layout&)>& backward) {
    if (known(s.a) && !known(s.result)) return give(s.result, forward(layout(s.a)));
    if (known(s.result) && !known(s.a)) return give(s.a, backward(layout(s.result)));
    return false;
  }

  // A vector that is seen as something with a layout: each thread's part in the widest loads that
  // its bytes allow, side by side.
  bool propagate_view(const Statement& s) {
    TensorInfo& source = tensor(s.a);
    if (known(s.a) || !known(s.result) || source.shape.size() != 1 ||
        source.shape[0] % threads() != 0) {
      return false;
    }
    const std::int64_t local = source.shape[0] / threads();
    const std::int64_t per_vector = std::max(1, 128 / source.type.bits());
    std::int64_t inner = 1;
    while (inner * 2 <= per_vector && local % (inner * 2) == 0) inner *= 2;
    return give(s.a, Layout::local({local / inner}) * Layout::spatial({threads()}) *
                         Layout::local({inner}));
  }

  bool propagate_dot(const Statement& s) {
    bool changed = false;
    if (known(s.c) && !known(s.result)) changed = give(s.result, layout(s.c));
    if (known(s.result) && !known(s.c)) changed = give(s.c, layout(s.result));
    if (!known(s.c) || (known(s.a) && known(s.b))) return changed;
    const std::int64_t k = tensor(s.a).shape[1];
    const bool has_cores =
        tensor(s.a).type.bits() == 16 && k % 16 == 0 && divides(mma_c(), layout(s.c));
    const DotLayouts operands =
        has_cores ? tensor_core_operands(layout(s.c), k) : plain_operands(layout(s.c), k);
    if (!known(s.a)) changed = give(s.a, operands.a);
    if (!known(s.b)) changed = give(s.b, operands.b);
    return changed;
  }

  bool give_default(Opcode op) {
    for (const Statement* s : statements_) {
      if (s->op != op || known(s->result)) continue;
      const TensorInfo& info = tensor(s->result);
      if (op == Opcode::dot) return give(s->result, default_product(*s));
      if (op == Opcode::load) return give(s->result, default_load(info));
      return give(s->result, Layout::auto_local_spatial(threads(), info.shape));
    }
    return false;
  }

  // Warps side by side along n as far as they go, the others along m.
  Layout default_product(const Statement& s) {
    const Index shape = tensor(s.result).shape;
    const std::int64_t k = tensor(s.a).shape[1];
    if (tensor(s.a).type.bits() == 16 && shape[0] % 16 == 0 && shape[1] % 8 == 0 && k % 16 == 0) {
      const std::int64_t warps = checked_.program.warps;
      for (std::int64_t along_n = warps; along_n >= 1; --along_n) {
        const std::int64_t along_m = warps / along_n;
        if (along_m * along_n != warps || shape[1] / 8 % along_n != 0 ||
            shape[0] / 16 % along_m != 0) {
          continue;
        }
        return Layout::spatial({along_m, along_n}) *
               Layout::local({shape[0] / 16 / along_m, shape[1] / 8 / along_n}) * mma_c();
      }
    }
    return Layout::auto_local_spatial(threads(), shape);
  }

  // Vectors of up to 16 bytes along the last dimension, as long as all threads get one.
  Layout default_load(const TensorInfo& info) const {
    Index shape = info.shape;
    std::int64_t size = 1;
    for (const std::int64_t extent : shape) size *= extent;
    std::int64_t vector = 1;
    while (vector * 2 * info.type.bits() <= 128 && shape.back() % (vector * 2) == 0 &&
           size / (vector * 2) >= threads()) {
      vector *= 2;
    }
    Index inner(shape.size(), 1);
    inner.back() = vector;
    shape.back() /= vector;
    return Layout::auto_local_spatial(threads(), shape) * Layout::local(inner);
  }

  // ---- validation ----

  void expect(const Statement& s, const std::string& name, const Layout& expected) {
    if (layout(name) == expected) return;
    fail(checked_.program, s,
         fmt::format("'{}' lies as {}, expected {}", name, layout(name).to_string(),
                     expected.to_string()));
  }

  void validate(const Statement& s) {
    for (const std::string* name : {&s.result, &s.a, &s.b, &s.c}) {
      const auto found = tensors_.find(*name);
      if (found == tensors_.end() || found->second->space != Space::registers) continue;
      if (!found->second->layout) {
        fail(checked_.program, s,
             fmt::format("the layout of '{}' does not follow from others: annotate it", *name));
      }
      if (found->second->layout->threads() != threads()) {
        fail(checked_.program, s,
             fmt::format("'{}' would lie as {}, which has {} threads and not {}", *name,
                         found->second->layout->to_string(), found->second->layout->threads(),
                         threads()));
      }
    }
    switch (s.op) {
      case Opcode::cast:
        // A cast may bring a thread's elements into another order, which costs nothing.
        if (same_threads(layout(s.a), layout(s.result))) return;
        return expect(s, s.a, layout(s.result));
      case Opcode::unary:
      case Opcode::binary:
      case Opcode::clip:
      case Opcode::where:
      case Opcode::scan:
      case Opcode::assign:
        for (const std::string& name : operands_of(s)) {
          expect(s, name, layout(s.result).reduce_to(tensor(name).shape));
        }
        return;
      case Opcode::store_scatter:
        return expect(s, s.c, layout(s.b));
      case Opcode::reduce:
        return expect(s, s.result, layout(s.a).reduce({s.dim}, true));
      case Opcode::repeat:
        return expect(s, s.result, Layout::local(s.shape) * layout(s.a));
      case Opcode::transpose:
        return expect(s, s.result, layout(s.a).permute({1, 0}));
      case Opcode::squeeze:
        return expect(s, s.result, layout(s.a).squeeze(s.dim));
      case Opcode::unsqueeze:
        return expect(s, s.result, layout(s.a).unsqueeze(s.dim));
      case Opcode::view:
        return validate_view(s);
      case Opcode::dot:
        return validate_dot(s);
      default:
        return;
    }
  }

  void validate_view(const Statement& s) {
    const std::int64_t before = layout(s.a).local_size() * tensor(s.a).type.bits();
    const std::int64_t after = layout(s.result).local_size() * tensor(s.result).type.bits();
    if (before == after) return;
    fail(checked_.program, s,
         fmt::format("each thread has {} bits as {} and {} as {}", before, tensor(s.a).type.name(),
                     after, tensor(s.result).type.name()));
  }

  void validate_dot(const Statement& s) {
    expect(s, s.c, layout(s.result));
    const std::int64_t k = tensor(s.a).shape[1];
    const bool has_cores = tensor(s.a).type.bits() == 16 &&
                           is_tensor_core_dot(layout(s.a), layout(s.b), layout(s.c), k);
    if (has_cores) return;
    const DotLayouts plain = plain_operands(layout(s.c), k);
    if (layout(s.a) == plain.a && layout(s.b) == plain.b) return;
    fail(checked_.program, s,
         fmt::format("layouts {} x {} + {} are neither those of tensor cores nor has each thread "
                     "all rows and columns that it needs",
                     layout(s.a).to_string(), layout(s.b).to_string(), layout(s.c).to_string()));
  }

  CheckedProgram& checked_;
  std::map<std::string, TensorInfo*> tensors_;
  std::vector<const Statement*> statements_;
};

}  // namespace

void infer_layouts(CheckedProgram& checked) {
  Inference(checked).run();
}

}  // namespace einkorn::tilus
