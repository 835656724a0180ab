"""Parallel tempering: swaps against the formula, and modes that a single chain does not reach."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.noise import Stream
from ebm_export.runtime.run import run_chains
from ebm_export.runtime.samplers import mala, tempering

from .targets import PRECISION, assert_gaussian, assert_gumbel, draw, gaussian, gumbel, left_mass, two_modes

DEPTH = 6.0
"""exp(-6 E) of the two modes: a barrier of 9, which a chain alone crosses once in thousands of steps."""


def deep(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    energy, grad = two_modes(x)
    return DEPTH * energy, DEPTH * grad


class TestKernel:
    @pytest.mark.parametrize("number", [0, 1])
    def test_neighbours_swap_with_the_probability_of_the_formula(self, number: int) -> None:
        count, chains = 4, 200
        random = ChainRandom(0, range(chains), (1,), replicas=count).at(number)
        temperature = np.array([1.0, 2.0, 4.0, 8.0])
        rng = np.random.default_rng(3)
        x = rng.standard_normal((chains * count, 1)).astype(np.float32)
        replicas = mala.init(x, gumbel)

        def still(random: object, state: mala.State, *_: object) -> tuple[mala.State, mala.Info]:
            return state, mala.Info(np.ones(len(x)), np.ones(len(x), bool), 0, 0)

        state = tempering.State(x[::count], replicas.energy[::count], replicas.grad[::count], replicas)
        new, info = tempering.build_kernel(still, count)(random, state, gumbel, 0.1, temperature, number)
        energy = replicas.energy.reshape(chains, count).astype(np.float64)
        draws = random.uniform(Stream.SWAP).reshape(chains, count)
        expected = np.arange(chains * count).reshape(chains, count)
        probabilities = []
        for low in range(number, count - 1, 2):
            ratio = np.exp((1 / temperature[low] - 1 / temperature[low + 1]) * (energy[:, low] - energy[:, low + 1]))
            probabilities.append(np.minimum(ratio, 1))
            swap = draws[:, low] < ratio
            expected[swap, low], expected[swap, low + 1] = expected[swap, low + 1], expected[swap, low].copy()
        np.testing.assert_array_equal(new.replicas.position, x[expected.reshape(-1)])
        np.testing.assert_array_equal(new.replicas.energy, gumbel(new.replicas.position)[0])
        np.testing.assert_allclose(info.swap_acceptance, np.stack(probabilities, axis=1).reshape(-1), rtol=1e-6)
        np.testing.assert_array_equal(new.position, new.replicas.position[::count])

    def test_same_arguments_same_result_and_nothing_given_is_changed(self) -> None:
        random = ChainRandom(0, range(5), (2,), replicas=3)
        x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
        state = tempering.init(x, gaussian, 3)
        kept = [array.copy() for array in state.replicas]
        kernel = tempering.build_kernel(mala.build_kernel(), 3)
        first, _ = kernel(random, state, gaussian, 0.3, np.array([1.0, 2.0, 4.0]), 0)
        second, _ = kernel(random, state, gaussian, 0.3, np.array([1.0, 2.0, 4.0]), 0)
        np.testing.assert_array_equal(first.replicas.position, second.replicas.position)
        for array, before in zip(state.replicas, kept, strict=True):
            np.testing.assert_array_equal(array, before)


class TestStationarity:
    """At the end of n independent chains the effective sample size is n."""

    n = 2000

    def test_crosses_between_modes_that_a_single_chain_does_not(self) -> None:
        truth = left_mass(DEPTH)
        config = SamplerConfig(sampler="tempering", steps=600, step_size=0.02, ladder=(1, 2.5, 6, 15))
        together = float((draw(deep, config, (1,), self.n, at=1.0) < 0).mean())
        alone = float((draw(deep, config.replace(sampler="mala"), (1,), self.n, at=1.0) < 0).mean())
        assert truth > 0.95 and alone < 0.5
        assert abs(together - truth) < 4 * np.sqrt(truth * (1 - truth) / self.n)

    def test_correlated_gaussian(self) -> None:
        config = SamplerConfig(sampler="tempering", steps=80, step_size=0.4, warmup=0, temperature=0.5, ladder=(1, 3))
        assert_gaussian(draw(gaussian, config, (2,), 5000), 0.5 * np.linalg.inv(PRECISION), 5000)

    def test_skewed(self) -> None:
        config = SamplerConfig(sampler="tempering", steps=100, step_size=0.6, warmup=40, ladder=(1, 2, 4))
        assert_gumbel(draw(gumbel, config, (1,), 5000), 5000)


def test_a_ladder_that_does_not_fit_the_engine_call() -> None:
    config = SamplerConfig(sampler="tempering", steps=2, step_size=0.1)
    with pytest.raises(UsageError, match="ladder: its 4 replicas go into one engine call, which takes 3 samples"):
        run_chains(FunctionEngine(gaussian), config, lambda chains: np.zeros((len(chains), 2)), 2, max_batch=3)
