from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from ebm_export.calibration import draw
from ebm_export.calibration.candidate import Candidate, reference_of
from ebm_export.calibration.draw import SampleStore
from ebm_export.runtime.bundle import Bundle
from tests.runtime.tiny_bundle import write_bundle


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    return reference_of(Bundle(write_bundle(tmp_path / "a.ebm")))


def refuse() -> NoReturn:
    raise AssertionError("this set was kept and should not be drawn again")


def test_draws_what_the_runtime_draws(candidate: Candidate, tmp_path: Path) -> None:
    with candidate.open(threads=1) as ebm:
        seen: list[tuple[int, int]] = []
        drawn = SampleStore(tmp_path / "sets").draw(
            candidate, lambda: ebm, 6, seed=3, cond={}, progress=lambda done, total: seen.append((done, total))
        )
        np.testing.assert_array_equal(drawn, ebm.sample(6, seed=3))
    assert seen[0] == (0, 120) and seen[-1] == (120, 120)


def test_a_set_is_drawn_once(candidate: Candidate, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "sets")
    with candidate.open(threads=1) as ebm:
        drawn = store.draw(candidate, lambda: ebm, 6, seed=3, cond={})
    np.testing.assert_array_equal(store.draw(candidate, refuse, 6, seed=3, cond={}), drawn)


@pytest.mark.parametrize("change", ["seed", "n", "cond", "files", "sampler"])
def test_whatever_decides_a_set_makes_another(change: str, candidate: Candidate, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "sets")
    cond = {"centre": np.zeros((6, 3), np.float32)} if change == "cond" else {}
    bundle = Bundle(write_bundle(tmp_path / "b.ebm", cond=change == "cond", **(
        {"sampler": {"steps": 21, "step_size": 0.1}} if change == "sampler" else {}
    )))  # fmt: skip
    first = reference_of(Bundle(write_bundle(tmp_path / "c.ebm", cond=change == "cond")))
    with first.open(threads=1) as ebm:
        store.draw(first, lambda: ebm, 6, seed=3, cond=cond)
    second = reference_of(bundle)
    if change == "files":
        second = Candidate(**{**vars(second), "fingerprint": ("other",)})
    if change == "cond":
        cond = {"centre": np.ones((6, 3), np.float32)}
    opened: list[bool] = []

    with second.open(threads=1) as ebm:

        def give():
            opened.append(True)
            return ebm

        store.draw(second, give, 7 if change == "n" else 6, seed=4 if change == "seed" else 3,
                   cond={name: array[: 7 if change == "n" else 6] for name, array in cond.items()})  # fmt: skip
    assert opened


@pytest.mark.parametrize("change", ["processor", "instructions", "threads"])
def test_what_rounds_in_other_ways_makes_another(
    change: str, candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was copied from another machine has that one's samples, which in INT8 and BF16 are not this one's."""
    with candidate.open(threads=1) as ebm:
        SampleStore(tmp_path / "sets", threads=1).draw(candidate, lambda: ebm, 6, seed=3, cond={})
        here = draw.describe_device()
        monkeypatch.setattr(draw, "describe_device", lambda: {**here, "memory": "another", change: "another"})
        threads = 2 if change == "threads" else 1
        SampleStore(tmp_path / "sets", threads=threads).draw(candidate, lambda: ebm, 6, seed=3, cond={})
        assert len(list((tmp_path / "sets").iterdir())) == 2
        SampleStore(tmp_path / "sets", threads=threads).draw(candidate, refuse, 6, seed=3, cond={})


def test_memory_and_kernel_make_no_other(candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SampleStore(tmp_path / "sets", threads=1)
    with candidate.open(threads=1) as ebm:
        store.draw(candidate, lambda: ebm, 6, seed=3, cond={})
    here = draw.describe_device()
    monkeypatch.setattr(draw, "describe_device", lambda: {**here, "memory": "another", "system": "another"})
    store.draw(candidate, refuse, 6, seed=3, cond={})


def test_a_damaged_set_is_drawn_again(candidate: Candidate, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "sets")
    with candidate.open(threads=1) as ebm:
        drawn = store.draw(candidate, lambda: ebm, 6, seed=3, cond={})
        (kept,) = (tmp_path / "sets").iterdir()
        kept.write_bytes(kept.read_bytes()[:100])
        np.testing.assert_array_equal(store.draw(candidate, lambda: ebm, 6, seed=3, cond={}), drawn)


def test_no_folder_keeps_nothing(candidate: Candidate, tmp_path: Path) -> None:
    with candidate.open(threads=1) as ebm:
        SampleStore(None).draw(candidate, lambda: ebm, 2, seed=3, cond={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ebm"]
