"""States along chains in a .npy file that is written as they come, in constant memory."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from .arguments import check_writable
from .chain_numbers import Chains, stretches
from .errors import LoadError, UsageError
from .file_lock import sole_user
from .partial_file import partial_of, remove_left

__all__ = ["SampleFile"]

_LOG = logging.getLogger("ebm_export")


class SampleFile:
    """A file [rows, n, *S] float32: row r holds all chains after (r + 1) * every steps.

    The file has its whole size from the start and is a .npy that can be opened at any time; what is not written yet is zero, and
    takes no space on most disks. Rows are written through the file and not through mapped memory, which would count as the process's
    own. Writing a row again, after a run was resumed, writes the same bits.

    Args:
        path: of the file; one that is there is replaced, and where it is a link, what that leads to.
        rows: number of rows, at least 1.
        n: number of chains.
        shape: of one state.
        every: steps between two rows.
        goes_on: whether a file that is there is gone on with, for a run that is resumed.

    Raises:
        LoadError: the file to go on with has another shape.
        UsageError: the file could not be written, it is new and its disk has no room for it, or another run writes to it.
        OSError: something could not be written, with the name of the file; by the methods too.
    """

    def __init__(
        self, path: str | Path, rows: int, n: int, shape: tuple[int, ...], every: int, *, goes_on: bool = False
    ) -> None:
        path = Path(path)
        self.path = path.resolve() if path.is_symlink() else path  # a link stays one, and leads to where there is room
        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
            # Else a file would take its place, which root may do to /dev/null.
            raise UsageError(f"out (--states): {path} is no plain file, in which rows have their places; give one")
        check_writable("out (--states)", self.path, replaced=not goes_on)
        self.every = every
        self._shape = (rows, n, *shape)
        with contextlib.ExitStack() as use:
            # From before a file that is there makes way, as that may be another run's.
            use.enter_context(sole_user("out (--states)", self.path))
            remove_left(self.path, 0)  # which a run that was killed here left, as nobody else writes now
            _check_space(self.path, 4 * math.prod(self._shape))
            if not (goes_on and self.path.exists()):
                # Then all of it or nothing is there, whenever the process is killed.
                with self._named(), partial_of(self.path) as partial:
                    np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=self._shape)  # type: ignore[no-untyped-call]
                    partial.replace(self.path)
            self._offset = _offset_of(self.path, self._shape)
            self._file = use.enter_context(self.path.open("r+b"))
            self._use = use.pop_all()

    def write(self, row: int, chains: Chains, states: np.ndarray) -> None:
        """Writes the states [B, *S] of chains into a row; rows beyond the last are left out."""
        rows, n, *sizes = self._shape
        if not 0 <= row < rows:
            return
        each = 4 * int(np.prod(sizes, dtype=np.int64))
        written = 0
        with self._named():
            for part in stretches(chains):
                self._file.seek(self._offset + (row * n + part.start) * each)
                self._file.write(np.ascontiguousarray(states[written : written + len(part)], np.float32).data)
                written += len(part)

    def blank(self, chains: Sequence[int]) -> None:
        """Makes all states of some chains NaN."""
        for chain in chains:
            for row in range(self._shape[0]):
                self.write(row, range(chain, chain + 1), np.full((1, *self._shape[2:]), np.nan, np.float32))

    def sync(self) -> None:
        """Waits until everything is on disk."""
        with self._named():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        with self._named():
            self._use.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Gives errors the name of the file, which a write that fails does not know."""
        try:
            yield
        except OSError as error:
            if error.filename is None:
                error.filename = str(self.path)
            raise

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_space(path: Path, size: int) -> None:
    """Refuses a new file that its disk has no room for: it takes space as it is written, and would end a run that has taken days.

    Of one that is there it warns: so a run goes on, and whoever knows better, as of a disk that compresses, has a way. Nor is one refused
    where nothing at all is free: some file systems say so of anything, and a disk that is full fails at the first row, not after days.

    Args:
        path: of the file. What one that is there takes is its own already, or becomes free as it is replaced.
        size: bytes.

    Raises:
        UsageError: there is no room.
    """
    there = path.exists()
    held = 0
    if there:
        found = path.stat()
        held = 512 * found.st_blocks if hasattr(found, "st_blocks") else found.st_size  # Windows gives it all at once
    disk = shutil.disk_usage(path.parent)
    if not disk.total or size <= held + disk.free:  # some file systems cannot tell, and say 0
        return
    said = f"{path} will take {_mib(size)} MiB, and its disk has {_mib(held + disk.free)} MiB for it"
    if there or not disk.free:
        _LOG.warning("%s: where that is so, the run ends with an error as the disk is full", said)
        return
    raise UsageError(
        f"out (--states): {said}: give a larger --every (in Python every=), or a file on another disk; where this one compresses, make an "
        "empty file of that name first"
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def _offset_of(path: Path, shape: tuple[int, ...]) -> int:
    """Where the numbers begin in a file of this shape."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]
    except (ValueError, OSError, EOFError) as error:
        raise LoadError(
            f"{path} is there and is no .npy file ({error}): remove it, or write to another file"
        ) from error
    if mapped.dtype != np.float32 or mapped.shape != shape:
        raise LoadError(
            f"{path} is there and holds {mapped.dtype} {list(mapped.shape)}, where this run writes float32 {list(shape)}: "
            "remove it, or write to another file"
        )
    return int(mapped.offset)
