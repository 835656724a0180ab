"""Keeping states inside bounds."""

from __future__ import annotations

import numpy as np

__all__ = ["project", "reflect"]


def project(position: np.ndarray, bounds: tuple[float, float] | None) -> None:
    """Moves every number that lies outside the bounds onto the nearer one, in place.

    Args:
        position: [B, *S] float32.
        bounds: (low, high); None changes nothing.
    """
    if bounds is not None:
        np.clip(position, *bounds, out=position)


def reflect(position: np.ndarray, bounds: tuple[float, float] | None) -> np.ndarray | None:
    """Folds every number that lies outside the bounds back, as a ball between two walls, in place.

    With w = high - low and z = (x - low) mod 2w a number becomes low + w - |w - z|. A number that is not finite
    becomes NaN.

    Args:
        position: [B, *S] float32.
        bounds: (low, high); None changes nothing.

    Returns:
        [B, *S] bool, true where a number came back flying the other way; None where every number was inside.
    """
    if bounds is None:
        return None
    low, high = bounds
    outside = (position < low) | (position > high)
    if not outside.any():
        return None
    width = high - low
    flight = position[outside].astype(np.float64) - low
    turned = np.zeros(position.shape, dtype=bool)
    turned[outside] = np.floor(flight / width) % 2 == 1
    folded = low + width - np.abs(width - np.mod(flight, 2 * width))
    position[outside] = np.clip(folded.astype(np.float32), low, high)
    return turned
