"""A run of the command that is killed again and again ends with the bits of one that nobody killed, and has lost nothing.

Runs of Python functions that are killed are in runtime/test_checkpoint.py; here engines compute, several steps in a call where they can.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig
from tests.test_cli import Quadratic

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")

KILLS = 20
CHAINS, BATCH, EVERY = 600, 400, 50
CODE = "from ebm_export.entry import ebm_run; ebm_run()"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(
        Quadratic(),
        torch.zeros(2, 3),
        out=tmp_path_factory.mktemp("bundle") / "model.ebm",
        targets=["onnxruntime", "openvino"],
        sampler=SamplerConfig(step_size=0.01),
        fuse=8,
    )


class Run:
    """A command in a folder of its own.

    Args:
        folder: for its files.
        words: what is typed after `ebm-run`, but for the names of these.
    """

    def __init__(self, folder: Path, words: tuple[str, ...]) -> None:
        folder.mkdir()
        self.folder = folder
        self.samples, self.states, self.checkpoint = folder / "x.npy", folder / "states.npy", folder / "run"
        files = ("--out", self.samples.name, "--states", self.states.name, "--checkpoint", self.checkpoint.name)
        self._words = [*words, *files]

    def begin(self) -> subprocess.Popen[str]:
        """Returns once steps are being taken, or where all were before."""
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, *self._words],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = [process.stderr.readline()]
        while said[-1] not in ("sampling\n", ""):
            said.append(process.stderr.readline())
        if not said[-1]:  # the last saving was that of all steps, so that none was left
            assert process.wait(timeout=120) == 0, "".join(said)
        return process

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is being written, or was as its process was killed."""
        return any(file.name.startswith("run.") and file.suffix == ".partial" for file in self.folder.iterdir())

    def not_saved(self) -> np.ndarray | None:
        """[rows, chains] bool, states that the last saving knows nothing of; None where there has been none."""
        if not self.checkpoint.exists():
            return None
        with np.load(self.checkpoint) as file:
            first, done = int(file["first"]), int(file["run.done"]) if "run.done" in file else 0
        rows = len(np.load(self.states, mmap_mode="r"))
        open_ = np.zeros((rows, CHAINS), bool)
        open_[:, first:] = True
        open_[: done // EVERY, first : first + BATCH] = False
        return open_


def kill_again_and_again(run: Run, whole: Run, seconds: float) -> Counter[str]:
    """Kills and begins again until twenty kills came while steps were being taken, and compares what each end has with `whole`.

    Args:
        run: the command.
        whole: the same, which nobody has killed.
        seconds: that its steps took.

    Returns:
        How many kills came while steps were taken ("landed"), of these while a checkpoint was being written ("saving") and while there
        were rows that it knew nothing of ("beyond"), how many different savings were gone on from ("from"), and how many runs ended.
    """
    chance, found, places = random.Random(0), Counter[str](), set()
    over = time.monotonic() + 120 + 20 * seconds
    while True:
        process = run.begin()
        if found["landed"] < KILLS:
            time.sleep(chance.uniform(0, 1.4 * seconds / KILLS))
            while found["landed"] % 3 == 0 and not run.is_saving and process.poll() is None:
                pass  # a third of them as soon as a checkpoint is written
            process.kill()
        _, said = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), said
        if process.returncode == -signal.SIGKILL and not run.samples.exists():
            found["landed"] += 1
            found["saving"] += run.is_saving
            open_ = run.not_saved()
            if open_ is not None:
                places.add(int(open_.sum()))
                states = np.load(run.states, mmap_mode="r+")
                found["beyond"] += bool(np.nan_to_num(states[open_]).any())
                states[open_] = np.nan  # at worst a write that was torn leaves anything
            continue
        if process.returncode == 0:
            assert run.samples.read_bytes() == whole.samples.read_bytes()
            assert run.states.read_bytes() == whole.states.read_bytes()
            # Nothing of checkpoints and their locks. Samples that were half written as a kill came stay for an hour.
            names = {file.name for file in run.folder.iterdir() if not file.match("x.npy.*.partial")}
            assert names == {"states.npy", "x.npy"}
            found["ended"] += 1
            if found["landed"] == KILLS:
                return found + Counter({"from": len(places)})
        # Else it was killed after its samples were there, as it ended or thereafter. The machine is faster than it was: once more.
        assert time.monotonic() < over, found
        run.samples.unlink()


LONG_ENOUGH = 5.0
"""Seconds of a run that is worth killing: with fewer it is killed before its engine is compiled, again and again."""


@pytest.mark.parametrize(
    "words",
    [
        ("--backend", "onnxruntime", "--fuse"),
        pytest.param(("--backend", "openvino", "--fuse"), marks=pytest.mark.slow),
        pytest.param(("--backend", "onnxruntime", "--no-fuse", "--sampler", "mala"), marks=pytest.mark.slow),
        pytest.param(
            ("--backend", "openvino", "--no-fuse", "--diverged", "drop", "--energy-range=-50,60"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["onnxruntime", "openvino", "mala", "drop"],
)
def test_kill_9_twenty_times(tmp_path: Path, bundle: Path, words: tuple[str, ...]) -> None:
    words = ("sample", str(bundle), "-n", str(CHAINS), "--max-batch", str(BATCH), "--threads", "1", *words)
    words = (*words, "--every", str(EVERY), "--checkpoint-seconds", "0.05")
    steps, seconds = 2000, 0.0
    while seconds < LONG_ENOUGH:  # machines differ
        steps *= 2
        typed = (*words, "--steps", str(steps))
        whole = Run(tmp_path / f"whole{steps}", typed)
        process = whole.begin()
        begun = time.monotonic()
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        seconds = time.monotonic() - begun
    found = kill_again_and_again(Run(tmp_path / "killed", typed), whole, seconds)
    assert found["landed"] == KILLS
    assert found["saving"] >= 1 and found["beyond"] >= 1 and found["from"] >= 5, (seconds, found)
