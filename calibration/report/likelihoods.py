"""The table of log-likelihoods."""

from __future__ import annotations

import math
from typing import Any

from ..comparison import Comparison
from .scale import format_number

__all__ = ["likelihoods"]

_SURE = 3.0
"""Standard errors by which bounds that cross do so for a reason."""


def likelihoods(comparison: Comparison, css: dict[str, str]) -> dict[str, Any] | None:
    """Returns text, rows and how far to trust them; None where they were not asked for."""
    found = comparison.likelihood
    if found is None:
        return None
    log_z = found.log_z
    rows = [] if found.data is None else [_row("the given data", "", found.data)]
    rows += [
        _row(engine.name, css[engine.name], found.engines[engine.name])
        for engine in comparison.engines
        if engine.name in found.engines
    ]
    text = (
        f"Bounds of the mean log density, in nats, under FP32's model: log p(x) = −E(x)/T − log Z at T = {format_number(found.temperature)}. "
        "No engine passes or fails by them. Samples that are more likely than FP32's own are tamer, not better."
    )
    trust = (
        f"log Z is at least {_with_error(log_z.lower, log_z.lower_error)} and at most {_with_error(log_z.upper, log_z.upper_error)}, by annealed "
        f"importance sampling over {found.temperatures} temperatures from {found.base}, with {found.chains} chains each way, of whose "
        f"proposals {format_number(100 * log_z.accepted, 2)} % were accepted. The upper end starts from FP32's samples and is as good as these. The "
        "gap says how far to trust either end; more temperatures narrow it."
    )
    if log_z.upper is not None and log_z.lower - log_z.upper > _SURE * math.hypot(
        log_z.lower_error, log_z.upper_error or 0.0
    ):
        trust += " The ends have changed places: FP32's samples are not those of its density at this temperature, so trust neither."
    return {"text": text, "rows": rows, "trust": trust}


def _row(name: str, css: str, bounds: tuple[float | None, float]) -> dict[str, str]:
    return {"name": name, "css": css, "low": format_number(bounds[0], 4), "high": format_number(bounds[1], 4)}


def _with_error(value: float | None, error: float | None) -> str:
    return f"{format_number(value, 4)} ± {format_number(error, 2)}"
