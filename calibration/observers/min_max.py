"""The range that leaves nothing out."""

from __future__ import annotations

from .histogram import Histogram

__all__ = ["min_max_range"]


def min_max_range(histogram: Histogram, symmetric: bool) -> list[tuple[float, float]]:
    """Returns the smallest range that holds every value seen, and zero.

    Args:
        histogram: of the tensor.
        symmetric: whether the range must be (-r, r).

    Returns:
        (low, high) for each channel; (0, 0) where nothing but zeros was seen.
    """
    ranges = []
    for low, high in zip(histogram.low.tolist(), histogram.high.tolist(), strict=True):
        low, high = min(low, 0.0), max(high, 0.0)  # also takes care of a channel that saw nothing
        reach = max(-low, high)
        ranges.append((-reach, reach) if symmetric else (low, high))
    return ranges
