"""Bounds of log Z, and so of log-likelihoods, by annealed importance sampling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.errors import UsageError
from .check import as_numbers, as_rows
from .scientific import logsumexp

__all__ = ["GaussianBase", "LogPartition", "UniformBase", "log_partition_bounds"]

Score = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From [C, *S] to energy [C] and dE/dx [C, *S]; `Ebm.score` is one."""

_ACCEPTED = 0.65
"""Share of proposals that step sizes are tuned to: best for HMC (Beskos et al., Bernoulli 2013), near MALA's 0.57."""


@dataclass(frozen=True)
class GaussianBase:
    """Where annealing starts: N(mean, deviation^2 I)."""

    mean: float = 0.0
    deviation: float = 1.0

    def sample(self, rng: np.random.Generator, count: int, width: int) -> np.ndarray:
        """Draws [count, width] float64."""
        return self.mean + self.deviation * rng.standard_normal((count, width))

    def log_density(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the log density [C] and its gradient [C, D]."""
        moved = (x - self.mean) / self.deviation
        constant = x.shape[1] * (math.log(self.deviation) + 0.5 * math.log(2.0 * math.pi))
        return -0.5 * np.square(moved).sum(axis=1) - constant, -moved / self.deviation


@dataclass(frozen=True)
class UniformBase:
    """Where annealing starts: uniform over a box, outside of which the model has no mass either."""

    low: float
    high: float

    def sample(self, rng: np.random.Generator, count: int, width: int) -> np.ndarray:
        """Draws [count, width] float64."""
        return rng.uniform(self.low, self.high, (count, width))

    def log_density(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the log density [C], minus infinity outside of the box, and its gradient [C, D]."""
        inside = ((x >= self.low) & (x <= self.high)).all(axis=1)
        return np.where(inside, -x.shape[1] * math.log(self.high - self.low), -np.inf), np.zeros_like(x)


@dataclass(frozen=True)
class LogPartition:
    """Bounds of log Z, Z = integral of exp(-E(x) / T)."""

    lower: float
    """log of the mean weight of chains from the base to the model; in the mean not above log Z."""
    lower_error: float
    """Its standard error, by the jackknife over chains."""
    upper: float | None
    """The same of chains from the model's samples to the base; in the mean not below log Z. None without samples."""
    upper_error: float | None
    """Its standard error."""
    accepted: float
    """Share of the proposals from the base to the model that were accepted, 0 to 1."""

    def log_likelihood(self, energies: Any, temperature: float = 1.0) -> tuple[float | None, float]:
        """Returns a lower and an upper bound of the mean log p(x) = -E(x) / T - log Z, in nats.

        Args:
            energies: [N] energies of the data.
            temperature: T that log Z was found at.

        Returns:
            (lower, None without `upper`; upper).

        Raises:
            UsageError: another shape, or an energy that is not finite.
        """
        mean = -float(as_numbers("energies", energies).mean()) / temperature
        return None if self.upper is None else mean - self.upper, mean - self.lower


def log_partition_bounds(
    score: Score,
    shape: tuple[int, ...],
    base: GaussianBase | UniformBase,
    *,
    samples: Any | None = None,
    temperature: float = 1.0,
    temperatures: int = 200,
    chains: int = 64,
    leapfrog: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LogPartition:
    """Brackets log Z by annealing forth and back (Neal 2001; Burda, Grosse and Salakhutdinov, AISTATS 2015).

    Between the base b and the model stand p_t(x) proportional to b(x)^(1 - t) exp(-t E(x) / T), t from 0 to 1 along a
    sigmoid, slow at both ends. A chain from b goes through all of them, at each t one HMC transition that keeps p_t, and
    gathers

        log w = sum over t of (t' - t) (-E(x_t) / T - log b(x_t)),    log Z >= E[log mean w].

    From the model's own samples back to the base the same sum gives log Z <= -E[log mean (1/w)]. That holds
    for exact samples; where a sampler's output stands in for them, the upper end is as good as the sampler. The gap says
    how far to trust either; more temperatures narrow it.

    Step sizes are tuned in a run of their own for each t and then fixed, so that every transition keeps p_t exactly. An
    energy that is not finite means a rejected proposal.

    Args:
        score: energy and gradient, asked (leapfrog + 1) times per temperature.
        shape: S, of one state.
        base: where annealing starts; a Gaussian as wide as the data, or uniform over the sampler's bounds.
        samples: [N, *S] samples of the model for the way back; None leaves it out.
        temperature: T, above 0.
        temperatures: steps between base and model, at least 2.
        chains: chains each way, at least 2; the way back uses as many of the samples at most.
        leapfrog: leapfrog steps of a transition, at least 1; 1 is MALA.
        seed: same seed, same bounds.
        progress: called with (temperatures passed, in all), of the tuning and both ways together.

    Returns:
        The bounds with their errors, in nats.

    Raises:
        UsageError: an argument is out of range, or samples lie where the base has no mass.
    """
    for name, value, least in (("temperatures", temperatures, 2), ("chains", chains, 2), ("leapfrog", leapfrog, 1)):
        if value < least:
            raise UsageError(f"{name}: expected at least {least}, got {value}")
    if not temperature > 0.0:
        raise UsageError(f"temperature: expected a number above 0, got {temperature!r}")
    width = math.prod(shape)
    ramp = 1.0 / (1.0 + np.exp(-np.linspace(-4.0, 4.0, temperatures + 1)))
    path = (ramp - ramp[0]) / (ramp[-1] - ramp[0])
    total = temperatures * (2 if samples is None else 3)
    passed = itertools.count(1)

    def tell() -> None:
        if progress is not None:
            progress(next(passed), total)

    annealed = _Annealed(score, shape, base, temperature, leapfrog, tell)
    rng = np.random.default_rng(seed)

    steps = np.empty(temperatures + 1)
    few = base.sample(rng, min(chains, 16), width)
    annealed.run(few, path, np.full(temperatures + 1, width**-0.25), rng, tuned=steps)
    weights, accepted = annealed.run(base.sample(rng, chains, width), path, steps, rng)
    lower, lower_error = _log_mean(weights)
    if samples is None:
        return LogPartition(lower, lower_error, None, None, accepted)

    rows = as_rows("samples", samples, 2)
    if rows.shape[1] != width:
        raise UsageError(f"samples: expected {width} numbers per sample, shape {list(shape)}, got {rows.shape[1]}")
    if not np.isfinite(base.log_density(rows)[0]).all():
        raise UsageError(f"samples: expected all of them where the base has mass, {base}; widen the base")
    picked = rows[rng.permutation(len(rows))[:chains]]
    weights, _ = annealed.run(picked, path[::-1], steps[::-1], rng)
    inverse, upper_error = _log_mean(weights)
    return LogPartition(lower, lower_error, -inverse, upper_error, accepted)


@dataclass(frozen=True)
class _Annealed:
    """Chains over the densities between base and model."""

    score: Score
    shape: tuple[int, ...]
    base: GaussianBase | UniformBase
    temperature: float
    leapfrog: int
    tell: Callable[[], None]  # at each temperature

    def run(
        self,
        x: np.ndarray,
        path: np.ndarray,
        steps: np.ndarray,
        rng: np.random.Generator,
        tuned: np.ndarray | None = None,
    ) -> tuple[np.ndarray, float]:
        """Takes chains along the path.

        Args:
            x: [C, D] float64, samples of the density at path[0].
            path: [K] values of t.
            steps: [K], leapfrog step at each; for tuning the first one counts.
            rng: of momenta and acceptances.
            tuned: [K], where step sizes that were found on the way are written; None keeps `steps`.

        Returns:
            log weights [C] and the share of accepted proposals.
        """
        parts = self._parts(x)
        weights = np.zeros(len(x))
        accepted = 0.0
        step = float(steps[0])
        for index, (now, then) in enumerate(itertools.pairwise(path)):
            weights += (then - now) * (parts.energy - parts.base)
            step = float(steps[index + 1]) if tuned is None else step
            # While step sizes are looked for, several transitions at each t let them settle.
            for _ in range(1 if tuned is None else 3):
                parts, share = self._transition(parts, float(then), step, rng)
                if tuned is not None:
                    step *= 1.1 if share > _ACCEPTED else 1.0 / 1.1
            if tuned is not None:
                tuned[index + 1] = step
                tuned[0] = tuned[1]  # the way back ends there and takes no step
            accepted += share
            self.tell()
        return weights, accepted / (len(path) - 1)

    def _transition(self, now: _Parts, t: float, step: float, rng: np.random.Generator) -> tuple[_Parts, float]:
        """Moves all chains by one HMC transition that keeps p_t; returns them and the share that moved."""
        momentum = rng.standard_normal(now.x.shape)
        kinetic = 0.5 * np.square(momentum).sum(axis=1)
        then = now
        # A proposal that overflows is rejected below; its warnings would only repeat that.
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(self.leapfrog):
                momentum = momentum + 0.5 * step * then.slope(t)
                then = self._parts(then.x + step * momentum)
                momentum = momentum + 0.5 * step * then.slope(t)
            change = then.log_density(t) - now.log_density(t) + kinetic - 0.5 * np.square(momentum).sum(axis=1)
        moved = np.log(rng.random(len(now.x))) < np.where(np.isfinite(change), change, -np.inf)
        return now.replaced(then, moved), float(moved.mean())

    def _parts(self, x: np.ndarray) -> _Parts:
        energy, grad = self.score(x.astype(np.float32).reshape(len(x), *self.shape))
        base, base_grad = self.base.log_density(x)
        return _Parts(
            x,
            -np.asarray(energy, np.float64) / self.temperature,
            -np.asarray(grad, np.float64).reshape(x.shape) / self.temperature,
            base,
            base_grad,
        )


@dataclass(frozen=True)
class _Parts:
    """Chains with the log densities of both ends, unnormalised for the model."""

    x: np.ndarray  # [C, D]
    energy: np.ndarray  # [C], -E / T
    grad: np.ndarray  # [C, D]
    base: np.ndarray  # [C]
    base_grad: np.ndarray  # [C, D]

    def log_density(self, t: float) -> np.ndarray:
        # Outside of a uniform base nothing has mass, also at t = 1 where the base has no weight.
        return np.where(np.isfinite(self.base), (1.0 - t) * self.base + t * self.energy, -np.inf)

    def slope(self, t: float) -> np.ndarray:
        return (1.0 - t) * self.base_grad + t * self.grad

    def replaced(self, other: _Parts, where: np.ndarray) -> _Parts:
        column = where[:, None]
        return _Parts(
            np.where(column, other.x, self.x),
            np.where(where, other.energy, self.energy),
            np.where(column, other.grad, self.grad),
            np.where(where, other.base, self.base),
            np.where(column, other.base_grad, self.base_grad),
        )


def _log_mean(weights: np.ndarray) -> tuple[float, float]:
    """Returns log mean exp of [C] log weights and its jackknife error."""
    n = len(weights)
    total = logsumexp(weights)
    rest = np.clip(1.0 - np.exp(weights - total), 1e-12, None)  # share of all other chains
    without = total + np.log(rest) - math.log(n - 1)
    error = math.sqrt((n - 1) / n * float(np.square(without - without.mean()).sum()))
    return float(total) - math.log(n), error
