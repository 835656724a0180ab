"""Steps are timed with an engine that takes a known time."""

from __future__ import annotations

import time

import numpy as np

from ebm_export.calibration.latency import time_steps
from ebm_export.runtime import Ebm, SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

CONFIG = SamplerConfig(steps=200, step_size=0.01)


def slept(seconds: float, order: list[float] | None = None) -> Ebm:
    def quadratic(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if order is not None and (not order or order[-1] != seconds):
            order.append(seconds)
        time.sleep(seconds)
        return 0.5 * np.square(x).sum(1), x

    return Ebm(FunctionEngine(quadratic), ModelSpec("quadratic", TensorSpec("x", (3,), "float32")), CONFIG)


def nothing(name: str, count: int) -> dict[str, np.ndarray]:
    return {}


def test_a_step_takes_as_long_as_its_engine() -> None:
    found = time_steps({"slow": slept(0.02), "fast": slept(0.002)}, nothing, batch=4, rounds=3)
    # A sleep never returns early; how late it is depends on the machine's load, so the upper limits are wide.
    assert 20 <= found["slow"].low <= found["slow"].median <= found["slow"].high < 60
    assert 2 <= found["fast"].median < 15
    assert found["slow"].batch == 4 and found["slow"].rounds == 3
    assert found["fast"].steps > found["slow"].steps >= 5


def test_candidates_take_turns_and_turn_round() -> None:
    order: list[float] = []
    time_steps({"a": slept(0.05, order), "b": slept(0.04, order)}, nothing, batch=1, rounds=4)
    # b a | a b | b a | a b | b a with the warm-up first; neighbours that are alike count once.
    assert order == [0.04, 0.05, 0.04, 0.05, 0.04, 0.05]


def test_a_schedule_runs_its_whole_chain() -> None:
    found = time_steps({"a": slept(0.001)}, nothing, batch=1, rounds=2, whole_chains=frozenset({"a"}))
    assert found["a"].steps == CONFIG.steps


def test_progress_counts_runs() -> None:
    seen: list[tuple[int, int]] = []
    time_steps({"a": slept(0.0)}, nothing, batch=1, rounds=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
