#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <numeric>
#include <optional>

#include "einkorn/compute/tilus/layout.h"
#include "einkorn/compute/tilus/layout_internal.h"
#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

constexpr std::size_t most_dimensions = 8;

// ---- reading ----

void skip_space(std::string_view& text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text[0]))) text.remove_prefix(1);
}

bool take(std::string_view& text, char wanted) {
  skip_space(text);
  if (text.empty() || text[0] != wanted) return false;
  text.remove_prefix(1);
  return true;
}

void expect(std::string_view& text, char wanted) {
  require(take(text, wanted), "layout: expected '{}' before '{}'", wanted,
          text.substr(0, std::min<std::size_t>(text.size(), 20)));
}

std::string_view take_word(std::string_view& text) {
  skip_space(text);
  std::size_t size = 0;
  while (size < text.size() &&
         (std::isalpha(static_cast<unsigned char>(text[size])) || text[size] == '_')) {
    ++size;
  }
  const std::string_view word = text.substr(0, size);
  text.remove_prefix(size);
  return word;
}

std::int64_t take_integer(std::string_view& text) {
  const bool is_negative = take(text, '-');
  skip_space(text);
  std::int64_t value = 0;
  std::size_t size = 0;
  while (size < text.size() && size < 10 && std::isdigit(static_cast<unsigned char>(text[size]))) {
    value = 10 * value + (text[size++] - '0');
  }
  const bool ends = size == text.size() || !std::isdigit(static_cast<unsigned char>(text[size]));
  require(size > 0 && ends, "layout: expected an integer of at most 10 digits");
  text.remove_prefix(size);
  return is_negative ? -value : value;
}

// Integers with commas between them; there may be none before the closing character.
Index take_integers(std::string_view& text, char closing, std::size_t most) {
  Index values;
  skip_space(text);
  if (!text.empty() && (text[0] == closing || text[0] == ';')) return values;
  do {
    require(values.size() < most, "layout: more than {} numbers in a list", most);
    values.push_back(take_integer(text));
  } while (take(text, ','));
  return values;
}

Index take_named_list(std::string_view& text, const char* name) {
  require(take_word(text) == name, "layout: expected {}=[...]", name);
  expect(text, '=');
  expect(text, '[');
  Index values = take_integers(text, ']', 64);
  expect(text, ']');
  return values;
}

Layout take_general(std::string_view& text) {
  const Index shape = take_named_list(text, "shape");
  require(shape.size() <= most_dimensions, "layout: more than {} dimensions", most_dimensions);
  expect(text, ',');
  const Index modes = take_named_list(text, "modes");
  expect(text, ',');
  const Index spatial = take_named_list(text, "spatial");
  expect(text, ',');
  const Index local = take_named_list(text, "local");
  return Layout(shape, modes, spatial, local);
}

Layout take_factor(std::string_view& text) {
  const std::string_view name = take_word(text);
  require(!name.empty(),
          "layout: expected spatial(...), local(...), column_spatial(...), "
          "column_local(...), replicate(N) or layout(...)");
  expect(text, '(');
  if (name == "layout") {
    const Layout layout = take_general(text);
    expect(text, ')');
    return layout;
  }
  const Index sizes = take_integers(text, ')', most_dimensions);
  std::optional<Index> order;
  if (take(text, ';')) {
    require(take_word(text) == "order", "layout: expected order=... after ';'");
    expect(text, '=');
    order = take_integers(text, ')', most_dimensions);
  }
  expect(text, ')');
  if (name == "replicate") {
    require(sizes.size() == 1 && !order, "layout: replicate takes one number");
    return Layout::replicate(sizes[0]);
  }
  if (name == "spatial") return order ? Layout::spatial(sizes, *order) : Layout::spatial(sizes);
  if (name == "local" || name == "repeat") {
    return order ? Layout::local(sizes, *order) : Layout::local(sizes);
  }
  require(!order, "layout: {} takes no order", name);
  if (name == "column_spatial") return Layout::column_spatial(sizes);
  if (name == "column_local") return Layout::column_local(sizes);
  throw InvalidArgument(fmt::format(
      "layout: unknown factor '{}'; there are spatial, local, column_spatial, column_local, "
      "replicate and layout",
      name));
}

// ---- writing ----

struct Factor {
  std::string name;
  Index sizes;

  Layout layout(std::size_t rank) const {
    if (name == "replicate") return Layout::replicate(sizes[0]);
    Index shape = sizes;
    shape.insert(shape.begin(), rank - shape.size(), 1);
    if (name == "local") return Layout::local(shape);
    if (name == "spatial") return Layout::spatial(shape);
    if (name == "column_local") return Layout::column_local(shape);
    return Layout::column_spatial(shape);
  }
};

// The largest factor of one kind that can be divided off the left: its dimensions are those whose
// first modes stand, in ascending (row) or descending (column) order, at the head of the list.
std::optional<Factor> leading_factor(const Layout& layout, bool of_local) {
  const Index& list = of_local ? layout.local_modes() : layout.spatial_modes();
  if (list.empty()) return std::nullopt;
  if (list[0] < 0) return Factor{"replicate", {-list[0]}};
  Index first_mode;
  Index dim_of_mode;
  std::size_t mode = 0;
  for (std::size_t dim = 0; dim < layout.shape().size(); ++dim) {
    first_mode.push_back(layout.shape()[dim] == 1 ? -1 : static_cast<std::int64_t>(mode));
    for (std::int64_t rest = layout.shape()[dim]; rest > 1;) {
      rest /= layout.mode_shape()[mode++];
      dim_of_mode.push_back(static_cast<std::int64_t>(dim));
    }
  }
  std::vector<std::int64_t> dims;
  for (const std::int64_t entry : list) {
    if (entry < 0) break;
    const std::int64_t dim = dim_of_mode[static_cast<std::size_t>(entry)];
    if (first_mode[static_cast<std::size_t>(dim)] != entry) break;
    const std::size_t count = dims.size();
    const bool ascends = count < 2 || dims[1] > dims[0];
    if (count > 0 && (count == 1 ? dim == dims[0] : (dim > dims.back()) != ascends)) break;
    dims.push_back(dim);
  }
  if (dims.empty()) return std::nullopt;
  Index sizes(layout.shape().size(), 1);
  for (const std::int64_t dim : dims) {
    const std::int64_t first = first_mode[static_cast<std::size_t>(dim)];
    sizes[static_cast<std::size_t>(dim)] = layout.mode_shape()[static_cast<std::size_t>(first)];
  }
  const bool is_column = dims.size() > 1 && dims[1] < dims[0];
  return Factor{std::string(is_column ? "column_" : "") + (of_local ? "local" : "spatial"), sizes};
}

std::optional<std::string> chain(const Layout& whole) {
  Layout rest = whole.canonical();
  const std::size_t rank = rest.shape().size();
  std::string text;
  while (rest.threads() > 1 || rest.local_size() > 1) {
    bool found = false;
    for (const bool of_local : {true, false}) {
      const std::optional<Factor> factor = leading_factor(rest, of_local);
      if (!factor || !left_divides(factor->layout(rank), rest)) continue;
      rest = left_divide(rest, factor->layout(rank)).canonical();
      text += fmt::format("{}{}({})", text.empty() ? "" : ".", factor->name,
                          fmt::join(factor->sizes, ","));
      found = true;
      break;
    }
    if (!found) return std::nullopt;
  }
  if (text.empty() || text.find("local(") == std::string::npos) {
    // Chains of replications alone, and of nothing, do not say the rank.
    if (text.find("spatial(") == std::string::npos) {
      text += fmt::format("{}local({})", text.empty() ? "" : ".", fmt::join(Index(rank, 1), ","));
    }
  }
  return text;
}

std::string cell(const Layout& layout, const Index& index) {
  return fmt::format("{}: {}", fmt::join(layout.threads_of(index), ","), layout.local_of(index));
}

// The last two dimensions at fixed leading ones; rank 1 is a single row.
std::string grid(const Layout& layout, const Index& leading) {
  const std::size_t rank = layout.shape().size();
  const std::int64_t rows = rank >= 2 ? layout.shape()[rank - 2] : 1;
  const std::int64_t columns = rank >= 1 ? layout.shape()[rank - 1] : 1;
  std::vector<std::vector<std::string>> cells(static_cast<std::size_t>(rows));
  std::size_t width = fmt::format("{}", columns - 1).size();
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      Index index = leading;
      if (rank >= 2) index.push_back(row);
      if (rank >= 1) index.push_back(column);
      cells[static_cast<std::size_t>(row)].push_back(cell(layout, index));
      width = std::max(width, cells[static_cast<std::size_t>(row)].back().size());
    }
  }
  const std::size_t margin = fmt::format("{}", rows - 1).size();
  std::string text(margin, ' ');
  text.append(" |");
  for (std::int64_t column = 0; column < columns; ++column) {
    text += fmt::format(" {:>{}}", column, width);
  }
  text.append("\n").append(margin + 1, '-').append("+");
  text.append(static_cast<std::size_t>(columns) * (width + 1), '-').append("\n");
  for (std::int64_t row = 0; row < rows; ++row) {
    text += fmt::format("{:>{}} |", row, margin);
    for (const std::string& one : cells[static_cast<std::size_t>(row)]) {
      text += fmt::format(" {:>{}}", one, width);
    }
    text += "\n";
  }
  return text;
}

}  // namespace

Layout take_layout(std::string_view& text) {
  Layout layout = take_factor(text);
  while (take(text, '.')) layout = layout * take_factor(text);
  return layout;
}

Layout Layout::parse(std::string_view text) {
  const Layout layout = take_layout(text);
  skip_space(text);
  require(text.empty(), "layout: unexpected '{}' at the end",
          text.substr(0, std::min<std::size_t>(text.size(), 20)));
  return layout;
}

std::string Layout::to_string() const {
  if (const std::optional<std::string> text = chain(*this)) return *text;
  return fmt::format("layout(shape=[{}], modes=[{}], spatial=[{}], local=[{}])",
                     fmt::join(shape_, ","), fmt::join(mode_shape_, ","),
                     fmt::join(spatial_modes_, ","), fmt::join(local_modes_, ","));
}

std::string Layout::diagram() const {
  constexpr std::int64_t most_cells = 1 << 16;
  require(size() * replication() <= most_cells,
          "layout: a diagram of {} elements in {} threads each is too large (at most {} together)",
          size(), replication(), most_cells);
  const std::int64_t leading_dims = std::max<std::int64_t>(0, rank() - 2);
  Index leading(static_cast<std::size_t>(leading_dims), 0);
  std::string text;
  while (true) {
    if (leading_dims > 0) text += fmt::format("[{}, :, :]\n", fmt::join(leading, ", "));
    text += grid(*this, leading);
    std::size_t dim = leading.size();
    while (dim > 0 && ++leading[dim - 1] == shape_[dim - 1]) leading[--dim] = 0;
    if (dim == 0) return text;
  }
}

}  // namespace einkorn::tilus
