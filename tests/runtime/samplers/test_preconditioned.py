"""Preconditioned Langevin dynamics: the formula, the preconditioner, and what long chains keep."""

from __future__ import annotations

import numpy as np

from ebm_export.runtime import FunctionEngine, SamplerConfig
from ebm_export.runtime.run import run_chains
from ebm_export.runtime.samplers import preconditioned

from .targets import assert_gaussian, assert_gumbel, assert_walled, draw, gaussian, gumbel, slope

X = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
NOISE = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
STIFF = np.array([40.0, 1.0])
"""Curvatures of the stretched target."""


def stretched(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grad = x * STIFF.astype(x.dtype)
    return 0.5 * (x * grad).sum(axis=1), grad


def test_one_step_is_the_formula() -> None:
    precondition = np.random.default_rng(2).uniform(0.2, 3, (5, 2)).astype(np.float32)
    state = preconditioned.init(X, gaussian)._replace(precondition=precondition)
    new, info = preconditioned.build_kernel(0.7, "value", (-1, 1))(NOISE, state, gaussian, 0.1, 0.3)
    moved = X - 0.1 * precondition * np.clip(gaussian(X)[1], -0.7, 0.7) + 0.3 * np.sqrt(precondition) * NOISE
    np.testing.assert_allclose(new.position, np.clip(moved, -1, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(new.grad, gaussian(new.position)[1])
    assert info.clipped > 0 and info.not_finite == 0


def test_a_state_learns_and_settles_without_being_changed() -> None:
    start = preconditioned.init(X, gaussian)
    learned = preconditioned.learn(preconditioned.learn(start))
    np.testing.assert_allclose(learned.squares, 2 * gaussian(X)[1].astype(np.float64) ** 2)
    settled = preconditioned.settle(learned)
    np.testing.assert_allclose(settled.precondition, preconditioned.preconditioner(gaussian(X)[1] ** 2), rtol=1e-5)
    for state in (start, learned):
        np.testing.assert_array_equal(state.precondition, 1)
    np.testing.assert_array_equal(start.squares, 0)


class TestPreconditioner:
    def test_is_one_over_the_mean_square_with_mean_one(self) -> None:
        result = preconditioned.preconditioner(np.array([[4.0, 1.0], [1e6, 1e6]]))
        damped = np.array([4, 1]) + 0.01 * 2.5
        np.testing.assert_allclose(result[0], 2 / damped / (1 / damped).sum(), rtol=1e-6)
        np.testing.assert_allclose(result[1], [1, 1], rtol=1e-6)
        assert result.dtype == np.float32

    def test_a_flat_direction_has_a_limit(self) -> None:
        result = preconditioned.preconditioner(np.array([[1.0, 0.0]]))
        assert 50 < result[0, 1] / result[0, 0] < 500

    def test_numbers_that_stay_are_not_counted(self) -> None:
        squares = np.array([[4.0, 0.0, 1.0, 0.0]])
        result = preconditioned.preconditioner(squares, np.array([[1, 0, 1, 0]], np.float32))
        np.testing.assert_allclose(result[:, [0, 2]], preconditioned.preconditioner(squares[:, [0, 2]]), rtol=1e-6)
        np.testing.assert_array_equal(result[:, [1, 3]], 1)

    def test_no_gradient_at_all(self) -> None:
        np.testing.assert_array_equal(preconditioned.preconditioner(np.zeros((2, 3))), np.ones((2, 3)))


class TestStationaryMoments:
    """At the end of n independent chains the effective sample size is n."""

    n = 5000

    def test_a_stretched_gaussian(self) -> None:
        # Preconditioned, both directions have nearly the same curvature: the harmonic mean, about 2. The relative error of
        # the variance is h times that over 2 = 0.02, more where a chain's own estimate of the preconditioner is off.
        h, start = 0.02, 8.0
        config = SamplerConfig(sampler="preconditioned", steps=400, step_size=h, warmup=200)
        samples = draw(stretched, config, (2,), self.n, at=start)
        assert abs(samples[:, 1].mean()) < 4 / np.sqrt(self.n) + start * (1 - h) ** 200 * (1 - 1.5 * h) ** 200
        noise = 4 * np.sqrt(2 / self.n)
        variance = samples.var(axis=0) * STIFF
        assert (variance > 1 - noise).all() and (variance < 1.15 + noise).all()
        plain = draw(stretched, config.replace(sampler="langevin", steps=201, warmup=None), (2,), 100, at=start)
        assert abs(plain[:, 1].mean() - start * (1 - h) ** 201) < 4 / np.sqrt(100)

    def test_numbers_that_stay_do_not_slow_down_the_others(self) -> None:
        # 30 numbers stay and two move, whose chain is then the one in two dimensions, number by number.
        config = SamplerConfig(sampler="preconditioned", steps=40, step_size=0.02, warmup=20)

        def padded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            energy, grad = stretched(x[:, :2])
            return energy, np.concatenate([grad, x[:, 2:]], axis=1)

        mask = (np.arange(32) < 2).astype(np.float32)[None]

        def start(chains: range) -> np.ndarray:
            return np.full((len(chains), 32), 8, np.float32)

        samples = run_chains(FunctionEngine(padded), config, start, 500, free=mask)
        alone = draw(stretched, config, (2,), 500, at=8.0)
        assert abs(samples[:, 1].mean() - alone[:, 1].mean()) < 4 * np.sqrt(2 / 500)

    def test_isotropic_gaussian(self) -> None:
        h = 0.1
        config = SamplerConfig(sampler="preconditioned", steps=300, step_size=h, warmup=100, temperature=0.5)
        samples = draw(lambda x: (0.5 * (x**2).sum(axis=1), x), config, (2,), self.n)
        # P has mean 1, and a chain whose P_i is p has variance T / (1 - h p / 2), p between 0 and 2.
        assert_gaussian(samples, 0.5 / (1 - h / 2) * np.eye(2), self.n)

    def test_skewed_with_unequal_scales(self) -> None:
        # s_i x_i is a Gumbel number. The gradient's mean square is s_i^2, so a step of s_i x_i is h times the harmonic mean of
        # s^2, 0.6, in every direction, up to the damping and to what a chain's own estimate is off by.
        h, n = 0.015, 3000
        scales = np.array([4.0, 1.0, 0.5])

        def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, grad = gumbel(x * scales.astype(x.dtype))
            return value, grad * scales.astype(x.dtype)

        config = SamplerConfig(sampler="preconditioned", steps=1600, step_size=h, warmup=800)
        samples = draw(energy, config, (3,), n) * scales
        for numbers in samples.T:
            assert_gumbel(numbers, n, bias=2 * h)

    def test_skewed_without_a_preconditioner(self) -> None:
        # With a single number it is 1, and the error that of plain Langevin dynamics.
        h = 0.02
        config = SamplerConfig(sampler="preconditioned", steps=800, step_size=h)
        assert_gumbel(draw(gumbel, config, (1,), self.n), self.n, bias=h)

    def test_reflecting_walls(self) -> None:
        # The flat direction takes steps of nearly 2 h, and the fold shifts a mean as in plain Langevin dynamics.
        h, n = 0.005, 10_000
        config = SamplerConfig(
            sampler="preconditioned", steps=420, step_size=h, warmup=20, bounds=(0, 1), bounds_mode="reflect"
        )
        assert_walled(draw(slope, config, (2,), n, at=0.5), n, bias=4 * h)
