// Text with known statistics to train on.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "einkorn/core/random.h"

namespace einkorn::step_law {

// An order-2 Markov chain: each pair of letters is followed by letters whose odds are log-normal.
// A model gains by learning the table of odds, and no model goes below its entropy.
class MarkovText {
 public:
  // vocabulary >= 1 letters; sigma >= 0 of the log odds. The language and the text follow from the
  // seed alone. Throws InvalidArgument.
  MarkovText(std::int64_t vocabulary, double sigma, std::uint64_t seed);

  // The next count * length letters as [count, length] i64.
  at::Tensor sequences(std::int64_t count, std::int64_t length);

  // P(third | first, second).
  double probability(std::int64_t first, std::int64_t second, std::int64_t third) const;

 private:
  const double* row(std::int64_t first, std::int64_t second) const;

  std::int64_t vocabulary_;
  Random random_;
  std::vector<double> cumulative_;  // [first, second, third]
  std::int64_t first_ = 0;
  std::int64_t second_ = 0;
};

}  // namespace einkorn::step_law
