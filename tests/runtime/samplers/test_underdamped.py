"""BAOAB: one step against the formula, and what long chains keep."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.noise import Stream
from ebm_export.runtime.samplers import underdamped

from .targets import PRECISION, assert_gaussian, assert_gumbel, draw, gaussian, gumbel

X = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)


class TestKernel:
    random = ChainRandom(0, range(5), (2,))

    @pytest.mark.parametrize("clip", [0.5, 1e9])
    def test_one_step_is_the_formula(self, clip: float) -> None:
        h, temperature, friction = 0.08, 0.7, 1.5
        state = underdamped.init(self.random, X, gaussian, temperature)
        new, _ = underdamped.build_kernel(friction, clip)(self.random, state, gaussian, h, temperature)
        e, x = math.sqrt(2 * h), X.astype(np.float64)
        c = math.exp(-friction * e)
        v = math.sqrt(temperature) * self.random.normal(Stream.MOMENTUM)
        v = v - e / 2 * np.clip(gaussian(x)[1], -clip, clip)
        x = x + e / 2 * v
        v = c * v + math.sqrt((1 - c**2) * temperature) * self.random.normal()
        x = x + e / 2 * v
        v = v - e / 2 * np.clip(gaussian(x)[1], -clip, clip)
        np.testing.assert_allclose(new.position, x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(new.velocity, v, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(new.grad, gaussian(new.position)[1])
        np.testing.assert_array_equal(new.energy, gaussian(new.position)[0])

    def test_same_arguments_same_result_and_nothing_given_is_changed(self) -> None:
        state = underdamped.init(self.random, X.copy(), gaussian, 1.0)
        kept = [array.copy() for array in state]
        kernel = underdamped.build_kernel(1.0, 0.5, "norm", (-1, 1), "reflect")
        first, _ = kernel(self.random, state, gaussian, 0.1, 1.0)
        second, _ = kernel(self.random, state, gaussian, 0.1, 1.0)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
        for array, before in zip(state, kept, strict=True):
            np.testing.assert_array_equal(array, before)

    def test_without_friction_and_noise_energy_is_kept(self) -> None:
        state = underdamped.init(self.random, X, gaussian, 1.0)
        kernel = underdamped.build_kernel(0.0)
        total = state.energy + 0.5 * (state.velocity**2).sum(axis=1)
        for _ in range(200):
            state, _ = kernel(self.random, state, gaussian, 0.001, 0.0)
        after = state.energy + 0.5 * (state.velocity**2).sum(axis=1)
        np.testing.assert_allclose(after, total, rtol=0.01)  # the error is of the order of h

    def test_bounds_stop_or_turn_a_velocity(self) -> None:
        def flat(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros(len(x)), np.zeros_like(x)

        state = underdamped.State(np.array([[0.9]], np.float32), *flat(np.zeros((1, 1))), np.ones((1, 1), np.float32))
        random = ChainRandom(0, range(1), (1,))
        stopped, _ = underdamped.build_kernel(0.0, None, "value", (-1, 1))(random, state, flat, 0.02, 0.0)
        assert stopped.position == 1 and stopped.velocity == 0
        turned, _ = underdamped.build_kernel(0.0, None, "value", (-1, 1), "reflect")(random, state, flat, 0.02, 0.0)
        np.testing.assert_allclose([turned.position.item(), turned.velocity.item()], [0.9, -1], rtol=1e-5)


class TestStationaryMoments:
    """At the end of n independent chains the effective sample size is n."""

    @pytest.mark.parametrize("temperature", [1.0, 0.25])
    @pytest.mark.parametrize("friction", [0.5, 5.0])
    def test_correlated_gaussian_has_no_error_of_the_step_size(self, temperature: float, friction: float) -> None:
        config = SamplerConfig(
            sampler="underdamped", steps=300, step_size=0.3, temperature=temperature, friction=friction
        )
        assert_gaussian(draw(gaussian, config, (2,), 10_000), temperature * np.linalg.inv(PRECISION), 10_000)

    def test_skewed(self) -> None:
        h = 0.02
        config = SamplerConfig(sampler="underdamped", steps=400, step_size=h)
        # The error is of the order of h where that of overdamped dynamics at the same speed is larger.
        assert_gumbel(draw(gumbel, config, (1,), 10_000), 10_000, bias=h)

    def test_reflecting_walls(self) -> None:
        # E = 2x on [0, 1]: exp(-2x) has mean 1/2 - 1/(e^2 - 1).
        config = SamplerConfig(
            sampler="underdamped", steps=300, step_size=0.005, friction=3.0, bounds=(0, 1), bounds_mode="reflect"
        )
        samples = draw(lambda x: (2 * x.sum(axis=1), np.full_like(x, 2)), config, (1,), 10_000, at=0.5)
        # The sd of a number in [0, 1] is at most 0.3 here; a step meets the wall at e/2 = 0.05.
        assert abs(samples.mean() - (0.5 - 1 / (math.e**2 - 1))) < 4 * 0.3 / math.sqrt(10_000) + 0.005
