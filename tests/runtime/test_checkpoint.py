"""Runs that are cut off and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig, UsageError, checkpoint, run_identity
from ebm_export.runtime.checkpoint import Checkpoint, Saved
from ebm_export.runtime.device import describe_device, toolchain
from ebm_export.runtime.divergence import Divergence
from ebm_export.runtime.errors import DivergenceError, LoadError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.precision_schedule import Span
from ebm_export.runtime.progress import Progress
from ebm_export.runtime.sample_file import SampleFile

from .test_sample_file import no_file_beyond

SHAPE = (3,)
MODEL = ModelSpec("bowl", TensorSpec("x", SHAPE, "float32"))

SETTINGS: dict[str, dict[str, Any]] = {
    "langevin": {},
    "noise first": {"order": "noise-drift", "noise": 0.1},
    "annealed": {"anneal": 10.0, "step_size": [0.2, 0.05]},
    "preconditioned": {"sampler": "preconditioned"},
    "mala": {"sampler": "mala"},
    "hmc": {"sampler": "hmc", "leapfrog": 3},
    "underdamped": {"sampler": "underdamped"},
    "optimize": {"sampler": "optimize"},
    "tempering": {"sampler": "tempering", "ladder": (1.0, 2.0, 4.0)},
}


class Cut(Exception):
    """A kill, as far as a test in this process can have one."""


def wavy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (0.5 * x**2 + np.cos(3 * x)).sum(axis=1), x - 3 * np.sin(3 * x)


def ebm(name: str = "langevin", energy: Callable[..., Any] = wavy, **options: Any) -> Ebm:
    return Ebm(
        FunctionEngine(energy), MODEL, SamplerConfig(**({"steps": 40, "step_size": 0.1} | SETTINGS[name])), **options
    )


def cut_at(batch: int, step: int) -> Callable[[Progress], None]:
    def callback(now: Progress) -> None:
        if now.chains.start == batch and now.done >= step:
            raise Cut

    return callback


def run_cut(make: Callable[[], Ebm], cuts: list[tuple[int, int]], n: int = 5, **options: Any) -> np.ndarray:
    """Runs with a saving after every step and a cut at each of these (first chain, step), then to the end."""
    for batch, step in cuts:
        with pytest.raises(Cut):
            make().sample(n, 7, checkpoint_seconds=0, callback=cut_at(batch, step), **options)
    found = make().sample(n, 7, checkpoint_seconds=0, **options)
    assert isinstance(found, np.ndarray)
    return found


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_sampler_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    whole = ebm(name).sample(5, 7)
    # In the warm-up, at its end, after it, and in the second batch.
    found = run_cut(lambda: ebm(name), [(0, 3), (0, 10), (0, 25)], checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(found, whole)


def test_batches(tmp_path: Path) -> None:
    whole = ebm("mala").sample(5, 7, max_batch=2)
    cuts = [(0, 11), (2, 4), (2, 30), (4, 39)]
    np.testing.assert_array_equal(run_cut(lambda: ebm("mala"), cuts, max_batch=2, checkpoint=tmp_path / "run"), whole)


@pytest.mark.parametrize("diverged", ["stop", "drop", "restart"])
def test_many_batches_are_saved_when_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diverged: Divergence
) -> None:
    """Each saving writes the results of all chains, so one after every batch takes longer than the chains."""
    found, save = [], Checkpoint.save

    def counted(self: Checkpoint, saved: Saved) -> None:
        found.append(saved.first)
        save(self, saved)

    monkeypatch.setattr(Checkpoint, "save", counted)
    settings: dict[str, Any] = {"diverged": diverged, "max_batch": 2, "checkpoint": tmp_path / "run"}
    energy = wavy
    if diverged != "stop":
        energy = cliff
        settings |= {"init": "uniform", "bounds": (-1.6, 1.6), "step_size": 0.02, "temperature": 0.05}
    made = ebm(energy=energy).sample(20, 7, checkpoint_seconds=3600, **settings)
    assert found == [20]
    np.testing.assert_array_equal(ebm(energy=energy).sample(20, 7, **settings), made)
    (tmp_path / "run").unlink()
    np.testing.assert_array_equal(ebm(energy=energy).sample(20, 7, checkpoint_seconds=0, **settings), made)
    assert set(range(0, 21, 2)) <= set(found)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5", True])
def test_what_is_no_time_between_two_savings(tmp_path: Path, seconds: Any) -> None:
    with pytest.raises(
        UsageError, match=f"checkpoint_seconds: expected a number of seconds of at least 0, got {seconds!r}"
    ):
        ebm().sample(5, 7, checkpoint=tmp_path / "run", checkpoint_seconds=seconds)
    assert not (tmp_path / "run").exists()


def test_after_the_end_the_samples_are_returned_again(tmp_path: Path) -> None:
    whole = ebm().sample(5, 7, checkpoint=tmp_path / "run")

    def never(x: np.ndarray) -> Any:
        raise AssertionError("the energy is asked for nothing")

    np.testing.assert_array_equal(ebm(energy=never).sample(5, 7, checkpoint=tmp_path / "run"), whole)


def test_chains_from_given_states(tmp_path: Path) -> None:
    starts = np.random.default_rng(0).standard_normal((100, *MODEL.x.shape)).astype(np.float32)
    whole = ebm().refine(starts, 7)
    options = {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0, "max_batch": 40}
    for batch, step in ((0, 9), (80, 3)):
        with pytest.raises(Cut):
            ebm().refine(starts, 7, callback=cut_at(batch, step), **options)
    other = starts.copy()
    other[99] += 1
    with pytest.raises(UsageError, match="is of another run: start was"):
        ebm().refine(other, 7, **options)
    np.testing.assert_array_equal(ebm().refine(starts, 7, every=20, out=tmp_path / "s.npy", max_batch=40)[:], whole)
    np.testing.assert_array_equal(ebm().refine(starts, 7, **options), whole)
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy")[-1], whole)


def test_precisions_by_steps(tmp_path: Path) -> None:
    def coarse(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        energy, grad = wavy(x)
        return energy, np.round(8 * grad) / 8

    def make() -> Ebm:
        fine = FunctionEngine(wavy)
        fine.needs_scale = False
        spans = [(Span("int8", 0, 20), FunctionEngine(coarse)), (Span("fp32", 20, None), fine)]
        return Ebm(fine, MODEL, SamplerConfig(steps=40, step_size=0.1), schedule=spans)

    whole = make().sample(5, 7)
    np.testing.assert_array_equal(
        run_cut(make, [(0, 10), (0, 20), (0, 21), (0, 33)], checkpoint=tmp_path / "run"), whole
    )


def test_another_schedule_is_another_run(tmp_path: Path) -> None:
    """The engines are the same, and so are their names."""
    engines = {"int8": FunctionEngine(lambda x: (0.4 * (x**2).sum(axis=1), 0.8 * x)), "fp32": FunctionEngine(wavy)}

    def make(first: int, *, exact: bool = False) -> Ebm:
        spans = [(Span("int8", 0, first), engines["int8"]), (Span("fp32", first, None), engines["fp32"])]
        config = SamplerConfig(steps=40, step_size=0.1)
        if exact:
            return Ebm(engines["int8"], MODEL, config, exact=engines["fp32"])
        return Ebm(engines["fp32"], MODEL, config, schedule=spans)

    options = {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0}
    with pytest.raises(Cut):
        make(30).sample(5, 7, callback=cut_at(0, 20), **options)
    for other in (make(10), make(30, exact=True)):
        with pytest.raises(UsageError, match="is of another run: "):
            other.sample(5, 7, **options)
    np.testing.assert_array_equal(make(30).sample(5, 7, **options), make(30).sample(5, 7))
    with pytest.raises(UsageError, match=r"switches was \{'30': 'function'\} and is \{'10': 'function'\}"):
        make(10).sample(5, 7, **options)


def test_exact_sampling(tmp_path: Path) -> None:
    def make() -> Ebm:
        config = SamplerConfig(steps=60, step_size=0.1, block=5)
        return Ebm(
            FunctionEngine(lambda x: (0.4 * (x**2).sum(axis=1), 0.8 * x)), MODEL, config, exact=FunctionEngine(wavy)
        )

    whole = make().sample(5, 7)
    np.testing.assert_array_equal(run_cut(make, [(0, 5), (0, 15), (0, 40)], checkpoint=tmp_path / "run"), whole)


def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Not finite beyond 1.5, where some chains come."""
    energy, grad = wavy(x)
    off = (np.abs(x) > 1.5).any(axis=1)
    return np.where(off, np.nan, energy), np.where(off[:, None], np.nan, grad)


@pytest.mark.parametrize("diverged", ["drop", "restart"])
def test_chains_that_diverge(tmp_path: Path, diverged: str) -> None:
    settings = {"diverged": diverged, "init": "uniform", "bounds": (-1.6, 1.6), "step_size": 0.02, "temperature": 0.05}
    whole = ebm(energy=cliff).sample(12, 7, max_batch=4, **settings)
    assert len(whole) < 12 or diverged == "restart"
    found = run_cut(
        lambda: ebm(energy=cliff),
        [(0, 20), (4, 1), (8, 30)],
        n=12,
        max_batch=4,
        checkpoint=tmp_path / "run",
        **settings,
    )
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (0, "2 of 3 chains diverged, seen after steps 0 to 16, and are started anew"),
        (11, "2 of 3 chains diverged, 1 of them seen after step 16, and are started anew"),
        (25, "2 of 3 chains diverged, and are started anew"),
    ],
)
def test_no_step_is_told_of_chains_that_an_earlier_process_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int, said: str
) -> None:
    """That they diverged is known, and when is not: the step of the saving is another one."""

    def slope(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where((x > 1.55).any(axis=1), np.nan, -x.sum(axis=1)), -np.ones_like(x)

    start = np.stack([np.full(SHAPE, value, np.float32) for value in (1.6, 0.0, -9.0)])  # which go up by 0.1 a step
    given = {"x0": start, "noise": 0.0, "diverged": "restart", "checkpoint": tmp_path / "run", "checkpoint_seconds": 0}
    if step:
        with pytest.raises(Cut):
            ebm(energy=slope).sample(3, 7, callback=cut_at(0, step), **given)
    with pytest.raises(DivergenceError, match="started anew 3 times"):
        ebm(energy=slope).sample(3, 7, **given)
    assert caplog.messages[0] == f"{said} (1 of 3): 0, 1"


def test_a_chain_that_is_started_anew_is_gone_on_with(tmp_path: Path) -> None:
    """The cut comes while one chain runs again: a saving from there must be enough."""
    settings = {"diverged": "restart", "init": "uniform", "bounds": (-1.6, 1.6), "step_size": 0.02, "temperature": 0.05}
    whole = ebm(energy=cliff).sample(12, 7, **settings)

    def cut_after(calls: int) -> Callable[[np.ndarray], Any]:
        left = calls

        def energy(x: np.ndarray) -> Any:
            nonlocal left
            left -= len(x) == 1
            if left < 0:
                raise Cut
            return cliff(x)

        return energy

    for calls in (0, 10, 25):
        with pytest.raises(Cut):
            ebm(energy=cut_after(calls)).sample(12, 7, checkpoint=tmp_path / "run", checkpoint_seconds=0, **settings)
    found = ebm(energy=cut_after(10**6)).sample(12, 7, checkpoint=tmp_path / "run", checkpoint_seconds=0, **settings)
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 8}, "seed was 7 and is 8"),
        ({"n": 6}, "n was 5 and is 6"),
        ({"step_size": 0.2}, "step_size was 0.1 and is 0.2"),
        ({"x0": np.ones(SHAPE, np.float32)[None]}, "start was"),
        ({"every": 4, "out": "more.npy"}, "every was None and is 4"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    given = {"n": 5, "seed": 7} | {key: tmp_path / value if key == "out" else value for key, value in changes.items()}
    ebm().sample(5, 7, checkpoint=tmp_path / "run")
    with pytest.raises(UsageError, match=f"is of another run: .*{said}"):
        ebm().sample(given.pop("n"), given.pop("seed"), checkpoint=tmp_path / "run", **given)


def other_threads(engine: FunctionEngine) -> None:
    engine.cpu_threads = 2


def other_library(engine: FunctionEngine) -> None:
    engine.backend = "openvino"


@pytest.mark.parametrize(
    ("change", "said"),
    [(other_threads, "threads was 1 and is 2"), (other_library, "engines was .*openvino was None and is '20")],
)
def test_other_rounding_is_refused(tmp_path: Path, change: Callable[[FunctionEngine], None], said: str) -> None:
    engine = FunctionEngine(wavy)
    engine.cpu_threads = 1
    Ebm(engine, MODEL).sample(5, 7, steps=4, step_size=0.1, checkpoint=tmp_path / "run")
    change(engine)
    with pytest.raises(UsageError, match=f"is of another run: .*{said}"):
        Ebm(engine, MODEL).sample(5, 7, steps=4, step_size=0.1, checkpoint=tmp_path / "run")


def test_an_upgrade_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ebm().sample(5, 7, checkpoint=tmp_path / "run")
    monkeypatch.setattr(run_identity, "toolchain", lambda: toolchain() | {"numpy": "9.0", "scipy": "9.0"})
    with pytest.raises(UsageError, match=rf"is of another run: numpy was '{np.__version__}' and is '9.0'\. Give"):
        ebm().sample(5, 7, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("name", ["processor", "instructions"])
def test_another_processor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    here = describe_device()
    with monkeypatch.context() as first:
        first.setattr(
            run_identity, "describe_device", lambda: here | {"memory": "8 GiB", "cores": "1", name: "another"}
        )
        ebm().sample(5, 7, checkpoint=tmp_path / "run")
    said = f"is of another run: {name} was 'another' and is {here.get(name)!r} (other processors round in other ways: go on"
    with pytest.raises(UsageError, match=re.escape(said)):
        ebm().sample(5, 7, checkpoint=tmp_path / "run")
    with pytest.raises(UsageError) as refused:
        ebm().sample(5, 8, checkpoint=tmp_path / "run")
    assert "seed was 7 and is 8" in str(refused.value) and "memory" not in str(refused.value)


def test_one_of_another_form_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoint, "_VERSION", 1)
        ebm().sample(5, 7, checkpoint=tmp_path / "run")
    with pytest.raises(UsageError, match=r"written by another version of ebm-export \(form 1, here 4\)"):
        ebm().sample(5, 7, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("diverged", ["drop", "restart"])
def test_a_run_that_stopped_goes_on_without_its_lost_chains(tmp_path: Path, diverged: Divergence) -> None:
    """From its last saving, and ends with the bits of one that dropped or restarted from the beginning."""
    start = np.full((12, 3), 0.9, np.float32)
    settings: dict[str, Any] = {"x0": start, "step_size": 0.02, "temperature": 0.3, "max_batch": 4}
    whole = ebm(energy=cliff).sample(12, 7, diverged=diverged, **settings)
    assert len(whole) == (9 if diverged == "drop" else 12)
    settings |= {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0}
    with pytest.raises(DivergenceError, match="1 of 4 .* after step 20; .* with which .*run is gone on with"):
        ebm(energy=cliff).sample(12, 7, **settings)
    with np.load(tmp_path / "run") as file:  # the first batch is done, and nearly half of the second
        assert (file["first"], file["run.done"]) == (4, 19)
    np.testing.assert_array_equal(ebm(energy=cliff).sample(12, 7, diverged=diverged, **settings), whole)
    for other in {"stop", "drop", "restart"} - {diverged}:  # now chains have been dropped, or started anew
        with pytest.raises(UsageError, match=f"diverged was '{diverged}' and is '{other}'"):
            ebm(energy=cliff).sample(12, 7, diverged=other, **settings)


@pytest.mark.parametrize("given", ["known", "data"])
def test_arrays_are_looked_at_to_their_last_number(tmp_path: Path, given: str) -> None:
    """Though a run with drawn starts is told by the first of them."""
    values = np.random.default_rng(0).standard_normal((300, *SHAPE)).astype(np.float32)
    more: dict[str, Any] = {"known": values, "keep": [[True, False, False]]}
    if given == "data":
        more = {"data": values, "init": "data"}
    ebm().sample(300, 7, checkpoint=tmp_path / "run", **more)
    more[given] = values.copy()
    more[given][200, 0] += 1
    with pytest.raises(UsageError, match=f"is of another run: {'data' if given == 'data' else 'start'} was"):
        ebm().sample(300, 7, checkpoint=tmp_path / "run", **more)


def test_a_second_run_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    """It would begin the file of states anew, and each would go on from what the other saved."""
    kept: dict[str, Any] = {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0, "every": 10}
    said = []

    def second(now: Progress) -> None:
        if now.done in (0, 35):
            with pytest.raises(UsageError, match="checkpoint: .*run is in use by a run that has not ended") as error:
                ebm().sample(5, 8, out=tmp_path / "s.npy", **kept)
            said.append(str(error.value))

    found = ebm().sample(5, 7, out=tmp_path / "s.npy", callback=second, **kept)
    assert len(said) == 2
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy")[-1], found)
    np.testing.assert_array_equal(found, ebm().sample(5, 7))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run", "s.npy"]


@pytest.mark.parametrize("full", ["run", "s.npy"])
def test_a_disk_that_becomes_full_costs_nothing_but_time(tmp_path: Path, full: str) -> None:
    """The run ends and says which file it is; with room again it goes on from its last saving."""
    kept: dict[str, Any] = {"checkpoint": tmp_path / "run", "every": 5, "out": tmp_path / "s.npy", "max_batch": 500}
    whole = ebm().sample(1000, 7, every=5, out=tmp_path / "whole.npy", max_batch=500)
    with contextlib.ExitStack() as stack:

        def becomes_full(now: Progress) -> None:
            if now.done == (21 if full == "run" else 20) and now.chains.start:  # a row is written after step 20
                stack.enter_context(no_file_beyond(10_000))  # a checkpoint has more, and this row begins behind it

        seconds = 0 if full == "run" else 3600
        with pytest.raises(OSError, match=f"{full}'$"):
            ebm().sample(1000, 7, callback=becomes_full, checkpoint_seconds=seconds, **kept)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(
        ["s.npy", "whole.npy", *(["run"] if full == "run" else [])]
    )
    np.testing.assert_array_equal(ebm().sample(1000, 7, **kept), whole)
    assert (tmp_path / "s.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("content", ["text", "array"])
def test_a_file_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "run").write_bytes(b"no zip")
    if content == "array":
        np.save(tmp_path / "run.npy", np.zeros(3))
        (tmp_path / "run.npy").rename(tmp_path / "run")
    with pytest.raises(LoadError) as error:
        ebm().sample(5, 7, checkpoint=tmp_path / "run")
    # It may be somebody's data, and what numpy says of it is no help.
    assert str(error.value) == (
        f"{tmp_path / 'run'} is no checkpoint of a run, or a damaged one: give another --checkpoint (in Python checkpoint=), or remove "
        "this file if it was one"
    )


class TestStates:
    def test_rows_are_the_states(self, tmp_path: Path) -> None:
        ebm().sample(5, 7, max_batch=2, every=6, out=tmp_path / "s.npy")
        rows = np.load(tmp_path / "s.npy")
        assert rows.shape == (6, 5, 3)
        for row, states in enumerate(rows):
            np.testing.assert_array_equal(states, ebm().sample(5, 7, steps=6 * (row + 1)))

    def test_a_cut_loses_and_doubles_nothing(self, tmp_path: Path) -> None:
        ebm().sample(5, 7, max_batch=2, every=6, out=tmp_path / "whole.npy")
        run_cut(
            ebm, [(0, 7), (2, 12), (2, 35)], max_batch=2, every=6, out=tmp_path / "cut.npy", checkpoint=tmp_path / "run"
        )
        assert (tmp_path / "cut.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()

    def test_states_that_are_gone(self, tmp_path: Path) -> None:
        """Those of the steps before the cut would be zeros."""
        kept = {"checkpoint": tmp_path / "run", "every": 5, "checkpoint_seconds": 0}
        with pytest.raises(Cut):
            ebm().sample(5, 7, out=tmp_path / "s.npy", callback=cut_at(0, 12), **kept)
        with pytest.raises(UsageError, match=r"another run: out was 's\.npy' and is 't\.npy'"):
            ebm().sample(5, 7, out=tmp_path / "t.npy", **kept)
        assert not (tmp_path / "t.npy").exists()
        (tmp_path / "s.npy").rename(tmp_path / "elsewhere.npy")
        with pytest.raises(UsageError, match=r"s\.npy, which the run of .* writes to, is gone: remove the checkpoint"):
            ebm().sample(5, 7, out=tmp_path / "s.npy", **kept)
        (tmp_path / "elsewhere.npy").rename(tmp_path / "s.npy")
        np.testing.assert_array_equal(ebm().sample(5, 7, out=tmp_path / "s.npy", **kept), ebm().sample(5, 7))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"diverged": "restrat"},
            {"sampler": "mala", "temperature": 0.0},
            {"init": "data"},
            {"seed": -1},
        ],
    )
    def test_a_run_that_is_refused_leaves_the_file_as_it_was(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        ebm().sample(5, 7, every=6, out=tmp_path / "s.npy")
        before = (tmp_path / "s.npy").read_bytes()
        with pytest.raises(UsageError):
            ebm().sample(5, **{"seed": 7, "every": 6, "out": tmp_path / "s.npy", **wrong})
        assert (tmp_path / "s.npy").read_bytes() == before

    def test_dropped_chains_are_nan(self, tmp_path: Path) -> None:
        settings = {
            "diverged": "drop",
            "init": "uniform",
            "bounds": (-1.6, 1.6),
            "step_size": 0.02,
            "temperature": 0.05,
        }
        kept = ebm(energy=cliff).sample(12, 7, every=20, out=tmp_path / "s.npy", **settings)
        last = np.load(tmp_path / "s.npy")[-1]
        assert np.isnan(last).all(axis=1).sum() == 12 - len(kept) > 0
        np.testing.assert_array_equal(last[~np.isnan(last).all(axis=1)], kept)

    def test_memory_is_constant(self, tmp_path: Path) -> None:
        """A file of 40 MB is written; the states of one step are 0.4 MB."""
        model = ModelSpec("wide", TensorSpec("x", (1000,), "float32"))
        wide = Ebm(FunctionEngine(wavy), model, SamplerConfig(steps=100, step_size=0.01))
        tracemalloc.start()
        wide.sample(100, every=1, out=tmp_path / "s.npy", max_batch=100)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (tmp_path / "s.npy").stat().st_size > 40e6
        assert peak < 10e6  # a few arrays of one step, of float64 in this energy

    def test_nothing_of_an_earlier_run_is_left(self, tmp_path: Path) -> None:
        """That one wrote all rows; this one stops after the second."""
        ebm().sample(5, 7, every=6, out=tmp_path / "s.npy")
        with pytest.raises(Cut):
            ebm().sample(4, 8, every=6, out=tmp_path / "s.npy", callback=cut_at(0, 13))
        rows = np.load(tmp_path / "s.npy")
        assert rows.shape == (6, 4, 3)
        assert rows[:2].all() and not rows[2:].any()

    def test_a_second_run_is_refused_without_a_checkpoint_too(self, tmp_path: Path) -> None:
        """Its rows would go between those of the first, or the first would write into a file that is no longer there."""
        kept: dict[str, Any] = {"every": 10, "out": tmp_path / "s.npy"}
        said = []

        def second(now: Progress) -> None:
            if now.done in (0, 35):
                for more in ({}, {"checkpoint": tmp_path / "run"}):
                    with pytest.raises(UsageError, match=r"out \(--states\): .*s\.npy is in use by a run") as error:
                        ebm().sample(5, 8, **kept, **more)
                    said.append(str(error.value))

        found = ebm().sample(5, 7, callback=second, **kept)
        assert len(said) == 4
        np.testing.assert_array_equal(np.load(tmp_path / "s.npy")[-1], found)
        assert [entry.name for entry in tmp_path.iterdir()] == ["s.npy"]
        ebm().sample(5, 8, **kept)  # now nobody uses it

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"^out \(--states\): there is no folder .*nowhere to write s\.npy to"):
            ebm().sample(5, 7, every=6, out=tmp_path / "nowhere" / "s.npy")

    def test_a_file_that_was_refused_is_not_kept_from_others(self, tmp_path: Path) -> None:
        (tmp_path / "t.npy").write_text("text")
        for _ in range(2):
            with pytest.raises(LoadError, match=r"is no \.npy file"):
                SampleFile(tmp_path / "t.npy", 1, 1, SHAPE, 1, goes_on=True)
        assert [entry.name for entry in tmp_path.iterdir()] == ["t.npy"]

    def test_another_file_in_place_of_the_runs(self, tmp_path: Path) -> None:
        kept = {"checkpoint": tmp_path / "run", "every": 6, "checkpoint_seconds": 0, "out": tmp_path / "s.npy"}
        with pytest.raises(Cut):
            ebm().sample(5, 7, callback=cut_at(0, 12), **kept)
        np.save(tmp_path / "s.npy", np.zeros(4))
        with pytest.raises(LoadError, match=r"holds float64 \[4\], where this run writes float32 \[6, 5, 3\]"):
            ebm().sample(5, 7, **kept)
        (tmp_path / "t.npy").write_text("text")
        with pytest.raises(LoadError, match=r"is no \.npy file"):
            SampleFile(tmp_path / "t.npy", 1, 1, SHAPE, 1, goes_on=True)

    @pytest.mark.parametrize("every", [2, 3, 10, 40])
    @pytest.mark.parametrize("block", [7, 64])
    def test_blocks_end_where_states_are_written(self, tmp_path: Path, every: int, block: int) -> None:
        """Of exact sampling; those of fused steps are in tests/exporter."""
        with Ebm(
            FunctionEngine(wavy), MODEL, SamplerConfig(steps=40, step_size=0.1), exact=FunctionEngine(wavy)
        ) as made:
            last = made.sample(5, 7, block=block, every=every, out=tmp_path / "s.npy")
        rows = np.load(tmp_path / "s.npy")
        assert len(rows) == 40 // every
        assert rows.any(axis=(1, 2)).all()
        if 40 % every == 0:
            np.testing.assert_array_equal(rows[-1], last)

    def test_the_checkpoint_is_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(UsageError, match="out and checkpoint: both are"):
            ebm().sample(5, 7, every=6, out=tmp_path / "s.npy", checkpoint=tmp_path / "link" / "s.npy")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"every": 4}, "give both or neither"),
            ({"every": 41, "out": "s"}, "at most the 40 steps"),
            ({"every": 0, "out": "s"}, "every"),
        ],
    )
    def test_wrong_arguments(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            ebm().sample(2, **given)


class TestEnergyRange:
    def test_an_energy_outside_has_diverged(self) -> None:
        with pytest.raises(DivergenceError, match="or an energy outside -10 to 2, at the start"):
            ebm().sample(50, 7, energy_range=(-10, 2.0))
        with pytest.raises(DivergenceError, match="or an energy outside -10 to 4, after step"):
            ebm().sample(50, 7, x0=np.full(SHAPE, 0.5, np.float32)[None], energy_range=(-10, 4.0), temperature=3.0)
        kept = ebm().sample(50, 7, energy_range=(-10, 5.0), diverged="drop")
        assert 0 < len(kept) < 50
        np.testing.assert_array_equal(ebm().sample(50, 7, energy_range=(-100, 100)), ebm().sample(50, 7))

    def test_samplers_that_reject(self) -> None:
        kept = ebm("mala").sample(50, 7, energy_range=(-10, 3.0), diverged="drop")
        assert 0 < len(kept) < 50

    @pytest.mark.parametrize("given", [(1, 0), 3, (0, 1, 2), ("a", "b")])
    def test_wrong_ranges(self, given: Any) -> None:
        with pytest.raises(UsageError, match="energy_range: expected"):
            ebm().sample(2, energy_range=given)


SCRIPT = """
import sys, time
import numpy as np
sys.path.insert(0, {folder!r})
from tests.runtime.test_checkpoint import ebm, wavy

calls = 0

def slow(x):
    global calls
    calls += 1
    print(calls, flush=True)
    time.sleep({pause} if calls <= {calls} else 60)  # its kill comes first
    return wavy(x)

print("ready", flush=True)
found = ebm({name!r}, slow).sample(
    6, 7, max_batch=3, checkpoint="run", checkpoint_seconds=0.02, every=5, out="states.npy"
)
np.save("samples.npy", found)
"""


def killed_runs(folder: Path, name: str, kills: int, seed: int) -> None:
    """Kills a run at random moments, and looks at what it ends with."""
    whole = ebm(name).sample(6, 7, max_batch=3, every=5, out=folder / "whole.npy")
    # At least 80 calls of the energy, of which one that will be killed makes its share at the most: every kill comes before the end.
    share = 80 // (kills + 1)
    chance, done, saved = random.Random(seed), 0, 0
    for attempt in range(kills + 1):
        calls, pause = (share, 0.08 / share) if attempt < kills else (10**9, 0.0)
        (folder / "script.py").write_text(
            SCRIPT.format(folder=str(Path(__file__).parents[2]), name=name, calls=calls, pause=pause)
        )
        process = subprocess.Popen([sys.executable, "script.py"], cwd=folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if attempt < kills:
            for _ in range(chance.randint(0, share)):  # on a slow machine too it has done something by then
                process.stdout.readline()
            time.sleep(chance.uniform(0.0, pause))
            process.send_signal(signal.SIGKILL)
            process.wait()
            saved += (folder / "run").exists()
            done += not (folder / "samples.npy").exists()
            if (folder / "states.npy").exists():
                np.load(folder / "states.npy", mmap_mode="r")  # readable at any time
        else:
            assert process.wait(timeout=60) == 0
        process.stdout.close()
    assert done == kills and saved
    np.testing.assert_array_equal(np.load(folder / "samples.npy"), whole)
    assert (folder / "states.npy").read_bytes() == (folder / "whole.npy").read_bytes()


@pytest.mark.native
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_kill_9(tmp_path: Path) -> None:
    killed_runs(tmp_path, "mala", 3, 0)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
@pytest.mark.parametrize("name", ["langevin", "preconditioned", "tempering", "underdamped"])
def test_kill_9_twenty_times(tmp_path: Path, name: str) -> None:
    killed_runs(tmp_path, name, 20, 1)


def test_numbers_of_numpy(tmp_path: Path) -> None:
    limits = (np.float32(-100), np.float32(100))
    found = ebm().sample(
        np.int64(4), 7, checkpoint=tmp_path / "run", energy_range=limits, every=np.int64(20), out=tmp_path / "s.npy"
    )
    np.testing.assert_array_equal(found, ebm().sample(4, 7))
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy")[-1], found)


def test_the_identity_is_json(tmp_path: Path) -> None:
    ebm().sample(5, 7, checkpoint=tmp_path / "run")
    with np.load(tmp_path / "run") as file:
        identity = json.loads(str(file["identity"]))
    assert (identity["n"], identity["sampler"], identity["model"]) == (5, "langevin", "bowl")
