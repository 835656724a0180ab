"""A long run's state on disk, so that one that was killed goes on where it was and ends with the same bits.

One file, an .npz without pickles, replaced as a whole: a kill at any moment leaves the old one or the new one. It holds what run
it is of, so that it is not gone on with under other settings by mistake.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from .arguments import check_seconds, check_writable
from .device import GPU, PROCESSOR
from .errors import LoadError, UsageError
from .file_lock import sole_user
from .partial_file import remove_left
from .replaced_file import replacing
from .snapshot import Snapshot, from_arrays, to_arrays

__all__ = ["Checkpoint", "Saved", "dropped_in", "fused_in"]

_VERSION = 4


class Saved(NamedTuple):
    """Where a run of `run.run_chains` is.

    Attributes:
        first: number of the first chain of the batch that runs; n where all are done.
        attempt: how often those of its chains that run were started anew; 0 in the batch's own run.
        result: [n, *S] float32, final positions as far as they are there.
        lost: [B] bool, chains of the batch that diverged, all of which run again together; empty in the batch's own run.
        dropped: [D] int64, numbers of the chains that were dropped.
        snapshot: of what runs; None between two runs.
    """

    first: int
    attempt: int
    result: np.ndarray
    lost: np.ndarray
    dropped: np.ndarray
    snapshot: Snapshot | None

    @classmethod
    def beginning(cls, n: int, shape: tuple[int, ...]) -> Saved:
        """Where a run of n chains begins, whose states have this shape."""
        nobody, nothing = np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
        return cls(0, 0, np.zeros((n, *shape), dtype=np.float32), nobody, nothing, None)

    def after(self, first: int) -> Saved:
        """The same run where a batch is done; chain `first` is the next."""
        return self._replace(first=first, attempt=0, lost=np.zeros(0, dtype=bool), snapshot=None)


class Checkpoint:
    """The file of one run. A context manager: within it no other run may use the file.

    Args:
        path: of the file.
        identity: what decides the run's numbers, as JSON values by the name that a user knows; a file of another run is refused.
        seconds: time between two savings, at least 0; with 0 the run is saved at the start and after every step, or block of fused ones.

    Attributes:
        before: called before each saving, to bring what was written elsewhere to disk; None calls nothing.

    Raises:
        UsageError: the file could not be written, or these are no seconds; or, at the beginning of the block, another run uses it.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any],
        *,
        seconds: float = 10.0,
    ) -> None:
        self.path = Path(path)
        check_writable("checkpoint", self.path, replaced=True)
        self._identity = json.loads(json.dumps(dict(identity)))
        self._seconds = check_seconds("checkpoint_seconds", seconds)
        self._use = contextlib.ExitStack()
        self.before: Callable[[], None] | None = None
        self._next = time.monotonic() + self._seconds

    def __enter__(self) -> Checkpoint:
        self._use.enter_context(sole_user("checkpoint", self.path))
        remove_left(self.path, 0)  # which killed runs left, as nobody else writes now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._use.close()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def load(self) -> Saved | None:
        """Returns where the run was; None where there is no file.

        Raises:
            UsageError: the file is of another run; the text names what differs.
            LoadError: it cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = dict(file)
            identity, version = json.loads(str(arrays["identity"])), int(arrays["version"])
            inner = {name.removeprefix("run."): array for name, array in arrays.items() if name.startswith("run.")}
            saved = Saved(
                int(arrays["first"]),
                int(arrays["attempt"]),
                arrays["result"],
                arrays["lost"],
                arrays["dropped"],
                from_arrays(inner) if inner else None,
            )
        except Exception as error:  # what a damaged archive makes zipfile, zlib, json and numpy raise is of many kinds
            raise LoadError(
                f"{self.path} is no checkpoint of a run, or a damaged one: give another --checkpoint (in Python checkpoint=), or "
                "remove this file if it was one"
            ) from error
        self._check(identity, version)
        return saved

    def save(self, saved: Saved) -> None:
        """Writes where the run is, and waits until it is on disk."""
        if self.before is not None:
            self.before()
        arrays = {name: np.asarray(value) for name, value in saved._asdict().items() if name != "snapshot"}
        if saved.snapshot is not None:
            arrays |= {f"run.{name}": array for name, array in to_arrays(saved.snapshot).items()}
        with replacing(self.path) as file:
            np.savez(
                file,
                allow_pickle=False,
                identity=np.array(json.dumps(self._identity)),
                version=np.array(_VERSION),
                **arrays,
            )
        _sync_folder(self.path.parent)
        self._next = time.monotonic() + self._seconds

    def _check(self, found: Mapping[str, Any], version: int) -> None:
        if version != _VERSION:
            raise UsageError(
                f"{self.path} was written by another version of ebm-export (form {version}, here {_VERSION}): go on with that "
                "version, or remove the file to begin anew"
            )
        differing = [name for name in {**found, **self._identity} if found.get(name) != self._identity.get(name)]
        # No chain has diverged in a run that stops at the first, so nothing has been decided yet by what happens to those that do.
        if found.get("diverged") == "stop" and "diverged" in differing:
            differing.remove("diverged")
        # Where one of the two could not tell the model, it may be the other's, and is from now on. A run on a processor has threads.
        if GPU in differing and None in (found.get(GPU), self._identity.get(GPU)):
            differing.remove(GPU)
            self._identity[GPU] = found.get(GPU) or self._identity.get(GPU)
        if differing:
            said = "; ".join(
                f"{name} was {found.get(name)!r} and is {self._identity.get(name)!r}" for name in differing
            )
            for what, names in (("processors", PROCESSOR), ("GPUs", (GPU,))):
                if not set(names).isdisjoint(differing):
                    said += f" (other {what} round in other ways: go on with it on one like the first)"
            raise UsageError(
                f"{self.path} is of another run: {said}. Give the same again, another --checkpoint (in Python checkpoint=), or "
                "remove the file to begin anew"
            )


def dropped_in(path: str | Path) -> list[int]:
    """Returns the numbers of the chains that the run of a checkpoint has dropped so far."""
    with np.load(path, allow_pickle=False) as file:
        return [int(chain) for chain in file["dropped"]]


def fused_in(path: str | Path) -> bool | None:
    """Returns whether the run of a checkpoint takes several steps in one call; None where there is no such file, or one that cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return bool(json.loads(str(file["identity"]))["fuse"]) if int(file["version"]) == _VERSION else None
    except Exception:  # `Checkpoint.load` says what is wrong with it
        return None


def _sync_folder(folder: Path) -> None:
    """Brings a renamed file's name to disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
