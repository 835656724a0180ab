from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ebm_export.calibration import power
from ebm_export.calibration.energy_use import idle_watts, measure_energy
from ebm_export.calibration.power import Sensor
from ebm_export.runtime import Ebm, SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.manifest import ModelSpec, TensorSpec


class Steady(Sensor):
    """Three watts, whatever happens."""

    name = "steady"

    def start(self, now: float) -> None:
        self.last = now

    def joules_since(self, now: float) -> float:
        spent, self.last = 3.0 * (now - self.last), now
        return spent


def quadratic(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    time.sleep(0.002)
    return 0.5 * np.square(x - centre).sum(1), x - centre


def test_energy_is_shared_among_the_samples() -> None:
    spec = TensorSpec("x", (3,), "float32")
    model = ModelSpec("quadratic", spec, cond=(TensorSpec("centre", (3,), "float32"),))
    ebm = Ebm(FunctionEngine(quadratic), model, SamplerConfig(steps=5, step_size=0.1))
    cond = {"centre": np.zeros((4, 3), np.float32)}
    found = measure_energy(ebm, [Steady()], cond, batch=4, idle=1.0, seconds=0.1)
    assert found.watts == pytest.approx(3.0, rel=0.01)
    samples = 3.0 * found.seconds / found.joules_per_sample
    assert samples == pytest.approx(4 * round(samples / 4), rel=0.01)
    # Seven engine calls of at least 2 ms for each batch of four.
    assert 4 <= samples <= 4 * (found.seconds / 0.014 + 1)
    assert (found.batch, found.idle_watts) == (4, 1.0)


def test_all_replicas_of_a_chain_go_into_one_engine_call() -> None:
    model = ModelSpec("quadratic", TensorSpec("x", (3,), "float32"), cond=(TensorSpec("centre", (3,), "float32"),))
    ebm = Ebm(FunctionEngine(quadratic), model, SamplerConfig(steps=5, step_size=0.1, sampler="tempering"))
    cond = {"centre": np.zeros((2, 3), np.float32)}
    assert measure_energy(ebm, [Steady()], cond, batch=2, idle=1.0, seconds=0.01).batch == 2


def test_idle_power() -> None:
    assert idle_watts([Steady()], seconds=0.05) == pytest.approx(3.0, rel=0.01)


def test_power_is_that_of_the_time_that_its_energy_was_read_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a second may go by between any two looks at the clock."""
    looks = itertools.count()
    monkeypatch.setattr(power, "time", SimpleNamespace(perf_counter=lambda: float(next(looks))))
    assert idle_watts([Steady()], seconds=0) == 3
