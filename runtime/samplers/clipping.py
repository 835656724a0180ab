"""Limits on a gradient."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..row_norms import square_sums

__all__ = ["clip_gradient"]


def clip_gradient(
    grad: np.ndarray, limit: float | None, mode: Literal["value", "norm"], out: np.ndarray
) -> tuple[np.ndarray, int]:
    """Limits a gradient number by number or sample by sample.

        value:  min(max(g, -limit), limit)
        norm:   g * min(1, limit / ||g||_2), the norm over each sample

    Args:
        grad: [B, *S] float32; left as it is.
        limit: above 0; a number or norm is changed where it is above the limit. None changes nothing.
        mode: "value" or "norm".
        out: [B, *S] float32 to write into; must not overlap `grad`.

    Returns:
        The clipped gradient, which is `out` (or `grad` itself where there is no limit), and the number of
        samples that were changed.
    """
    if limit is None:
        return grad, 0
    rows = grad.reshape(len(grad), -1)
    if mode == "value":
        touched = (rows.max(axis=1) > limit) | (rows.min(axis=1) < -limit)  # [B]
        np.clip(grad, -limit, limit, out=out)
    else:
        norms = np.sqrt(square_sums(grad))  # [B]
        touched = norms > limit
        factors = (limit / np.maximum(norms, limit)).astype(grad.dtype)  # [B], 1 where the norm is within the limit
        np.multiply(grad, factors.reshape(-1, *[1] * (grad.ndim - 1)), out=out)
    return out, int(np.count_nonzero(touched))
