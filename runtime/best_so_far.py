"""The best state that each chain has come to, for callers who cannot wait for the end."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .chain import Progress
from .errors import DivergenceError

__all__ = ["BestSoFar", "Steps", "improvements", "until"]

_FORGETTING = 0.95  # share of the longest step so far that a step keeps; one slow step in a hundred is forgotten soon
_RESERVE = 1.5  # in such steps: what is kept free for the next one, for handing over, and for a machine that is busy


Steps = Generator[Progress, None, None]
"""What `chain_steps` returns. It is closed at the end: whoever stops in the middle leaves nothing running."""


class BestSoFar(NamedTuple):
    """Each chain's state of lowest energy among those that were evaluated.

    Energies of two precisions differ by more than the states of a chain do, so they are not compared: where another engine
    takes over, the best begins anew with the states that this one evaluates.

    Attributes:
        x: [n, *S] float32.
        energy: [n] float32, at `x`; infinite where no evaluated state had a finite energy, and `x` is the start.
        steps: steps that were taken.
        complete: whether these are all the steps that were asked for.
        diverged: [n] bool, chains whose numbers are no longer finite; their `x` is the best from before.
    """

    x: np.ndarray
    energy: np.ndarray
    steps: int
    complete: bool
    diverged: np.ndarray


def improvements(steps: Steps, switches: Collection[int] = ()) -> Iterator[BestSoFar]:
    """Yields the best states whenever those of a chain became better, at the start, and at the end.

    Args:
        steps: what `chain_steps` yields, of a sampler whose states have the energy of their position.
        switches: numbers of the steps at which another engine takes over.

    Yields:
        New arrays each time.

    Raises:
        DivergenceError: no chain ever had a finite energy.
    """
    best = _Best(switches)
    with contextlib.closing(steps):
        for now in steps:
            if best.take(now) or now.done in (0, now.steps) or best.over:
                yield best.copy()
            if best.over:
                return


def until(steps: Steps, deadline: float, evaluations: int = 1, switches: Collection[int] = ()) -> BestSoFar:
    """Goes on as long as the next step should end before a deadline.

    A step is expected to take as long as the longest of those before it, of which those long ago count for less, and half
    as long again is kept in reserve. The first step is expected to take as long as the evaluations at the start did, each.
    These are made in any case.

    Args:
        steps: as in `improvements`.
        deadline: in seconds, on the clock of `time.perf_counter`.
        evaluations: how often one step asks the engine.
        switches: as in `improvements`.

    Returns:
        The best states by then, sooner where every chain has diverged.

    Raises:
        DivergenceError: no chain ever had a finite energy.
    """
    best = _Best(switches)
    longest = 0.0
    before = perf_counter()
    with contextlib.closing(steps):
        for now in steps:
            best.take(now)
            clock = perf_counter()
            if now.done == 0:
                longest = (clock - before) * evaluations / max(now.calls, 1)
            else:
                longest = max(clock - before, _FORGETTING * longest)
            before = clock
            if best.over or clock + _RESERVE * longest > deadline:
                break
    return best.copy()


class _Best:
    """Arrays that are written in place, one row where a chain improves."""

    def __init__(self, switches: Collection[int]) -> None:
        self._switches = switches
        self._x = self._energy = self._to_beat = np.empty(0, dtype=np.float32)
        self._now: Progress | None = None

    @property
    def over(self) -> bool:
        """Whether every chain has diverged, so that nothing better can come."""
        return self._now is not None and self._now.diverged is not None and bool(self._now.diverged.all())

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
        if now.diverged is not None:  # an energy can be finite where a position or gradient is not
            better &= ~now.diverged
        if not better.any():
            return False
        self._x[better] = now.state.position[better]
        self._energy[better] = self._to_beat[better] = now.state.energy[better]
        return True

    def copy(self) -> BestSoFar:
        now = self._now
        assert now is not None, "there is a start before there is a best"
        if not np.isfinite(self._energy).any():
            raise DivergenceError(
                f"none of {now.n} chains had a finite energy in {now.done} steps: look at the states that they start from"
            )
        diverged = np.zeros(now.n, dtype=bool) if now.diverged is None else now.diverged.copy()
        return BestSoFar(self._x.copy(), self._energy.copy(), now.done, now.done == now.steps, diverged)
