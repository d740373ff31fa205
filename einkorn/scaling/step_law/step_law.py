"""Step Law: learning rate and batch size for pre-training a language model.

Li et al., "Predictable Scale: Part I", 2025, arXiv 2503.04715.
"""

from typing import NamedTuple

import torch

from ._arrays import Array, accepts_arrays, as_tensor
from ._einkorn import step_law as _step_law

__all__ = [
    "LawFit",
    "Suggestion",
    "batch_tokens",
    "fit",
    "learning_rate",
    "smooth_losses",
    "suggest",
]


class Suggestion(NamedTuple):
    """What a law suggests; None where it says nothing. Bands are 95 % (low, high)."""

    learning_rate: float | None
    batch_tokens: float | None
    batch_sequences: int
    learning_rate_band: tuple[float, float] | None
    batch_tokens_band: tuple[float, float] | None
    extrapolated: bool


class LawFit(NamedTuple):
    """A fitted law: natural-log coefficients by name, with their bootstrap."""

    coefficients: dict[str, float]
    bootstrap_mean: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    covariance: list[list[float]]
    kept: int
    groups: int


def suggest(
    params: float,
    tokens: float,
    *,
    law: str = "step",
    constants: str = "released",
    sequence_length: int = 2048,
    round_sequences_to: int = 8,
    flops_per_token: float | None = None,
    loss: float | None = None,
) -> Suggestion:
    """Peak learning rate and batch size for N = params and D = tokens.

    Parameters
    ----------
    params : all non-embedding parameters (mixtures of experts: the total), finite and > 0
    tokens : training tokens, finite and > 0
    law : step, openai, microsoft, deepseek, porian or minicpm
    constants : the Step Law's: "released" (means of the released bootstrap) or "paper" (printed)
    sequence_length : tokens of one sequence
    round_sequences_to : the batch in sequences is a multiple of this
    flops_per_token : M of the DeepSeek law's C = M D; default 6 N
    loss : expected final loss in nats, for the laws in L

    Raises ValueError for values outside their range.
    """
    return Suggestion(
        **_step_law.suggest(
            params,
            tokens,
            law,
            constants,
            sequence_length,
            round_sequences_to,
            flops_per_token,
            loss,
        )
    )


@accepts_arrays("params", "tokens")
def learning_rate(params: Array, tokens: Array, *, constants: str = "released") -> Array:
    """The Step Law's peak learning rate over broadcast arrays, f64; NaN where no size is given."""
    return _step_law.learning_rate(torch.as_tensor(params), torch.as_tensor(tokens), constants)


@accepts_arrays("tokens")
def batch_tokens(tokens: Array, *, constants: str = "released") -> Array:
    """The Step Law's batch in tokens over an array, f64; NaN where an entry is no size."""
    return _step_law.batch_tokens(torch.as_tensor(tokens), constants)


def fit(
    params: Array,
    tokens: Array,
    learning_rate: Array,
    batch_sequences: Array,
    loss: Array,
    *,
    threshold: float = 0.0025,
    resamples: int = 1000,
    seed: int = 0,
    sequence_length: int = 2048,
    batch_on_params: bool = False,
) -> LawFit:
    """Fits ln lr on 1, ln N, ln D and ln B on 1, ln D to the runs near their group's best.

    All arrays are vectors, one entry a run. The released procedure: runs within ``threshold`` of
    the least loss at their (N, D), ordinary least squares, bootstrap over runs. Raises ValueError
    for shapes that differ, entries that are not finite and > 0, and runs that determine nothing.
    """
    columns = [
        torch.as_tensor(as_tensor(column))
        if hasattr(column, "__dlpack__")
        else torch.as_tensor(column)
        for column in (params, tokens, learning_rate, batch_sequences, loss)
    ]
    return LawFit(
        **_step_law.fit(*columns, threshold, resamples, seed, sequence_length, batch_on_params)
    )


def smooth_losses(losses: Array, *, log_interval: int = 1) -> list[float]:
    """Smooths a training log as the study did; the last value is the run's "smooth loss".

    Gaussian with sigma = min(100, 1 % of the iterations) / log_interval entries, cut at 4 sigma,
    mirrored at the ends. Raises ValueError for empty logs and values that are not finite.
    """
    return _step_law.smooth_losses(torch.as_tensor(losses, dtype=torch.float64), log_interval)
