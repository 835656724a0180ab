"""Maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .check import as_rows, check_width
from .distances import BLOCK, centred, median_distance, squared_distances
from .permutation import permutation_p_value, shuffled_labels

__all__ = ["Mmd", "gaussian_rows", "mmd"]


@dataclass(frozen=True)
class Mmd:
    """Maximum mean discrepancy between two samples, squared."""

    unbiased: float
    """Estimate whose mean is 0 where the distributions are one; may be below 0."""
    biased: float
    """Squared distance of the two mean embeddings, 0 or above; about 2/N where the distributions are one."""
    p_value: float
    """Of the permutation test with the unbiased estimate."""


def mmd(
    reference: Any, candidate: Any, *, bandwidth: float | None = None, permutations: int = 199, seed: int = 0
) -> Mmd:
    """Compares two samples by their mean embeddings (Gretton et al., JMLR 2012, equations 3 and 5).

    With k(x, y) = exp(-|x - y|^2 / (2 h^2)),

        unbiased = mean k(x_i, x_j) over i != j + mean k(y_i, y_j) over i != j - 2 mean k(x_i, y_j)

    and `biased` is the same with i = j counted. The kernel matrix is computed once, 1024 rows at a time, and multiplied
    by all shuffled labels together.

    Args:
        reference: [N, *S], N at least 2.
        candidate: [M, *S], M at least 2.
        bandwidth: h in units of x; None takes the median distance between two reference samples.
        permutations: number of shuffles; the smallest p-value is 1 / (1 + permutations).
        seed: of the shuffles.

    Returns:
        Numbers from 0 (or -1, where unbiased) to 2, 0 is best. Constant samples that are equal give 0 and p = 1.

    Raises:
        UsageError: shapes differ, N or M is below 2, or a number is not finite.
    """
    first, second = as_rows("reference", reference, 2), as_rows("candidate", candidate, 2)
    check_width(("reference", first), ("candidate", second))
    n, m = len(first), len(second)
    rows = np.concatenate(centred(first, second))
    width = bandwidth or median_distance(rows[:n])
    labels = shuffled_labels(n, m, permutations, seed).T  # [N + M, P]
    ones = labels.astype(np.float32)
    within = np.zeros(labels.shape[1])
    across = np.zeros(labels.shape[1])
    total = 0.0
    for part, kernel in gaussian_rows(rows, rows, width):
        sums = kernel @ ones  # [block, P], to the first set
        total += float(kernel.sum(dtype=np.float64))
        within += np.einsum("bp,bp->p", ones[part], sums, dtype=np.float64)
        across += np.einsum("bp,bp->p", 1.0 - ones[part], sums, dtype=np.float64)
    other = total - within - 2.0 * across
    # k(x, x) = 1 stands n times in `within` and m times in `other`.
    unbiased = (within - n) / (n * (n - 1)) + (other - m) / (m * (m - 1)) - 2.0 * across / (n * m)
    biased = within / n**2 + other / m**2 - 2.0 * across / (n * m)
    return Mmd(float(unbiased[0]), max(0.0, float(biased[0])), permutation_p_value(unbiased))


def gaussian_rows(first: np.ndarray, second: np.ndarray, bandwidth: float) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the kernel matrix 1024 rows at a time.

    Args:
        first: [N, D] float, centred.
        second: [M, D] of the same type.
        bandwidth: h in units of the rows.

    Yields:
        The rows that a block holds and their [block, M] kernel values, float32.
    """
    for start in range(0, len(first), BLOCK):
        part = slice(start, min(start + BLOCK, len(first)))
        squares = squared_distances(first[part], second)
        squares *= -0.5 / bandwidth**2
        yield part, np.exp(squares.astype(np.float32))
