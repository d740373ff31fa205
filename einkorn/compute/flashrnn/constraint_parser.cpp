#include <algorithm>
#include <cctype>
#include <limits>
#include <map>

#include "einkorn/compute/flashrnn/constraints_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn::flashrnn {
namespace {

struct Token {
  enum class Kind { number, name, symbol, end };
  Kind kind = Kind::end;
  std::string text;
  std::size_t at = 0;
};

// Recursive descent over the tokens of one file.
class Parser {
 public:
  Parser(const std::string& text, const std::string& source) : text_(text), source_(source) {
    if (text.size() > most_bytes) fail(0, "longer than 1 MiB");
    tokenize();
  }

  std::unique_ptr<ConstraintProblem::Parts> run() {
    while (current().kind != Token::Kind::end) {
      if (accept(";")) continue;
      constraint();
      if (current().kind != Token::Kind::end && !accept(";")) {
        fail("expected ';' between constraints");
      }
    }
    return finished();
  }

 private:
  static constexpr std::size_t most_bytes = 1 << 20;
  static constexpr int deepest = 200;
  static constexpr std::size_t longest_chain = 1000;

  // What stands in brackets, or at the top, and which operator holds it together at its top.
  struct Parsed {
    Term term;
    char top = 'a';  // '+', '*', '^', or 'a' for a number, a name, a list
  };

  [[noreturn]] void fail(std::size_t at, const std::string& problem) const {
    const auto begin = text_.begin();
    const auto here = begin + static_cast<std::ptrdiff_t>(std::min(at, text_.size()));
    const auto line = 1 + std::count(begin, here, '\n');
    std::size_t column = 1;
    for (auto i = here; i != begin && *(i - 1) != '\n'; --i) ++column;
    throw BadFile(source_, fmt::format("line {}, column {}", line, column), problem);
  }
  [[noreturn]] void fail(const std::string& problem) const {
    const Token& token = current();
    fail(token.at, token.kind == Token::Kind::end
                       ? problem + ", but the text ends"
                       : fmt::format("{}, got '{}'", problem, token.text));
  }

  void tokenize() {
    for (std::size_t i = 0; i < text_.size();) {
      const char c = text_[i];
      if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        ++i;
      } else if (c == '#') {
        while (i < text_.size() && text_[i] != '\n') ++i;
      } else if (is_digit(c)) {
        take(Token::Kind::number, i, is_digit);
      } else if (is_letter(c)) {
        take(Token::Kind::name, i, [](char x) { return is_letter(x) || is_digit(x); });
      } else {
        const std::string two = text_.substr(i, 2);
        const bool is_pair = two == "==" || two == "<=";
        if (!is_pair && std::string_view("+*^%()[],;|").find(c) == std::string_view::npos) {
          unknown(i, two);
        }
        tokens_.push_back({Token::Kind::symbol, is_pair ? two : std::string(1, c), i});
        i += is_pair ? 2 : 1;
      }
    }
    tokens_.push_back({Token::Kind::end, "", text_.size()});
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  }

  template <typename Belongs>
  void take(Token::Kind kind, std::size_t& i, const Belongs& belongs) {
    const std::size_t begin = i;
    while (i < text_.size() && belongs(text_[i])) ++i;
    tokens_.push_back({kind, text_.substr(begin, i - begin), begin});
  }

  [[noreturn]] void unknown(std::size_t at, const std::string& two) const {
    if (two[0] == '>') fail(at, "there is no '>' here: write 'b <= a' for 'a >= b'");
    if (two[0] == '<') fail(at, "there is no '<' here: write 'a + 1 <= b' for 'a < b'");
    if (two[0] == '=') fail(at, "expected '==' for equality");
    if (two[0] == '-') fail(at, "there is no '-' here: write 'a == b + c' for 'a - c == b'");
    const auto byte = static_cast<unsigned char>(two[0]);
    fail(at, std::isprint(byte) ? fmt::format("unexpected '{}'", two[0])
                                : fmt::format("unexpected byte 0x{:02x}", byte));
  }

  const Token& current() const { return tokens_[position_]; }
  bool is(const char* symbol) const {
    return current().kind == Token::Kind::symbol && current().text == symbol;
  }
  bool accept(const char* symbol) {
    if (!is(symbol)) return false;
    ++position_;
    return true;
  }
  void expect(const char* symbol, const char* where) {
    if (!accept(symbol)) fail(fmt::format("expected '{}' {}", symbol, where));
  }

  void constraint() {
    Constraint found;
    seen_.clear();
    alternatives(found.alternatives, 0);
    std::sort(seen_.begin(), seen_.end());
    seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
    found.variables = seen_;
    constraints_.push_back(std::move(found));
  }

  void alternatives(std::vector<Relation>& found, int depth) {
    do {
      if (is("(") && brackets_hold_relation()) {
        if (depth >= deepest) fail("brackets are nested too deeply");
        ++position_;
        alternatives(found, depth + 1);
        if (is(";")) fail("a list of constraints in brackets would be regrouped; expected ')'");
        expect(")", "after the constraint in brackets");
      } else {
        found.push_back(relation());
      }
    } while (accept("|"));
  }

  // Whether the bracket here closes around a whole relation rather than a term.
  bool brackets_hold_relation() const {
    int depth = 0;
    for (std::size_t i = position_; tokens_[i].kind != Token::Kind::end; ++i) {
      const std::string& text = tokens_[i].text;
      if (text == "(") ++depth;
      if (text == ")" && --depth == 0) return false;
      if (text == "==" || text == "<=" || text == "%") return true;
    }
    return false;
  }

  Relation relation() {
    Relation found;
    found.left = sum(0).term;
    if (accept("==")) {
      found.kind = Relation::Kind::equal;
    } else if (accept("<=")) {
      found.kind = Relation::Kind::at_most;
    } else if (accept("%")) {
      found.kind = Relation::Kind::divisible;
    } else {
      fail("expected '==', '<=' or '%' after a term");
    }
    found.right = sum(0).term;
    if (found.kind == Relation::Kind::divisible) {
      expect("==", "after the divisor");
      if (current().text != "0") fail("expected 0: only 'a % b == 0' is known");
      ++position_;
    }
    return found;
  }

  template <typename Part>
  Parsed chain(const char* symbol, Term::Kind kind, int depth, const Part& part) {
    Parsed found = part(depth);
    for (std::size_t count = 1; accept(symbol); ++count) {
      if (count >= longest_chain) fail("more than 1000 operands");
      Term joined;
      joined.kind = kind;
      joined.left = std::make_unique<Term>(std::move(found.term));
      joined.right = std::make_unique<Term>(std::move(part(depth).term));
      found = {std::move(joined), *symbol};
    }
    return found;
  }

  Parsed sum(int depth) {
    return chain("+", Term::Kind::sum, depth, [this](int d) { return product(d); });
  }
  Parsed product(int depth) {
    const std::size_t begin = position_;
    Parsed found = chain("*", Term::Kind::product, depth, [this](int d) { return factor(d); });
    // A bracketed sum may stand alone, not as a factor.
    if (found.top == '*') require_no_sum_between(begin, position_);
    return found;
  }

  // Operands of a product that are sums in brackets would be regrouped without their brackets.
  void require_no_sum_between(std::size_t begin, std::size_t end) const {
    int depth = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const std::string& text = tokens_[i].text;
      if (text == "(") ++depth;
      if (text == ")") --depth;
      if (text == "+" && depth > 0) {
        fail(tokens_[i].at,
             "brackets that regroup: write a*b + a*c instead of a*(b + c), or give the sum a name");
      }
    }
  }

  Parsed factor(int depth) {
    const std::size_t begin = position_;
    Parsed base = atom(depth);
    if (!accept("^")) return base;
    if (base.top != 'a') {
      fail(tokens_[begin].at, "brackets that regroup: a power is taken of a number or a name");
    }
    if (current().kind != Token::Kind::number) fail("expected an integer after '^'");
    const std::int64_t exponent = number();
    if (exponent < 1 || exponent > 62)
      fail(tokens_[position_ - 1].at, "expected 1 to 62 after '^'");
    if (is("^")) fail("expected one '^' only");
    Term found;
    found.kind = Term::Kind::power;
    found.number = exponent;
    found.left = std::make_unique<Term>(std::move(base.term));
    return {std::move(found), '^'};
  }

  Parsed atom(int depth) {
    Term found;
    if (accept("(")) {
      if (depth >= deepest) fail("brackets are nested too deeply");
      Parsed inside = sum(depth + 1);
      expect(")", "after a term in brackets");
      return inside;
    }
    if (is("[")) {
      found.kind = Term::Kind::variable;
      found.variable = list();
    } else if (current().kind == Token::Kind::number) {
      found.number = positive();
    } else if (current().kind == Token::Kind::name) {
      found.kind = Term::Kind::variable;
      found.variable = variable(current().text);
      ++position_;
    } else {
      fail("expected a number, a name, a list or '('");
    }
    return {std::move(found), 'a'};
  }

  std::int64_t number() {
    const Token& token = current();
    const std::optional<std::int64_t> value = to_integer(token.text);
    if (!value || *value > integer_limit) fail("expected an integer up to 2^62");
    ++position_;
    return *value;
  }

  std::int64_t positive() {
    const std::int64_t value = number();
    if (value < 1) fail(tokens_[position_ - 1].at, "expected a positive integer, got 0");
    return value;
  }

  // A variable of its own, numbered from the far end until all names are known.
  std::size_t list() {
    ++position_;
    std::vector<std::int64_t> values;
    do {
      if (current().kind != Token::Kind::number) fail("expected an integer in the list");
      values.push_back(positive());
    } while (accept(","));
    expect("]", "at the end of the list");
    if (values.size() > static_cast<std::size_t>(IntegerDomain::most_listed)) {
      fail(tokens_[position_ - 1].at, "more than 2048 members in a list");
    }
    lists_.emplace_back(std::move(values));
    const std::size_t index = std::numeric_limits<std::size_t>::max() - (lists_.size() - 1);
    seen_.push_back(index);
    return index;
  }

  std::size_t variable(const std::string& name) {
    const auto [found, is_new] = indices_.try_emplace(name, names_.size());
    if (is_new) names_.push_back(name);
    seen_.push_back(found->second);
    return found->second;
  }

  std::unique_ptr<ConstraintProblem::Parts> finished() {
    auto parts = std::make_unique<ConstraintProblem::Parts>();
    const auto placed = [this](std::size_t index) {
      const std::size_t from_end = std::numeric_limits<std::size_t>::max() - index;
      return from_end < lists_.size() ? names_.size() + from_end : index;
    };
    parts->start.assign(names_.size(), IntegerDomain());
    parts->start.insert(parts->start.end(), lists_.begin(), lists_.end());
    parts->constraints_of.resize(parts->start.size());
    for (std::size_t i = 0; i < constraints_.size(); ++i) {
      for (std::size_t& index : constraints_[i].variables) {
        index = placed(index);
        parts->constraints_of[index].push_back(i);
      }
      for (Relation& relation : constraints_[i].alternatives) {
        place(relation.left, placed);
        place(relation.right, placed);
      }
    }
    parts->names = std::move(names_);
    parts->constraints = std::move(constraints_);
    return parts;
  }

  template <typename Placed>
  static void place(Term& term, const Placed& placed) {
    if (term.kind == Term::Kind::variable) term.variable = placed(term.variable);
    if (term.left) place(*term.left, placed);
    if (term.right) place(*term.right, placed);
  }

  const std::string& text_;
  const std::string& source_;
  std::vector<Token> tokens_;
  std::size_t position_ = 0;
  std::vector<std::string> names_;
  std::map<std::string, std::size_t> indices_;
  std::vector<IntegerDomain> lists_;
  std::vector<std::size_t> seen_;
  std::vector<Constraint> constraints_;
};

}  // namespace

ConstraintProblem ConstraintProblem::parse(const std::string& text, const std::string& source) {
  return ConstraintProblem(Parser(text, source).run());
}

std::vector<std::pair<std::string, ValueOrder>> parse_order(const std::string& text) {
  std::vector<std::pair<std::string, ValueOrder>> order;
  if (trim(text).empty()) return order;
  for (const std::string& part : split(text, ',')) {
    const std::vector<std::string> words = split(part, ':');
    const std::string name(trim(words[0]));
    const std::string end = words.size() > 1 ? std::string(trim(words[1])) : "min";
    require(words.size() <= 2 && !name.empty() && (end == "min" || end == "max"),
            "order: expected name:min or name:max, got '{}'", part);
    order.emplace_back(name, end == "max" ? ValueOrder::largest_first : ValueOrder::smallest_first);
  }
  return order;
}

}  // namespace einkorn::flashrnn
