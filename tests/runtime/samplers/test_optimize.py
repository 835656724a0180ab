"""Descent with momentum."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.samplers import optimize

from .targets import draw, gaussian, gumbel

X = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)


def test_two_steps_are_the_formula() -> None:
    kernel = optimize.build_kernel(0.8, grad_clip=0.5)
    first, info = kernel(optimize.init(X, gaussian), gaussian, 0.1)
    second, _ = kernel(first, gaussian, 0.1)
    v1 = -0.1 * np.clip(gaussian(X)[1], -0.5, 0.5)
    v2 = 0.8 * v1 - 0.1 * np.clip(gaussian(X + v1)[1], -0.5, 0.5)
    np.testing.assert_allclose(first.position, X + v1, rtol=1e-6)
    np.testing.assert_allclose(second.position, X + v1 + v2, rtol=1e-5)
    np.testing.assert_array_equal(second.grad, gaussian(second.position)[1])
    assert info.clipped > 0 and info.not_finite == 0


def test_a_bound_stops_the_velocity() -> None:
    state = optimize.State(X * 0, *gaussian(X * 0), np.full_like(X, 3))
    new, _ = optimize.build_kernel(0.9, bounds=(-1, 1))(state, gaussian, 0.1)
    np.testing.assert_array_equal(new.position, np.ones_like(X))
    np.testing.assert_array_equal(new.velocity, np.zeros_like(X))


def test_reaches_the_minimum_with_a_step_that_decays() -> None:
    config = SamplerConfig(sampler="optimize", steps=200, step_size=(0.3, 0.01), momentum=0.8)
    np.testing.assert_allclose(draw(gumbel, config, (1,), 3, at=2.0), 0, atol=1e-3)  # of x + exp(-x)


def test_momentum_is_faster_along_a_valley() -> None:
    def valley(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slopes = np.array([100, 1], np.float32)
        return 0.5 * (slopes * x * x).sum(axis=1), slopes * x

    config = SamplerConfig(sampler="optimize", steps=60, step_size=0.01, momentum=0.8)
    with_momentum = abs(draw(valley, config, (2,), 1, at=1.0)).max()
    without = abs(draw(valley, config.replace(momentum=0.0), (2,), 1, at=1.0)).max()
    assert with_momentum < 0.1 < 0.5 < without


@pytest.mark.parametrize("setting", ["noise", "temperature", "anneal"])
def test_noise_asked_for_is_refused(setting: str) -> None:
    ebm = Ebm(FunctionEngine(gaussian), ModelSpec("gaussian", TensorSpec("x", (2,), "float32")))
    with pytest.raises(UsageError, match=f"{setting} has no effect on the sampler 'optimize'"):
        ebm.sample(2, sampler="optimize", **{setting: 1.0})
