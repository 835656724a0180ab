"""Kernel Stein discrepancy: distance from the model itself, with no reference samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.errors import UsageError
from .check import as_rows
from .distances import BLOCK, centred, median_distance, squared_distances

__all__ = ["Stein", "kernel_stein", "stein_sums"]

_EXPONENT = -0.5
"""beta of the inverse multiquadric kernel; any in (-1, 0) sees every way in which samples can fail to converge
(Gorham and Mackey, ICML 2017, theorem 8)."""


@dataclass(frozen=True)
class Stein:
    """Kernel Stein discrepancy of samples from a density, squared."""

    u_statistic: float
    """Estimate whose mean is 0 where the samples are the density's; may be below 0."""
    v_statistic: float
    """The same with each sample paired with itself too, 0 or above; falls like 1/N towards the truth."""


def kernel_stein(x: Any, grad: Any, *, temperature: float = 1.0, bandwidth: float | None = None) -> Stein:
    """Measures how far samples are from p(x) proportional to exp(-E(x) / T) by the gradient of E.

    With the score s(x) = -dE/dx / T, r = x - y and k = (h^2 + |r|^2)^(-1/2) (Liu, Lee and Jordan, ICML 2016; Gorham
    and Mackey, ICML 2017),

        u(x, y) = <s(x), s(y)> k + <s(x), grad_y k> + <s(y), grad_x k> + trace grad_x grad_y k
        U = mean of u over i != j,    V = mean of u over all i, j.

    Samples that a short or cooled chain left far from p have a large value however they were drawn; against the value
    of FP32 samples it says whether a candidate's are farther. It does not see the weights of modes that
    lie far apart: no method that knows only the score can.

    Args:
        x: [N, *S], N at least 2.
        grad: [N, *S], dE/dx there.
        temperature: T, above 0.
        bandwidth: h in units of x; None takes the median distance between two samples.

    Returns:
        U and V in units of the squared score, lower is better. Equal samples are fine.

    Raises:
        UsageError: shapes differ, N is below 2, the temperature is not above 0, or a number is not finite.
    """
    if not temperature > 0.0:
        raise UsageError(f"temperature: expected a number above 0, got {temperature!r}")
    if np.shape(x) != np.shape(grad):
        raise UsageError(f"grad: expected the shape of x, {list(np.shape(x))}, got {list(np.shape(grad))}")
    (rows,) = centred(as_rows("x", x, 2))
    score = as_rows("grad", grad, 2) / -temperature
    own, others = stein_sums(rows, score.astype(rows.dtype), bandwidth or median_distance(rows))
    n = len(rows)
    return Stein(float(others.sum() / (n * (n - 1))), max(0.0, float((others.sum() + own.sum()) / n**2)))


def stein_sums(x: np.ndarray, score: np.ndarray, bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums the rows of the Stein kernel's matrix, 1024 of them at a time.

    Args:
        x: [N, D] float, centred.
        score: [N, D] of the same type.
        bandwidth: h in units of x.

    Returns:
        u(x_i, x_i) and the sum over j != i of u(x_i, x_j), [N] float64 each.
    """
    n, width = x.shape
    own = np.einsum("nd,nd->n", score, score, dtype=np.float64) / bandwidth + width / bandwidth**3
    along = np.einsum("nd,nd->n", score, x)  # <s_i, x_i>
    others = np.empty(n)
    for start in range(0, n, BLOCK):
        part = slice(start, min(start + BLOCK, n))
        apart = squared_distances(x[part], x)
        inner = 1.0 / (bandwidth**2 + apart)  # 1 / (h^2 + |r|^2)
        kernel = np.sqrt(inner)
        # <s_i - s_j, x_i - x_j>; grad_x k = 2 beta (h^2 + |r|^2)^(beta - 1) r = -grad_y k
        pull = along[part, None] + along[None, :] - score[part] @ x.T - x[part] @ score.T
        slope = kernel * inner
        found = (score[part] @ score.T) * kernel
        found -= 2.0 * _EXPONENT * pull * slope
        found -= 2.0 * _EXPONENT * (width + 2.0 * (_EXPONENT - 1.0) * apart * inner) * slope
        index = np.arange(part.start, part.stop)
        found[index - part.start, index] = 0.0
        others[part] = found.sum(axis=1, dtype=np.float64)
    return own, others
