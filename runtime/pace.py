"""How much time steps take, and whether there is enough of it before a deadline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .samplers.langevin import Evaluate

__all__ = ["BlockTime", "Pace", "TimeIsOver"]

_FORGETTING = 0.95  # share of the longest step so far that a step keeps; one slow step in a hundred is forgotten soon
_REMEMBERED = 9  # runs of which it is known how long they took to hand over
_RESERVE = 1.5  # in such steps: what is kept free for the next one, for handing over, and for a machine that is busy


class BlockTime(NamedTuple):
    """How long it takes to take several steps in one call.

    Attributes:
        shortest: seconds, of all.
        expected: seconds, the longest lately.
    """

    shortest: float
    expected: float


class TimeIsOver(Exception):
    """In the middle of a step: there is no time for its next engine call."""


class Pace:
    """Whether what comes next should end before a deadline.

    A step is expected to take as long as the longest of those before it, of which those long ago count for less, and half
    as long again is kept in reserve. The first step is expected to take as long as the evaluations at the start did, each.

    Several steps in one call are timed as such. Until there has been such a call, they are expected to take as long as one by
    one, and the exact energy of the start where a block of exact sampling ends with one; and one step is expected to take no longer
    than several.

    Args:
        deadline: in seconds, on the clock of `time.perf_counter`.
        blocks: what earlier runs of as many chains found about several steps in one call, by their number; what this one finds is
            written there. One step at a time is slower, and says too little about them.
        after: evaluations that follow the last step, each of which is expected to take as long as a step.
        handing_over: seconds that earlier runs of as many chains took from their last engine call to their caller, the last few; this
            run's is written there.
    """

    def __init__(
        self,
        deadline: float,
        blocks: dict[int, BlockTime] | None = None,
        *,
        after: int = 0,
        handing_over: list[float] | None = None,
    ) -> None:
        self._handing_over = [] if handing_over is None else handing_over
        # The median: of a machine that was busy once nothing follows.
        self._deadline = deadline - (_RESERVE * median(self._handing_over) if self._handing_over else 0.0)
        self._over: float | None = None
        self._after = after
        self._first = self._correction = self._call = 0.0
        self._single: float | None = None
        self._blocks = {} if blocks is None else blocks
        self._before = perf_counter()

    def starts(self) -> None:
        """Is told that the start will be evaluated now. What was done before, such as encoding a condition, is done once."""
        self._before = perf_counter()

    @contextlib.contextmanager
    def correcting(self) -> Iterator[None]:
        """Times the block, an exact energy, of which the start and each block of exact sampling have one.

        Raises:
            TimeIsOver: there is no time for another one.
        """
        begun = perf_counter()
        if self._correction and begun + _RESERVE * self._correction > self._deadline:
            raise TimeIsOver
        yield
        self._correction = perf_counter() - begun

    def between_calls(self, evaluate: Evaluate) -> Evaluate:
        """Returns the same evaluation for steps that can be given up on the way, with a look at the clock before each call.

        A call is expected to take as long as the longest of those before it, the start's among them, of which those long ago count for
        less, and half as long again is kept in reserve. In exact sampling the block's exact energy has to fit in too.

        Raises:
            TimeIsOver: by the evaluation, in place of a call that there is no time for.
        """

        def in_time(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            begun = perf_counter()
            if begun + _RESERVE * (self._call + self._correction) > self._deadline:
                raise TimeIsOver
            answer = evaluate(x)
            self._call = max(perf_counter() - begun, _FORGETTING * self._call)
            return answer

        return in_time

    def has_time_for_another(self, calls: int) -> bool:
        """Says whether there is time for one more engine call after so many since the last step, or since the start began.

        Where evaluations follow the last step, they follow this call too.
        """
        clock = perf_counter()
        return clock + _RESERVE * (1 + self._after) * (clock - self._before) / calls <= self._deadline

    def started(self, calls: int, evaluations: int = 1) -> None:
        """Is told that the start is evaluated.

        Args:
            calls: how often the engine was asked for it.
            evaluations: how often one step asks the engine.
        """
        clock = perf_counter()
        self._call = (clock - self._before - self._correction) / max(calls, 1)
        self._first = self._call * evaluations
        self._before = clock

    def took(self, together: int = 1, *, with_after: bool = False) -> None:
        """Is told that one more step is done, or several in one call.

        Args:
            together: number of steps in that call.
            with_after: whether the evaluations that follow the last step were made for these too; what they took is none of a step's.
        """
        clock = perf_counter()
        seconds, self._before = clock - self._before, clock
        if with_after:
            seconds *= together / (together + self._after)
        # A block that was slow once is forgotten also while no other is taken, but not what blocks take at the least.
        for count, block in self._blocks.items():
            self._blocks[count] = block._replace(expected=max(block.shortest, _FORGETTING * block.expected))
        if together == 1:
            self._single = max(seconds, _FORGETTING * (self._single or 0.0))
        else:
            block = self._blocks.get(together, BlockTime(seconds, seconds))
            self._blocks[together] = BlockTime(min(seconds, block.shortest), max(seconds, block.expected))

    def over(self) -> None:
        """Is told that no engine call follows."""
        self._over = perf_counter()

    def handed_over(self) -> None:
        """Is told that the result goes to the caller now."""
        if self._over is not None:
            self._handing_over.append(perf_counter() - self._over)
            del self._handing_over[:-_REMEMBERED]

    def has_time(self, together: int = 1, *, last: bool = False) -> bool:
        """Says whether there is time for one more step, or for several in one call, after what it was told of last.

        Args:
            together: number of steps in that call.
            last: whether nothing follows it.
        """
        seconds = self._expected(together)
        if self._after and not last:
            seconds += self._after * self._expected(1)
        return self._before + _RESERVE * seconds <= self._deadline

    def _expected(self, together: int) -> float:
        one = self._first if self._single is None else self._single
        if together == 1:
            # What was slow once, and is not done any more, must not be expected for ever.
            return min([one, *(block.expected for block in self._blocks.values())])
        block = self._blocks.get(together)
        if block is None:
            return together * one + self._correction
        return max(block.shortest, min(together * one, block.expected))
