"""Steps are timed with an engine that takes a known time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ebm_export.calibration.latency import time_steps
from ebm_export.runtime import Ebm, SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.errors import UnsupportedOperation
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

CONFIG = SamplerConfig(steps=200, step_size=0.01)


def slept(
    seconds: float, order: list[float] | None = None, config: SamplerConfig = CONFIG, max_batch: int | None = None
) -> Ebm:
    def quadratic(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if order is not None and (not order or order[-1] != seconds):
            order.append(seconds)
        time.sleep(seconds)
        return 0.5 * np.square(x).sum(1), x

    model = ModelSpec("quadratic", TensorSpec("x", (3,), "float32"))
    return Ebm(FunctionEngine(quadratic), model, config, max_batch=max_batch)


def nothing(name: str, count: int) -> dict[str, np.ndarray]:
    return {}


def test_a_step_takes_as_long_as_its_engine() -> None:
    found, _ = time_steps({"slow": slept(0.02), "fast": slept(0.002)}, nothing, batch=4, rounds=3)
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
    found, _ = time_steps({"a": slept(0.001)}, nothing, batch=1, rounds=2, whole_chains=frozenset({"a"}))
    assert found["a"].steps == CONFIG.steps


def test_progress_counts_runs() -> None:
    seen: list[tuple[int, int]] = []
    time_steps({"a": slept(0.0)}, nothing, batch=1, rounds=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_batch_that_takes_several_engine_calls_pays_for_all_of_them() -> None:
    found, _ = time_steps({"a": slept(0.02, max_batch=2)}, nothing, batch=6, rounds=2)
    assert 60 <= found["a"].low <= found["a"].high < 180


@pytest.mark.parametrize("settings", [{"sampler": "mala", "warmup": 20}, {"sampler": "tempering"}])
def test_a_warm_up_and_replicas_need_not_fit_into_a_round(settings: dict[str, object]) -> None:
    ebm = slept(0.05, config=SamplerConfig(steps=40, step_size=0.01, **settings))
    found, failures = time_steps({"a": ebm}, nothing, batch=2, rounds=1)
    assert failures == {}
    assert 5 <= found["a"].steps < 20 and found["a"].median >= 50


def test_a_candidate_that_cannot_be_timed_costs_no_other_its_time() -> None:
    def refuses(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise UnsupportedOperation("no memory for so many")

    broken = Ebm(FunctionEngine(refuses), ModelSpec("quadratic", TensorSpec("x", (3,), "float32")), CONFIG)
    found, failures = time_steps({"broken": broken, "sound": slept(0.001)}, nothing, batch=4, rounds=2)
    assert list(found) == ["sound"]
    assert failures == {"broken": "no memory for so many"}
