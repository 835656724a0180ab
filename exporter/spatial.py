"""Numbers for each spatial axis, as PyTorch's convolutions and pools are given them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["per_axis"]


def per_axis(numbers: Sequence[int], rank: int, default: Sequence[int] = ()) -> list[int]:
    """One number for each of `rank` axes, from one for all, one for each, or none for the default."""
    given = [int(n) for n in numbers] or list(default)
    return given * (rank if len(given) == 1 else 1)
