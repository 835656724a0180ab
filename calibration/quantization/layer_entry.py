"""What calibration.json says of one layer."""

from __future__ import annotations

from typing import Any

from .grid import Grid
from .layers import Layer

__all__ = ["layer_entry", "said_range"]


def layer_entry(layer: Layer, precision: str, reason: str, grid: Grid | None = None) -> dict[str, Any]:
    """Returns a layer's entry.

    Args:
        layer: as `find_layers` gives it.
        precision: that it runs in.
        reason: why in that.
        grid: of what it reads, for a layer in INT8.
    """
    entry: dict[str, Any] = {
        "name": layer.name,
        "op": layer.op,
        "module": layer.module,
        "half": layer.half,
        "macs": layer.macs,
        "precision": precision,
        "reason": reason,
    }
    if grid is not None:
        entry |= {"scale": grid.scale, "zero_point": grid.zero_point, "signed": grid.signed}
    return entry


def said_range(low: float, high: float) -> str:
    """The reason of a layer in INT8: the numbers that its grid was chosen from."""
    return f"range {low:.3g} to {high:.3g}"
