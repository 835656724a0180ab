"""How many chains go into one engine call where there are many to run."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.ebm import Ebm
from ebm_export.runtime.fitting_batch import fitting_batch, largest_call
from ebm_export.runtime.manifest import ModelSpec, TensorSpec


def model(*shape: int, widest: int = 0) -> ModelSpec:
    return ModelSpec("energy", TensorSpec("x", shape, "float32"), widest=widest)


@pytest.mark.parametrize(
    ("shape", "widest", "wanted"),
    [
        ((2,), 128, 1024),  # a perceptron
        ((16, 2), 2**14, 8),  # pairs of particles
        ((1, 8, 8), 2**11, 64),
        ((3, 32, 32), 2**17, 8),  # a sample fills a cache by itself
        ((3, 512, 512), 2**21, 1),  # as its x does
        ((2,), 2, 2**16),
        ((2,), 0, 2**17),  # an older bundle
    ],
)
def test_the_widest_activation_decides(shape: tuple[int, ...], widest: int, wanted: int) -> None:
    assert fitting_batch(model(*shape, widest=widest)) == wanted


def test_each_core_has_a_cache() -> None:
    assert fitting_batch(model(16, 2, widest=2**14), cores=4) == 32
    assert largest_call((16, 2)) == 2**13


class Calls:
    """A quadratic energy that keeps the batch of each call."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.seen.append(len(x))
        return 0.5 * (x**2).sum(1), x


def ebm(calls: Calls, **options: int) -> Ebm:
    return Ebm(FunctionEngine(calls), model(3), SamplerConfig(steps=2, step_size=0.1), **options)


def test_chains_run_in_batches_that_fit_and_are_the_same() -> None:
    calls = Calls()
    with ebm(calls, fitting=4) as small, ebm(Calls()) as whole:
        assert np.array_equal(small.sample(10, seed=3), whole.sample(10, seed=3))
        assert set(calls.seen) == {4, 2}
        calls.seen.clear()
        small.score(np.zeros((10, 3)))
        assert set(calls.seen) == {4, 2}


def test_a_caller_who_says_how_many_is_heard() -> None:
    calls = Calls()
    with ebm(calls, fitting=4) as small:
        small.sample(10, max_batch=10)
    assert set(calls.seen) == {10}


def test_a_deadline_takes_all_chains_together() -> None:
    calls = Calls()
    with ebm(calls, fitting=4) as small:
        small.warm(10)
        assert {4, 2, 10} <= set(calls.seen)
        calls.seen.clear()
        small.sample(10, deadline_ms=1000)
        assert set(calls.seen) == {10}
        calls.seen.clear()
        list(small.stream(10))
    assert set(calls.seen) == {10}


def test_all_replicas_of_a_chain_go_into_one_call() -> None:
    calls = Calls()
    ladder = tuple(1.0 + number for number in range(6))
    with ebm(calls, fitting=4) as small:
        small.sample(2, sampler="tempering", ladder=ladder)
    assert set(calls.seen) == {6}


def test_a_gpu_takes_as_many_as_it_can() -> None:
    class OnGpu(FunctionEngine):
        gpu = "GPU"

    calls = Calls()
    with Ebm(OnGpu(calls), model(3), SamplerConfig(steps=2, step_size=0.1), fitting=4) as loaded:
        loaded.sample(10)
    assert set(calls.seen) == {10}
