"""Runs on the GPU that are cut off and gone on with end with the bits of a whole one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, SamplerConfig, UsageError
from ebm_export.runtime.checkpoint import Checkpoint, Saved
from ebm_export.runtime.cuda.loop import GRAPH_STEPS
from ebm_export.runtime.progress import ProgressOnly
from ebm_export.runtime.snapshot import to_arrays

from .bench import SHAPE, Bench, Open, around, cliff, ignored, ripple
from .stand_in import Energy

STEPS = 3 * GRAPH_STEPS + 2


class Cut(Exception):
    """A kill, as far as a test in this process can have one."""


def cut_after(monkeypatch: pytest.MonkeyPatch, savings: int) -> list[Saved]:
    """Lets a process end after so many savings; 0 for never. What is saved goes into the list."""
    save, seen = Checkpoint.save, []

    def saved(self: Checkpoint, what: Saved) -> None:
        save(self, what)
        seen.append(copy.deepcopy(what))  # the host's steps write over it
        if len(seen) == savings:
            raise Cut

    monkeypatch.setattr(Checkpoint, "save", saved)
    return seen


class Run:
    """A run that can be cut, each time with another engine."""

    def __init__(self, opened: Open, energy: Energy, config: SamplerConfig, **options: Any) -> None:
        self.opened, self.energy, self.config, self.options = opened, energy, config, options

    def whole(self, n: int, **keywords: Any) -> np.ndarray:
        with self.opened(self.energy, self.config, **self.options) as bench:
            return self._sampled(bench, n, **keywords)

    def cut(
        self, monkeypatch: pytest.MonkeyPatch, n: int, checkpoint: Path, savings: tuple[int, ...], **keywords: Any
    ) -> np.ndarray:
        """The same, cut after so many savings of each process, one after every graph."""
        for number in savings:
            with monkeypatch.context() as patch, self.opened(self.energy, self.config, **self.options) as bench:
                seen = cut_after(patch, number)
                with pytest.raises(Cut):
                    self._sampled(bench, n, checkpoint=checkpoint, checkpoint_seconds=0, **keywords)
                assert seen[-1].snapshot is not None  # there is something to go on with
        return self.whole(n, checkpoint=checkpoint, checkpoint_seconds=0, **keywords)

    @staticmethod
    def _sampled(bench: Bench, n: int, **keywords: Any) -> np.ndarray:
        found = bench.ebm.sample(n, **{"seed": 7, **keywords})
        assert "measure" in bench.gpu.launched
        return found


SETTINGS: list[dict[str, Any]] = [
    {},
    {"order": "noise-drift"},
    {"grad_clip": 2.0, "grad_clip_mode": "norm", "bounds": (-1.0, 1.0), "bounds_mode": "reflect"},
    {"sampler": "optimize", "step_size": (0.02, 0.0)},
    {"sampler": "underdamped"},
    {"sampler": "preconditioned", "warmup": 20},
    {"sampler": "preconditioned", "warmup": GRAPH_STEPS},
]


@pytest.mark.parametrize("savings", [(1,), (2, 1), (1, 1, 1)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_sampler(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any], savings: tuple[int, ...]
) -> None:
    run = Run(opened, ripple, SamplerConfig.from_dict({"steps": STEPS, "step_size": 0.02, **settings}))
    whole = run.whole(5)
    np.testing.assert_array_equal(run.cut(monkeypatch, 5, tmp_path / "run", savings), whole)


@pytest.mark.parametrize("sampler", ["langevin", "preconditioned"])
def test_batches_conditions_and_numbers_that_stay(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sampler: str
) -> None:
    rng = np.random.default_rng(0)
    given = {
        "keep": rng.uniform(size=(1, *SHAPE)) < 0.5,
        "known": rng.standard_normal((1, *SHAPE)),
        "centre": 5 * rng.standard_normal((6, *SHAPE)),
        "max_batch": 4,
        "first": 4097,
    }
    config = SamplerConfig.from_dict({"steps": STEPS, "step_size": 0.1, "sampler": sampler})
    run = Run(opened, around, config)
    # In the first batch, then in the second one.
    np.testing.assert_array_equal(run.cut(monkeypatch, 6, tmp_path / "run", (2, 4), **given), run.whole(6, **given))


def test_a_plan_that_cannot_be_captured(opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Run(opened, ripple, SamplerConfig(steps=STEPS, step_size=0.1), capturable=False)
    np.testing.assert_array_equal(run.cut(monkeypatch, 5, tmp_path / "run", (1, 2)), run.whole(5))


def test_an_engine_that_needs_no_scale(opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ebm_export.runtime.backends.tensorrt.TensorRtEngine.needs_scale", False)
    monkeypatch.setattr("ebm_export.runtime.backends.tensorrt.TensorRtEngine.highest_scale", None)
    run = Run(opened, ripple, SamplerConfig(steps=STEPS, step_size=0.1))
    np.testing.assert_array_equal(run.cut(monkeypatch, 5, tmp_path / "run", (1, 1)), run.whole(5))


@pytest.mark.parametrize("every", [5, 20])
def test_states_on_the_way(opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, every: int) -> None:
    run = Run(opened, ripple, SamplerConfig(steps=STEPS, step_size=0.1))
    whole = run.whole(5, every=every, out=tmp_path / "whole.npy")
    found = run.cut(monkeypatch, 5, tmp_path / "run", (2, 1), every=every, out=tmp_path / "cut.npy")
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(np.load(tmp_path / "cut.npy"), np.load(tmp_path / "whole.npy"))


@pytest.mark.parametrize("diverged", ["drop", "restart"])
@pytest.mark.parametrize("savings", [(1,), (2, 1)])
def test_chains_that_diverge(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, diverged: str, savings: tuple[int, ...]
) -> None:
    run = Run(opened, cliff, SamplerConfig(steps=STEPS, step_size=0.05, noise=0.25))
    whole = run.whole(9, diverged=diverged)
    assert len(whole) == 9 if diverged == "restart" else 0 < len(whole) < 9
    np.testing.assert_array_equal(run.cut(monkeypatch, 9, tmp_path / "run", savings, diverged=diverged), whole)


def test_in_the_middle_of_a_restart(opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Run(opened, cliff, SamplerConfig(steps=STEPS, step_size=0.05, noise=0.25))
    whole = run.whole(4, seed=0, diverged="restart")
    with monkeypatch.context() as patch, opened(cliff, run.config) as bench:
        seen = cut_after(patch, 5)
        with pytest.raises(Cut):
            bench.ebm.sample(4, 0, diverged="restart", checkpoint=tmp_path / "run", checkpoint_seconds=0)
        assert [saved.attempt for saved in seen] == [0, 0, 0, 1, 1] and seen[-1].snapshot is not None
    found = run.whole(4, seed=0, diverged="restart", checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(found, whole)


def test_chains_that_are_started_anew_apart_begin_again(opened: Open, tmp_path: Path) -> None:
    run = Run(opened, cliff, SamplerConfig(steps=STEPS, step_size=0.05, noise=0.25))
    whole = run.whole(9, diverged="restart")

    def cut(done: int, total: int) -> None:
        assert total in (
            9 * STEPS,
            11 * STEPS,
        )  # two chains run again, one after the other since others lie between them
        if done > 10 * STEPS:
            raise Cut

    keywords: dict[str, Any] = {"diverged": "restart", "checkpoint": tmp_path / "run", "checkpoint_seconds": 0}
    with pytest.raises(Cut):
        run.whole(9, callback=ProgressOnly(cut), **keywords)
    np.testing.assert_array_equal(run.whole(9, **keywords), whole)


def test_a_chain_that_is_lost_is_not_saved(opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = SamplerConfig(steps=6 * GRAPH_STEPS, step_size=0.1, noise=0.4)
    with opened(cliff, config) as bench:
        with pytest.raises(DivergenceError) as host:
            bench.ebm.sample(9, seed=1, callback=ignored)
        seen = cut_after(monkeypatch, 0)
        with pytest.raises(DivergenceError) as device:
            bench.ebm.sample(9, seed=1, checkpoint=tmp_path / "run", checkpoint_seconds=0)
        assert all(saved.snapshot is None or saved.snapshot.lost is None for saved in seen)
        assert str(device.value).split(", with which")[0] == str(host.value)


def test_nothing_is_copied_before_it_is_time(opened: Open, tmp_path: Path) -> None:
    with opened(ripple, SamplerConfig(steps=STEPS, step_size=0.1)) as bench:
        bench.ebm.sample(4)
        bench.gpu.log.clear()
        bench.ebm.sample(4)
        without = list(bench.gpu.log)
        bench.gpu.log.clear()
        bench.ebm.sample(4, checkpoint=tmp_path / "run", checkpoint_seconds=3600)
        assert bench.gpu.log == without


def test_what_is_saved_is_the_hosts(opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = SamplerConfig(steps=STEPS, step_size=0.02, sampler="underdamped")
    given = {"keep": np.eye(*SHAPE, dtype=bool)[None], "known": np.ones((1, *SHAPE)), "centre": np.zeros((1, *SHAPE))}
    with opened(around, config) as bench:
        with monkeypatch.context() as patch:
            seen = cut_after(patch, 0)
            bench.ebm.sample(4, checkpoint=tmp_path / "device", checkpoint_seconds=0, **given)
            device = {saved.snapshot.done: saved.snapshot for saved in seen if saved.snapshot is not None}
        with monkeypatch.context() as patch:
            seen = cut_after(patch, 0)
            bench.ebm.sample(4, checkpoint=tmp_path / "host", checkpoint_seconds=0, callback=ignored, **given)
            host = {saved.snapshot.done: saved.snapshot for saved in seen if saved.snapshot is not None}
    assert list(device) == [GRAPH_STEPS, 2 * GRAPH_STEPS, 3 * GRAPH_STEPS]
    for done, snapshot in device.items():
        arrays, expected = to_arrays(snapshot), to_arrays(host[done])
        assert arrays.keys() == expected.keys() and {"state.velocity", "scale.following"} <= arrays.keys()
        for name, array in arrays.items():
            assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
            if array.dtype.kind == "U":
                assert array == expected[name]
            else:
                np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_it_is_not_gone_on_with_on_the_host(opened: Open, tmp_path: Path) -> None:
    with opened(ripple, SamplerConfig(steps=STEPS, step_size=0.1)) as bench:
        bench.ebm.sample(4, checkpoint=tmp_path / "run")
        with pytest.raises(UsageError, match="is of another run: loop was 'on the device' and is None"):
            bench.ebm.sample(4, checkpoint=tmp_path / "run", callback=ignored)
