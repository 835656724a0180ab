"""Places in sorted boundaries, counted instead of searched for."""

from __future__ import annotations

import torch

__all__ = ["RULES"]

aten = torch.ops.aten


def _places(values: torch.Tensor, boundaries: torch.Tensor, right: bool, out_int32: bool) -> torch.Tensor:
    """How many boundaries are left of each value; NaN is right of all of them.

    Args:
        values: [..].
        boundaries: [.., n], sorted along the last dimension; broadcast against the values.
        right: whether a boundary that equals the value counts.
        out_int32: int32 results in place of int64.
    """
    values = values.unsqueeze(-1)
    left = torch.logical_not(boundaries > values if right else boundaries >= values)
    return left.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _bucketize(
    x: torch.Tensor, boundaries: torch.Tensor, *, out_int32: bool = False, right: bool = False
) -> torch.Tensor:
    """Bucket of each number of x among boundaries [n]."""
    return _places(x, boundaries, right, out_int32)


def _searchsorted(
    boundaries: torch.Tensor,
    x: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """Where x [*R, m] fits into boundaries [*R, n], or any x into boundaries [n]."""
    if sorter is not None:
        boundaries = boundaries.gather(-1, sorter)
    if boundaries.dim() > 1:
        boundaries = boundaries.unsqueeze(-2)
    return _places(x, boundaries, right or side == "right", out_int32)


RULES = {
    aten.bucketize.Tensor: _bucketize,
    aten.searchsorted.Tensor: _searchsorted,
}
