"""A constant matrix applied along one axis."""

from __future__ import annotations

import torch

__all__ = ["along"]


def along(x: torch.Tensor, axis: int, matrix: torch.Tensor) -> torch.Tensor:
    """Applies `matrix` [out, n] along `axis` of x, whose size there is n and becomes out."""
    last = x.dim() - 1
    if axis == last:
        return torch.matmul(x, matrix.to(x.dtype).t())
    if axis == last - 1:
        return torch.matmul(matrix.to(x.dtype), x)
    return torch.matmul(x.movedim(axis, -1), matrix.to(x.dtype).t()).movedim(-1, axis)
