"""The Langevin kernel: one step against the formula, and what long chains converge to."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from ebm_export.runtime import FunctionEngine, SamplerConfig
from ebm_export.runtime.run import run_chains
from ebm_export.runtime.samplers import langevin

from . import targets
from .targets import assert_walled, slope

ORDERS: list[langevin.Order] = ["drift-noise", "noise-drift"]
PRECISION = np.array([[2.0, 0.8], [0.8, 1.0]])
"""Inverse covariance of the Gaussian target."""


def gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grad = x @ PRECISION.astype(x.dtype)
    return 0.5 * (x * grad).sum(axis=1), grad


def gumbel(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E = x + exp(-x): skewed to the right, mean Euler's constant at T = 1."""
    return (x + np.exp(-x)).sum(axis=1), 1 - np.exp(-x)


def draw(
    energy: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], config: SamplerConfig, shape: tuple[int, ...], n: int
) -> np.ndarray:
    def start(chains: range) -> np.ndarray:
        return np.zeros((len(chains), *shape), np.float32)

    with FunctionEngine(energy) as engine:
        return run_chains(engine, config, start, n, seed=1)


class TestInit:
    def test_drift_noise_evaluates_at_the_start(self) -> None:
        x = np.array([[1, 2]], np.float32)
        state = langevin.init(x, gaussian)
        np.testing.assert_array_equal(state.grad, gaussian(x)[1])
        np.testing.assert_array_equal(state.energy, gaussian(x)[0])

    def test_noise_drift_evaluates_nothing(self) -> None:
        def never(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            raise AssertionError

        state = langevin.init(np.ones((2, 3), np.float32), never, "noise-drift")
        assert np.isnan(state.energy).all() and state.energy.shape == (2,)
        assert np.isnan(state.grad).all() and state.grad.shape == (2, 3)


class TestKernel:
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)

    def test_drift_noise_is_the_formula_and_holds_the_gradient_at_the_new_point(self) -> None:
        kernel = langevin.build_kernel("drift-noise", grad_clip=0.7, bounds=(-1, 1))
        state, _ = kernel(self.noise, langevin.init(self.x, gaussian), gaussian, 0.1, 0.3)
        grad = np.clip(gaussian(self.x)[1], -0.7, 0.7)
        expected = np.clip(self.x - 0.1 * grad + 0.3 * self.noise, -1, 1)
        np.testing.assert_allclose(state.position, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(state.grad, gaussian(state.position)[1])
        np.testing.assert_array_equal(state.energy, gaussian(state.position)[0])

    def test_noise_drift_is_the_formula_and_holds_the_gradient_at_the_noised_point(self) -> None:
        kernel = langevin.build_kernel("noise-drift", grad_clip=0.7, bounds=(-1, 1))
        state, _ = kernel(self.noise, langevin.init(self.x, gaussian, "noise-drift"), gaussian, 0.1, 0.3)
        noised = np.clip(self.x + 0.3 * self.noise, -1, 1)
        expected = np.clip(noised - 0.1 * np.clip(gaussian(noised)[1], -0.7, 0.7), -1, 1)
        np.testing.assert_allclose(state.position, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.grad, gaussian(noised)[1], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("mode", ["value", "norm"])
    def test_same_arguments_same_result_and_nothing_given_is_changed(self, order: langevin.Order, mode: str) -> None:
        kernel = langevin.build_kernel(order, 0.5, mode, (-2, 2))  # type: ignore[arg-type]
        state = langevin.init(self.x.copy(), gaussian, order)
        noise, grad = self.noise.copy(), state.grad.copy()
        first, _ = kernel(noise, state, gaussian, 0.1, 0.3)
        buffers = langevin.Buffers(np.empty_like(self.x), np.empty_like(self.x))
        second, _ = kernel(noise, state, gaussian, 0.1, 0.3, buffers)
        np.testing.assert_array_equal(first.position, second.position)
        assert second.position is buffers.position
        np.testing.assert_array_equal(noise, self.noise)
        np.testing.assert_array_equal(state.position, self.x)
        np.testing.assert_array_equal(state.grad, grad)

    @pytest.mark.parametrize("order", ORDERS)
    def test_a_step_of_zero_stays_where_it_is(self, order: langevin.Order) -> None:
        state, info = langevin.build_kernel(order)(
            self.noise, langevin.init(self.x, gaussian, order), gaussian, 0.0, 0.0
        )
        np.testing.assert_array_equal(state.position, self.x)
        assert info == langevin.Info(clipped=0, not_finite=0)

    @pytest.mark.parametrize("order", ORDERS)
    def test_a_step_costs_one_evaluation(self, order: langevin.Order) -> None:
        calls = []

        def counted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            calls.append(x)
            return gaussian(x)

        state = langevin.init(self.x, gaussian, order)
        langevin.build_kernel(order)(self.noise, state, counted, 0.1, 0.1)
        assert len(calls) == 1

    @pytest.mark.parametrize("order", ORDERS)
    def test_info_counts_chains(self, order: langevin.Order) -> None:
        def partly_broken(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            energy, grad = np.zeros(5, np.float32), np.full((5, 2), 0.1, np.float32)
            energy[0] = np.inf
            grad[1, 0] = np.nan
            grad[2] = 5
            return energy, grad

        state = langevin.init(self.x, partly_broken, order)
        _, info = langevin.build_kernel(order, grad_clip=1.0)(self.noise, state, partly_broken, 0.1, 0.1)
        assert info == langevin.Info(clipped=1, not_finite=2)


class TestStationaryMoments:
    """Chains are independent of each other, so the effective sample size is the number of chains.

    Tolerances are 4 standard errors: 4 * sd / sqrt(n) for a mean, and for a covariance of Gaussians
    4 * sqrt((S_ii S_jj + S_ij^2) / n).
    """

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("temperature", [1.0, 0.25])
    def test_correlated_gaussian(self, order: langevin.Order, temperature: float) -> None:
        # With A the precision and M = I - h A the chain is linear, so its covariance S is known with the error of the
        # step size included: S = M S M + 2 h T I after the noise, which the order "noise-drift" then maps to M S M.
        h, n = 0.3, 20_000
        moved = np.eye(2) - h * PRECISION
        expected = 2 * h * temperature * np.linalg.inv(np.eye(2) - moved @ moved)
        if order == "noise-drift":
            expected = moved @ expected @ moved
        config = SamplerConfig(steps=80, step_size=h, temperature=temperature, order=order)
        samples = draw(gaussian, config, (2,), n).astype(np.float64)
        spread = np.diag(expected)
        assert (abs(samples.mean(axis=0)) < 4 * np.sqrt(spread / n)).all()
        error = 4 * np.sqrt((np.outer(spread, spread) + expected**2) / n)
        assert (abs(np.cov(samples.T) - expected) < error).all()

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize(
        ("temperature", "mean", "variance"),
        [
            (1.0, 0.5772156649, math.pi**2 / 6),
            # exp(-x) is then chi-squared with one degree of freedom, whose logarithm has mean digamma(1/2) + log 2.
            (2.0, 1.2703628455, math.pi**2 / 2),
        ],
    )
    def test_skewed(self, order: langevin.Order, temperature: float, mean: float, variance: float) -> None:
        h, n = 0.02, 10_000
        config = SamplerConfig(steps=2000, step_size=h, temperature=temperature, order=order)
        samples = draw(gumbel, config, (1,), n).astype(np.float64)
        # The step size shifts the moments by an amount of the order of h: the gradient changes by up to a few units.
        assert abs(samples.mean() - mean) < 4 * math.sqrt(variance / n) + h
        # The fourth central moment of these targets is at most 5.4 variances squared.
        assert abs(samples.var() - variance) < 4 * variance * math.sqrt(4.4 / n) + 2 * h * variance
        assert ((samples - samples.mean()) ** 3).mean() > 0

    @pytest.mark.parametrize("order", ORDERS)
    def test_reflecting_walls(self, order: langevin.Order) -> None:
        h, n = 0.005, 10_000
        config = SamplerConfig(steps=200, step_size=h, order=order, bounds=(0, 1), bounds_mode="reflect")
        # The drift's part of a step is folded as well: measured with steps of 0.001 to 0.02, that shifts a mean by 0.7 to 1.2 h.
        assert_walled(targets.draw(slope, config, (1,), n, at=0.5), n, bias=2 * h)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)])
def test_counts_the_samples_that_are_not_finite(shape: tuple[int, ...]) -> None:
    energy, grad = np.ones(4, np.float32), np.ones(shape, np.float32)
    assert langevin.count_not_finite(energy, grad) == 0
    grad[1] = 3e38  # whose square is infinite in float32, and which is finite
    assert langevin.count_not_finite(-energy * np.float32(3e38), grad) == 0
    energy[0] = np.nan
    grad[2:3] = -np.inf
    assert langevin.count_not_finite(energy, grad) == 2
