"""Logarithms of modified Bessel functions, and the von Mises-Fisher distribution.

``log_iv(v, x)`` is log I_v(x) and ``log_kv(v, x)`` is log K_v(x), for real order v and argument x
where the functions themselves overflow or underflow. ``log_ive`` and ``log_kve`` are the logarithms
of the exponentially scaled functions, as in :func:`scipy.special.ive` and ``kve``.

Arguments broadcast. They may be torch tensors (CPU or CUDA), numpy arrays, other DLPack objects or
numbers; the result follows them, with dtype float64 or float32. Tensors are differentiable in x
(twice) and in v. Outside the domain (NaN, x < 0, negative v except where the function is even in v)
the result is NaN.

Plesner, Sorensen, Hauberg, "Accurate Computation of the Logarithm of Modified Bessel Functions on
GPUs", ICS 2024, arXiv 2409.08729.
"""

import math
from typing import Any, NamedTuple

import torch

from ._arrays import Array, accepts_arrays, as_tensor
from ._einkorn import log_bessel as _log_bessel

__all__ = [
    "Mixture",
    "VonMisesFisher",
    "VonMisesFisherFit",
    "VonMisesFisherMixture",
    "entropy",
    "fit",
    "fit_concentration",
    "fit_mixture",
    "iv_ratio",
    "iv_ratio_c",
    "iv_ratio_dx",
    "iv_ratio_inv",
    "kl_divergence",
    "kv_ratio",
    "log_density",
    "log_iv",
    "log_iv_dv",
    "log_ive",
    "log_kv",
    "log_kv_dv",
    "log_kve",
    "log_normalizer",
    "mean_resultant_length",
    "responsibilities",
    "sample",
    "signed_log_iv",
]

_ops = torch.ops.einkorn


def _call(name: str, v: Any, x: Any, out: Any = None, **options: Any) -> Any:
    given = [value for value in (v, x) if hasattr(value, "__dlpack__")]
    tensors = [
        as_tensor(value)
        if hasattr(value, "__dlpack__")
        else torch.as_tensor(value, dtype=torch.float64)
        for value in (v, x)
    ]
    operator = getattr(_ops, name)
    if out is None:
        result = operator(*tensors, **options)
        if not given:
            return result.item() if result.dim() == 0 else result.numpy()
        if any(isinstance(value, torch.Tensor) for value in given):
            return result
        return result.detach().cpu().numpy()
    with torch.no_grad():
        operator(*tensors, **options, out=as_tensor(out))
    return out


def log_iv(v: Array, x: Array, *, table: str = "default", out: Array | None = None) -> Array:
    """log I_v(x) for order ``v`` >= 0 and argument ``x`` >= 0 (any integer v).

    Parameters
    ----------
    v, x : arrays or numbers that broadcast
    table : ``"default"``; ``"paper"`` for the published expansions and fall-backs in plain double;
        ``"gpu3"`` for the three of them that the paper uses on GPUs
    out : array to write into, of the broadcast shape and dtype; returned

    Error below 1e-13 of max(1, abs(result)), and below 4 ulp of it for 99.9 % of points.
    """
    return _call("log_iv", v, x, out, table=table)


def log_kv(v: Array, x: Array, *, table: str = "default", out: Array | None = None) -> Array:
    """log K_v(x) for real order ``v`` and argument ``x`` >= 0. See :func:`log_iv`."""
    return _call("log_kv", v, x, out, table=table)


def log_ive(v: Array, x: Array, *, table: str = "default", out: Array | None = None) -> Array:
    """log(exp(-x) I_v(x)), computed without forming log I. See :func:`log_iv`."""
    return _call("log_ive", v, x, out, table=table)


def log_kve(v: Array, x: Array, *, table: str = "default", out: Array | None = None) -> Array:
    """log(exp(x) K_v(x)), computed without forming log K. See :func:`log_iv`."""
    return _call("log_kve", v, x, out, table=table)


def iv_ratio(v: Array, x: Array, *, out: Array | None = None) -> Array:
    """I_{v+1}(x) / I_v(x) for ``v``, ``x`` >= 0, in [0, 1]; relative error below 1.6e-15."""
    return _call("iv_ratio", v, x, out)


def iv_ratio_c(v: Array, x: Array, *, out: Array | None = None) -> Array:
    """1 - I_{v+1}(x) / I_v(x), to full relative precision where the ratio is close to 1."""
    return _call("iv_ratio_c", v, x, out)


def iv_ratio_dx(v: Array, x: Array, *, out: Array | None = None) -> Array:
    """The derivative of :func:`iv_ratio` in x, in (0, 1/2]."""
    return _call("iv_ratio_dx", v, x, out)


def iv_ratio_inv(v: Array, ratio: Array) -> Array:
    """The x with I_{v+1}(x) / I_v(x) = ``ratio``; ratio in [0, 1)."""
    return _call("iv_ratio_inv", v, ratio)


def kv_ratio(v: Array, x: Array, *, out: Array | None = None) -> Array:
    """K_{v+1}(x) / K_v(x) for ``v``, ``x`` >= 0; at least 1."""
    return _call("kv_ratio", v, x, out)


def log_iv_dv(v: Array, x: Array) -> Array:
    """The derivative of log I_v(x) in the order v, for v >= 0, x > 0."""
    return _call("log_iv_dv", v, x)


def log_kv_dv(v: Array, x: Array) -> Array:
    """The derivative of log K_v(x) in the order v, for x > 0."""
    return _call("log_kv_dv", v, x)


def signed_log_iv(v: float, x: float) -> tuple[float, int]:
    """(log abs I_v(x), sign of I_v(x)) for any real order, x > 0."""
    return _log_bessel.signed_log_iv(v, x)


# ---- von Mises-Fisher --------------------------------------------------------------------------


def log_normalizer(p: int, kappa: Array) -> Array:
    """log C_p(kappa) of the density C_p(kappa) exp(kappa mu.y) on the unit sphere of R^p.

    ``kappa`` >= 0, a number or an array; differentiable. Natural logarithm, surface measure.
    """
    if hasattr(kappa, "__dlpack__"):
        return _log_normalizer(p, kappa)
    return _log_bessel.log_normalizer(p, torch.as_tensor(kappa, dtype=torch.float64)).item()


@accepts_arrays("kappa")
def _log_normalizer(p: int, kappa: Array) -> Array:
    return _log_bessel.log_normalizer(p, kappa)


@accepts_arrays("points", "mean_direction")
def log_density(points: Array, mean_direction: Array, kappa: Array | float) -> Array:
    """log density at unit vectors ``points`` [..., p] for a mean direction [p]; result [...]."""
    kappa = torch.as_tensor(kappa, dtype=mean_direction.dtype, device=mean_direction.device)
    return _log_bessel.log_density(points, mean_direction, kappa)


def mean_resultant_length(p: int, kappa: float) -> float:
    """A_p(kappa) = I_{p/2}(kappa) / I_{p/2-1}(kappa), the length of the mean vector."""
    return _log_bessel.mean_resultant_length(p, kappa)


def entropy(p: int, kappa: float) -> float:
    """Differential entropy in nats."""
    return _log_bessel.entropy(p, kappa)


def kl_divergence(p: int, first_kappa: float, second_kappa: float, cosine: float = 1.0) -> float:
    """KL(first || second) in nats; ``cosine`` is that of the angle between the mean directions."""
    return _log_bessel.kl_divergence(p, first_kappa, second_kappa, cosine)


def fit_concentration(p: int, resultant_length: float, method: str = "mle") -> float:
    """The concentration whose mean resultant length in R^p is ``resultant_length`` in [0, 1).

    method : ``mle`` (Newton's method within a bracket), ``newton`` (without), ``sra`` (two Newton
        steps), ``tanabe`` (interpolation) or ``banerjee`` (closed form)
    """
    return _log_bessel.fit_concentration(p, resultant_length, method)


class VonMisesFisherFit(NamedTuple):
    """A fitted distribution. Log-likelihoods are in nats, of all rows and of one on average."""

    mean_direction: Array
    concentration: float
    resultant_length: float
    log_likelihood: float
    mean_log_likelihood: float


@accepts_arrays("points")
def fit(points: Array, method: str = "mle", *, normalize: bool = False) -> VonMisesFisherFit:
    """Fits a distribution to unit vectors ``points`` [n, p].

    Rows must have unit length to 1e-4; ``normalize`` scales them to it. ValueError names a row that
    is not finite, zero or of another length. Methods: see :func:`fit_concentration`.
    """
    return VonMisesFisherFit(*_log_bessel.fit(points, method, normalize))


@accepts_arrays("mean_direction")
def sample(mean_direction: Array, kappa: float, n: int, *, seed: int = 0) -> Array:
    """``n`` unit vectors [n, p] (float64, on the CPU) around a unit vector [p].

    Row i depends on ``seed`` and i alone.
    """
    return _log_bessel.sample(mean_direction, kappa, n, seed)


class Mixture(NamedTuple):
    """A fitted mixture of K distributions."""

    weights: Array
    """[K]"""
    mean_directions: Array
    """[K, p]"""
    concentrations: Array
    """[K]"""
    assignments: Array
    """[n], the likeliest component of each row"""
    mean_log_likelihood: float
    iterations: int
    converged: bool


@accepts_arrays("points")
def fit_mixture(
    points: Array,
    components: int,
    *,
    hard: bool = False,
    restarts: int = 5,
    iterations: int = 200,
    tolerance: float = 1e-8,
    max_concentration: float = math.inf,
    normalize: bool = False,
    seed: int = 0,
) -> Mixture:
    """Fits a mixture to unit vectors ``points`` [n, p] by expectation maximisation.

    The best of ``restarts`` runs, each until the mean log-likelihood gains less than ``tolerance``
    nats or ``iterations`` are done. ``hard`` gives each row to its likeliest component alone.
    """
    return Mixture(
        *_log_bessel.fit_mixture(
            points,
            components,
            hard,
            restarts,
            iterations,
            tolerance,
            max_concentration,
            normalize,
            seed,
        )
    )


@accepts_arrays("points")
def responsibilities(points: Array, mixture: Mixture) -> tuple[Array, Array]:
    """(log-responsibilities [n, K], log-densities [n]) of a mixture at unit vectors [n, p]."""
    return _log_bessel.responsibilities(
        points,
        as_tensor(mixture.weights),
        as_tensor(mixture.mean_directions),
        as_tensor(mixture.concentrations),
    )


class VonMisesFisher:
    """A von Mises-Fisher distribution as an estimator in the style of scikit-learn.

    Parameters
    ----------
    method : how the concentration is estimated, see :func:`fit_concentration`
    normalize : scale rows to unit length

    After ``fit``: ``mean_direction_`` [p], ``concentration_``, ``log_likelihood_``.
    """

    def __init__(self, method: str = "mle", normalize: bool = False):
        self.method = method
        self.normalize = normalize

    def fit(self, X: Array, y: None = None) -> "VonMisesFisher":
        """Fits to the rows of ``X`` [n, p]."""
        found = fit(X, self.method, normalize=self.normalize)
        self.mean_direction_ = found.mean_direction
        self.concentration_ = found.concentration
        self.log_likelihood_ = found.log_likelihood
        self.n_features_in_ = X.shape[1]
        return self

    def score_samples(self, X: Array) -> Array:
        """log density at the rows of ``X``, which must be unit vectors."""
        return log_density(X, self.mean_direction_, self.concentration_)

    def score(self, X: Array, y: None = None) -> float:
        """Mean log density of the rows of ``X``."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, *, seed: int = 0) -> Array:
        """Draws unit vectors [n_samples, p]."""
        return sample(self.mean_direction_, self.concentration_, n_samples, seed=seed)


class VonMisesFisherMixture:
    """Clustering by a mixture of von Mises-Fisher distributions, in the style of scikit-learn.

    Parameters are those of :func:`fit_mixture`. After ``fit``: ``weights_`` [K],
    ``mean_directions_`` [K, p], ``concentrations_`` [K], ``labels_`` [n], ``n_iter_``,
    ``converged_``.
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        hard: bool = False,
        n_init: int = 5,
        max_iter: int = 200,
        tol: float = 1e-8,
        normalize: bool = False,
        seed: int = 0,
    ):
        self.n_components = n_components
        self.hard = hard
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.normalize = normalize
        self.seed = seed

    def fit(self, X: Array, y: None = None) -> "VonMisesFisherMixture":
        """Fits to the rows of ``X`` [n, p]."""
        self.mixture_ = fit_mixture(
            X,
            self.n_components,
            hard=self.hard,
            restarts=self.n_init,
            iterations=self.max_iter,
            tolerance=self.tol,
            normalize=self.normalize,
            seed=self.seed,
        )
        self.weights_ = self.mixture_.weights
        self.mean_directions_ = self.mixture_.mean_directions
        self.concentrations_ = self.mixture_.concentrations
        self.labels_ = self.mixture_.assignments
        self.n_iter_ = self.mixture_.iterations
        self.converged_ = self.mixture_.converged
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: Array) -> Array:
        """The likeliest component of each row [n]."""
        return responsibilities(X, self.mixture_)[0].argmax(1)

    def score_samples(self, X: Array) -> Array:
        """log density at the rows of ``X``, which must be unit vectors."""
        return responsibilities(X, self.mixture_)[1]
