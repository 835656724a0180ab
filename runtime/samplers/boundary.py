"""Keeping states inside bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

__all__ = ["Confine", "build_confine", "project", "reflect"]

Confine = Callable[[np.ndarray, np.ndarray | None], None]
"""Brings positions [B, *S] float32 back into their bounds, in place, and changes velocities [B, *S], if any, to match."""


def build_confine(bounds: tuple[float, float] | None, mode: Literal["project", "reflect"]) -> Confine:
    """Builds what keeps positions in their bounds.

    Args:
        bounds: (low, high); None for none, which changes nothing.
        mode: "project" moves a number onto the bound that it passed and stops it there; "reflect" folds it back and
            turns its velocity round.
    """
    if bounds is None:
        return lambda position, velocity: None
    low, high = bounds

    def projected(position: np.ndarray, velocity: np.ndarray | None) -> None:
        if velocity is not None:
            velocity[(position < low) | (position > high)] = 0
        project(position, bounds)

    def reflected(position: np.ndarray, velocity: np.ndarray | None) -> None:
        turned = reflect(position, bounds)
        if velocity is not None and turned is not None:
            np.negative(velocity, out=velocity, where=turned)

    return projected if mode == "project" else reflected


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

    With w = high - low and z = (x - low) mod 2w, in float32, a number becomes low + w - |w - z|. A number that is not finite
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
    flight = position[outside] - low
    place = flight - np.floor(flight / (2 * width)) * (2 * width)
    turned = np.zeros(position.shape, dtype=bool)
    turned[outside] = place > width
    position[outside] = np.clip((low + width) - np.abs(width - place), low, high)
    return turned
