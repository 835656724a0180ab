"""Measurements, and what is chosen by them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig, UsageError, bench, load
from ebm_export.runtime.bench import time_bundle
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.choice import choose
from ebm_export.runtime.device import describe_device
from ebm_export.runtime.engine import Engine
from ebm_export.runtime.file_hash import sha256_of
from ebm_export.runtime.manifest import Artifact
from ebm_export.runtime.manifest_update import set_status
from ebm_export.runtime.measured import keep_measurements, kept_measurements

from .tiny_bundle import write_bundle, write_two_precisions


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ebm-export" / "bench"


def row(precision: str, milliseconds: float, batch: int = 1, threads: int | None = 1, fused: int = 0) -> dict[str, Any]:
    name = f"score.{precision}.onnxruntime.onnx"
    return {"file": name, "batch": batch, "threads": threads, "fused": fused, "median ms": milliseconds}


def test_nothing_was_measured(tmp_path: Path) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    assert kept_measurements(bundle) is None
    with pytest.raises(
        UsageError, match="nothing of .* that is verified was measured on this device: run ebm-run bench"
    ):
        choose(bundle, precision="fastest")


def test_a_precision_is_not_changed_unasked(tmp_path: Path) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    keep_measurements(bundle, [row("fp32", 2.0, threads=2), row("fp32", 3.0, threads=1), row("int8", 1.0)])
    choice = choose(bundle)
    assert (choice.artifact.precision, choice.threads, choice.fuse) == ("fp32", 2, {})
    assert "the fastest here at a batch of 1, measured by ebm-run bench on 20" in choice.reason
    assert choose(bundle, precision="fastest").artifact.precision == "int8"
    assert choose(bundle, precision="int8").artifact.precision == "int8"
    assert choose(bundle, threads=1).threads == 1
    with load(tmp_path / "m.ebm", precision="fastest") as ebm:
        assert ebm.choice.startswith("onnxruntime int8")


def test_all_batch_sizes_have_a_say(tmp_path: Path) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    one = [row("fp32", 1.0, 1, threads=1), row("fp32", 30.0, 8, threads=1)]
    two = [row("fp32", 1.2, 1, threads=2), row("fp32", 10.0, 8, threads=2)]
    keep_measurements(bundle, one + two)
    assert choose(bundle).threads == 2  # 1.1 times the best on average, against 2


def test_what_is_left_out_beside_a_backend_is_measured(tmp_path: Path) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    keep_measurements(
        bundle, [row("fp32", 2.0, threads=None), row("fp32", 1.0, threads=2), row("int8", 0.5, threads=3)]
    )
    choice = choose(bundle, "onnxruntime")
    assert (choice.artifact.precision, choice.threads) == ("fp32", 2)
    assert (
        "as asked for, with the threads and the steps in one call that were the fastest here at a batch"
        in choice.reason
    )
    assert choose(bundle, "onnxruntime", "int8").threads == 3
    assert choose(bundle, "onnxruntime", threads=4).threads is None
    assert "measured" not in choose(bundle, "onnxruntime", threads=4).reason
    with load(tmp_path / "m.ebm", "onnxruntime") as ebm:
        assert ebm.engine.cpu_threads == 2


def test_only_what_goes_with_fused_steps_or_without_counts(tmp_path: Path) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    single = [row("fp32", time, batch, 1) for batch, time in ((1, 2.0), (8, 3.0))]
    fused = [row("fp32", time, batch, 1, 16) for batch, time in ((1, 1.0), (8, 4.0))]
    keep_measurements(bundle, [*single, *fused, row("fp32", 1.5, threads=2)])
    assert choose(bundle).fuse == {1: True, 8: False}
    assert (choose(bundle).threads, choose(bundle, fuse=True).threads, choose(bundle, fuse=False).threads) == (1, 1, 2)
    assert choose(bundle, fuse=False).fuse == {}  # with two threads nobody fused any


def test_a_plan_is_not_opened_for_each_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int | None] = []
    real = bench.engine_of

    def noted(bundle: Bundle, artifact: Artifact, backend: str, threads: int | None = None) -> Engine:
        opened.append(threads)
        return real(bundle, artifact, "onnxruntime", threads=threads)

    monkeypatch.setattr(bench, "engine_of", noted)
    for backend, wanted in (("tensorrt", [None, None]), ("onnxruntime", [1, 2, 1, 2])):
        opened.clear()
        monkeypatch.setattr(bench, "backend_of", lambda target, backend=backend: backend)
        time_bundle(write_two_precisions(tmp_path / f"{backend}.ebm"), batches=[1], threads=[1, 2], seconds=0.05)
        assert opened == wanted


def test_the_fastest_is_one_that_was_verified(tmp_path: Path) -> None:
    folder, name = write_two_precisions(tmp_path / "m.ebm"), "score.int8.onnxruntime.onnx"
    assert set_status(folder, {name: sha256_of(folder / name)}, "built")
    bundle = Bundle(tmp_path / "m.ebm")
    keep_measurements(bundle, [row("fp32", 2.0), row("int8", 1.0)])
    assert choose(bundle, "onnxruntime", "fastest").artifact.precision == "fp32"
    keep_measurements(bundle, [row("int8", 1.0)])
    with pytest.raises(UsageError, match="nothing of .* that is verified was measured"):
        choose(bundle, "onnxruntime", "fastest")


@pytest.mark.parametrize("asked", [{"fuse": True}, {"threads": 7}])
def test_what_rules_out_all_that_was_measured_is_named(tmp_path: Path, asked: dict[str, Any]) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    keep_measurements(bundle, [row("fp32", 2.0), row("int8", 1.0)])
    with pytest.raises(UsageError, match=r"with these threads, or this way of fused steps: .*leave them out"):
        choose(bundle, precision="fastest", **asked)


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [1], "date": ""}', '{"rows": [{"file": "x"}], "date": "d"}'])
def test_a_file_that_cannot_be_read_is_none(tmp_path: Path, cache: Path, content: str) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    path = keep_measurements(bundle, [row("fp32", 1.0)])
    assert path is not None
    assert path.parent == cache
    path.write_text(content)
    assert kept_measurements(bundle) is None
    assert choose(bundle).threads is None


@pytest.mark.parametrize(
    "changes",
    [
        {"file": ["x"]},
        {"batch": "1"},
        {"batch": [1]},
        {"batch": 0},
        {"threads": "two"},
        {"threads": -3},
        {"threads": True},
        {"fused": None},
        {"fused": -1},
        {"median ms": None},
        {"median ms": "1"},
        {"median ms": 0},
        {"median ms": float("nan")},
        {"median ms": float("inf")},
        {"median ms": False},
        {"median ms": 10**400},
    ],
)
def test_a_row_that_was_not_measured_is_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    fitting = [row("fp32", 3.0, threads=2), row("fp32", 2.0, threads=None)]
    keep_measurements(bundle, [{**row("fp32", 1.0), **changes}, *fitting])
    kept = kept_measurements(bundle)
    assert kept is not None and kept.rows == fitting
    with load(tmp_path / "m.ebm") as ebm:
        assert "measured by ebm-run bench" in ebm.choice
    keep_measurements(bundle, [{**row("fp32", 1.0), **changes}])
    assert kept_measurements(bundle) is None


@pytest.mark.parametrize("home", ["none", "a file"])
def test_nothing_is_kept_where_there_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    else:
        (tmp_path / "cache").write_text("")
    assert keep_measurements(bundle, [row("fp32", 1.0)]) is None
    assert kept_measurements(bundle) is None
    assert choose(bundle).threads is None


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_that_cannot_be(tmp_path: Path, batch: int) -> None:
    with pytest.raises(UsageError, match=f"batches: expected a whole number of at least 1, got {batch}"):
        time_bundle(write_bundle(tmp_path / "m.ebm"), batches=[1, batch])


def test_another_bundle_and_another_device_have_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (
        Bundle(write_two_precisions(tmp_path / "m.ebm")),
        Bundle(write_two_precisions(tmp_path / "n.ebm", coarse=1.2)),
    )
    keep_measurements(one, [row("fp32", 1.0)])
    assert kept_measurements(other) is None
    monkeypatch.setattr("ebm_export.runtime.measured.describe_device", lambda: {"processor": "another"})
    assert kept_measurements(one) is None


def test_another_release_of_the_system_is_the_same_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle(write_two_precisions(tmp_path / "m.ebm"))
    keep_measurements(bundle, [row("fp32", 1.0)])
    device = describe_device() | {"system": "Linux 99.1.0-2 x86_64"}
    monkeypatch.setattr("ebm_export.runtime.measured.describe_device", lambda: device)
    assert kept_measurements(bundle) is not None


class TestOtherCores:
    """As `--cpus` gives to a command, and not to the one that measured."""

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        return Bundle(write_two_precisions(tmp_path / "m.ebm"))

    @staticmethod
    def measured(bundle: Bundle, cores: str, **changes: str) -> Path:
        device = describe_device() | {"cores": cores} | changes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ebm_export.runtime.measured.describe_device", lambda: device)
            path = keep_measurements(bundle, [row("fp32", 1.0, threads=3)])
        assert path is not None
        return path

    def test_the_reason_says_so(self, bundle: Bundle) -> None:
        self.measured(bundle, "999", system="Linux 99.1.0-2 x86_64")
        choice = choose(bundle)
        here = describe_device()["cores"]
        said = f"but with 999 cores, where this process may use {here}: ebm-run bench has --cpus too"
        assert choice.threads is None and said in choice.reason
        assert re.search(r"; measured by ebm-run bench on 20\d\d-\d\d-\d\d, but", choice.reason)
        assert said in choose(bundle, "onnxruntime").reason
        with pytest.raises(UsageError, match=r"or name a precision \(measured by .*but with 999 cores"):
            choose(bundle, precision="fastest")

    def test_what_was_measured_on_these_comes_first(self, bundle: Bundle) -> None:
        self.measured(bundle, "999")
        keep_measurements(bundle, [row("fp32", 2.0, threads=2)])
        assert choose(bundle).threads == 2
        assert "999" not in choose(bundle).reason

    @pytest.mark.parametrize("changes", [{"processor": "another"}, {"memory": "another"}], ids=str)
    def test_another_device_says_nothing(self, bundle: Bundle, changes: dict[str, str]) -> None:
        self.measured(bundle, "999", **changes)
        assert "measured" not in choose(bundle).reason

    def test_another_bundle_says_nothing(self, bundle: Bundle, tmp_path: Path) -> None:
        self.measured(Bundle(write_two_precisions(tmp_path / "n.ebm", coarse=1.2)), "999")
        assert "measured" not in choose(bundle).reason

    @pytest.mark.parametrize("content", ["", "[]", '{"device": 1}', '{"device": {}, "rows": [], "date": ""}'])
    def test_a_file_that_cannot_be_read_says_nothing(self, bundle: Bundle, content: str) -> None:
        self.measured(bundle, "999").write_text(content)
        assert "measured" not in choose(bundle).reason


def test_rows_of_a_real_run(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "m.ebm", cond=True)
    told: list[tuple[int, int]] = []
    rows = time_bundle(
        path,
        batches=[1, 3],
        threads=[1, 2],
        seconds=0.05,
        progress=lambda what, done, total: told.append((done, total)),
    )
    assert [(entry["batch"], entry["threads"], entry["fused"]) for entry in rows] == [
        (1, 1, 0),
        (1, 2, 0),
        (3, 1, 0),
        (3, 2, 0),
    ]
    assert all(0 < entry["p10 ms"] <= entry["median ms"] <= entry["p90 ms"] < 1000 for entry in rows)
    assert told[-1][0] < told[-1][1]
    keep_measurements(Bundle(path), rows)
    assert "measured by ebm-run bench" in choose(Bundle(path)).reason


def test_an_engine_is_timed_at_batches_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = bench.engine_of

    def of_four(bundle: Bundle, artifact: Artifact, backend: str, threads: int | None = None) -> Engine:
        engine = real(bundle, artifact, backend, threads=threads)
        engine.largest_batch = 4 if artifact.precision == "int8" else None
        return engine

    monkeypatch.setattr(bench, "engine_of", of_four)
    path = write_two_precisions(tmp_path / "m.ebm")
    rows = time_bundle(path, batches=[1, 4, 5], seconds=0.05)
    assert [(row["precision"], row["batch"]) for row in rows] == [
        *[("fp32", 1), ("int8", 1), ("fp32", 4), ("int8", 4)],
        ("fp32", 5),
    ]
    name = "score.int8.onnxruntime.onnx"
    assert caplog.messages == [f"{name} is not timed at a batch of 5: it takes 4 samples in one call at the most"]
    monkeypatch.setattr(bench, "why_not", lambda artifact: "not this one" if artifact.precision == "fp32" else None)
    with pytest.raises(
        UsageError, match=r"batches: no engine of .*m\.ebm that runs here takes 5 samples in one call: .*--batch"
    ):
        time_bundle(path, batches=[5, 8], seconds=0.05)


class BusyMachine:
    """Stalls for 20 ms after as much work as this on average, at random; no time passes but that of its calls."""

    def __init__(self, every: float, well: float = np.inf) -> None:
        self._well = well  # steps until chains diverge, which are ten times as slow then
        self._rng, self._every = np.random.default_rng(0), every
        self.now, self._left = 0.0, self._rng.exponential(every)

    def works(self, seconds: float) -> None:
        while seconds > self._left:
            self.now += self._left + 0.020
            seconds -= self._left
            self._left = self._rng.exponential(self._every)
        self.now += seconds
        self._left -= seconds

    def steps(self, engine: Engine, config: SamplerConfig, *_: Any, fused: Any = None, **__: Any) -> Any:
        """In place of `chain_steps`: 1 ms of a call, and 1 ms of each step."""
        count = 1 if fused is None else fused.count
        for done in range(0, config.steps + 1, count):
            lost = done > self._well
            self.works((10 if done > self._well + count else 1) * (0.001 + 0.001 * count) if done else 0.0)
            yield SimpleNamespace(done=done, steps=config.steps, diverged=np.ones(1, bool) if lost else None)


class Many:
    """Takes 64 steps in a call."""

    count = 64

    def fits(self, config: SamplerConfig) -> bool:
        return True

    def open(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(("every", "within"), [(1e9, 1e-4), (0.2, 0.25), (0.03, 0.25), (0.01, 0.25)])
def test_a_machine_that_stalls_stalls_both_ways(
    every: float, within: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the calls of one step it stalls a fifth at most, and of those of 64 nearly each."""
    machine = BusyMachine(every)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: machine.now))
    monkeypatch.setattr(bench, "chain_steps", machine.steps)
    monkeypatch.setattr(bench, "fused_of", lambda *_, **__: Many())
    single, fused = time_bundle(write_bundle(tmp_path / "m.ebm"), batches=[1], seconds=2.0)
    assert (single["fused"], fused["fused"]) == (0, 64)
    assert single["median ms"] / fused["median ms"] == pytest.approx(2 / (65 / 64), rel=within)
    assert machine.now < 2 * 2.5


def test_chains_that_would_end_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = BusyMachine(1e9)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: machine.now))
    monkeypatch.setattr(bench, "chain_steps", machine.steps)
    monkeypatch.setattr(bench, "_STEPS", 60)  # of 2 ms, for turns of 50
    (row,) = time_bundle(write_bundle(tmp_path / "m.ebm"), batches=[1], seconds=1.0)
    assert row["median ms"] == row["p10 ms"] == row["p90 ms"] == 2


def test_chains_that_diverge_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused ones come there in a few calls, and would be timed on what is left of them."""
    machine = BusyMachine(1e9, well=640)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: machine.now))
    monkeypatch.setattr(bench, "chain_steps", machine.steps)
    monkeypatch.setattr(bench, "fused_of", lambda *_, **__: Many())
    single, fused = time_bundle(write_bundle(tmp_path / "m.ebm"), batches=[1], seconds=2.0)
    assert single["p10 ms"] == single["p90 ms"] == 2
    assert [fused["p10 ms"], fused["p90 ms"]] == pytest.approx([65 / 64] * 2, abs=1e-5)
