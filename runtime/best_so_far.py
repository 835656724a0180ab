"""The best state that each chain has come to, for callers who cannot wait for the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .errors import DivergenceError
from .fused_steps import EachStep, FusedInfo
from .pace import Pace
from .progress import Progress

__all__ = [
    "Best",
    "BestSoFar",
    "Steps",
    "Timed",
    "check_energies",
    "each_of",
    "improvements",
    "lowest_of",
    "put",
    "until",
]

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
        diverged: [n] bool, chains whose numbers are no longer finite, and whose `x` is the best from before; and those whose lowest
            energy is where they ran away to.
    """

    x: np.ndarray
    energy: np.ndarray
    steps: int
    complete: bool
    diverged: np.ndarray


class Timed:
    """Tells a pace of steps as they are taken, and asks it whether there is time for the next.

    Args:
        pace: knows the deadline; the same as that of `chain_steps`.
        evaluations: how often one step asks the engine.
        asked: step -> how often engines are asked in what begins with it and cannot be ended before; None where that is one step, or
            several in one call.
        finds: whether a step that tells of finite energies asked once more for them, as those of `with_energies` do.
    """

    def __init__(
        self, pace: Pace, evaluations: int = 1, asked: Callable[[int], int] | None = None, *, finds: bool = False
    ) -> None:
        self._pace, self._evaluations, self._asked, self._finds = pace, evaluations, asked, finds
        self._before = 0

    def took(self, now: Progress) -> None:
        """Is told of the start, and of each step."""
        if now.done == 0:
            self._pace.started(now.calls, self._evaluations)
        else:
            found = self._finds and bool(np.isfinite(now.state.energy).any())
            together = now.done - self._before if self._asked is None else self._asked(self._before)
            self._pace.took(together, with_after=found)
        self._before = now.done

    def goes_on(self) -> None:
        """Is told that the chains go on after something else was done."""
        self._pace.starts()

    def has_time(self) -> bool:
        """Says whether there is time for what comes next."""
        return self._pace.has_time(1 if self._asked is None else self._asked(self._before))


def improvements(
    steps: Steps,
    switches: Collection[int] = (),
    *,
    seconds: float = 0.0,
    timed: Timed | None = None,
    judge: Callable[[BestSoFar], BestSoFar] | None = None,
) -> Iterator[BestSoFar]:
    """Yields the best states whenever those of a chain became better, at the start, and at the end.

    Args:
        steps: what `chain_steps` yields, of a sampler whose states have the energy of their position.
        switches: numbers of the steps at which another engine takes over.
        seconds: at most one in so many seconds, but for the end; what became better meanwhile comes then.
        timed: ends it where there is no time for the next step; None goes on to the last.
        judge: makes something of what is yielded at the end.

    Yields:
        New arrays each time.

    Raises:
        DivergenceError: no chain ever had a finite energy.
    """
    best = Best(switches)
    better, due = False, 0.0
    with contextlib.closing(steps):
        for now in steps:
            better = best.take(now) or better
            if timed is not None:
                timed.took(now)
            if best.over or now.done == now.steps:
                break
            clock = perf_counter()
            if now.done == 0 or (better and clock >= due):
                yield best.copy()
                better, due = False, clock + seconds
                if timed is not None:  # whoever listens may have taken its time
                    timed.goes_on()
            if timed is not None and not timed.has_time():
                break
        last = best.copy()
        yield last if judge is None else judge(last)


def until(
    steps: Steps,
    pace: Pace,
    best: Best,
    evaluations: int = 1,
    asked: Callable[[int], int] | None = None,
) -> BestSoFar:
    """Goes on as long as the next step should end before a deadline. The start is evaluated in any case.

    Of a step in the middle of which time is over, nothing counts.

    Args:
        steps: as in `improvements`; several in one call where there is time for them.
        pace: as in `Timed`, like all that follow but `best`.
        best: keeps the states.
        evaluations: how often one step asks the engine.
        asked: how often what begins with a step does.

    Returns:
        The best states by then, sooner where every chain has diverged.

    Raises:
        DivergenceError: no chain ever had a finite energy.
    """
    timed = Timed(pace, evaluations, asked)
    with contextlib.closing(steps):
        for now in steps:
            best.take(now)
            timed.took(now)
            if best.over or not timed.has_time():
                break
        best.settle(pace)
        pace.over()
    return best.copy()


def check_energies(energy: np.ndarray, steps: int) -> None:
    """Raises a DivergenceError where the best energy of no chain, [n], is finite after these steps."""
    if not np.isfinite(energy).any():
        raise DivergenceError(
            f"none of {len(energy)} chains had a finite energy in {steps} steps: look at the states that they start from"
        )


class Best:
    """The best states so far, in arrays that are written in place, one row where a chain improves.

    Args:
        switches: numbers of the steps at which another engine takes over.
    """

    def __init__(self, switches: Collection[int]) -> None:
        self._switches = switches
        self._x = self._energy = self._to_beat = self._block = np.empty(0, dtype=np.float32)
        self._now: Progress | None = None

    @property
    def over(self) -> bool:
        """Whether every chain has diverged, so that nothing better can come."""
        return self._now is not None and self._now.diverged is not None and bool(self._now.diverged.all())

    def take(self, now: Progress) -> bool:
        """Takes one step in, and says whether it made a chain's best better."""
        if self._now is None:
            self._begin(now.state.position)
        elif now.done - 1 in self._switches:
            self._to_beat[:] = np.inf
        position, energy, lost = now.state.position, now.state.energy, now.diverged
        each = each_of(now)
        if each is not None:
            position, energy = lowest_of(each.position, each.energy, self._block)
            lost = None if self._now is None else self._now.diverged  # those on the way are told by their energies
        self._now = now
        better = energy < self._to_beat  # false for NaN
        if lost is not None:  # an energy can be finite where a position or gradient is not
            better &= ~lost
        if not better.any():
            return False
        put(self._x, position, better)
        np.copyto(self._energy, energy, where=better)
        np.copyto(self._to_beat, energy, where=better)
        return True

    def settle(self, pace: Pace) -> None:
        """Does what is left to do once the last step is taken, which is nothing where each has told of its energies."""

    def copy(self) -> BestSoFar:
        now = self._now
        assert now is not None, "there is a start before there is a best"
        check_energies(self._energy, now.done)
        diverged = np.zeros(now.n, dtype=bool) if now.diverged is None else now.diverged.copy()
        return BestSoFar(self._x.copy(), self._energy.copy(), now.done, now.done == now.steps, diverged)

    def _begin(self, position: np.ndarray) -> None:
        self._x = np.array(position)
        self._block = np.empty((len(self._x), self._x[0].size), dtype=np.float32)
        self._energy = np.full(len(self._x), np.inf, dtype=np.float32)
        self._to_beat = self._energy.copy()


def each_of(now: Progress) -> EachStep | None:
    """The states on the way, where several steps were taken in one call that tells of each."""
    return now.info.each if isinstance(now.info, FusedInfo) else None


def lowest_of(position: np.ndarray, energy: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each chain's lowest state of a block.

    Args:
        position: [K, B, *S] float32.
        energy: [K, B] float32; NaN where a state has none.
        out: [B, D] float32, which the positions are written into.

    Returns:
        Position [B, *S] and energy [B], infinite where a chain has none.
    """
    energy = np.where(np.isnan(energy), np.float32(np.inf), energy)
    steps, chains = energy.shape
    step = energy.argmin(axis=0)
    rows = step * chains + np.arange(chains)
    # Any mode but "raise" writes into `out` at once.
    np.take(position.reshape(steps * chains, -1), rows, axis=0, out=out, mode="clip")
    return out.reshape(position.shape[1:]), energy.reshape(-1)[rows]


def put(out: np.ndarray, position: np.ndarray, chains: np.ndarray) -> None:
    """Writes the rows of `position` [B, *S] into `out` where `chains` [B] is true."""
    np.copyto(out, position, where=chains.reshape(-1, *[1] * (position.ndim - 1)))
