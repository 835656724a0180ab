"""Engines in two halves."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import Ebm, SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.composition import compose
from ebm_export.runtime.engine import Engine, read_only
from ebm_export.runtime.errors import LoadError
from ebm_export.runtime.gradient_scale import ScaledScore
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.split_engine import SplitEngine

MODEL = ModelSpec(
    "split",
    TensorSpec("x", (2,), "float32"),
    cond=(TensorSpec("obs", (3,), "float32"), TensorSpec("goal", (2,), "float32")),
)
OBS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
GOAL = np.ones((4, 2), np.float32)
CONFIG = SamplerConfig(steps=7, step_size=0.1)


class Encoder(Engine):
    """feature = the first two numbers of obs, doubled; remembers how many rows it was asked for."""

    backend = "function"

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert set(inputs) == {"obs"}
        assert inputs["obs"].flags.c_contiguous
        self.rows.append(len(inputs["obs"]))
        return {"feature": 2 * inputs["obs"][:, :2]}


def bowl(x: np.ndarray, feature: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    off = x - feature - goal
    return 0.5 * (off**2).sum(axis=1), off


def split_engine() -> tuple[SplitEngine, Encoder]:
    encoder = Encoder()
    return SplitEngine(encoder, FunctionEngine(bowl), ["obs"], ["goal"]), encoder


def whole_engine() -> Engine:
    return FunctionEngine(lambda x, obs, goal: bowl(x, 2 * obs[:, :2], goal))


def test_the_prologue_runs_once_per_chain() -> None:
    engine, encoder = split_engine()
    found = Ebm(engine, MODEL, CONFIG).sample(4, obs=OBS, goal=GOAL)
    assert encoder.rows == [1] * 4
    np.testing.assert_array_equal(found, Ebm(whole_engine(), MODEL, CONFIG).sample(4, obs=OBS, goal=GOAL))


def test_a_shared_condition_is_one_row() -> None:
    engine, encoder = split_engine()
    found = Ebm(engine, MODEL, CONFIG).sample(4, obs=OBS[:1], goal=GOAL)
    assert encoder.rows == [1]
    np.testing.assert_array_equal(found, Ebm(whole_engine(), MODEL, CONFIG).sample(4, obs=OBS[:1], goal=GOAL))


def test_a_shared_condition_is_encoded_once_for_all_batches() -> None:
    engine, encoder = split_engine()
    ebm = Ebm(engine, MODEL, CONFIG, fitting=1)
    found = ebm.sample(4, obs=OBS[:1], goal=GOAL)
    assert encoder.rows == [1]
    np.testing.assert_array_equal(found, Ebm(whole_engine(), MODEL, CONFIG).sample(4, obs=OBS[:1], goal=GOAL))
    ebm.sample(4, obs=OBS[1:2], goal=GOAL)
    assert encoder.rows == [1, 1]


def test_a_condition_that_was_changed_in_place_is_encoded_again() -> None:
    engine, encoder = split_engine()
    ebm, obs = Ebm(engine, MODEL, CONFIG), OBS[:1].copy()
    ebm.sample(4, obs=obs, goal=GOAL)
    obs += 1
    np.testing.assert_array_equal(
        ebm.sample(4, obs=obs, goal=GOAL), Ebm(whole_engine(), MODEL, CONFIG).sample(4, obs=obs, goal=GOAL)
    )
    assert encoder.rows == [1, 1]


def test_conditions_that_chains_share_are_encoded_once() -> None:
    engine, encoder = split_engine()
    obs, goal = OBS[[2, 0, 2, 2]], GOAL * np.arange(4, dtype=np.float32)[:, None]
    found = Ebm(engine, MODEL, CONFIG).sample(4, obs=obs, goal=goal)
    assert encoder.rows == [1] * 2
    np.testing.assert_array_equal(found, Ebm(whole_engine(), MODEL, CONFIG).sample(4, obs=obs, goal=goal))


def test_a_call_with_conditions_is_answered_all_the_same() -> None:
    engine, encoder = split_engine()
    x = np.ones((4, 2), np.float32)
    inputs = {"x": x, "grad_scale": np.ones(4, np.float32), "obs": OBS, "goal": GOAL}
    expected = whole_engine().run(inputs)
    for _ in range(2):
        found = engine.run(inputs)
        np.testing.assert_array_equal(found["grad"], expected["grad"])
        np.testing.assert_array_equal(found["energy"], expected["energy"])
    assert encoder.rows == [1] * 8


def test_many_rows_go_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebm_export.runtime.split_engine._NUMBERS", 9)  # three rows of three
    engine, encoder = split_engine()
    prepared = engine.prepare({"obs": OBS, "goal": GOAL})
    assert encoder.rows == [1, 1, 1, 1], "three rows fit, and it is asked for 1, 8 or 64"
    np.testing.assert_array_equal(prepared["feature"], 2 * OBS[:, :2])
    assert set(prepared) == {"feature", "goal"}


@pytest.mark.parametrize(("count", "calls"), [(7, [1] * 7), (9, [8, 1]), (150, [64, 64, 8, 8, 1, 1, 1, 1, 1, 1])])
def test_a_prologue_is_asked_for_few_different_numbers_of_rows(count: int, calls: list[int]) -> None:
    """A library compiles for each."""
    engine, encoder = split_engine()
    observed = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    prepared = engine.prepare({"obs": observed, "goal": np.zeros((count, *GOAL.shape[1:]), np.float32)})
    assert encoder.rows == calls
    np.testing.assert_array_equal(prepared["feature"], 2 * observed[:, :2])


@pytest.mark.parametrize(("count", "calls"), [(1, [1]), (20, [8, 1]), (64, [64, 8, 1])])
def test_warm_asks_for_all_that_will_be_asked_for(count: int, calls: list[int]) -> None:
    engine, encoder = split_engine()
    ebm = Ebm(engine, MODEL, CONFIG)
    ebm.warm(count)
    assert encoder.rows[: len(calls)] == calls
    seen = set(encoder.rows)
    for different in range(1, count + 1):
        observed = np.minimum(np.arange(count), different - 1)[:, None] * np.ones((1, 3), np.float32)
        engine.prepare({"obs": observed, "goal": np.zeros((count, *GOAL.shape[1:]), np.float32)})
    assert set(encoder.rows) == seen


def test_warm_encodes_large_conditions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four images that go one by one anyway need not be encoded to compile for one."""
    monkeypatch.setattr("ebm_export.runtime.split_engine._NUMBERS", 30)  # eight rows of three fit, and not 64
    engine, encoder = split_engine()
    engine.ready({"obs": np.zeros((100, 3), np.float32), "goal": np.zeros((100, *GOAL.shape[1:]), np.float32)})
    assert encoder.rows == [8, 1]


def test_another_engine_prepares_for_itself() -> None:
    engine, encoder = split_engine()
    cond = {"obs": OBS, "goal": GOAL}
    score = ScaledScore(whole_engine(), cond)
    x = np.zeros((4, 2), np.float32)
    expected = [array.copy() for array in score(x)]
    score.switch(engine, engine.prepare(cond))
    found = score(x)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    assert encoder.rows == [1] * 4


def test_parts_of_a_sum_prepare_their_own() -> None:
    engines = [split_engine() for _ in range(2)]
    both = compose([Ebm(engine, MODEL, CONFIG) for engine, _ in engines], [1.0, 0.5])
    found = both.sample(4, obs=OBS, goal=GOAL)
    assert [encoder.rows for _, encoder in engines] == [[1] * 4, [1] * 4]
    whole = compose([Ebm(whole_engine(), MODEL, CONFIG) for _ in range(2)], [1.0, 0.5])
    np.testing.assert_array_equal(found, whole.sample(4, obs=OBS, goal=GOAL))


@pytest.mark.parametrize(("obs", "rows"), [(OBS[:1], {1}), (OBS, {4})])
def test_parts_of_a_sum_are_given_one_row_of_what_all_share(obs: np.ndarray, rows: set[int]) -> None:
    """Features that an engine takes as one row come so to each part, and those of conditions that differ a row for each sample."""
    given = []

    def seen(x: np.ndarray, feature: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given.append(len(feature))
        return bowl(x, feature, goal)

    engines = [SplitEngine(Encoder(), FunctionEngine(seen), ["obs"], ["goal"], shared=["feature"]) for _ in range(2)]
    both = compose([Ebm(engine, MODEL, CONFIG) for engine in engines], [1.0, 0.5])
    found = both.sample(4, obs=obs, goal=GOAL)
    assert set(given) == rows
    whole = compose([Ebm(whole_engine(), MODEL, CONFIG) for _ in range(2)], [1.0, 0.5])
    np.testing.assert_array_equal(found, whole.sample(4, obs=obs, goal=GOAL))


def test_a_half_that_does_not_open_closes_the_other() -> None:
    class Broken(FunctionEngine):
        def open(self) -> None:
            raise LoadError("no such file")

    encoder = Encoder()
    with pytest.raises(LoadError, match="no such file"):
        SplitEngine(encoder, Broken(bowl), ["obs"], ["goal"]).open()
    assert not encoder.is_open


def test_an_engine_of_float32s_range_is_asked_once_and_without_a_scale() -> None:
    class Counting(FunctionEngine):
        needs_scale = False

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            scales.append(inputs["grad_scale"].copy())
            return super().run(inputs)

    scales: list[np.ndarray] = []
    engine = Counting(lambda x: (0.5e-12 * (x**2).sum(axis=1), 1e-12 * x))
    score = ScaledScore(engine, {})
    x = np.ones((3, 2), np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(score(x)[1], np.float32(1e-12) * x)
    assert len(scales) == score.calls == 2
    assert all((scale == 1).all() for scale in scales)
    # Another engine that needs one finds it, and the way back gives it up.
    score.switch(FunctionEngine(lambda x: (x.sum(axis=1), 1e-6 * x)), {})
    score(x)
    assert score.scale is not None
    np.testing.assert_allclose(score.scale, 1e6, rtol=1e-5)
    score.switch(engine, {})
    score(x)
    assert (score.scale == 1).all()


def test_what_was_prepared_cannot_be_written_to() -> None:
    array = np.broadcast_to(OBS[:1], (4, 3))
    fixed = read_only(array)
    assert fixed.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        fixed[0] = 0
    assert np.shares_memory(read_only(OBS), OBS)
    assert OBS.flags.writeable
