"""The file of states itself; runs that write to it are in test_checkpoint.py."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime import UsageError
from ebm_export.runtime.sample_file import SampleFile

SHAPE = (3,)


def rows_of(path: Path, rows: int, n: int = 5) -> np.ndarray:
    """Writes rows of ones."""
    with SampleFile(path, rows, n, SHAPE, 1) as samples:
        for row in range(rows):
            samples.write(row, range(n), np.ones((n, *SHAPE), np.float32))
    return np.load(path)


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The next best to a disk that becomes full, which no test has."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("n", [5, 50_000])
def test_a_write_that_fails_says_where(tmp_path: Path, n: int) -> None:
    """Small rows wait in memory and fail as they are brought to disk, and again by closing; large ones fail at once."""
    path = tmp_path / "s.npy"
    samples = SampleFile(path, 2, n, SHAPE, 1)
    with no_file_beyond(100):
        with pytest.raises(OSError, match=r"s\.npy'$") as error:
            samples.write(0, range(n), np.ones((n, *SHAPE), np.float32))
            samples.sync()
        assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
        with pytest.raises(OSError, match=r"s\.npy'$") if n == 5 else nullcontext():
            samples.close()
        with pytest.raises(OSError, match=r"s\.npy'$"):
            SampleFile(path, 2, n, SHAPE, 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.npy"]
    assert rows_of(path, 2, n).all(), "the lock is given back"


def test_a_disk_without_room_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.npy"
    real = shutil.disk_usage(tmp_path)
    rows, n = 30, 10_000  # 3.4 MiB

    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=size))

    free(2**20)
    with pytest.raises(
        UsageError, match=r"s\.npy will take 3\.4 MiB, and its disk has 1\.0 MiB for it: give a larger --every"
    ):
        SampleFile(path, rows, n, SHAPE, 1)
    assert not list(tmp_path.iterdir())
    free(4 * 2**20)
    assert rows_of(path, rows, n).all()
    free(0)  # its own space is what a file that is there takes already
    assert rows_of(path, rows, n).all()
    SampleFile(path, rows, n, SHAPE, 1, goes_on=True).close()
    assert not caplog.messages
    free(1)  # one that is there is only told of
    path.write_bytes(b"")
    assert rows_of(path, rows, n).all()
    with path.open("r+b") as file:  # holes, as where what was written is compressed
        whole = file.read(200)
        file.truncate(0)
        file.truncate(4 * rows * n * 3 + 128)
        file.seek(0)
        file.write(whole)
    SampleFile(path, rows, n, SHAPE, 1, goes_on=True).close()
    path.unlink()
    free(0)  # which some say of anything
    assert rows_of(path, rows, n).all()
    assert len(caplog.messages) == 3
    assert "s.npy will take 3.4 MiB, and its disk has 0.0 MiB for it: where that is so" in caplog.text
    path.unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(real)(0, 0, 0))  # as where nobody knows
    assert rows_of(path, rows + 1, n).all()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no files of other kinds")
def test_what_is_no_plain_file_stays(tmp_path: Path) -> None:
    """As root, `--states /dev/null` put a file of that name into its place."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"out \(--states\): .*pipe is no plain file"):
        SampleFile(tmp_path / "pipe", 2, 5, SHAPE, 1)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.name != "posix", reason="not everybody may make links")
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one(tmp_path: Path, there: bool) -> None:
    """It leads to a larger disk, and a file took its place on the small one."""
    (tmp_path / "large").mkdir()
    (tmp_path / "s.npy").symlink_to(tmp_path / "large" / "s.npy")
    if there:
        (tmp_path / "large" / "s.npy").write_text("earlier")
    assert rows_of(tmp_path / "s.npy", 2).shape == (2, 5, 3)
    assert (tmp_path / "s.npy").is_symlink()
    assert [entry.name for entry in (tmp_path / "large").iterdir()] == ["s.npy"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    """It has the whole size of the file, and stayed for ever where the run was gone on with."""
    path = tmp_path / "s.npy"
    rows_of(path, 2)
    for goes_on in (False, True):
        (tmp_path / "s.npy.0123abcd.partial").write_text("half")
        SampleFile(path, 2, 5, SHAPE, 1, goes_on=goes_on).close()
        assert [entry.name for entry in tmp_path.iterdir()] == ["s.npy"]
