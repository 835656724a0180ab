"""Steps are timed with an engine that takes a known time, on a clock that nothing else moves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ebm_export.calibration import latency
from ebm_export.calibration.latency import time_steps
from ebm_export.runtime import Ebm, SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.errors import UnsupportedOperation
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

CONFIG = SamplerConfig(steps=200, step_size=0.01)
NOW = [1000.0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: NOW[0]))


def exactly(milliseconds: float) -> object:
    return pytest.approx(milliseconds, rel=1e-6)


def taking(
    seconds: float, order: list[float] | None = None, config: SamplerConfig = CONFIG, max_batch: int | None = None
) -> Ebm:
    def quadratic(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if order is not None and (not order or order[-1] != seconds):
            order.append(seconds)
        NOW[0] += seconds
        return 0.5 * np.square(x).sum(1), x

    model = ModelSpec("quadratic", TensorSpec("x", (3,), "float32"))
    return Ebm(FunctionEngine(quadratic), model, config, max_batch=max_batch)


def nothing(name: str, count: int) -> dict[str, np.ndarray]:
    return {}


def test_a_step_takes_as_long_as_its_engine() -> None:
    found, _ = time_steps({"slow": taking(0.02), "fast": taking(0.002)}, nothing, batch=4, rounds=3)
    for name, milliseconds in (("slow", 20), ("fast", 2)):
        assert (found[name].low, found[name].median, found[name].high) == (exactly(milliseconds),) * 3
    assert found["slow"].batch == 4 and found["slow"].rounds == 3
    assert (found["slow"].steps, found["fast"].steps) == (20, 200), "which fill a round of 0.4 s"


def test_candidates_take_turns_and_turn_round() -> None:
    order: list[float] = []
    time_steps({"a": taking(0.05, order), "b": taking(0.04, order)}, nothing, batch=1, rounds=4)
    # b a | a b | b a | a b | b a with the warm-up first; neighbours that are alike count once.
    assert order == [0.04, 0.05, 0.04, 0.05, 0.04, 0.05]


def test_a_schedule_runs_its_whole_chain() -> None:
    found, _ = time_steps({"a": taking(0.001)}, nothing, batch=1, rounds=2, whole_chains=frozenset({"a"}))
    assert found["a"].steps == CONFIG.steps


def test_progress_counts_runs() -> None:
    seen: list[tuple[int, int]] = []
    time_steps({"a": taking(0.0)}, nothing, batch=1, rounds=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_batch_that_takes_several_engine_calls_pays_for_all_of_them() -> None:
    found, _ = time_steps({"a": taking(0.02, max_batch=2)}, nothing, batch=6, rounds=2)
    assert (found["a"].low, found["a"].high) == (exactly(60), exactly(60))


@pytest.mark.parametrize("settings", [{"sampler": "mala", "warmup": 20}, {"sampler": "tempering"}])
def test_a_warm_up_and_replicas_need_not_fit_into_a_round(settings: dict[str, object]) -> None:
    ebm = taking(0.05, config=SamplerConfig(steps=40, step_size=0.01, **settings))
    found, failures = time_steps({"a": ebm}, nothing, batch=2, rounds=1)
    assert failures == {}
    assert 5 <= found["a"].steps < 20 and found["a"].median >= 50


def test_a_candidate_that_cannot_be_timed_costs_no_other_its_time() -> None:
    def refuses(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise UnsupportedOperation("no memory for so many")

    broken = Ebm(FunctionEngine(refuses), ModelSpec("quadratic", TensorSpec("x", (3,), "float32")), CONFIG)
    found, failures = time_steps({"broken": broken, "sound": taking(0.001)}, nothing, batch=4, rounds=2)
    assert list(found) == ["sound"]
    assert failures == {"broken": "no memory for so many"}
