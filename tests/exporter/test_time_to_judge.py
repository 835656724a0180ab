"""How long drawing the gate's samples takes."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ebm_export.exporter.time_to_judge import seconds_to_draw
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.engine import Engine

SECONDS = 0.02


class Slow(Engine):
    """Takes 20 ms a call, and half a second for the first."""

    backend = "slow"

    def __init__(self) -> None:
        self.rows: list[int] = []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert inputs["goal"].shape == (len(inputs["x"]), 3)
        time.sleep(SECONDS if self.rows else 0.5)
        self.rows.append(len(inputs["x"]))
        return {"energy": np.zeros(len(inputs["x"])), "grad": inputs["x"]}


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
def test_both_sides_draw_their_chains_in_batches(config: SamplerConfig, calls: int) -> None:
    engine = Slow()
    found = seconds_to_draw(engine, GOLDEN, config, chains=100, rows=20)
    assert found == pytest.approx(2 * 5 * calls * SECONDS, rel=0.3)
    assert set(engine.rows) == {20}


def test_no_call_is_timed_that_is_larger_than_the_chains_make_it() -> None:
    engine = Slow()
    assert seconds_to_draw(engine, GOLDEN, SamplerConfig(steps=3), chains=7, rows=500) == pytest.approx(
        6 * SECONDS, rel=0.3
    )
    assert set(engine.rows) == {7}
