"""A replay buffer in a file, on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime import load
from ebm_export.runtime.file_lock import sole_user
from ebm_export.runtime.replay_buffer import ReplayBuffer
from ebm_export.runtime.start import start_states

from .runtime.tiny_bundle import write_bundle
from .test_cli import command

SAMPLE = ("ebm-run", "sample", "bowl.ebm", "-n", 20, "--buffer", "buffer.npy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bowl.ebm")
    return tmp_path


def test_turns_are_those_of_python(folder: Path) -> None:
    """Starts, picks and ends, turn by turn; a capacity that is less than what turns add."""
    buffer = ReplayBuffer(30, (3,))
    with load(folder / "bowl.ebm") as ebm:
        for seed in range(3):
            run = command(*SAMPLE, "--seed", seed, "--share", 0.6, "--capacity", 30, "--json", cwd=folder)
            assert run.returncode == 0, run.stderr
            starts, places = buffer.draw(start_states(ebm.sampler, (3,), range(20), seed), seed, share=0.6)
            ends = ebm.refine(starts, seed)
            buffer.put(ends, places)
            np.testing.assert_array_equal(np.load(folder / "samples.npy"), ends)
            np.testing.assert_array_equal(np.load(folder / "buffer.npy"), buffer.states)
            fresh = int((places < 0).sum())
            assert json.loads(run.stdout)["buffer"] == {"file": "buffer.npy", "states": len(buffer), "fresh": fresh}
    assert len(buffer) == 30
    run = command(*SAMPLE, "--seed", 3, "--share", 0, cwd=folder)
    assert "buffer.npy: 30 states; 0 of 20 chains started anew" in run.stdout


def test_few_chains_start_anew_unless_told_otherwise(folder: Path) -> None:
    np.save(folder / "buffer.npy", np.full((100, 3), 100, np.float32))
    run = command(*SAMPLE, "-n", 2000, "--steps", 1, "--json", cwd=folder)
    said = json.loads(run.stdout)["buffer"]
    assert abs(said["fresh"] / 2000 - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 2000)
    far = np.load(folder / "samples.npy").max(axis=1) > 50
    assert np.count_nonzero(~far) == said["fresh"]


def test_a_buffer_is_cut_only_where_that_is_asked_for(folder: Path) -> None:
    """One of Python's or of another tool may have more states than a buffer has unless told otherwise."""
    states = np.arange(3 * 10_500, dtype=np.float32).reshape(10_500, 3)
    np.save(folder / "buffer.npy", states)
    run = command(*SAMPLE, "--share", 0, cwd=folder)
    assert run.returncode == 0, run.stderr
    after = np.load(folder / "buffer.npy")
    assert len(after) == 10_500 and 10_480 <= np.count_nonzero((after == states).all(axis=1)) < 10_500
    assert command(*SAMPLE, "--share", 1, "--capacity", 400, cwd=folder).returncode == 0
    kept = np.load(folder / "buffer.npy")
    assert len(kept) == 400
    np.testing.assert_array_equal(kept[:380], after[-380:])


def test_the_states_of_chains_that_are_dropped_stay(folder: Path) -> None:
    states = np.zeros((4, 3), np.float32)
    states[1] = 1e30  # whose energy is infinite
    np.save(folder / "buffer.npy", states)
    run = command(*SAMPLE, "--share", 0, "--diverged", "drop", "--json", cwd=folder)
    assert run.returncode == 0, run.stderr
    dropped = json.loads(run.stdout)["dropped"]
    assert 0 < len(dropped) < 20 and len(np.load(folder / "samples.npy")) == 20 - len(dropped)
    after = np.load(folder / "buffer.npy")
    np.testing.assert_array_equal(after[1], states[1])
    assert (after[[0, 2, 3]] != 0).any(axis=1).all() and abs(after[[0, 2, 3]]).max() < 10


def test_data_are_the_new_starts_and_numbers_are_kept(folder: Path) -> None:
    np.save(folder / "data.npy", np.full((2, 3), 7, np.float32))
    np.save(folder / "keep.npy", np.array([[True, False, False]]))
    data = ("--init", "data", "--data", "data.npy", "--keep", "keep.npy", "--share", 1)
    run = command(*SAMPLE, *data, cwd=folder)
    assert run.returncode == 0, run.stderr
    samples = np.load(folder / "samples.npy")
    assert (samples[:, 0] == 7).all() and (samples[:, 1:] != 7).all()


CHECKPOINT = ("--checkpoint", "run.ckpt", "--checkpoint-seconds", 0)


def cut_off(folder: Path, before: str) -> None:
    """Runs the command after some Python that has it end with code 9 at some point."""
    code = f"{before}from ebm_export.cli import ebm_run\nebm_run()"
    words = [str(word) for word in (*SAMPLE[1:], *CHECKPOINT)]
    run = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, timeout=120)
    assert run.returncode == 9, run.stderr


def test_a_run_that_was_cut_off_is_gone_on_with(folder: Path) -> None:
    np.save(folder / "buffer.npy", np.arange(30, dtype=np.float32).reshape(10, 3))
    before = (folder / "buffer.npy").read_bytes()
    code = (
        "from ebm_export.runtime import command\n"
        "def cut(file, array):\n"
        "    raise SystemExit(9)\n"
        "command.write_npy = cut\n"
    )
    cut_off(folder, code)
    assert (folder / "buffer.npy").read_bytes() == before, "chains that nobody has are not in it"
    assert command(*SAMPLE, *CHECKPOINT, cwd=folder).returncode == 0
    assert not (folder / "run.ckpt").exists()
    resumed = (folder / "buffer.npy").read_bytes()
    (folder / "buffer.npy").write_bytes(before)
    assert command(*SAMPLE, cwd=folder).returncode == 0
    assert (folder / "buffer.npy").read_bytes() == resumed != before


def test_a_run_that_is_killed_as_it_ends_is_not_refused_for_ever(folder: Path) -> None:
    """The buffer has its ends by then, and a saving of where the chains began before that would fit no more."""
    np.save(folder / "buffer.npy", np.arange(30, dtype=np.float32).reshape(10, 3))
    code = (
        "from ebm_export.runtime.replay_buffer import ReplayBuffer\n"
        "save = ReplayBuffer.save\n"
        "def cut(buffer, path):\n"
        "    save(buffer, path)\n"
        "    raise SystemExit(9)\n"
        "ReplayBuffer.save = cut\n"
    )
    cut_off(folder, code)
    again = command(*SAMPLE, *CHECKPOINT, cwd=folder)
    assert again.returncode == 0, again.stderr


def test_two_runs_do_not_write_into_one(folder: Path) -> None:
    with sole_user("--buffer", folder / "buffer.npy"):
        run = command(*SAMPLE, cwd=folder)
    assert run.returncode == 2
    assert "error: --buffer: buffer.npy is in use by a run that has not ended: wait for that one" in run.stderr
    assert not (folder / "samples.npy").exists()


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--buffer", "b.npy", "--share", 1.5), 2, "--share: expected a number from 0 to 1, got 1.5"),
        (("--share", 0.5), 2, "--share: says how --buffer FILE is used; give that as well"),
        (("--capacity", 5), 2, "--capacity: says how --buffer FILE is used; give that as well"),
        (("--buffer", "wide.npy"), 2, "--buffer: wide.npy holds states [4], and this model takes [3]: give another file"),
        (("--buffer", "text.npy"), 3, "text.npy: expected a .npy file of states"),
        (("--buffer", "nowhere/b.npy"), 2, "--buffer: there is no folder nowhere to write b.npy to"),
        (("--buffer", "samples.npy"), 2, "--out and --buffer: both are samples.npy"),
        (("--buffer", "b.npy", "--first", 8), 2, "--buffer cannot be combined with --first"),
        (("--buffer", "b.npy", "--best-of", 8), 2, "--buffer cannot be combined with --best-of"),
        (("--buffer", "b.npy", "--deadline-ms", 8), 2, "--buffer cannot be combined with --deadline-ms"),
        (("--buffer", "b.npy", "-n", 2**62), 2, f"-n: {2**62} states [3] are more than any array holds"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(folder: Path, given: tuple[object, ...], code: int, said: str) -> None:
    np.save(folder / "wide.npy", np.zeros((5, 4), np.float32))
    (folder / "text.npy").write_text("no array")
    run = command("ebm-run", "sample", "bowl.ebm", *given, cwd=folder)
    assert (run.returncode, run.stdout) == (code, "")
    assert said in run.stderr and "Traceback" not in run.stderr
    assert not (folder / "b.npy").exists()
