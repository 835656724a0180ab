"""Whether there is time for what comes next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.best_so_far import Best, BestSoFar
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.pace import BlockTime, Pace


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("pace", "ebm"):
        monkeypatch.setattr(f"ebm_export.runtime.{module}.perf_counter", clock)
    return clock


def started(clock: Clock, seconds: float, calls: int = 1, evaluations: int = 1, deadline: float = 100.0) -> Pace:
    pace = Pace(clock.now + deadline)
    pace.starts()
    clock.now += seconds
    pace.started(calls, evaluations)
    return pace


def room(pace: Pace, together: int, clock: Clock) -> float:
    """Seconds that a call is expected to take, reserve included."""
    low, high = 0.0, 1e6
    for _ in range(80):
        pace._deadline = clock.now + (low + high) / 2
        low, high = (low, (low + high) / 2) if pace.has_time(together) else ((low + high) / 2, high)
    return high


class TestExpected:
    def test_the_first_step_takes_as_long_as_its_evaluations(self, clock: Clock) -> None:
        pace = started(clock, 6, calls=2, evaluations=5)
        assert room(pace, 1, clock) == pytest.approx(1.5 * 15)
        assert room(pace, 8, clock) == pytest.approx(1.5 * 8 * 15)

    def test_what_was_done_before_the_start_does_not_count(self, clock: Clock) -> None:
        pace = Pace(1000)
        clock.now += 30
        pace.starts()
        clock.now += 2
        pace.started(1)
        assert room(pace, 1, clock) == pytest.approx(1.5 * 2)

    def test_a_step_that_was_taken_says_more_than_the_start(self, clock: Clock) -> None:
        pace = started(clock, 20)
        clock.now += 1
        pace.took()
        assert room(pace, 1, clock) == pytest.approx(1.5)

    def test_a_block_takes_no_longer_than_its_steps(self, clock: Clock) -> None:
        pace = started(clock, 20)
        clock.now += 1
        pace.took()
        assert room(pace, 8, clock) == pytest.approx(1.5 * 8)

    def test_a_block_that_ends_with_an_exact_energy(self, clock: Clock) -> None:
        """The start had one too, which no step has."""
        pace = Pace(100.0)
        pace.starts()
        with pace.correcting():
            clock.now += 20
        clock.now += 2 * 3
        pace.started(2)
        assert room(pace, 1, clock) == pytest.approx(1.5 * 3)
        assert room(pace, 8, clock) == pytest.approx(1.5 * (8 * 3 + 20))

    def test_a_block_is_timed_for_itself(self, clock: Clock) -> None:
        pace = started(clock, 20)
        for together, seconds in ((1, 1), (8, 3)):
            clock.now += seconds
            pace.took(together)
        assert room(pace, 8, clock) == pytest.approx(1.5 * 3)
        assert room(pace, 1, clock) == pytest.approx(1.5 * 1)

    def test_one_step_takes_no_longer_than_a_block(self, clock: Clock) -> None:
        """A single step that was slow once would else be expected for ever, where blocks are all that is taken."""
        pace = started(clock, 20)
        for together, seconds in ((1, 40), (8, 2), (8, 3), (8, 2)):
            clock.now += seconds
            pace.took(together)
        assert room(pace, 1, clock) == pytest.approx(1.5 * 0.95 * 3)

    def test_a_slow_block_is_forgotten_while_none_is_taken(self, clock: Clock) -> None:
        pace = started(clock, 20)
        for together, seconds in ((8, 6.5), (8, 7), (1, 1)):
            clock.now += seconds
            pace.took(together)
        assert room(pace, 8, clock) == pytest.approx(1.5 * 0.95 * 7)

    def test_what_a_block_takes_at_the_least_is_not_forgotten(self, clock: Clock) -> None:
        pace = started(clock, 20)
        clock.now += 40
        pace.took(8)
        for _ in range(100):
            clock.now += 1
            pace.took()
        assert room(pace, 8, clock) == pytest.approx(1.5 * 40)

    def test_blocks_of_earlier_runs_are_known(self, clock: Clock) -> None:
        blocks = {8: BlockTime(2.0, 3.0)}
        pace = Pace(1000, blocks)
        pace.starts()
        clock.now += 1
        pace.started(1)
        assert room(pace, 8, clock) == pytest.approx(1.5 * 3)
        clock.now += 4
        pace.took(8)
        assert blocks == {8: BlockTime(2.0, 4.0)}


def test_an_encoder_is_not_expected_at_each_step(clock: Clock) -> None:
    """It takes 30 ms of 50, a step 1 ms."""

    class Encoded(FunctionEngine):
        def prepare(self, cond: Any) -> dict[str, np.ndarray]:
            clock.now += 0.030
            return super().prepare(cond)

    def bowl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        clock.now += 0.001
        return (x * x).sum(axis=1), 2 * x

    engine = Encoded(bowl)
    engine.needs_scale = False
    ebm = Ebm(engine, ModelSpec("bowl", TensorSpec("x", (3,), "float32")), SamplerConfig(steps=500, step_size=0.01))
    assert ebm.sample(2, deadline_ms=50).steps == 18


class TestHandingOver:
    """What comes after the last engine call takes time too: for a small network as much as a step."""

    def test_it_is_kept_free_as_the_last_runs_had_it(self, clock: Clock) -> None:
        seen: list[float] = []
        for seconds in (2.0, 2.0, 90.0):
            pace = Pace(clock.now + 100, handing_over=seen)
            pace.over()
            clock.now += seconds
            pace.handed_over()
        assert seen == [2, 2, 90]
        pace = Pace(clock.now + 4.9 + 1.5 * 2, handing_over=seen)  # the one that was slow decides nothing
        pace.starts()
        clock.now += 1.0
        pace.started(1)
        assert pace.has_time()
        clock.now += 2.6
        pace.took()  # 2.6 + 1.3 = 3.9 seconds after this
        assert not pace.has_time()

    def test_it_is_learned_by_calls_with_a_deadline(self, clock: Clock) -> None:
        """The clock moves by a second in each engine call, and by three where the result is copied for the caller."""

        def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            clock.now += 1
            return 0.5 * (x**2).sum(1), x

        model = ModelSpec("bowl", TensorSpec("x", (2,), "float32"))
        config = SamplerConfig(steps=1000, step_size=0.1)
        with Ebm(FunctionEngine(energy), model, config) as ebm, pytest.MonkeyPatch.context() as patch:
            whole = Best.copy

            def slow(best: Best) -> BestSoFar:
                clock.now += 3
                return whole(best)

            patch.setattr(Best, "copy", slow)
            late = []
            for _ in range(3):
                begun = clock.now
                ebm.sample(2, deadline_ms=20_000)
                late.append(clock.now - begun > 20)
        assert late == [True, False, False]
