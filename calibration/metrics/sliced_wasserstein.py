"""Wasserstein distance over many directions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.errors import UsageError
from .check import as_rows, check_width
from .permutation import permutation_p_value, shuffled_labels

__all__ = ["slice_directions", "sliced_p_value", "sliced_wasserstein"]


def slice_directions(width: int, count: int, seed: int) -> np.ndarray:
    """Returns unit vectors, uniform on the sphere; the same seed and shape give the same ones.

    Args:
        width: D.
        count: number of directions.
        seed: at least 0.

    Returns:
        [D, count] float64. For D = 1 every direction is the axis itself, so one is returned.
    """
    if width == 1:
        return np.ones((1, 1))
    found = np.random.default_rng(seed).standard_normal((width, count))
    return found / np.linalg.norm(found, axis=0)


def sliced_wasserstein(reference: Any, candidate: Any, *, directions: int = 64, seed: int = 0, order: int = 2) -> float:
    """Returns the sliced Wasserstein distance (Rabin, Peyre, Delon and Bernot 2011; Bonneel et al. 2015).

    SW_p = (mean over directions v and levels t of |F_v^-1(t) - G_v^-1(t)|^p)^(1/p), F_v^-1 the quantiles of <x, v>.
    Equal sizes pair the sorted projections, which is exact. Else the quantiles are read at max(N, M) evenly
    spaced levels, off by at most one rank.

    Args:
        reference: [N, *S], N at least 1.
        candidate: [M, *S].
        directions: number of directions. Their choice is fixed by the seed, so two distances can be compared.
        seed: of the directions.
        order: p, 1 or 2.

    Returns:
        In units of x, 0 or above, 0 is best; for a shift by d it is about |d| / sqrt(D). Constant samples are fine.

    Raises:
        UsageError: shapes differ, a number is not finite, or the order is neither 1 nor 2.
    """
    if order not in (1, 2):
        raise UsageError(f"order: expected 1 or 2, got {order!r}")
    first, second = as_rows("reference", reference), as_rows("candidate", candidate)
    check_width(("reference", first), ("candidate", second))
    axes = slice_directions(first.shape[1], directions, seed)
    levels = max(len(first), len(second))
    apart = np.abs(_quantiles(first @ axes, levels) - _quantiles(second @ axes, levels))
    return float(np.mean(apart**order) ** (1.0 / order))


def sliced_p_value(
    reference: Any, candidate: Any, *, directions: int = 32, permutations: int = 199, seed: int = 0
) -> float:
    """Tests by permutation of SW_1 whether both samples have one distribution.

    Args:
        reference: [N, *S].
        candidate: [M, *S].
        directions: number of directions.
        permutations: number of shuffles; the smallest p-value is 1 / (1 + permutations).
        seed: of directions and shuffles.

    Returns:
        p-value; 1 where all samples are equal.

    Raises:
        UsageError: shapes differ or a number is not finite.
    """
    first, second = as_rows("reference", reference), as_rows("candidate", candidate)
    check_width(("reference", first), ("candidate", second))
    both = np.concatenate([first, second]) @ slice_directions(first.shape[1], directions, seed)  # [N + M, L]
    labels = shuffled_labels(len(first), len(second), permutations, seed)
    # Integral of |F - G| over each axis: F - G at a gap is a running sum of +1/N and -1/M in sorted order.
    weights = np.where(labels, 1.0 / len(first), -1.0 / len(second)).astype(np.float32)
    found = np.zeros(len(labels))
    for axis in both.T:
        order = np.argsort(axis, kind="stable")
        found += np.abs(np.cumsum(weights[:, order], axis=1)[:, :-1]) @ np.diff(axis[order])
    return permutation_p_value(found)


def _quantiles(projected: np.ndarray, levels: int) -> np.ndarray:
    """Returns [levels, L] values of [N, L] projections at levels (i + 1/2) / levels."""
    ranked = np.sort(projected, axis=0)
    if len(ranked) == levels:
        return ranked
    return ranked[((np.arange(levels) + 0.5) / levels * len(ranked)).astype(int)]
