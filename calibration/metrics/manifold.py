"""Precision, recall, density and coverage by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.errors import UsageError
from .check import as_rows, check_width
from .distances import BLOCK, centred, squared_distances
from .permutation import permutation_p_value, shuffled_labels

__all__ = ["ManifoldPValues", "ManifoldQuality", "manifold_p_values", "manifold_quality"]

_ROUNDING = 4
"""Units in the last place, of both squared lengths together, that make one distance: equal rows, of which the product takes some in
another order than the rest, were found 0.6 apart (784 numbers in float32)."""
_TINY = 1e-30
"""Keeps the order random among rows that are all 0, whose distances have no rounding; below any other distance in float32."""


@dataclass(frozen=True)
class ManifoldQuality:
    """How two samples cover each other, by balls that reach each sample's k-th neighbour in its own set."""

    precision: float
    """Share of candidates inside some reference sample's ball, 0 to 1; 1 is best."""
    recall: float
    """Share of reference samples inside some candidate's ball, 0 to 1; 1 is best."""
    density: float
    """Mean number of reference balls around a candidate, over k; about 1 for one distribution, more where candidates
    crowd together where the reference is dense."""
    coverage: float
    """Share of reference balls with a candidate inside, 0 to 1; near 1 - 2^-k for one distribution and equal sizes."""


@dataclass(frozen=True)
class ManifoldPValues:
    """Two-sided permutation p-values, from neighbours in both sets together."""

    density: float
    coverage: float


def manifold_quality(reference: Any, candidate: Any, *, k: int = 5) -> ManifoldQuality:
    """Counts who lies in whose neighbourhood.

    Precision and recall are of Kynkaanniemi et al. (NeurIPS 2019), density and coverage of Naeem et al. (ICML 2020). A
    ball is closed: a sample at exactly the radius is inside.

    Args:
        reference: [N, *S], N above k.
        candidate: [M, *S], M above k.
        k: neighbours that a ball reaches, itself not counted.

    Returns:
        The four shares. Equal samples, constant ones too, have precision, recall and coverage 1.

    Raises:
        UsageError: shapes differ, N or M is not above k, or a number is not finite.
    """
    if k < 1:
        raise UsageError(f"k: expected at least 1 neighbour, got {k}")
    first, second = as_rows("reference", reference, k + 1), as_rows("candidate", candidate, k + 1)
    check_width(("reference", first), ("candidate", second))
    a, q = centred(first, second)
    reach_a, reach_q = _radii(a, k), _radii(q, k)
    inside = np.zeros(len(q), np.int64)  # reference balls around each candidate
    recalled = 0
    covered = 0
    for start in range(0, len(a), BLOCK):
        part = slice(start, start + BLOCK)
        apart = squared_distances(a[part], q)
        reached = apart <= reach_a[part, None]
        inside += reached.sum(axis=0)
        covered += int(reached.any(axis=1).sum())
        recalled += int((apart <= reach_q[None, :]).any(axis=1).sum())
    return ManifoldQuality(
        precision=float((inside > 0).mean()),
        recall=recalled / len(a),
        density=float(inside.mean() / k),
        coverage=covered / len(a),
    )


def manifold_p_values(
    reference: Any, candidate: Any, *, k: int = 5, permutations: int = 199, seed: int = 0
) -> ManifoldPValues:
    """Tests whether density and coverage are what they are for two samples of one distribution.

    A reference ball holds no candidate exactly where the k nearest neighbours of its centre, among both sets, are all
    reference samples; and it holds as many candidates as stand before the k-th reference sample in that order. So
    one list of neighbours serves every shuffle. The list is 4 k long; a ball with more neighbours than that counts
    as one with 4 k. Neighbours at one distance, as in samples on a lattice or at the bounds of a box, stand in a random
    order, since any other may know the labels.

    Args:
        reference: [N, *S], N above k.
        candidate: [M, *S], M above k.
        k: neighbours that a ball reaches.
        permutations: number of shuffles; the smallest p-value is about 2 / (1 + permutations).
        seed: of the shuffles, and of the order among neighbours at one distance.

    Returns:
        Two p-values, each for a deviation from the shuffles' mean to either side.

    Raises:
        UsageError: shapes differ, N or M is not above k, or a number is not finite.
    """
    first, second = as_rows("reference", reference, k + 1), as_rows("candidate", candidate, k + 1)
    check_width(("reference", first), ("candidate", second))
    rows = np.concatenate(centred(first, second))
    rng = np.random.default_rng((seed, 1))  # not the shuffles' own: they have to know nothing of the order
    near = _neighbours(rows, min(4 * k, len(rows) - 1), rng)  # [N + M, 4 k], nearest first
    labels = shuffled_labels(len(first), len(second), permutations, seed)
    covered, dense = np.empty(len(labels)), np.empty(len(labels))
    for index, label in enumerate(labels):
        own = label[near[label]]  # [N, 4 k], which neighbours of reference samples are reference samples
        covered[index] = 1.0 - own[:, :k].all(axis=1).mean()
        dense[index] = (~own & (np.cumsum(own, axis=1, dtype=np.int16) < k)).sum()
    return ManifoldPValues(
        density=permutation_p_value(np.abs(dense - dense.mean())),
        coverage=permutation_p_value(np.abs(covered - covered.mean())),
    )


def _radii(rows: np.ndarray, k: int) -> np.ndarray:
    """Returns the squared distance to each row's k-th neighbour, [N]."""
    found = np.empty(len(rows), rows.dtype)
    for start in range(0, len(rows), BLOCK):
        apart = squared_distances(rows[start : start + BLOCK], rows)
        index = np.arange(len(apart))
        apart[index, start + index] = -1.0  # itself first, whatever the rounding
        found[start : start + BLOCK] = np.partition(apart, k, axis=1)[:, k]
    return found


def _neighbours(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns each row's nearest other rows, nearest first and those at one distance in a random order, [N, count]."""
    found = np.empty((len(rows), count), np.int64)
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        apart = squared_distances(rows[part], rows)
        # A draw for each pair: in one order for all, balls around equal rows would all hold the same neighbours.
        apart += _rounding(rows[part], rows) * rng.random(apart.shape, rows.dtype.type)
        index = np.arange(len(apart))
        apart[index, start + index] = np.inf
        some = np.argpartition(apart, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(apart, some, axis=1), axis=1, kind="stable")
        found[part] = np.take_along_axis(some, order, axis=1)
    return found


def _rounding(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How far squared distances may be off by the arithmetic, [N, M]; those that differ by less are one distance."""
    sizes = (np.einsum("nd,nd->n", rows, rows)[:, None] for rows in (first, second))
    a, b = (_ROUNDING * np.finfo(rows.dtype).eps * rows + _TINY for rows in sizes)
    return a + b.T
