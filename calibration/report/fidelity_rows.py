"""The numbers behind the charts of the gradient along the chain."""

from __future__ import annotations

from ..comparison import EngineResult
from .scale import format_number
from .words import percent

__all__ = ["FIDELITY_COLUMNS", "fidelity_rows"]

FIDELITY_COLUMNS = ("1 − cosine", "worst cosine", "gain", "bias", "noise", "states")


def fidelity_rows(engine: EngineResult) -> list[dict[str, object]]:
    """Returns a row for each stage: the steps taken, and a text for each of `FIDELITY_COLUMNS`; gain keeps its sign."""
    return [
        {
            "step": stage.step,
            "values": [
                format_number(1 - stage.cosine_mean),
                format_number(stage.cosine_min, 4),
                f"{percent(stage.gain)} ± {percent(stage.gain_error)}",
                f"{percent(stage.bias)} ± {percent(stage.bias_error)}",
                percent(stage.noise),
                str(stage.states),
            ],
        }
        for stage in engine.fidelity
    ]
