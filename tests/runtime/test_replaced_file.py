"""Files that are written as a whole or not at all."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime.replaced_file import replacing, write_npy


def test_it_is_there_at_the_end_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"older")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"older"
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


def test_one_that_is_soon_replaced_again_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    for content, synced, times in ((b"old", False, 0), (b"newer", True, 1), (b"new", False, 1)):
        with replacing(tmp_path / "a.npy", synced=synced) as file:
            file.write(content)
        assert (tmp_path / "a.npy").read_bytes() == content
        assert len(waits) == times


def test_the_folder_is_not_listed_for_one_that_is_soon_replaced_again(tmp_path: Path) -> None:
    left = tmp_path / "a.npy.0123abcd.partial"
    left.write_text("half")
    os.utime(left, (0, 0))
    for synced in (False, True):
        with replacing(tmp_path / "a.npy", synced=synced):
            pass
        assert left.exists() != synced


def test_a_system_that_knows_no_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fchmod")
    for content in (b"older", b"new"):
        with replacing(tmp_path / "a.npy") as file:
            file.write(content)
        assert (tmp_path / "a.npy").read_bytes() == content


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"older")
    with pytest.raises(type(error)) as caught, replacing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]
    if isinstance(caught.value, OSError):
        assert str(caught.value) == f"[Errno 28] No space left on device: {str(path)!r}"


def test_a_file_that_cannot_be_opened_is_named_as_it_was_given(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="No such file or directory: '.*/nowhere/a.npy'$"),
        replacing(tmp_path / "nowhere/a.npy"),
    ):
        pass


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.npy").write_bytes(b"older")
    (tmp_path / "link.npy").symlink_to("data/a.npy")
    with replacing(tmp_path / "link.npy") as file:
        file.write(b"new")
    assert (tmp_path / "link.npy").is_symlink() and (tmp_path / "data" / "a.npy").read_bytes() == b"new"


def test_two_writers_do_not_write_into_each_others_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with replacing(path) as one:
        with replacing(path) as other:
            one.write(b"one, which is longer")
            other.write(b"other")
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"one, which is longer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "b" * 130])
def test_any_name_that_the_system_takes(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as file:
        file.write(b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_what_is_no_plain_file_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(path) as file:
        file.write(b"new")
    assert os.read(reader, 10) == b"new" and stat.S_ISFIFO(path.stat().st_mode)
    os.close(reader)


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3), np.float32), np.float32(3)])
def test_the_bytes_are_those_of_numpy(array: np.ndarray) -> None:
    own, numpys = io.BytesIO(), io.BytesIO()
    write_npy(own, array)
    np.save(numpys, np.ascontiguousarray(array), allow_pickle=False)
    assert own.getvalue() == numpys.getvalue()


def test_a_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_bytes(b"old")
    private.chmod(0o600)
    with replacing(private) as file:
        file.write(b"new")
    assert private.read_bytes() == b"new" and private.stat().st_mode & 0o777 == 0o600
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "not there yet")
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink() and (tmp_path / "not there yet").read_bytes() == b"new"
