"""The best of several candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime import best_of as module
from ebm_export.runtime.best_of import best_of
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

CENTRES = np.array([[0, 0, 0], [50, 50, 50]], np.float32)


CENTRE = TensorSpec("centre", (3,), "float32")


def ebm(spec: TensorSpec = CENTRE) -> Ebm:
    def energy(x: np.ndarray, **cond: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 0.5 * ((x - cond[spec.name]) ** 2).sum(axis=1), x - cond[spec.name]

    model = ModelSpec("bowl", TensorSpec("x", (3,), "float32"), cond=(spec,))
    return Ebm(FunctionEngine(energy), model, SamplerConfig(steps=60, step_size=0.2))


def test_is_the_lowest_of_its_own_candidates() -> None:
    x, energy = best_of(ebm(), 2, candidates=10, seed=4, centre=CENTRES)
    everything = ebm().sample(20, seed=4, centre=np.repeat(CENTRES, 10, axis=0))
    energies = ebm().score(everything, centre=np.repeat(CENTRES, 10, axis=0))[0].reshape(2, 10)
    assert x.shape == (2, 3)
    np.testing.assert_array_equal(energy, energies.min(axis=1))
    np.testing.assert_array_equal(x, everything.reshape(2, 10, 3)[[0, 1], energies.argmin(axis=1)])


@pytest.mark.parametrize("more", [{}, {"deadline_ms": 60_000}, {"max_batch": 10}])
def test_answers_are_shared_out_among_calls(more: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    given = {
        "centre": rng.standard_normal((4, 3)),
        "known": rng.standard_normal((4, 3)),
        "keep": rng.uniform(size=(4, 3)) < 0.3,
    }
    given["keep"][:, 0] = False
    whole = best_of(ebm(), 4, candidates=5, seed=4, **given, **more)
    for first in (0, 2):
        rows = {name: array[first : first + 2] for name, array in given.items()}
        part = best_of(ebm(), 2, candidates=5, seed=4, first=first, **rows, **more)
        np.testing.assert_array_equal(part[0], whole[0][first : first + 2])
        np.testing.assert_array_equal(part[1], whole[1][first : first + 2])


@pytest.mark.parametrize("first", [-1, 1.0, True, "2", 2**60 - 515])
def test_what_is_no_number_of_an_answer(first: Any) -> None:
    with pytest.raises(UsageError, match=f"first: expected a whole number of at least 0 and below {2**60 - 515}, got "):
        best_of(ebm(), 3, candidates=8, first=first, centre=CENTRES[:1])
    best_of(ebm(), 3, candidates=8, first=2**60 - 516, centre=CENTRES[:1], steps=1)


@pytest.mark.parametrize("more", [{}, {"deadline_ms": 60_000}])
def test_candidates_start_from_the_state_of_their_answer(more: dict[str, Any]) -> None:
    start = np.array([[9, 9, 9], [-9, 0, 9]], np.float32)
    given = {"steps": 3, "seed": 4, **more}
    drawn = best_of(ebm(), 2, candidates=6, x0=start, centre=CENTRES, **given)
    repeated = CENTRES.repeat(6, axis=0)
    every = ebm().refine(start.repeat(6, axis=0), centre=repeated, **given)
    states = every.x if more else every
    energies = (every.energy if more else ebm().score(states, centre=repeated)[0]).reshape(2, 6)
    np.testing.assert_array_equal(drawn[0], states.reshape(2, 6, 3)[[0, 1], energies.argmin(axis=1)])
    np.testing.assert_array_equal(drawn[1], energies.min(axis=1))


def test_numbers_that_stay_are_those_of_the_start() -> None:
    start = np.array([[9, 9, 9], [-9, 0, 9]], np.float32)
    x, _ = best_of(ebm(), 2, candidates=6, x0=start, centre=CENTRES, keep=np.array([[True, False, False]]))
    np.testing.assert_array_equal(x[:, 0], [9, -9])
    assert (x[:, 1:] != start[:, 1:]).all()


def test_one_observation_for_all() -> None:
    x, energy = best_of(ebm(), 3, candidates=5, centre=CENTRES[:1])
    assert x.shape == (3, 3) and len(set(energy)) == 3


def test_a_condition_goes_by_its_name_in_the_model_and_in_the_graph() -> None:
    renamed = ebm(TensorSpec("energy_", (3,), "float32", parameter="energy"))
    expected, _ = best_of(ebm(), 2, candidates=4, centre=CENTRES)
    for name in ("energy", "energy_"):
        np.testing.assert_array_equal(best_of(renamed, 2, candidates=4, **{name: CENTRES})[0], expected)


class TestWithoutAnEnergy:
    """There is none from 5 on, where the last drift leads some chains, and nothing asks any more."""

    @staticmethod
    def ebm(drift: float) -> Ebm:
        def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.where(x[:, 0] < 5, x[:, 0], np.nan).astype(np.float32), np.full_like(x, -drift)

        model = ModelSpec("cliff", TensorSpec("x", (1,), "float32"))
        return Ebm(FunctionEngine(energy), model, SamplerConfig(steps=1, step_size=1.0, noise=0.0, order="noise-drift"))

    def test_a_candidate_is_not_the_lowest(self) -> None:
        some = self.ebm(drift=4)
        assert np.isnan(some.score(some.sample(80, seed=1))[0]).sum() > 5
        states, lowest = best_of(some, 10, candidates=8, seed=1)
        np.testing.assert_array_equal(states[:, 0], lowest)
        assert (lowest < 5).all()

    def test_an_answer_is_an_error(self) -> None:
        with pytest.raises(DivergenceError, match="3 of 3 answers have no candidate with a finite energy, of 4 each"):
            best_of(self.ebm(drift=20), 3, candidates=4)

    def test_a_candidate_that_diverges_is_started_anew(self) -> None:
        some = self.ebm(drift=1)
        with pytest.raises(DivergenceError, match=r'pass diverged="restart"'):
            best_of(some, 4, candidates=64, steps=2, noise=1.5)
        x, energy = best_of(some, 4, candidates=64, steps=2, noise=1.5, diverged="restart")
        states = some.sample(256, steps=2, noise=1.5, diverged="restart").reshape(4, 64)
        np.testing.assert_array_equal(x[:, 0], np.where(states < 5, states, np.inf).min(axis=1))
        assert np.isfinite(energy).all()

    def test_candidates_are_not_dropped(self) -> None:
        with pytest.raises(UsageError, match="leaves out candidates.*restart"):
            best_of(self.ebm(drift=4), 1, candidates=4, diverged="drop")


def test_kept_numbers_have_to_be_known() -> None:
    with pytest.raises(UsageError, match=r"keep: says which .*--known"):
        best_of(ebm(), 1, candidates=4, centre=CENTRES[:1], keep=np.array([[True, False, False]]))


def test_numbers_of_an_answer_are_kept() -> None:
    keep, known = np.array([[True, False, False]]), np.array([[7, 0, 0], [9, 0, 0]], np.float32)
    x, energy = best_of(ebm(), 2, candidates=6, centre=CENTRES, keep=keep, known=known)
    np.testing.assert_array_equal(x[:, 0], [7, 9])
    expected = ebm().sample(12, keep=keep, known=known.repeat(6, 0), centre=CENTRES.repeat(6, 0)).reshape(2, 6, 3)
    assert all(one in candidates for one, candidates in zip(x.tolist(), expected.tolist(), strict=True))
    np.testing.assert_allclose(energy, ebm().score(x, centre=CENTRES)[0])


def test_what_there_is_at_a_deadline() -> None:
    found = best_of(ebm(), 2, candidates=6, centre=CENTRES, deadline_ms=60_000, seed=3)
    every = ebm().sample(12, seed=3, centre=CENTRES.repeat(6, 0), deadline_ms=60_000)
    best = np.array([0, 6]) + every.energy.reshape(2, 6).argmin(axis=1)
    assert found.complete and found.steps == every.steps and not found.diverged.any()
    np.testing.assert_array_equal(found.x, every.x[best])
    np.testing.assert_array_equal(found.energy, every.energy[best])


def test_the_repetition_of_conditions_is_part_of_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.03])
    monkeypatch.setattr(module, "perf_counter", lambda: next(clock))
    some = ebm()
    sample, asked = some.sample, []

    def noted(*given: Any, **keywords: Any) -> Any:
        asked.append(keywords["deadline_ms"])
        return sample(*given, **(keywords | {"deadline_ms": 60_000}))

    monkeypatch.setattr(some, "sample", noted)
    best_of(some, 2, candidates=8, centre=CENTRES, deadline_ms=50)
    assert asked == [pytest.approx(20)]


def test_one_answer_without_an_energy_at_a_deadline_is_told_of() -> None:
    def energy(x: np.ndarray, lost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(lost[:, 0] > 0, np.nan, (x**2).sum(axis=1)).astype(np.float32), 2 * x

    spec = ModelSpec("half", TensorSpec("x", (3,), "float32"), cond=(TensorSpec("lost", (1,), "float32"),))
    some = Ebm(FunctionEngine(energy), spec, SamplerConfig(steps=5, step_size=0.1))
    found = best_of(some, 2, candidates=4, lost=[[0], [1]], deadline_ms=60_000)
    assert np.isfinite(found.energy[0]) and np.isinf(found.energy[1])
    with pytest.raises(DivergenceError):
        best_of(some, 2, candidates=4, lost=[[1], [1]], deadline_ms=60_000)


def test_more_candidates_are_better() -> None:
    few, many = (best_of(ebm(), 1, candidates=count, centre=CENTRES[:1])[1][0] for count in (4, 200))
    assert many < few


@pytest.mark.parametrize("max_batch", [1, 5, 64])
def test_no_engine_call_is_larger_than_a_batch(max_batch: int) -> None:
    sizes = set()

    def watched(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.add(len(x))
        return 0.5 * (x * x).sum(axis=1), x

    model = ModelSpec("bowl", TensorSpec("x", (2,), "float32"))
    with Ebm(FunctionEngine(watched), model, SamplerConfig(steps=5, step_size=0.1)) as ebm:
        x, energy = best_of(ebm, 3, 8, max_batch=max_batch)
        assert max(sizes) <= max_batch
        np.testing.assert_allclose(energy, ebm.score(x)[0])
        np.testing.assert_array_equal(x, best_of(ebm, 3, 8)[0])


def test_refuses() -> None:
    with pytest.raises(UsageError, match="candidates: expected a whole number of at least 1, got 0"):
        best_of(ebm(), 2, candidates=0, centre=CENTRES)
    with pytest.raises(UsageError, match="x0: expected 3 states, or 1 for all chains, got 2"):
        best_of(ebm(), 3, x0=CENTRES, centre=CENTRES[:1])
    with pytest.raises(UsageError, match=r"centre: expected shape \[3 or 1, 3\], got \[2, 3\]"):
        best_of(ebm(), 3, centre=CENTRES)
