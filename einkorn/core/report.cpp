#include "einkorn/core/report.h"

#include <algorithm>
#include <cmath>

namespace einkorn {

std::string to_string(Relation relation) {
  switch (relation) {
    case Relation::less:
      return "<";
    case Relation::at_most:
      return "<=";
    case Relation::greater:
      return ">";
    case Relation::at_least:
      return ">=";
    case Relation::equal:
      break;
  }
  return "==";
}

bool Check::pass() const {
  if (!std::isfinite(measured)) return false;
  switch (relation) {
    case Relation::less:
      return measured < expected + tolerance;
    case Relation::at_most:
      return measured <= expected + tolerance;
    case Relation::greater:
      return measured > expected - tolerance;
    case Relation::at_least:
      return measured >= expected - tolerance;
    case Relation::equal:
      break;
  }
  return std::abs(measured - expected) <= tolerance;
}

bool Evidence::pass() const {
  return !checks.empty() &&
         std::all_of(checks.begin(), checks.end(), [](const Check& check) { return check.pass(); });
}

}  // namespace einkorn
