"""How long drawing the gate's samples takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ebm_export.exporter import time_to_judge
from ebm_export.exporter.time_to_judge import seconds_to_draw
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.engine import Engine

SECONDS = 0.02


class Slow(Engine):
    """Takes 20 ms a call and half a second for the first, on a clock of its own."""

    backend = "slow"

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.now = 1000.0

    def open(self) -> None: ...

    def close(self) -> None: ...

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert inputs["goal"].shape == (len(inputs["x"]), 3)
        self.now += SECONDS if self.rows else 0.5
        self.rows.append(len(inputs["x"]))
        return {"energy": np.zeros(len(inputs["x"])), "grad": inputs["x"]}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Slow:
    made = Slow()
    monkeypatch.setattr(time_to_judge, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


GOLDEN = {
    "x": np.zeros((4, 8, 2), np.float32),
    "grad_scale": np.ones((4, 8), np.float32),
    "energy": np.zeros((4, 8)),
    "cond.goal": np.zeros((4, 8, 3), np.float32),
}


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        (SamplerConfig(steps=10), 10),
        (SamplerConfig(steps=10, sampler="hmc", leapfrog=4), 40),
        (SamplerConfig(steps=10, sampler="tempering", ladder=(1.0, 2.0, 4.0)), 30),
    ],
)
def test_both_sides_draw_their_chains_in_batches(engine: Slow, config: SamplerConfig, calls: int) -> None:
    found = seconds_to_draw(engine, GOLDEN, config, chains=100, rows=20)
    assert found == pytest.approx(2 * 5 * calls * SECONDS)
    assert set(engine.rows) == {20}


def test_no_call_is_timed_that_is_larger_than_the_chains_make_it(engine: Slow) -> None:
    found = seconds_to_draw(engine, GOLDEN, SamplerConfig(steps=3), chains=7, rows=500)
    assert found == pytest.approx(6 * SECONDS)
    assert set(engine.rows) == {7}
