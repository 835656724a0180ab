"""Chains whose mixing is known on paper: E = |x|^2 / 2 forgets in steps of 0.1 a tenth at each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.calibration.chain_mixing import ChainMixing, chain_mixing
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.ebm import Ebm
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

MODEL = ModelSpec("normal", TensorSpec("x", (2,), "float32"))


def normal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * np.square(x).sum(axis=1), x


def two_wells(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wells at -6 and 6 whose floors differ by 3: no chain crosses."""
    side = np.where(x[:, :1] > 0, 1.0, -1.0).astype(np.float32)
    moved = x - 6 * side
    return 0.5 * np.square(moved).sum(axis=1) + 1.5 * side[:, 0], moved


def ebm(energy: Any, **settings: Any) -> Ebm:
    engine = FunctionEngine(energy)
    engine.open()
    return Ebm(engine, MODEL, SamplerConfig(**{"steps": 400, "step_size": 0.1, **settings}))


def mixing(energy: Any, **settings: Any) -> ChainMixing | None:
    moved = ebm(energy, **settings)
    return chain_mixing(moved, moved, {}, seed=0)


def test_chains_that_forget() -> None:
    found = mixing(normal)
    assert found is not None and found.r_hat is not None
    assert found.r_hat < 1.05
    # States are 3 steps apart: the energy's correlation is 0.9^(2 * 3) = 0.53, which leaves 0.31 of 16 * 64 states; a plain
    # simulation of the same chains with five seeds had 350 to 450.
    assert 250 < found.effective < 560
    assert (found.chains, found.states, found.first_step, found.last_step) == (16, 64, 200, 400)


def test_chains_that_stay_where_they_began() -> None:
    found = mixing(two_wells)
    assert found is not None and found.r_hat is not None
    assert found.r_hat > 1.5
    assert found.effective < 40


def test_energies_are_fp32s_whoever_moves_the_chains() -> None:
    """The engine calls all states alike; FP32 tells them apart."""

    def flat(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(x), np.float32), x

    moved = ebm(flat)
    found = chain_mixing(moved, ebm(normal), {}, seed=0)
    assert found == mixing(normal)
    same = chain_mixing(moved, moved, {}, seed=0)
    assert same is not None and same.r_hat is None


def test_few_steps_rest_and_divergence_have_no_figures() -> None:
    assert mixing(normal, steps=4) is None
    assert mixing(normal, steps=8) is not None
    assert mixing(normal, noise=0.0) is None
    assert mixing(normal, step_size=1e6) is None


@pytest.mark.parametrize("largest", [3, 64])
def test_batches_of_chains_are_put_together(largest: int) -> None:
    engine = FunctionEngine(normal)
    engine.open()
    moved = Ebm(engine, MODEL, SamplerConfig(steps=400, step_size=0.1), max_batch=largest)
    found, whole = chain_mixing(moved, moved, {}, seed=0), mixing(normal)
    assert found is not None and whole is not None
    assert found.effective == pytest.approx(whole.effective, rel=1e-3)
