"""A file that is written beside another whose place it takes: one for each writer, so that two do not write into each other's."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from .file_lock import ANY_NAME

__all__ = ["partial_of", "remove_left"]

_RANDOM = 4
"""Random bytes in a name."""
_FORGOTTEN = 3600.0
"""Seconds since the last write into a file from which on its writer is taken for dead. A lock would say more, but where files are on a
server of Windows' (CIFS) nobody can write into one that is locked, and elsewhere there are no locks; and numbers of processes are the
same in two containers."""


@contextlib.contextmanager
def partial_of(path: Path, *, tidy: bool = True) -> Iterator[Path]:
    """Gives a new empty file beside `path`, to write and to rename in the block; it is removed at the end where it was not renamed.

    What a process that was killed left is removed an hour later by the next one that writes to `path`.

    Args:
        path: the file whose place is to be taken.
        tidy: whether to look for such files, for which the whole folder is listed.

    Raises:
        OSError: it cannot be made, with the name of `path`.
    """
    if tidy:
        remove_left(path)
    partial = path.with_name(f"{_stem(path)}.{secrets.token_hex(_RANDOM)}.partial")
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def remove_left(path: Path, seconds: float = _FORGOTTEN) -> None:
    """Removes partial files of `path` that nobody has written into for so long.

    Those of a long name may be another file's, whose name begins alike: they are removed only when nobody has written into them for an hour.

    Args:
        path: the file whose place they were to take.
        seconds: since the last write; 0 for whoever knows that nobody else writes to `path`.
    """
    if _stem(path) != path.name:
        seconds = _FORGOTTEN
    pattern = re.compile(rf"{re.escape(_stem(path))}\.[0-9a-f]{{{2 * _RANDOM}}}\.partial")
    with contextlib.suppress(OSError):  # a folder that may not be listed, a file of another user, one that is gone
        for entry in path.parent.iterdir():
            if pattern.fullmatch(entry.name) and time.time() - entry.stat().st_mtime >= seconds:
                entry.unlink()


def _stem(path: Path) -> str:
    """As much of the name as leaves the whole no longer than `path` itself, which the file system takes."""
    longest = max(ANY_NAME, len(os.fsencode(path.name))) - len("..partial") - 2 * _RANDOM
    stem = path.name
    while len(os.fsencode(stem)) > longest:
        stem = stem[:-1]
    return stem
