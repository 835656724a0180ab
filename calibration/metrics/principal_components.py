"""The few directions along which features vary most."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.errors import UsageError
from .check import as_rows
from .scientific import PCA

__all__ = ["principal_components"]


def principal_components(features: Any, count: int, *, seed: int = 0) -> np.ndarray:
    """Returns features along their principal components (scikit-learn's).

    Where features are wider than that, the decomposition is randomised (Halko, Martinsson and Tropp 2011): the full one
    of a few thousand images takes minutes, and no metric needs more digits of the leading components.

    Args:
        features: [N, *S], N at least 1.
        count: most components, at least 1.
        seed: of the randomised decomposition.

    Returns:
        [N, K] float64 with mean 0, the widest first; K = min(count, N, D). Constant features are all 0.

    Raises:
        UsageError: another shape, a number that is not finite, or a count below 1.
    """
    if count < 1:
        raise UsageError(f"count: expected at least 1 component, got {count}")
    rows = as_rows("features", features)
    kept = min(count, *rows.shape)
    rows -= rows.mean(axis=0)
    if not rows.any():
        return np.zeros((len(rows), kept))  # there is no variance to share among components
    solver = "randomized" if rows.shape[1] > kept and len(rows) > kept else "full"
    return np.asarray(PCA(kept, svd_solver=solver, random_state=seed).fit_transform(rows), np.float64)
