"""Products that ONNX has no single operation for, and solves with a constant matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .constant import constant

__all__ = ["RULES"]

aten = torch.ops.aten


def _trilinear(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> torch.Tensor:
    """Product of three tensors, each with ones inserted at its `expand` dimensions, summed over `sumdim`."""
    for dim in expand_a:
        a = a.unsqueeze(dim)
    for dim in expand_b:
        b = b.unsqueeze(dim)
    for dim in expand_c:
        c = c.unsqueeze(dim)
    product = a * b * c
    return product.sum(list(sumdim)) if sumdim else product


def _solve_triangular(
    matrix: torch.Tensor, right: torch.Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """Multiplies by the inverse, which is folded where the matrix is a parameter (a covariance factor, say)."""
    if unitriangular:
        return NotImplemented
    kept = matrix.triu() if upper else matrix.tril()
    inverse = aten.linalg_inv_ex.default(kept)[0]
    return torch.matmul(inverse, right) if left else torch.matmul(right, inverse)


def _diagonal_scatter(
    x: torch.Tensor, source: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """X with its (dim1, dim2) diagonal replaced by `source` [.., n]."""
    moved = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = moved.shape[-2:]
    start = max(-offset, 0)
    mask = constant(lambda: torch.arange(columns)[None] - torch.arange(rows)[:, None] == offset)
    by_row = F.pad(source, (start, rows - start - source.shape[-1])).unsqueeze(-1)
    return torch.where(mask, by_row, moved).movedim((-2, -1), (dim1, dim2))


RULES = {
    aten.diagonal_scatter.default: _diagonal_scatter,
    aten._trilinear.default: _trilinear,
    aten.linalg_solve_triangular.default: _solve_triangular,
}
