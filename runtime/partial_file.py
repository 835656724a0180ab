"""A file that is written beside another whose place it takes: one for each writer, so that two do not write into each other's."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from .file_lock import ANY_NAME, try_lock

__all__ = ["partial_of"]


@contextlib.contextmanager
def partial_of(path: Path) -> Iterator[Path]:
    """Gives a new empty file beside `path`, to write and to rename in the block; it is removed at the end where it was not renamed.

    Its writer holds a lock on it. What has none was left by a process that was killed, and is removed by the next one that writes
    to `path`. Numbers of processes would not tell: they come again, and in two containers they are the same.

    Args:
        path: the file whose place is to be taken.

    Raises:
        OSError: it cannot be made, with the name of `path`.
    """
    stem = _stem(path)
    _remove_left(path.parent, stem)
    try:
        partial, descriptor = _made(path.parent, stem)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _stem(path: Path) -> str:
    """As much of the name as leaves the whole no longer than `path` itself, which the file system takes."""
    ending = len(_ending())
    longest = max(ANY_NAME, len(os.fsencode(path.name))) - ending
    stem = path.name
    while len(os.fsencode(stem)) > longest:
        stem = stem[:-1]
    return stem


def _ending() -> str:
    return f".{secrets.token_hex(4)}.partial"


def _made(folder: Path, stem: str) -> tuple[Path, int | None]:
    """Returns the file and what holds its lock; None where the file system has no locks."""
    while True:
        partial = folder / f"{stem}{_ending()}"
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        locked = try_lock(descriptor)
        if locked and partial.exists():
            return partial, descriptor
        os.close(descriptor)
        if locked is None:
            return partial, None
        # Another writer took it for one that was left, before it had its lock.


def _remove_left(folder: Path, stem: str) -> None:
    """Removes what killed processes left. That of a file whose name begins alike is no loss either."""
    pattern = re.compile(re.escape(stem) + r"\.[0-9a-f]{8}\.partial")
    with contextlib.suppress(OSError):  # a folder that may not be listed, a file of another user
        for entry in folder.iterdir():
            if pattern.fullmatch(entry.name):
                _remove_unless_held(entry)


def _remove_unless_held(partial: Path) -> None:
    try:
        descriptor = os.open(partial, os.O_RDWR)
    except FileNotFoundError:  # renamed meanwhile
        return
    try:
        if try_lock(descriptor):
            partial.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
