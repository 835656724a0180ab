"""How well one score follows another at one stage of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass
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


def score_fidelity(reference: Any, candidate: Any, *, stage: int = 0, step: int = 0) -> StageFidelity:
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

    Standard errors are from the jackknife over states (Efron and Stein 1981): states of independent chains, not of one
    chain after the other. That of `bias` is found for bias^2 and carried through the root, where
    bias^2 +- its error is cut at 0.

    Args:
        reference: [N, *S] gradients g, any real type; N at least 2.
        candidate: [N, *S] gradients q at the same states.
        stage: number of the stage, kept in the result.
        step: sampler steps taken before it, kept in the result.

    Returns:
        The numbers of this stage. Where the candidate holds NaN or infinity they are NaN, which no limit lets pass. A
        state whose reference gradient is 0 counts for everything but the cosines; a candidate gradient of 0 has
        cosine 0.

    Raises:
        UsageError: shapes differ, N is below 2, or the reference is not finite or 0 everywhere.
    """
    g = as_rows("reference gradients", reference, 2)
    if np.shape(candidate) != np.shape(reference):
        raise UsageError(
            f"candidate gradients: expected shape {list(np.shape(reference))} as the reference has, "
            f"got {list(np.shape(candidate))}"
        )
    q = np.asarray(candidate, np.float64).reshape(g.shape)
    n = len(g)
    lengths = np.einsum("nd,nd->n", g, g)
    power = float(lengths.mean())
    if power == 0.0:
        raise UsageError("reference gradients: all are 0, so nothing can be said relative to them")
    if not np.isfinite(q).all():
        nan = math.nan
        return StageFidelity(stage, step, nan, nan, nan, nan, nan, nan, nan, nan, n, nan, nan)

    products = np.einsum("nd,nd->n", q, g)
    gain = float(products.mean() / power) - 1.0
    residuals = products - (1.0 + gain) * lengths  # of the ratio of means
    gain_error = float(np.sqrt(np.square(residuals).sum() / (n * (n - 1)))) / power

    e = q - (1.0 + gain) * g
    mean = e.mean(axis=0)
    spread = float(np.square(e - mean).sum()) / (n - 1)
    squared = float(mean @ mean) - spread / n
    # Without state i, the mean of <e_j, e_k> over j != k: from row sums of the Gram matrix, which is not needed whole.
    own = np.einsum("nd,nd->n", e, e)
    row = e @ (n * mean) - own  # sum over j != i of <e_i, e_j>
    if n > 2:
        without = (n * (n - 1) * squared - 2.0 * row) / ((n - 1) * (n - 2))
        squared_error = math.sqrt((n - 1) / n * float(np.square(without - without.mean()).sum()))
    else:
        squared_error = spread / n
    bias = math.sqrt(max(0.0, squared) / power)
    above, below = (math.sqrt(max(0.0, squared + sign * squared_error) / power) for sign in (1, -1))

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
        noise=math.sqrt(spread / power),
        relative_error=math.sqrt(float(np.square(q - g).sum()) / n / power),
        states=n,
        bias_squared=squared / power,
        bias_squared_error=squared_error / power,
    )
