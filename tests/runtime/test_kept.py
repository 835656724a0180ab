"""Numbers of x that stay, and the others given those."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

from .samplers.targets import PRECISION, gaussian

MODEL = ModelSpec("gaussian", TensorSpec("x", (2,), "float32"))
SECOND = np.array([[False, True]])


def ebm(**settings: Any) -> Ebm:
    return Ebm(FunctionEngine(gaussian), MODEL, SamplerConfig.from_dict({"steps": 200, "step_size": 0.05, **settings}))


@pytest.mark.parametrize("sampler", ["langevin", "preconditioned", "underdamped", "mala", "hmc", "tempering"])
def test_the_others_follow_the_conditional_distribution(sampler: str) -> None:
    n, given = 4000, 1.5
    samples = ebm(sampler=sampler).sample(n, keep=SECOND, known=[[9.0, given]])
    assert (samples[:, 1] == np.float32(given)).all()
    mean, variance = -PRECISION[0, 1] / PRECISION[0, 0] * given, 1 / PRECISION[0, 0]
    bias = 0.0 if sampler in ("mala", "hmc", "tempering") else 0.05  # h times the curvature over 2
    assert abs(samples[:, 0].mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(samples[:, 0].var() / variance - 1) < 4 * np.sqrt(2 / n) + 1.2 * bias


def test_each_chain_has_its_own_mask_and_numbers() -> None:
    x0 = np.arange(8, dtype=np.float32).reshape(4, 2)
    mask = np.array([[True, False], [False, True], [False, False], [True, False]])
    samples = ebm().refine(x0, keep=mask, max_batch=3)
    np.testing.assert_array_equal(samples[mask], x0[mask])
    assert (samples[~mask] != x0[~mask]).all()


def test_the_free_numbers_start_as_ever() -> None:
    still = {"steps": 1, "step_size": 0.0}
    start = ebm().sample(5, **still)
    samples = ebm().sample(5, keep=SECOND, known=[[0, 7]], **still)
    np.testing.assert_array_equal(samples, np.stack([start[:, 0], np.full(5, 7)], axis=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": SECOND}, "keep: says which numbers stay, and there are none: pass known= (or x0=)"),
        ({"known": [[1, 2]]}, "known: gives the numbers that stay, and keep, which says where, is missing"),
        ({"keep": [[1, 0]], "known": [[1, 2]]}, "keep: expected bool, got an array of int64"),
        ({"keep": SECOND[0], "known": [[1, 2]]}, "keep: expected shape [3 or 1, 2], got [2]"),
        ({"keep": SECOND, "known": [[1, 2]] * 2}, "known: expected 3 states, or 1 for all chains, got 2"),
        ({"keep": [[True, True]], "known": [[1, 2]]}, "expected at least one number of each state to be free"),
        (
            {"keep": SECOND, "known": [[9, 2]], "bounds": (-1, 1)},
            "known: expected numbers inside the bounds (-1.0, 1.0)",
        ),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        ebm().sample(3, **arguments)
