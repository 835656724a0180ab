"""States that chains ended in, kept so that later chains start from them.

Persistent chains as image models are trained with (Du and Mordatch, "Implicit generation and modeling with energy based
models", NeurIPS 2019): most chains go on from where some chain ended, a few start anew so that no region is forgotten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .arguments import check_count, check_states
from .array_file import read_array
from .errors import LoadError, UsageError
from .noise import NoiseSource, Stream
from .replaced_file import replacing, write_npy

__all__ = ["CAPACITY", "SHARE", "ReplayBuffer"]

# What Du and Mordatch trained with.
CAPACITY = 10_000
"""States that a buffer holds unless told otherwise."""
SHARE = 0.05
"""Share of chains that start anew unless told otherwise."""


class ReplayBuffer:
    """A store of states of one shape.

    A ring: what is put writes over what is forgotten, so that a turn costs as much as its own chains, however many the buffer
    holds.

    Args:
        capacity: most states that it holds.
        shape: shape S of one state.

    Attributes:
        capacity: most states that it holds.
        shape: shape S of one state.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...]) -> None:
        check_count("capacity", capacity)
        self.capacity = capacity
        self.shape = tuple(shape)
        self._ring = np.empty((0, *shape), dtype=np.float32)  # grows up to the capacity; only then it is a ring
        self._first = 0  # row of the state at place 0, the one that was added first
        self._count = 0

    @property
    def states(self) -> np.ndarray:
        """[M, *S] float32, those that it holds, the first added first, in a new array; M is at most `capacity`."""
        return self._ring[self._rows(np.arange(self._count))]

    def __len__(self) -> int:
        return self._count

    def draw(self, fresh: Any, seed: int, share: float = SHARE) -> tuple[np.ndarray, np.ndarray]:
        """Picks states to start from.

        Args:
            fresh: [n, *S] new starts, one for each chain: what a chain gets where it starts anew, or where the buffer is
                still empty.
            seed: same seed and contents, same picks.
            share: share of chains that start anew, from 0 to 1.

        Returns:
            [n, *S] float32 states, and [n] int64, the place in the buffer that each came from, -1 for a new one. Chains
            may share a place.

        Raises:
            UsageError: wrong type, shape or value.
        """
        starts = check_states("fresh", fresh, self.shape).copy()
        if not 0 <= share <= 1:
            raise UsageError(f"share: expected a number from 0 to 1, got {share!r}")
        places = np.full(len(starts), -1, dtype=np.int64)
        if self._count:
            # Two numbers for each chain: whether it goes on, and from where.
            numbers = NoiseSource(seed, Stream.REPLAY).uniform(0, range(len(starts)), (2,)).astype(np.float64)
            goes_on = numbers[:, 0] >= share
            places[goes_on] = (numbers[goes_on, 1] * self._count).astype(np.int64)
            starts[goes_on] = self._ring[self._rows(places[goes_on])]
        return starts, places

    def put(self, states: Any, places: np.ndarray) -> None:
        """Keeps where chains ended.

        A chain that went on replaces the state that it came from. A new one is added at the end; where there are then too
        many, those at the beginning, which were added first, are forgotten.

        Args:
            states: [n, *S].
            places: [n], as `draw` gave them.

        Raises:
            UsageError: wrong type, shape or value.
        """
        ends = check_states("states", states, self.shape)
        if len(ends) != len(places):
            raise UsageError(f"places: expected {len(ends)}, one for each state, got {len(places)}")
        if len(places) and places.max() >= self._count:
            raise UsageError(f"places: expected places of the {self._count} states that are kept, got {places.max()}")
        old = places >= 0
        self._ring[self._rows(places[old])] = ends[old]
        new = ends[~old][-self.capacity :]
        total = self._count + len(new)
        self._reserve(min(total, self.capacity))
        self._ring[self._rows(np.arange(self._count, total))] = new
        forgotten = max(total - self.capacity, 0)
        self._first = (self._first + forgotten) % self.capacity
        self._count = total - forgotten

    def save(self, path: str | Path) -> None:
        """Writes the states to a .npy file, as a whole: a run that is killed meanwhile leaves the file of before.

        Raises:
            OSError: it cannot be written.
        """
        with replacing(Path(path)) as file:
            write_npy(file, self.states)

    @classmethod
    def read(cls, path: str | Path, capacity: int | None = None) -> ReplayBuffer:
        """Reads what `save` wrote.

        Args:
            path: of the file.
            capacity: most states that it holds; where the file has more, the first of them are forgotten. None is `CAPACITY`, or as
                many as the file has where these are more.

        Raises:
            LoadError: the file cannot be read, or holds something else.
        """
        try:
            states = read_array(path)
        except (OSError, ValueError) as error:
            raise LoadError(f"{path}: expected a .npy file of states: {error}") from error
        if states.dtype != np.float32 or states.ndim == 0:
            raise LoadError(f"{path}: expected float32 states [M, *S], got {states.dtype} {list(states.shape)}")
        buffer = cls(max(CAPACITY, len(states)) if capacity is None else capacity, states.shape[1:])
        buffer._ring = np.ascontiguousarray(states[-buffer.capacity :])
        buffer._count = len(buffer._ring)
        return buffer

    def _rows(self, places: np.ndarray) -> np.ndarray:
        """Rows of the ring at places, counted from the state that was added first."""
        return (self._first + places) % max(len(self._ring), 1)

    def _reserve(self, count: int) -> None:
        """Makes room for as many states, and for more to come, so that a growing buffer is not copied at every turn."""
        if count > len(self._ring):
            grown = np.empty((min(max(count, 2 * len(self._ring)), self.capacity), *self.shape), dtype=np.float32)
            grown[: self._count] = self._ring[: self._count]  # it has not turned yet
            self._ring = grown
