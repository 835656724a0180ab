"""Frechet distance of Gaussians fitted to two samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from .check import as_rows, check_width
from .permutation import permutation_p_value, shuffled_labels

__all__ = ["covariance_root", "frechet_distance", "frechet_p_value", "root_overlap"]


def frechet_distance(reference: Any, candidate: Any) -> float:
    """Returns the squared Wasserstein-2 distance of the two fitted Gaussians.

    Dowson and Landau 1982; it is the FID of Heusel et al. (NeurIPS 2017) where the rows are features of Inception.

        d^2 = |m - m'|^2 + tr C + tr C' - 2 tr (C^(1/2) C' C^(1/2))^(1/2)

    The last trace is the sum of the singular values of R R'^T, R^T R = C and R'^T R' = C'. R comes from a QR
    decomposition of the centred rows, so no matrix is squared or inverted, nothing becomes complex, and a
    covariance of less than full rank (fewer samples than numbers per sample) needs no repair.

    Args:
        reference: [N, *S], N at least 2.
        candidate: [M, *S], M at least 2.

    Returns:
        In squared units of the rows, 0 or above, 0 is best. Two samples of one Gaussian are about
        tr C (1/N + 1/M) (1 + (D + 1) / 4) apart, so distances at different N cannot be compared. Constants are fine.

    Raises:
        UsageError: shapes differ, N or M is below 2, or a number is not finite.
    """
    first, second = as_rows("reference", reference, 2), as_rows("candidate", candidate, 2)
    check_width(("reference", first), ("candidate", second))
    apart = first.mean(axis=0) - second.mean(axis=0)
    one, two = covariance_root(first), covariance_root(second)
    found = apart @ apart + np.square(one).sum() + np.square(two).sum() - 2.0 * root_overlap(one, two)
    return max(0.0, float(found))


def frechet_p_value(reference: Any, candidate: Any, *, permutations: int = 199, seed: int = 0) -> float:
    """Tests by permutation of the Frechet distance whether both samples have one distribution.

    Args:
        reference: [N, *S], N at least 2.
        candidate: [M, *S], M at least 2. The cost grows with the third power of the numbers per sample.
        permutations: number of shuffles; the smallest p-value is 1 / (1 + permutations).
        seed: of the shuffles.

    Returns:
        p-value; 1 where all samples are equal.

    Raises:
        UsageError: shapes differ, N or M is below 2, or a number is not finite.
    """
    first, second = as_rows("reference", reference, 2), as_rows("candidate", candidate, 2)
    check_width(("reference", first), ("candidate", second))
    n, m, width = len(first), len(second), first.shape[1]
    rows = np.concatenate([first, second])
    rows -= rows.mean(axis=0)
    products = np.einsum("ni,nj->nij", rows, rows).reshape(n + m, -1)
    labels = shuffled_labels(n, m, permutations, seed).astype(np.float64)
    sums, squares = labels @ rows, labels @ products  # [P, D], [P, D * D]; both sets together have mean 0
    covariances, means = [], []
    for count, total, square in ((n, sums, squares), (m, -sums, products.sum(axis=0) - squares)):
        mean = total / count
        means.append(mean)
        spread = square.reshape(-1, width, width) - count * mean[:, :, None] * mean[:, None, :]
        covariances.append(spread / (count - 1))
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]  # root root^T = C
    inner = np.linalg.eigvalsh(np.swapaxes(root, 1, 2) @ covariances[1] @ root)
    traces = np.trace(covariances[0] + covariances[1], axis1=1, axis2=2)
    apart = np.square(means[0] - means[1]).sum(axis=1)
    return permutation_p_value(apart + traces - 2.0 * np.sqrt(np.maximum(inner, 0.0)).sum(axis=1))


def covariance_root(rows: np.ndarray) -> np.ndarray:
    """Returns R with R^T R = the covariance of the rows.

    Args:
        rows: [.., N, D] float64, N at least 2.

    Returns:
        [.., min(N, D), D].
    """
    moved = rows - rows.mean(axis=-2, keepdims=True)
    return np.asarray(np.linalg.qr(moved, mode="r")) / np.sqrt(rows.shape[-2] - 1)


def root_overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns tr (C^(1/2) C' C^(1/2))^(1/2) from roots of C and C', [.., K, D] and [.., L, D]."""
    values: np.ndarray = np.linalg.svd(first @ np.swapaxes(second, -1, -2), compute_uv=False)
    return values.sum(axis=-1)
