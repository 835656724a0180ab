"""8-bit grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Grid", "grid_for_range"]

_SMALLEST_SCALE = 2.0**-60
"""For a tensor that was zero wherever it was looked at: its grid must not divide by zero."""


@dataclass(frozen=True)
class Grid:
    """A uniform 8-bit grid for a whole tensor: v is stored as clip(round(v / scale) + zero_point).

    Attributes:
        scale: distance of two grid points, above 0.
        zero_point: the number that stands for zero.
        signed: int8 [-128, 127] where true, uint8 [0, 255] where not.
    """

    scale: float
    zero_point: int
    signed: bool

    @property
    def dtype(self) -> np.dtype[np.int8] | np.dtype[np.uint8]:
        """Type of the stored numbers."""
        return np.dtype(np.int8) if self.signed else np.dtype(np.uint8)

    def round(self, values: np.ndarray) -> np.ndarray:
        """Returns the nearest points of the grid to float values, as float32 of the same shape."""
        low, high = (-128, 127) if self.signed else (0, 255)
        numbers = np.rint(values / np.float32(self.scale)) + np.float32(self.zero_point)
        return ((np.clip(numbers, low, high) - np.float32(self.zero_point)) * np.float32(self.scale)).astype(np.float32)


def grid_for_range(low: float, high: float, *, symmetric: bool) -> Grid:
    """Returns the grid of a range.

    Args:
        low: smallest value, at most 0.
        high: largest value, at least 0.
        symmetric: int8 around zero with 127 steps to the farther end; otherwise uint8 with 255 steps over the range.
    """
    if symmetric:
        return Grid(max(max(-low, high) / 127, _SMALLEST_SCALE), 0, True)
    scale = max((high - low) / 255, _SMALLEST_SCALE)
    return Grid(scale, int(np.clip(round(-low / scale), 0, 255)), False)
