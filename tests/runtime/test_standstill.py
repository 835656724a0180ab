"""Chains that hardly move are not silent about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.standstill import Standstill

MODEL = ModelSpec("bowl", TensorSpec("x", (2,), "float32"))
SETTINGS: list[dict[str, Any]] = [
    {"sampler": "mala"},
    {"sampler": "hmc", "leapfrog": 3},
    {"sampler": "tempering", "ladder": (1.0, 1.1)},
    {"sampler": "mala", "exact": True},
]


def bowl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * (x * x).sum(axis=1), x


def run(settings: dict[str, Any], **changes: Any) -> None:
    settings = dict(settings)
    exact = FunctionEngine(bowl) if settings.pop("exact", False) else None
    with Ebm(FunctionEngine(bowl), MODEL, SamplerConfig(), exact=exact) as ebm:
        ebm.sample(6, 3, **({"steps": 200, "step_size": 0.3} | settings | changes))


@pytest.mark.parametrize("settings", SETTINGS)
def test_far_too_long_steps_are_told(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    run(settings, step_size=1e6, warmup=0)
    assert "6 of 6 chains hardly moved: less than 1 % of their proposals were accepted" in caplog.text


@pytest.mark.parametrize("settings", SETTINGS)
def test_chains_that_move_are_not(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    run(settings)
    assert "hardly moved" not in caplog.text


def test_few_steps_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    run(SETTINGS[0], step_size=1e6, warmup=0, steps=8)  # of six chains
    assert "hardly moved" not in caplog.text


def test_few_steps_of_many_chains_say_as_much(caplog: pytest.LogCaptureFixture) -> None:
    run(SETTINGS[0], step_size=1e6, warmup=0, steps=9)
    assert "6 of 6 chains hardly moved" in caplog.text


def test_one_chain_that_was_unlucky_in_few_steps_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    watch = Standstill(60)
    watch.take(SimpleNamespace(acceptance=np.repeat([0.0, 1.0], [50, 10])), 2)
    watch.tell()
    assert not caplog.messages
