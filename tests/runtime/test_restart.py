"""Chains that diverge and run again: all that a batch lost together, with the samples that each would have alone."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig
from ebm_export.runtime import run as run_module
from ebm_export.runtime.chain import chain_steps
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.progress import Progress, ProgressOnly

SAMPLERS: dict[str, dict[str, Any]] = {
    "langevin": {},
    "noise first": {"order": "noise-drift"},
    "preconditioned": {"sampler": "preconditioned"},
    "underdamped": {"sampler": "underdamped"},
    "mala": {"sampler": "mala"},
    "hmc": {"sampler": "hmc", "leapfrog": 3},
    "tempering": {"sampler": "tempering", "ladder": (1.0, 2.0)},
    "exact": {"block": 4},
}
N = 24


class Calls:
    """Some of the chains start beyond 1, where there is no energy, and those that do not may come there."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: np.ndarray, centre: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
        self.sizes.append(len(x))
        y = x - centre
        return np.where(abs(y).max(axis=1) > 1, np.nan, 0.5 * (y * y).sum(axis=1)).astype(np.float32), y


def ebm(name: str = "langevin", *, cond: bool = False, edge: float = 1.3) -> tuple[Ebm, Calls]:
    calls = Calls()
    settings = {"steps": 12, "step_size": 0.02, "temperature": 0.05, "init": "uniform", "bounds": (-edge, edge)}
    inputs = (TensorSpec("centre", (2,), "float32"),) if cond else ()
    model = ModelSpec("cliff", TensorSpec("x", (2,), "float32"), cond=inputs)
    exact = FunctionEngine(Calls()) if name == "exact" else None
    config = SamplerConfig(**(settings | SAMPLERS[name]))
    return Ebm(FunctionEngine(calls), model, config, exact=exact), calls


def alone(name: str, n: int, **given: Any) -> np.ndarray:
    """The same chains, of which each runs in a batch of its own."""
    return ebm(name, cond="centre" in given)[0].sample(
        n, 3, diverged="restart", max_batch=2 if name == "tempering" else 1, **given
    )


def anew(caplog: pytest.LogCaptureFixture) -> set[tuple[int, int]]:
    """(attempt, chain) of all that are said to run again, whether a line names a chain among others or alone."""
    found = [re.search(r"started anew \((\d) of 3\): ([\d, ]+)", message) for message in caplog.messages]
    return {(int(said[1]), int(chain)) for said in found if said for chain in said[2].strip(" ,").split(", ")}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_those_of_chains_alone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)  # which names them all
    expected = alone(name, N)
    said = anew(caplog)
    assert len(said) > 2 and {attempt for attempt, _ in said} >= {1, 2}  # some were lost twice
    caplog.clear()
    some, calls = ebm(name)
    np.testing.assert_array_equal(some.sample(N, 3, diverged="restart"), expected)
    assert anew(caplog) == said
    first = calls.sizes.count(calls.sizes[0])  # calls of the batch itself
    assert len(calls.sizes) <= 4 * first and sorted(set(calls.sizes))[-2] > 2  # each alone would have taken as many


@pytest.mark.parametrize("max_batch", [None, 1500])
def test_a_line_tells_of_thousands(max_batch: int | None, caplog: pytest.LogCaptureFixture) -> None:
    ends: dict[tuple[int, int], dict[int, int]] = {}

    def watch(now: Progress) -> None:
        if now.diverged is not None and now.attempt < 3:
            steps = ends.setdefault((now.chains[0] // (max_batch or 3000), now.attempt), {})
            for chain in np.asarray(now.chains)[now.diverged].tolist():
                steps.setdefault(chain, now.done)

    caplog.set_level(logging.INFO)
    ebm(edge=1.03)[0].sample(3000, 3, diverged="restart", temperature=1e-2, max_batch=max_batch, callback=watch)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == len(ends) >= 2
    for line, ((_, attempt), steps) in zip(warned, ends.items(), strict=True):
        chains, first, last = sorted(steps), min(steps.values()), max(steps.values())
        named = ", ".join(map(str, chains[:8])) + (f" and {len(chains) - 8} more" if len(chains) > 8 else "")
        when = f"after steps {first} to {last}" if last > first else f"after step {first}" if last else "at the start"
        assert line == (
            f"{len(chains)} of {max_batch or 3000} chains diverged, seen {when}, and are started anew ({attempt + 1} of 3): {named}"
        )
    assert len(ends[0, 0]) > 50 and any(max(steps.values()) for steps in ends.values())
    assert {chain for _, chain in anew(caplog)} == {chain for steps in ends.values() for chain in steps}


def test_conditions_and_numbers_that_stay_are_those_of_their_chains() -> None:
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {
        "centre": rng.uniform(-0.3, 0.3, (N, 2)).astype(np.float32),
        "keep": np.eye(2, dtype=bool)[rng.integers(0, 2, N)],
        "known": rng.uniform(-0.2, 0.2, (N, 2)).astype(np.float32),
    }
    found = ebm(cond=True)[0].sample(N, 3, diverged="restart", **given)
    np.testing.assert_array_equal(found, alone("langevin", N, **given))
    np.testing.assert_array_equal(found[given["keep"]], given["known"][given["keep"]])


def test_the_number_of_the_first_chain_counts() -> None:
    options: dict[str, Any] = {"diverged": "restart", "temperature": 5e-4, "max_batch": 2600}
    whole = ebm(edge=1.03)[0].sample(2600, 3, **options)
    np.testing.assert_array_equal(ebm(edge=1.03)[0].sample(600, 3, first=2000, **options), whole[2000:])


def test_states_on_the_way_are_those_of_the_last_attempt(tmp_path: Path) -> None:
    samples = ebm()[0].sample(N, 3, diverged="restart", every=3, out=tmp_path / "all.npy")
    alone("langevin", N, every=3, out=tmp_path / "alone.npy")
    states = np.load(tmp_path / "all.npy")
    np.testing.assert_array_equal(states, np.load(tmp_path / "alone.npy"))
    np.testing.assert_array_equal(states[-1], samples)


def test_progress_counts_what_runs_again() -> None:
    told: list[tuple[int, int]] = []
    seen: list[Progress] = []
    ebm()[0].sample(N, 3, diverged="restart", max_batch=10, callback=ProgressOnly(lambda *part: told.append(part)))
    ebm()[0].sample(N, 3, diverged="restart", max_batch=10, callback=seen.append)
    assert told == [now.part for now in seen]
    again = {(now.attempt, tuple(now.chains)) for now in seen if now.attempt}
    extra = sum(len(chains) for _, chains in again)
    assert {attempt for attempt, _ in again} >= {1, 2} and max(len(chains) for _, chains in again) > 1
    done, total = zip(*told, strict=True)
    assert list(done) == sorted(done) and list(total) == sorted(total)
    assert (done[0], total[0]) == (0, N * 12) and done[-1] == total[-1] == (N + extra) * 12
    assert all(part <= whole for part, whole in told)


def test_a_run_that_was_cut_goes_on_with_all_that_are_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Cut(Exception):
        pass

    expected = ebm()[0].sample(N, 3, diverged="restart")
    places = []

    def cut(now: Progress) -> None:
        if now.attempt and now.done == 2 + 5 * (now.attempt - 1) and (now.attempt, now.done) not in places:
            places.append((now.attempt, now.done))
            assert len(now.chains) > 1
            raise Cut

    options: dict[str, Any] = {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0, "diverged": "restart"}
    for _ in range(2):
        with pytest.raises(Cut):
            ebm()[0].sample(N, 3, callback=cut, **options)
    assert places == [(1, 2), (2, 7)]
    told: list[tuple[int, tuple[int, int]]] = []
    caplog.clear()
    np.testing.assert_array_equal(
        ebm()[0].sample(N, 3, callback=lambda now: told.append((now.attempt, now.part)), **options), expected
    )
    assert told[0][0] == 2 and told[-1][1][0] == told[-1][1][1]  # what was done was not done again
    assert re.match(rf"\d of {N} chains diverged, and are started anew \(2 of 3\): \d", caplog.messages[0])


def test_one_range_of_starts_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states that a caller has refined may be as large as the memory that is left."""
    x = np.zeros((3, 2), np.float32)
    shared = []

    def seen(engine: Any, config: Any, position: np.ndarray, *others: Any, **options: Any) -> Any:
        shared.append(np.shares_memory(position, x))
        return chain_steps(engine, config, position, *others, **options)

    monkeypatch.setattr(run_module, "chain_steps", seen)
    ebm()[0].refine(x)
    assert shared == [True]
    assert not x.any()
