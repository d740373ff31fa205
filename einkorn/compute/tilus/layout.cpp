#include "einkorn/compute/tilus/layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

constexpr std::int64_t largest_extent = std::int64_t{1} << 31;

std::int64_t product(const Index& sizes) {
  std::int64_t result = 1;
  for (const std::int64_t size : sizes) {
    require(size >= 1 && size <= largest_extent && result <= largest_extent / size,
            "layout: sizes [{}] are not positive or exceed 2^31 together", fmt::join(sizes, ", "));
    result *= size;
  }
  return result;
}

Index counting(std::int64_t size) {
  Index values(static_cast<std::size_t>(size));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

Index reversed(Index values) {
  std::reverse(values.begin(), values.end());
  return values;
}

// ---- factored form, in which a digit carries its own size ----

// One digit of a thread number or of a local place: part of a dimension (the part-th from the left)
// or, with dim -1, a replication.
struct Digit {
  std::int64_t dim;
  std::int64_t part;
  std::int64_t size;

  bool replicates() const { return dim < 0; }
  friend bool operator==(const Digit&, const Digit&) = default;
};

// A layout as algebra sees it: the sizes of the parts of each dimension, and the two digit lists.
struct Factored {
  std::vector<Index> parts;  // of each dimension
  std::vector<Digit> spatial;
  std::vector<Digit> local;

  std::vector<Digit>& list(bool of_local) { return of_local ? local : spatial; }

  explicit Factored(const Layout& layout) : parts(layout.shape().size()) {
    std::vector<Digit> modes;
    std::int64_t dim = 0;
    std::int64_t rest = layout.rank() > 0 ? layout.shape()[0] : 1;
    for (const std::int64_t size : layout.mode_shape()) {
      while (rest == 1) rest = layout.shape()[static_cast<std::size_t>(++dim)];
      Index& of_dim = parts[static_cast<std::size_t>(dim)];
      modes.push_back({dim, static_cast<std::int64_t>(of_dim.size()), size});
      of_dim.push_back(size);
      rest /= size;
    }
    for (const std::int64_t entry : layout.spatial_modes()) {
      spatial.push_back(entry < 0 ? Digit{-1, 0, -entry} : modes[static_cast<std::size_t>(entry)]);
    }
    for (const std::int64_t entry : layout.local_modes()) {
      local.push_back(modes[static_cast<std::size_t>(entry)]);
    }
  }

  // Splits a part into (slow, fast) with the given fast size, in the dimension and in its list.
  void split(std::int64_t dim, std::int64_t part, std::int64_t fast) {
    Index& of_dim = parts[static_cast<std::size_t>(dim)];
    const std::int64_t slow = of_dim[static_cast<std::size_t>(part)] / fast;
    of_dim[static_cast<std::size_t>(part)] = slow;
    of_dim.insert(of_dim.begin() + part + 1, fast);
    for (std::vector<Digit>* digits : {&spatial, &local}) {
      for (std::size_t i = 0; i < digits->size(); ++i) {
        Digit& digit = (*digits)[i];
        if (digit.dim != dim || digit.part < part) continue;
        if (digit.part > part) {
          ++digit.part;
        } else {
          digit.size = slow;
          digits->insert(digits->begin() + static_cast<std::ptrdiff_t>(i) + 1,
                         {dim, part + 1, fast});
          ++i;
        }
      }
    }
  }

  Layout layout() const {
    Index shape;
    Index modes;
    std::vector<std::int64_t> first(parts.size());  // the number of a dimension's first mode
    for (std::size_t dim = 0; dim < parts.size(); ++dim) {
      first[dim] = static_cast<std::int64_t>(modes.size());
      shape.push_back(product(parts[dim]));
      modes.insert(modes.end(), parts[dim].begin(), parts[dim].end());
    }
    const auto entries = [&](const std::vector<Digit>& digits) {
      Index result;
      for (const Digit& digit : digits) {
        result.push_back(digit.replicates()
                             ? -digit.size
                             : first[static_cast<std::size_t>(digit.dim)] + digit.part);
      }
      return result;
    };
    return Layout(shape, modes, entries(spatial), entries(local));
  }
};

Layout with_rank(const Layout& layout, std::size_t rank) {
  Index shape = layout.shape();
  if (shape.size() >= rank) return layout;
  shape.insert(shape.begin(), rank - shape.size(), 1);
  return Layout(shape, layout.mode_shape(), layout.spatial_modes(), layout.local_modes());
}

// ---- division ----

// Makes f's modes of one dimension end (right) or begin (left) with those of g, splitting the one
// mode of f at which g's modes stop. False where that cannot be.
bool align_parts(Factored& f, const Index& divisor, std::int64_t dim, bool right) {
  for (std::size_t i = 0; i < divisor.size(); ++i) {
    const Index& of_dim = f.parts[static_cast<std::size_t>(dim)];
    if (i >= of_dim.size()) return false;
    const std::size_t at = right ? of_dim.size() - 1 - i : i;
    const std::int64_t size = of_dim[at];
    const std::int64_t wanted = right ? divisor[divisor.size() - 1 - i] : divisor[i];
    if (size == wanted) continue;
    const bool is_last = i + 1 == divisor.size();
    if (!is_last || size % wanted != 0) return false;
    f.split(dim, static_cast<std::int64_t>(at), right ? wanted : size / wanted);
  }
  return true;
}

// Removes g's digits from the end (right) or the beginning (left) of f's, if they stand there.
// part_shift[dim] is what to add to the part numbers of g to get those of f.
bool remove_digits(std::vector<Digit>& f, const std::vector<Digit>& g,
                   const std::vector<std::int64_t>& part_shift, bool right) {
  for (std::size_t i = 0; i < g.size(); ++i) {
    Digit wanted = right ? g[g.size() - 1 - i] : g[i];
    if (!wanted.replicates()) wanted.part += part_shift[static_cast<std::size_t>(wanted.dim)];
    if (f.empty()) return false;
    const auto at = right ? f.end() - 1 : f.begin();
    if (*at == wanted) {
      f.erase(at);
    } else if (wanted.replicates() && at->replicates() && at->size % wanted.size == 0 &&
               i + 1 == g.size()) {
      at->size /= wanted.size;
    } else {
      return false;
    }
  }
  return true;
}

std::optional<Layout> divided(const Layout& dividend, const Layout& divisor, bool right) {
  const std::size_t rank = std::max(dividend.shape().size(), divisor.shape().size());
  Factored f(with_rank(dividend, rank).canonical());
  const Factored g(with_rank(divisor, rank).canonical());
  std::vector<std::int64_t> part_shift(rank, 0);
  for (std::size_t dim = 0; dim < rank; ++dim) {
    if (!align_parts(f, g.parts[dim], static_cast<std::int64_t>(dim), right)) return std::nullopt;
    if (right) {
      part_shift[dim] = static_cast<std::int64_t>(f.parts[dim].size() - g.parts[dim].size());
    }
  }
  if (!remove_digits(f.spatial, g.spatial, part_shift, right)) return std::nullopt;
  if (!remove_digits(f.local, g.local, part_shift, right)) return std::nullopt;
  for (std::size_t dim = 0; dim < rank; ++dim) {
    Index& of_dim = f.parts[dim];
    const auto taken = static_cast<std::ptrdiff_t>(g.parts[dim].size());
    if (right) {
      of_dim.erase(of_dim.end() - taken, of_dim.end());
      continue;
    }
    of_dim.erase(of_dim.begin(), of_dim.begin() + taken);
    for (std::vector<Digit>* digits : {&f.spatial, &f.local}) {
      for (Digit& digit : *digits) {
        if (digit.dim == static_cast<std::int64_t>(dim)) digit.part -= taken;
      }
    }
  }
  return f.layout();
}

// ---- digits ----

// Row-major digits of a number.
void write_digits(std::int64_t number, const std::vector<Digit>& digits,
                  std::vector<Index>& values) {
  for (std::size_t i = digits.size(); i-- > 0;) {
    const Digit& digit = digits[i];
    if (!digit.replicates()) {
      values[static_cast<std::size_t>(digit.dim)][static_cast<std::size_t>(digit.part)] =
          number % digit.size;
    }
    number /= digit.size;
  }
}

std::vector<Index> digits_of(const Factored& factored, const Index& index) {
  std::vector<Index> values = factored.parts;
  for (std::size_t dim = 0; dim < index.size(); ++dim) {
    std::int64_t rest = index[dim];
    for (std::size_t part = values[dim].size(); part-- > 0;) {
      const std::int64_t size = factored.parts[dim][part];
      values[dim][part] = rest % size;
      rest /= size;
    }
  }
  return values;
}

void require_index(const Layout& layout, const Index& index) {
  bool fits = index.size() == layout.shape().size();
  for (std::size_t i = 0; fits && i < index.size(); ++i) {
    fits = index[i] >= 0 && index[i] < layout.shape()[i];
  }
  require(fits, "layout: index [{}] is outside the shape [{}]", fmt::join(index, ", "),
          fmt::join(layout.shape(), ", "));
}

}  // namespace

Layout::Layout(Index shape, Index mode_shape, Index spatial_modes, Index local_modes)
    : shape_(std::move(shape)) {
  // Number of each mode among those that stay; -1 for modes of size 1.
  Index renumbered;
  for (const std::int64_t size : mode_shape) {
    renumbered.push_back(size == 1 ? -1 : static_cast<std::int64_t>(mode_shape_.size()));
    if (size != 1) mode_shape_.push_back(size);
  }
  const auto keep = [&](const Index& entries, Index& kept, bool may_replicate) {
    for (const std::int64_t entry : entries) {
      if (entry < 0) {
        require(may_replicate, "layout: a replication ({}) stands among the local modes", entry);
        if (entry != -1) kept.push_back(entry);
        continue;
      }
      require(entry < static_cast<std::int64_t>(renumbered.size()),
              "layout: mode {} does not exist, there are {}", entry, renumbered.size());
      const std::int64_t number = renumbered[static_cast<std::size_t>(entry)];
      if (number >= 0) kept.push_back(number);
    }
  };
  keep(spatial_modes, spatial_modes_, true);
  keep(local_modes, local_modes_, false);
  check();
}

void Layout::check() const {
  product(shape_);
  product(mode_shape_);
  std::size_t mode = 0;
  for (const std::int64_t extent : shape_) {
    std::int64_t rest = extent;
    while (rest > 1 && mode < mode_shape_.size() && rest % mode_shape_[mode] == 0) {
      rest /= mode_shape_[mode++];
    }
    require(rest == 1, "layout: modes [{}] do not factor the shape [{}]",
            fmt::join(mode_shape_, ", "), fmt::join(shape_, ", "));
  }
  require(mode == mode_shape_.size(), "layout: modes [{}] are more than the shape [{}] needs",
          fmt::join(mode_shape_, ", "), fmt::join(shape_, ", "));
  std::vector<int> seen(mode_shape_.size(), 0);
  Index replications;
  for (const Index* entries : {&spatial_modes_, &local_modes_}) {
    for (const std::int64_t entry : *entries) {
      if (entry < 0) {
        replications.push_back(-entry);
      } else {
        ++seen[static_cast<std::size_t>(entry)];
      }
    }
  }
  product(replications);
  require(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }),
          "layout: every mode must stand exactly once among the spatial or local modes, got "
          "spatial [{}], local [{}] of {} modes",
          fmt::join(spatial_modes_, ", "), fmt::join(local_modes_, ", "), mode_shape_.size());
  require(threads() <= largest_extent, "layout: more than 2^31 threads");
}

Layout Layout::spatial(const Index& shape) {
  return Layout(shape, shape, counting(static_cast<std::int64_t>(shape.size())), {});
}
Layout Layout::local(const Index& shape) {
  return Layout(shape, shape, {}, counting(static_cast<std::int64_t>(shape.size())));
}
Layout Layout::column_spatial(const Index& shape) {
  return Layout(shape, shape, reversed(counting(static_cast<std::int64_t>(shape.size()))), {});
}
Layout Layout::column_local(const Index& shape) {
  return Layout(shape, shape, {}, reversed(counting(static_cast<std::int64_t>(shape.size()))));
}
Layout Layout::spatial(const Index& shape, const Index& order) {
  return Layout(shape, shape, order, {});
}
Layout Layout::local(const Index& shape, const Index& order) {
  return Layout(shape, shape, {}, order);
}

Layout Layout::replicate(std::int64_t count) {
  require(count >= 1, "layout: expected a replication by at least 1, got {}", count);
  return Layout({}, {}, {-count}, {});
}

Layout Layout::replicated(const Index& shape, std::int64_t threads) {
  return replicate(threads) * local(shape);
}

Layout Layout::auto_local_spatial(std::int64_t threads, const Index& shape) {
  Index rest = shape;
  Index across = shape;
  std::int64_t left = threads;
  for (std::size_t i = shape.size(); i-- > 0;) {
    across[i] = std::gcd(left, shape[i]);
    rest[i] = shape[i] / across[i];
    left /= across[i];
  }
  return replicate(left) * local(rest) * spatial(across);
}

std::int64_t Layout::size() const {
  return product(shape_);
}

std::int64_t Layout::threads() const {
  std::int64_t count = 1;
  for (const std::int64_t entry : spatial_modes_) {
    count *= entry < 0 ? -entry : mode_shape_[static_cast<std::size_t>(entry)];
  }
  return count;
}

std::int64_t Layout::local_size() const {
  std::int64_t count = 1;
  for (const std::int64_t entry : local_modes_) {
    count *= mode_shape_[static_cast<std::size_t>(entry)];
  }
  return count;
}

std::int64_t Layout::replication() const {
  std::int64_t count = 1;
  for (const std::int64_t entry : spatial_modes_) count *= entry < 0 ? -entry : 1;
  return count;
}

Index Layout::at(std::int64_t thread, std::int64_t local) const {
  require(thread >= 0 && thread < threads() && local >= 0 && local < local_size(),
          "layout: (thread {}, local {}) is outside {} threads with {} elements each", thread,
          local, threads(), local_size());
  const Factored factored(*this);
  std::vector<Index> values = factored.parts;
  write_digits(thread, factored.spatial, values);
  write_digits(local, factored.local, values);
  Index index;
  for (std::size_t dim = 0; dim < values.size(); ++dim) {
    std::int64_t joined = 0;
    for (std::size_t part = 0; part < values[dim].size(); ++part) {
      joined = joined * factored.parts[dim][part] + values[dim][part];
    }
    index.push_back(joined);
  }
  return index;
}

std::vector<std::int64_t> Layout::threads_of(const Index& index) const {
  require_index(*this, index);
  const Factored factored(*this);
  const std::vector<Index> values = digits_of(factored, index);
  std::vector<std::int64_t> found{0};
  for (const Digit& digit : factored.spatial) {
    std::vector<std::int64_t> next;
    for (const std::int64_t prefix : found) {
      if (digit.replicates()) {
        for (std::int64_t copy = 0; copy < digit.size; ++copy) {
          next.push_back(prefix * digit.size + copy);
        }
      } else {
        next.push_back(
            prefix * digit.size +
            values[static_cast<std::size_t>(digit.dim)][static_cast<std::size_t>(digit.part)]);
      }
    }
    found = std::move(next);
  }
  return found;
}

std::int64_t Layout::local_of(const Index& index) const {
  require_index(*this, index);
  const Factored factored(*this);
  const std::vector<Index> values = digits_of(factored, index);
  std::int64_t place = 0;
  for (const Digit& digit : factored.local) {
    place = place * digit.size +
            values[static_cast<std::size_t>(digit.dim)][static_cast<std::size_t>(digit.part)];
  }
  return place;
}

Layout Layout::canonical() const {
  Factored factored(*this);
  for (const bool of_local : {false, true}) {
    std::vector<Digit>& digits = factored.list(of_local);
    for (std::size_t i = 0; i + 1 < digits.size();) {
      Digit& slow = digits[i];
      const Digit fast = digits[i + 1];
      const bool both_replicate = slow.replicates() && fast.replicates();
      const bool neighbours =
          !slow.replicates() && slow.dim == fast.dim && fast.part == slow.part + 1;
      if (!both_replicate && !neighbours) {
        ++i;
        continue;
      }
      slow.size *= fast.size;
      digits.erase(digits.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      if (both_replicate) continue;
      Index& of_dim = factored.parts[static_cast<std::size_t>(slow.dim)];
      of_dim[static_cast<std::size_t>(slow.part)] = slow.size;
      of_dim.erase(of_dim.begin() + fast.part);
      for (std::vector<Digit>* both : {&factored.spatial, &factored.local}) {
        for (Digit& digit : *both) {
          if (digit.dim == fast.dim && digit.part > fast.part) --digit.part;
        }
      }
    }
  }
  return factored.layout();
}

Layout Layout::concat(const Layout& right) const {
  Index shape = shape_;
  shape.insert(shape.end(), right.shape_.begin(), right.shape_.end());
  Index modes = mode_shape_;
  modes.insert(modes.end(), right.mode_shape_.begin(), right.mode_shape_.end());
  const auto offset = static_cast<std::int64_t>(mode_shape_.size());
  const auto joined = [&](const Index& left, const Index& appended) {
    Index entries = left;
    for (const std::int64_t entry : appended) entries.push_back(entry < 0 ? entry : entry + offset);
    return entries;
  };
  return Layout(shape, modes, joined(spatial_modes_, right.spatial_modes_),
                joined(local_modes_, right.local_modes_));
}

Layout Layout::permute(const Index& dims) const {
  Index sorted = dims;
  std::sort(sorted.begin(), sorted.end());
  require(sorted == counting(rank()), "layout: [{}] is no permutation of {} dimensions",
          fmt::join(dims, ", "), rank());
  Factored factored(*this);
  const std::vector<Index> parts = factored.parts;
  std::vector<std::int64_t> new_place(dims.size());
  for (std::size_t i = 0; i < dims.size(); ++i) {
    factored.parts[i] = parts[static_cast<std::size_t>(dims[i])];
    new_place[static_cast<std::size_t>(dims[i])] = static_cast<std::int64_t>(i);
  }
  for (std::vector<Digit>* digits : {&factored.spatial, &factored.local}) {
    for (Digit& digit : *digits) {
      if (!digit.replicates()) digit.dim = new_place[static_cast<std::size_t>(digit.dim)];
    }
  }
  return factored.layout();
}

Layout Layout::reshape(const Index& new_shape) const {
  require(product(new_shape) == size(), "layout: a shape [{}] cannot become [{}]",
          fmt::join(shape_, ", "), fmt::join(new_shape, ", "));
  // All modes in one dimension, cut wherever one of the new dimensions ends.
  Factored factored(Layout({size()}, mode_shape_, spatial_modes_, local_modes_));
  if (factored.parts.empty()) factored.parts.emplace_back();
  std::size_t at = 0;
  for (const std::int64_t extent : new_shape) {
    for (std::int64_t rest = extent; rest > 1; ++at) {
      const std::int64_t size = factored.parts[0][at];
      if (size > rest) {
        require(size % rest == 0, "layout: the modes [{}] do not refine to the shape [{}]",
                fmt::join(mode_shape_, ", "), fmt::join(new_shape, ", "));
        factored.split(0, static_cast<std::int64_t>(at), size / rest);
        rest = 1;
      } else {
        require(rest % size == 0, "layout: the modes [{}] do not refine to the shape [{}]",
                fmt::join(mode_shape_, ", "), fmt::join(new_shape, ", "));
        rest /= size;
      }
    }
  }
  const Layout refined = factored.layout();
  return Layout(new_shape, refined.mode_shape(), refined.spatial_modes(), refined.local_modes());
}

Layout Layout::squeeze(std::int64_t dim) const {
  require(dim >= 0 && dim < rank() && shape_[static_cast<std::size_t>(dim)] == 1,
          "layout: dimension {} of the shape [{}] is not 1", dim, fmt::join(shape_, ", "));
  Index shape = shape_;
  shape.erase(shape.begin() + dim);
  return Layout(shape, mode_shape_, spatial_modes_, local_modes_);
}

Layout Layout::unsqueeze(std::int64_t dim) const {
  require(dim >= 0 && dim <= rank(), "layout: no place {} for a dimension in rank {}", dim, rank());
  Index shape = shape_;
  shape.insert(shape.begin() + dim, 1);
  return Layout(shape, mode_shape_, spatial_modes_, local_modes_);
}

Layout Layout::reduce(const Index& dims, bool keep_dims) const {
  Factored factored(*this);
  for (const std::int64_t dim : dims) {
    require(dim >= 0 && dim < rank(), "layout: no dimension {} in rank {}", dim, rank());
    factored.parts[static_cast<std::size_t>(dim)].clear();
    for (Digit& digit : factored.spatial) {
      if (digit.dim == dim) digit = {-1, 0, digit.size};
    }
    std::erase_if(factored.local, [dim](const Digit& digit) { return digit.dim == dim; });
  }
  const Layout kept = factored.layout();
  if (keep_dims) return kept;
  Index shape;
  for (std::int64_t dim = 0; dim < rank(); ++dim) {
    if (std::find(dims.begin(), dims.end(), dim) == dims.end()) {
      shape.push_back(shape_[static_cast<std::size_t>(dim)]);
    }
  }
  return Layout(shape, kept.mode_shape(), kept.spatial_modes(), kept.local_modes());
}

Layout Layout::reduce_to(const Index& target_shape) const {
  require(target_shape.size() <= shape_.size(), "layout: [{}] does not broadcast to [{}]",
          fmt::join(target_shape, ", "), fmt::join(shape_, ", "));
  const std::size_t added = shape_.size() - target_shape.size();
  Index dims;
  for (std::size_t i = 0; i < shape_.size(); ++i) {
    const std::int64_t target = i < added ? 1 : target_shape[i - added];
    if (target == shape_[i]) continue;
    require(target == 1, "layout: [{}] does not broadcast to [{}]", fmt::join(target_shape, ", "),
            fmt::join(shape_, ", "));
    dims.push_back(static_cast<std::int64_t>(i));
  }
  const Layout reduced = reduce(dims, true);
  return Layout(target_shape, reduced.mode_shape(), reduced.spatial_modes(), reduced.local_modes());
}

bool operator==(const Layout& a, const Layout& b) {
  const Layout left = a.canonical();
  const Layout right = b.canonical();
  return left.shape_ == right.shape_ && left.mode_shape_ == right.mode_shape_ &&
         left.spatial_modes_ == right.spatial_modes_ && left.local_modes_ == right.local_modes_;
}

Layout operator*(const Layout& f, const Layout& g) {
  const std::size_t rank = std::max(f.shape().size(), g.shape().size());
  Factored left(with_rank(f, rank));
  const Factored right(with_rank(g, rank));
  for (const bool of_local : {false, true}) {
    for (Digit digit : of_local ? right.local : right.spatial) {
      if (!digit.replicates()) {
        digit.part +=
            static_cast<std::int64_t>(left.parts[static_cast<std::size_t>(digit.dim)].size());
      }
      left.list(of_local).push_back(digit);
    }
  }
  for (std::size_t dim = 0; dim < rank; ++dim) {
    left.parts[dim].insert(left.parts[dim].end(), right.parts[dim].begin(), right.parts[dim].end());
  }
  return left.layout();
}

Layout operator/(const Layout& f, const Layout& g) {
  const std::optional<Layout> found = divided(f, g, true);
  if (found) return *found;
  throw InvalidArgument(fmt::format("layout: {} is not divisible by {} from the right",
                                    f.to_string(), g.to_string()));
}

Layout left_divide(const Layout& f, const Layout& g) {
  const std::optional<Layout> found = divided(f, g, false);
  if (found) return *found;
  throw InvalidArgument(
      fmt::format("layout: {} is not divisible by {} from the left", f.to_string(), g.to_string()));
}

bool divides(const Layout& g, const Layout& f) {
  return divided(f, g, true).has_value();
}
bool left_divides(const Layout& g, const Layout& f) {
  return divided(f, g, false).has_value();
}

Layout mma_a() {
  return Layout::column_local({2, 2}) * Layout::spatial({8, 4}) * Layout::local({1, 2});
}
Layout mma_b() {
  return Layout::local({2, 1}) * Layout::column_spatial({4, 8}) * Layout::local({2, 1});
}
Layout mma_c() {
  return Layout::local({2, 1}) * Layout::spatial({8, 4}) * Layout::local({1, 2});
}
Layout ldmatrix_unit() {
  return Layout::spatial({8, 4}) * Layout::local({1, 2});
}

}  // namespace einkorn::tilus
