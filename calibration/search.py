"""The fastest way to run a model whose samples pass the gate.

What is chosen is what each layer runs in (INT8, a low float type or float32), what the rest of the graph runs in, and how many of a
chain's last steps run in another precision, and in which. Layers that do the most harm for the time they save come first in
`order`. A choice keeps the first k of them out of INT8, and of these the first j in float32 where the rest is in a low type; its
tail, the last steps in a low type or in float32, mends what the steps before it left.
More of each helps the samples and costs time. So what is coarser than a choice that failed fails as well, what is slower than one
that passed is of no use, and each trial is the one that rules out the most, whatever comes of it.
The time of a step is measured on the engine itself; it is no count of bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .deadline import Deadline
from .search_log import SearchLog

__all__ = ["Assignment", "Found", "Trials", "search"]

_TAILS = (16, 8, 4, 2)
"""A tail is one of these parts of the chain."""

_WORTH = 0.97
"""A choice has to take at most this part of the best one's time to be judged. Times of the same engine differ by about so much from one
measurement to the next, and a trial takes minutes."""

_NOTHING_JUDGED = "time ran out before anything was judged"


@dataclass(frozen=True)
class Assignment:
    """One way to run a model.

    Attributes:
        kept: number of layers, from the front of the order, that are not in INT8.
        other: precision of everything that is neither in INT8 nor in float32.
        tail: number of last steps that run in `end`.
        wide: number of layers, from the front of the order, that are in float32 whatever `other` is; at most `kept`.
        end: precision of all of the graph in the tail.
    """

    kept: int
    other: str
    tail: int = 0
    wide: int = 0
    end: str = "fp32"

    @property
    def key(self) -> str:
        """Names it in the log."""
        end = f" end={self.end}" if self.tail else ""
        return f"kept={self.kept} other={self.other} tail={self.tail} wide={self.wide}{end}"

    @property
    def head(self) -> Assignment:
        """What runs before the tail."""
        return Assignment(self.kept, self.other, wide=self.wide)

    def is_coarser_than(self, finer: Assignment) -> bool:
        """Whether nothing in it runs in more than in `finer` at any step, as is true of itself.

        Precisions of the rest are not compared: which harms less is known once it is judged. A tail in a low type is finer than a head
        that has nothing in float32, and no finer than one that has.
        """
        fewer = self.kept <= finer.kept and self.wide <= finer.wide and self.tail <= finer.tail
        ends = not self.tail or finer.end in (self.end, "fp32")
        # Steps that are of the head here and of the tail there.
        turned = self.tail == finer.tail or finer.end == "fp32" or (self.other == finer.end and not self.wide)
        return self.other == finer.other and fewer and ends and turned


class Trials(Protocol):
    """What a search asks of the machine."""

    def milliseconds(self, assignment: Assignment) -> float:
        """Median time of one step of a chain, before its tail; infinite where no engine can be had."""

    def verdict(self, assignment: Assignment) -> dict[str, Any]:
        """What the gate found, as the log keeps it: whether it `passed`, the `reason`, and whatever else the caller wants back."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        assignment: the fastest that passes; None where none does.
        milliseconds: of one step; infinite where none passes.
        reason: why this one, or why none.
        complete: False where time ran out before everything worth trying was tried.
        verdict: of the assignment, as `Trials.verdict` gave it, also where that was before a kill; None where none passes.
    """

    assignment: Assignment | None
    milliseconds: float
    reason: str
    complete: bool
    verdict: dict[str, Any] | None = None


def search(
    layers: int,
    others: Sequence[str],
    steps: int,
    trials: Trials,
    log: SearchLog,
    *,
    float_milliseconds: float,
    ends: Mapping[str, float],
    deadline: Deadline | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Found:
    """Looks for the fastest assignment that passes.

    1. With all layers in INT8: the fastest precision of the rest. It is what one hopes for, and if it passes nothing is faster.
    2. For each precision of the rest: the smallest number of layers out of INT8 that passes.
    3. Where the rest is in a low type: fewer layers out of INT8, but some or all of these in float32. And with any of all these
       choices for the first steps, also such as fail for a whole chain: the shortest tail, in each precision that it may have.

    Of what is left in 2 or 3, that one is judged which leaves the least in its worse case. In a row of choices, each finer than the
    one before, that is the one in the middle. What is not 3 % faster than the best that passed, or than float32, is not judged.

    Everything measured goes into the log, and what is in the log is not measured again: a search that was killed goes
    through the same trials with the same numbers and ends with the same choice.

    Args:
        layers: number of layers that may run in INT8.
        others: precisions that the rest of the graph may run in.
        steps: of a chain.
        trials: measures and judges.
        log: of this search.
        float_milliseconds: time of a float32 step, which all have to be faster than.
        ends: time of a step in each precision that a tail may have, in milliseconds.
        deadline: after which no new trial is begun; None for never. A trial that runs is not broken off.
        progress: called with (what is being done, trials done, 0).
    """
    run = _Run(trials, log, deadline, progress)
    best = _Best(float_milliseconds)
    hunt = _Hunt(run, best, steps, ends)
    ladder = _ladder(layers)
    heads = [Assignment(kept, other) for other in others for kept in ladder]
    wide = [
        replace(head, wide=part) for head in heads if head.other != "fp32" for part in ladder if 0 < part <= head.kept
    ]
    lengths = dict.fromkeys(max(1, steps // part) for part in _TAILS if steps > 1)
    tails = [replace(head, tail=tail, end=end) for head in (*heads, *wide) for tail in lengths for end in ends]
    try:
        hunt.judge(min((Assignment(0, other) for other in others), key=run.milliseconds))
        hunt.through(heads)
        hunt.through([*wide, *tails])
    except _OutOfTimeError:
        return best.found(complete=False)
    return best.found(complete=True)


class _OutOfTimeError(Exception):
    pass


class _Run:
    """Measures what the log does not know."""

    def __init__(
        self,
        trials: Trials,
        log: SearchLog,
        deadline: Deadline | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._trials = trials
        self._log = log
        self._deadline = deadline
        self._progress = progress

    def milliseconds(self, assignment: Assignment) -> float:
        entry = self._entry(f"time {assignment.key}", lambda: {"ms": self._trials.milliseconds(assignment)})
        return float(entry["ms"])

    def verdict(self, assignment: Assignment) -> dict[str, Any]:
        return self._entry(f"gate {assignment.key}", lambda: self._trials.verdict(assignment))

    def _entry(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self._log.trials:
            if self._deadline is not None and self._deadline.passed:
                raise _OutOfTimeError
            if self._progress is not None:
                self._progress(f"searching: {key}", len(self._log.trials), 0)
            self._log.add(key, measure())
        return self._log.trials[key]


class _Best:
    """The fastest that passed so far."""

    def __init__(self, float_milliseconds: float) -> None:
        self.milliseconds = float_milliseconds
        self._assignment: Assignment | None = None
        self._verdict: dict[str, Any] | None = None
        self._last_reason: str | None = None

    def enter(self, assignment: Assignment, milliseconds: float, verdict: dict[str, Any]) -> None:
        self._assignment, self.milliseconds, self._verdict = assignment, milliseconds, verdict

    def refuse(self, reason: str) -> None:
        self._last_reason = reason

    def found(self, *, complete: bool) -> Found:
        if self._assignment is None:
            if complete:
                reason = self._last_reason or "nothing was faster than float32"
            else:
                reason = f"time ran out; {self._last_reason}" if self._last_reason else _NOTHING_JUDGED
            return Found(None, float("inf"), reason, complete)
        return Found(self._assignment, self.milliseconds, "the fastest that passed the gate", complete, self._verdict)


def _ladder(layers: int) -> list[int]:
    """Numbers of layers kept out of INT8 that are tried: 0, 1, 2, 4 and so on, and all but one."""
    steps, kept = [0], 1
    while kept < layers:
        steps.append(kept)
        kept *= 2
    if layers - 1 > steps[-1]:
        steps.append(layers - 1)
    return steps


class _Hunt:
    """Narrows down where the fastest that passes may be.

    Args:
        run: measures.
        best: takes what passes and is faster.
        steps: of a chain.
        ends: milliseconds of a step in each precision that a tail may have.
    """

    def __init__(self, run: _Run, best: _Best, steps: int, ends: Mapping[str, float]) -> None:
        self._run, self._best, self._steps, self._ends = run, best, steps, ends
        self._timed: dict[Assignment, float] = {}
        self._done: set[Assignment] = set()
        self._failed: list[Assignment] = []

    def through(self, candidates: Iterable[Assignment]) -> None:
        """Judges some of these, until none of the others can be faster than the best and pass."""
        left = list(candidates)
        while left := sorted(filter(self._may_win, left), key=lambda one: (self._at_least(one), *_size(one))):
            self.judge(left[_most_telling(left)])

    def judge(self, assignment: Assignment) -> None:
        """Times it and, if it is faster than the best, has it judged."""
        self._done.add(assignment)
        self._timed[assignment.head] = self._run.milliseconds(assignment.head)
        milliseconds = self._at_least(assignment)
        if milliseconds > _WORTH * self._best.milliseconds:
            return
        verdict = self._run.verdict(assignment)
        if verdict["passed"]:
            self._best.enter(assignment, milliseconds, verdict)
        else:
            self._best.refuse(str(verdict["reason"]))
            self._failed.append(assignment)

    def _may_win(self, assignment: Assignment) -> bool:
        if assignment in self._done or any(assignment.is_coarser_than(failed) for failed in self._failed):
            return False
        return self._at_least(assignment) <= _WORTH * self._best.milliseconds

    def _at_least(self, assignment: Assignment) -> float:
        """Milliseconds of one of its steps in the mean; at least so many where its head was not timed: a finer one takes longer."""
        head = assignment.head
        coarser = (ms for one, ms in self._timed.items() if one.is_coarser_than(head) and math.isfinite(ms))
        own = self._timed.get(head, max(coarser, default=0.0))
        if not assignment.tail:
            return own
        return ((self._steps - assignment.tail) * own + assignment.tail * self._ends[assignment.end]) / self._steps


def _size(assignment: Assignment) -> tuple[int, int, int]:
    return assignment.kept, assignment.wide, assignment.tail


def _most_telling(ordered: Sequence[Assignment]) -> int:
    """The place of the one that rules out the most in its worse case.

    Where it passes, that is itself and what is slower; where it fails, what is coarser.

    Args:
        ordered: from the fastest on.
    """

    def ruled_out(place: int) -> int:
        coarser = sum(one.is_coarser_than(ordered[place]) for one in ordered)
        return min(len(ordered) - place, coarser)

    return max(range(len(ordered)), key=ruled_out)
