"""The best state that each chain has come to, for callers who cannot wait for the end."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .chain import Progress

__all__ = ["BestSoFar", "improvements", "until"]

_FORGETTING = 0.95  # share of the longest step so far that a step keeps; one slow step in a hundred is forgotten soon
_RESERVE = 1.5  # in such steps: what is kept free for the next one, for handing over, and for a machine that is busy


class BestSoFar(NamedTuple):
    """Each chain's state of lowest energy among those that were evaluated.

    Energies of two precisions differ by more than the states of a chain do, so they are not compared: where another engine
    takes over, the best begins anew with the states that this one evaluates.

    Attributes:
        x: [n, *S] float32.
        energy: [n] float32, at `x`; infinite where no evaluated state had a finite energy, and `x` is the start.
        steps: steps that were taken.
        complete: whether these are all the steps that were asked for.
    """

    x: np.ndarray
    energy: np.ndarray
    steps: int
    complete: bool


def improvements(steps: Iterator[Progress], switches: Collection[int] = ()) -> Iterator[BestSoFar]:
    """Yields the best states whenever those of a chain became better, at the start, and at the end.

    Args:
        steps: what `chain_steps` yields, of a sampler whose states have the energy of their position.
        switches: numbers of the steps at which another engine takes over.

    Yields:
        New arrays each time.
    """
    best = _Best(switches)
    for now in steps:
        if best.take(now) or now.done in (0, now.steps):
            yield best.copy()


def until(steps: Iterator[Progress], deadline: float, switches: Collection[int] = ()) -> BestSoFar:
    """Goes on as long as the next step should end before a deadline.

    A step is expected to take as long as the longest of those before it, of which those long ago count for less, and half
    as long again is kept in reserve. The first evaluation is made in any case.

    Args:
        steps: as in `improvements`.
        deadline: in seconds, on the clock of `time.perf_counter`.
        switches: as in `improvements`.

    Returns:
        The best states by then.
    """
    best = _Best(switches)
    longest = 0.0
    before = None
    for now in steps:
        best.take(now)
        clock = perf_counter()
        if before is not None:  # the start takes two evaluations and more
            longest = max(clock - before, _FORGETTING * longest)
        before = clock
        if clock + _RESERVE * longest > deadline:
            break
    return best.copy()


class _Best:
    """Arrays that are written in place, one row where a chain improves."""

    def __init__(self, switches: Collection[int]) -> None:
        self._switches = switches
        self._x = self._energy = self._to_beat = np.empty(0, dtype=np.float32)
        self._now: Progress | None = None

    def take(self, now: Progress) -> bool:
        """Takes one step in, and says whether it made a chain's best better."""
        if self._now is None:
            self._x = np.array(now.state.position)
            self._energy = np.full(len(self._x), np.inf, dtype=np.float32)
            self._to_beat = self._energy.copy()
        elif now.done - 1 in self._switches:
            self._to_beat[:] = np.inf
        self._now = now
        better = now.state.energy < self._to_beat  # false for NaN
        if not better.any():
            return False
        self._x[better] = now.state.position[better]
        self._energy[better] = self._to_beat[better] = now.state.energy[better]
        return True

    def copy(self) -> BestSoFar:
        assert self._now is not None, "there is a start before there is a best"
        return BestSoFar(self._x.copy(), self._energy.copy(), self._now.done, self._now.done == self._now.steps)
