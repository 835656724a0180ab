"""The fastest way to run a model whose samples pass the gate.

What is chosen is what each layer runs in (INT8, a low float type or float32), what the rest of the graph runs in, and how many
of a chain's last steps run in float32. Layers that do the most harm for the time they save come first in `order`. A choice keeps
the first k of them out of INT8, and of these the first j in float32 where the rest is in a low type; a longer tail of float32 steps
mends what INT8 steps before it left. All of these only ever help the samples and cost time, so for each the smallest that passes
is looked for by halving, instead of all subsets.
The time of a step is measured on the engine itself; it is no count of bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .search_log import SearchLog

__all__ = ["Assignment", "Found", "Trials", "search"]

_TAILS = (16, 8, 4, 2)
"""A tail of float32 steps is one of these parts of the chain."""

_NOTHING_JUDGED = "time ran out before anything was judged"


@dataclass(frozen=True)
class Assignment:
    """One way to run a model.

    Attributes:
        kept: number of layers, from the front of the order, that are not in INT8.
        other: precision of everything that is neither in INT8 nor in float32.
        tail: number of last steps in float32.
        wide: number of layers, from the front of the order, that are in float32 whatever `other` is; at most `kept`.
    """

    kept: int
    other: str
    tail: int = 0
    wide: int = 0

    @property
    def key(self) -> str:
        """Names it in the log."""
        return f"kept={self.kept} other={self.other} tail={self.tail} wide={self.wide}"


class Trials(Protocol):
    """What a search asks of the machine."""

    def milliseconds(self, assignment: Assignment) -> float:
        """Median time of one step of a chain, the tail included in its share."""

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
    seconds: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Found:
    """Looks for the fastest assignment that passes.

    1. For each precision of the rest, fastest first: the smallest number of layers out of INT8 that passes, by halving.
    2. Where the rest is in a low type: the same with these layers in float32, and for the number that is found the smallest
       number of them that has to be.
    3. With all layers in INT8, where that does not pass: the shortest float32 tail that does, by halving.
    4. What is not faster than the best that passed, or than float32, is not judged.

    Everything measured goes into the log, and what is in the log is not measured again: a search that was killed goes
    through the same trials with the same numbers and ends with the same choice.

    Args:
        layers: number of layers that may run in INT8.
        others: precisions that the rest of the graph may run in.
        steps: of a chain.
        trials: measures and judges.
        log: of this search.
        float_milliseconds: time of a float32 step.
        seconds: time after which no new trial is begun; None for no limit.
        progress: called with (what is being done, trials done, 0).
    """
    run = _Run(trials, log, seconds, progress)
    best = _Best(float_milliseconds)
    try:
        ordered = sorted(others, key=lambda other: run.milliseconds(Assignment(0, other)))
        for other in ordered:
            ladder = _ladder(layers)
            _halve([Assignment(kept, other) for kept in ladder], run, best)
            if other == "fp32" or run.passed(Assignment(0, other)):
                continue
            found = _halve([Assignment(kept, other, wide=kept) for kept in ladder if kept], run, best)
            if found is not None:
                _halve([replace(found, wide=wide) for wide in ladder if 0 < wide < found.kept], run, best)
        tails = [max(1, steps // part) for part in _TAILS if steps > 1]
        for other in ordered[:1]:
            if not run.passed(Assignment(0, other)):  # else there is nothing for a tail to mend
                _halve([Assignment(0, other, tail) for tail in dict.fromkeys(tails)], run, best)
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
        seconds: float | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._trials = trials
        self._log = log
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._progress = progress

    def milliseconds(self, assignment: Assignment) -> float:
        entry = self._entry(f"time {assignment.key}", lambda: {"ms": self._trials.milliseconds(assignment)})
        return float(entry["ms"])

    def verdict(self, assignment: Assignment) -> dict[str, Any]:
        return self._entry(f"gate {assignment.key}", lambda: self._trials.verdict(assignment))

    def passed(self, assignment: Assignment) -> bool:
        """Whether it was judged, and passed."""
        return bool(self._log.trials.get(f"gate {assignment.key}", {}).get("passed"))

    def _entry(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self._log.trials:
            if self._deadline is not None and time.monotonic() >= self._deadline:
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


def _halve(rungs: Sequence[Assignment], run: _Run, best: _Best) -> Assignment | None:
    """Finds the first rung that passes and is faster than the best: everything above it passes as well, and is slower."""
    low, high = 0, len(rungs)
    found = None
    while low < high:
        middle = (low + high) // 2 if low else 0  # the fastest is tried first: it is what one hopes for
        rung = rungs[middle]
        milliseconds = run.milliseconds(rung)
        if milliseconds >= best.milliseconds:
            high = middle  # this one and all above are too slow
            continue
        verdict = run.verdict(rung)
        if verdict["passed"]:
            best.enter(rung, milliseconds, verdict)
            found, high = rung, middle
        else:
            best.refuse(str(verdict["reason"]))
            low = middle + 1
    return found
