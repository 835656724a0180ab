"""What the gate judged by: each metric's ratio to the seed noise floor."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from ..comparison import Comparison
from ..verdict import MetricVerdict
from .charts import Interval, forest
from .scale import format_number
from .words import METRICS, metric_name, own_limit, verdict

__all__ = ["at_the_gate"]


def at_the_gate(comparison: Comparison, css: dict[str, str]) -> dict[str, Any]:
    """Returns a chart and a table of the metrics of each engine, what its sets were, and words on the metrics."""
    entries, seen = [], dict[str, None]()
    for engine in comparison.engines:
        if engine.gate is None:
            continue
        seen |= dict.fromkeys(entry.metric for entry in engine.gate.verdicts)
        shown = [
            Interval(metric_name(entry.metric), entry.ratio, _finite(entry.low), _finite(entry.high), entry.passed)
            for entry in engine.ratios
        ]
        entries.append(
            {
                "name": engine.name,
                "css": css[engine.name],
                "badge": verdict(engine, comparison),
                "chart": Markup(forest(f"metrics of {engine.name}", shown, gate=comparison.plan.gate)),
                "apart": [
                    {"text": own_limit(entry), "badge": _badge(entry)}
                    for entry in engine.gate.verdicts
                    if entry.limit != engine.gate.gate
                ],
                "reason": engine.gate.reason[:1].upper() + engine.gate.reason[1:],
                "rows": [_metric_row(entry) for entry in engine.gate.verdicts],
            }
        )
    plan = comparison.plan
    text = (
        f"{plan.pool} chains of each engine were compared in sets of {plan.subset}. A shift of "
        f"{format_number(plan.smallest_difference, 2)} standard deviations raises a ratio to the gate, and one of "
        f"{format_number(plan.sure_difference, 2)} is caught 95 times in 100. An engine without fault is over the gate in "
        f"one metric with a chance of {format_number(plan.false_failure, 2)}. Samples were compared by {comparison.features}."
    )
    return {"entries": entries, "text": text, "words": [METRICS.get(name, (metric_name(name), "")) for name in seen]}


def _metric_row(entry: MetricVerdict) -> dict[str, Any]:
    return {
        "name": metric_name(entry.metric),
        "badge": _badge(entry),
        "value": format_number(entry.value),
        "floor": format_number(entry.floor),
        "ratio": format_number(entry.ratio),
        "interval": f"{format_number(entry.low)} to {format_number(entry.high)}",
        "limit": format_number(entry.limit),
        "p": format_number(entry.p_value, 2),
        "note": entry.note,
    }


def _badge(entry: MetricVerdict) -> dict[str, str]:
    word = "✓ passes" if entry.passed else "✕ fails"
    return {"css": "good" if entry.passed else "bad", "word": word if entry.decided else f"{word}, undecided"}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
