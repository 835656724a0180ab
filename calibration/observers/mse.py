"""The range whose 8-bit grid is closest to the values in the mean square."""

from __future__ import annotations

import numpy as np

from .histogram import Histogram
from .min_max import min_max_range

__all__ = ["mse_range"]

_LEVELS = 255  # steps of an asymmetric grid; a symmetric one has 254
_SHARES = np.geomspace(1.0, 1 / 64, 49)  # of the full range that are tried: 8 % apart, down to six bits less


def mse_range(histogram: Histogram, symmetric: bool) -> list[tuple[float, float]]:
    """Returns the range, shrunk from that of `min_max_range`, with the smallest mean squared error of an 8-bit grid.

    For a range (l, h) the error of a value v is the distance to the nearest grid point inside, or to the nearer end
    outside. The sum over the histogram is taken exactly at the bins' centres, with the error inside a grid step as
    step**2 / 12 where a step is wider than a bin (the centres would otherwise all fall on few phases of it).

    Args:
        histogram: of the tensor.
        symmetric: whether the range must be (-r, r).

    Returns:
        (low, high) for each channel.
    """
    centers = histogram.centers
    ranges = []
    for counts, (least, most) in zip(histogram.counts, min_max_range(histogram, symmetric), strict=True):
        best, chosen = np.inf, (least, most)
        for share in _SHARES if counts.any() else ():
            low, high = share * least, share * most
            step = (high - low) / (_LEVELS - symmetric)
            beyond = np.maximum(centers - high, 0) + np.maximum(low - centers, 0)
            inside = (centers >= low) & (centers <= high)
            error = float((counts * beyond**2).sum() + counts[inside].sum() * step**2 / 12)
            if error < best:
                best, chosen = error, (low, high)
        ranges.append(chosen)
    return ranges
