"""The range whose 8-bit histogram loses the least information."""

from __future__ import annotations

import numpy as np

from .histogram import BINS, Histogram
from .min_max import min_max_range

__all__ = ["entropy_range"]

_LEVELS = 128  # a symmetric grid has this many magnitudes, zero included
_CANDIDATES = 64


def entropy_range(histogram: Histogram, symmetric: bool) -> list[tuple[float, float]]:
    """Returns the range with the smallest Kullback-Leibler divergence between the values and their 8-bit histogram.

    The magnitudes |v| are cut at r, what lies beyond is put into the last bin that is not empty (P), the bins are merged into 128 levels
    and each level is spread evenly over its bins that are not empty (Q); the r with the smallest sum P log(P / Q) wins
    (Migacz, "8-bit inference with TensorRT", GTC 2017). An asymmetric range is the part of (-r, r) that was seen.

    Args:
        histogram: of the tensor.
        symmetric: whether the range must be (-r, r).

    Returns:
        (low, high) for each channel.
    """
    width = 2 * histogram.reach / BINS
    ranges = []
    for counts, (least, most) in zip(histogram.counts, min_max_range(histogram, symmetric), strict=True):
        folded = (counts[BINS // 2 :] + counts[: BINS // 2][::-1]).astype(np.float64)
        used = int(np.flatnonzero(folded)[-1]) + 1 if folded.any() else 0
        best, reach = np.inf, max(-least, most)
        # The widest first: of ranges that lose the same it clips least.
        for length in np.unique(np.linspace(min(_LEVELS, used), used, _CANDIDATES).astype(int))[::-1] if used else ():
            divergence = _divergence(folded, int(length))
            if divergence < best:
                best, reach = divergence, min(width * length, max(-least, most))
        ranges.append((-reach, reach) if symmetric else (max(least, -reach), min(most, reach)))
    return ranges


def _divergence(folded: np.ndarray, length: int) -> float:
    """sum P log(P / Q) for a cut after `length` bins of the magnitudes' histogram [BINS / 2]."""
    kept = folded[:length].copy()
    if not kept.any():
        return np.inf
    level = np.minimum(np.arange(length) * _LEVELS // length, _LEVELS - 1)
    filled = kept > 0
    mass = np.bincount(level, weights=kept, minlength=_LEVELS)
    places = np.bincount(level, weights=filled, minlength=_LEVELS)
    spread = np.where(filled, (mass / np.maximum(places, 1))[level], 0.0)
    # What the cut clips; Q does not know of it, which is the price of cutting. In an empty bin it would have none of Q at
    # all, and a gap between the bulk and an outlier could not be cut.
    kept[np.flatnonzero(filled)[-1]] += folded[length:].sum()
    p, q = kept / kept.sum(), spread / spread.sum()
    present = p > 0
    return float((p[present] * np.log(p[present] / q[present])).sum())
