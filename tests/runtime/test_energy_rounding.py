"""Energies that are too large for float32 to tell states apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

MODEL = ModelSpec("bowl", TensorSpec("x", (8,), "float32"))


def sampled(offset: float, **settings: Any) -> np.ndarray:
    def bowl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (0.5 * np.square(x).sum(axis=1) + offset).astype(np.float32), x

    with Ebm(FunctionEngine(bowl), MODEL, SamplerConfig(steps=300, step_size=0.3)) as ebm:
        return ebm.sample(400, **settings)


@pytest.mark.parametrize("sampler", ["mala", "hmc", "tempering"])
def test_it_is_said_where_samples_are_off(sampler: str, caplog: pytest.LogCaptureFixture) -> None:
    assert abs(sampled(1e8, sampler=sampler, temperature=0.01).std() / 0.1 - 1) > 1
    assert [
        message for message in caplog.messages if message.startswith("energies of 1e+08 are known to 8, as float32")
    ]


@pytest.mark.parametrize("sampler", ["mala", "hmc"])
def test_it_is_not_where_they_do_not(sampler: str, caplog: pytest.LogCaptureFixture) -> None:
    assert sampled(1e5, sampler=sampler).std() == pytest.approx(1, abs=0.05)
    assert not caplog.messages


def test_langevin_dynamics_do_not_look_at_energies(caplog: pytest.LogCaptureFixture) -> None:
    assert sampled(1e8).std() < 1.1
    assert not caplog.messages
