"""The best states so far, on the command line while they improve."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from ebm_export.commands.draw import _is_heard
from ebm_export.runtime import command as runtime_command
from ebm_export.runtime import load, replaced_file
from ebm_export.runtime.command import DrawOptions, run_draw

from .runtime.tiny_bundle import write_bundle
from .test_cli import command

SAMPLE = ("ebm-run", "sample", "bowl.ebm", "-n", 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bowl.ebm")
    return tmp_path


def started(folder: Path, *options: object) -> subprocess.Popen[str]:
    """A run of many steps, as one that a shell has not made deaf to Ctrl-C."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ebm_export.entry import ebm_run as main; main()"
    )
    words = [str(word) for word in (*SAMPLE[1:], "--steps", 10**8, "--json", *options)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def energies(folder: Path) -> np.ndarray:
    return 0.5 * (np.load(folder / "samples.npy") ** 2).sum(axis=1)


@pytest.mark.parametrize("more", [{}, {"order": "noise-drift"}, {"sampler": "mala"}], ids=str)
def test_lines_are_those_of_python(folder: Path, more: dict[str, str]) -> None:
    flags = [word for name, value in more.items() for word in (f"--{name}", value)]
    run = command(*SAMPLE, "--seed", 3, "--stream", 0, "--json", *flags, cwd=folder)
    assert run.returncode == 0, run.stderr
    *lines, result = map(json.loads, run.stdout.splitlines())
    with load(folder / "bowl.ebm") as ebm:
        found = list(ebm.stream(20, 3, **more))
    assert [line["steps"] for line in lines] == [best.steps for best in found]
    assert lines[0]["steps"] == 0 and lines[-1]["steps"] == 20
    for line, best in zip(lines, found, strict=True):
        told = line["energy_mean"], line["energy_min"], line["energy_max"]
        assert told == (best.energy.mean(), best.energy.min(), best.energy.max())
    times = [line["seconds"] for line in lines]
    assert times == sorted(times) and times[0] > 0
    np.testing.assert_array_equal(np.load(folder / "samples.npy"), found[-1].x)
    assert result["complete"] and result["steps"] == 20 and result["energy_mean"] == lines[-1]["energy_mean"]


@pytest.mark.skipif(os.name != "posix", reason="a file that is read cannot be replaced")
def test_the_file_is_whole_at_each_line_until_the_pipe_is_closed(folder: Path) -> None:
    run = started(folder, "--stream", 0)
    assert run.stdout is not None and run.stderr is not None
    for _ in range(20):
        line = json.loads(run.stdout.readline())
        found = energies(folder)  # of this line, or of a later one
        assert found.shape == (20,) and found.mean() <= line["energy_mean"] * (1 + 1e-5)
    run.stdout.close()
    said = run.stderr.read()
    run.stderr.close()
    assert run.wait(timeout=60) == 0
    assert "rror" not in said and "Traceback" not in said
    assert energies(folder).mean() <= line["energy_mean"] * (1 + 1e-5)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_what_there_is_at_ctrl_c_stays(folder: Path) -> None:
    run = started(folder, "--stream", 0)
    assert run.stdout is not None
    line = json.loads([run.stdout.readline() for _ in range(5)][-1])
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.endswith("stopped\n") and "Traceback" not in said
    assert energies(folder).mean() <= line["energy_mean"] * (1 + 1e-5)
    assert sorted(path.name for path in folder.iterdir()) == ["bowl.ebm", "samples.npy"], "no part of a file is left"


def test_ends_at_a_deadline_and_keeps_to_its_rate(folder: Path) -> None:
    for deadline in (900, 9_000, 90_000):  # machines differ
        run = command(*SAMPLE, "--steps", 10**8, "--stream", 0.2, "--deadline-ms", deadline, "--json", cwd=folder)
        assert run.returncode == 0, run.stderr
        *lines, result = map(json.loads, run.stdout.splitlines())
        assert not result["complete"]
        assert len(lines) <= 2 + deadline // 200  # at the start, four times on the way at most, and at the end
        if result["steps"]:
            break
    assert 0 < result["steps"] == lines[-1]["steps"]


def test_a_file_that_another_process_reads_stays_until_the_next_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to replace it."""
    monkeypatch.setattr(runtime_command, "_HELD_BY_READERS", True)
    lines, times = [], iter([False, True, True, False])

    @contextlib.contextmanager
    def replacing(path: Path, **how: bool) -> Iterator[BinaryIO]:
        if next(times, False):
            raise PermissionError(13, "Permission denied", str(path))
        with replaced_file.replacing(path, **how) as file:
            yield file

    monkeypatch.setattr(runtime_command, "replacing", replacing)
    options = DrawOptions(folder / "bowl.ebm", folder / "samples.npy", 3, {}, {}, n=20, stream=0.0)
    run_draw(options, lambda what, done, total: None, lambda line: lines.append(line["steps"]) is None)
    with load(folder / "bowl.ebm") as ebm:
        found = list(ebm.stream(20, 3))
    assert lines == [found[0].steps, *(best.steps for best in found[3:])]
    np.testing.assert_array_equal(np.load(folder / "samples.npy"), found[-1].x)
    times = iter([True])
    monkeypatch.setattr(runtime_command, "_HELD_BY_READERS", False)
    with pytest.raises(PermissionError):
        run_draw(options, lambda what, done, total: None)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EINVAL])  # the second is what Windows says
def test_a_closed_pipe_is_the_end_and_a_full_disk_an_error(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"steps": 1, "seconds": 0.5, "energy_mean": 1.0, "energy_min": 0.5}

    class Closed(io.StringIO):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def flush(self) -> None:
            raise OSError(self.number, os.strerror(self.number))

        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr(sys, "stdout", Closed(number))
    assert not _is_heard(line, as_json=False)
    monkeypatch.setattr(sys, "stdout", Closed(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        _is_heard(line, as_json=False)


def test_given_states_and_words_for_people(folder: Path) -> None:
    np.save(folder / "start.npy", np.full((4, 3), 2, np.float32))
    run = command("ebm-run", "refine", "bowl.ebm", "start.npy", "--noise", 0, "--stream", 0, cwd=folder)
    assert run.returncode == 0, run.stderr
    first, *_, last, steps = run.stdout.splitlines()
    assert re.fullmatch(r"step 0, \d+\.\d{3} s: energy 6 on average, 6 the lowest", first)
    assert last.startswith("refined.npy: 4 samples [3], energy 0.") and steps == "20 of 20 steps"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--stream", -1), "--stream: expected a number of seconds of at least 0, got -1.0"),
        (("--stream", "nan"), "--stream: expected a number of seconds of at least 0, got nan"),
        (("--stream", 1, "--best-of", 2), "--stream cannot be combined with --best-of: leave one of them out"),
        (("--stream", 1, "--buffer", "b.npy"), "--stream cannot be combined with --buffer: leave one of them out"),
        (
            ("--stream", 1, "--every", 5, "--diverged", "drop", "--checkpoint", "c"),
            "--stream cannot be combined with --diverged, --checkpoint, --every: leave one of them out",
        ),
        (("--stream", 1, "--max-batch", 4), "stream() runs all chains in one engine call, which takes 4 of these 20"),
        (("--stream", 1, "--out", "nowhere/x.npy"), "--out: there is no folder nowhere to write x.npy to"),
    ],
)
def test_what_does_not_go_together(folder: Path, given: tuple[object, ...], said: str) -> None:
    run = command(*SAMPLE, *given, cwd=folder)
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr and "Traceback" not in run.stderr
    assert not (folder / "samples.npy").exists()
