"""Locks on files. The system gives them back when a process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import UsageError

__all__ = ["ANY_NAME", "sole_user", "try_lock"]

ANY_NAME = 64
"""Bytes of a file name that every file system takes. Most take 255, those that encrypt names fewer."""
_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
"""What a system says of a lock that somebody else has."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What one says where it has no such locks: NFS without its lock service, some file systems in user space and shares of Windows."""
_BUSY = "is in use by a run that has not ended: wait for that one, or give another file"
_PAUSE = 0.01
"""Seconds between two tries of whoever waits."""


def try_lock(descriptor: int) -> bool | None:
    """Locks an open file until it is closed.

    Returns:
        Whether it is locked now; False where somebody else has the lock, None where the file system has no locks.

    Raises:
        OSError: it cannot be told; of an open file that another machine removed, with ESTALE.
    """
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # a byte, which need not be there
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(descriptor: int) -> None:
    """Gives a lock back before its file is closed: Windows does it some time after that, other systems at once."""
    try:
        import msvcrt
    except ImportError:
        return
    msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]


@contextlib.contextmanager
def sole_user(name: str, path: Path, seconds: float = 0.0, *, busy: str = _BUSY) -> Iterator[None]:
    """Keeps other runs from a file while the block runs; does nothing where the file system has no locks.

    The lock is on a file of its own beside it, since another file takes the place of this one at every saving. It is removed at the
    end; one that a killed process has left is taken over.

    Args:
        name: what the caller calls the file.
        path: of the file, which need not be there yet.
        seconds: for which another run that uses it is waited for.
        busy: what an error says of the file where another run uses it, and what to do.

    Raises:
        UsageError: another run uses it.
        OSError: its folder takes no files, or the system fails where it has locks.
    """
    lock = _lock_of(path.resolve())  # a link and what it leads to are one file
    deadline = time.monotonic() + seconds
    while True:
        try:
            descriptor = _taken(lock)
            break
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise UsageError(f"{name}: {path} {busy}") from error
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        if descriptor is not None:
            _give_back(lock, descriptor)


def _taken(lock: Path) -> int | None:
    """Returns the lock's open file; None where there can be none.

    Raises:
        BlockingIOError: somebody else has it.
        OSError: the system cannot tell, with the name of the lock.
    """
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except (
            PermissionError
        ):  # a folder that takes no files, though the one in it may be written; a lock that another user left
            return None
        try:
            locked = try_lock(descriptor)
            if locked and (os.name == "nt" or _is_there(lock, descriptor)):  # no open file is removed on Windows
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.ESTALE:  # on a server, where its last user on another machine removed it
                continue
            error.filename = str(lock)
            raise
        os.close(descriptor)
        if locked is None:
            lock.unlink(missing_ok=True)
            return None
        if not locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "somebody else has it", str(lock))
        # Its last user removed it after it was opened here.


def _give_back(lock: Path, descriptor: int) -> None:
    """Removes a lock that is held; one that somebody else opened in between stays."""
    try:
        lock.unlink(missing_ok=True)  # first, so that nobody takes over what is then removed
    except PermissionError:  # Windows removes no file that is open, and so none that was taken over either
        _unlock(descriptor)
        os.close(descriptor)
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
    else:
        os.close(descriptor)


def _is_there(lock: Path, descriptor: int) -> bool:
    """Whether this open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _lock_of(path: Path) -> Path:
    name = os.fsencode(path.name)
    if len(name) > ANY_NAME - len("..lock"):
        return path.with_name(f".{hashlib.sha256(name).hexdigest()[:32]}.lock")
    return path.with_name(f".{path.name}.lock")
