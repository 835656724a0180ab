"""How well one score follows another at one stage of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ...runtime.errors import UsageError
from .check import as_rows

__all__ = ["StageFidelity", "score_fidelity"]


@dataclass(frozen=True)
class StageFidelity:
    """A candidate's gradients beside the reference's, at the states of one stage.

    `relative_error`**2 = `gain`**2 + bias**2 + `noise`**2, up to the correction that `bias` and `noise` get for N.
    """

    stage: int
    """Number of the stage, from 0."""
    step: int
    """Sampler steps taken before it."""
    cosine_mean: float
    """Mean over states of the cosine between the two gradients, -1 to 1, 1 is best."""
    cosine_min: float
    """The worst state's cosine."""
    gain: float
    """<q, g> / <g, g> - 1 over the whole stage: 0.02 where the gradient is 2 % too long."""
    gain_error: float
    """Standard error of `gain` over states."""
    bias: float
    """Size of the mean error that the gain does not explain, relative to rms(g); 0 for unbiased noise."""
    bias_error: float
    """Standard error of `bias` over states."""
    noise: float
    """rms over states of what neither gain nor bias explains, relative to rms(g)."""
    relative_error: float
    """rms(q - g) / rms(g)."""
    states: int
    """N, number of states compared."""
    bias_squared: float
    """bias^2 before it is cut at 0: below 0 by chance as often as above where there is no bias, so that it can be averaged."""
    bias_squared_error: float
    """Standard error of `bias_squared` over states."""
    condition_bias_squared: float | None = None
    """As `bias_squared`, of the mean errors at each condition, in the mean over conditions; None where there is one condition."""
    condition_bias_squared_error: float | None = None
    """Standard error of `condition_bias_squared` over states."""
    condition_gain_squared: float | None = None
    """Mean square of the gains at each condition, without what chance adds; None where there is one condition."""
    condition_gain_squared_error: float | None = None
    """Standard error of `condition_gain_squared` over states."""

    def beside(self, size: float) -> StageFidelity:
        """The same errors relative to rms(g) times `size`."""
        plain = ("gain", "gain_error", "bias", "bias_error", "noise", "relative_error")
        squares = [f.name for f in fields(self) if "squared" in f.name]
        changed = {name: getattr(self, name) / size for name in plain}
        changed |= {name: value / size**2 for name in squares if (value := getattr(self, name)) is not None}
        return replace(self, **changed)


def score_fidelity(
    reference: Any, candidate: Any, *, conditions: Any = None, stage: int = 0, step: int = 0
) -> StageFidelity:
    """Takes a gradient's error apart into gain, bias and noise.

    With g_i the reference's and q_i the candidate's gradient at state i of N, and all norms over the whole stage,

        gain   = sum_i <q_i, g_i> / sum_i <g_i, g_i> - 1
        e_i    = q_i - (1 + gain) g_i
        bias^2 = (|mean e|^2 - sum_i |e_i - mean e|^2 / (N (N - 1))) / mean_i |g_i|^2, not below 0
        noise^2 = sum_i |e_i - mean e|^2 / (N - 1) / mean_i |g_i|^2

    The mean of N noisy errors is not 0 but has the size noise / sqrt(N); the second term of bias^2 takes that out (it is
    the mean of <e_i, e_j> over i != j). The three matter differently to a chain: noise is like a little more
    temperature and can be taken out of the injected noise (Zhang, Wilson and De Sa, ICML 2022), while gain and
    bias move the distribution that the chain goes to.

    An engine of a conditional model may pull to the left at one condition and to the right at another: both are wrong,
    though the mean error is 0. So the same is asked of each condition, with means over pairs i != j of one condition, which
    hold no chance either:

        condition_bias_squared = mean <e_i, e_j> / mean_i |g_i|^2
        condition_gain_squared = mean <q_i - g_i, g_i> <q_j - g_j, g_j> / (mean_i |g_i|^2)^2

    Standard errors are from the jackknife over states (Efron and Stein 1981): states of independent chains, not of one
    chain after the other. That of `bias` is found for bias^2 and carried through the root, where
    bias^2 +- its error is cut at 0.

    Args:
        reference: [N, *S] gradients g, any real type; N at least 2.
        candidate: [N, *S] gradients q at the same states.
        conditions: [N] whole numbers from 0, which condition each state was asked at; None where all have the same.
        stage: number of the stage, kept in the result.
        step: sampler steps taken before it, kept in the result.

    Returns:
        The numbers of this stage. Where the candidate holds NaN or infinity they are NaN, which no limit lets pass. A
        state whose reference gradient is 0 counts for everything but the cosines; a candidate gradient of 0 has
        cosine 0.

    Raises:
        UsageError: shapes differ, N is below 2, fewer than three states share a condition, or the reference is not finite
            or 0 everywhere.
    """
    g = as_rows("reference gradients", reference, 2)
    if np.shape(candidate) != np.shape(reference):
        raise UsageError(
            f"candidate gradients: expected shape {list(np.shape(reference))} as the reference has, "
            f"got {list(np.shape(candidate))}"
        )
    q = np.asarray(candidate, np.float64).reshape(g.shape)
    n = len(g)
    own = None if conditions is None else _checked(conditions, n)
    lengths = np.einsum("nd,nd->n", g, g)
    power = float(lengths.mean())
    if power == 0.0:
        raise UsageError("reference gradients: all are 0, so nothing can be said relative to them")
    if not np.isfinite(q).all():
        nan = math.nan
        of_conditions = (None if own is None else nan,) * 4
        return StageFidelity(stage, step, nan, nan, nan, nan, nan, nan, nan, nan, n, nan, nan, *of_conditions)

    products = np.einsum("nd,nd->n", q, g)
    gain = float(products.mean() / power) - 1.0
    residuals = products - (1.0 + gain) * lengths  # of the ratio of means
    gain_error = float(np.sqrt(np.square(residuals).sum() / (n * (n - 1)))) / power

    e = (q - (1.0 + gain) * g) / math.sqrt(power)
    squared, squared_error = _shared(e, np.zeros(n, np.int64))
    bias, above, below = (math.sqrt(max(0.0, squared + sign * squared_error)) for sign in (0, 1, -1))
    shared: tuple[float | None, ...] = (None,) * 4
    if own is not None:
        shared = (*_shared(e, own), *_shared((products - lengths)[:, None] / power, own))

    sizes = np.sqrt(lengths * np.einsum("nd,nd->n", q, q))
    moving = lengths > 0.0
    cosines = np.divide(products, sizes, out=np.zeros(n), where=sizes > 0.0)[moving]
    return StageFidelity(
        stage=stage,
        step=step,
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        gain=gain,
        gain_error=gain_error,
        bias=bias,
        bias_error=max(above - bias, bias - below) if bias == 0.0 else (above - below) / 2.0,
        noise=math.sqrt(float(np.square(e - e.mean(axis=0)).sum()) / (n - 1)),
        relative_error=math.sqrt(float(np.square(q - g).sum()) / n / power),
        states=n,
        bias_squared=squared,
        bias_squared_error=squared_error,
        condition_bias_squared=shared[0],
        condition_bias_squared_error=shared[1],
        condition_gain_squared=shared[2],
        condition_gain_squared_error=shared[3],
    )


def _checked(conditions: Any, states: int) -> np.ndarray | None:
    """Returns the conditions' numbers; None where there is one condition."""
    numbers = np.asarray(conditions)
    if numbers.shape != (states,):
        raise UsageError(f"conditions: expected one per state, [{states}], got {list(numbers.shape)}")
    if np.bincount(numbers).max() < 3:
        raise UsageError("conditions: expected at least three states of one condition")
    return numbers if (numbers != numbers[0]).any() else None


def _shared(rows: np.ndarray, conditions: np.ndarray) -> tuple[float, float]:
    """Returns the mean of <e_i, e_j> over pairs i != j of one condition, and its standard error.

    Args:
        rows: [N, D], e.
        conditions: [N], one of them of two states at least.
    """
    sums = np.zeros((int(conditions.max()) + 1, rows.shape[1]))
    np.add.at(sums, conditions, rows)
    others = np.bincount(conditions)[conditions] - 1  # of the same condition
    # Row sums of the Gram matrix, which is not needed whole.
    row = np.einsum("nd,nd->n", rows, sums[conditions] - rows)
    n, total, pairs = len(rows), float(row.sum()), int(others.sum())
    left = pairs - 2 * others
    if not left.all():  # two states: without one of them there is no pair
        return total / pairs, float(np.square(rows - rows.mean(axis=0)).sum()) / (n - 1) / n
    # Without each state in turn.
    without = (total - 2.0 * row) / left
    return total / pairs, math.sqrt((n - 1) / n * float(np.square(without - without.mean()).sum()))
