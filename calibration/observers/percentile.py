"""The range that leaves out a given share of the values."""

from __future__ import annotations

import numpy as np

from .histogram import BINS, Histogram
from .min_max import min_max_range

__all__ = ["percentile_range"]


def percentile_range(histogram: Histogram, symmetric: bool, percent: float = 99.99) -> list[tuple[float, float]]:
    """Returns a range outside of which (100 - percent) % of the values that are not zero lie, half of it on each side.

    A symmetric range takes the share of the absolute values. Bins are not split, so no more than that share is outside.

    Args:
        histogram: of the tensor.
        symmetric: whether the range must be (-r, r).
        percent: share of the values that stays inside, in percent; 100 is `min_max_range`.

    Returns:
        (low, high) for each channel, within the range that was seen and around zero.
    """
    share = 1 - percent / 100
    width = 2 * histogram.reach / BINS
    ranges = []
    for counts, (least, most) in zip(histogram.counts, min_max_range(histogram, symmetric), strict=True):
        total = counts.sum()
        if not total:
            ranges.append((least, most))
            continue
        if symmetric:
            folded = counts[BINS // 2 :] + counts[: BINS // 2][::-1]
            reach = width * (1 + int(np.searchsorted(np.cumsum(folded), (1 - share) * total)))
            reach = min(reach, most)
            ranges.append((-reach, reach))
            continue
        cumulated = np.cumsum(counts)
        low = -histogram.reach + width * int(np.searchsorted(cumulated, share / 2 * total, side="right"))
        high = -histogram.reach + width * (1 + int(np.searchsorted(cumulated, (1 - share / 2) * total)))
        ranges.append((max(min(low, 0.0), least), min(max(high, 0.0), most)))
    return ranges
