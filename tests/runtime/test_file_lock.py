"""Files that one run at a time uses."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ebm_export.runtime import UsageError, file_lock
from ebm_export.runtime.file_lock import sole_user

HOLDS = """
import sys, time
from pathlib import Path
from ebm_export.runtime.file_lock import sole_user
with sole_user("checkpoint", Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither SIGKILL nor links for everybody")
def test_another_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (tmp_path / "link").symlink_to("run")
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for name in ("run", "link"):
            with (
                pytest.raises(UsageError, match=f"^checkpoint: .*{name} is in use by a run that has not ended: wait"),
                sole_user("checkpoint", tmp_path / name),
            ):
                pass
        with sole_user("checkpoint", tmp_path / "other"):
            pass
        child.send_signal(signal.SIGKILL)
    with sole_user("checkpoint", path):
        assert (tmp_path / ".run.lock").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link"]


def test_long_names_have_locks_of_their_own(tmp_path: Path) -> None:
    for name in ("a" * 255, "a" * 254 + "b", "é" * 127):
        with sole_user("checkpoint", tmp_path / name), pytest.raises(UsageError, match="in use"):
            with sole_user("checkpoint", tmp_path / ("a" * 253)):
                pass
            with sole_user("checkpoint", tmp_path / name):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "try_lock", lambda descriptor: None)
    with sole_user("checkpoint", tmp_path / "run"), sole_user("checkpoint", tmp_path / "run"):
        assert list(tmp_path.iterdir()) == []


def says(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The next lock that is asked for is answered by this error."""
    lock = file_lock._lock

    def once(descriptor: int) -> None:
        monkeypatch.setattr(file_lock, "_lock", lock)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_lock, "_lock", once)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_what_says_that_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    says(monkeypatch, number)
    with sole_user("checkpoint", tmp_path / "run"):
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_another_machine_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS says of an open file that it is stale; who holds the new one of that name holds the lock."""
    with sole_user("checkpoint", tmp_path / "run"):
        says(monkeypatch, errno.ESTALE)
        with pytest.raises(UsageError, match="run is in use"), sole_user("checkpoint", tmp_path / "run"):
            pass
        assert (tmp_path / ".run.lock").exists()
    says(monkeypatch, errno.ESTALE)
    with sole_user("checkpoint", tmp_path / "run"):
        assert (tmp_path / ".run.lock").exists()


def test_one_that_is_removed_once_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, stale = Path.stat, [errno.ESTALE]

    def once(path: Path, **how: Any) -> os.stat_result:
        if path.name == ".run.lock" and stale:
            number = stale.pop()
            raise OSError(number, os.strerror(number))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", once)
    with sole_user("checkpoint", tmp_path / "run"):
        assert not stale and (tmp_path / ".run.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_another_error_is_no_leave_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sole_user("checkpoint", tmp_path / "run"):
        says(monkeypatch, errno.EIO)
        with (
            pytest.raises(OSError, match=r"\.run\.lock"),
            sole_user("checkpoint", tmp_path / "run"),
        ):
            pass
        assert (tmp_path / ".run.lock").exists()


class Windows:
    """Its locks and its open files, as far as they differ: a byte of a file is locked, and no open file is removed.

    A lock lasts until it is given back; one of a closed file does on Windows for as long as the system likes.

    Attributes:
        held: what holds a lock, by the file's place on the disk.
        opened: that place of every open file, and what tells it from one that has its number later.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: dict[tuple[int, int], object] = {}
        self.opened: dict[int, tuple[tuple[int, int], object]] = {}
        library = ModuleType("msvcrt")
        library.LK_UNLCK, library.LK_NBLCK, library.locking = 0, 2, self.locking  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", library)
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "close", self.close)
        monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: self.unlink(path, missing_ok))

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert mode in (0, 2) and count == 1 and os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        place, holder = self.opened[descriptor]
        if mode == 0:
            assert self.held.pop(place) is holder
        elif self.held.setdefault(place, holder) is not holder:
            raise PermissionError(errno.EACCES, "Permission denied")

    def open(self, path: Any, *how: Any, _open: Any = os.open) -> int:
        descriptor: int = _open(path, *how)
        self.opened[descriptor] = (_place(os.fstat(descriptor)), object())
        return descriptor

    def close(self, descriptor: int, _close: Any = os.close) -> None:
        self.opened.pop(descriptor, None)
        _close(descriptor)

    def unlink(self, path: Path, missing_ok: bool = False, _unlink: Any = Path.unlink) -> None:
        if path.exists() and _place(path.stat()) in dict(self.opened.values()):
            raise PermissionError(errno.EACCES, "it is used by another process", str(path))
        _unlink(path, missing_ok)


def _place(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def test_the_locks_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(monkeypatch)
    for _ in range(2):
        with sole_user("checkpoint", tmp_path / "run"):
            assert len(windows.held) == 1
            with pytest.raises(UsageError, match="run is in use"), sole_user("checkpoint", tmp_path / "run"):
                pass
            with sole_user("checkpoint", tmp_path / "other"):
                pass
        assert not windows.held and list(tmp_path.iterdir()) == []
    (tmp_path / ".run.lock").touch()  # which a killed process left
    with sole_user("checkpoint", tmp_path / "run"):
        assert windows.held
    assert list(tmp_path.iterdir()) == []


def test_one_that_may_not_be_removed_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder whose files only their owners may remove."""

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "unlink", refused)
    for _ in range(2):
        with sole_user("checkpoint", tmp_path / "run"):
            pass


def test_a_lock_of_windows_that_was_taken_over_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of one run and the removal of its lock another one may begin."""
    windows, lock, following = Windows(monkeypatch), tmp_path / ".run.lock", []

    def close(descriptor: int) -> None:
        windows.close(descriptor)
        if not following:
            following.append(os.open(lock, os.O_RDWR))
            assert file_lock.try_lock(following[0])

    with sole_user("checkpoint", tmp_path / "run"):
        monkeypatch.setattr(os, "close", close)
    assert lock.exists()
    with pytest.raises(UsageError, match="run is in use"), sole_user("checkpoint", tmp_path / "run"):
        pass
    os.close(following[0])
