// ConstrINT: problems in positive integers, with products, powers and divisibility, as the search
// for tile sizes states them. A file is a list of constraints:
//
//   # comment
//   HEAD_DIM == 768; TILE == [8, 16, 32];
//   HEAD_DIM % TILE * WARPS == 0;          # divisible by the whole product
//   WARPS <= 8 | WARPS == 12               # | is "or" and binds tighter than ;
//
// Relations: A == B, A <= B, A % B == 0. Terms: sums of products of powers (`^` and an integer) of
// integers, variables, and lists, each of which stands for any one of its members. A newline is a
// space. Brackets may be put where they group what belongs together anyway; brackets that regroup
// are refused, since the published solver reads a file as if no bracket were there.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "einkorn/compute/flashrnn/integer_domain.h"
#include "einkorn/core/progress.h"

namespace einkorn::flashrnn {

enum class ValueOrder { smallest_first, largest_first };

// Values of variables by name.
using Assignment = std::map<std::string, std::int64_t>;

struct SolveOptions {
  // Variables in the order in which they are chosen, each with the end to begin at. Solutions that
  // agree in these variables count as one. Empty: all variables as they appear, smallest first.
  std::vector<std::pair<std::string, ValueOrder>> order;
  std::int64_t count = 1;           // most solutions wanted, >= 1
  std::vector<Assignment> exclude;  // solutions with all of one entry's values are skipped
  std::int64_t most_nodes = 20'000'000;
};

struct SolveResult {
  // In the order of the search. All variables have values: those not in `order` the smallest with
  // which the constraints hold.
  std::vector<Assignment> solutions;
  bool exhausted = false;  // there are no more
  std::int64_t nodes = 0;  // values tried
};

class ConstraintProblem {
 public:
  // Throws BadFile, which names source, line and column, for text that is no list of constraints.
  static ConstraintProblem parse(const std::string& text, const std::string& source);

  ConstraintProblem(ConstraintProblem&&) noexcept;
  ConstraintProblem& operator=(ConstraintProblem&&) noexcept;
  ~ConstraintProblem();

  // In the order of their first appearance.
  const std::vector<std::string>& variables() const;

  // What propagation alone leaves to each variable, in that order; all empty where it finds a
  // contradiction.
  std::vector<IntegerDomain> propagate() const;

  // Plain evaluation with 128-bit numbers. Lists are satisfied by any member. Throws
  // InvalidArgument for a variable without a value.
  bool holds(const Assignment& values) const;

  // Depth first; every solution has been evaluated. Throws InvalidArgument for unknown variables or
  // a count below 1, and when most_nodes values were tried; Interrupted when asked to stop.
  SolveResult solve(const SolveOptions& options, const Progress& progress = {}) const;

  struct Parts;

 private:
  explicit ConstraintProblem(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// "a:max,b:min,c" -> pairs; without a suffix smallest first. Throws InvalidArgument.
std::vector<std::pair<std::string, ValueOrder>> parse_order(const std::string& text);

}  // namespace einkorn::flashrnn
