"""Dual averaging on a chain whose acceptance is a known function of its step size."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.progress import Progress
from ebm_export.runtime.step_adaptation import StepAdaptation
from ebm_export.runtime.warm_up import WarmUp


@pytest.mark.parametrize("right", [1e-4, 1.0, 300.0])
def test_finds_the_step_size_of_the_target(right: float) -> None:
    adaptation = StepAdaptation(3, target=0.6)
    for _ in range(300):
        adaptation.update(1 / (1 + adaptation.factor / right * 0.4 / 0.6))  # 0.6 at the right factor
    adaptation.settle()
    np.testing.assert_allclose(adaptation.factor, right, rtol=0.1)


def test_chains_do_not_see_each_other() -> None:
    together, alone = StepAdaptation(2, 0.6), StepAdaptation(1, 0.6)
    for acceptance in (0.1, 0.9, 0.4):
        together.update(np.array([acceptance, 1.0]))
        alone.update(np.array([acceptance]))
    assert together.factor[0] == alone.factor[0] != together.factor[1]


def test_a_chain_that_never_moves_ends_at_a_finite_factor() -> None:
    adaptation = StepAdaptation(1, 0.6)
    for _ in range(5000):
        adaptation.update(np.zeros(1))
    adaptation.settle()
    assert 0 < adaptation.factor[0] < 1e-6


def test_without_a_step_the_factor_stays_one() -> None:
    warm_up = WarmUp(0, 2, 0.6)
    scale = np.array([3, 4], np.float32)
    assert warm_up.settle(scale) is scale
    np.testing.assert_array_equal(warm_up.factor, [1, 1])


def test_the_frozen_scale_is_the_geometric_mean_of_the_second_half() -> None:
    warm_up = WarmUp(4, 1, 0.6)
    for step, scale in enumerate([1e6, 1e6, 2.0, 8.0]):
        warm_up.update(step, np.ones(1), np.array([scale], np.float32))
    np.testing.assert_allclose(warm_up.settle(None), [4.0], rtol=1e-6)


def test_another_goes_on_from_a_copy_of_the_state() -> None:
    whole, first = WarmUp(6, 2, 0.6), WarmUp(6, 2, 0.6)

    def learn(warm_up: WarmUp, steps: range) -> None:
        for step in steps:
            warm_up.update(step, np.array([0.2, 0.1 * step]), np.array([1, 2 + step], np.float32))

    learn(whole, range(6))
    learn(first, range(4))
    second = WarmUp(6, 2, 0.6)
    second.state = kept = copy.deepcopy(first.state)
    learn(second, range(4, 6))
    np.testing.assert_array_equal(second.settle(None), whole.settle(None))
    np.testing.assert_array_equal(second.factor, whole.factor)
    np.testing.assert_array_equal(kept.log_scales, first.state.log_scales)  # what was handed over is left as it is


@pytest.mark.parametrize("sampler", ["mala", "hmc", "tempering"])
@pytest.mark.parametrize("steps", [4, 8, 12, 16, 20])
def test_a_short_chain_is_not_thrown_off_by_its_warm_up(sampler: str, steps: int) -> None:
    """Its default is none where dual averaging would end amid its first jumps."""
    accepted = []

    def watch(now: Progress) -> None:
        if now.info is not None and not now.warming_up:
            accepted.append(float(np.mean(now.info.acceptance)))

    model = ModelSpec("bowl", TensorSpec("x", (16,), "float32"))
    config = SamplerConfig(sampler=sampler, steps=steps, step_size=0.02)
    Ebm(FunctionEngine(lambda x: (0.5 * (x * x).sum(axis=1), x)), model, config).sample(100, callback=watch)
    assert len(accepted) == (15 if steps == 20 else steps)
    assert np.mean(accepted) > 0.4
