"""Exact sampling: a coarse energy is visibly wrong, and its blocks of steps, corrected, are not."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.acceptance import AcceptanceMeter
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.run import run_chains

from .targets import PRECISION, assert_gaussian, assert_gumbel, draw, gaussian, gumbel, left_mass, two_modes

STEP = 0.25
"""Of the coarse energy's numbers."""


def coarse_two_modes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same from weights and activations that were rounded to a coarse grid: the tilt becomes 0.75, energies jump."""
    tilt, depth = 0.75, 1.5
    square = np.round((x**2 - 1) / STEP) * STEP
    energy = np.round((depth * square**2 + tilt * x) / 0.1) * 0.1
    return energy.sum(axis=1), np.round((4 * depth * square * x + tilt) / STEP) * STEP


def coarse_gumbel(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    energy, grad = gumbel(x)
    return np.round(energy * 4) / 4 + 0.3 * x.sum(axis=1), np.round(grad * 4) / 4 + 0.3


def coarse_gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision = np.round(PRECISION)  # [[2, 1], [1, 1]]: a covariance of [[1, -1], [-1, 2]]
    grad = x @ precision.astype(x.dtype)
    return 0.5 * (x * grad).sum(axis=1), grad


class TestStationarity:
    n = 8000

    def mass(self, exact: bool, block: int) -> tuple[float, AcceptanceMeter]:
        meter = AcceptanceMeter()
        config = SamplerConfig(steps=600, step_size=0.1, warmup=100, block=block)
        settings = config if exact else config.replace(sampler="mala")
        samples = draw(
            coarse_two_modes, settings, (1,), self.n, exact=two_modes if exact else None, callback=meter, at=1.0
        )
        return float((samples < 0).mean()), meter

    def test_the_coarse_chain_is_visibly_biased(self) -> None:
        assert 0.65 < left_mass() < 0.75
        mass, meter = self.mass(exact=False, block=1)
        assert abs(mass - left_mass()) > 0.1  # twenty standard errors
        assert meter.block_acceptance is None

    @pytest.mark.parametrize("block", [1, 5, 20])
    def test_corrected_blocks_have_the_right_mode_weights(self, block: int) -> None:
        mass, meter = self.mass(exact=True, block=block)
        # 600 steps cross between the modes often enough that chains are independent of their start: ESS = n.
        assert abs(mass - left_mass()) < 4 * np.sqrt(left_mass() * (1 - left_mass()) / self.n)
        assert meter.acceptance is not None and meter.block_acceptance is not None
        assert 0.3 < meter.acceptance < 0.95 and 0.6 < meter.block_acceptance < 1

    def test_skewed(self) -> None:
        config = SamplerConfig(steps=300, step_size=0.3, warmup=60, block=4)
        assert_gumbel(draw(coarse_gumbel, config, (1,), self.n, exact=gumbel), self.n)
        with pytest.raises(AssertionError):
            assert_gumbel(draw(coarse_gumbel, config.replace(sampler="mala"), (1,), self.n), self.n)

    def test_correlated_gaussian_at_the_temperature_that_the_noise_implies(self) -> None:
        config = SamplerConfig(steps=300, step_size=0.2, noise=0.2, warmup=60, block=4)  # T = 0.1
        samples = draw(coarse_gaussian, config, (2,), self.n, exact=gaussian)
        assert_gaussian(samples, 0.1 * np.linalg.inv(PRECISION), self.n)

    def test_an_energy_that_is_off_by_a_constant_loses_no_block(self) -> None:
        meter = AcceptanceMeter()
        config = SamplerConfig(steps=20, step_size=0.2, warmup=5, block=5)
        draw(lambda x: (gaussian(x)[0] + 8, gaussian(x)[1]), config, (2,), 10, exact=gaussian, callback=meter)
        assert meter.block_acceptance == pytest.approx(1, abs=1e-5)


class Recorder(FunctionEngine):
    """Keeps the scale of every call."""

    def __init__(self) -> None:
        super().__init__(gaussian)
        self.scales: list[np.ndarray] = []

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.scales.append(inputs["grad_scale"].copy())
        return super().run(inputs)


def ones(chains: range) -> np.ndarray:
    return np.ones((len(chains), 2), np.float32)


class TestCost:
    def test_the_warm_up_does_not_ask_the_exact_engine(self) -> None:
        high, heard = Recorder(), []
        config = SamplerConfig(steps=12, step_size=0.1, block=4, warmup=4)
        run_chains(Recorder(), config, ones, 3, exact=high, callback=lambda now: heard.append((now.done, now.state)))
        assert [done for done, _ in heard] == [0, 1, 2, 3, 4, 8, 12]
        assert [bool(np.isnan(state.energy).all()) for _, state in heard] == [False, *[True] * 4, False, False]
        assert len(high.scales) == 1 + 1 + 2  # the start, the end of the warm-up, two blocks

    def test_one_exact_evaluation_for_each_block_and_one_at_the_start(self) -> None:
        low, high = Recorder(), Recorder()
        done = []
        config = SamplerConfig(steps=12, step_size=0.1, block=5, warmup=0)
        run_chains(low, config, ones, 3, exact=high, callback=lambda now: done.append(now.done))
        assert done == [0, 5, 10, 12]  # the last block is what is left
        assert len(high.scales) == 2 + 3
        assert len(low.scales) == 2 + 1 + 12  # the start twice, again with the frozen scale, and the steps

    def test_the_scale_is_frozen_after_the_warm_up(self) -> None:
        low = Recorder()
        run_chains(low, SamplerConfig(steps=40, step_size=0.3, block=4, warmup=18), ones, 3, exact=Recorder())
        warm, frozen = np.array(low.scales[:20]), np.array(low.scales[20:])  # the start takes two calls
        assert len(frozen) == 1 + 22
        assert len(np.unique(warm, axis=0)) > 10
        assert len(np.unique(frozen, axis=0)) == 1


class TestRefusals:
    MODEL = ModelSpec("gaussian", TensorSpec("x", (2,), "float32"))

    def ebm(self, **settings: object) -> Ebm:
        config = SamplerConfig.from_dict({"steps": 8, "step_size": 0.1, **settings})
        return Ebm(FunctionEngine(coarse_gaussian), self.MODEL, config, exact=FunctionEngine(gaussian))

    def test_a_temperature_that_changes(self) -> None:
        with pytest.raises(UsageError, match="one temperature for all steps, and temperature goes from 2 to 1: set"):
            self.ebm(temperature=(2, 1)).sample(3)
        with pytest.raises(
            UsageError,
            match=r"noise\^2 / \(2 \* step_size\) goes from 0.05 to 0.1: set noise=None and a temperature \(--noise none --temperature T\)",
        ):
            self.ebm(noise=0.1, step_size=(0.1, 0.05)).sample(3)
        with pytest.raises(UsageError, match="temperature goes from 8e-09 to 4e-09"):  # as cold as published samplers
            self.ebm(temperature=(8e-9, 4e-9)).sample(3)

    def test_cold_schedules_at_one_temperature_are_fine(self) -> None:
        samples = self.ebm(noise=(0.2, 0.1), step_size=(0.2, 0.05), steps=2).sample(3)
        assert samples.shape == (3, 2)

    def test_settings_of_one_call_that_would_have_no_effect(self) -> None:
        with pytest.raises(UsageError, match="order has no effect on exact sampling, only on langevin: leave it out"):
            self.ebm().sample(3, order="noise-drift")
        with pytest.raises(UsageError, match=r"temperature=1.0 has no effect while noise=0.1 is set"):
            self.ebm(noise=0.1).sample(3, temperature=1.0)
        self.ebm(noise=0.1).sample(3, temperature=1.0, noise=None)
        self.ebm(order="noise-drift").sample(3)  # what the bundle says is for its own sampler

    def test_block_without_an_exact_engine(self) -> None:
        with pytest.raises(
            UsageError, match="block has no effect on the sampler 'mala', only on exact sampling: leave it out"
        ):
            Ebm(FunctionEngine(gaussian), self.MODEL).sample(2, sampler="mala", block=3)

    @pytest.mark.parametrize("broken", ["surrogate", "exact"])
    def test_a_start_that_is_not_finite(self, broken: str) -> None:
        def nan(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(x), np.nan), np.zeros_like(x)

        config = SamplerConfig(steps=4, step_size=0.1)
        energies = (nan, gaussian) if broken == "surrogate" else (gaussian, nan)
        with pytest.raises(DivergenceError, match="3 of 3 chains .* at the start"):
            draw(energies[0], config, (2,), 3, exact=energies[1])

    def test_scores_with_the_exact_engine(self) -> None:
        x = np.ones((1, 2), np.float32)
        np.testing.assert_allclose(self.ebm().score(x)[0], gaussian(x)[0])
