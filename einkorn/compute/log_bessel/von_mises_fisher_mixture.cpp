// Mixtures of von Mises-Fisher distributions by expectation maximisation.
#include <limits>

#include "einkorn/compute/log_bessel/von_mises_fisher.h"
#include "einkorn/compute/log_bessel/von_mises_fisher_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/random.h"

namespace einkorn::log_bessel {
namespace {

constexpr double least_one_minus_r = 1e-12;

// log(weight_k f_k(y)) for rows [m, p]: [m, K].
at::Tensor log_joint(const at::Tensor& rows, const Mixture& mixture) {
  const std::int64_t p = rows.size(1);
  const at::Tensor offset = mixture.weights.log() + log_normalizer(p, mixture.concentrations);
  const at::Tensor scaled = mixture.mean_directions * mixture.concentrations.unsqueeze(1);
  return rows.matmul(scaled.t()) + offset;
}

// What an M step needs from all rows.
struct Sums {
  at::Tensor directions;     // [K, p]
  at::Tensor counts;         // [K]
  at::Tensor log_densities;  // [n]
  double objective = 0;      // mean log-likelihood, or of the assigned components where hard
};

Sums expectation(const at::Tensor& rows, const Mixture& mixture, bool hard) {
  const std::int64_t components = mixture.weights.size(0);
  const auto options = rows.options().dtype(at::kDouble);
  Sums sums{at::zeros({components, rows.size(1)}, options), at::zeros({components}, options),
            at::empty({rows.size(0)}, options)};
  double total = 0;
  for_each_chunk(rows, [&](const at::Tensor& chunk, std::int64_t begin) {
    const at::Tensor joint = log_joint(chunk, mixture);
    const at::Tensor log_density = at::logsumexp(joint, {1});
    at::Tensor share = (joint - log_density.unsqueeze(1)).exp();
    if (hard) {
      const auto [best, index] = joint.max(1);
      share = at::one_hot(index, components).to(at::kDouble);
      total += best.sum().item<double>();
    } else {
      total += log_density.sum().item<double>();
    }
    sums.directions += share.t().matmul(chunk);
    sums.counts += share.sum(0);
    sums.log_densities.slice(0, begin, begin + chunk.size(0)).copy_(log_density);
  });
  sums.objective = total / static_cast<double>(rows.size(0));
  return sums;
}

// One run from one start.
class Run {
 public:
  Run(const at::Tensor& rows, const MixtureOptions& options, Random random)
      : rows_(rows), options_(options), random_(random) {}

  Mixture operator()(const Progress& progress, const std::string& stage) {
    start();
    double before = -std::numeric_limits<double>::infinity();
    for (std::int64_t i = 1; i <= options_.iterations; ++i) {
      progress(stage, i, options_.iterations);
      const Sums sums = expectation(rows_, mixture_, options_.hard);
      mixture_.iterations = i;
      const bool reseeded = maximize(sums);
      if (!reseeded && sums.objective - before < options_.tolerance) {
        mixture_.converged = true;
        break;
      }
      before = reseeded ? -std::numeric_limits<double>::infinity() : sums.objective;
    }
    return mixture_;
  }

 private:
  // Rows as first directions, each drawn with a probability proportional to its distance 1 - cosine
  // from those before (k-means++ on the sphere); then one M step for the rows nearest to each.
  void start() {
    const std::int64_t n = rows_.size(0);
    std::vector<at::Tensor> chosen = {rows_[random_.integer(n)].to(at::kDouble)};
    at::Tensor distance = distance_to(chosen[0]);
    at::Tensor nearest = at::zeros({n}, rows_.options().dtype(at::kLong));
    while (static_cast<std::int64_t>(chosen.size()) < options_.components) {
      chosen.push_back(rows_[draw(distance)].to(at::kDouble));
      const at::Tensor to_new = distance_to(chosen.back());
      nearest = at::where(to_new < distance, static_cast<std::int64_t>(chosen.size() - 1), nearest);
      distance = at::minimum(distance, to_new);
    }
    const auto options = rows_.options().dtype(at::kDouble);
    mixture_.mean_directions = at::stack(chosen);
    mixture_.weights =
        at::full({options_.components}, 1.0 / static_cast<double>(options_.components), options);
    mixture_.concentrations =
        at::full({options_.components}, static_cast<double>(rows_.size(1)), options);
    Sums sums{at::zeros_like(mixture_.mean_directions), at::zeros({options_.components}, options),
              -distance};
    for_each_chunk(rows_, [&](const at::Tensor& chunk, std::int64_t begin) {
      const at::Tensor index = nearest.slice(0, begin, begin + chunk.size(0));
      sums.directions.index_add_(0, index, chunk);
      sums.counts.index_add_(0, index, at::ones({chunk.size(0)}, options));
    });
    maximize(sums);
  }

  at::Tensor distance_to(const at::Tensor& direction) const {
    at::Tensor distance = at::empty({rows_.size(0)}, rows_.options().dtype(at::kDouble));
    for_each_chunk(rows_, [&](const at::Tensor& chunk, std::int64_t begin) {
      distance.slice(0, begin, begin + chunk.size(0))
          .copy_((1 - chunk.matmul(direction)).clamp_min(0));
    });
    return distance;
  }

  std::int64_t draw(const at::Tensor& weights) {
    const at::Tensor cumulative = weights.cumsum(0);
    const double total = cumulative[-1].item<double>();
    if (total <= 0) return random_.integer(weights.size(0));
    const at::Tensor target = at::full({1}, random_.uniform() * total, weights.options());
    const auto index = at::searchsorted(cumulative, target, false, true)[0].item<std::int64_t>();
    return std::min(index, weights.size(0) - 1);
  }

  // Returns whether a component was put elsewhere.
  bool maximize(const Sums& sums) {
    const std::int64_t p = rows_.size(1);
    const at::Tensor lengths = sums.directions.norm(2, {1}).cpu();
    const at::Tensor counts = sums.counts.cpu();
    at::Tensor concentrations = mixture_.concentrations.cpu().clone();
    at::Tensor worst_first;
    bool reseeded = false;
    for (std::int64_t k = 0; k < options_.components; ++k) {
      const double count = counts[k].item<double>();
      const double length = lengths[k].item<double>();
      const double r = count > 0 ? length / count : 1;
      if ((count < 1.5 || r > 1 - least_one_minus_r) && reseeds_left_ > 0) {
        if (!worst_first.defined()) worst_first = sums.log_densities.argsort();
        const std::int64_t row = worst_first[std::min(k, rows_.size(0) - 1)].item<std::int64_t>();
        mixture_.mean_directions[k].copy_(rows_[row]);
        mixture_.weights[k].fill_(1.0 / static_cast<double>(rows_.size(0)));
        concentrations[k] = static_cast<double>(p);
        reseeds_left_ -= 1;
        reseeded = true;
        continue;
      }
      if (count == 0 || length == 0) continue;
      mixture_.mean_directions[k].copy_(sums.directions[k] / length);
      mixture_.weights[k].fill_(count / static_cast<double>(rows_.size(0)));
      const double kappa = fit_concentration(p, std::min(r, 1 - least_one_minus_r));
      concentrations[k] = std::min(kappa, options_.max_concentration);
    }
    mixture_.concentrations = concentrations.to(mixture_.weights.device());
    mixture_.weights = mixture_.weights / mixture_.weights.sum();
    return reseeded;
  }

  at::Tensor rows_;
  MixtureOptions options_;
  Random random_;
  Mixture mixture_;
  std::int64_t reseeds_left_ = 2 * options_.components;
};

void check(const at::Tensor& rows, const MixtureOptions& options) {
  require(options.components >= 1 && options.components <= rows.size(0),
          "components: expected 1 to {} (the number of rows), got {}", rows.size(0),
          options.components);
  require(options.restarts >= 1, "restarts: expected at least 1, got {}", options.restarts);
  require(options.iterations >= 1, "iterations: expected at least 1, got {}", options.iterations);
  require(options.tolerance >= 0, "tolerance: expected a number >= 0, got {}", options.tolerance);
  require(options.max_concentration > 0, "max_concentration: expected a number > 0, got {}",
          options.max_concentration);
}

}  // namespace

Mixture fit_mixture(const at::Tensor& points, const MixtureOptions& options,
                    const Progress& progress) {
  const at::Tensor rows = unit_rows(points, options.normalize);
  check(rows, options);
  Mixture best;
  best.mean_log_likelihood = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < options.restarts; ++i) {
    Run run(rows, options, Random(options.seed, static_cast<std::uint64_t>(i)));
    Mixture found = run(progress, fmt::format("start {} of {}", i + 1, options.restarts));
    found.mean_log_likelihood = expectation(rows, found, false).log_densities.mean().item<double>();
    if (!best.weights.defined() || found.mean_log_likelihood > best.mean_log_likelihood) {
      best = found;
    }
  }
  const at::Tensor log_shares = responsibilities(rows, best).log_responsibilities;
  best.assignments = log_shares.argmax(1).cpu();
  best.weights = best.weights.cpu();
  best.mean_directions = best.mean_directions.cpu();
  best.concentrations = best.concentrations.cpu();
  return best;
}

Responsibilities responsibilities(const at::Tensor& points, const Mixture& mixture) {
  const at::Tensor rows = unit_rows(points, false);
  require(mixture.mean_directions.defined() && mixture.mean_directions.size(1) == rows.size(1),
          "points: expected rows of the mixture's dimension, got {}", rows.size(1));
  Mixture on_device = mixture;
  on_device.weights = mixture.weights.to(rows.device());
  on_device.mean_directions = mixture.mean_directions.to(rows.device());
  on_device.concentrations = mixture.concentrations.to(rows.device());
  std::vector<at::Tensor> shares;
  std::vector<at::Tensor> densities;
  for_each_chunk(rows, [&](const at::Tensor& chunk, std::int64_t) {
    const at::Tensor joint = log_joint(chunk, on_device);
    densities.push_back(at::logsumexp(joint, {1}));
    shares.push_back(joint - densities.back().unsqueeze(1));
  });
  return {at::cat(shares), at::cat(densities)};
}

}  // namespace einkorn::log_bessel
