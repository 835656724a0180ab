"""The comparison as rows of a terminal's table."""

from __future__ import annotations

from typing import Any

from ..comparison import Comparison
from .beside import blocks_accepted
from .scale import format_number
from .words import metric_name

__all__ = ["table"]


def table(comparison: Comparison) -> list[dict[str, Any]]:
    """Returns a row for each engine: verdict, worst ratio and its metric, time of a step, speed, size, and what else was measured."""
    rows = []
    batch = comparison.batches[-1]
    for engine in comparison.engines:
        ratio = max(engine.ratios, key=lambda entry: entry.ratio, default=None)
        step, speed = engine.step_time(batch), comparison.speed(engine)
        if engine.name == comparison.reference:
            word = "reference"
        elif engine.failure:
            word = "broke off"
        else:
            word = "passes" if engine.passed else "FAILS"
        rows.append(
            {
                "engine": engine.name,
                "gate": word,
                "worst ratio": "-" if ratio is None else f"{format_number(ratio.ratio)} {metric_name(ratio.metric)}",
                "95 % interval": "-" if ratio is None else f"{format_number(ratio.low)} to {format_number(ratio.high)}",
                f"ms per step (batch {batch})": "-" if step is None else _spread(step.median, step.low, step.high),
                "speed": "-" if speed is None else f"{format_number(speed, 2)}x",
                "MiB": format_number(engine.bytes / 2**20),
                "front": "yes" if engine.front else "",
            }
        )
        if engine.energy is not None:
            rows[-1]["mJ per sample"] = format_number(1e3 * engine.energy.joules_per_sample)
        elif any(other.energy for other in comparison.engines):
            rows[-1]["mJ per sample"] = "-"
        if any(other.exact for other in comparison.engines):
            rows[-1]["blocks accepted"] = "-" if engine.exact is None else blocks_accepted(engine.exact)
    return rows


def _spread(median: float, low: float, high: float) -> str:
    return f"{format_number(median)} ({format_number(low)} to {format_number(high)})"
