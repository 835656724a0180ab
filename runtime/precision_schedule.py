"""Precisions that change over the steps of a chain, such as "int8:0-200,bf16:200-256".

Early steps tolerate coarse gradients and the last ones decide the sample, so most of a chain can run on a faster
engine than its end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .errors import UsageError

__all__ = ["Span", "check_steps", "is_schedule", "parse_precision_schedule"]

_SPAN = re.compile(r"(?P<precision>[^:\s]+):(?P<first>\d+)-(?P<stop>\d*)")


class Span(NamedTuple):
    """The steps that one precision runs.

    Attributes:
        precision: as in the manifest.
        first: its first step, counted from 0.
        stop: the step after its last; None where it runs to the end, however many steps there are.
    """

    precision: str
    first: int
    stop: int | None

    def __str__(self) -> str:
        return f"{self.precision}:{self.first}-{'' if self.stop is None else self.stop}"


def is_schedule(precision: str) -> bool:
    """True where this is a schedule and not the name of one precision."""
    return ":" in precision


def parse_precision_schedule(text: str) -> tuple[Span, ...]:
    """Reads spans of steps: PRECISION:FIRST-STOP with commas between them.

    The step whose number is STOP is not part of its span. The first span starts at 0, each next one where the one before
    it stops, and the last may leave STOP out.

    Raises:
        UsageError: it is not written so, or the spans leave a gap, overlap or are empty.
    """
    spans: list[Span] = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part.strip())
        if match is None:
            raise UsageError(
                f"precision: expected PRECISION:FIRST-STOP with commas between them, such as int8:0-200,bf16:200-256 "
                f"or int8:0-200,bf16:200-, got {part.strip()!r} in {text!r}"
            )
        span = Span(match["precision"], int(match["first"]), int(match["stop"]) if match["stop"] else None)
        expected = spans[-1].stop if spans else 0
        if expected is None:
            raise UsageError(f"precision: only the last span may run to the end, got {spans[-1]} before {span}")
        if span.first != expected:
            where = f"where {spans[-1]} stops" if spans else "at the first step"
            raise UsageError(
                f"precision: expected the span of {span.precision} to start at {expected}, {where}, got {span}"
            )
        if span.stop is not None and span.stop <= span.first:
            raise UsageError(f"precision: expected a span to stop after it starts, got {span}")
        spans.append(span)
    return tuple(spans)


def check_steps(spans: Sequence[Span], steps: int) -> None:
    """Refuses a number of steps that the spans do not fit.

    Fewer steps than the spans have are refused too: the last precision, which decides the sample, would never run.

    Args:
        spans: as `parse_precision_schedule` returns them.
        steps: number of steps to be run.

    Raises:
        UsageError: the spans end elsewhere than the chain, or the last would never run.
    """
    last = spans[-1]
    written = ",".join(map(str, spans))
    if last.stop is None and last.first >= steps:
        raise UsageError(
            f"precision: {written} reaches {last.precision} at step {last.first}, and the chain has {steps} steps: "
            f"start {last.precision} earlier, or run more steps"
        )
    if last.stop is not None and last.stop != steps:
        open_ended = ",".join(map(str, (*spans[:-1], last._replace(stop=None))))
        advice = (
            f"run {last.stop} steps, or write {open_ended}" if last.first < steps else "change the spans with the steps"
        )
        raise UsageError(f"precision: {written} covers {last.stop} steps, and the chain has {steps}: {advice}")
