"""One turn on a replay buffer that is kept in a file: chains start from its states, and where they end goes back into it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .errors import UsageError
from .file_lock import sole_user
from .replay_buffer import CAPACITY, SHARE, ReplayBuffer

__all__ = ["BufferFile", "BufferTurn"]


@dataclass(frozen=True)
class BufferFile:
    """What --buffer, --share and --capacity say.

    Attributes:
        path: .npy file [M, *S] float32; one that is not there yet is an empty buffer.
        share: share of chains that start anew, from 0 to 1.
        capacity: as for `ReplayBuffer.read`: None forgets nothing that is in the file already, which may be the work of days.
    """

    path: Path
    share: float = SHARE
    capacity: int | None = None


class BufferTurn:
    """A context manager: within it no other run may use the file, whose places are this one's.

    Args:
        file: which, and how it is used.
        shape: shape S of one state.

    Raises:
        UsageError: at the beginning of the block: another run uses the file, or its states have another shape.
        LoadError: there, too: it holds something else.
    """

    def __init__(self, file: BufferFile, shape: tuple[int, ...]) -> None:
        self._file, self._shape = file, shape
        self._places = np.zeros(0, dtype=np.int64)
        self._use = contextlib.ExitStack()

    def __enter__(self) -> BufferTurn:
        path, capacity = self._file.path, self._file.capacity
        with contextlib.ExitStack() as use:
            use.enter_context(sole_user("--buffer", path))
            if path.exists():
                self._buffer = ReplayBuffer.read(path, capacity)
            else:
                self._buffer = ReplayBuffer(CAPACITY if capacity is None else capacity, self._shape)
            if self._buffer.shape != self._shape:
                held, taken = (f"[{', '.join(map(str, shape))}]" for shape in (self._buffer.shape, self._shape))
                raise UsageError(
                    f"--buffer: {path} holds states {held}, and this model takes {taken}: give another file"
                )
            self._use = use.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._use.close()

    @property
    def states(self) -> np.ndarray:
        """[M, *S] float32, the states that chains may start from."""
        return self._buffer.states

    def start(self, fresh: np.ndarray, seed: int) -> np.ndarray:
        """Returns where chains start, [n, *S] float32; `fresh` [n, *S] are the new starts that some of them have."""
        starts, self._places = self._buffer.draw(fresh, seed, self._file.share)
        return starts

    def end(self, states: np.ndarray, dropped: Collection[int] = ()) -> dict[str, Any]:
        """Puts where the chains ended into the file, which is replaced as a whole.

        Args:
            states: [n, *S] float32 without the chains that were dropped, whose states in the buffer stay what they are.
            dropped: numbers of these.

        Returns:
            What is to be said of it.
        """
        self._buffer.put(states, np.delete(self._places, list(dropped)))
        self._buffer.save(self._file.path)
        fresh = int(np.count_nonzero(self._places < 0))
        return {"file": str(self._file.path), "states": len(self._buffer), "fresh": fresh}
