"""Variances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["RULES"]

aten = torch.ops.aten


def _var_mean(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the squared deviations times n / (n - correction), and the mean.

    Two passes: the mean of squares minus the squared mean cancels in low precision.
    """
    dims = list(range(x.dim())) if not dim else [int(d) for d in dim]
    mean = x.mean(dims, keepdim=True)
    deviation = x - mean
    variance = (deviation * deviation).mean(dims, keepdim=True)
    count = math.prod(x.shape[d] for d in dims)
    free = max(count - (1 if correction is None else correction), 0)
    if free != count:
        variance = variance * (count / free if free else math.nan)
    return (variance, mean) if keepdim else (variance.squeeze(dims), mean.squeeze(dims))


def _var(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: Any = None, keepdim: bool = False
) -> torch.Tensor:
    return _var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


RULES = {
    aten.var_mean.correction: _var_mean,
    aten.var.correction: _var,
}
