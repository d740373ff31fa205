// Propagation and search.
#include "einkorn/compute/flashrnn/constraints.h"

#include <algorithm>
#include <deque>
#include <limits>

#include "einkorn/compute/flashrnn/constraints_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn::flashrnn {
namespace {

// ---- domains of terms, upwards and downwards ----

IntegerDomain domain_of(const Term& term, const Domains& domains) {
  switch (term.kind) {
    case Term::Kind::constant:
      return {term.number, term.number};
    case Term::Kind::variable:
      return domains[term.variable];
    case Term::Kind::sum:
      return sum(domain_of(*term.left, domains), domain_of(*term.right, domains));
    case Term::Kind::product:
      return product(domain_of(*term.left, domains), domain_of(*term.right, domains));
    case Term::Kind::power:
      break;
  }
  return power(domain_of(*term.left, domains), term.number);
}

// Leaves to the variables below what can make the term a member of `result`. False: nothing.
bool restrict(const Term& term, const IntegerDomain& result, Domains& domains) {
  if (result.empty()) return false;
  switch (term.kind) {
    case Term::Kind::constant:
      return result.contains(term.number);
    case Term::Kind::variable:
      domains[term.variable] = intersection(domains[term.variable], result);
      return !domains[term.variable].empty();
    case Term::Kind::power:
      return restrict(*term.left,
                      narrowed_base(domain_of(*term.left, domains), term.number, result), domains);
    case Term::Kind::sum:
    case Term::Kind::product:
      break;
  }
  const auto narrowed = term.kind == Term::Kind::sum ? narrowed_term : narrowed_factor;
  const IntegerDomain right = domain_of(*term.right, domains);
  const IntegerDomain left = narrowed(domain_of(*term.left, domains), right, result);
  if (!restrict(*term.left, left, domains)) return false;
  return restrict(*term.right, narrowed(right, domain_of(*term.left, domains), result), domains);
}

bool restrict(const Relation& relation, Domains& domains) {
  const IntegerDomain left = domain_of(relation.left, domains);
  const IntegerDomain right = domain_of(relation.right, domains);
  switch (relation.kind) {
    case Relation::Kind::equal: {
      const IntegerDomain both = intersection(left, right);
      return restrict(relation.left, both, domains)&& restrict(relation.right, both, domains);
    }
    case Relation::Kind::at_most:
      return restrict(relation.left, {1, right.highest()}, domains)&& restrict(
          relation.right, {left.lowest(), integer_limit}, domains);
    case Relation::Kind::divisible:
      break;
  }
  return restrict(relation.left, narrowed_dividend(left, right), domains)&& restrict(
      relation.right, narrowed_divisor(right, left), domains);
}

bool restrict(const Constraint& constraint, Domains& domains) {
  if (constraint.alternatives.size() == 1) return restrict(constraint.alternatives[0], domains);
  std::vector<IntegerDomain> either(constraint.variables.size(), IntegerDomain(1, 0));
  bool any = false;
  for (const Relation& relation : constraint.alternatives) {
    Domains attempt = domains;
    if (!restrict(relation, attempt)) continue;
    any = true;
    for (std::size_t i = 0; i < either.size(); ++i) {
      either[i] = hull(either[i], attempt[constraint.variables[i]]);
    }
  }
  if (!any) return false;
  for (std::size_t i = 0; i < either.size(); ++i) {
    IntegerDomain& domain = domains[constraint.variables[i]];
    domain = intersection(domain, either[i]);
    if (domain.empty()) return false;
  }
  return true;
}

// ---- plain evaluation ----

// Sums and products beyond this are one: no comparison reaches up here.
constexpr __int128 endless = static_cast<__int128>(1) << 120;

__int128 value_of(const Term& term, const std::vector<std::int64_t>& values) {
  const auto times = [](__int128 a, __int128 b) { return a > endless / b ? endless : a * b; };
  switch (term.kind) {
    case Term::Kind::constant:
      return term.number;
    case Term::Kind::variable:
      return values[term.variable];
    case Term::Kind::sum:
      return std::min(endless, value_of(*term.left, values) + value_of(*term.right, values));
    case Term::Kind::product:
      return times(value_of(*term.left, values), value_of(*term.right, values));
    case Term::Kind::power:
      break;
  }
  const __int128 base = value_of(*term.left, values);
  __int128 result = 1;
  for (std::int64_t i = 0; i < term.number; ++i) result = times(result, base);
  return result;
}

bool holds(const Relation& relation, const std::vector<std::int64_t>& values) {
  const __int128 left = value_of(relation.left, values);
  const __int128 right = value_of(relation.right, values);
  require(left < endless && right < endless, "constraints: a term exceeds 2^120");
  switch (relation.kind) {
    case Relation::Kind::equal:
      return left == right;
    case Relation::Kind::at_most:
      return left <= right;
    case Relation::Kind::divisible:
      break;
  }
  return left % right == 0;
}

// ---- search ----

class Search {
 public:
  Search(const ConstraintProblem::Parts& parts, const SolveOptions& options,
         const Progress& progress)
      : parts_(parts), options_(options), progress_(progress) {
    require(options.count >= 1, "solve: expected a count >= 1, got {}", options.count);
    for (const auto& [name, end] : options.order) {
      const std::size_t index = index_of(name);
      require(std::none_of(order_.begin(), order_.end(),
                           [index](const Choice& choice) { return choice.variable == index; }),
              "order: '{}' is named twice", name);
      order_.push_back({index, end});
    }
    for (std::size_t i = 0; options.order.empty() && i < parts.names.size(); ++i) {
      order_.push_back({i, ValueOrder::smallest_first});
    }
    for (const Assignment& entry : options.exclude) {
      std::vector<std::pair<std::size_t, std::int64_t>> excluded;
      for (const auto& [name, value] : entry) excluded.emplace_back(index_of(name), value);
      exclude_.push_back(std::move(excluded));
    }
  }

  SolveResult run() {
    Domains domains = parts_.start;
    result_.exhausted = true;
    if (narrow(parts_, domains, std::nullopt)) choose(0, domains);
    return std::move(result_);
  }

 private:
  struct Choice {
    std::size_t variable;
    ValueOrder end;
  };

  std::size_t index_of(const std::string& name) const {
    const auto found = std::find(parts_.names.begin(), parts_.names.end(), name);
    require(found != parts_.names.end(), "solve: no variable '{}'{}", name,
            hint(name, parts_.names));
    return static_cast<std::size_t>(found - parts_.names.begin());
  }

  // False: enough was found.
  bool choose(std::size_t depth, const Domains& domains) {
    if (depth == order_.size()) return leaf(domains);
    const auto [variable, end] = order_[depth];
    return for_values(domains[variable], end, [&](std::int64_t value) {
      Domains attempt = domains;
      return !assign(attempt, variable, value) || choose(depth + 1, attempt);
    });
  }

  template <typename Visit>
  bool for_values(const IntegerDomain& domain, ValueOrder end, const Visit& visit) {
    const bool up = end == ValueOrder::smallest_first;
    if (domain.values()) {
      const auto& values = *domain.values();
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (!visit(values[up ? i : values.size() - 1 - i])) return false;
      }
      return true;
    }
    for (std::int64_t i = 0; i < domain.size(); ++i) {
      const std::int64_t step = i * domain.factor();
      if (!visit(up ? domain.lowest() + step : domain.highest() - step)) return false;
    }
    return true;
  }

  bool assign(Domains& domains, std::size_t variable, std::int64_t value) {
    constexpr std::int64_t between_reports = 4096;
    ++result_.nodes;
    require(result_.nodes <= options_.most_nodes,
            "solve: gave up after {} values; bound the variables more narrowly",
            options_.most_nodes);
    if (result_.nodes % between_reports == 0) progress_("searching", result_.nodes, 0);
    domains[variable] = {value, value};
    return narrow(parts_, domains, variable);
  }

  // All chosen variables have values; the others get the smallest that fit, if there are any.
  bool leaf(const Domains& domains) {
    std::optional<std::vector<std::int64_t>> values = completed(domains);
    if (!values || is_excluded(*values)) return true;
    if (static_cast<std::int64_t>(result_.solutions.size()) == options_.count) {
      result_.exhausted = false;
      return false;
    }
    Assignment solution;
    for (std::size_t i = 0; i < parts_.names.size(); ++i) solution[parts_.names[i]] = (*values)[i];
    result_.solutions.push_back(std::move(solution));
    return true;
  }

  std::optional<std::vector<std::int64_t>> completed(const Domains& domains) {
    std::size_t next = domains.size();
    for (std::size_t i = 0; i < domains.size(); ++i) {
      if (domains[i].is_single()) continue;
      if (next == domains.size() || domains[i].size() < domains[next].size()) next = i;
    }
    if (next == domains.size()) {
      std::vector<std::int64_t> values;
      for (const IntegerDomain& domain : domains) values.push_back(domain.lowest());
      return all_hold(parts_, values) ? std::optional(values) : std::nullopt;
    }
    std::optional<std::vector<std::int64_t>> found;
    for_values(domains[next], ValueOrder::smallest_first, [&](std::int64_t value) {
      Domains attempt = domains;
      if (assign(attempt, next, value)) found = completed(attempt);
      return !found;
    });
    return found;
  }

  bool is_excluded(const std::vector<std::int64_t>& values) const {
    return std::any_of(exclude_.begin(), exclude_.end(), [&](const auto& entry) {
      return std::all_of(entry.begin(), entry.end(),
                         [&](const auto& pair) { return values[pair.first] == pair.second; });
    });
  }

  const ConstraintProblem::Parts& parts_;
  const SolveOptions& options_;
  const Progress& progress_;
  std::vector<Choice> order_;
  std::vector<std::vector<std::pair<std::size_t, std::int64_t>>> exclude_;
  SolveResult result_;
};

}  // namespace

bool narrow(const ConstraintProblem::Parts& parts, Domains& domains,
            std::optional<std::size_t> changed) {
  // Bounds that creep towards each other are left to the search, which evaluates every leaf.
  const std::size_t most_rounds = 64 * parts.constraints.size() + 256;
  std::deque<std::size_t> queue;
  std::vector<bool> queued(parts.constraints.size(), false);
  const auto enqueue = [&](std::size_t constraint) {
    if (queued[constraint]) return;
    queued[constraint] = true;
    queue.push_back(constraint);
  };
  if (changed) {
    for (const std::size_t constraint : parts.constraints_of[*changed]) enqueue(constraint);
  } else {
    for (std::size_t i = 0; i < parts.constraints.size(); ++i) enqueue(i);
  }
  std::vector<IntegerDomain> before;
  for (std::size_t round = 0; !queue.empty() && round < most_rounds; ++round) {
    const std::size_t index = queue.front();
    queue.pop_front();
    queued[index] = false;
    const Constraint& constraint = parts.constraints[index];
    before.clear();
    for (const std::size_t variable : constraint.variables) before.push_back(domains[variable]);
    if (!restrict(constraint, domains)) return false;
    for (std::size_t i = 0; i < before.size(); ++i) {
      const std::size_t variable = constraint.variables[i];
      if (domains[variable] == before[i]) continue;
      for (const std::size_t other : parts.constraints_of[variable]) enqueue(other);
    }
  }
  return true;
}

bool holds(const Constraint& constraint, const std::vector<std::int64_t>& values) {
  return std::any_of(constraint.alternatives.begin(), constraint.alternatives.end(),
                     [&](const Relation& relation) { return holds(relation, values); });
}

bool all_hold(const ConstraintProblem::Parts& parts, const std::vector<std::int64_t>& values) {
  return std::all_of(parts.constraints.begin(), parts.constraints.end(),
                     [&](const Constraint& constraint) { return holds(constraint, values); });
}

ConstraintProblem::ConstraintProblem(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
ConstraintProblem::ConstraintProblem(ConstraintProblem&&) noexcept = default;
ConstraintProblem& ConstraintProblem::operator=(ConstraintProblem&&) noexcept = default;
ConstraintProblem::~ConstraintProblem() = default;

const std::vector<std::string>& ConstraintProblem::variables() const {
  return parts_->names;
}

std::vector<IntegerDomain> ConstraintProblem::propagate() const {
  Domains domains = parts_->start;
  const bool possible = narrow(*parts_, domains, std::nullopt);
  domains.resize(parts_->names.size());
  if (!possible) std::fill(domains.begin(), domains.end(), IntegerDomain(1, 0));
  return domains;
}

bool ConstraintProblem::holds(const Assignment& values) const {
  std::vector<std::int64_t> given(parts_->variables(), 1);
  for (std::size_t i = 0; i < parts_->names.size(); ++i) {
    const auto found = values.find(parts_->names[i]);
    require(found != values.end(), "holds: no value for '{}'", parts_->names[i]);
    require(found->second >= 1, "holds: '{}' is {}, expected a positive integer", found->first,
            found->second);
    given[i] = found->second;
  }
  // A list holds a constraint up if one of its members does; lists belong to one constraint each.
  const auto with_lists = [&](const Constraint& constraint, const auto& self,
                              std::size_t at) -> bool {
    while (at < constraint.variables.size() && constraint.variables[at] < parts_->names.size()) {
      ++at;
    }
    if (at == constraint.variables.size()) return flashrnn::holds(constraint, given);
    const std::size_t list = constraint.variables[at];
    const std::vector<std::int64_t>& members = *parts_->start[list].values();
    return std::any_of(members.begin(), members.end(), [&](std::int64_t member) {
      given[list] = member;
      return self(constraint, self, at + 1);
    });
  };
  return std::all_of(
      parts_->constraints.begin(), parts_->constraints.end(),
      [&](const Constraint& constraint) { return with_lists(constraint, with_lists, 0); });
}

SolveResult ConstraintProblem::solve(const SolveOptions& options, const Progress& progress) const {
  return Search(*parts_, options, progress).run();
}

}  // namespace einkorn::flashrnn
