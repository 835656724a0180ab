"""Energy histograms over bins that several sample sets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.errors import UsageError

__all__ = ["Histograms", "histograms"]

_BINS = 36
_CUT = 0.002
"""Share of all samples beyond either end of the bins, so that one stray chain does not squeeze the rest into one bin."""


@dataclass(frozen=True)
class Histograms:
    """Shares of several sample sets in the same bins.

    Attributes:
        edges: [K + 1] ends of the bins; samples beyond are counted in the first and the last.
        share: [K] by the set's name, each summing to 1 (less what is not finite).
    """

    edges: tuple[float, ...]
    share: dict[str, tuple[float, ...]]


def histograms(sets: Mapping[str, np.ndarray], bins: int = _BINS) -> Histograms:
    """Counts several sets of numbers in the same bins.

    Args:
        sets: [n] by name; numbers that are not finite are in no bin.
        bins: number of bins.

    Raises:
        UsageError: no set has a finite number.
    """
    finite = {name: values[np.isfinite(values)].astype(np.float64) for name, values in sets.items()}
    together = np.concatenate(list(finite.values())) if finite else np.empty(0)
    if not len(together):
        raise UsageError("a histogram needs at least one finite number, and there is none")
    low, high = np.quantile(together, [_CUT, 1 - _CUT])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    share = {}
    for name, values in finite.items():
        counts, _ = np.histogram(np.clip(values, low, high), edges)
        share[name] = tuple((counts / max(len(sets[name]), 1)).tolist())
    return Histograms(tuple(edges.tolist()), share)
