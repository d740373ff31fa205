#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "einkorn/core/error.h"
#include "einkorn/scaling/step_law/markov_text_internal.h"

namespace einkorn::step_law {

MarkovText::MarkovText(std::int64_t vocabulary, double sigma, std::uint64_t seed)
    : vocabulary_(vocabulary), random_(seed) {
  require(vocabulary >= 1, "vocabulary: expected an integer >= 1, got {}", vocabulary);
  require(sigma >= 0 && std::isfinite(sigma), "sigma: expected a finite number >= 0, got {}",
          sigma);
  cumulative_.reserve(static_cast<std::size_t>(vocabulary * vocabulary * vocabulary));
  for (std::int64_t pair = 0; pair < vocabulary * vocabulary; ++pair) {
    double total = 0;
    for (std::int64_t next = 0; next < vocabulary; ++next) {
      total += std::exp(sigma * random_.normal());
      cumulative_.push_back(total);
    }
    std::for_each(cumulative_.end() - vocabulary, cumulative_.end(),
                  [total](double& share) { share /= total; });
  }
}

at::Tensor MarkovText::sequences(std::int64_t count, std::int64_t length) {
  const at::Tensor letters = at::empty({count, length}, at::kLong);
  auto* letter = letters.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < letters.numel(); ++i) {
    const double* odds = row(first_, second_);
    first_ = second_;
    second_ = std::lower_bound(odds, odds + vocabulary_ - 1, random_.uniform()) - odds;
    letter[i] = second_;
  }
  return letters;
}

double MarkovText::probability(std::int64_t first, std::int64_t second, std::int64_t third) const {
  const double* odds = row(first, second);
  return third == 0 ? odds[0] : odds[third] - odds[third - 1];
}

const double* MarkovText::row(std::int64_t first, std::int64_t second) const {
  return cumulative_.data() + (first * vocabulary_ + second) * vocabulary_;
}

}  // namespace einkorn::step_law
