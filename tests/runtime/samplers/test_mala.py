"""MALA: one step against the formulas, and what long chains keep."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, SamplerConfig, UsageError
from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.samplers import mala
from ebm_export.runtime.samplers.leapfrog import build_integrator

from .targets import PRECISION, assert_gaussian, assert_gumbel, assert_walled, draw, gaussian, gumbel, slope

X = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)


def log_proposal(to: np.ndarray, frm: np.ndarray, step_size: float, temperature: float, clip: float) -> np.ndarray:
    """log q(to|frm) up to a constant, in float64, straight from the definition."""
    drift = frm - step_size * np.clip(gaussian(frm)[1], -clip, clip)
    return -((to - drift) ** 2).sum(axis=1) / (4 * step_size * temperature)


class TestKernel:
    @pytest.mark.parametrize("clip", [0.4, 1e9])
    def test_proposal_and_ratio_are_those_of_the_definition(self, clip: float) -> None:
        h, temperature = 0.3, 0.7
        noise = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
        state = mala.init(X, gaussian)
        flight = build_integrator(grad_clip=clip)(noise, *state, gaussian, h, temperature)
        x = X.astype(np.float64)
        y = x - h * np.clip(gaussian(x)[1], -clip, clip) + math.sqrt(2 * h * temperature) * noise
        np.testing.assert_allclose(flight.position, y, rtol=1e-5, atol=1e-6)
        log_ratio = (gaussian(x)[0] - gaussian(y)[0]) / temperature
        log_ratio += log_proposal(x, y, h, temperature, clip) - log_proposal(y, x, h, temperature, clip)
        np.testing.assert_allclose(flight.log_ratio, log_ratio, rtol=1e-4, atol=1e-5)

    def test_a_chain_stays_or_goes_to_its_proposal_with_what_was_evaluated_there(self) -> None:
        state, random = mala.init(X, gaussian), ChainRandom(0, range(5), (2,))
        new, info = mala.build_kernel()(random, state, gaussian, 1.0, 1.0)
        assert 0 < info.accepted.sum() < 5
        np.testing.assert_array_equal((new.position == state.position).all(axis=1), ~info.accepted)
        np.testing.assert_array_equal(new.energy, gaussian(new.position)[0])
        np.testing.assert_array_equal(new.grad, gaussian(new.position)[1])

    def test_same_arguments_same_result_and_nothing_given_is_changed(self) -> None:
        state, random = mala.init(X.copy(), gaussian), ChainRandom(0, range(5), (2,))
        kept = [array.copy() for array in state]
        first, _ = mala.build_kernel(0.5, "norm", (-2, 2))(random, state, gaussian, 0.5, 1.0)
        second, _ = mala.build_kernel(0.5, "norm", (-2, 2))(random, state, gaussian, 0.5, 1.0)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
        for array, before in zip(state, kept, strict=True):
            np.testing.assert_array_equal(array, before)

    def test_tiny_steps_are_accepted_and_huge_ones_rejected(self) -> None:
        state, random = mala.init(X, gaussian), ChainRandom(0, range(5), (2,))
        assert mala.build_kernel()(random, state, gaussian, 1e-6, 1.0)[1].acceptance.min() > 0.999
        new, info = mala.build_kernel()(random, state, gaussian, 1e6, 1.0)
        assert info.acceptance.max() == 0
        np.testing.assert_array_equal(new.position, X)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_an_energy_or_gradient_that_is_not_finite_is_rejected(self, value: float) -> None:
        def broken(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            energy, grad = np.zeros(5, np.float32), np.zeros((5, 2), np.float32)
            energy[0] = grad[1, 1] = value
            return energy, grad

        state = mala.State(X, np.zeros(5, np.float32), np.zeros_like(X))
        with np.errstate(invalid="ignore"):
            new, info = mala.build_kernel()(ChainRandom(0, range(5), (2,)), state, broken, 0.1, 1.0)
        assert info.accepted.tolist() == [False, False, True, True, True] and info.not_finite == 2
        np.testing.assert_array_equal(new.position[:2], X[:2])

    def test_each_chain_has_its_own_step_size(self) -> None:
        state, random = mala.init(X, gaussian), ChainRandom(0, range(5), (2,))
        sizes = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
        together, _ = mala.build_kernel()(random, state, gaussian, sizes, 1.0)
        for index, size in enumerate(sizes):
            alone, _ = mala.build_kernel()(random, state, gaussian, size, 1.0)
            np.testing.assert_allclose(together.position[index], alone.position[index], rtol=1e-6)


class TestStationaryMoments:
    """At the end of n independent chains the effective sample size is n; the step is large, where Langevin is biased."""

    @pytest.mark.parametrize("temperature", [1.0, 0.25])
    def test_correlated_gaussian(self, temperature: float) -> None:
        config = SamplerConfig(sampler="mala", steps=150, step_size=0.5, warmup=0, temperature=temperature)
        samples = draw(gaussian, config, (2,), 10_000)
        assert_gaussian(samples, temperature * np.linalg.inv(PRECISION), 10_000)

    def test_skewed(self) -> None:
        config = SamplerConfig(sampler="mala", steps=150, step_size=0.8, warmup=0)
        assert_gumbel(draw(gumbel, config, (1,), 10_000), 10_000)

    def test_clipping_changes_nothing_of_what_is_sampled(self) -> None:
        config = SamplerConfig(sampler="mala", steps=300, step_size=0.8, warmup=0, grad_clip=0.3)
        assert_gumbel(draw(gumbel, config, (1,), 10_000), 10_000)

    def test_walls(self) -> None:
        config = SamplerConfig(sampler="mala", steps=60, step_size=0.3, warmup=0, bounds=(0, 1))
        assert_walled(draw(slope, config, (1,), 20_000, at=0.5), 20_000)

    def test_step_sizes_are_adapted_and_frozen(self) -> None:
        heard = []
        config = SamplerConfig(sampler="mala", steps=200, step_size=100.0, warmup=120, target_accept=0.7)
        samples = draw(gumbel, config, (1,), 5000, callback=lambda now: heard.append((now.warming_up, now.info)))
        after = [info.acceptance.mean() for warming_up, info in heard if info is not None and not warming_up]
        assert len(after) == 80
        # A chain's average of logarithms errs to the side of smaller steps and more acceptance; unadapted it is 0.
        assert 0.65 < np.mean(after) < 0.8
        assert_gumbel(samples, 5000)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"temperature": 0.0}, r"above 0 at every step, got 0: give another temperature \(--temperature T\)"),
            ({"noise": (0.1, 0.0)}, r"above 0 at every step, got 0: set noise=None and a temperature \(--noise none"),
            (
                {"noise": 0.1, "step_size": (0.1, 0.0)},
                r"temperature is noise\^2 / \(2 \* step_size\); got 0: set noise",
            ),
        ],
    )
    def test_no_temperature(self, settings: dict[str, object], message: str) -> None:
        config = SamplerConfig.from_dict({"sampler": "mala", "steps": 3, "step_size": 0.1, **settings})
        with pytest.raises(UsageError, match=message):
            draw(gaussian, config, (2,), 3)

    def test_a_start_that_is_not_finite(self) -> None:
        config = SamplerConfig(sampler="mala", steps=3, step_size=0.1)
        with pytest.raises(DivergenceError, match="3 of 3 chains have an energy, .* not finite at the start"):
            draw(lambda x: (np.full(len(x), np.inf), x), config, (2,), 3)
