// The tree behind a ConstraintProblem.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "einkorn/compute/flashrnn/constraints.h"

namespace einkorn::flashrnn {

struct Term {
  enum class Kind { constant, variable, sum, product, power };
  Kind kind = Kind::constant;
  std::int64_t number = 0;     // constant: its value; power: the exponent
  std::size_t variable = 0;    // index into the variables
  std::unique_ptr<Term> left;  // power: the base
  std::unique_ptr<Term> right;
};

struct Relation {
  enum class Kind { equal, at_most, divisible };
  Kind kind = Kind::equal;
  Term left;
  Term right;
};

// One or more relations of which at least one holds.
struct Constraint {
  std::vector<Relation> alternatives;
  std::vector<std::size_t> variables;  // that occur in it, ascending
};

struct ConstraintProblem::Parts {
  // The named variables first; behind them one for each list.
  std::vector<std::string> names;
  std::vector<IntegerDomain> start;
  std::vector<Constraint> constraints;
  std::vector<std::vector<std::size_t>> constraints_of;  // variable -> constraints
  std::size_t variables() const { return start.size(); }
};

using Domains = std::vector<IntegerDomain>;

// Narrows the domains until no constraint narrows further. False: a contradiction. `changed` names
// the variable that changed since the last call; none: all constraints are looked at.
bool narrow(const ConstraintProblem::Parts& parts, Domains& domains,
            std::optional<std::size_t> changed);

// All constraints by plain evaluation; every variable has one value.
bool all_hold(const ConstraintProblem::Parts& parts, const std::vector<std::int64_t>& values);
bool holds(const Constraint& constraint, const std::vector<std::int64_t>& values);

}  // namespace einkorn::flashrnn
