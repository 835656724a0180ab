"""How wide a tensor's INT8 grid should be, from the values that it takes along trajectories.

`Histogram` collects values in a stream; each other module is one way to read a range off it.
"""

from __future__ import annotations

from collections.abc import Callable

from .entropy import entropy_range
from .histogram import Histogram
from .min_max import min_max_range
from .mse import mse_range
from .percentile import percentile_range

__all__ = ["OBSERVERS", "Histogram", "entropy_range", "min_max_range", "mse_range", "percentile_range"]

OBSERVERS: dict[str, Callable[[Histogram, bool], list[tuple[float, float]]]] = {
    "min-max": min_max_range,
    "percentile": percentile_range,
    "mse": mse_range,
    "entropy": entropy_range,
}
"""(histogram, symmetric) -> (low, high) for each channel."""
