"""Deadlines and streams."""

from __future__ import annotations

from threading import Thread
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.best_so_far import BestSoFar
from ebm_export.runtime.fused_steps import Fused
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.pace import BlockTime
from ebm_export.runtime.precision_schedule import Span

from ..memory import no_room_for

MODEL = ModelSpec("bowl", TensorSpec("x", (3,), "float32"))
START = np.full((4, 3), 2, np.float32)


def bowl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * (x * x).sum(axis=1), x


def ebm(energy: Any = bowl, **settings: Any) -> Ebm:
    return Ebm(FunctionEngine(energy), MODEL, SamplerConfig.from_dict({"steps": 50, "step_size": 0.1, **settings}))


class Clock:
    """A clock on which nothing takes time but energies, and these what they are told to."""

    def __init__(self, *durations: float) -> None:
        """Takes the time in ms of each evaluation; the last goes on for ever."""
        self.now = 1000.0
        self.calls = 0
        self.durations = list(durations)

    def __call__(self) -> float:
        return self.now

    def bowl(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        self.now += (self.durations.pop(0) if len(self.durations) > 1 else self.durations[0]) / 1000
        return bowl(x)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(10)
    for module in ("pace", "ebm", "best_so_far"):
        monkeypatch.setattr(f"ebm_export.runtime.{module}.perf_counter", clock)
    return clock


class Coarse(FunctionEngine):
    """Answers with zero or infinity until a scale is found."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = super().run(inputs)
        grad = answer["grad"] * np.float32(1e-9)
        grad[np.abs(grad) < 0.3] = 0
        grad[np.abs(grad) > 4] = np.inf
        return {**answer, "grad": grad}


class TestDeadline:
    def test_stops_before_it_with_the_steps_it_got(self, clock: Clock) -> None:
        result = ebm(clock.bowl, steps=1000).refine(START, deadline_ms=301)
        # Two evaluations at the start and one for each step; a step begins while there are 15 ms.
        assert clock.calls == 29
        assert result.steps == 27 and not result.complete
        assert clock.now == pytest.approx(1000.29)

    @pytest.mark.parametrize(("deadline_ms", "steps"), [(129, 2), (131, 3), (138, 4)])
    def test_leaves_time_for_a_step_as_slow_as_the_slowest_lately(
        self, clock: Clock, deadline_ms: float, steps: int
    ) -> None:
        # The second step takes 40 ms and ends at 70 ms; the third ends at 80 ms, when 0.95 * 40 ms are expected.
        clock.durations = [10, 10, 10, 40, 10]
        result = ebm(clock.bowl).refine(START, deadline_ms=deadline_ms)
        assert result.steps == steps

    @pytest.mark.parametrize(("deadline_ms", "steps"), [(34, 0), (36, 1)])
    def test_the_first_step_is_expected_to_take_as_long_as_an_evaluation(
        self, clock: Clock, deadline_ms: float, steps: int
    ) -> None:
        assert ebm(clock.bowl).refine(START, deadline_ms=deadline_ms).steps == steps  # 20 ms are over then

    @pytest.mark.parametrize("sampler", ["langevin", "mala", "optimize", "tempering"])
    def test_the_search_for_a_scale_looks_at_the_clock(self, clock: Clock, sampler: str) -> None:
        """A chain that there was no time to find a scale for takes no step, and its energy is that of its start."""

        settings = SamplerConfig(sampler=sampler, steps=1000, step_size=0.1)
        energy = Ebm(Coarse(clock.bowl), MODEL, settings)
        energy.refine(START, steps=1, sampler="langevin")
        calls = clock.calls - 1
        assert calls > 5
        clock.now, clock.calls = 1000.0, 0
        result = energy.refine(START, deadline_ms=50)
        assert clock.now <= 1000.05 and clock.calls == 4
        assert result.steps == 0
        np.testing.assert_allclose(result.energy, 6.0)
        np.testing.assert_array_equal(result.x, START)
        assert energy.refine(START, deadline_ms=10 * (calls + 10)).steps > 0

    @pytest.mark.parametrize("sampler", ["langevin", "mala"])
    @pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
    def test_the_search_where_another_engine_takes_over_too(self, clock: Clock, sampler: str, order: str) -> None:
        """Its energies are 100 lower, and count for nothing where it takes no step."""
        low = Coarse(lambda x: (clock.bowl(x)[0] - 100, x))
        high = FunctionEngine(clock.bowl)
        high.needs_scale = False
        schedule = [(Span("high", 0, 10), high), (Span("low", 10, None), low)]
        settings = SamplerConfig(
            steps=40, step_size=0.1, order=order, sampler=sampler, warmup=0 if sampler == "mala" else None
        )
        energy = Ebm(high, MODEL, settings, schedule=schedule)
        result = energy.refine(START, seed=3, deadline_ms=157)
        assert clock.now <= 1000.157
        assert result.steps == 10
        np.testing.assert_allclose(result.energy, bowl(result.x)[0], rtol=1e-6)
        assert energy.refine(START, seed=3, deadline_ms=1000).energy.max() < -50

    def test_an_engine_that_takes_over_encodes_its_condition_before_the_start(self, clock: Clock) -> None:
        """So that the step in which it does is no slower, and is not refused."""
        begun: list[int] = []

        class Encoding(FunctionEngine):
            def prepare(self, cond: Any) -> dict[str, np.ndarray]:
                begun.append(clock.calls)
                clock.now += 0.04
                return super().prepare(cond)

        engines = [Encoding(clock.bowl) for _ in range(2)]
        for engine in engines:
            engine.needs_scale = False
        schedule = [(Span("high", 0, 4), engines[0]), (Span("low", 4, None), engines[1])]
        energy = Ebm(engines[1], MODEL, SamplerConfig(steps=40, step_size=0.1), schedule=schedule)
        assert energy.refine(START, seed=3, deadline_ms=80 + 106).steps == 6
        assert begun == [0, 0]

    def test_a_chain_whose_gradient_is_zero_at_every_scale_looks_at_the_clock_too(self, clock: Clock) -> None:
        """The last call of the search, with the usual scale, where none was found."""
        flat = Ebm(FunctionEngine(lambda x: (clock.bowl(x)[0], np.zeros_like(x))), MODEL, SamplerConfig(steps=9))
        flat.refine(START, steps=1)
        before = clock.calls
        flat.score(START)
        search = clock.calls - before
        clock.now = 1000.0
        result = flat.refine(START, deadline_ms=10 * search - 3)
        assert clock.now < 1000 + (10 * search - 3) / 1000
        assert result.steps == 0

    def test_no_step_at_all_is_told_of_once(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        energy = ebm(clock.bowl)
        assert energy.refine(START, deadline_ms=36).steps == 1 and not caplog.messages
        for _ in range(3):
            assert energy.refine(START, deadline_ms=34).steps == 0
        (said,) = caplog.messages
        assert "no step was taken by the deadline" in said and f"warm({len(START)})" in said

    @pytest.mark.parametrize(("deadline_ms", "steps"), [(34, 0), (36, 1)])
    def test_what_fused_steps_took_says_nothing_of_steps_that_are_not(
        self, clock: Clock, deadline_ms: float, steps: int
    ) -> None:
        """As after a run of as many chains whose sampler the graph has."""
        energy = ebm(clock.bowl)
        energy._best_runs._block_times[len(START)] = {16: BlockTime(0.001, 0.001)}
        assert energy.refine(START, deadline_ms=deadline_ms).steps == steps

    @pytest.mark.parametrize("deadline_ms", [np.float32(301), np.int64(301)])
    def test_numbers_of_numpy(self, clock: Clock, deadline_ms: float) -> None:
        assert ebm(clock.bowl, steps=1000).refine(START, deadline_ms=deadline_ms).steps == 27

    def test_as_many_steps_as_there_is_time_for(self, clock: Clock) -> None:
        """Nothing is worked out for all of them before the first."""
        with no_room_for(10**9):
            assert ebm(clock.bowl, steps=10**9).refine(START, deadline_ms=301).steps == 27

    def test_no_step_draws_the_noise_of_a_thousand(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which would look as if a step took that long, so that no second one was begun."""

        def never(*arguments: object) -> None:
            raise AssertionError

        monkeypatch.setattr("ebm_export.runtime.chain_random.NoiseInBulk", never)
        assert ebm(clock.bowl, steps=5000).refine(START[:1], deadline_ms=301).steps == 27
        with pytest.raises(AssertionError):  # as it is drawn without a deadline
            ebm(steps=5000).refine(START[:1])

    @pytest.mark.parametrize(("deadline_ms", "steps"), [(64, 0), (66, 1)])
    def test_a_step_of_several_evaluations(self, clock: Clock, deadline_ms: float, steps: int) -> None:
        energy = ebm(clock.bowl, sampler="hmc", leapfrog=3)
        assert energy.refine(START, deadline_ms=deadline_ms).steps == steps

    @pytest.mark.parametrize(("block", "warmup"), [(1, 4), (20, 4), (50, 4), (200, 0)])
    @pytest.mark.parametrize("deadline_ms", [60, 300, 600, 900])
    def test_no_block_of_exact_sampling_is_begun_that_ends_later(
        self, clock: Clock, block: int, warmup: int, deadline_ms: int
    ) -> None:
        settings = SamplerConfig(steps=400, step_size=0.1, block=block, warmup=warmup)
        exact = Ebm(FunctionEngine(clock.bowl), MODEL, settings, exact=FunctionEngine(clock.bowl))
        result = exact.refine(START, deadline_ms=deadline_ms)
        assert clock.now <= 1000 + deadline_ms / 1000
        if block == 20 and deadline_ms == 900:
            assert result.steps == 64  # three blocks of 210 ms, and 315 ms are asked for one more

    @pytest.mark.parametrize("warmup", [0, 4])
    def test_a_slow_exact_energy_is_expected_once_a_block(self, clock: Clock, warmup: int) -> None:
        exact = FunctionEngine(lambda x: (setattr(clock, "now", clock.now + 0.1), bowl(x))[1])
        settings = SamplerConfig(steps=400, step_size=0.1, block=16, warmup=warmup)
        made = Ebm(FunctionEngine(clock.bowl), MODEL, settings, exact=exact)
        assert (
            made.refine(START, deadline_ms=700).steps >= 16
        )  # a block takes 260 ms, and half as long again is kept in reserve
        assert clock.now <= 1000.7

    def test_a_flight_is_given_up_when_time_is_over(self, clock: Clock) -> None:
        # The start takes 2 ms and the first flight 10. In the second a call takes 12, so that it would end at 34 ms.
        clock.durations = [1] * 15 + [12, 1]
        energy = ebm(clock.bowl, sampler="hmc", leapfrog=10, warmup=0)
        result = energy.refine(START, seed=3, deadline_ms=30)
        assert clock.now == pytest.approx(1000.027)
        assert result.steps == 1 and not result.complete and not result.diverged.any()
        first = ebm(sampler="hmc", leapfrog=10, warmup=0, steps=1).refine(START, seed=3, deadline_ms=1e6)
        np.testing.assert_array_equal(result.x, first.x)
        np.testing.assert_array_equal(result.energy, first.energy)
        assert (result.energy < 6).any()

    def test_the_evaluation_at_the_start_counts_for_the_first_steps(self, clock: Clock) -> None:
        # After 20 ms each step takes 4, and 1.5 * 0.95**k * 10 are kept free before step k, from 0.
        clock.durations = [10, 10, 4]
        energy = ebm(clock.bowl, sampler="tempering", ladder=(1, 2))
        assert energy.refine(START, deadline_ms=40).steps == 2

    def test_a_block_of_exact_sampling_is_given_up_too(self, clock: Clock) -> None:
        """Also before its exact energy, which takes 50 ms. The first block begins after 106 ms, of which the start took 54."""
        for durations in ([2] * 8 + [90, 2], [2] * 12 + [90, 2]):
            begun = clock.now
            clock.durations = durations
            exact = FunctionEngine(lambda x: (setattr(clock, "now", clock.now + 0.05), bowl(x))[1])
            settings = SamplerConfig(steps=400, step_size=0.1, block=10, warmup=0)
            made = Ebm(FunctionEngine(clock.bowl), MODEL, settings, exact=exact)
            result = made.refine(START, deadline_ms=250)
            assert result.steps == 0 and clock.now < begun + 0.25
            np.testing.assert_array_equal(result.x, START)

    @pytest.mark.parametrize("settings", [{"sampler": "mala"}, {"sampler": "hmc"}, {"sampler": "tempering"}], ids=str)
    @pytest.mark.parametrize("deadline_ms", [60, 200, 401, 1000])
    def test_calls_half_as_long_again_are_in_time(
        self, clock: Clock, settings: dict[str, Any], deadline_ms: float
    ) -> None:
        clock.durations = [10, *np.random.default_rng(0).uniform(10, 14.5, 300).tolist(), 10]
        result = ebm(clock.bowl, **settings, leapfrog=3).refine(START, deadline_ms=deadline_ms)
        assert clock.now <= 1000 + deadline_ms / 1000
        assert result.steps > 0 or deadline_ms == 60

    def test_gives_each_chains_lowest_energy(self) -> None:
        seen = []
        ebm().refine(
            START, seed=3, callback=lambda now: seen.append((now.state.energy.copy(), now.state.position.copy()))
        )
        result = ebm().refine(START, seed=3, deadline_ms=1e6)
        energies = np.array([energy for energy, _ in seen])
        best = energies.argmin(axis=0)
        np.testing.assert_array_equal(result.energy, energies.min(axis=0))
        np.testing.assert_array_equal(result.x, [seen[step][1][chain] for chain, step in enumerate(best)])
        assert result.steps == 50 and result.complete

    def test_no_time_at_all_still_gives_the_start(self, clock: Clock) -> None:
        result = ebm(clock.bowl).refine(START, deadline_ms=1e-3)
        assert result.steps == 0
        np.testing.assert_array_equal(result.x, START)
        np.testing.assert_allclose(result.energy, 6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"deadline_ms": 0}, "deadline_ms: expected a number of milliseconds above 0, got 0"),
            ({"deadline_ms": "1"}, "deadline_ms: expected a number of milliseconds above 0, got '1'"),
            ({"deadline_ms": 1, "max_batch": 3}, "runs all chains in one engine call, which takes 3 of these 4: ask"),
            ({"deadline_ms": 1, "callback": print}, r"callback has no effect with deadline_ms: .* or use stream\(\)"),
            ({"deadline_ms": 1, "diverged": "drop"}, "diverged has no effect with deadline_ms"),
            ({"diverged": "ignore"}, "diverged: expected one of stop, restart, drop, got 'ignore'"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            ebm().refine(START, **arguments)


class TestDivergence:
    """Beyond x = 1.5 the energy is NaN; all chains climb, the first from the lowest place."""

    start = np.array([[-9, 0, 0], [1, 0, 0], [1.2, 0, 0]], np.float32)

    @staticmethod
    def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(x[:, 0] > 1.5, np.nan, -x[:, 0]), np.array([-1, 0, 0], np.float32) * np.ones_like(x)

    def ebm(self, **settings: Any) -> Ebm:
        return ebm(self.cliff, step_size=0.2, noise=0.0, **settings)

    def test_a_chain_keeps_its_best_and_the_others_go_on(self) -> None:
        result = self.ebm(steps=20).refine(self.start, deadline_ms=1e6)
        assert result.complete and result.diverged.tolist() == [False, True, True]
        np.testing.assert_allclose(result.x[:, 0], [-5, 1.4, 1.4], rtol=1e-5)
        np.testing.assert_array_equal(result.energy, self.ebm().score(result.x)[0])

    def test_where_all_diverge_it_ends(self) -> None:
        result = self.ebm(steps=1000).refine(self.start[1:], deadline_ms=1e6)
        assert result.steps == 3 and not result.complete and result.diverged.all()
        np.testing.assert_allclose(result.x[:, 0], 1.4, rtol=1e-5)
        assert [one.steps for one in self.ebm().stream(2, x0=self.start[1:])] == [0, 1, 2, 3]

    def test_where_the_gradient_is_not_finite_there_is_no_best(self) -> None:
        climber = ebm(lambda x: (-x[:, 0], np.where(x > 1.5, np.nan, [-1, 0, 0])), step_size=0.2, noise=0.0, steps=20)
        np.testing.assert_allclose(climber.refine(self.start, deadline_ms=1e6).x[:, 0], [-5, 1.4, 1.4], rtol=1e-5)

    def test_no_finite_energy_at_all_is_an_error(self) -> None:
        with pytest.raises(
            DivergenceError, match="none of 3 chains had a finite energy in 0 steps: look at the states"
        ):
            self.ebm().refine(self.start + 20, deadline_ms=1e6)
        some = self.ebm(steps=2).refine(self.start + np.array([[0], [20], [0]]), deadline_ms=1e6)
        assert np.isinf(some.energy).tolist() == [False, True, False] and some.diverged[1]


class TestWarm:
    def test_the_first_call_is_over_before_the_deadline(self, clock: Clock) -> None:
        clock.durations = [5000, 10]
        energy = ebm(clock.bowl)
        energy.warm(4)
        assert energy.refine(START, deadline_ms=101).steps == 7

    def test_asks_every_engine_in_the_batches_of_the_chains(self) -> None:
        asked: dict[str, list[tuple[int, ...]]] = {"low": [], "high": []}

        def engine(name: str) -> FunctionEngine:
            def energy(x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                assert label.dtype == np.int64 and label.shape == (len(x), 2)
                asked[name].append(x.shape)
                return bowl(x)

            return FunctionEngine(energy)

        low, high = engine("low"), engine("high")
        model = ModelSpec("m", TensorSpec("x", (3,), "float32"), cond=(TensorSpec("label", (2,), "int64"),))
        schedule = [(Span("low", 0, 1), low), (Span("high", 1, None), high)]
        Ebm(high, model, schedule=schedule, max_batch=8).warm(11)
        assert set(asked["low"]) == set(asked["high"]) == {(8, 3), (3, 3)}
        asked["high"].clear()
        Ebm(high, model).warm(5, SamplerConfig(sampler="tempering", ladder=(1, 2)))
        assert set(asked["high"]) == {(10, 3)}
        asked["high"].clear()
        Ebm(high, model).warm(5, sampler="tempering", ladder=(1, 2, 4))
        assert set(asked["high"]) == {(15, 3)}
        asked["high"].clear()
        Ebm(high, model, SamplerConfig(sampler="tempering", ladder=(1, 2))).warm(5)
        assert set(asked["high"]) == {(10, 3)}

    @pytest.mark.parametrize(
        "settings", [{"sampler": "tempering"}, {"sampler": "hmc"}, {"order": "noise-drift"}], ids=str
    )
    def test_no_call_has_another_size_than_the_warm_ones(self, settings: dict[str, Any]) -> None:
        sizes: list[int] = []

        def watched(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            sizes.append(len(x))
            return bowl(x)

        made = ebm(watched)
        made.warm(4, **settings)
        warm = set(sizes)
        sizes.clear()
        made.refine(START, deadline_ms=1e6, **settings)
        assert set(sizes) == warm

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"lader": (1, 2)}, "'lader' is neither an input .* did you mean 'ladder'"),
            ({"ladder": (1, 2)}, "ladder has no effect on the sampler 'langevin'"),
            ({"sampler": "nuts"}, "sampler: expected one of"),
        ],
    )
    def test_refuses_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            ebm().warm(4, **settings)

    def test_refuses(self) -> None:
        with pytest.raises(UsageError, match="n: expected a whole number of at least 1, got 0"):
            ebm().warm(0)


class TestPrecisionSwitch:
    """An engine whose energies are 100 too low runs steps 0 to 9, and the one to be followed 10 to 49."""

    def ebm(self) -> Ebm:
        low = FunctionEngine(lambda x: (bowl(x)[0] - 100, x))
        high = FunctionEngine(bowl)
        schedule = [(Span("low", 0, 10), low), (Span("high", 10, None), high)]
        return Ebm(high, MODEL, SamplerConfig(steps=50, step_size=0.1), schedule=schedule)

    def test_the_best_begins_anew(self) -> None:
        result = self.ebm().refine(START, seed=3, deadline_ms=1e6)
        np.testing.assert_array_equal(result.energy, self.ebm().score(result.x)[0])

    def test_a_stream_tells_of_it(self) -> None:
        found = list(self.ebm().stream(4, seed=3, x0=START))
        assert [one.steps for one in found if one.energy.max() < 0][-1] <= 10
        first = next(one for one in found if one.steps == 11)
        np.testing.assert_array_equal(first.energy, self.ebm().score(first.x)[0])


class TestStream:
    def test_yields_while_states_improve(self) -> None:
        found = list(ebm().stream(4, seed=3, x0=START))
        assert all(isinstance(one, BestSoFar) for one in found)
        assert [one.steps for one in found] == sorted({one.steps for one in found})
        energies = np.array([one.energy for one in found])
        assert (np.diff(energies, axis=0) <= 0).all()
        assert (np.diff(energies[:-1], axis=0) < 0).any(axis=1).all()
        assert found[0].steps == 0 and found[-1].steps == 50 and found[-1].complete
        np.testing.assert_array_equal(found[0].x, START)  # later ones do not write into it
        np.testing.assert_array_equal(found[-1].x, ebm().refine(START, seed=3, deadline_ms=1e6).x)

    def test_works_only_when_asked(self) -> None:
        calls = []

        def counted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            calls.append(x)
            return bowl(x)

        stream = ebm(counted, noise=0.0).stream(4, x0=START)
        assert not calls
        next(stream), next(stream)
        assert len(calls) == 3

    def test_two_at_once_open_fused_steps_once(self) -> None:
        opened: list[float] = []

        def slowly() -> None:
            opened.append(perf_counter())
            sleep(0.1)

        config = SamplerConfig(steps=8, step_size=0.1)
        telling = Fused(FunctionEngine(bowl), 4, config, slowly, each=True)
        made = Ebm(FunctionEngine(bowl), MODEL, config, telling=telling, fuse=True)
        threads = [Thread(target=made.stream, args=[4]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(opened) == 1

    def test_not_more_often_than_asked(self, clock: Clock) -> None:
        # The start takes 20 ms and each step 10, so that the next one is due 45 ms after one, at the fifth step from there.
        found = list(ebm(clock.bowl, noise=0.0, steps=18).stream(4, x0=START, seconds=0.045))
        assert [one.steps for one in found] == [0, 5, 10, 15, 18]

    def test_what_became_better_meanwhile_is_told_when_it_is_due(self, clock: Clock) -> None:
        # The first step leads to the minimum, and none of the others is better.
        found = list(ebm(clock.bowl, noise=0.0, step_size=1.0, steps=18).stream(4, x0=START, seconds=0.045))
        assert [one.steps for one in found] == [0, 5, 18]
        np.testing.assert_array_equal(found[1].energy, 0)

    @pytest.mark.parametrize(
        ("settings", "own", "least"),
        [
            ({}, 0, 67),
            ({}, 50, 11),  # each with 60 ms, where 15 are kept free and not 90
            ({"order": "noise-drift"}, 0, 44),
            ({"order": "noise-drift"}, 50, 9),
            ({"sampler": "hmc", "leapfrog": 3}, 0, 22),
            ({"sampler": "hmc", "leapfrog": 3}, 50, 10),
            ({"sampler": "mala"}, 0, 67),
            ({"sampler": "mala"}, 50, 14),
        ],
        ids=str,
    )
    def test_ends_before_a_deadline(self, clock: Clock, settings: dict[str, Any], own: float, least: int) -> None:
        """The time that the listener takes for each, in ms, is none of a step's, and the last one comes after it."""
        steps = []
        for best in ebm(clock.bowl, steps=1000, **settings).stream(4, seed=3, x0=START, deadline_ms=701):
            assert clock.now <= 1000.701 + own / 1000
            steps.append(best.steps)
            clock.now += own / 1000
        assert not best.complete
        assert steps[-1] >= least
        until_there = [
            one for one in ebm(**(settings | {"steps": 1000})).stream(4, seed=3, x0=START) if one.steps <= best.steps
        ]
        np.testing.assert_array_equal(best.x, until_there[-1].x)

    @pytest.mark.parametrize("deadline_ms", range(21, 61, 3))
    def test_a_step_asks_once_more_in_the_order_noise_drift(self, clock: Clock, deadline_ms: int) -> None:
        """After the start, which takes 20 ms, one takes 20, and half as long again is kept free."""
        *_, best = ebm(clock.bowl, order="noise-drift").stream(4, seed=3, x0=START, deadline_ms=deadline_ms)
        assert clock.now <= 1000 + deadline_ms / 1000
        assert best.steps == (deadline_ms >= 50)

    @pytest.mark.parametrize("deadline_ms", range(300, 700, 7))
    def test_and_is_in_time_after_many_steps_that_did_not(self, clock: Clock, deadline_ms: int) -> None:
        """Chains climb for 29 steps, where nobody asks for energies, and every fourth step from there leads them lower."""

        def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            _, gradient = clock.bowl(x)
            evaluated = clock.calls
            return np.full(
                len(x), 100 + evaluated if evaluated < 32 or evaluated % 5 else -evaluated, np.float32
            ), gradient

        *_, best = ebm(energy, steps=1000, order="noise-drift").stream(4, seed=3, x0=START, deadline_ms=deadline_ms)
        assert clock.now <= 1000 + deadline_ms / 1000
        assert best.steps >= deadline_ms / 10 * 0.6

    def test_a_deadline_finds_what_it_finds_without_a_stream(self, clock: Clock) -> None:
        *_, best = ebm(clock.bowl, steps=1000).stream(4, seed=3, x0=START, deadline_ms=301)
        assert best.steps == 27 and clock.now == pytest.approx(1000.29)
        whole = ebm(clock.bowl, steps=1000).refine(START, seed=3, deadline_ms=301)
        assert whole.steps == 27
        np.testing.assert_array_equal(best.x, whole.x)

    def test_blocks_of_exact_sampling_end_before_a_deadline(self, clock: Clock) -> None:
        settings = SamplerConfig(steps=400, step_size=0.1, block=20, warmup=4)
        exact = Ebm(FunctionEngine(clock.bowl), MODEL, settings, exact=FunctionEngine(clock.bowl))
        *_, best = exact.stream(4, x0=START, deadline_ms=900)
        assert best.steps == 64 and clock.now <= 1000.9

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"seconds": -1}, "seconds: expected a number of seconds of at least 0, got -1"),
            ({"seconds": float("nan")}, "seconds: expected a number of seconds of at least 0, got nan"),
            ({"deadline_ms": 0}, "deadline_ms: expected a number of milliseconds above 0, got 0"),
        ],
    )
    def test_no_times(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            ebm().stream(4, **given)

    def test_a_warning_of_the_caller_stays_one(self) -> None:
        for _ in ebm().stream(4):
            with pytest.warns(RuntimeWarning, match="overflow"):
                np.float32(1e38) * np.float32(1e38)
            break
