"""Counts of the values that a tensor takes, collected in a stream."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Histogram"]

BINS = 4096
"""Bins over [-R, R]: 8 bits on either side of zero, and 16 bins for each step of an 8-bit grid that spans the range."""


class Histogram:
    """A histogram over [-R, R] whose R doubles, two bins becoming one, when a larger value comes.

    R is a power of two, so merging bins is exact and the counts do not depend on the order of the batches. Values that
    are exactly zero are counted apart: the zeros of a relu would otherwise outweigh everything in their bin, although
    every grid represents them without error.

    Args:
        channels: number of channels that are counted apart; 1 for a whole tensor.
        axis: the axis of the channels; ignored where there is one.

    Attributes:
        counts: [channels, BINS] int64, without zeros.
        zeros: [channels] int64.
        low: [channels] float64, smallest value seen; +inf before the first.
        high: [channels] float64, largest value seen; -inf before the first.
    """

    def __init__(self, channels: int = 1, axis: int = 1) -> None:
        self.counts = np.zeros((channels, BINS), np.int64)
        self.zeros = np.zeros(channels, np.int64)
        self.low = np.full(channels, np.inf)
        self.high = np.full(channels, -np.inf)
        self._axis = axis
        self._exponent: int | None = None  # R = 2**exponent

    @property
    def reach(self) -> float:
        """R; 1 where nothing but zeros has been seen."""
        return 1.0 if self._exponent is None else 2.0**self._exponent

    @property
    def centers(self) -> np.ndarray:
        """[BINS] float64, the middle of each bin."""
        width = 2 * self.reach / BINS
        return -self.reach + width * (np.arange(BINS) + 0.5)

    def update(self, values: np.ndarray) -> None:
        """Counts the values of one batch.

        Args:
            values: any shape, float; with more than one channel its axis must have that many entries.

        Raises:
            ValueError: a value is not finite.
        """
        channels = len(self.zeros)
        rows = values.reshape(1, -1) if channels == 1 else np.moveaxis(values, self._axis, 0).reshape(channels, -1)
        if not rows.size:
            return
        lows, highs = rows.min(axis=1), rows.max(axis=1)
        if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            raise ValueError("a histogram takes finite values only")
        self.low, self.high = np.minimum(self.low, lows), np.maximum(self.high, highs)
        self._grow(float(max(np.abs(lows).max(), np.abs(highs).max())))
        for channel, row in enumerate(rows):
            present = row[row != 0]
            self.zeros[channel] += row.size - present.size
            # A product with a power of two is exact; a sum with R would put small negative numbers on zero's other side.
            places = np.floor(present.astype(np.float64) * (BINS / (2 * self.reach))).astype(np.int64) + BINS // 2
            self.counts[channel] += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    def _grow(self, largest: float) -> None:
        if largest == 0:
            return
        wanted = math.frexp(largest)[1]  # largest < 2**wanted
        if self._exponent is None:
            self._exponent = wanted
        while self._exponent < wanted:
            halves = self.counts.reshape(len(self.counts), BINS // 2, 2).sum(axis=2)
            self.counts[:] = 0
            self.counts[:, BINS // 4 : BINS // 4 + BINS // 2] = halves
            self._exponent += 1
