"""Each engine's gradient beside FP32's, along FP32's own chains."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from ..comparison import Comparison
from ..metrics.score_fidelity import StageFidelity
from .charts import Line, lines
from .fidelity_rows import FIDELITY_COLUMNS, fidelity_rows
from .legend import legend

__all__ = ["gradient_along_the_chain"]

_CHARTS = (
    ("1 − cosine", "The angle between the two gradients, mean over states; smaller is better.", "cosine", None),
    ("gain", "By how much the gradient is too long or too short; the dashed line is 1 %.", "gain", 0.01),
    (
        "bias",
        "The error that is the same for all states, relative to the gradient; it moves the samples.",
        "bias",
        0.01,
    ),
    ("noise", "The error that differs from state to state; much less harmful than bias.", "noise", None),
)
_SMALLEST = 1e-6
"""A gain or bias below this is drawn at it: float32 itself is off by about as much."""


def gradient_along_the_chain(comparison: Comparison, css: dict[str, str]) -> dict[str, Any] | None:
    """Returns charts over the steps, one for each kind of error, and a table of each engine; None where no gradient was compared."""
    shown = [engine for engine in comparison.candidates if engine.fidelity]
    if not shown:
        return None
    steps = sorted({stage.step for engine in shown for stage in engine.fidelity})
    charts = []
    for name, caption, kind, limit in _CHARTS:
        series = []
        for engine in shown:
            by_step = {stage.step: _value(stage, kind) for stage in engine.fidelity}
            series.append(Line(engine.name, css[engine.name], [by_step.get(step) for step in steps]))
        chart = lines(name, [float(step) for step in steps], series, x_label="steps taken", limit=limit)
        charts.append({"name": name, "caption": caption, "chart": Markup(chart)})
    apart = [model.name for model in comparison.models if not model.same_as_first]
    text = "Each engine's gradient beside FP32's, at states that FP32's own chains go through."
    if apart:
        text += f" Left out for {', '.join(apart)}: another model has another gradient."
    tables = [{"name": engine.name, "css": css[engine.name], "rows": fidelity_rows(engine)} for engine in shown]
    return {
        "text": text,
        "charts": charts,
        "legend": legend(shown, css),
        "columns": FIDELITY_COLUMNS,
        "tables": tables,
    }


def _value(stage: StageFidelity, kind: str) -> float:
    if kind == "cosine":
        return 1 - stage.cosine_mean
    return {"gain": max(abs(stage.gain), _SMALLEST), "bias": max(stage.bias, _SMALLEST), "noise": stage.noise}[kind]
