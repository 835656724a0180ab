"""HMC: flights against a fine integration, and what long chains keep."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.samplers import hmc
from ebm_export.runtime.samplers.leapfrog import build_integrator

from .targets import PRECISION, assert_gaussian, assert_gumbel, draw, gaussian, gumbel

X = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
P = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)


class TestIntegrator:
    def test_many_small_steps_follow_the_dynamics(self) -> None:
        # x'' = -A x from x with velocity sqrt(T) p, over the time 1 = 100 * sqrt(2 h).
        temperature = 0.5
        values, vectors = np.linalg.eigh(PRECISION)
        rate = np.sqrt(values)
        x, v = X @ vectors, np.sqrt(temperature) * P @ vectors
        expected = (x * np.cos(rate) + v / rate * np.sin(rate)) @ vectors.T
        flight = build_integrator()(P, X, *gaussian(X), gaussian, 0.5e-4, temperature, 100)
        np.testing.assert_allclose(flight.position, expected, atol=1e-3)
        np.testing.assert_allclose(flight.log_ratio, 0, atol=1e-3)

    @pytest.mark.parametrize("bounds", [None, (-0.4, 0.9)])
    def test_a_flight_turned_round_leads_back(self, bounds: tuple[float, float] | None) -> None:
        start = X if bounds is None else np.clip(X, -0.35, 0.85)  # on a wall, rounding decides whether it is met
        integrate = build_integrator(grad_clip=0.6, bounds=bounds)
        there = integrate(P, start, *gaussian(start), gaussian, 0.1, 1.0, 7)
        assert abs(there.position - start).max() > 0.5
        back = integrate(-there.momentum, there.position, *gaussian(there.position), gaussian, 0.1, 1.0, 7)
        np.testing.assert_allclose(back.position, start, atol=1e-5)
        np.testing.assert_allclose(back.momentum, -P, atol=1e-5)
        np.testing.assert_allclose(back.log_ratio, -there.log_ratio, atol=1e-4)

    def test_keeps_volume_between_walls(self) -> None:
        # The determinant of the map (x, p) -> (x', p'), by differences, is 1 up to sign.
        integrate = build_integrator(grad_clip=0.6, bounds=(-0.4, 0.9))
        point = np.array([0.7, 0.1, 0.9, -1.3])
        columns = []
        for index in range(4):
            ends = []
            for side in (1e-3, -1e-3):
                moved = point.copy()
                moved[index] += side
                x, p = moved[None, :2].astype(np.float32), moved[None, 2:].astype(np.float32)
                flight = integrate(p, x, *gaussian(x), gaussian, 0.2, 1.0, 3)
                ends.append(np.concatenate([flight.position[0], flight.momentum[0]]).astype(np.float64))
            columns.append((ends[0] - ends[1]) / 2e-3)
        assert abs(abs(np.linalg.det(np.array(columns))) - 1) < 1e-2


class TestKernel:
    def test_ends_where_the_flight_does_or_stays(self) -> None:
        random, state = ChainRandom(0, range(5), (2,)), hmc.init(X, gaussian)
        flight = build_integrator(0.5)(random.normal(), *state, gaussian, 0.9, 0.7, 4)
        new, info = hmc.build_kernel(0.5, leapfrog=4)(random, state, gaussian, 0.9, 0.7)
        assert 0 < info.accepted.sum() < 5
        np.testing.assert_array_equal(new.position, np.where(info.accepted[:, None], flight.position, X))

    def test_costs_one_evaluation_for_each_leapfrog_step(self) -> None:
        calls = []

        def counted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            calls.append(x)
            return gaussian(x)

        hmc.build_kernel(leapfrog=6)(ChainRandom(0, range(5), (2,)), hmc.init(X, gaussian), counted, 0.1, 1.0)
        assert len(calls) == 6


class TestStationaryMoments:
    """At the end of n independent chains the effective sample size is n."""

    @pytest.mark.parametrize("temperature", [1.0, 0.25])
    def test_correlated_gaussian(self, temperature: float) -> None:
        config = SamplerConfig(sampler="hmc", steps=30, step_size=0.3, leapfrog=4, warmup=0, temperature=temperature)
        assert_gaussian(draw(gaussian, config, (2,), 10_000), temperature * np.linalg.inv(PRECISION), 10_000)

    @pytest.mark.parametrize("warmup", [0, 40])
    def test_skewed(self, warmup: int) -> None:
        config = SamplerConfig(sampler="hmc", steps=80, step_size=0.5, leapfrog=3, warmup=warmup)
        assert_gumbel(draw(gumbel, config, (1,), 10_000), 10_000)

    def test_clipping_and_walls_change_nothing_of_what_is_sampled(self) -> None:
        config = SamplerConfig(
            sampler="hmc", steps=60, step_size=0.2, leapfrog=4, warmup=0, grad_clip=0.5, bounds=(-0.5, 1.5)
        )
        samples = draw(gumbel, config, (1,), 10_000, at=0.5)
        grid = np.linspace(-0.5, 1.5, 20_001)
        weights = np.exp(-gumbel(grid[:, None])[0])
        mean = np.average(grid, weights=weights)
        sd = np.sqrt(np.average((grid - mean) ** 2, weights=weights))
        assert abs(samples.mean() - mean) < 4 * sd / 100
