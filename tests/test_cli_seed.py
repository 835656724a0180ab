"""The seed of a command that was given none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import load

from .runtime.tiny_bundle import write_bundle
from .test_cli import command

H = 0.01
STEPS = ("--steps", 60, "--step-size", H)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bowl.ebm")
    return tmp_path


def drawn(folder: Path, *words: object) -> dict[str, Any]:
    run = command("ebm-run", *words, "--json", cwd=folder)
    assert run.returncode == 0, run.stderr
    said: dict[str, Any] = json.loads(run.stdout)
    return said


def variance_of(x: np.ndarray) -> float:
    return float(np.square(x.astype(np.float64)).mean())


def assert_as_from_one_another(x: np.ndarray) -> None:
    """N(0, I) stays what it is but for the error of the step size; the noise of a run that is repeated adds up to 1.33^2."""
    expected, rows = 1 / (1 - H / 2), x.size
    assert abs(variance_of(x) - expected) < 5 * expected * np.sqrt(2 / rows)


def test_refine_does_not_repeat_the_noise_of_its_start(folder: Path) -> None:
    first = drawn(folder, "sample", "bowl.ebm", "-n", 4000, *STEPS)
    second = drawn(folder, "refine", "bowl.ebm", "samples.npy", *STEPS)
    third = drawn(folder, "refine", "bowl.ebm", "refined.npy", "--out", "again.npy", *STEPS)
    assert first["seed"] == 0 and len({run["seed"] for run in (first, second, third)}) == 3
    for name in ("samples", "refined", "again"):
        assert_as_from_one_another(np.load(folder / f"{name}.npy"))


def test_refine_is_reproducible(folder: Path) -> None:
    drawn(folder, "sample", "bowl.ebm", "-n", 5)
    seed = drawn(folder, "refine", "bowl.ebm", "samples.npy")["seed"]
    assert 0 < seed < 2**32  # JSON's readers have floats, and people have to type it
    refined = np.load(folder / "refined.npy")
    with load(folder / "bowl.ebm") as ebm:
        np.testing.assert_array_equal(refined, ebm.refine(np.load(folder / "samples.npy"), seed))
    for more in ((), ("--seed", seed), ("--best-of", 1)):
        assert drawn(folder, "refine", "bowl.ebm", "samples.npy", *more, "--out", "b.npy")["seed"] == seed
        np.testing.assert_array_equal(np.load(folder / "b.npy"), refined)
    np.save(folder / "wide.npy", np.load(folder / "samples.npy").astype(np.float64))  # the same numbers
    assert drawn(folder, "refine", "bowl.ebm", "wide.npy")["seed"] == seed


def test_people_are_told_too(folder: Path) -> None:
    for words, said in (((), "on average, seed 0\n"), (("--seed", 7), "on average, seed 7\n")):
        run = command("ebm-run", "sample", "bowl.ebm", "-n", 3, *words, cwd=folder)
        assert said in run.stdout
    seed = drawn(folder, "refine", "bowl.ebm", "samples.npy")["seed"]
    for more in ((), ("--deadline-ms", 60_000), ("--stream", 0)):
        run = command("ebm-run", "refine", "bowl.ebm", "samples.npy", *more, cwd=folder)
        assert f"on average, seed {seed}\n" in run.stdout


def test_each_turn_of_a_buffer_has_its_own(folder: Path) -> None:
    def turn(n: int, *words: object) -> dict[str, Any]:
        return drawn(folder, "sample", "bowl.ebm", "-n", n, "--buffer", "buffer.npy", *STEPS, *words)

    seeds = [turn(4000, "--share", 1)["seed"]]
    before = (folder / "buffer.npy").read_bytes()
    for _ in range(3):
        seeds.append(turn(4000, "--share", 0)["seed"])
        assert_as_from_one_another(np.load(folder / "samples.npy"))
    assert seeds[0] == 0 and len(set(seeds)) == 4
    (folder / "buffer.npy").write_bytes(before)
    assert turn(4000, "--share", 0)["seed"] == seeds[1]
    assert turn(20, "--seed", 5)["seed"] == 5
