#include "einkorn/compute/log_bessel/von_mises_fisher.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <numbers>

#include "einkorn/compute/log_bessel/log_bessel.h"
#include "einkorn/compute/log_bessel/von_mises_fisher_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/random.h"
#include "einkorn/core/text.h"

namespace einkorn::log_bessel {
namespace {

double order_of(std::int64_t p) {
  return 0.5 * static_cast<double>(p) - 1;
}

double half_log_surface(std::int64_t p) {
  return 0.5 * static_cast<double>(p) * std::log(2 * std::numbers::pi);
}

void require_distribution(std::int64_t p, double kappa) {
  require(p >= 2, "p: expected a dimension of at least 2, got {}", p);
  require(kappa >= 0 && std::isfinite(kappa), "kappa: expected a finite number >= 0, got {}",
          kappa);
}

double log_gamma(double value) {
  int sign = 0;
  return lgamma_r(value, &sign);
}

// log C_p(0): the density of the uniform distribution.
double log_normalizer_at_zero(std::int64_t p) {
  const double half = 0.5 * static_cast<double>(p);
  return log_gamma(half) - std::numbers::ln2 - half * std::log(std::numbers::pi);
}

// Below, the first correction of log C_p, kappa^2 / (2p), is less than 1e-17.
double negligible_kappa(std::int64_t p) {
  return std::sqrt(2e-17 * static_cast<double>(p));
}

// log C_p(kappa) + kappa, which does not cancel for large kappa.
double scaled_log_normalizer(std::int64_t p, double kappa) {
  if (kappa < negligible_kappa(p)) return log_normalizer_at_zero(p) + kappa;
  const double v = order_of(p);
  return v * std::log(kappa) - half_log_surface(p) - log_ive(v, kappa);
}

}  // namespace

double log_normalizer(std::int64_t p, double kappa) {
  require_distribution(p, kappa);
  return scaled_log_normalizer(p, kappa) - kappa;
}

double mean_resultant_length(std::int64_t p, double kappa) {
  require_distribution(p, kappa);
  return iv_ratio(order_of(p), kappa);
}

double entropy(std::int64_t p, double kappa) {
  require_distribution(p, kappa);
  return kappa * iv_ratio_c(order_of(p), kappa) - scaled_log_normalizer(p, kappa);
}

double kl_divergence(std::int64_t p, double first_kappa, double second_kappa, double cosine) {
  require_distribution(p, first_kappa);
  require_distribution(p, second_kappa);
  require(cosine >= -1 && cosine <= 1, "cosine: expected a number in [-1, 1], got {}", cosine);
  // log C_1 - log C_2 + A (kappa_1 - kappa_2 cosine) with the kappas of both normalisers taken out.
  const double length = iv_ratio(order_of(p), first_kappa);
  const double complement = iv_ratio_c(order_of(p), first_kappa);
  return scaled_log_normalizer(p, first_kappa) - scaled_log_normalizer(p, second_kappa) -
         first_kappa * complement + second_kappa * (complement + length * (1 - cosine));
}

at::Tensor log_density(const at::Tensor& points, const at::Tensor& mean_direction,
                       const at::Tensor& kappa) {
  require_dense(points, "points");
  require_dense(mean_direction, "mean_direction");
  require(
      points.dim() >= 1 && mean_direction.dim() == 1 && points.size(-1) == mean_direction.size(0),
      "points and mean_direction: expected shapes [..., p] and [p], got [{}] and [{}]",
      fmt::join(points.sizes(), ", "), fmt::join(mean_direction.sizes(), ", "));
  return log_normalizer(mean_direction.size(0), kappa) + kappa * points.matmul(mean_direction);
}

std::vector<std::string> fit_method_names() {
  return {"mle", "newton", "sra", "tanabe", "banerjee"};
}

std::string to_string(FitMethod method) {
  return fit_method_names()[static_cast<std::size_t>(method)];
}

FitMethod parse_fit_method(const std::string& name) {
  const std::vector<std::string> names = fit_method_names();
  const auto found = std::find(names.begin(), names.end(), name);
  require(found != names.end(), "method '{}': expected one of {}{}", name, fmt::join(names, ", "),
          hint(name, names));
  return static_cast<FitMethod>(found - names.begin());
}

double fit_concentration(std::int64_t p, double resultant_length, FitMethod method) {
  require(p >= 2, "p: expected a dimension of at least 2, got {}", p);
  require(resultant_length >= 0 && resultant_length < 1,
          "resultant_length: expected a number in [0, 1), got {}", resultant_length);
  if (resultant_length == 0) return 0;
  const double v = order_of(p);
  const double r = resultant_length;
  const double d = static_cast<double>(p);
  const double one_minus_r2 = (1 - r) * (1 + r);
  const auto newton_step = [&](double kappa) {
    // The smaller of A and 1 - A keeps the relative precision of the residual.
    const double residual = r < 0.5 ? iv_ratio(v, kappa) - r : (1 - r) - iv_ratio_c(v, kappa);
    return kappa - residual / iv_ratio_dx(v, kappa);
  };
  const double start = r * (d - r * r) / one_minus_r2;
  switch (method) {
    case FitMethod::banerjee:
      return start;
    case FitMethod::sra:
      return newton_step(newton_step(start));
    case FitMethod::newton: {
      double kappa = start;
      for (int i = 0; i < 50; ++i) {
        const double next = newton_step(kappa);
        const bool done = std::abs(next - kappa) <= 1e-14 * next;
        kappa = next;
        if (done) break;
      }
      return kappa;
    }
    case FitMethod::tanabe: {
      // The secant through the ends of the bracket of F(kappa) = R kappa / A_p(kappa), F(root) =
      // root.
      const double low = r * (d - 2) / one_minus_r2;
      const double high = r * d / one_minus_r2;
      const auto f = [&](double kappa) {
        return kappa == 0 ? r * d : r * kappa / iv_ratio(v, kappa);  // A ~ kappa / p at 0
      };
      const double f_low = f(low);
      const double f_high = f(high);
      return (low * f_high - high * f_low) / ((f_high - f_low) - (high - low));
    }
    case FitMethod::mle:
      break;
  }
  return iv_ratio_inv(v, r);
}

at::Tensor unit_rows(const at::Tensor& points, bool normalize) {
  require_dense(points, "points");
  require(points.dim() == 2 && points.size(0) >= 1 && points.size(1) >= 2,
          "points: expected shape [n, p] with n >= 1 and p >= 2, got [{}]",
          fmt::join(points.sizes(), ", "));
  require(points.scalar_type() == at::kDouble || points.scalar_type() == at::kFloat,
          "points: expected dtype float64 or float32, got {}", c10::toString(points.scalar_type()));
  const at::Tensor rows = points.detach();
  const at::Tensor lengths = at::linalg_vector_norm(rows, 2, {1}, false, at::kDouble);
  const auto first = [](const at::Tensor& wrong) {
    return wrong.any().item<bool>() ? wrong.nonzero()[0].item<std::int64_t>() : -1;
  };
  const auto at = [&](std::int64_t row) { return lengths[row].item<double>(); };
  const std::int64_t not_finite = first(lengths.isfinite().logical_not());
  require(not_finite < 0, "points: row {} holds a value that is not finite", not_finite);
  if (normalize) {
    const std::int64_t zero = first(lengths == 0);
    require(zero < 0, "points: row {} is zero and has no direction", zero);
    return rows / lengths.unsqueeze(1).to(rows.scalar_type());
  }
  constexpr double tolerance = 1e-4;
  const std::int64_t off = first((lengths - 1).abs() > tolerance);
  require(off < 0,
          "points: row {} has length {:.6g}, expected 1; normalize scales rows to unit length", off,
          off < 0 ? 1 : at(off));
  return rows;
}

VonMisesFisherFit fit(const at::Tensor& points, FitMethod method, bool normalize) {
  const at::Tensor rows = unit_rows(points, normalize);
  const std::int64_t n = rows.size(0);
  at::Tensor sum = at::zeros({rows.size(1)}, rows.options().dtype(at::kDouble));
  for_each_chunk(rows, [&](const at::Tensor& chunk, std::int64_t) { sum += chunk.sum(0); });
  const at::Tensor mean = sum.cpu() / n;
  VonMisesFisherFit result;
  result.resultant_length = mean.norm().item<double>();
  require(result.resultant_length < 1,
          "points: the mean resultant length is {:.17g}, so that no finite concentration fits: all "
          "rows coincide",
          result.resultant_length);
  result.mean_direction = mean / result.resultant_length;
  result.concentration = fit_concentration(rows.size(1), result.resultant_length, method);
  result.mean_log_likelihood = log_normalizer(rows.size(1), result.concentration) +
                               result.concentration * result.resultant_length;
  result.log_likelihood = static_cast<double>(n) * result.mean_log_likelihood;
  return result;
}

namespace {

// Draws w = mu.y by Wood's (1994) algorithm VM*: rejection from a transformed beta variable.
class CosineSampler {
 public:
  CosineSampler(std::int64_t p, double kappa) : kappa_(kappa), m_(static_cast<double>(p - 1)) {
    b_ = m_ / (2 * kappa + std::sqrt(4 * kappa * kappa + m_ * m_));
    x0_ = (1 - b_) / (1 + b_);
    // 1 - x0^2 = 4b / (1+b)^2
    c_ = kappa * x0_ + m_ * std::log(4 * b_ / ((1 + b_) * (1 + b_)));
  }

  struct Draw {
    double cosine;
    double sine;
  };

  Draw operator()(Random& random) const {
    while (true) {
      const double z = random.beta(0.5 * m_, 0.5 * m_);
      const double divisor = 1 - (1 - b_) * z;
      const double one_minus_w = 2 * b_ * z / divisor;
      const double w = 1 - one_minus_w;
      const double log_density = kappa_ * w + m_ * std::log(1 - x0_ * w) - c_;
      if (log_density >= std::log1p(-random.uniform())) {
        return {w, std::sqrt(one_minus_w * (1 + w))};
      }
    }
  }

 private:
  double kappa_;
  double m_;
  double b_;
  double x0_;
  double c_;
};

// Turns the vector so that the first axis becomes the mean direction: the reflection that maps it
// to -sign(mu_0) mu, which never cancels, and a change of sign.
void turn_first_axis(std::span<double> y, std::span<const double> mean_direction) {
  const double sign = mean_direction[0] < 0 ? -1 : 1;
  // u = mu + sign e_0, |u|^2 = 2 (1 + |mu_0|)
  double product = sign * y[0];
  for (std::size_t i = 0; i < y.size(); ++i) product += mean_direction[i] * y[i];
  const double factor = product / (1 + std::abs(mean_direction[0]));
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double u = mean_direction[i] + (i == 0 ? sign : 0);
    y[i] = -sign * (y[i] - factor * u);
  }
}

void sample_row(std::span<double> y, std::span<const double> mean_direction,
                const CosineSampler& sampler, Random random) {
  const auto [cosine, sine] = sampler(random);
  double square = 0;
  while (square == 0) {
    square = 0;
    for (std::size_t i = 1; i < y.size(); ++i) {
      y[i] = random.normal();
      square += y[i] * y[i];
    }
  }
  const double scale = sine / std::sqrt(square);
  for (std::size_t i = 1; i < y.size(); ++i) y[i] *= scale;
  y[0] = cosine;
  turn_first_axis(y, mean_direction);
}

}  // namespace

at::Tensor sample(const at::Tensor& mean_direction, double kappa, std::int64_t n,
                  std::uint64_t seed) {
  require_dense(mean_direction, "mean_direction");
  require(mean_direction.dim() == 1 && mean_direction.size(0) >= 2,
          "mean_direction: expected shape [p] with p >= 2, got [{}]",
          fmt::join(mean_direction.sizes(), ", "));
  require(n >= 0, "n: expected a number >= 0, got {}", n);
  const std::int64_t p = mean_direction.size(0);
  require_distribution(p, kappa);
  at::Tensor direction = mean_direction.detach().to(at::kCPU, at::kDouble).contiguous();
  const double length = direction.norm().item<double>();
  require(std::abs(length - 1) <= 1e-4, "mean_direction: expected length 1, got {:.6g}", length);
  direction = direction / length;
  const auto size = static_cast<std::size_t>(p);
  const std::span<const double> mean(direction.const_data_ptr<double>(), size);
  at::Tensor points = at::empty({n, p}, at::kDouble);
  double* const data = points.mutable_data_ptr<double>();
  const CosineSampler sampler(p, kappa);
  at::parallel_for(0, n, 1 + 16384 / p, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      sample_row({data + i * p, size}, mean, sampler, Random(seed, static_cast<std::uint64_t>(i)));
    }
  });
  return points;
}

// ---- the normaliser of a tensor ----

namespace {

// p is closed over, kappa differentiable: d log C / dkappa = -A_p(kappa).
struct DifferentiableNormalizer : torch::autograd::Function<DifferentiableNormalizer> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, std::int64_t p,
                            const at::Tensor& kappa) {
    context->saved_data["p"] = p;
    context->save_for_backward({kappa});
    const at::AutoDispatchBelowADInplaceOrView below;
    // In f64, as two large terms cancel.
    const at::Tensor wide = kappa.to(at::kDouble);
    const double v = order_of(p);
    const at::Tensor order = at::scalar_tensor(v, at::kDouble);
    const at::Tensor regular = v * wide.log() - half_log_surface(p) - log_iv(order, wide);
    const at::Tensor tiny = wide.ge(0).logical_and(wide.lt(negligible_kappa(p)));
    return at::where(tiny, at::scalar_tensor(log_normalizer_at_zero(p), at::kDouble), regular)
        .to(kappa.scalar_type());
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               const torch::autograd::tensor_list& gradients) {
    const at::Tensor kappa = context->get_saved_variables()[0];
    const at::Tensor order =
        at::scalar_tensor(order_of(context->saved_data["p"].toInt()), at::kDouble);
    return {at::Tensor(), -gradients[0] * iv_ratio(order, kappa)};
  }
};

}  // namespace

at::Tensor log_normalizer(std::int64_t p, const at::Tensor& kappa) {
  require_distribution(p, 0);
  require_dense(kappa, "kappa");
  require(kappa.scalar_type() == at::kDouble || kappa.scalar_type() == at::kFloat,
          "kappa: expected dtype float64 or float32, got {}", c10::toString(kappa.scalar_type()));
  return DifferentiableNormalizer::apply(p, kappa);
}

}  // namespace einkorn::log_bessel
