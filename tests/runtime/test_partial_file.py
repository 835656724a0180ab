"""Files that are to take another one's place."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ebm_export.runtime.partial_file import partial_of, remove_left


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_it_is_removed_unless_it_is_renamed(tmp_path: Path) -> None:
    with partial_of(tmp_path / "a") as partial:
        assert partial.read_bytes() == b"" and partial.parent == tmp_path
    assert names(tmp_path) == []
    with partial_of(tmp_path / "a") as partial:
        partial.replace(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/a'$"), partial_of(tmp_path / "nowhere" / "a"):
        pass


def test_what_a_killed_process_left_is_removed_and_what_is_written_stays(tmp_path: Path) -> None:
    others = ["a.0123abcd.partial.txt", "b.0123abcd.partial"]
    for name in ("a.0123abcd.partial", "a.4567abcd.partial", *others):
        (tmp_path / name).write_text("half")
    hour = time.time() - 3601
    os.utime(tmp_path / "a.0123abcd.partial", (hour, hour))
    with partial_of(tmp_path / "a") as partial:
        assert names(tmp_path) == sorted(["a.4567abcd.partial", partial.name, *others])
    remove_left(tmp_path / "a", 0)
    assert names(tmp_path) == sorted(others)


def test_another_long_name_that_begins_alike_is_not_what_a_killed_process_left(tmp_path: Path) -> None:
    """Only their beginnings are in names of partial files, and the other's run may be saving just now."""
    first, second = (tmp_path / f"{'long' * 13}-{seed}.ckpt" for seed in (1, 2))
    with partial_of(first) as partial:
        remove_left(second, 0)
        partial.replace(first)
    with partial_of(first) as partial:
        old = time.time() - 3601
        os.utime(partial, (old, old))
        remove_left(second, 0)
        assert not partial.exists()
