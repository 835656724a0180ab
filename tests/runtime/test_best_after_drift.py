"""Deadlines and streams in the order "noise-drift", whose steps do not tell the energies of their states."""

from __future__ import annotations

from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig
from ebm_export.runtime.best_after_drift import BestAfterDrift
from ebm_export.runtime.best_of import best_of
from ebm_export.runtime.best_so_far import BestSoFar
from ebm_export.runtime.fused_steps import EachStep, FusedInfo
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.pace import Pace
from ebm_export.runtime.precision_schedule import Span
from ebm_export.runtime.progress import Progress

from ..memory import no_room_for

MODEL = ModelSpec("ripple", TensorSpec("x", (3,), "float32"))
START = np.random.default_rng(0).uniform(-2, 2, (16, 3)).astype(np.float32)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"noise": 0.01},
    {"temperature": 0.0},
    {"noise": (0.3, 0.0), "step_size": (0.2, 0.01)},
    {"grad_clip": 0.5, "grad_clip_mode": "norm", "anneal": 10.0},
    {"bounds": (-1.0, 1.0), "bounds_mode": "reflect"},
]


def ripple(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (0.5 * x * x + np.cos(4 * x)).sum(axis=1), x - 4 * np.sin(4 * x)


class Coarse(FunctionEngine):
    """Rounds scaled gradients, as INT8 does: chains are others where their scale is."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = super().run(inputs)
        return answer | {"grad": np.round(answer["grad"] * 16) / np.float32(16)}


class Plain(FunctionEngine):
    needs_scale = False


ENGINES = pytest.mark.parametrize("engine", [FunctionEngine, Coarse, Plain])


def ebm(engine: Any = FunctionEngine, energy: Any = ripple, **settings: Any) -> Ebm:
    config = SamplerConfig.from_dict({"steps": 40, "step_size": 0.05, "order": "noise-drift", **settings})
    return Ebm(engine(energy), MODEL, config)


def check(found: BestSoFar, made: Ebm) -> None:
    """Energies are those of the states."""
    np.testing.assert_array_equal(found.energy, made.score(found.x)[0])


def states_of(made: Ebm, **keywords: Any) -> np.ndarray:
    """[1 + steps, n, *S], all states of the chains that nobody asks for energies in between."""
    seen: list[np.ndarray] = []
    made.refine(START, 3, callback=lambda now: seen.append(now.state.position.copy()), **keywords)
    return np.array(seen)


class TestDeadline:
    @ENGINES
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_gives_states_of_the_chains_and_their_energies(self, engine: Any, settings: dict[str, Any]) -> None:
        made = ebm(engine, **settings)
        found = made.refine(START, 3, deadline_ms=1e6)
        assert found.complete and found.steps == 40 and not found.diverged.any()
        check(found, made)
        path = states_of(made)
        assert (path == found.x).all(axis=2).any(axis=0).all()
        energies = np.array([made.score(states)[0] for states in path])
        assert (found.energy <= energies[[0, -1]]).all(), "of a chain the start and the end are looked at in any case"
        assert (found.energy - energies.min(axis=0)).mean() < 0.25 * (energies - energies.min(axis=0)).mean()

    def test_samples_from_noise(self) -> None:
        made = ebm()
        found = made.sample(9, 3, deadline_ms=1e6)
        check(found, made)
        assert (found.energy <= made.score(made.sample(9, 3))[0]).all()

    def test_numbers_stay_where_they_are(self) -> None:
        keep = np.array([[True, False, False]])
        made = ebm()
        found = made.refine(START, 3, keep=keep, deadline_ms=1e6)
        np.testing.assert_array_equal(found.x[:, 0], START[:, 0])
        assert (found.x[:, 1:] != START[:, 1:]).any()
        check(found, made)

    def test_the_start_is_not_made_worse(self) -> None:
        settled = ebm().sample(16, noise=0.0, steps=2000)
        found = ebm(temperature=2.0, steps=3).refine(settled, deadline_ms=1e6)
        np.testing.assert_array_equal(found.x, settled)
        check(found, ebm())

    def test_exact_sampling_and_other_samplers_know_theirs(self) -> None:
        """The order has no meaning for them, and nothing is asked at the end."""
        calls = []

        def counted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            calls.append(len(x))
            return ripple(x)

        found = ebm(Plain, counted, sampler="underdamped").refine(START, 3, deadline_ms=1e6)
        assert found.complete and len(calls) == 41

        def asked(**keywords: Any) -> int:
            calls.clear()
            config = SamplerConfig(steps=40, step_size=0.05, order="noise-drift")
            Ebm(Plain(counted), MODEL, config, exact=Plain(ripple)).refine(START, 3, **keywords)
            return len(calls)

        assert asked(deadline_ms=1e6) == asked() > 0


class TestClock:
    """Evaluations take 10 ms, and nothing else takes time."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        clock = [1000.0]
        for module in ("pace", "ebm", "best_of"):
            monkeypatch.setattr(f"ebm_export.runtime.{module}.perf_counter", lambda: clock[0])
        return clock

    @staticmethod
    def slow(clock: list[float], *spikes: float) -> Any:
        """The energy, whose calls take 10 ms but for those given in ms at the beginning."""
        left = list(spikes)

        def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            clock[0] += (left.pop(0) if left else 10) / 1000
            return ripple(x)

        return energy

    def test_a_chain_too_long_for_the_time(self, clock: list[float]) -> None:
        """Nothing is worked out for all of its steps before the first."""
        with no_room_for(10**9):
            assert ebm(energy=self.slow(clock), steps=10**9).refine(START, 3, deadline_ms=301).steps == 26

    def test_keeps_time_for_the_energies(self, clock: list[float]) -> None:
        found = ebm(energy=self.slow(clock), steps=1000).refine(START, 3, deadline_ms=301)
        # Two evaluations at the start, one for each step, one at the end. A step begins while there are 15 ms for it and for that.
        assert found.steps == 26 and not found.complete
        assert clock[0] == pytest.approx(1000.29)
        check(found, ebm())

    @pytest.mark.parametrize(("deadline_ms", "steps"), [(39, 0), (41, 1)])
    def test_the_start_says_what_a_step_will_take(self, clock: list[float], deadline_ms: float, steps: int) -> None:
        """It is asked for once, where there is no scale to be found."""
        found = ebm(Plain, self.slow(clock)).refine(START, 3, deadline_ms=deadline_ms)
        assert found.steps == steps and clock[0] <= 1000 + deadline_ms / 1000
        check(found, ebm())

    @pytest.mark.parametrize("deadline_ms", [60, 100, 137, 200, 400, 900])
    @pytest.mark.parametrize("spikes", [(), (10, 10, 10, 14), (10, 5, 5, 14, 3, 3, 20)])
    def test_is_in_time(self, clock: list[float], deadline_ms: float, spikes: tuple[float, ...]) -> None:
        for engine in (FunctionEngine, Plain):
            begun = clock[0]
            found = ebm(engine, self.slow(clock, *spikes), steps=30).refine(START, 3, deadline_ms=deadline_ms)
            assert clock[0] <= begun + deadline_ms / 1000
            check(found, ebm())

    @pytest.mark.parametrize("settings", [{}, {"noise": 0.01}, {"temperature": 0.0}], ids=str)
    @pytest.mark.parametrize("deadline_ms", [60, 100, 300])
    def test_better_than_where_the_chain_is_on_average(
        self, clock: list[float], deadline_ms: float, settings: dict[str, Any]
    ) -> None:
        found = ebm(energy=self.slow(clock), steps=1000, **settings).refine(START, 3, deadline_ms=deadline_ms)
        last = states_of(ebm(steps=1000, **settings))[found.steps]
        assert 0 < found.steps < 40
        assert found.energy.mean() <= ebm().score(last)[0].mean()

    def test_the_best_of_several(self, clock: list[float]) -> None:
        found = best_of(ebm(energy=self.slow(clock), steps=1000), 2, candidates=8, seed=3, deadline_ms=200)
        assert found.x.shape == (2, 3) and 5 < found.steps < 20 and clock[0] <= 1000.2
        check(found, ebm())
        every = ebm(steps=found.steps).sample(16, 3, deadline_ms=1e9)
        assert found.energy.mean() < every.energy.mean()


class TestDivergence:
    """Beyond x = 1.5 the energy is NaN; all chains climb, the first from the lowest place."""

    start = np.array([[-9, 0, 0], [1, 0, 0], [1.2, 0, 0]], np.float32)

    @staticmethod
    def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(x[:, 0] > 1.5, np.nan, -x[:, 0]), np.array([-1, 0, 0], np.float32) * np.ones_like(x)

    @pytest.mark.parametrize(("steps", "lost"), [(1, 0), (2, 0), (3, 1), (4, 2), (20, 2)])
    def test_a_chain_keeps_its_best_and_the_others_go_on(self, steps: int, lost: int) -> None:
        """Also where its last state, which nothing has asked for yet, has no energy."""
        found = ebm(energy=self.cliff, step_size=0.2, noise=0.0, steps=steps).refine(self.start, deadline_ms=1e6)
        assert found.complete and found.diverged.sum() == lost
        reached = [-9 + 0.2 * steps, min(1 + 0.2 * steps, 1.4), 1.4]
        np.testing.assert_allclose(found.x[:, 0], reached, rtol=1e-5)
        np.testing.assert_array_equal(found.energy, -found.x[:, 0])

    @pytest.mark.parametrize("steps", [600, 1000])
    def test_no_energy_without_end_is_a_best_one(self, steps: int) -> None:
        """The second chain is at -inf and, in the longer run, at an infinite x; the first stays, and is asked for at the end."""
        start = np.array([[0, 0, 0], [1, 0, 0]], np.float32)
        made = ebm(energy=lambda x: (-0.5 * (x * x).sum(axis=1), -x), step_size=0.1, noise=0.0, steps=steps)
        found = made.refine(start, deadline_ms=1e6)
        assert found.diverged.tolist() == [False, True] and found.steps == steps
        assert np.isfinite(found.x).all() and np.isfinite(found.energy).all() and found.x[1, 0] > 1e18
        *_, last = made.stream(2, x0=start)
        assert np.isfinite(last.x).all() and np.isfinite(last.energy).all()

    def test_no_state_without_end_is_a_best_one(self) -> None:
        """Where the energy has a lowest number that it keeps out there."""

        def level(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.maximum(-x[:, 0], -1e38 * np.isfinite(x[:, 0]) - 3e38 * np.isinf(x[:, 0])), -x * np.float32(9)

        start = np.array([[0, 0, 0], [1, 0, 0]], np.float32)
        for steps in range(36, 42):  # x is ten times as large after each: infinite after 39
            found = ebm(energy=level, step_size=1.0, noise=0.0, steps=steps).refine(start, deadline_ms=1e6)
            assert np.isfinite(found.x).all() and found.x[1, 0] > 1e35

    def test_where_all_diverge_it_ends(self) -> None:
        made = ebm(energy=self.cliff, step_size=0.2, noise=0.0, steps=1000)
        found = made.refine(self.start[1:], deadline_ms=1e6)
        assert found.steps == 4 and not found.complete and found.diverged.all()
        np.testing.assert_allclose(found.x[:, 0], 1.4, rtol=1e-5)
        *_, last = made.stream(2, x0=self.start[1:])
        assert last.steps == 4
        np.testing.assert_array_equal(last.x, found.x)
        np.testing.assert_array_equal(last.energy, found.energy)


def test_a_lost_chain_offers_no_state_of_a_later_block() -> None:
    """Nobody looks at its numbers any more, and they may be lower than any."""

    def told(done: int, places: list[list[float]], found: list[list[float]], lost: list[bool] | None) -> Progress:
        each = EachStep(np.array(places, np.float32)[..., None], np.array(found, np.float32)) if done else None
        last = np.array(places[-1], np.float32)[:, None]
        state = SimpleNamespace(position=last, energy=np.array(found[-1], np.float32))
        gone = None if lost is None else np.array(lost)
        return Progress(
            done, 4, range(2), 2, state, FusedInfo(0, each), None, diverged=gone, energies=lambda x: abs(x).sum(axis=1)
        )

    best = BestAfterDrift(())
    best.take(told(0, [[5, 5]], [[5, 5]], None))
    best.take(told(2, [[4, 4], [3, 3]], [[4.5, 4.5], [3.5, np.nan]], [False, True]))
    best.take(told(4, [[2.5, 1], [2, 0.5]], [[2.5, 1], [2.2, 0.6]], [False, True]))
    best.settle(Pace(perf_counter() + 1e6))
    assert best._x[0, 0] == 2 and best._x[1, 0] >= 4


class TestPrecisionSwitch:
    """An engine whose energies are 100 too low runs steps 0 to 9, and the one to be followed 10 to 39."""

    def ebm(self) -> Ebm:
        low = FunctionEngine(lambda x: (ripple(x)[0] - 100, ripple(x)[1]))
        high = FunctionEngine(ripple)
        schedule = [(Span("low", 0, 10), low), (Span("high", 10, None), high)]
        return Ebm(high, MODEL, SamplerConfig(steps=40, step_size=0.05, order="noise-drift"), schedule=schedule)

    def test_the_best_begins_anew(self) -> None:
        check(self.ebm().refine(START, 3, deadline_ms=1e6), self.ebm())

    def test_in_a_stream_too(self) -> None:
        found = list(self.ebm().stream(16, 3, x0=START))
        assert found[0].energy.max() < 0
        check(next(one for one in found if one.steps == 11), self.ebm())
        check(found[-1], self.ebm())


class TestStream:
    @ENGINES
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_yields_states_of_the_chains_with_their_energies(self, engine: Any, settings: dict[str, Any]) -> None:
        made = ebm(engine, **settings)
        found = list(made.stream(16, 3, x0=START))
        path = states_of(made)
        for one in found:
            check(one, made)
            assert (path[: 1 + one.steps] == one.x).all(axis=2).any(axis=0).all()
        energies = np.array([one.energy for one in found])
        assert (np.diff(energies, axis=0) <= 0).all()
        assert found[0].steps == 0 and found[-1].steps == 40 and found[-1].complete
        assert (energies[-1] <= made.score(path[-1])[0]).all()

    def test_asks_only_where_a_chain_came_lower(self) -> None:
        """From the top of a slope that all go up, one more at the start and one at the end."""
        calls = []

        def slope(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            calls.append(x)
            return -x[:, 0], np.array([1, 0, 0], np.float32) * np.ones_like(x)

        found = list(ebm(Plain, slope, noise=0.0).stream(16, 3, x0=START))
        assert [one.steps for one in found] == [0, 40]
        np.testing.assert_array_equal(found[-1].x, START)
        assert len(calls) == 1 + 40 + 2  # the first step is the lowest so far
