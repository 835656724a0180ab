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


def slope(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E = 2 x_0 + 6 x_1 + .., for x [B, 1] or [B, 2] between walls at 0 and 1."""
    slopes = SLOPES[: x.shape[1]].astype(x.dtype)
    return x @ slopes, np.broadcast_to(slopes, x.shape).copy()


SLOPES = np.array([2.0, 6.0])


def assert_walled(samples: np.ndarray, ess: float, bias: float = 0.0) -> None:
    """Checks mean and second moment of `slope` on [0, 1] at T = 1, and that no number is outside.

    exp(-a x) on [0, 1] has mean 1/a - 1/(e^a - 1) and second moment 2/a^2 - (1 + 2/a)/(e^a - 1). Numbers that stop at a wall, and do not
    come back, are those of another density.
    """
    slopes = SLOPES[: samples.shape[1]]
    mean = 1 / slopes - 1 / np.expm1(slopes)
    second = 2 / slopes**2 - (1 + 2 / slopes) / np.expm1(slopes)
    assert (abs(samples.mean(axis=0) - mean) < 4 * np.sqrt((second - mean**2) / ess) + bias).all()
    # The sd of x^2 on [0, 1] is below 0.3 here.
    assert (abs((samples**2).mean(axis=0) - second) < 4 * 0.3 / math.sqrt(ess) + bias).all()
    assert samples.min() >= 0 and samples.max() <= 1


def split_normal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E = x^2 / (2 s^2) with s = 0.5 left of 0 and 2 right of it: skewed, and no steeper where it is hot."""
    stiff = np.where(x < 0, 1 / LEFT**2, 1 / RIGHT**2).astype(x.dtype)
    return (0.5 * stiff * x * x).sum(axis=1), stiff * x


LEFT, RIGHT = 0.5, 2.0


def assert_split_normal(samples: np.ndarray, temperature: float, ess: float, bias: float = 0.0) -> None:
    """Checks mean, variance and skew, all to 4 standard errors plus a relative bias of the sampler's own.

    Left and right have the masses LEFT and RIGHT up to a factor, so the mean is sqrt(2 T / pi) (RIGHT - LEFT), and the second moment
    T (LEFT^3 + RIGHT^3) / (LEFT + RIGHT). The excess kurtosis is that of half a normal distribution at most, 0.87.
    """
    mean = math.sqrt(2 * temperature / math.pi) * (RIGHT - LEFT)
    variance = temperature * (LEFT**3 + RIGHT**3) / (LEFT + RIGHT) - mean**2
    sd = math.sqrt(variance)
    assert abs(samples.mean() - mean) < 4 * sd / math.sqrt(ess) + bias * sd
    assert abs(samples.var() / variance - 1) < 4 * math.sqrt(2.87 / ess) + bias
    assert ((samples - samples.mean()) ** 3).mean() > 0.5 * sd**3


def two_modes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E = 1.5 (x^2 - 1)^2 + 0.4 x in each number: the left mode is the heavier one."""
    square = x**2 - 1
    return (1.5 * square**2 + 0.4 * x).sum(axis=1), 6 * square * x + 0.4


def left_mass(depth: float = 1.0) -> float:
    """Share of exp(-depth * E) of `two_modes` that lies left of 0, by summing over a fine grid."""
    grid = np.linspace(-4, 4, 80_001)[:, None]
    weights = np.exp(-depth * two_modes(grid)[0])
    return float(weights[grid[:, 0] < 0].sum() / weights.sum())
