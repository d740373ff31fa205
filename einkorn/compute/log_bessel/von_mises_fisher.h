// The von Mises-Fisher distribution on the unit sphere of R^p, p >= 2:
//
//   f(y) = C_p(kappa) exp(kappa mu.y),
//   log C_p(kappa) = (p/2 - 1) log kappa - (p/2) log 2 pi - log I_{p/2-1}(kappa).
//
// mu is the mean direction, kappa >= 0 the concentration (0: uniform). With A_p = I_{p/2} /
// I_{p/2-1} the mean resultant length of the distribution is A_p(kappa). Dimensions up to 1e5 and
// more.
//
// Mardia and Jupp, Directional Statistics (2000); Plesner, Sorensen, Hauberg 2024 for the
// estimates.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "einkorn/core/progress.h"
#include "einkorn/core/tensor.h"

namespace einkorn::log_bessel {

// ---- density ----

// log C_p(kappa), natural logarithm, with respect to surface measure. Throws InvalidArgument unless
// p >= 2 and kappa >= 0.
double log_normalizer(std::int64_t p, double kappa);

// The same for a tensor of concentrations, f64 or f32; differentiable (d/dkappa = -A_p), twice. NaN
// where kappa is negative.
at::Tensor log_normalizer(std::int64_t p, const at::Tensor& kappa);

// Mean resultant length A_p(kappa) in [0, 1).
double mean_resultant_length(std::int64_t p, double kappa);

// log f at unit vectors: points [..., p], mean_direction [p], result [...]; all of one floating
// dtype. Differentiable in all three.
at::Tensor log_density(const at::Tensor& points, const at::Tensor& mean_direction,
                       const at::Tensor& kappa);

// Differential entropy, -E[log f] = -log C_p(kappa) - kappa A_p(kappa), in nats.
double entropy(std::int64_t p, double kappa);

// KL(first || second) in nats for mean directions with the given cosine.
double kl_divergence(std::int64_t p, double first_kappa, double second_kappa, double cosine);

// ---- fitting ----

// How kappa follows from the mean resultant length R, the root of A_p(kappa) = R:
enum class FitMethod {
  mle,       // Newton's method within the bracket R(p-2)/(1-R^2) <= kappa <= R p/(1-R^2), to 1e-14
  newton,    // the same steps from Banerjee's start to 1e-14, without the bracket
  sra,       // two of these steps (Sra 2012)
  tanabe,    // interpolation between the ends of the bracket (Tanabe et al. 2007)
  banerjee,  // kappa = R (p - R^2) / (1 - R^2) (Banerjee et al. 2005)
};
std::string to_string(FitMethod method);
FitMethod parse_fit_method(const std::string& name);  // throws InvalidArgument
std::vector<std::string> fit_method_names();

// Throws InvalidArgument unless p >= 2 and 0 <= resultant_length < 1.
double fit_concentration(std::int64_t p, double resultant_length,
                         FitMethod method = FitMethod::mle);

struct VonMisesFisherFit {
  at::Tensor mean_direction;    // [p], f64, on the CPU; NaN if the rows cancel exactly
  double resultant_length = 0;  // |mean of the rows|
  double concentration = 0;     // kappa
  double log_likelihood = 0;    // of all rows, in nats
  double mean_log_likelihood = 0;
};

// points [n, p], n >= 1, p >= 2, f64 or f32, any strides, CPU or CUDA. Rows must have unit length
// to 1e-4; with normalize they are scaled to it. Sums are in f64. Throws InvalidArgument that names
// the row for rows that are not finite, zero, or not of unit length, and where all rows coincide
// (no finite maximum).
VonMisesFisherFit fit(const at::Tensor& points, FitMethod method = FitMethod::mle,
                      bool normalize = false);

// ---- sampling ----

// n unit vectors [n, p], f64, on the CPU, by Wood's rejection (1994) with Ulrich's envelope and a
// Householder reflection. Row i depends on (seed, i) alone. mean_direction [p] of unit length to
// 1e-4; kappa >= 0.
at::Tensor sample(const at::Tensor& mean_direction, double kappa, std::int64_t n,
                  std::uint64_t seed = 0);

// ---- mixtures ----

struct MixtureOptions {
  std::int64_t components = 2;
  bool hard = false;          // each row belongs to its likeliest component alone
  std::int64_t restarts = 5;  // the best of so many runs from different starts
  std::int64_t iterations = 200;
  double tolerance = 1e-8;  // stop when the mean log-likelihood gains less, in nats
  double max_concentration = std::numeric_limits<double>::infinity();
  bool normalize = false;
  std::uint64_t seed = 0;
};

struct Mixture {
  at::Tensor weights;          // [K], f64
  at::Tensor mean_directions;  // [K, p], f64
  at::Tensor concentrations;   // [K], f64
  at::Tensor assignments;      // [n], i64: the likeliest component of each row
  double mean_log_likelihood = 0;
  std::int64_t iterations = 0;  // of the best run
  bool converged = false;
};

// Expectation maximisation (Banerjee et al. 2005) from starts in the manner of k-means++. A
// component that would keep fewer than two different rows is put at the row that is explained
// worst. Concentrations stay below max_concentration and below the value at 1 - R = 1e-12. points
// as in fit, n >= components.
Mixture fit_mixture(const at::Tensor& points, const MixtureOptions& options = {},
                    const Progress& progress = {});

// Log-responsibilities [n, K] of the components for rows [n, p] (f64), and their log-densities.
struct Responsibilities {
  at::Tensor log_responsibilities;  // [n, K]
  at::Tensor log_densities;         // [n]
};
Responsibilities responsibilities(const at::Tensor& points, const Mixture& mixture);

}  // namespace einkorn::log_bessel
