"""Keeping states inside bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

__all__ = ["Confine", "Scratch", "build_confine", "new_scratch", "project", "reflect"]

_FEW = 1 / 256
"""Share of the numbers up to which those outside are taken out and folded alone: that takes a third of the time of folding all, and
arrays of a thirtieth of the states' size."""

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
    kept: list[Scratch] = []  # of the one batch whose steps this takes; made once it is needed

    def scratch(position: np.ndarray) -> Scratch:
        if not kept or kept[0].outside.shape != position.shape:
            kept[:] = [new_scratch(position)]
        return kept[0]

    def projected(position: np.ndarray, velocity: np.ndarray | None) -> None:
        if velocity is not None:
            np.copyto(velocity, 0, where=_outside(position, low, high, scratch(position)))
        project(position, bounds)

    def reflected(position: np.ndarray, velocity: np.ndarray | None) -> None:
        turned = reflect(position, bounds, scratch(position))
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


class Scratch(NamedTuple):
    """Arrays [B, *S] that `reflect` writes into.

    Attributes:
        outside: bool.
        turned: bool.
        flight: float32.
        place: float32.
    """

    outside: np.ndarray
    turned: np.ndarray
    flight: np.ndarray
    place: np.ndarray


def new_scratch(position: np.ndarray) -> Scratch:
    """Returns arrays for positions of this shape."""
    outside, turned = (np.empty(position.shape, dtype=bool) for _ in range(2))
    return Scratch(outside, turned, np.empty_like(position), np.empty_like(position))


def reflect(
    position: np.ndarray, bounds: tuple[float, float] | None, scratch: Scratch | None = None
) -> np.ndarray | None:
    """Folds every number that lies outside the bounds back, as a ball between two walls, in place.

    With w = high - low and z = (x - low) mod 2w, in float32, a number becomes low + w - |w - z|. A number that is not finite
    becomes NaN.

    Args:
        position: [B, *S] float32.
        bounds: (low, high); None changes nothing.
        scratch: arrays to write into; None allocates.

    Returns:
        [B, *S] bool, true where a number came back flying the other way, one of `scratch`; None where every number was inside.
    """
    if bounds is None:
        return None
    low, high = bounds
    scratch = scratch or new_scratch(position)
    outside = _outside(position, low, high, scratch)
    count = np.count_nonzero(outside)
    if not count:
        return None
    if count < _FEW * position.size:
        places = np.flatnonzero(outside)
        flat, turned = position.reshape(-1), scratch.turned
        some = flat[places]
        few = Scratch(outside, np.empty(count, dtype=bool), np.empty_like(some), np.empty_like(some))
        _fold(some, low, high, few)
        flat[places] = few.place
        turned[...] = False
        turned.reshape(-1)[places] = few.turned
        return turned
    _fold(position, low, high, scratch)
    np.logical_and(scratch.turned, outside, out=scratch.turned)
    np.copyto(position, scratch.place, where=outside)
    return scratch.turned


def _fold(position: np.ndarray, low: float, high: float, scratch: Scratch) -> None:
    """Writes into `scratch.place` where numbers that fly on from `low` are, and into `turned` which of them fly back."""
    width = high - low
    _, turned, flight, place = scratch
    np.subtract(position, low, out=flight)
    np.divide(flight, 2 * width, out=place)
    np.floor(place, out=place)
    np.multiply(place, 2 * width, out=place)
    np.subtract(flight, place, out=place)
    np.greater(place, width, out=turned)
    np.subtract(width, place, out=place)
    np.abs(place, out=place)
    np.subtract(low + width, place, out=place)
    np.clip(place, low, high, out=place)


def _outside(position: np.ndarray, low: float, high: float, scratch: Scratch) -> np.ndarray:
    """Writes into `scratch.outside` where numbers lie outside the bounds, and returns it."""
    np.less(position, low, out=scratch.outside)
    np.greater(position, high, out=scratch.turned)
    return np.logical_or(scratch.outside, scratch.turned, out=scratch.outside)
