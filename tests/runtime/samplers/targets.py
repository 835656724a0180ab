"""Energies whose moments are known, and how to draw from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ebm_export.runtime import FunctionEngine, SamplerConfig
from ebm_export.runtime.progress import Callback
from ebm_export.runtime.run import run_chains

PRECISION = np.array([[2.0, 0.8], [0.8, 1.0]])
"""Inverse covariance of the Gaussian target."""

EnergyAndGrad = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [B, 2], mean 0, covariance T * inverse(PRECISION)."""
    grad = x @ PRECISION.astype(x.dtype)
    return 0.5 * (x * grad).sum(axis=1), grad


def gumbel(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E = x + exp(-x): skewed to the right, mean Euler's constant and variance pi^2 / 6 at T = 1."""
    return (x + np.exp(-x)).sum(axis=1), 1 - np.exp(-x)


GUMBEL_MEAN = 0.5772156649
GUMBEL_VARIANCE = math.pi**2 / 6
GUMBEL_KURTOSIS = 5.4
"""Fourth central moment in units of the squared variance."""


def draw(
    energy: EnergyAndGrad,
    config: SamplerConfig,
    shape: tuple[int, ...],
    n: int,
    *,
    exact: EnergyAndGrad | None = None,
    callback: Callback | None = None,
    at: float = 0.0,
    seed: int = 1,
) -> np.ndarray:
    """Runs n chains, all from the same number."""

    def start(chains: range) -> np.ndarray:
        return np.full((len(chains), *shape), at, np.float32)

    return run_chains(
        FunctionEngine(energy),
        config,
        start,
        n,
        seed=seed,
        callback=callback,
        exact=None if exact is None else FunctionEngine(exact),
    ).astype(np.float64)


def assert_gaussian(samples: np.ndarray, covariance: np.ndarray, ess: float) -> None:
    """Checks mean 0 and a covariance to 4 standard errors at an effective sample size.

    They are sd / sqrt(n) for a mean, and sqrt((S_ii S_jj + S_ij^2) / n) for a covariance of Gaussians.
    """
    spread = np.diag(covariance)
    assert (abs(samples.mean(axis=0)) < 4 * np.sqrt(spread / ess)).all()
    error = 4 * np.sqrt((np.outer(spread, spread) + covariance**2) / ess)
    assert (abs(np.cov(samples.T) - covariance) < error).all()


def assert_gumbel(samples: np.ndarray, ess: float, bias: float = 0.0) -> None:
    """Checks mean, variance and skew of the Gumbel target to 4 standard errors plus a bias of the sampler's own.

    The standard error of a variance is variance * sqrt((kurtosis - 1) / n).
    """
    assert abs(samples.mean() - GUMBEL_MEAN) < 4 * math.sqrt(GUMBEL_VARIANCE / ess) + bias
    allowed = 4 * GUMBEL_VARIANCE * math.sqrt((GUMBEL_KURTOSIS - 1) / ess) + 2 * bias * GUMBEL_VARIANCE
    assert abs(samples.var() - GUMBEL_VARIANCE) < allowed
    assert ((samples - samples.mean()) ** 3).mean() > 1


def two_modes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E = 1.5 (x^2 - 1)^2 + 0.4 x in each number: the left mode is the heavier one."""
    square = x**2 - 1
    return (1.5 * square**2 + 0.4 * x).sum(axis=1), 6 * square * x + 0.4


def left_mass(depth: float = 1.0) -> float:
    """Share of exp(-depth * E) of `two_modes` that lies left of 0, by summing over a fine grid."""
    grid = np.linspace(-4, 4, 80_001)[:, None]
    weights = np.exp(-depth * two_modes(grid)[0])
    return float(weights[grid[:, 0] < 0].sum() / weights.sum())
