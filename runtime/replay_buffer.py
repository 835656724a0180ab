"""States that chains ended in, kept so that later chains start from them.

Persistent chains as image models are trained with (Du and Mordatch, "Implicit generation and modeling with energy based
models", NeurIPS 2019): most chains go on from where some chain ended, a few start anew so that no region is forgotten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .arguments import check_count, check_states
from .errors import LoadError, UsageError
from .noise import NoiseSource, Stream

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """A store of states of one shape.

    Args:
        capacity: most states that it holds.
        shape: shape S of one state.

    Attributes:
        states: [M, *S] float32, those that it holds, M at most `capacity`.
        capacity: most states that it holds.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...]) -> None:
        check_count("capacity", capacity)
        self.capacity = capacity
        self.states = np.empty((0, *shape), dtype=np.float32)

    def draw(self, fresh: Any, seed: int, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
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
        starts = check_states("fresh", fresh, self.states.shape[1:]).copy()
        if not 0 <= share <= 1:
            raise UsageError(f"share: expected a number from 0 to 1, got {share!r}")
        places = np.full(len(starts), -1, dtype=np.int64)
        if len(self.states):
            # Two numbers for each chain: whether it goes on, and from where.
            numbers = NoiseSource(seed, Stream.REPLAY).uniform(0, range(len(starts)), (2,)).astype(np.float64)
            goes_on = numbers[:, 0] >= share
            places[goes_on] = (numbers[goes_on, 1] * len(self.states)).astype(np.int64)
            starts[goes_on] = self.states[places[goes_on]]
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
        ends = check_states("states", states, self.states.shape[1:])
        if len(ends) != len(places):
            raise UsageError(f"places: expected {len(ends)}, one for each state, got {len(places)}")
        old = places >= 0
        self.states[places[old]] = ends[old]
        self.states = np.concatenate([self.states, ends[~old]])[-self.capacity :]

    def save(self, path: str | Path) -> None:
        """Writes the states to a .npy file."""
        with Path(path).open("wb") as file:
            np.save(file, self.states, allow_pickle=False)

    @classmethod
    def read(cls, path: str | Path, capacity: int) -> ReplayBuffer:
        """Reads what `save` wrote.

        Raises:
            LoadError: the file cannot be read, or holds something else.
        """
        try:
            states = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise LoadError(f"{path}: expected a .npy file of states: {error}") from error
        if states.dtype != np.float32 or states.ndim == 0:
            raise LoadError(f"{path}: expected float32 states [M, *S], got {states.dtype} {list(states.shape)}")
        buffer = cls(capacity, states.shape[1:])
        buffer.states = states[-capacity:]
        return buffer
