"""Squared Euclidean distances between rows."""

from __future__ import annotations

import numpy as np

__all__ = ["BLOCK", "centred", "median_distance", "squared_distances"]

BLOCK = 1024
"""Rows of a kernel matrix that are held at a time: 16 MiB of float32 beside 4096 columns."""

_MEDIAN_ROWS = 1000
"""Rows that the median of distances is taken from; its relative error is then about 1 %, and nothing depends on it."""


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns |a_i - b_j|^2 by the product of the two sets.

    Args:
        first: [N, D] float, centred (see `centred`): the product loses the digits that |a|^2 has beyond the distance.
        second: [M, D] of the same type.

    Returns:
        [N, M] of that type, not below 0.
    """
    found = first @ second.T
    found *= -2.0
    found += np.einsum("nd,nd->n", first, first)[:, None]
    found += np.einsum("nd,nd->n", second, second)[None, :]
    return np.maximum(found, 0.0, out=found)


def centred(*sets: np.ndarray) -> list[np.ndarray]:
    """Moves sets of rows together so that their common mean is 0, which leaves distances as they are.

    Args:
        *sets: [N, D] float64 each.

    Returns:
        The sets as float32, or as float64 where D is at most 32 and the cost of that is none to speak of.
    """
    mean = sum(rows.sum(axis=0) for rows in sets) / sum(len(rows) for rows in sets)
    kind = np.float64 if sets[0].shape[1] <= 32 else np.float32
    return [(rows - mean).astype(kind) for rows in sets]


def median_distance(rows: np.ndarray) -> float:
    """Returns the median distance between two different rows (of at most 1000 of them, evenly spaced).

    Args:
        rows: [N, D] float, N at least 2.

    Returns:
        Above 0. Where more than half of the pairs are equal it is their root mean square instead, and 1 where all are.
    """
    some = rows[:: -(-len(rows) // _MEDIAN_ROWS)] if len(rows) > _MEDIAN_ROWS else rows
    squares = squared_distances(some, some)[np.triu_indices(len(some), 1)]
    return float(np.sqrt(np.median(squares) or squares.mean())) or 1.0
